"""A Lan whose callbacks are recorded, and waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ulid import ULID

from mesh.lan.discovery import Lan

PATIENCE = 15.0  # seconds; what is waited for takes milliseconds, on a machine that is busy with other tests more


def new_node() -> str:
    return f"50-{ULID()}"


class Recorder:
    """Every callback becomes a tuple, its name first."""

    def __init__(self, mesh: str, *hosts: str) -> None:
        self.events: list[tuple[Any, ...]] = []
        self._changed = asyncio.Event()
        self.lan = Lan(
            mesh,
            *(hosts or ("127.0.0.1",)),
            on_found=lambda address, announcement: self._add("found", address, announcement.node),
            on_removed=lambda address, announcement: self._add("removed", address, announcement.node),
            on_ignored=lambda instance, reason: self._add("ignored", instance, reason),
            on_trouble=lambda where, text: self._add("trouble", where, text),
        )

    def _add(self, *event: Any) -> None:
        self.events.append(event)
        self._changed.set()

    def of(self, kind: str) -> list[tuple[Any, ...]]:
        return [event[1:] for event in self.events if event[0] == kind]

    async def until(self, true: Callable[[], bool]) -> None:
        """Raises TimeoutError with what came instead."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not true():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise TimeoutError(f"what came: {self.events}") from None
