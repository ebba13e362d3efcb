"""What the benchmarks send: a function that does nothing, pickled by value as one from a user's script is."""

from __future__ import annotations

from collections.abc import Callable


def _make() -> Callable[[int], int]:
    # A local function has no importable name, so it travels whole.
    def noop(x: int) -> int:
        return x

    return noop


noop = _make()
