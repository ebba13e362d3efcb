"""How a test handles a blob store, the one on disk and its memory twin alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

from mesh.blob.disk import Disk
from mesh.blob.files import write_blob
from mesh.blob.manifest import Chunk, cut, manifest_of, name
from mesh.blob.manifest import digest as digest_of
from mesh.core.ids import BlobId
from mesh.shell.blobs import Blobs
from mesh.shell.blobs_memory import MemoryBlobs

AnyBlobs: TypeAlias = Blobs | MemoryBlobs


class Forgetful(Disk):
    """It never syncs: for tests in which no power fails."""

    def sync(self, path: str) -> None:
        pass


class Bench(Protocol):
    def open(self) -> AnyBlobs:
        """The same store each time, as its last process, which was killed, left it."""

    def spoil(self, chunk: Chunk, data: bytes | None) -> None:
        """Other bytes lie in the file of a settled chunk, or it is gone."""

    def files(self) -> set[bytes]:
        """The digests of all chunk files there are."""


class FileBench:
    def __init__(self, directory: Path, quota: int, disk: Disk | None = None) -> None:
        self._directory, self._quota, self._disk = directory, quota, disk or Forgetful()
        self._store: Blobs | None = None

    def open(self) -> Blobs:
        if self._store is not None:
            self._store._shelf.index.close()
            self._store._shelf.doomed.clear()  # nor does it remove anything, when a test leaves its contexts
        self._store = Blobs.open(self._directory, self._quota, self._disk)
        if isinstance(self._disk, Forgetful):
            self._store._shelf.index._connection.execute("PRAGMA synchronous = OFF")
        return self._store

    def clear(self) -> None:
        """As new: to make and remove 256 directories takes longer than most tests."""
        if self._store is not None:
            self._store._shelf.index.close()
            self._store = None
        for path in [*self._directory.glob("index.db*"), *self._files()]:
            path.unlink()

    def spoil(self, chunk: Chunk, data: bytes | None) -> None:
        name = chunk.digest.hex()
        path = self._directory / "chunks" / name[:2] / name
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)

    def files(self) -> set[bytes]:
        return {bytes.fromhex(path.name) for path in self._files()}

    def _files(self) -> list[Path]:
        return [*self._directory.glob("chunks/*/*"), *self._directory.glob("arriving/*")]


class MemoryBench:
    def __init__(self, quota: int) -> None:
        self._store = MemoryBlobs(quota)

    def open(self) -> MemoryBlobs:
        self._store.crash()
        return self._store

    def spoil(self, chunk: Chunk, data: bytes | None) -> None:
        if data is None:
            del self._store.files.settled[chunk.digest]
        else:
            self._store.files.settled[chunk.digest] = data

    def files(self) -> set[bytes]:
        return self._store.files.settled.keys() | self._store.files.arriving.keys()


class Given:
    """A blob that a test has in hand; each of its parts is a chunk."""

    def __init__(self, *parts: bytes) -> None:
        self.parts = [bytes(piece) for piece in cut(parts)]
        self.chunks = [Chunk(digest_of(part), len(part)) for part in self.parts]
        self.manifest = manifest_of(self.chunks).encode()
        self.id: BlobId = name(self.manifest)
        self.whole = (1 << len(self.parts)) - 1

    def put(self, store: AnyBlobs) -> BlobId:
        """As a local writer does."""
        with store.writing():
            assert write_blob(store.files, self.parts) == self.manifest
            return store.commit(self.manifest)

    def fetch(self, store: AnyBlobs, indices: Sequence[int] | None = None) -> None:
        """Begins, and these arrive, or all that is missing, and then it is finished."""
        have = store.begin(self.manifest)
        for index in range(len(self.parts)) if indices is None else indices:
            if not have >> index & 1:
                store.write(self.id, index, self.parts[index])
        if indices is None:
            store.finish(self.id)

    def read(self, store: AnyBlobs) -> list[bytes]:
        return [store.read(self.id, index) for index in range(len(self.parts))]
