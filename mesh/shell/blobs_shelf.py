"""What the parts of a blob store share: its index, its files, who uses what now, and the one lock over all that.

Owns every change of the index together with what memory says of it, and the removal of files. It must not know how a
blob becomes whole (:mod:`mesh.shell.blobs_arrival`).
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Set
from contextlib import contextmanager
from itertools import islice

from mesh.blob.files import ChunkFiles
from mesh.blob.manifest import Chunk, Manifest, chunk_at, parse
from mesh.core.errors import BlobCorrupt, BlobMissing, QuotaExceeded
from mesh.core.ids import BlobId
from mesh.shell.blobs_index import Index, explain
from mesh.shell.blobs_use import Entry, Fetch, Reading

UNLINK = 64  # files removed with the lock held at a time: 5 ms, 16 on a busy machine


class Shelf:
    """All but ``lock``, ``found``, ``lose``, ``pin``, ``give_up`` and ``unlink`` is called with the lock held."""

    def __init__(self, index: Index, files: ChunkFiles, quota: int) -> None:
        self.index, self.files, self.quota = index, files, quota
        self._guard = threading.Lock()
        self._clock = index.used
        self.touched: dict[BlobId, int] = {}  # written with the next change: after a crash the order is a little older
        self.fetches: dict[BlobId, Fetch] = {}
        self.arrived: set[Chunk] = set()  # verified, their files not recorded as settled
        self.readings: dict[BlobId, Reading] = {}
        self.writers = 0
        self.spare: set[BlobId] | None = None  # that alone may go, until they are used again; None: all
        self.on_lost: Callable[[list[BlobId]], None] = lambda blobs: None
        self.losses = 0  # chunks found damaged or missing
        self.doomed: set[bytes] = set()  # digests of files that go when nobody is in the way
        self.unfinished: set[str] = set()  # names of such files in arriving/

    @contextmanager
    def lock(self) -> Iterator[None]:
        with self._guard:
            try:
                yield
            except sqlite3.Error as error:
                raise explain(self.index.path, error) from error

    @contextmanager
    def change(self) -> Iterator[None]:
        """A transaction, which also writes what was used when."""
        with self.index.transaction():
            self.index.touch(self.touched)
            yield
        self.touched.clear()

    def touch(self, blob: BlobId) -> None:
        self._clock += 1
        self.touched[blob] = self._clock
        if self.spare is not None:
            self.spare.discard(blob)

    def fresh(self, row: Entry) -> Entry:
        return row._replace(used=self.touched.get(row.blob, row.used))

    def is_complete(self, blob: BlobId) -> bool:
        row = self.index.row(blob)
        return row is not None and row.complete

    def held(self, blob: BlobId, index: int) -> Chunk:
        """The chunk there, which is here."""
        row = self.index.row(blob)
        reading = self.readings.get(blob)
        if reading is not None:
            encoded = reading.manifest
        elif row is not None:
            encoded = self.index.manifest(blob)
        else:
            raise unknown(blob)
        chunk = chunk_at(encoded, index)
        if chunk is None:
            raise no_chunk(blob, index)
        # Never a file of its name alone: a manifest that lies about sizes would have a sound chunk removed as damaged.
        here = row is not None and (row.complete or chunk in self.arrived or self.index.present(chunk))
        if not here and not (reading is not None and reading.keeps(chunk)):
            raise BlobMissing(f"chunk {index} of blob {blob[:12]} is not here")
        return chunk

    def found(self, chunks: Collection[Chunk]) -> set[Chunk]:
        """Those of these, which are not recorded, whose files will do: settled, or arriving and verified."""
        digests, _ = self.files.arrivals()
        arrivals = frozenset(digests)
        found = set()
        for chunk in chunks:
            if self.files.has(chunk):
                found.add(chunk)
            elif chunk.digest in arrivals:
                try:
                    self.files.read(chunk)
                except (BlobCorrupt, BlobMissing):
                    continue  # it is written anew, over that
                found.add(chunk)
        return found

    def lose(self, chunk: Chunk) -> None:
        """It was damaged or missing when it was looked at; another may have made it good since."""
        with self.lock():
            try:
                self.files.read(chunk)
                return
            except BlobCorrupt:
                self.files.remove(chunk.digest)
            except BlobMissing:
                pass
            self.losses += 1
            self.arrived.discard(chunk)
            for fetch in self.fetches.values():
                fetch.lose(chunk)
            with self.change():
                hurt = self.index.lose(chunk)
            self.on_lost(hurt)

    def pin(self, blob: BlobId, pinned: bool) -> None:
        with self.lock(), self.change():
            if not self.index.pin(blob, pinned):
                raise unknown(blob)

    def admit(self, blob: BlobId, encoded: bytes, manifest: Manifest, settled: set[Chunk] | None = None) -> None:
        """A row for it, where there is none, within the quota; whole, where all its chunks are settled."""
        self.touch(blob)
        with self.change():
            if self.index.row(blob) is None:
                self.index.add(Entry(blob, manifest.size, False, False, self._clock), encoded, manifest)
            gone = self.evict(self.quota, blob)
            if self.index.claimed > self.quota:
                raise self._no_room(blob, manifest.size)
            if settled is not None:
                self.index.settle(settled)
                self.index.complete(blob)
        if settled is not None:
            self.arrived -= settled
        self.forget(gone)

    def _no_room(self, blob: BlobId, size: int) -> QuotaExceeded:
        return QuotaExceeded(
            f"blob {blob[:12]} of {size} bytes does not fit in the store",
            f"its quota is {self.quota} bytes, and what else is there is pinned, needed or in use",
            "raise the quota, or unpin or delete blobs",
        )

    def evict(self, limit: int, spared: BlobId = "") -> dict[BlobId, list[Chunk]]:
        """Within a change: drop blobs until no more than ``limit`` bytes are claimed, or none may go."""
        gone: dict[BlobId, list[Chunk]] = {}
        if self.index.claimed > limit:
            for blob in self.index.unpinned():
                kept = blob == spared or blob in self.fetches or blob in self.readings or not self._may_go(blob)
                if not kept:
                    gone[blob] = self.index.drop(blob)
                    if self.index.claimed <= limit:
                        break
        return gone

    def _may_go(self, blob: BlobId) -> bool:
        """Of what is here in part nobody counts on it."""
        return self.spare is None or blob in self.spare or not self.is_complete(blob)

    def delete(self, row: Entry) -> None:
        reading = self.readings.get(row.blob)
        if reading is not None:
            chunks = parse(reading.manifest, row.blob).chunks
            reading.hidden.update(self.here(row, set(chunks)))
        with self.change():
            gone = self.index.drop(row.blob)
        self.forget({row.blob: gone})

    def here(self, row: Entry, chunks: Set[Chunk]) -> Set[Chunk]:
        """Of the chunks of a blob, those that are here."""
        return chunks if row.complete else self.index.present_among(chunks) | (self.arrived & chunks)

    def give_up(self, blob: BlobId, fetch: Fetch, arrived: set[Chunk]) -> bool:
        """Whether this fetch ended while its chunks were settled; then those go that nobody else lists."""
        with self.lock():
            ended = self.fetches.get(blob) is not fetch
            if ended:
                self.doomed |= {chunk.digest for chunk in arrived}
        self.unlink()
        return ended

    def forget(self, gone: dict[BlobId, list[Chunk]]) -> None:
        """What was dropped, once that is committed."""
        self.on_lost(list(gone))
        for blob, chunks in gone.items():
            self.fetches.pop(blob, None)
            self.touched.pop(blob, None)
            self.arrived.difference_update(chunks)
            self.doomed |= {chunk.digest for chunk in chunks}

    def unlink(self) -> None:
        """Remove the files that are doomed, unless somebody writes, or reads them."""
        while True:
            with self.lock():
                if self.writers or not (self.doomed or self.unfinished):
                    return
                for unfinished in list(islice(self.unfinished, UNLINK)):
                    self.files.discard(unfinished)
                    self.unfinished.remove(unfinished)
                for digest in list(islice(self.doomed, UNLINK)):
                    if not self.index.known(digest) and not self._is_hidden(digest):
                        self.files.remove(digest)
                    self.doomed.remove(digest)

    def _is_hidden(self, digest: bytes) -> bool:
        return any(digest in reading.hidden for reading in self.readings.values())


def unknown(blob: BlobId) -> BlobMissing:
    return BlobMissing(f"blob {blob[:12]} is not in the store")


def not_begun(blob: BlobId) -> BlobMissing:
    return BlobMissing(f"no fetch of blob {blob[:12]} has begun, or it was given up")


def no_chunk(blob: BlobId, index: int) -> BlobMissing:
    return BlobMissing(f"blob {blob[:12]} has no chunk {index}")
