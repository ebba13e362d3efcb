"""The blob store's memory twin: the same contract without a disk, for simulations and tests, and to read it by.

Nothing is counted here, all is looked up: what is claimed, what a blob shares, what may go.
:meth:`MemoryBlobs.crash` leaves what a process that was killed leaves, disk and all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from mesh.blob.files import check
from mesh.blob.manifest import Buffer, Chunk, Manifest, digest, name, parse
from mesh.core.errors import BlobCorrupt, BlobMissing, QuotaExceeded
from mesh.core.ids import BlobId
from mesh.shell.blobs_use import Entry


class MemoryFiles:
    """Chunk files: bytes by digest, settled or arriving."""

    def __init__(self) -> None:
        self.settled: dict[bytes, bytes] = {}
        self.arriving: dict[bytes, bytes] = {}

    def has(self, chunk: Chunk) -> bool:
        return len(self.settled.get(chunk.digest, b"")) == chunk.size

    def put(self, data: Buffer) -> Chunk:
        chunk = Chunk(digest(data), memoryview(data).nbytes)
        self.write(chunk, data)
        return chunk

    def write(self, chunk: Chunk, data: Buffer) -> None:
        check(chunk, data)
        if not self.has(chunk):
            self.arriving[chunk.digest] = bytes(data)

    def settle(self, chunks: Iterable[Chunk]) -> None:
        for chunk in set(chunks):
            if not self.has(chunk):
                if chunk.digest not in self.arriving:
                    raise BlobMissing(f"chunk {chunk.digest.hex()[:12]} is not there")
                self.settled[chunk.digest] = self.arriving.pop(chunk.digest)

    def read(self, chunk: Chunk) -> bytes:
        data = self.settled.get(chunk.digest, self.arriving.get(chunk.digest))
        if data is None:
            raise BlobMissing(f"chunk {chunk.digest.hex()[:12]} is not there")
        check(chunk, data)
        return data

    def remove(self, digest: bytes) -> None:
        self.settled.pop(digest, None)
        self.arriving.pop(digest, None)


@dataclass
class _Blob:
    encoded: bytes
    manifest: Manifest
    complete: bool = False
    pinned: bool = False
    used: int = 0


_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


def _locked(
    method: Callable[Concatenate[MemoryBlobs, _Given], _Result],
) -> Callable[Concatenate[MemoryBlobs, _Given], _Result]:
    @wraps(method)
    def locked(blobs: MemoryBlobs, /, *arguments: _Given.args, **named: _Given.kwargs) -> _Result:
        with blobs._lock:
            return method(blobs, *arguments, **named)

    return locked


class MemoryBlobs:
    def __init__(self, quota: int) -> None:
        self.files, self.quota = MemoryFiles(), quota
        self.damage = ""
        self._blobs: dict[BlobId, _Blob] = {}
        self._recorded: set[Chunk] = set()  # as settled
        self._used = 0
        self._lock = threading.RLock()
        self._on_lost: Callable[[list[BlobId]], None] = lambda blobs: None
        self.crash()

    def crash(self) -> None:
        """The process is gone, and the next one opens the store."""
        self._arrived: set[Chunk] = set()
        self._fetched: set[BlobId] = set()
        self._readers: dict[object, BlobId] = {}
        self._hidden: dict[BlobId, tuple[Manifest, set[Chunk]]] = {}
        self._writers: set[object] = set()
        self._doomed: set[bytes] = set()
        self._spare: set[BlobId] | None = None

    def tell(self, on_lost: Callable[[list[BlobId]], None]) -> None:
        self._on_lost = on_lost

    def close(self) -> None:
        self.crash()

    @property
    @_locked
    def claimed(self) -> int:
        return sum(chunk.size for chunk in self._listed())

    @property
    def free(self) -> int:
        return max(0, self.quota - self.claimed)

    @property
    @_locked
    def stored(self) -> int:
        return sum(chunk.size for chunk in self._recorded | self._arrived)

    @_locked
    def listing(self) -> list[Entry]:
        return [entry for blob in sorted(self._blobs) if (entry := self.info(blob))]

    @_locked
    def info(self, blob: BlobId) -> Entry | None:
        found = self._blobs.get(blob)
        return Entry(blob, found.manifest.size, found.complete, found.pinned, found.used) if found else None

    def complete(self, blob: BlobId) -> bool:
        return blob in self._blobs and self._blobs[blob].complete

    def manifest(self, blob: BlobId) -> bytes | None:
        return self._blobs[blob].encoded if blob in self._blobs else None

    @_locked
    def have(self, blob: BlobId) -> int:
        if blob not in self._blobs:
            return 0
        chunks = self._blobs[blob].manifest.chunks
        return sum(1 << index for index, chunk in enumerate(chunks) if chunk in self._recorded | self._arrived)

    @contextmanager
    def reading(self, blob: BlobId) -> Iterator[None]:
        reader = object()
        with self._lock:
            self._known(blob)
            self._touch(blob)
            self._readers[reader] = blob
        try:
            yield
        finally:
            with self._lock:
                if self._readers.pop(reader, None) and blob not in self._readers.values():
                    _, chunks = self._hidden.pop(blob, (None, set()))
                    self._doom(chunks)

    @_locked
    def read(self, blob: BlobId, index: int) -> bytes:
        hidden, kept = self._hidden.get(blob, (None, set()))
        manifest = hidden or self._known(blob).manifest
        if not 0 <= index < len(manifest.chunks):
            raise BlobMissing(f"blob {blob[:12]} has no chunk {index}")
        chunk = manifest.chunks[index]
        if chunk not in self._recorded | self._arrived | kept:
            raise BlobMissing(f"chunk {index} of blob {blob[:12]} is not here")
        try:
            return self.files.read(chunk)
        except (BlobCorrupt, BlobMissing):
            self._lose(chunk)
            raise

    @contextmanager
    def writing(self) -> Iterator[None]:
        writer = object()
        with self._lock:
            self._writers.add(writer)
        try:
            yield
        finally:
            with self._lock:
                self._writers.discard(writer)
                self._unlink()

    @_locked
    def commit(self, encoded: bytes) -> BlobId:
        blob = name(encoded)
        manifest = parse(encoded, blob)
        if self.complete(blob):
            self._touch(blob)
            return blob
        missing = [chunk for chunk in set(manifest.chunks) if not self.files.has(chunk)]
        if missing:
            raise BlobMissing(f"blob {blob[:12]} is not whole", f"{len(missing)} chunks are not in the store")
        try:
            self._admit(blob, encoded, manifest)
        except QuotaExceeded:
            self._doom(manifest.chunks)
            raise
        self._whole(blob, manifest)
        return blob

    @_locked
    def begin(self, encoded: bytes) -> int:
        blob = name(encoded)
        manifest = parse(encoded, blob)
        if self.complete(blob):
            self._touch(blob)
        elif blob not in self._fetched:
            self._admit(blob, encoded, manifest)
            self._fetched.add(blob)
            for chunk in set(manifest.chunks):
                try:
                    self.files.read(chunk)
                except (BlobCorrupt, BlobMissing):
                    continue
                if chunk not in self._recorded:
                    self._arrived.add(chunk)
        return self.have(blob)

    @_locked
    def write(self, blob: BlobId, index: int, data: Buffer) -> None:
        if blob not in self._fetched:
            if self.complete(blob):
                return
            raise BlobMissing(f"no fetch of blob {blob[:12]} has begun")
        chunks = self._blobs[blob].manifest.chunks
        if not 0 <= index < len(chunks):
            raise BlobMissing(f"blob {blob[:12]} has no chunk {index}")
        self.files.write(chunks[index], data)
        if chunks[index] not in self._recorded:
            self._arrived.add(chunks[index])

    @_locked
    def finish(self, blob: BlobId) -> None:
        if self.complete(blob):
            return
        if blob not in self._fetched:
            raise BlobMissing(f"no fetch of blob {blob[:12]} has begun")
        manifest = self._blobs[blob].manifest
        if not self._recorded | self._arrived >= set(manifest.chunks):
            raise BlobMissing(f"blob {blob[:12]} is not whole")
        self.files.settle(manifest.chunks)
        self._whole(blob, manifest)

    def leave(self, blob: BlobId) -> None:
        self._fetched.discard(blob)

    @_locked
    def abandon(self, blob: BlobId) -> None:
        if blob in self._blobs and not self._blobs[blob].complete:
            self.delete(blob)

    @_locked
    def delete(self, blob: BlobId) -> bool:
        if blob not in self._blobs:
            return False
        manifest = self._blobs[blob].manifest
        if blob in self._readers.values():
            self._hidden[blob] = manifest, set(manifest.chunks) & (self._recorded | self._arrived)
        del self._blobs[blob]
        self._fetched.discard(blob)
        self._recorded &= self._listed()
        self._arrived &= self._listed()
        self._doom(manifest.chunks)
        self._on_lost([blob])
        return True

    def pin(self, blob: BlobId) -> None:
        self._known(blob).pinned = True

    def unpin(self, blob: BlobId) -> None:
        self._known(blob).pinned = False

    def offer(self, blobs: Collection[BlobId] | None) -> None:
        self._spare = None if blobs is None else set(blobs)

    @_locked
    def collect(self, wanted: int) -> int:
        before = self.claimed
        while self.claimed > before - wanted and (blob := self._oldest()):
            self.delete(blob)
        return before - self.claimed

    @_locked
    def sweep(self) -> int:
        found = (self.files.settled.keys() | self.files.arriving.keys()) - {chunk.digest for chunk in self._listed()}
        self._doomed |= found
        self._unlink()
        return len(found)

    def _known(self, blob: BlobId) -> _Blob:
        if blob not in self._blobs:
            raise BlobMissing(f"blob {blob[:12]} is not in the store")
        return self._blobs[blob]

    def _listed(self) -> set[Chunk]:
        return {chunk for blob in self._blobs.values() for chunk in blob.manifest.chunks}

    def _touch(self, blob: BlobId) -> None:
        self._used += 1
        self._blobs[blob].used = self._used
        if self._spare is not None:
            self._spare.discard(blob)

    def _admit(self, blob: BlobId, encoded: bytes, manifest: Manifest) -> None:
        fresh = blob not in self._blobs
        self._blobs.setdefault(blob, _Blob(encoded, manifest))
        self._touch(blob)
        gone: list[BlobId] = []
        while self._claim_without(gone) > self.quota:
            oldest = self._oldest((blob, *gone))
            if not oldest:
                if fresh:
                    del self._blobs[blob]
                raise QuotaExceeded(f"blob {blob[:12]} does not fit in the store", f"its quota is {self.quota} bytes")
            gone.append(oldest)
        for other in gone:
            self.delete(other)

    def _claim_without(self, gone: list[BlobId]) -> int:
        kept = (blob.manifest.chunks for other, blob in self._blobs.items() if other not in gone)
        return sum(chunk.size for chunk in {chunk for chunks in kept for chunk in chunks})

    def _oldest(self, spared: Collection[BlobId] = ()) -> BlobId:
        kept = {*spared, *self._fetched, *self._readers.values()}
        if self._spare is not None:
            kept |= {blob for blob, found in self._blobs.items() if found.complete} - self._spare
        free = ((found.used, blob) for blob, found in self._blobs.items() if blob not in kept and not found.pinned)
        return min(free, default=(0, ""))[1]

    def _whole(self, blob: BlobId, manifest: Manifest) -> None:
        self._blobs[blob].complete = True
        self._fetched.discard(blob)
        self._recorded |= set(manifest.chunks)
        self._arrived -= self._recorded

    def _lose(self, chunk: Chunk) -> None:
        self.files.remove(chunk.digest)
        self._recorded.discard(chunk)
        self._arrived.discard(chunk)
        hurt = [blob for blob, found in self._blobs.items() if found.complete and chunk in found.manifest.chunks]
        for blob in hurt:
            self._blobs[blob].complete = False
        self._on_lost(hurt)

    def _doom(self, chunks: Iterable[Chunk]) -> None:
        self._doomed |= {chunk.digest for chunk in chunks}
        self._unlink()

    def _unlink(self) -> None:
        if not self._writers:
            kept = self._listed() | {chunk for _, chunks in self._hidden.values() for chunk in chunks}
            for digest in self._doomed - {chunk.digest for chunk in kept}:
                self.files.remove(digest)
            self._doomed.clear()
