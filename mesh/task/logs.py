"""What an attempt printed: files with a cap, head and tail kept.

An attempt's folder holds ``log``, its first 8 MiB, and, only where it printed more, segments ``log.START`` with the
tail, named by the offset at which each starts in all that was printed. What lies between was dropped; a reader puts a
line there that says how many bytes. So nothing is ever rewritten, and a follower needs no word from the writer.

A Python function writes to its runner's capture file itself, through inherited descriptors; :func:`trim` brings
that file into the same form. Between two looks (250 ms) it may grow past the cap, and what is written in the instant
between copy and truncation (microseconds, and only in a log of more than 16 MiB) is dropped without being counted.
"""

from __future__ import annotations

import fcntl
import os
from collections import deque
from pathlib import Path

HEAD_BYTES = 8 << 20
TAIL_BYTES = 8 << 20
SEGMENT_BYTES = 1 << 20
CAP_BYTES = HEAD_BYTES + TAIL_BYTES
CHUNK_BYTES = 1 << 16


def _segments(folder: Path) -> list[tuple[int, int]]:
    """(start, size) of each, in order."""
    found = []
    for path in folder.glob("log.*"):
        try:
            found.append((int(path.name[4:]), path.stat().st_size))
        except FileNotFoundError:
            continue  # dropped by its writer since
    return sorted(found)


def _drop_old(folder: Path) -> None:
    segments = _segments(folder)
    total = sum(size for _, size in segments)
    for start, size in segments:
        if total <= TAIL_BYTES:
            return
        (folder / f"log.{start}").unlink(missing_ok=True)
        total -= size


class LogWriter:
    """Writes one attempt's output. No file is made before there is something to write."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._total = 0
        self._file = -1
        self._room = 0
        self._starts: deque[int] = deque()

    def write(self, data: bytes) -> None:
        while data:
            if not self._room:
                self._next_file()
            part, data = data[: self._room], data[self._room :]
            os.write(self._file, part)
            self._total += len(part)
            self._room -= len(part)

    def _next_file(self) -> None:
        first = self._total == 0
        self.close()
        if first:
            self._folder.mkdir(parents=True, exist_ok=True)
            name, self._room = "log", HEAD_BYTES
        else:
            name, self._room = f"log.{self._total}", SEGMENT_BYTES
            self._starts.append(self._total)
            if len(self._starts) > TAIL_BYTES // SEGMENT_BYTES:
                (self._folder / f"log.{self._starts.popleft()}").unlink()
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(self._folder / name, flags, 0o600)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def trim(head: Path, folder: Path) -> None:
    """Move what ``head`` holds beyond its first 8 MiB into segments in ``folder``, keeping the newest 8 MiB of them.

    ``head`` is the folder's ``log``, or a capture file that is still being appended to. Whoever holds its lock trims;
    another leaves it.
    """
    with head.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        size = os.fstat(file.fileno()).st_size
        if size <= HEAD_BYTES:
            return
        folder.mkdir(parents=True, exist_ok=True)
        end = _end(_segments(folder))
        skipped = max(0, size - HEAD_BYTES - TAIL_BYTES)
        file.seek(HEAD_BYTES + skipped)
        with (folder / f"log.{end + skipped}").open("wb") as segment:
            while chunk := file.read(SEGMENT_BYTES):
                segment.write(chunk)
        os.ftruncate(file.fileno(), HEAD_BYTES)
        _drop_old(folder)


def _end(segments: list[tuple[int, int]]) -> int:
    return sum(segments[-1]) if segments else HEAD_BYTES


class LogReader:
    """Reads an attempt's output, live or finished."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._at = 0

    def read(self, capture: Path | None = None) -> bytes:
        """The next piece, at most 64 KiB; empty where there is none now.

        ``capture`` is where the output of the attempt goes while it runs, if it is a function.
        """
        log = self._folder / "log"
        head = log if capture is None or log.exists() else capture
        segments = _segments(self._folder)
        if self._at < HEAD_BYTES:
            return self._advance(head, self._at, HEAD_BYTES - self._at)
        end = _end(segments)
        if self._at >= end:  # beyond the segments: what was not trimmed yet
            return self._advance(head, HEAD_BYTES + self._at - end)
        for start, size in segments:
            if self._at < start:
                dropped, self._at = start - self._at, start
                return f"\n[... {dropped} bytes dropped ...]\n".encode()
            if self._at < start + size:
                return self._advance(self._folder / f"log.{start}", self._at - start)
        return b""

    def _advance(self, path: Path, offset: int, limit: int = CHUNK_BYTES) -> bytes:
        try:
            with path.open("rb") as file:
                file.seek(offset)
                data = file.read(min(limit, CHUNK_BYTES))
        except FileNotFoundError:
            return b""
        self._at += len(data)
        return data
