"""What an attempt printed: files with a cap, head and tail kept.

An attempt's folder holds ``log``, its first 8 MiB, and, only where it printed more, segments ``log.START`` with the
tail, named by the offset at which each starts in all that was printed. What lies between was dropped; a reader puts a
line there that says how many bytes. So nothing is ever rewritten, and a follower needs no word from the writer.

A Python function writes to its runner's capture file itself, through inherited descriptors. While it runs,
:func:`drop_middle` takes the middle out of what is too long; a hole is where bytes were dropped, and nothing that is
being appended can be lost by it. When it has ended, :func:`trim` brings the file into the form above. Where the file
system knows no holes (and on macOS) the cap holds from the function's end on only.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections import deque
from pathlib import Path

from mesh.task.processes import LINUX, punch_hole

HEAD_BYTES = 8 << 20
TAIL_BYTES = 8 << 20
SEGMENT_BYTES = 1 << 20
CAP_BYTES = HEAD_BYTES + TAIL_BYTES
CHUNK_BYTES = 1 << 16
HOLE_BYTES = 1 << 16  # holes begin and end at multiples of this, which every file system's blocks divide


def _segments(folder: Path) -> list[tuple[int, int]]:
    """(start, size) of each, in order."""
    found = []
    for path in folder.glob("log.*"):
        try:
            found.append((int(path.name[4:]), path.stat().st_size))
        except FileNotFoundError:
            continue  # dropped by its writer since
    return sorted(found)


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

    @property
    def used(self) -> bool:
        return self._total > 0

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def drop_middle(capture: Path) -> None:
    """Free what lies between the first and the last 8 MiB of a file that is being appended to."""
    with capture.open("r+b") as file:
        end = (os.fstat(file.fileno()).st_size - TAIL_BYTES) // HOLE_BYTES * HOLE_BYTES
        if end > HEAD_BYTES:
            punch_hole(file.fileno(), HEAD_BYTES, end - HEAD_BYTES)


def trim(log: Path) -> None:
    """Bring a log that nobody writes any more into its form: head, and a segment with the tail."""
    with log.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= HEAD_BYTES + TAIL_BYTES:
            return
        start = size - TAIL_BYTES
        file.seek(start)
        with log.with_name(f"log.{start}").open("wb") as segment:
            shutil.copyfileobj(file, segment)
        os.ftruncate(file.fileno(), HEAD_BYTES)


class LogReader:
    """Reads an attempt's output, live or finished."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._at = 0  # in all that was printed

    def read(self, capture: Path | None = None) -> bytes:
        """The next piece, at most 64 KiB; empty where there is none now.

        ``capture`` is where the output of the attempt goes while it runs, if it is a function.
        """
        log = self._folder / "log"
        if self._at >= HEAD_BYTES:
            for start, size in _segments(self._folder):
                if self._at < start:
                    return self._dropped(start)
                if self._at < start + size:
                    return self._piece(self._folder / f"log.{start}", start)
        return self._piece(log if capture is None or log.exists() else capture, 0)

    def rest(self) -> bytes:
        """All that there is now: 16 MiB and a line at most."""
        return b"".join(iter(self.read, b""))

    def _piece(self, path: Path, start: int) -> bytes:
        try:
            with path.open("rb") as file:
                if self._at >= HEAD_BYTES and not start and (after := _after_hole(file.fileno(), self._at)) > self._at:
                    return self._dropped(after)
                file.seek(self._at - start)
                limit = CHUNK_BYTES if self._at >= HEAD_BYTES else min(CHUNK_BYTES, HEAD_BYTES - self._at)
                data = file.read(limit)
        except FileNotFoundError:
            return b""  # it was dropped, or became a log, in this moment
        self._at += len(data)
        return data

    def _dropped(self, to: int) -> bytes:
        dropped, self._at = to - self._at, to
        return f"\n[... {dropped} bytes dropped ...]\n".encode()


def _after_hole(file: int, at: int) -> int:
    """Where the bytes go on from ``at``. Nothing that only appends leaves holes, so one is where bytes were dropped."""
    if not LINUX:
        return at
    try:
        return os.lseek(file, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:  # at its end
            return at
        raise
