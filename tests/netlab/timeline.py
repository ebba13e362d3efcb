"""What was done to whom, and when: what the verdict may excuse, and nothing else.

Times are those of CLOCK_MONOTONIC, which all hosts of the lab share: it is one kernel.
"""

from __future__ import annotations

import json
import time
from itertools import product
from pathlib import Path
from typing import Any

LOST_AFTER = 30.0  # seconds, the mesh's own promise
REJOIN = 8.0  # seconds after an absence in which a node may not be back: a restart on a loaded machine, a redial of 5 s
FOREVER = float("inf")


class Span:
    """One fault. ``dead``: hosts whose daemon was stopped; ``cut``: pairs (from, to) between which nothing passes."""

    def __init__(self, what: str, dead: str = "", silent: str = "", cut: set[tuple[str, str]] | None = None) -> None:
        self.what, self.dead, self.silent, self.cut = what, set(dead), set(silent), cut or set()
        self.since = time.monotonic()
        self.until = FOREVER

    def apart(self, one: str, other: str, deaths: bool = True) -> bool:
        """Whether this keeps the two from hearing each other."""
        if one == other:
            return False
        away = self.silent | self.dead if deaths else self.silent
        return one in away or other in away or (one, other) in self.cut or (other, one) in self.cut

    def document(self) -> dict[str, Any]:
        """As it stands in ``faults.jsonl``."""
        return {"since": self.since, "until": self.until, "what": self.what}


class Timeline:
    def __init__(self) -> None:
        self.spans: list[Span] = []

    def begin(self, what: str, *, dead: str = "", silent: str = "", apart: tuple[str, str] = ("", "")) -> Span:
        """``dead``: daemons that stop; ``silent``: hosts that answer nobody though they live; ``apart``: two groups."""
        self.spans.append(Span(what, dead, silent, set(product(*apart))))
        return self.spans[-1]

    def end(self, span: Span) -> None:
        span.until = time.monotonic()

    def died(self, name: str, since: float, until: float) -> bool:
        """Whether this host's daemon was stopped, or was not there, at a moment of these."""
        return any(name in span.dead and span.since <= until and span.until + REJOIN >= since for span in self.spans)

    def anyone_died(self, since: float, until: float) -> bool:
        return any(span.dead and span.since <= until and span.until + REJOIN >= since for span in self.spans)

    def apart_since(self, one: str, other: str, at: float, deaths: bool = True) -> float:
        """When the time began in which these two were never surely in touch until then; infinity: they were.

        ``deaths``: whether that one of them was dead counts, too.
        """
        return next((since for since, until in self._periods(one, other, deaths) if since <= at <= until), FOREVER)

    def apart_for(self, one: str, other: str, since: float, until: float) -> float:
        """The longest such time that reaches into this window, up to the window's end."""
        periods = self._periods(one, other, deaths=True)
        return max((min(end, until) - begin for begin, end in periods if end >= since and begin <= until), default=0.0)

    def _periods(self, one: str, other: str, deaths: bool) -> list[tuple[float, float]]:
        """Faults with no time between them to be back in are one period."""
        found: list[tuple[float, float]] = []
        for span in sorted(self.spans, key=lambda span: span.since):
            if not span.apart(one, other, deaths):
                continue
            if found and span.since <= found[-1][1]:
                found[-1] = (found[-1][0], max(found[-1][1], span.until + REJOIN))
            else:
                found.append((span.since, span.until + REJOIN))
        return found

    def write(self, path: Path) -> None:
        path.write_text("".join(json.dumps(span.document()) + "\n" for span in self.spans))
