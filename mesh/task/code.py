"""The directories that jobs were shipped with (``files:``), once per node and content: ``STATE/code/BLOB``.

All attempts of a node that were shipped the same share one, so its files cannot be written to; what a task writes
belongs into MESH_OUTPUT_DIR. What nobody used for a week is removed at a start.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mesh.core.ids import BlobId

if TYPE_CHECKING:
    from mesh.blob.opened import Opened

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
    from mesh.blob.trees import extract  # few runners need it

    directory = state / "code" / blob
    directory.parent.mkdir(parents=True, exist_ok=True)
    draft = directory.with_name(f"{blob}.{os.getpid()}")
    try:
        extract(opened.size, opened.read, draft)
        _protect(draft)
        os.sync()  # or a power cut leaves empty files under a name that is trusted
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


def tidy(state: Path) -> None:
    """What was not used for long, and what a runner that was killed had not finished. While nothing runs."""
    code = state / "code"
    for other in code.iterdir() if code.is_dir() else ():
        if "." in other.name or time.time() - other.stat().st_mtime > UNUSED:
            gone = other.with_name(f"{other.name}.gone")
            other.rename(gone)  # half of it must not be taken for the whole
            shutil.rmtree(gone, ignore_errors=True)
