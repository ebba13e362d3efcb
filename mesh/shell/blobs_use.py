"""Who uses the blobs of a store at the moment: fetches and readers. All of it ends with the process.

Owns what is in memory only. It must not know of files or the index; :mod:`mesh.shell.blobs` holds its lock over it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from mesh.blob.manifest import Chunk, Manifest
from mesh.core.ids import BlobId


class Entry(NamedTuple):
    """One blob of a store, as people and the ledger see it."""

    blob: BlobId
    size: int  # bytes of the whole
    complete: bool
    pinned: bool
    used: int  # counts uses of the store's blobs: the higher, the later


class Fetch:
    """A blob that arrives. ``have``: the indices of chunks that are here, as bits; at least these."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.have = 0
        self.whole = (1 << len(manifest.chunks)) - 1
        self.lost: set[Chunk] = set()  # since they were last seen
        self.where: dict[Chunk, list[int]] = {}
        for index, chunk in enumerate(manifest.chunks):
            self.where.setdefault(chunk, []).append(index)

    def add(self, chunks: Iterable[Chunk]) -> None:
        self.have |= self._bits(chunks)

    def lose(self, chunk: Chunk) -> None:
        if chunk in self.where:
            self.lost.add(chunk)
            self.have &= ~self._bits([chunk])

    def missing(self) -> int:
        """How many indices."""
        return len(self.manifest.chunks) - self.have.bit_count()

    def _bits(self, chunks: Iterable[Chunk]) -> int:
        bits = bytearray(len(self.manifest.chunks) // 8 + 1)  # an int for each of 50,000 would take 150 MB to or
        for chunk in chunks:
            for index in self.where.get(chunk, ()):
                bits[index >> 3] |= 1 << (index & 7)
        return int.from_bytes(bits, "little")


@dataclass
class Reading:
    """Of one blob, by so many."""

    manifest: bytes
    readers: int = 0
    hidden: dict[bytes, int] = field(default_factory=dict)  # it was deleted: digests and sizes of what stays for them

    def keeps(self, chunk: Chunk) -> bool:
        return self.hidden.get(chunk.digest) == chunk.size
