"""The garbage collector, kept away from the ledger.

Records are tuples without cycles: reference counts free them, and a collector that walks 120,000 tasks to find that
out stops the loop for 80 to 670 ms (measured), longer than a heartbeat. So what survives the young generations is
frozen, which costs nothing however much it is; cycles among it (a closed stream, a finished coroutine) are looked for
once an hour, when nothing runs.
"""

from __future__ import annotations

import gc

FULL_EVERY = 3600.0  # seconds
YOUNG, MIDDLE = 20_000, 20  # allocations, and young collections, between collections of the first two generations
NEVER = 1 << 30


class Collector:
    """``tidy`` is called every few seconds."""

    def __init__(self, now: float) -> None:
        self._full_at = now + FULL_EVERY
        gc.collect()  # what importing left behind
        gc.freeze()
        gc.set_threshold(YOUNG, MIDDLE, NEVER)

    def tidy(self, idle: bool, now: float) -> None:
        full = idle and now >= self._full_at
        if full:
            self._full_at = now + FULL_EVERY
            gc.unfreeze()
        elif gc.get_count()[2] == 0:
            return  # nothing grew old since the last time
        gc.collect(2 if full else 1)
        gc.freeze()
