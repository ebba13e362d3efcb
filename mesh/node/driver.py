"""The one loop: takes events, steps the machine, carries out its effects in the order given.

Owns the reading of clocks, the one timer, and the meeting of calls with their answers. It must not know what a decision
means, nor how a journal, a link or a runner works: those are ports, so that tests drive it with memory twins.

A machine that raised is never stepped again: its invariants are unknown, and the journal holds all that was promised.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mesh.core import effects as fx
from mesh.core import events as ev
from mesh.core.errors import NoLeader
from mesh.core.ids import JobId, NodeId, TaskId
from mesh.core.lattice import Record
from mesh.core.messages import Cursor, Message
from mesh.node.pulls import Pulls, Source
from mesh.shell.journal_rows import ROW_RECORDS

log = logging.getLogger("mesh")

EXIT_BROKEN = 70  # EX_SOFTWARE
SLICE = 0.010  # seconds of steps in one turn; then sockets and pipes get theirs
FROZEN = 1.5  # the loop ran this late: whatever the machine believes about others is as stale as after a suspend
STORY = 40  # events kept for the log of a broken machine


class Clock(Protocol):
    def now(self) -> float: ...

    def slept(self) -> float: ...


class SystemClock:
    """``now`` stands still while the computer is suspended; ``slept`` is the total of those suspensions, in seconds.

    Linux and macOS both keep a second clock that runs on during a suspend, so that the difference is exact and a step
    of the wall clock (NTP, a person) is never taken for sleep. Elsewhere there is only the wall clock, and only jumps
    forward of more than 2 s count.
    """

    _JUMP = 2.0

    def __init__(self) -> None:
        name = {"linux": "CLOCK_BOOTTIME", "darwin": "CLOCK_MONOTONIC"}.get(sys.platform, "")
        self._running: int | None = getattr(time, name, None)
        self._wall, self._slept = time.time() - time.monotonic(), 0.0

    def now(self) -> float:
        return time.monotonic()

    def slept(self) -> float:
        if self._running is not None:
            return time.clock_gettime(self._running) - time.monotonic()
        wall = time.time() - time.monotonic()
        if wall - self._wall > self._JUMP:
            self._slept += wall - self._wall
        self._wall = wall
        return self._slept


class Machine(Protocol):
    """The part of :class:`mesh.core.machine.Machine` that a driver needs."""

    def step(self, event: ev.Event, now: float) -> list[fx.Effect]: ...

    def deadline(self) -> float | None: ...


class JournalPort(Source, Protocol):
    def append(self, position: int, records: Sequence[Record], source: Cursor) -> None: ...


class LinksPort(Protocol):
    def dial(self, address: str) -> None: ...

    def send(self, to: NodeId, message: Message) -> None: ...

    def hangup(self, link: int, reason: str, code: str) -> None: ...


class RunnersPort(Protocol):
    def begin(self, effect: fx.BeginAttempts) -> None: ...

    def stop(self, effect: fx.StopAttempts) -> None: ...


class WatchersPort(Protocol):
    """Whoever waits at the Client service."""

    def tasks_changed(self, tasks: tuple[TaskId, ...]) -> None: ...

    def jobs_changed(self, jobs: tuple[JobId, ...]) -> None: ...

    def leader_changed(self, effect: fx.LeaderChanged) -> None: ...


class BlobsPort(Protocol):
    def found(self, effect: fx.BlobFound) -> None: ...

    def copy(self, effect: fx.CopyBlob) -> None: ...

    def spared(self, effect: fx.BlobsSpared) -> None: ...


@dataclass(frozen=True)
class Ports:
    journal: JournalPort
    links: LinksPort
    runners: RunnersPort
    watchers: WatchersPort
    blobs: BlobsPort


class Driver:
    """Post events from the loop's own thread; they are stepped in that order once :meth:`start` was called.

    ``finished`` resolves to the exit code when the machine is drained, must exit, or broke. Whoever started the driver
    awaits it and then calls :meth:`stop`.
    """

    def __init__(self, clock: Clock, *, slice_records: int = ROW_RECORDS) -> None:
        self._clock = clock
        self._slice_records = slice_records
        self._loop = asyncio.get_running_loop()
        self.finished: asyncio.Future[int] = self._loop.create_future()
        self.appended = 0  # position of the last record handed to the journal
        self.released = 0  # up to which all is on disk, on a successor's too where one counts
        self._machine: Machine | None = None
        self._queue: deque[ev.Event] = deque()
        self._story: deque[ev.Event] = deque(maxlen=STORY)
        self._turning = False
        self._due: float | None = None
        self._looked = clock.now()
        self._timer: asyncio.TimerHandle | None = None
        self._slept = clock.slept()
        self._numbers = itertools.count(1)
        self.on_resumed: Callable[[], object] = lambda: None  # after a suspend; for what lives beside the machine
        self._calls: dict[int, asyncio.Future[fx.Answer]] = {}
        self._durable: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._syncing: deque[tuple[int, float]] = deque()
        self._late = self._sync = self._slowest = 0.0
        self._steps = 0

    def start(self, machine: Machine, ports: Ports, position: int = 0) -> None:
        """``position`` is the journal's last one, all of it synced."""
        self._machine, self._ports = machine, ports
        self.appended = self.released = position
        self._pulls = Pulls(ports.journal, ports.links.send, self.post, self._slice_records)
        self._execute: dict[type, Callable[..., None]] = {
            fx.Persist: self._on_persist,
            fx.Send: lambda e: ports.links.send(e.to, e.message),
            fx.Dial: lambda e: ports.links.dial(e.address),
            fx.Hangup: lambda e: ports.links.hangup(e.link, e.reason, e.code),
            fx.ServePull: self._pulls.serve,
            fx.Released: self._on_released,
            fx.BeginAttempts: ports.runners.begin,
            fx.StopAttempts: ports.runners.stop,
            fx.Answer: self._on_answer,
            fx.TasksChanged: lambda e: ports.watchers.tasks_changed(e.tasks),
            fx.JobsChanged: lambda e: ports.watchers.jobs_changed(e.jobs),
            fx.LeaderChanged: ports.watchers.leader_changed,
            fx.BlobFound: ports.blobs.found,
            fx.CopyBlob: ports.blobs.copy,
            fx.BlobsSpared: ports.blobs.spared,
            fx.Notice: _on_notice,
            fx.Drained: lambda e: self._finish(0, "drained"),
            fx.Exit: lambda e: self._finish(e.code, e.reason),
        }
        self.post(ev.Ticked())

    def post(self, event: ev.Event) -> None:
        self._queue.append(event)
        if not self._turning and self._machine is not None:
            self._turning = True
            self._loop.call_soon(self._turn)

    def post_now(self, event: ev.Event) -> None:
        """Steps it before this returns, where nothing is queued or under way; otherwise as :meth:`post`.

        For what somebody waits for and what comes one by one, a callback of the loop each: a turn of the loop costs
        0.03 ms, of which a task would wait four times. A burst posted so would let nobody else run.
        """
        self._queue.append(event)
        if not self._turning and self._machine is not None:
            self._turn()

    async def ask(self, event: Callable[[int], ev.Event]) -> fx.Answer:
        """Posts the event made with a fresh call number and waits for its Answer, however long that takes."""
        if self.finished.done():
            raise NoLeader("this node is stopping", "", "ask another node")
        call = next(self._numbers)
        answer: asyncio.Future[fx.Answer] = self._loop.create_future()
        self._calls[call] = answer
        self.post_now(event(call))
        try:
            return await answer
        finally:
            self._calls.pop(call, None)

    @property
    def settled(self) -> bool:
        """Whether all that the machine knows now is safe: on disk here, and on a successor's where one counts."""
        return self.released >= self.appended

    async def safe(self) -> None:
        """Waits until all that the machine knows now is safe, and whatever had to be said of it was said."""
        if not self.settled:
            waiter = self._loop.create_future()
            self._durable.append((self.appended, waiter))
            await waiter

    def on_synced(self, position: int) -> None:
        """The journal's callback, in the loop."""
        now = self._clock.now()
        while self._syncing and self._syncing[0][0] <= position:
            self._sync = now - self._syncing.popleft()[1]
        self.post_now(ev.JournalSynced(position))

    def vitals(self) -> dict[str, float | int]:
        """How this process fares, for ``status``. Seconds, ``slowest_step`` of CPU time; a pending sync has an age."""
        pending = self._clock.now() - self._syncing[0][1] if self._syncing else 0.0
        return {
            "loop_late": round(self._late, 6),
            "journal_sync": round(max(self._sync, pending), 6),
            "slowest_step": round(self._slowest, 6),
            "steps": self._steps,
            "queued_events": len(self._queue),
            "slept": max(0.0, round(self._slept, 3)),
        }

    def stop(self) -> None:
        """No step follows; whoever still waits is told to ask another node."""
        if self._machine is not None:
            self._pulls.close()
        if self._timer is not None:
            self._timer.cancel()
        self._finish(0, "stopped")
        error = NoLeader("this node is stopping", "", "ask another node")
        waiters: list[asyncio.Future[Any]] = [*self._calls.values(), *(waiter for _, waiter in self._durable)]
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error)
        self._durable.clear()

    def _finish(self, code: int, reason: str) -> None:
        if not self.finished.done():
            log.log(logging.INFO if code == 0 else logging.ERROR, "%s", reason, extra={"event": "finished"})
            self.finished.set_result(code)

    def _turn(self) -> None:
        self._turning = True  # what is posted meanwhile is stepped in this turn, or in the next
        if self.finished.done():
            return
        now = self._clock.now()
        until = now + SLICE
        self._look_at_the_clocks(now)
        while self._queue and not self.finished.done():
            self._step(self._queue.popleft(), now)
            now = self._clock.now()
            if now > until:
                break
        self._arm(now)

    def _look_at_the_clocks(self, now: float) -> None:
        """A tick that is due goes first: under load the queue may never be empty."""
        slept = self._clock.slept()
        gap, self._slept = slept - self._slept, slept
        # A deadline may lie in the far past, which means at once: the loop is late since it could have known, no more.
        late = 0.0 if self._due is None else now - max(self._due, self._looked)
        self._looked = now
        if late >= 0 and self._due is not None:
            self._late = max(late, self._late * 0.9)  # recent worst: halves in seven ticks
            self._queue.appendleft(ev.Ticked())
            self._due = None
        # A process that was stopped (SIGSTOP, a frozen virtual machine) hears nothing, as one that slept.
        gap = max(gap, late)
        if gap >= FROZEN:
            self._queue.appendleft(ev.Resumed(gap))
            self.on_resumed()

    def _step(self, event: ev.Event, now: float) -> None:
        assert self._machine is not None
        self._story.append(event)
        self._steps += 1
        began = time.thread_time()  # what a step costs, however busy the machine is; ``loop_late`` tells of the latter
        try:
            for effect in self._machine.step(event, now):
                self._execute[type(effect)](effect)
            if type(event) is ev.JournalSynced:
                self._pulls.on_synced()
        except Exception:  # noqa: BLE001 - whatever it is, the machine is broken and the process ends
            story = "\n".join(f"  {e!r:.500}" for e in self._story)
            log.critical(
                "the machine broke and stops here; this is a defect, please report it with this story\n%s\n%s",
                story,
                traceback.format_exc(),
                extra={"event": "broken"},
            )
            self._finish(EXIT_BROKEN, "the machine broke")
        self._slowest = max(self._slowest, time.thread_time() - began)

    def _on_released(self, effect: fx.Released) -> None:
        """The last effect of its step: what was said because of it went out before what waited for it goes on."""
        self.released = effect.position
        while self._durable and self._durable[0][0] <= self.released:
            waiter = self._durable.popleft()[1]
            if not waiter.done():
                waiter.set_result(None)

    def _arm(self, now: float) -> None:
        assert self._machine is not None
        due = None if self.finished.done() else self._machine.deadline()
        if self._timer is not None and due != self._due:  # most steps leave it where it was
            self._timer.cancel()
            self._timer = None
        if self.finished.done():
            return
        self._due = due
        self._turning = bool(self._queue) or (due is not None and due <= now)
        if self._turning:
            self._loop.call_soon(self._turn)
        elif due is not None and self._timer is None:
            self._timer = self._loop.call_later(due - now, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if not self._turning:
            self._turn()

    def _on_persist(self, effect: fx.Persist) -> None:
        self.appended = effect.position
        self._syncing.append((effect.position, self._clock.now()))
        self._ports.journal.append(effect.position, effect.records, effect.source)

    def _on_answer(self, effect: fx.Answer) -> None:
        answer = self._calls.pop(effect.call, None)
        if answer is not None and not answer.done():  # else the caller hung up
            answer.set_result(effect)


def _on_notice(effect: fx.Notice) -> None:
    fields = dict(effect.fields)
    text = " ".join(f"{key}={value}" for key, value in fields.items())
    log.log(
        logging.getLevelNamesMapping()[effect.level.upper()],
        "%s",
        text,
        extra={"event": effect.event, "fields": fields},
    )
