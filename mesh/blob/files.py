"""Chunk files: one file per chunk, named by its digest, in a directory that several processes of one user may share.

Owns the files and what their places mean. It must not know which blobs there are nor what may be deleted: that is the
store's (:mod:`mesh.shell.blobs`), and who writes here has told the store so, lest it remove what is about to be used.

``chunks/ab/DIGEST`` is whole and its bytes are synced; ``arriving/DIGEST`` is whole unless the power failed since;
``arriving/DIGEST.*`` is being written. All are on one file system, so a rename moves them at once or not at all.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Protocol, TypeVar

from mesh.blob.disk import Disk, explain
from mesh.blob.manifest import Buffer, Chunk, cut, digest, manifest_of
from mesh.core.errors import BlobCorrupt, BlobMissing

THREADS = 8  # that sync at once: 1.7 GB/s of 1 MiB files on a virtual disk, where one thread reaches 0.6, 16 no more
_DIGEST = 64  # hexadecimal digits of it

_Item = TypeVar("_Item")


class Chunks(Protocol):
    """What :func:`write_blob` needs: chunk files, or their memory twin."""

    def put(self, data: Buffer) -> Chunk: ...

    def settle(self, chunks: Iterable[Chunk]) -> None: ...


def write_blob(chunks: Chunks, segments: Iterable[Buffer]) -> bytes:
    """Cut, hash, write and sync a blob's chunks; returns its manifest, encoded, for the store's ``commit``.

    Segments are taken as they are needed, a few at a time. Raises what ``put`` and ``settle`` raise.
    """
    found: list[Chunk] = []
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1), "blob-write") as pool:
        waiting: deque[Future[Chunk]] = deque()
        for piece in cut(segments):
            waiting.append(pool.submit(chunks.put, piece))
            if len(waiting) > 2 * THREADS:
                found.append(waiting.popleft().result())
        found += (future.result() for future in waiting)
    chunks.settle(found)
    return manifest_of(found).encode()


class ChunkFiles:
    """From any thread and any process. All methods wait for the disk, and raise MeshError where it fails.

    QuotaExceeded: it is full.
    """

    def __init__(self, directory: Path, disk: Disk | None = None) -> None:
        self.directory = directory
        self._disk = disk or Disk()
        self._settled, self._arriving = str(directory / "chunks"), str(directory / "arriving")
        self._own = f".{os.getpid()}-{secrets.token_hex(4)}-"  # in the names of what this object is writing
        self._numbers = count()
        with self._told():
            if not os.path.isdir(self._arriving):  # made last: where it is, the others are
                for number in range(256):
                    os.makedirs(f"{self._settled}/{number:02x}", 0o700, exist_ok=True)
                self._disk.sync(self._settled)
                os.makedirs(self._arriving, 0o700, exist_ok=True)
                self._disk.sync(str(directory))

    def has(self, chunk: Chunk) -> bool:
        """Whether it is settled, by its name and size."""
        with self._told():
            return _size(self._place(chunk.digest)) == chunk.size

    def there(self, chunk: Chunk) -> bool:
        """The same, or it is at least arriving."""
        with self._told():
            # Settled once more: it may have moved in between.
            places = self._place(chunk.digest), self._arrival(chunk.digest), self._place(chunk.digest)
            return any(_size(place) == chunk.size for place in places)

    def put(self, data: Buffer) -> Chunk:
        """Write a chunk that is being made, unless it is there, and say what it is called."""
        chunk = Chunk(digest(data), memoryview(data).nbytes)
        self._write(chunk, data)
        return chunk

    def write(self, chunk: Chunk, data: Buffer) -> None:
        """Write a chunk that came from elsewhere, unless it is there. Raises BlobCorrupt: it is another."""
        check(chunk, data)
        self._write(chunk, data)

    def settle(self, chunks: Iterable[Chunk]) -> None:
        """Sync these and give them their final names, durably.

        Raises:
            BlobMissing: some are neither arriving nor settled.
            MeshError: some could not be synced; those are removed, for a second sync would succeed and mean nothing.
        """
        listed = set(chunks)
        _spread(self._settle, [chunk for chunk in sorted(listed) if not self.has(chunk)])
        self.secure(listed)

    def secure(self, chunks: Iterable[Chunk]) -> None:
        """Make the names of settled ones durable: who moved them may not have come to that."""
        _spread(self._sync_names, sorted({chunk.digest[0] for chunk in chunks}))

    def read(self, chunk: Chunk) -> bytes:
        """Raises BlobMissing; BlobCorrupt: what is there is not this chunk, or cannot be read."""
        for place in (self._place, self._arrival, self._place):  # the last: it may have settled in between
            data = self._read(place(chunk.digest), chunk)
            if data is not None:
                check(chunk, data)
                return data
        raise self._missing(chunk)

    def remove(self, digest: bytes) -> None:
        """Its files, whether there are any or not. A reader that has opened one reads on."""
        with self._told():
            self._disk.remove(self._arrival(digest))
            self._disk.remove(self._place(digest))

    def settled(self, first: int) -> list[bytes]:
        """The digests of settled chunks that begin with this byte."""
        with self._told():
            names = os.listdir(f"{self._settled}/{first:02x}")
        return [bytes.fromhex(name) for name in names if _is_digest(name)]

    def arrivals(self) -> tuple[list[bytes], list[str]]:
        """The digests of arriving chunks, and the names of files that were begun by others, or by a former life."""
        with self._told():
            names = os.listdir(self._arriving)
        begun = [name for name in names if not _is_digest(name) and self._own not in name]
        return [bytes.fromhex(name) for name in names if _is_digest(name)], begun

    def discard(self, name: str) -> None:
        """A file that was begun and will not be finished."""
        with self._told():
            self._disk.remove(f"{self._arriving}/{name}")

    def _write(self, chunk: Chunk, data: Buffer) -> None:
        if self.has(chunk):
            return
        arrival = self._arrival(chunk.digest)
        begun = self._begun(arrival)
        with self._told():
            try:
                self._disk.write(begun, data)
                self._disk.rename(begun, arrival)
            except OSError:
                self._disk.remove(begun)
                raise

    def _settle(self, chunk: Chunk) -> None:
        arrival = self._arrival(chunk.digest)
        # By a name of its own: who writes the same chunk again puts another file, not synced, under the common one.
        claim = self._begun(arrival)
        with self._told():
            try:
                self._disk.link(arrival, claim)
                self._disk.sync(claim)
                self._disk.rename(claim, self._place(chunk.digest))
            except FileNotFoundError:
                if not self.has(chunk):  # else another settled it
                    if not self.there(chunk):
                        raise self._missing(chunk) from None
                    self._settle(chunk)  # it was written again while it was being linked
                return
            except OSError:
                self._disk.remove(claim)
                self._disk.remove(arrival)
                raise
            self._disk.remove(claim)  # it stays where both names were one file's already
            self._disk.remove(arrival)

    def _sync_names(self, first: int) -> None:
        with self._told():
            self._disk.sync(f"{self._settled}/{first:02x}")

    def _read(self, path: str, chunk: Chunk) -> bytes | None:
        with self._told():
            try:
                with open(path, "rb") as file:
                    return file.read(chunk.size + 1)
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                what = f"chunk {chunk.digest.hex()[:12]} cannot be read from {self.directory}"
                raise BlobCorrupt(what, str(error)) from error  # so that it is fetched again

    def _place(self, digest: bytes) -> str:
        name = digest.hex()
        return f"{self._settled}/{name[:2]}/{name}"

    def _arrival(self, digest: bytes) -> str:
        return f"{self._arriving}/{digest.hex()}"

    def _begun(self, arrival: str) -> str:
        return f"{arrival}{self._own}{next(self._numbers)}"

    def _missing(self, chunk: Chunk) -> BlobMissing:
        return BlobMissing(f"chunk {chunk.digest.hex()[:12]} is not in {self.directory}")

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise explain(self.directory, error) from error


def check(chunk: Chunk, data: Buffer) -> None:
    """Raises BlobCorrupt where these bytes are not this chunk."""
    size = memoryview(data).nbytes
    if size != chunk.size:
        what = f"chunk {chunk.digest.hex()[:12]} is damaged"
        raise BlobCorrupt(
            what, f"of its {chunk.size} bytes there are {size}" if size < chunk.size else "it is too long"
        )
    found = digest(data)
    if found != chunk.digest:
        raise BlobCorrupt(
            f"chunk {chunk.digest.hex()[:12]} is damaged", f"the digest of its bytes is {found.hex()[:12]}"
        )


def _spread(action: Callable[[_Item], None], items: Collection[_Item]) -> None:
    """In several threads, all of it; then raises the first error there was."""
    if len(items) < 2:
        for item in items:
            action(item)
        return
    with ThreadPoolExecutor(min(THREADS, len(items)), "blob-sync") as pool:
        for future in [pool.submit(action, item) for item in items]:
            future.result()


def _is_digest(name: str) -> bool:
    return len(name) == _DIGEST and not name.strip("0123456789abcdef")


def _size(path: str) -> int:
    """Bytes; -1: there is no such file."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return -1
