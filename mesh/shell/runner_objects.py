"""What runners ask of the node's blobs: objects that functions were given by reference.

A runner asks, and reads the chunks itself once it is told that they are here; they stay until its attempt has ended.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from mesh.core.errors import MeshError
from mesh.core.ids import AttemptId, BlobId
from mesh.shell.runner_processes import Channel
from mesh.task.frames import encode

log = logging.getLogger("mesh")


class Held(Protocol):
    """A blob that is whole in the node's store, and stays there until it is released."""

    manifest: bytes
    directory: str  # of the store's chunk files

    def release(self) -> None: ...


class Holder(Protocol):
    async def hold(self, blob: BlobId, damaged: bool) -> Held:
        """Fetches it where it is not here; ``damaged``: somebody found that some of it is. Raises MeshError."""


class Objects:
    """In the loop."""

    def __init__(self, holder: Holder) -> None:
        self._holder = holder
        self._held: dict[AttemptId, list[Held]] = {}
        self._asking: set[asyncio.Task[None]] = set()

    def ask(self, attempt: AttemptId, blob: BlobId, damaged: bool, channel: Channel) -> None:
        """Answer this runner by its channel, sooner or later."""
        self._held.setdefault(attempt, [])
        task = asyncio.get_running_loop().create_task(self._answer(attempt, blob, damaged, channel))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _answer(self, attempt: AttemptId, blob: BlobId, damaged: bool, channel: Channel) -> None:
        header = {"op": "fetched", "attempt": attempt, "blob": blob, "directory": "", "error": "", "message": ""}
        try:
            held = await self._holder.hold(blob, damaged)
        except Exception as error:
            if not isinstance(error, MeshError):
                log.error("blob %s was not had; this is a defect", blob[:12], exc_info=error, extra={"event": "defect"})
            if attempt in self._held:
                channel.send(encode(header | {"error": type(error).__name__, "message": str(error)}))
            return
        if attempt in self._held:
            self._held[attempt].append(held)
            channel.send(encode(header | {"directory": held.directory}, held.manifest))
        else:
            held.release()  # it has ended meanwhile

    def ended(self, attempt: AttemptId) -> None:
        for held in self._held.pop(attempt, ()):
            held.release()

    async def close(self) -> None:
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)
