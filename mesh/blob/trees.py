"""Files and directories as segments, and back.

A file is a blob of just its bytes. A directory is its index (:mod:`mesh.blob.entries`), then the bytes of each file in
the order of the index. Each file begins a chunk, so one that did not change is the same chunks again wherever it lies.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

from mesh.blob import entries as index
from mesh.blob.entries import DIRECTORY, FILE, SYMLINK, Entry
from mesh.blob.ignore import ALWAYS, FILES, Rules, left_out, parse
from mesh.blob.manifest import CHUNK_BYTES, Buffer
from mesh.core.errors import Conflict, InvalidSpec, Problem, QuotaExceeded

# Fills all of the buffer with the blob's bytes from that offset on, or raises.
Read: TypeAlias = Callable[[int, memoryview], object]

_SPECIAL = {stat.S_IFSOCK: "a socket", stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


class Stamp(NamedTuple):
    """Changes when a file is written; its size first."""

    size: int
    mtime: int  # ns
    inode: int


class File:
    """One file, as a blob."""

    def __init__(self, path: Path, stamp: Stamp | None = None) -> None:
        """``stamp``: what it had; now, if None.

        Raises:
            InvalidSpec: it is no file.
        """
        self.path = path
        if stamp is None:
            found = os.stat(path)
            if not stat.S_ISREG(found.st_mode):
                raise InvalidSpec(f"{path} is no file")
            stamp, self.path = _stamp(found), path.resolve()
        self._stamp = stamp

    @property
    def size(self) -> int:
        return self._stamp.size

    def segments(self) -> Iterator[Buffer]:
        """Its bytes, read when they are asked for: pieces of a whole chunk each, but for the last.

        Raises:
            Conflict: it is not the file that it was, or changed while it was read.
        """
        try:
            # A pipe that took its place must not stop the reader; neither is a link that did so followed.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            raise self._changed() from None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise self._changed() from None
            raise
        try:
            left = self.size if _stamp(os.fstat(descriptor)) == self._stamp else -1
            while left > 0:
                piece = memoryview(bytearray(min(left, CHUNK_BYTES)))
                got = 0
                while got < len(piece) and (more := os.readv(descriptor, [piece[got:]])):
                    got += more
                if got < len(piece):
                    break
                left -= got
                yield piece
            if left or _stamp(os.fstat(descriptor)) != self._stamp:
                raise self._changed()
        finally:
            os.close(descriptor)

    def _changed(self) -> Conflict:
        return Conflict(f"{self.path} changed while it was read", hint="save it again once nothing writes to it")


class Tree:
    """A directory as it was scanned, as a blob."""

    def __init__(self, directory: Path, entries: tuple[Entry, ...], stamps: dict[str, Stamp]) -> None:
        self.directory, self.entries, self._stamps = directory, entries, stamps
        self._index = index.encode(entries)

    @property
    def size(self) -> int:
        """Bytes of the blob."""
        return len(self._index) + sum(entry.size for entry in self.entries)

    def segments(self) -> Iterator[Buffer]:
        """The index, then each file, read when it is asked for.

        Raises:
            Conflict: a file is not what it was when it was scanned.
        """
        yield self._index
        for entry in self.entries:
            if entry.kind == FILE:
                yield from File(self.directory / entry.path, self._stamps[entry.path]).segments()

    def largest(self, count: int) -> list[tuple[str, int]]:
        """What takes most bytes, largest first: files, and directories (ending in "/") with all that lies in them.

        A directory of which one thing makes more than half is left out: that thing stands for it.
        """
        sizes: dict[str, int] = {}
        most: dict[str, int] = {}  # of a directory, the size of the largest thing right in it
        for entry in self.entries:
            path = entry.path
            while entry.size and path:
                sizes[path] = sizes.get(path, 0) + entry.size
                path = path.rpartition("/")[0]
        for path, size in sizes.items():
            above = path.rpartition("/")[0]
            most[above] = max(most.get(above, 0), size)
        shown = [(path + "/" * (path in most), size) for path, size in sizes.items() if 2 * most.get(path, 0) <= size]
        return sorted(shown, key=lambda item: (-item[1], item[0]))[:count]


def scan(directory: Path, ignore: bool = True) -> Tree:
    """What lies in a directory, less ``.git``, ``__pycache__`` and, unless told otherwise, what its ignore files name.

    Raises:
        InvalidSpec: it holds what cannot be saved (links out of it, devices, names that not every system takes); names
            all of it. Or it is no directory.
        QuotaExceeded: it has a million files or so.
    """
    top = directory.resolve()
    if not top.is_dir():
        raise InvalidSpec(f"{directory} is no directory")
    found: list[Entry] = []
    stamps: dict[str, Stamp] = {}
    problems: list[str] = []
    ahead: list[tuple[str, tuple[Rules, ...]]] = [("", ())]
    while ahead:
        below, rules = ahead.pop()
        with os.scandir(top / below) as listing:
            items = [item for item in listing if item.name not in ALWAYS]
        if ignore:
            rules += _rules(below, items)
        for item in items:
            path = below + item.name
            if left_out(path + "/" * item.is_dir(follow_symlinks=False), rules):
                continue
            now = item.stat(follow_symlinks=False)
            if stat.S_ISDIR(now.st_mode):
                found.append(Entry(path, DIRECTORY))
                ahead.append((path + "/", rules))
            elif stat.S_ISLNK(now.st_mode):
                found.append(Entry(path, SYMLINK, target=os.readlink(item.path)))
            elif stat.S_ISREG(now.st_mode):
                found.append(Entry(path, FILE, now.st_size, bool(now.st_mode & stat.S_IXUSR)))
                stamps[path] = _stamp(now)
            else:
                problems.append(f"{path!r} is {_SPECIAL.get(stat.S_IFMT(now.st_mode), 'no file')}")
    found.sort()
    problems += index.faults(found)
    if problems:
        what = f"{len(problems)} things in {directory} cannot be saved; remove them or name them in .meshignore"
        raise InvalidSpec(what, tuple([Problem(text) for text in sorted(problems)]))
    return Tree(top, tuple(found), stamps)


def listing(size: int, read: Read) -> tuple[Entry, ...]:
    """What lies in the directory that a blob of ``size`` bytes holds.

    Raises:
        BlobCorrupt: it holds none, or one that nobody may write to a disk: paths or links that leave it, names that
            are one where case is not told apart, sizes that do not add up; says which.
    """
    return _listing(size, read)[0]


def extract(size: int, read: Read, directory: Path) -> None:
    """Write what a blob of ``size`` bytes holds to a directory that is new or empty.

    It is built beside, as ``.NAME.*.part``, and takes its name when it is whole. The machine's own crash right after
    may still empty files: nothing is synced.

    Raises:
        BlobCorrupt: as of :func:`listing`, before anything was written.
        Conflict: the directory is not empty.
        QuotaExceeded: the disk is full.
    """
    entries, offset = _listing(size, read)
    target = Path(os.path.realpath(directory))
    if os.path.lexists(target) and (not target.is_dir() or any(target.iterdir())):
        raise _not_empty(directory)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.parent / f".{target.name}.{secrets.token_hex(8)}.part"
    beside.mkdir()
    try:
        _write(entries, offset, read, beside)
        os.rename(beside, target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR) and error.filename2 is not None:
            raise _not_empty(directory) from None
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise QuotaExceeded(f"{directory} could not be written", "the disk is full", "make room there") from error
        raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)  # not there any more if all went well


def _write(entries: tuple[Entry, ...], offset: int, read: Read, top: Path) -> None:
    piece = memoryview(bytearray(CHUNK_BYTES))
    for entry in entries:
        path = top / entry.path
        if entry.kind == DIRECTORY:
            path.mkdir()
        elif entry.kind == FILE:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            with open(os.open(path, flags, 0o777 if entry.executable else 0o666), "wb", buffering=0) as file:
                left = entry.size
                while left:
                    part = piece[: min(left, CHUNK_BYTES)]
                    read(offset, part)
                    offset, left = offset + len(part), left - len(part)
                    while part:
                        part = part[file.write(part) :]
    for entry in entries:  # last, so that nothing is ever written through one
        if entry.kind == SYMLINK:
            os.symlink(entry.target, top / entry.path)


def _listing(size: int, read: Read) -> tuple[tuple[Entry, ...], int]:
    """The entries, and where the bytes of their files begin."""
    head = bytearray(min(size, index.HEAD_BYTES))
    read(0, memoryview(head))
    text = bytearray(index.index_size(bytes(head), size))
    read(len(head), memoryview(text))
    start = len(head) + len(text)
    return index.parse(bytes(text), size - start), start


def _rules(below: str, items: list[os.DirEntry[str]]) -> tuple[Rules, ...]:
    there = {item.name: item.path for item in items if item.is_file(follow_symlinks=False)}
    read = [Path(there[name]).read_text("utf-8", "surrogateescape") for name in FILES if name in there]
    return (Rules(below, tuple([line for text in read for line in parse(text)])),) if read else ()


def _not_empty(directory: Path) -> Conflict:
    return Conflict(f"{directory} is there and not an empty directory", hint="name another, or remove it")


def _stamp(found: os.stat_result) -> Stamp:
    return Stamp(found.st_size, found.st_mtime_ns, found.st_ino)
