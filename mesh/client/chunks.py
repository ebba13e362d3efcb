"""``map``: many calls of one function, in order, a bounded number at a time, several to a task where asked.

Runners import :func:`run_chunk` from here, so this module imports nothing of the client.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Protocol

WINDOW = 2000  # tasks under way at once: a window this wide keeps batches full at 20,000 tasks/s and 50 ms each
AUTO_SECONDS = 0.025  # chunksize="auto" aims at this much work per task, several times what a task costs
AUTO_LIMIT = 1000  # calls in one task
LEARNING = 64  # tasks under way while the size is not yet known


def run_chunk(function: Callable[..., Any], calls: list[tuple[Any, ...]]) -> tuple[list[Any], float]:
    """All calls, one after another, and the seconds they took. The first exception ends the chunk."""
    started = time.perf_counter()
    return [function(*arguments) for arguments in calls], time.perf_counter() - started


class Waitable(Protocol):
    def done(self) -> bool: ...
    def cancel(self) -> bool: ...


class Mapping:
    """The calls under way. Iterate to get futures in order; :meth:`values` turns a future's result into values.

    ``send_one`` and ``send_chunk`` submit one call or a list of calls and return the future. After the iteration, or
    when it is given up, call :meth:`close`: what has not ended is cancelled.
    """

    def __init__(
        self,
        send_one: Callable[[tuple[Any, ...]], Waitable],
        send_chunk: Callable[[list[tuple[Any, ...]]], Waitable],
        calls: Iterable[tuple[Any, ...]],
        chunksize: int | str = 1,
        window: int = WINDOW,
    ) -> None:
        if chunksize != "auto" and (not isinstance(chunksize, int) or chunksize < 1):
            raise ValueError(f"chunksize is {chunksize!r}; it must be a whole number from 1, or 'auto'")
        if window < 1:
            raise ValueError(f"window is {window}; it must be 1 or more")
        self._send_one, self._send_chunk = send_one, send_chunk
        self._calls = iter(calls)
        self._auto = chunksize == "auto"
        self._size = 1 if isinstance(chunksize, str) else chunksize
        self._packed = self._auto or self._size > 1
        self._window = window
        self._waiting: deque[Waitable] = deque()
        self._exhausted = False
        self._settled = False

    def __iter__(self) -> Iterator[Any]:
        while True:
            # Filled up only when half empty: one wake-up of the sender for many calls.
            if not self._exhausted and len(self._waiting) <= self._window // 2:
                self._fill()
            if not self._waiting:
                return
            yield self._waiting.popleft()

    def values(self, result: Any) -> list[Any]:
        """The values of one future's result, in order."""
        if not self._packed:
            return [result]
        values, seconds = result
        if self._auto:
            self._adapt(len(values), seconds)
        return values  # type: ignore[no-any-return]

    def close(self) -> None:
        while self._waiting:
            self._waiting.popleft().cancel()

    def _fill(self) -> None:
        # While the size still grows, few tasks go out, so that most of the calls profit from what is learned.
        limit = min(self._window, LEARNING) if self._auto and not self._settled else self._window
        while len(self._waiting) < limit:
            if self._packed:
                chunk = list(islice(self._calls, self._size))
                if not chunk:
                    self._exhausted = True
                    return
                self._waiting.append(self._send_chunk(chunk))
            else:
                for arguments in self._calls:
                    self._waiting.append(self._send_one(arguments))
                    break
                else:
                    self._exhausted = True
                    return

    def _adapt(self, count: int, seconds: float) -> None:
        fitting = AUTO_LIMIT if seconds <= 0 else int(AUTO_SECONDS * count / seconds)
        fitting = max(1, min(fitting, AUTO_LIMIT))
        # At most doubled: one quick call says little about the next thousand.
        self._settled = fitting <= self._size * 2
        self._size = min(fitting, self._size * 2)
