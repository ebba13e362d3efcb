"""Looks at what runs, while something does: its memory, and the size of what it prints."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from mesh.shell.runner_slots import Live
from mesh.task.logs import drop_middle
from mesh.task.processes import descendants


class Limits:
    """``running`` yields the attempts that run now, ``pid`` tells a runner's process (0: not known yet), and
    ``exceeded`` is told of an attempt that uses more memory than it may, and how much."""

    def __init__(
        self,
        running: Callable[[], Iterable[Live]],
        pid: Callable[[str], int],
        exceeded: Callable[[Live, int], None],
        every: float,
    ) -> None:
        self._running, self._pid, self._exceeded, self._every = running, pid, exceeded, every
        self._loop = asyncio.get_running_loop()
        self._next: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None

    def began(self) -> None:
        """Something runs now; looks until nothing does."""
        if self._next is None and self._looking is None:
            self._next = self._loop.call_later(self._every, self._start)

    def close(self) -> None:
        if self._next is not None:
            self._next.cancel()
        if self._looking is not None:
            self._looking.cancel()

    def _start(self) -> None:
        self._next, self._looking = None, self._loop.create_task(self._look())

    async def _look(self) -> None:
        running = list(self._running())
        for live in running:
            runner = live.slot.runner
            if runner is None or live.stopping is not None or live is not live.slot.running():
                continue  # it ended or was stopped while another one was looked at
            if not live.is_command:
                _cap(runner.place.capture)
            allowed, pid = live.assignment.memory, self._pid(runner.id)
            if allowed and pid:
                used = await asyncio.to_thread(memory_of, pid, not live.is_command, allowed)
                if used > allowed and live is live.slot.running() and live.stopping is None:
                    self._exceeded(live, used)
        self._looking = None
        if running:
            self.began()


def _cap(capture: Path) -> None:
    try:
        drop_middle(capture)
    except FileNotFoundError:
        return  # it has just become a log, and its runner trims that


def memory_of(pid: int, with_root: bool, limit: int) -> int:
    """Bytes that the tree below ``pid`` uses, shared pages counted in proportion where that matters.

    The resident sizes cost microseconds; proportional ones walk page tables (20 ms for 10 GB), so they are asked for
    only where the resident sizes, which count shared pages for each process, exceed ``limit``.
    """
    resident = proportional = 0
    for one in [*([pid] if with_root else []), *descendants(pid)]:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            resident += psutil.Process(one).memory_info().rss
    if resident <= limit:
        return resident
    for one in [*([pid] if with_root else []), *descendants(pid)]:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
            full = psutil.Process(one).memory_full_info()
            proportional += getattr(full, "pss", full.uss)
    return proportional
