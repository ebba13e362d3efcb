"""Checkpoints as meshd keeps them: the client of what a task's socket understands of them.

Knows blobs and steps, not what is in a checkpoint. Chunks are written here, right into the node's store, and only the
manifest goes through the socket; who reads one reads its chunks from there too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from mesh.blob.files import ChunkFiles
from mesh.blob.manifest import Manifest, parse
from mesh.blob.opened import Opened
from mesh.core.errors import BlobCorrupt, BlobMissing
from mesh.core.ids import BlobId
from mesh.task.api import Metrics
from mesh.task.line import Line

_T = TypeVar("_T")


class Found(NamedTuple):
    """A checkpoint in this node's store, where it stays until the attempt has ended."""

    blob: BlobId
    step: int
    files: ChunkFiles
    manifest: Manifest


class Reading:
    """One that is being read."""

    def __init__(self, found: Found) -> None:
        self.found = found
        self.size = found.manifest.size
        self.damaged = False  # a chunk of it was not what it should be
        self._opened = Opened(found.files, found.manifest)

    def read(self, offset: int, into: memoryview) -> None:
        """As of :class:`Opened`."""
        try:
            self._opened.read(offset, into)
        except (BlobCorrupt, BlobMissing):
            self.damaged = True
            raise


class Store:
    """For one attempt. All methods wait for meshd, as long as it takes, and raise what it answers."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def writing(self) -> ChunkFiles:
        """Where to write the chunks of the next checkpoint; they stay until the attempt keeps one, or has ended."""
        answer, _ = self._line.ask({"checkpoint": "open"})
        return ChunkFiles(Path(answer["directory"]))

    def keep(self, manifest: bytes, step: int, metrics: Metrics) -> None:
        """Make a blob, all of whose chunks are settled, the checkpoint of this step."""
        message = {"checkpoint": "save", "step": step, "metrics": metrics, "size": len(manifest)}
        self._line.ask(message, manifest)

    def newest(self, damaged: BlobId = "") -> Found | None:
        """The newest complete one, once it is here. ``damaged``: it was given before, and a chunk of it is not whole.

        Raises:
            BlobMissing: there is one, and no holder of it can be reached.
        """
        answer, manifest = self._line.ask({"checkpoint": "load", "damaged": damaged})
        blob = answer["blob"]
        if not blob:
            return None
        return Found(blob, answer["step"], ChunkFiles(Path(answer["directory"])), parse(manifest, blob))

    def load(self, use: Callable[[Reading], _T]) -> tuple[Found, _T] | None:
        """What ``use`` makes of the newest one; once more where a chunk was found damaged. None: there is none."""
        found = self.newest()
        if found is None:
            return None
        reading = Reading(found)
        try:
            return found, use(reading)
        except (BlobCorrupt, BlobMissing):
            # One that is lost is not one that never was: the task must not begin anew.
            if not reading.damaged or (found := self.newest(found.blob)) is None:
                raise
        return found, use(Reading(found))

    def close(self) -> None:
        self._line.close()
