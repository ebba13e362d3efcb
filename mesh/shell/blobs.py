"""The store of blobs: what is here, whole or in part, within a quota, and what goes when room is needed.

Owns a directory: an index (:mod:`mesh.shell.blobs_index`) over chunk files (:mod:`mesh.blob.files`). It must not know
where blobs come from, nor why the ledger refers to one. :mod:`mesh.shell.blobs_memory` is the readable reference of its
contract.

A blob is whole only once its row says ``complete``, which is written after every chunk of it is synced under its final
name; and a chunk file goes only after no row lists it. So whenever the process ends, each blob is whole, or in part, or
not there; files that no row lists are what is left over, and :meth:`Blobs.sweep` removes them.

What two blobs share is stored, and counted, once. The quota bounds what blobs *claim*: of one that is being fetched
that is all of it from the start, so that two fetches cannot both have been promised the last gigabyte.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from mesh.blob.disk import Disk
from mesh.blob.files import ChunkFiles
from mesh.blob.manifest import Buffer, parse
from mesh.core.errors import BlobCorrupt, BlobMissing
from mesh.core.ids import BlobId
from mesh.shell import blobs_arrival as arrival
from mesh.shell.blobs_index import Index, StoreDamaged, set_aside
from mesh.shell.blobs_shelf import Shelf, unknown
from mesh.shell.blobs_use import Entry, Fetch, Reading


class Blobs:
    """From any thread. Methods wait for the disk, but one lock, held for the index only, is all they share.

    All raise MeshError where the disk fails, QuotaExceeded where it is full, StoreError where the index cannot be used.
    """

    def __init__(self, shelf: Shelf, damage: str) -> None:
        self._shelf = shelf
        self.files = shelf.files  # for local writers, who hold writing() from before they look until commit
        self.damage = damage  # for people: why the store began empty; mostly ""

    @classmethod
    def open(cls, directory: Path, quota: int, disk: Disk | None = None) -> Blobs:
        """Opens or creates it; ``quota`` in bytes. Call :meth:`sweep` later, :meth:`close` at the end.

        A damaged index is set aside and the store begins empty (:attr:`damage` says so): what others hold can be
        fetched again, and chunks that are still here when a fetch begins do not travel.
        """
        files = ChunkFiles(directory, disk)
        path, damage = directory / "index.db", ""
        try:
            index = Index.open(path)
        except StoreDamaged as error:
            aside = set_aside(path)
            damage = f"{error.what}; {error.why}; it was set aside as {aside.name}, and the store begins empty"
            index = Index.open(path)
        return cls(Shelf(index, files, quota), damage)

    def close(self) -> None:
        with self._shelf.lock():
            if self._shelf.touched:
                with self._shelf.change():
                    pass
            self._shelf.index.close()

    # What is here

    @property
    def quota(self) -> int:
        """Bytes that blobs may claim."""
        return self._shelf.quota

    @quota.setter
    def quota(self, quota: int) -> None:
        self._shelf.quota = quota

    @property
    def free(self) -> int:
        """Bytes that it takes without letting go of anything."""
        return max(0, self._shelf.quota - self._shelf.index.claimed)

    def tell(self, on_lost: Callable[[list[BlobId]], None]) -> None:
        """Call this, in whatever thread, with blobs that are not whole any more: dropped, or found damaged.

        It must not call back: the lock is held.
        """
        self._shelf.on_lost = on_lost

    @property
    def claimed(self) -> int:
        """Bytes of the chunks that blobs list, each once."""
        return self._shelf.index.claimed

    @property
    def stored(self) -> int:
        """Bytes of those that are here. Without what a former life had not settled, until its fetch begins again."""
        with self._shelf.lock():
            return self._shelf.index.stored + sum(chunk.size for chunk in self._shelf.arrived)

    def listing(self) -> list[Entry]:
        """By id."""
        with self._shelf.lock():
            return [self._shelf.fresh(row) for row in self._shelf.index.rows()]

    def info(self, blob: BlobId) -> Entry | None:
        with self._shelf.lock():
            row = self._shelf.index.row(blob)
            return row and self._shelf.fresh(row)

    def complete(self, blob: BlobId) -> bool:
        with self._shelf.lock():
            row = self._shelf.index.row(blob)
            return row is not None and row.complete

    def manifest(self, blob: BlobId) -> bytes | None:
        """Encoded, of a blob that is here whole or in part."""
        with self._shelf.lock():
            return self._shelf.index.manifest(blob) if self._shelf.index.row(blob) else None

    def have(self, blob: BlobId) -> int:
        """The indices of the chunks that are here, as bits."""
        with self._shelf.lock():
            row = self._shelf.index.row(blob)
            fetch = self._shelf.fetches.get(blob)
            if fetch is not None or row is None:
                return fetch.have if fetch else 0
            fetch = Fetch(parse(self._shelf.index.manifest(blob), blob))
            fetch.add(self._shelf.here(row, fetch.where.keys()))
            return fetch.have

    # Reading

    @contextmanager
    def reading(self, blob: BlobId) -> Iterator[None]:
        """While it is open the chunks of this blob stay, though it be deleted. Raises BlobMissing: it is not here."""
        with self._shelf.lock():
            if self._shelf.index.row(blob) is None:
                raise unknown(blob)
            self._shelf.touch(blob)
            reading = self._shelf.readings.get(blob)
            if reading is None:
                reading = self._shelf.readings[blob] = Reading(self._shelf.index.manifest(blob))
            reading.readers += 1
        try:
            yield
        finally:
            with self._shelf.lock():
                reading.readers -= 1
                if not reading.readers:
                    del self._shelf.readings[blob]
                    self._shelf.doomed |= reading.hidden.keys()
            self._shelf.unlink()

    def read(self, blob: BlobId, index: int) -> bytes:
        """One chunk, verified.

        Raises:
            BlobMissing: it is not here.
            BlobCorrupt: it was damaged. It is removed, and the blobs that list it are here in part: begin again.
        """
        with self._shelf.lock():
            chunk = self._shelf.held(blob, index)
        try:
            return self.files.read(chunk)
        except (BlobCorrupt, BlobMissing):
            self._shelf.lose(chunk)
            raise

    # Local writes

    @contextmanager
    def writing(self) -> Iterator[None]:
        """While any is open no chunk file goes, for a writer may have seen that one is there and rely on it."""
        with self._shelf.lock():
            self._shelf.writers += 1
        try:
            yield
        finally:
            with self._shelf.lock():
                self._shelf.writers -= 1
            self._shelf.unlink()

    def commit(self, encoded: bytes) -> BlobId:
        """A blob whose chunks a local writer settled is here, whole. Does nothing where it was already.

        Raises:
            BlobMissing: some are not there, or were damaged: write it again.
            BlobCorrupt: this is no manifest.
            QuotaExceeded: there is no room. What was written goes, the other blobs stay.
        """
        with self.writing():
            return arrival.commit(self._shelf, encoded)

    # Fetches

    def begin(self, encoded: bytes) -> int:
        """A fetch of this blob begins or goes on. Returns the indices of the chunks that are here, as bits.

        What a former life left is hashed before it counts. End it with :meth:`finish`, :meth:`leave` or
        :meth:`abandon`.

        Raises:
            QuotaExceeded: there is no room, nor enough that could go. Nothing was changed.
            BlobCorrupt: this is no manifest.
        """
        return arrival.begin(self._shelf, encoded)

    def write(self, blob: BlobId, index: int, data: Buffer) -> None:
        """A chunk of a fetch that has begun arrived.

        Raises:
            BlobCorrupt: it is not what the manifest lists. Nothing was stored.
            BlobMissing: there is no such fetch any more.
        """
        arrival.write(self._shelf, blob, index, data)

    def finish(self, blob: BlobId) -> None:
        """All of it arrived: from here on it is whole, whatever happens to the process.

        Raises:
            BlobMissing: chunks are missing, or there is no such fetch.
            MeshError: some could not be synced, and count as missing again.
        """
        arrival.finish(self._shelf, blob)

    def leave(self, blob: BlobId) -> None:
        """Its fetch ends for now; what arrived stays, until room is needed."""
        with self._shelf.lock():
            self._shelf.fetches.pop(blob, None)

    def abandon(self, blob: BlobId) -> None:
        """Its fetch ends, and what arrived goes. A whole blob stays."""
        with self._shelf.lock():
            row = self._shelf.index.row(blob)
            if row is not None and not row.complete:
                self._shelf.delete(row)
        self._shelf.unlink()

    # What goes

    def delete(self, blob: BlobId) -> bool:
        """Whole or in part, pinned or not. Whether there was one."""
        with self._shelf.lock():
            row = self._shelf.index.row(blob)
            if row is not None:
                self._shelf.delete(row)
        self._shelf.unlink()
        return row is not None

    def pin(self, blob: BlobId) -> None:
        """Not to be collected, until it is unpinned. Raises BlobMissing."""
        self._shelf.pin(blob, True)

    def unpin(self, blob: BlobId) -> None:
        """Raises BlobMissing."""
        self._shelf.pin(blob, False)

    def offer(self, blobs: Collection[BlobId] | None) -> None:
        """Of those that are here whole these alone may be collected, until they are used again. None: all of them."""
        with self._shelf.lock():
            self._shelf.spare = None if blobs is None else set(blobs)

    def collect(self, wanted: int) -> int:
        """Make room for so many bytes, least recently used blobs first; returns how many bytes they gave free.

        None that is pinned, not offered, read or fetched.
        """
        with self._shelf.lock():
            before = self._shelf.index.claimed
            with self._shelf.change():
                gone = self._shelf.evict(before - wanted)
            self._shelf.forget(gone)
            freed = before - self._shelf.index.claimed
        self._shelf.unlink()
        return freed

    def sweep(self) -> int:
        """Remove the files that no blob lists, which a process left that was killed. Returns how many there were.

        Once after the start, and after a local writer ended without a commit. For a thread, while the store is in use:
        10 s for a million chunks, in which nothing waits for it long.
        """
        found = 0
        for first in range(256):
            digests = self.files.settled(first)
            with self._shelf.lock():
                orphans = set(digests) - self._shelf.index.digests(first)
                self._shelf.doomed |= orphans
            found += len(orphans)
            self._shelf.unlink()
        digests, begun = self.files.arrivals()
        with self._shelf.lock():
            orphans = {digest for digest in digests if not self._shelf.index.known(digest)}
            self._shelf.doomed |= orphans
            self._shelf.unfinished |= set(begun)
        self._shelf.unlink()
        return found + len(orphans) + len(begun)
