"""The garbage collector, kept away from the ledger.

Records are tuples without cycles: reference counts free them, and a collector that walks 120,000 tasks to find that
out stops the loop for 80 to 670 ms (measured), longer than a heartbeat. So what survives the young generations is
frozen, which costs nothing however much it is; cycles among it (a closed stream, a finished coroutine) are looked for
once an hour, when nothing runs and the ledger is small.
"""

from __future__ import annotations

import gc

FULL_EVERY = 3600.0  # seconds
# Allocations, and young collections, between collections of the first two generations. 25,000 tuples that records came
# in are walked in 5 ms; with 20,000 and 20 there were 400,000, and whenever a journal was read the loop stood for 126.
YOUNG, MIDDLE = 5_000, 4
WALKED = 50_000  # tasks in a ledger that is walked for cycles at all: 0.12 s. Of 300,000 it took 0.64
NEVER = 1 << 30


class Collector:
    """Made before the journal is read, which takes twice as long otherwise; ``tidy`` is called every few seconds."""

    def __init__(self, now: float) -> None:
        self._full_at = now + FULL_EVERY
        gc.collect()  # what importing left behind
        gc.freeze()
        gc.set_threshold(YOUNG, MIDDLE, NEVER)

    def tidy(self, idle: bool, now: float) -> None:
        """``idle``: nothing runs that a full collection would hold up, nor does it take long."""
        full = idle and now >= self._full_at
        if full:
            self._full_at = now + FULL_EVERY
            gc.unfreeze()
        elif gc.get_count()[2] == 0:
            return  # nothing grew old since the last time
        gc.collect(2 if full else 1)
        gc.freeze()
