"""The directories that jobs were shipped with (``files:``), once per node and content: ``STATE/code/BLOB``.

All attempts of a node that were shipped the same share one, so its files cannot be written to; what a task writes
belongs into MESH_OUTPUT_DIR. What nobody used for a week is removed.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from mesh.blob.opened import Opened
from mesh.blob.trees import extract
from mesh.core.ids import BlobId

UNUSED = 7 * 86400.0  # seconds


def unpacked(state: Path, blob: BlobId) -> Path | None:
    """Where it is, if it is; used from now on."""
    directory = state / "code" / blob
    try:
        os.utime(directory)
    except FileNotFoundError:
        return None
    return directory


def unpack(state: Path, blob: BlobId, opened: Opened) -> Path:
    """Raises BlobCorrupt where it is no directory, QuotaExceeded where the disk is full."""
    directory = state / "code" / blob
    tidy(directory.parent)
    draft = directory.with_name(f"{blob}.{os.getpid()}")
    try:
        extract(opened.size, opened.read, draft)
        _protect(draft)
        os.rename(draft, directory)
    except OSError:
        if not directory.is_dir():  # else another runner was first
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return directory


def _protect(directory: Path) -> None:
    for folder, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                os.chmod(path, os.stat(path).st_mode & ~0o222)


def tidy(code: Path) -> None:
    code.mkdir(parents=True, exist_ok=True)
    for other in code.iterdir():
        if time.time() - other.stat().st_mtime > UNUSED:
            shutil.rmtree(other, ignore_errors=True)
