"""A disk that fails when it is told to: full, broken, its process killed, its power cut."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

from mesh.blob.disk import Disk
from mesh.blob.manifest import Buffer


class Killed(BaseException):
    """The process is gone: no handler of errors runs."""


def nothing(path: str) -> None:
    pass


class BrittleDisk(Disk):
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.steps = 0
        self.kill_at = -1  # this step does not happen, nor any after it
        self.fail: dict[str, int] = {}  # method to errno
        self.on_sync: Callable[[str], object] = nothing  # afterwards
        self.links_missed = 0  # so many come to nothing: the file got another in its place just then
        self._unsynced: set[int] = set()  # inodes
        self._moved: list[tuple[str, str]] = []  # new and old names that no sync of the directory has made durable

    def step(self) -> None:
        with self._lock:
            if 0 <= self.kill_at <= self.steps:
                raise Killed
            self.steps += 1

    def write(self, path: str, data: Buffer) -> None:
        self.step()
        full = self.fail.get("write")
        super().write(path, memoryview(data)[: len(memoryview(data)) // 2] if full else data)
        with self._lock:
            self._unsynced.add(os.stat(path).st_ino)
        self._fail("write")

    def sync(self, path: str) -> None:
        self.step()
        self._fail("sync")
        inode = os.stat(path).st_ino
        with self._lock:
            self._unsynced.discard(inode)
            self._moved = [(new, old) for new, old in self._moved if os.path.dirname(new) != path]
        self.on_sync(path)

    def link(self, old: str, new: str) -> None:
        self.step()
        if self.links_missed:
            self.links_missed -= 1
            raise FileNotFoundError(errno.ENOENT, "replaced while it was looked up", old)
        super().link(old, new)

    def rename(self, old: str, new: str) -> None:
        self.step()
        self._fail("rename")
        super().rename(old, new)
        with self._lock:
            self._moved.append((new, old))

    def remove(self, path: str) -> None:
        self.step()
        self._fail("remove")
        super().remove(path)

    def is_synced(self, path: Path) -> bool:
        return path.stat().st_ino not in self._unsynced

    def cut_power(self, directory: Path) -> None:
        """What was not synced is not there: names as they were, and nothing in files but the first half, and zeros."""
        for new, old in reversed(self._moved):
            if os.path.exists(new) and os.path.dirname(new) != os.path.dirname(old):
                os.rename(new, old)
        for path in directory.rglob("*"):
            if path.is_file() and path.stat().st_ino in self._unsynced:
                data = path.read_bytes()
                path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))

    def _fail(self, method: str) -> None:
        if method in self.fail:
            code = self.fail[method]
            raise OSError(code, os.strerror(code), errno.errorcode[code])
