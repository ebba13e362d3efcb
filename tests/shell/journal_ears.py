"""What a journal tells, collected in the order told."""

from __future__ import annotations

from collections.abc import Callable
from queue import Queue
from typing import Protocol

from mesh.core.lattice import Run


class Startable(Protocol):
    def start(
        self, deliver: Callable[..., object], on_synced: Callable[[int], object], on_failed: Callable[[str], object]
    ) -> None: ...


class Ears:
    """Stands in for the loop: callbacks run when the test asks for the next one."""

    def __init__(self, journal: Startable) -> None:
        self.heard: list[int | str] = []  # positions synced, reasons of failures
        self._calls: Queue[tuple[Callable[..., object], object]] = Queue()
        journal.start(lambda callback, argument: self._calls.put((callback, argument)), self._hear, self._hear)

    def _hear(self, what: int | str) -> None:
        self.heard.append(what)

    def next(self) -> int | str:
        callback, argument = self._calls.get(timeout=30)
        callback(argument)
        return self.heard[-1]

    def until(self, what: int | str) -> None:
        while self.next() != what:
            pass

    def quiet(self) -> bool:
        return self._calls.empty()


def runs(first: int, last: int) -> list[Run]:
    return [Run(f"t{number}", number, 0) for number in range(first, last + 1)]
