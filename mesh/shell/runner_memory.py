"""The memory twin of :class:`mesh.shell.runners.Runners`: no processes, outcomes from a script or from the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from mesh.core.effects import Assignment, BeginAttempts, StopAttempts
from mesh.core.events import AttemptsBegan, AttemptsEnded, AttemptsProgressed, Event
from mesh.core.ids import AttemptId
from mesh.core.lattice import RELEASED, Outcome

Script = Callable[[Assignment], tuple[int, Outcome] | None]


class MemoryRunners:
    """``script`` says at once how an assignment ends, or None: then it runs until :meth:`finish` or a stop.

    Nothing is emitted from within a call; the attempts of a slot run one after another, as they really do.
    """

    def __init__(self, emit: Callable[[Event], None], script: Script | None = None) -> None:
        self._emit, self._script = emit, script
        self._loop = asyncio.get_running_loop()
        self._slots: dict[int, list[Assignment]] = {}
        self._over: dict[AttemptId, asyncio.Event] = {}
        self.printed: dict[AttemptId, bytes] = {}

    def begin(self, effect: BeginAttempts) -> None:
        queue = self._slots.setdefault(effect.slot, [])
        idle = not queue
        queue.extend(effect.assignments)
        if idle:
            self._next(effect.slot)

    def stop(self, effect: StopAttempts) -> None:
        for attempt in effect.attempts:
            if attempt in self.held():
                self.finish(attempt, RELEASED, Outcome(effect.code, effect.reason))

    def finish(self, attempt: AttemptId, phase: int, outcome: Outcome) -> None:
        """End a held attempt.

        Raises:
            KeyError: it is not held.
        """
        for slot, queue in self._slots.items():
            for place, assignment in enumerate(queue):
                if assignment.attempt == attempt:
                    del queue[place]
                    if (over := self._over.pop(attempt, None)) is not None:
                        over.set()
                    self._loop.call_soon(self._emit, AttemptsEnded(((attempt, phase, outcome),)))
                    if place == 0:
                        self._next(slot)
                    return
        raise KeyError(attempt)

    def report(self, attempt: AttemptId, metrics: bytes) -> None:
        self._loop.call_soon(self._emit, AttemptsProgressed(((attempt, metrics),)))

    def running(self) -> list[AttemptId]:
        return [queue[0].attempt for _, queue in sorted(self._slots.items()) if queue]

    def held(self) -> list[AttemptId]:
        return [assignment.attempt for _, queue in sorted(self._slots.items()) for assignment in queue]

    async def tail(self, attempt: AttemptId, follow: bool = True) -> AsyncIterator[bytes]:
        if follow and attempt in self.held():
            await self._over.setdefault(attempt, asyncio.Event()).wait()
        if printed := self.printed.get(attempt):
            yield printed

    async def close(self, grace: float) -> None:
        self.stop(StopAttempts(tuple(self.held()), "drained", "meshd is stopping"))
        await asyncio.sleep(0)

    def assert_empty(self) -> None:
        assert not self.held(), f"still held: {self.held()}"

    def _next(self, slot: int) -> None:
        queue = self._slots[slot]
        if not queue:
            return
        attempt = queue[0].attempt
        self._loop.call_soon(self._emit, AttemptsBegan(((attempt, 0),)))
        if self._script is not None and (ended := self._script(queue[0])) is not None:
            self.finish(attempt, *ended)
