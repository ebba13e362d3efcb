"""Moves blobs between nodes: raw chunks over gRPC streams, from all holders at once, each receiver serving what it has.

Goals: nothing is given to anybody that was not verified; what arrived is never moved again, whatever breaks; 64 MB of
memory per fetch at the most, however large the blob; control messages go by other connections, and the event loop
neither hashes nor waits for a disk. Non-goals: which blobs to fetch or to keep, and who holds them.

:mod:`mesh.core.exchange` decides which chunk is asked of whom.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from mesh.core.ids import BlobId, NodeId
from mesh.shell.transfer_fetch import Fetch, Holders, Patience, Progress
from mesh.shell.transfer_serve import Handlers, Serving
from mesh.shell.transfer_store import Store, Traffic

THREADS = 4  # hashing and the disk: one reads and one writes at least while others wait for the disk

PATIENCE = Patience()


class _Shared:
    """A fetch, and how many wait for it."""

    def __init__(self, fetch: Fetch, task: asyncio.Task[None]) -> None:
        self.fetch, self.task, self.waiting = fetch, task, 0


class Transfer:
    """Register :meth:`handlers` on the node's gRPC server. :meth:`close` it before the store."""

    def __init__(self, node: NodeId, store: Store, limit: float = 0.0, patience: Patience = PATIENCE) -> None:
        """``limit``: bytes per second that this node sends, all streams together; 0: as many as go."""
        self.traffic = Traffic()
        self._node, self._store, self._patience = node, store, patience
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="blob")
        self._serving = Serving(store, self._pool, self.traffic, limit)
        self._fetches: dict[BlobId, _Shared] = {}

    def handlers(self) -> Handlers:
        return self._serving.handlers()

    async def fetch(self, blob: BlobId, holders: Holders, progress: Progress | None = None) -> None:
        """Until the store has all of it. Who fetches the same blob meanwhile waits for the same fetch.

        ``holders`` says who has it, or some of it, as far as is known then: pairs of node and address. It is called
        now and again. ``progress`` is called with the bytes that are here and the bytes there are.

        Raises:
            BlobMissing: nobody in reach has what is missing; what arrived is kept.
            BlobCorrupt: every holder gave wrong bytes.
            QuotaExceeded: there is no room for it.
        """
        shared = self._fetches.get(blob)
        if shared is None:
            fetch = Fetch(
                blob, self._node, self._store, self._pool, self.traffic,
                partial(self._serving.gained, blob), self._patience,
            )  # fmt: skip
            shared = self._fetches[blob] = _Shared(fetch, asyncio.ensure_future(self._run(blob, fetch)))
        listener: Callable[[int, int], None] = progress or (lambda *_: None)
        shared.fetch.feeds.append(holders)
        shared.fetch.listeners.append(listener)
        shared.waiting += 1
        try:
            await asyncio.shield(shared.task)
        finally:
            shared.fetch.feeds.remove(holders)
            shared.fetch.listeners.remove(listener)
            shared.waiting -= 1
            if not shared.waiting and not shared.task.done():
                if self._fetches.get(blob) is shared:
                    del self._fetches[blob]  # who comes now begins anew
                shared.task.cancel()
                await asyncio.wait({shared.task})

    async def _run(self, blob: BlobId, fetch: Fetch) -> None:
        try:
            with self._serving.gaining(blob):
                await fetch.run()
        finally:
            if (shared := self._fetches.get(blob)) is not None and shared.fetch is fetch:
                del self._fetches[blob]

    async def close(self) -> None:
        """Ends all fetches, whose callers are cancelled, and the streams of those who are given anything."""
        tasks = [shared.task for shared in self._fetches.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._serving.close()
        await asyncio.to_thread(self._pool.shutdown)
