"""What is done to the files of a blob store, each step by itself, and what a failed step means to people.

A store is given its disk, so that a test can end the process, cut the power or fill the disk at any of these steps.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from mesh.blob.manifest import Buffer
from mesh.core.errors import MeshError, QuotaExceeded

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FULL_SYNC = getattr(fcntl, "F_FULLFSYNC", None)  # macOS: fsync alone stops at the drive's cache


class Disk:
    """Every method raises OSError."""

    def write(self, path: str, data: Buffer) -> None:
        """A new file of these bytes, not synced."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            left = memoryview(data).cast("B")
            while left:
                left = left[os.write(descriptor, left) :]
        finally:
            os.close(descriptor)

    def sync(self, path: str) -> None:
        """A file, or the names in a directory."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _FULL_SYNC is None:
                os.fsync(descriptor)
            else:
                fcntl.fcntl(descriptor, _FULL_SYNC)
        finally:
            os.close(descriptor)

    def link(self, old: str, new: str) -> None:
        os.link(old, new)

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new)

    def remove(self, path: str) -> None:
        """Whether it is there or not."""
        try:
            os.unlink(path)
        except FileNotFoundError:
            return


def explain(directory: Path, error: OSError) -> MeshError:
    if error.errno in _FULL:
        return QuotaExceeded(
            f"the blob store {directory} cannot be written",
            f"its disk is full: {error.strerror}",
            "free space on it, or delete blobs; nothing that was complete is lost",
        )
    return MeshError(
        f"the blob store {directory} cannot be used",
        str(error),
        "is its disk sound, writable, and are its files this user's?",
    )
