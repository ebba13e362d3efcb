"""Results that are too large for a record: written by the runner into the node's store, taken here, copied, told of.

Such an attempt has ended once as many nodes have its result as there should be, or can: what is acknowledged survives
the loss of this one. The slot goes on meanwhile.

Owns what is under way. It must not know how copies are made, nor what is in a result.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine

from mesh.core.errors import MeshError
from mesh.core.ids import AttemptId
from mesh.shell.runner_checkpoints import SETTLE, Lease, Store
from mesh.shell.runner_processes import Channel
from mesh.task.frames import encode

log = logging.getLogger("mesh")

COPIES = 2  # nodes that shall have one


class Results:
    """In the loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._leases: dict[AttemptId, Lease | None] = {}  # of those that write one, or are about to
        self._tasks: set[asyncio.Task[None]] = set()
        self._spreading: set[asyncio.Task[str]] = set()
        self._closing = False

    def ask(self, attempt: AttemptId, channel: Channel) -> None:
        """Answer this runner by its channel, where to write; nothing there goes before the attempt has ended."""
        self._leases[attempt] = None
        self._start(self._open(attempt, channel))

    async def _open(self, attempt: AttemptId, channel: Channel) -> None:
        header = {"op": "opened", "attempt": attempt, "blob": "", "directory": "", "error": "", "message": ""}
        try:
            lease = await self._store.writing()
        except MeshError as error:
            channel.send(encode(header | {"error": type(error).__name__, "message": str(error)}))
            return
        if attempt in self._leases:
            self._leases[attempt] = lease
            channel.send(encode(header | {"directory": str(self._store.directory)}))
        else:
            lease.release()  # it has ended meanwhile

    def keep(self, attempt: AttemptId, manifest: bytes, tell: Callable[[Exception | None], None]) -> None:
        """Its runner has written this. ``tell`` is called once it is where it should be, or with why it is not here."""
        lease = self._leases.pop(attempt)
        assert lease is not None, f"{attempt} has written without being told where"
        self._start(self._keep(manifest, lease, tell))

    async def _keep(self, manifest: bytes, lease: Lease, tell: Callable[[Exception | None], None]) -> None:
        try:
            blob, _ = await self._store.commit(manifest)
            held = await self._store.hold(blob, damaged=False)
        except Exception as error:
            if not isinstance(error, MeshError):
                log.error("a result was not kept; this is a defect", exc_info=error, extra={"event": "defect"})
            tell(error)
            return
        finally:
            lease.release()
        spreading = self._loop.create_task(self._store.spread(blob, COPIES, ""))
        self._spreading.add(spreading)
        try:
            await asyncio.wait({spreading}, timeout=0 if self._closing else SETTLE)
            if not spreading.done():
                spreading.cancel()
                await asyncio.wait({spreading})
            if spreading.cancelled():
                log.warning("a result is on this node alone when told", extra={"event": "few_copies"})
            elif (failure := spreading.exception()) is not None:
                log.warning("a result was not copied: %s", failure, extra={"event": "few_copies"})
        finally:
            self._spreading.discard(spreading)
            held.release()
            tell(None)

    def ended(self, attempt: AttemptId) -> None:
        """It writes no more; what it wrote and did not :meth:`keep` goes."""
        if (lease := self._leases.pop(attempt, None)) is not None:
            lease.release()

    async def close(self) -> None:
        """What waits to be told is told now."""
        self._closing = True
        for spreading in self._spreading:
            spreading.cancel()
        await asyncio.gather(*self._tasks)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
