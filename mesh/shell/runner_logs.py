"""Logs of finished attempts on their way to another node, so that they outlive this one.

A log's blob has its name before there is one (hashing is cheap), so that the end of an attempt can tell it and waits
for nothing: a store syncs files, which thousands of small tasks that print a line each could not wait for. The blobs
are made in the background, in groups; what is still to be done when the process ends is done by the next one.

Must not know what an attempt is: here it is a folder with a log.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from pathlib import Path

from mesh.blob.files import ChunkFiles
from mesh.blob.manifest import cut, manifest_of
from mesh.core.errors import MeshError
from mesh.core.ids import AttemptId, BlobId
from mesh.shell.runner_checkpoints import Store
from mesh.shell.runner_results import COPIES
from mesh.task.logs import LogReader
from mesh.task.places import attempt_folder, seal, uncopied

log = logging.getLogger("mesh")

AT_ONCE = 32  # synced together
# After each group it rests three times as long as that took: a log costs more than a small task that prints a line, and
# a flood of those goes first.
GIVE_WAY, LONGEST_PAUSE = 3.0, 1.0  # seconds


class Logs:
    """In the loop. ``state``: the directory where attempts left them."""

    def __init__(self, store: Store, state: Path) -> None:
        self._store, self._state = store, state
        self._waiting: dict[BlobId, list[str]] = {}  # names of folders; many print the same
        self._copying: asyncio.Task[None] | None = None
        self._files: ChunkFiles | None = None
        for name in sorted(os.listdir(uncopied(state))):  # of a former life
            self._waiting.setdefault(os.readlink(uncopied(state) / name), []).append(name)
        self._go_on()

    def add(self, attempt: AttemptId, blob: BlobId) -> None:
        """It has ended, and its log is to be this blob."""
        self._waiting.setdefault(blob, []).append(attempt_folder(self._state, attempt).name)
        self._go_on()

    async def seal(self, attempt: AttemptId) -> BlobId:
        """The same for an attempt whose runner died before it could name its log. Empty: it printed nothing."""
        try:
            blob = await asyncio.to_thread(seal, self._state, attempt)
        except OSError as error:
            log.warning("the log of attempt %s is not copied: %s", attempt, error, extra={"event": "log_not_copied"})
            return ""
        if blob:
            self.add(attempt, blob)
        return blob

    def _go_on(self) -> None:
        if self._waiting and self._copying is None:
            self._copying = asyncio.get_running_loop().create_task(self._copy_all())

    async def _copy_all(self) -> None:
        clock = asyncio.get_running_loop().time
        try:
            while self._waiting:
                began = clock()
                await self._copy(
                    [(blob, self._waiting.pop(blob)) for blob in list(itertools.islice(self._waiting, AT_ONCE))]
                )
                await asyncio.sleep(min(LONGEST_PAUSE, GIVE_WAY * (clock() - began)))
        finally:
            self._copying = None

    async def _copy(self, logs: list[tuple[BlobId, list[str]]]) -> None:
        failures: list[Exception] = []
        spreading = []
        try:
            lease = await self._store.writing()
            try:
                manifests = await asyncio.to_thread(self._write, [names[0] for _, names in logs])
                for (blob, names), manifest in zip(logs, manifests, strict=True):
                    try:
                        made, _ = await self._store.commit(manifest)
                    except MeshError as error:  # a large one may not fit where a small one does
                        failures.append(error)
                        continue
                    if made == blob:
                        spreading.append(self._spread(blob, names))
                    else:
                        failures.append(MeshError(f"{names[0]} is not what it was when its attempt ended"))
            finally:
                lease.release()
        except (MeshError, OSError) as error:
            failures.append(error)
        failures += filter(None, await asyncio.gather(*spreading))
        if failures:
            left = len(logs) - len(spreading)
            told = f"{left} of {len(logs)} logs" if left else "logs"
            log.warning("%s are not copied: %s", told, failures[0], extra={"event": "log_not_copied"})

    async def _spread(self, blob: BlobId, names: list[str]) -> Exception | None:
        try:
            await self._store.spread(blob, COPIES, "")
            await asyncio.to_thread(self._done, names)
        except (MeshError, OSError) as error:
            return error
        return None

    def _write(self, names: list[str]) -> list[bytes]:
        """Their manifests. All are synced together, and one is held in memory at a time."""
        if self._files is None:
            self._files = ChunkFiles(self._store.directory)
        written = []
        for name in names:
            text = LogReader(self._state / "attempts" / name).rest()
            written.append([self._files.put(piece) for piece in cut([text])])
        self._files.settle(itertools.chain.from_iterable(written))
        return [manifest_of(chunks).encode() for chunks in written]

    def _done(self, names: list[str]) -> None:
        for name in names:
            (uncopied(self._state) / name).unlink(missing_ok=True)

    async def close(self) -> None:
        """What is not done yet stays to be done."""
        self._waiting.clear()
        if (copying := self._copying) is not None:
            copying.cancel()
            await asyncio.gather(copying, return_exceptions=True)
