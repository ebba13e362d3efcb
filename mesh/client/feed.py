"""One job of functions: what one client submits at one priority, in batches, and the results as they end.

``add`` may be called from any thread and only appends; everything else happens in the client's loop. A call that finds
nothing under way is sent at once; while a batch is, what comes in meanwhile forms the next one. So a single call waits
for nothing and a hundred thousand cost a few hundred requests.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Coroutine
from contextlib import aclosing
from hashlib import blake2b
from itertools import count
from typing import Any

from mesh.client import blobs
from mesh.client.channel import Channel
from mesh.client.futures import Large, TaskFuture
from mesh.core.errors import BlobMissing, MeshError, NotFound
from mesh.core.ids import BlobId
from mesh.core.lattice import Job, Shape, Task
from mesh.wire.client import TaskResult, Watched

log = logging.getLogger("mesh.client")

BATCH_TASKS = 500
BATCH_BYTES = 1 << 20
FLIGHTS = 3  # batches under way: one being written, one being answered, one on its way
GROUP = 100  # tasks that justify a further batch while one is under way: a request costs as much as dozens of tasks
CANCELS = 16  # cancellations under way
GETS = 4  # large results on their way here
REOPEN = 0.05  # seconds before a watch that ended by itself is opened again

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_job_id() -> str:
    """45 random bits in lower-case Crockford base32 after a ``j``."""
    return "j" + "".join(secrets.choice(_ALPHABET) for _ in range(9))


def digest_of(content: bytes) -> str:
    """Tells two contents of one id apart."""
    return blake2b(content, digest_size=16).hexdigest()


class Feed:
    """A job that only grows. Make it in the client's loop; close it there."""

    def __init__(self, channel: Channel, priority: int) -> None:
        job = Job(new_job_id(), "", name="functions", kind="functions", priority=priority)
        self.job = job._replace(
            digest=digest_of(f"{job.id} functions {priority}".encode()), submitted_ms=int(time.time() * 1000)
        )
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._numbers = count()
        self._inbox: deque[tuple[TaskFuture[Any], Task]] = deque()
        self._woken = False
        self._pending: dict[str, TaskFuture[Any]] = {}
        self._sends: set[asyncio.Task[None]] = set()
        self._wanted = asyncio.Event()  # the mesh has tasks of ours, so there is something to watch
        self._bringing: set[str] = set()  # those whose results are blobs on their way here
        self._gets = asyncio.Semaphore(GETS)
        self._cancels = asyncio.Semaphore(CANCELS)
        self._recalls: set[asyncio.Task[None]] = set()
        self._running: set[asyncio.Task[None]] = set()
        self._closed = False
        self.moved = False  # who is to grant its hold tasks leads no more: the next ones are better off in a new job
        self._start(self._watch())

    def add(self, shape: Shape, payload: bytes, needs: tuple[BlobId, ...] = ()) -> TaskFuture[Any]:
        """From any thread: the future of a new task. ``needs``: the blobs that its payload names."""
        if self._closed:
            raise MeshError("this client is closed", "", "make another one")
        number = next(self._numbers)
        task_id = f"{self.job.id}.{number}"
        future: TaskFuture[Any] = TaskFuture(task_id, self._thread, self._cancelled)
        self._pending[task_id] = future
        self._inbox.append((future, Task(task_id, self.job.id, number, digest_of(payload), shape, payload, needs)))
        if not self._woken:  # one wake-up for all that is added before the loop comes to it
            self._woken = True
            self._loop.call_soon_threadsafe(self._pump)
        return future

    async def close(self) -> None:
        """Stop. Futures that have not ended fail; their tasks go on."""
        self._closed = True
        for running in self._running:
            running.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._give_up(MeshError("the client was closed before this task ended", "the task itself goes on"))

    async def flush(self) -> None:
        """Until everything that was added is acknowledged or refused, and what was cancelled is."""
        while self._inbox or self._sends or self._recalls:
            self._pump()
            if under_way := self._sends | self._recalls:
                await asyncio.wait(under_way)

    # -- out ---------------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        self._woken = False
        while self._inbox and (not self._sends or (len(self._sends) < FLIGHTS and len(self._inbox) >= GROUP)):
            batch = self._next_batch()
            if batch:
                sending = self._start(self._send(batch))
                self._sends.add(sending)
                sending.add_done_callback(self._landed)

    def _next_batch(self) -> list[tuple[TaskFuture[Any], Task]]:
        batch: list[tuple[TaskFuture[Any], Task]] = []
        room = BATCH_BYTES
        while self._inbox and len(batch) < BATCH_TASKS and room > 0:
            future, task = self._inbox.popleft()
            if future.done():  # cancelled, or given up
                continue
            batch.append((future, task))
            room -= len(task.payload)
        return batch

    async def _send(self, batch: list[tuple[TaskFuture[Any], Task]]) -> None:
        try:
            _, durable_on = await self._channel.submit(self.job, [task for _, task in batch])
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for these futures
            for future, _ in batch:
                if self._pending.pop(future.task_id, None) is not None:
                    future.fail(_told(error))
        else:
            for future, _ in batch:
                future.acknowledged = True
                if future.cancelled():
                    self._recall(future)
            self.moved = self.moved or self._channel.moved(self.job.id, durable_on)
            self._wanted.set()

    def _landed(self, sending: asyncio.Task[None]) -> None:
        self._sends.discard(sending)
        if not self._closed:
            self._pump()

    # -- back --------------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            if not self._pending:
                continue
            try:
                async with aclosing(self._channel.watch(self.job.id)) as stream:
                    async for watched in stream:
                        self._settle(watched)
            except Exception as error:  # noqa: BLE001 - as above
                self._give_up(_told(error))
            if self._pending:
                await asyncio.sleep(REOPEN)
                self._wanted.set()

    def _settle(self, watched: Watched) -> None:
        for result in watched.results:
            if result.blob:
                self._bring(result)
                continue
            future = self._pending.pop(result.id, None)  # None: cancelled, given up, or told before a break
            if future is not None:
                future.settle(result)

    def _bring(self, result: TaskResult) -> None:
        """Its future is done once the blob is here."""
        if result.id not in self._bringing:  # else told before a break
            self._bringing.add(result.id)
            self._start(self._fetch(result))

    async def _fetch(self, result: TaskResult) -> None:
        error, large = None, None
        try:
            async with self._gets:
                if result.id in self._pending:  # else as above
                    large = Large(result.blob, await blobs.get_bytes(self._channel, result.blob))
        except BlobMissing as missing:
            error = _away(result, missing)
        except Exception as broken:  # noqa: BLE001 - as above
            error = _told(broken)
        self._bringing.discard(result.id)
        future = self._pending.pop(result.id, None)
        if future is not None and error is not None:
            future.fail(error)
        elif future is not None:
            future.settle(result, large)

    def _give_up(self, error: MeshError) -> None:
        # One by one: another thread may be adding.
        while self._pending:
            _, future = self._pending.popitem()
            future.fail(error)

    # -- cancelling --------------------------------------------------------------------------------------------------

    def _cancelled(self, future: TaskFuture[Any]) -> None:
        """From any thread. What is not sent yet is left out; what is on its way is recalled once acknowledged."""
        if not self._closed:
            self._loop.call_soon_threadsafe(self._recall, future)

    def _recall(self, future: TaskFuture[Any]) -> None:
        self._pending.pop(future.task_id, None)
        if future.acknowledged and not self._closed:  # may come twice, which is harmless
            recalling = self._start(self._cancel(future.task_id))
            self._recalls.add(recalling)
            recalling.add_done_callback(self._recalls.discard)

    async def _cancel(self, task_id: str) -> None:
        async with self._cancels:
            try:
                await self._channel.cancel(task_id)
            except NotFound:
                log.debug("task %s was gone before it could be cancelled", task_id)
            except MeshError as error:
                log.warning("task %s could not be cancelled and may go on: %s", task_id, error)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        running = self._loop.create_task(work)
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        return running


def _away(result: TaskResult, error: BlobMissing) -> MeshError:
    return BlobMissing(
        f"task {result.id} succeeded, and the machines that have its result are away",
        f"it ran on {result.node}; {error.what}",
        f"start one of them, and client.get(Ref({result.blob!r}, 0)) has it (Ref is in mesh.blob.objects)",
    )


def _told(error: Exception) -> MeshError:
    if isinstance(error, MeshError):
        return error
    log.error("the client failed; this is a defect, please report it", exc_info=error)
    return MeshError("the client failed", f"{type(error).__name__}: {error}", "this is a defect, please report it")
