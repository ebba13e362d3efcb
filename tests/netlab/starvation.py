"""How long daemons waited for a core, by the kernel's account: an island that nobody injected.

All hosts of a lab share the cores of one machine. Where these are overloaded, two daemons may not hear each other
though nothing lies between them. Whether that could be so is read from the kernel alone: of what a daemon says of
itself nothing counts, for it is the one that is judged. Where cores are free, nothing is found here.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.netlab.timeline import FOREVER

EVERY = 0.1  # seconds between two looks
SILENT = 2.2  # seconds in which a beat must have been answered, or its sender is taken for silent
# Seconds of these. A beat waits up to 0.5 s for its time, and so does the one that echoes it; what is left is for all
# else. A loop that had no core for so long, of its time to send and to read, may have missed it.
ROOM = 1.2


class Look(NamedTuple):
    at: float
    waited: float  # since the look before, in seconds: the loop of this daemon was ready to run, and did not


class Waits:
    """By host. ``looks`` are in order of time."""

    def __init__(self) -> None:
        self.looks: dict[str, list[Look]] = {}

    def note(self, host: str, at: float, waited: float) -> None:
        if waited > 0:
            self.looks.setdefault(host, []).append(Look(at, waited))

    def starved_since(self, one: str, other: str, at: float) -> float:
        """When the time began in which these two need not have heard each other until then; infinity: they must have.

        It ends when a beat and its echo had time to pass again.
        """
        begun, end = FOREVER, -FOREVER
        for since, until in sorted([*self._starved(one, at), *self._starved(other, at)]):
            if since > end:
                begun = since
            end = max(end, until)
        return begun if at <= end else FOREVER

    def _starved(self, host: str, at: float) -> Iterator[tuple[float, float]]:
        window: deque[Look] = deque()
        waited = 0.0
        for look in self.looks.get(host, ()):
            if look.at > at:
                break
            window.append(look)
            waited += look.waited
            while window[0].at <= look.at - SILENT:
                waited -= window.popleft().waited
            if waited >= ROOM:
                yield look.at - SILENT, look.at + SILENT

    def total(self, host: str) -> float:
        return sum(look.waited for look in self.looks.get(host, ()))

    def write(self, path: Path) -> None:
        path.write_text(
            "".join(json.dumps({"host": host, "looks": looks}) + "\n" for host, looks in self.looks.items())
        )


class Watch(threading.Thread):
    """Looks until it is stopped. ``pids``: the daemon of each host, as it is now."""

    def __init__(self, waits: Waits, pids: Callable[[], Mapping[str, int]]) -> None:
        super().__init__(daemon=True)
        self.waits, self.pids = waits, pids
        self._stopped = threading.Event()
        self._seen: dict[int, float] = {}

    def run(self) -> None:
        while not self._stopped.wait(EVERY):
            self.look()

    def look(self) -> None:
        now, seen = time.monotonic(), {}
        for host, pid in self.pids().items():
            try:
                seen[pid] = waited(pid)
            except (FileNotFoundError, ProcessLookupError):
                continue  # it was killed, or this kernel keeps no such account: then nothing is found
            if pid in self._seen:
                self.waits.note(host, now, seen[pid] - self._seen[pid])
        self._seen = seen

    def stop(self) -> None:
        self._stopped.set()
        self.join()


def waited(pid: int) -> float:
    """How long the main thread of this process, its loop, was ready to run and did not, in seconds."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
