"""One stream of a job's results, for one who watches it.

Owns the order of what is told: results as soon as they are durable, how the job stands at most every 100 ms and when
it is done, the end last. However slowly the watcher reads, only ids wait for it; results are read when it can take
them. It must not know of gRPC.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple, Protocol

from mesh.core.errors import NoLeader, NotFound
from mesh.core.ids import JobId, TaskId
from mesh.wire.client import JobCounts, TaskResult, Watched

REPLY_RESULTS, REPLY_BYTES = 500, 1024 * 1024  # of one reply
STANDING_EVERY = 0.1  # seconds


class Standing(NamedTuple):
    """How a job stands. ``open_ended``: it may get more tasks at any time, so it is watched until the watcher goes."""

    counts: JobCounts
    state: str
    done: bool
    open_ended: bool


class Results(Protocol):
    """What the machine knows of a job."""

    async def ended(self, job: JobId) -> list[TaskId]:
        """Those that ended, durably or not. Raises NotFound."""

    def result(self, job: JobId, task: TaskId) -> TaskResult | None:
        """None where the task is not that job's or has not ended."""

    def standing(self, job: JobId) -> Standing: ...


class Watcher:
    def __init__(self, job: JobId, with_results: bool, results: Results, shown: Callable[[], Awaitable[None]]) -> None:
        """``shown`` waits until all that the machine knows now is on disk."""
        self.job = job
        self._with_results, self._results, self._shown = with_results, results, shown
        self._clock = asyncio.get_running_loop().time
        self._changed: dict[TaskId, None] = {}
        self._wake = asyncio.Event()
        self._moved = False

    def tasks_changed(self, tasks: tuple[TaskId, ...]) -> None:
        """Durably: any job's, most calls name one that is watched."""
        self._changed.update(dict.fromkeys(tasks))
        self._wake.set()

    def job_changed(self) -> None:
        self._wake.set()

    def move(self) -> None:
        """Another node leads now, and knows better."""
        self._moved = True
        self._wake.set()

    async def replies(self) -> AsyncIterator[Watched]:
        """Raises NotFound, and NoLeader where the job is led elsewhere from now on."""
        ended = await self._results.ended(self.job)
        self._changed = {**dict.fromkeys(ended), **self._changed}
        standing = self._results.standing(self.job)
        await self._shown()
        told: Standing | None = None
        tell_at = 0.0
        while not self._moved:
            self._wake.clear()
            results = self._take()
            if results:
                yield Watched(tuple(results), standing.counts, standing.state, False)
            if not self._changed:
                fresh = await self._standing()
                closing = fresh.done and not fresh.open_ended
                if closing or self._clock() >= tell_at:
                    await self._shown()
                    done = closing and not self._changed
                    if done or fresh != told:
                        yield Watched((), fresh.counts, fresh.state, done)
                    if done:
                        return
                    standing = told = fresh
                    tell_at = self._clock() + STANDING_EVERY
                await self._rest(None if fresh == told else tell_at - self._clock())
        raise NoLeader("the leader of this mesh changed", "its tasks go on", "watch again")

    async def _standing(self) -> Standing:
        try:
            return self._results.standing(self.job)
        except NotFound:
            await self._shown()  # that it was deleted, too
            raise

    async def _rest(self, timeout: float | None) -> None:
        """Until something changed, or it is time to tell how the job stands."""
        timer = None if timeout is None else asyncio.get_running_loop().call_later(timeout, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            if timer is not None:
                timer.cancel()

    def _take(self) -> list[TaskResult]:
        results: list[TaskResult] = []
        size = 0
        while self._changed and len(results) < REPLY_RESULTS and size < REPLY_BYTES:
            task = next(iter(self._changed))
            del self._changed[task]
            result = self._results.result(self.job, task)
            if result is not None:
                size += len(result.result) + len(result.detail)
                results.append(result if self._with_results else TaskResult(result.id, result.state))
        return results
