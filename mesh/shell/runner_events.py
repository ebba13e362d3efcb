"""Batches what runners tell into events, none of them emitted from within a call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from mesh.core.events import AttemptsBegan, AttemptsEnded, AttemptsProgressed, Event
from mesh.core.ids import AttemptId
from mesh.core.lattice import Outcome
from mesh.shell.runner_slots import Live, dumps

# What ends sooner is never announced: a flood of small functions then costs one event for many, not two for each.
ANNOUNCE_AFTER = 0.01


class Teller:
    """``running`` yields the attempts that run now; metrics are told at most every ``every`` seconds."""

    def __init__(self, emit: Callable[[Event], None], running: Callable[[], Iterable[Live]], every: float) -> None:
        self._emit, self._running, self._every = emit, running, every
        self._loop = asyncio.get_running_loop()
        self._ended: list[tuple[AttemptId, int, Outcome]] = []
        self._progressed: set[AttemptId] = set()
        self._announcing: asyncio.TimerHandle | None = None
        self._progressing: asyncio.TimerHandle | None = None

    def began(self) -> None:
        if self._announcing is None:
            self._announcing = self._loop.call_later(ANNOUNCE_AFTER, self._emit_began)

    def progressed(self, attempt: AttemptId) -> None:
        self._progressed.add(attempt)
        if self._progressing is None:
            self._progressing = self._loop.call_later(self._every, self._emit_progressed)

    def ended(self, attempt: AttemptId, phase: int, outcome: Outcome) -> None:
        if not self._ended:
            self._loop.call_soon(self.tell_ended)
        self._ended.append((attempt, phase, outcome))

    def tell_ended(self) -> None:
        """Now: where it is known that nobody calls from within, a lone ending need not wait for a turn of the loop."""
        if self._ended:
            ended, self._ended = self._ended, []
            self._emit(AttemptsEnded(tuple(ended)))

    def close(self) -> None:
        for timer in (self._announcing, self._progressing):
            if timer is not None:
                timer.cancel()

    def _emit_began(self) -> None:
        self._announcing = None
        began = [live for live in self._running() if not live.announced]
        for live in began:
            live.announced = True
        if began:
            self._emit(AttemptsBegan(tuple((live.id, live.began_ms) for live in began)))

    def _emit_progressed(self) -> None:
        self._progressing = None
        progressed, self._progressed = self._progressed, set()
        told = [(live.id, dumps(live.metrics)) for live in self._running() if live.id in progressed and live.metrics]
        if told:
            self._emit(AttemptsProgressed(tuple(told)))
