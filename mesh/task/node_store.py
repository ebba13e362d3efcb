"""What a runner reads from its node's store, and writes there: shipped files, objects by reference, large results.

It asks meshd, and then reads and writes the chunk files itself. What it was given stays until the attempt has ended.
Checkpoints go another way, for a task's other processes save them too (:mod:`mesh.task.store`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mesh.blob import manifest as manifests
from mesh.blob.manifest import Manifest, parse
from mesh.core.errors import BlobCorrupt, BlobMissing, MeshError
from mesh.core.lattice import RELEASED
from mesh.task.frames import Row
from mesh.task.functions import Ended, Stopped, unkept

if TYPE_CHECKING:
    from mesh.blob.files import ChunkFiles

# Sends meshd this question, and waits for its answer about that blob for that attempt. Raises Stopped, or the error.
Ask: TypeAlias = Callable[[list[Any], str, str], tuple[dict[str, Any], bytes]]


class NodeStore:
    """Chunk files are imported where they are used: 10 ms that few runners need."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def read(self, attempt: str, blob: str) -> bytearray:
        """All of it. Had again where some of it is damaged."""
        try:
            return _bytes(*self._hold(attempt, blob, damaged=False))
        except (BlobCorrupt, BlobMissing):
            return _bytes(*self._hold(attempt, blob, damaged=True))

    def shipped(self, state: Path, row: Row) -> str:
        """The working directory within the files that came with the task."""
        from mesh.blob.opened import Opened
        from mesh.task.code import unpack, unpacked

        directory = unpacked(state, row.files)
        if directory is None:
            try:
                directory = unpack(state, row.files, Opened(*self._hold(row.attempt, row.files, damaged=False)))
            except (BlobCorrupt, BlobMissing):
                directory = unpack(state, row.files, Opened(*self._hold(row.attempt, row.files, damaged=True)))
        return os.path.join(directory, row.cwd)

    def keep(self, attempt: str, ended: Ended) -> Ended:
        """Its result written there, for meshd to take it."""
        from mesh.blob.files import ChunkFiles, write_blob

        try:
            header, _ = self._ask(["open", attempt], attempt, "")
            manifest = write_blob(ChunkFiles(Path(header["directory"])), ended.large)
        except Stopped:
            return Ended(RELEASED, "skipped", log=ended.log)
        except MeshError as error:
            return unkept(error, sum(memoryview(part).nbytes for part in ended.large))._replace(log=ended.log)
        blob = manifests.name(manifest)
        return ended._replace(result=manifest, digest=blob, blob=blob, large=())

    def _hold(self, attempt: str, blob: str, *, damaged: bool) -> tuple[ChunkFiles, Manifest]:
        """Wait until meshd has it. Raises Stopped, or why there is none."""
        from mesh.blob.files import ChunkFiles

        header, manifest = self._ask(["fetch", attempt, blob, damaged], attempt, blob)
        return ChunkFiles(Path(header["directory"])), parse(manifest, blob)


def _bytes(files: ChunkFiles, manifest: Manifest) -> bytearray:
    data = bytearray()
    for chunk in manifest.chunks:
        data += files.read(chunk)
    return data
