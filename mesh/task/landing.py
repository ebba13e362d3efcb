"""Writing a checkpoint of files to where a program looks for them: whole, or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from pathlib import Path

from mesh.blob.entries import HEAD_BYTES, is_tree
from mesh.blob.manifest import CHUNK_BYTES
from mesh.blob.trees import Read, extract
from mesh.core.errors import Conflict, QuotaExceeded


def land(size: int, read: Read, path: Path, replace: bool) -> None:
    """The file or directory that a blob of ``size`` bytes holds; its name is taken when it is whole.

    Raises:
        Conflict: something is there, and not an empty directory, and it is not to be replaced; or it is the working
            directory, or holds it.
        QuotaExceeded: the disk is full.
        BlobCorrupt: it is a directory that nobody may write to a disk.
    """
    target = Path(os.path.realpath(path))
    if Path.cwd().is_relative_to(target):
        raise Conflict(f"{path} holds the working directory", "", "load into a directory below it")
    there = os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir()))
    if there and not replace:
        raise Conflict(
            f"{path} is there already", "", "load to another path, or pass replace=True to lose what is there"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")
    try:
        head = bytearray(min(size, HEAD_BYTES))
        read(0, memoryview(head))
        if is_tree(bytes(head)):
            extract(size, read, draft)
        else:
            _write(size, read, draft)
        if target.is_dir() or draft.is_dir():
            _swap(draft, target)
        else:
            os.replace(draft, target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise QuotaExceeded(f"{path} could not be written", "the disk is full", "make room there") from error
        raise
    finally:
        _remove(draft)  # not there any more if all went well


def _write(size: int, read: Read, path: Path) -> None:
    piece = memoryview(bytearray(min(size, CHUNK_BYTES)))
    with open(path, "xb") as file:
        for at in range(0, size, CHUNK_BYTES):
            part = piece[: size - at]
            read(at, part)
            file.write(part)


def _swap(draft: Path, target: Path) -> None:
    """Directories are not replaced in one step: for a moment nothing is there, which is not taken for the whole."""
    old = target.with_name(f"{draft.name}.old")
    if os.path.lexists(target):
        os.rename(target, old)
    try:
        os.rename(draft, target)
    except OSError:
        if os.path.lexists(old):
            os.rename(old, target)
        raise
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
