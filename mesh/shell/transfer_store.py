"""What the transfer of blobs needs of the store, and what it counts."""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from mesh.core.ids import BlobId


class Store(Protocol):
    """Called in threads, never in the event loop: each of these may wait for the disk, or for another.

    Sets of chunks are integers: bit n is chunk n.
    """

    def manifest(self, blob: BlobId) -> bytes | None:
        """Of a complete or a partly fetched blob."""

    def have(self, blob: BlobId) -> int:
        """The chunks that are here; 0 where nothing is known of the blob."""

    def begin(self, manifest: bytes) -> int:
        """A fetch begins or goes on: the chunks that are here. Raises QuotaExceeded."""

    def read(self, blob: BlobId, index: int) -> bytes:
        """Verified. Raises BlobMissing, BlobCorrupt."""

    def write(self, blob: BlobId, index: int, data: bytes) -> None:
        """Raises BlobCorrupt where it is not what the manifest says. Again what is there: changes nothing."""

    def finish(self, blob: BlobId) -> None:
        """All is there: durable and complete from now on. Repeating it changes nothing."""

    def reading(self, blob: BlobId) -> AbstractContextManager[object]:
        """Meanwhile it is not unlinked. Raises BlobMissing."""


@dataclass
class Traffic:
    """Since the start, in bytes of chunks; and the holders that were dropped, by reason."""

    sent: int = 0
    received: int = 0
    wasted: int = 0  # of those received: wrong, or there already
    dropped: Counter[str] = field(default_factory=Counter)
