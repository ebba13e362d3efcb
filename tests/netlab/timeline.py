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


class Span:
    """One fault. ``dead``: hosts whose daemon was stopped; ``cut``: pairs (from, to) between which nothing passes."""

    def __init__(self, what: str, dead: str = "", silent: str = "", cut: set[tuple[str, str]] | None = None) -> None:
        self.what, self.dead, self.silent, self.cut = what, set(dead), set(silent), cut or set()
        self.since = time.monotonic()
        self.until = float("inf")

    def apart(self, one: str, other: str) -> bool:
        """Whether this keeps the two from hearing each other."""
        if one == other:
            return False
        away = self.dead | self.silent
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

    def apart(self, one: str, other: str, since: float, until: float) -> bool:
        """Whether anything kept these two from hearing each other at a moment of these."""
        return self.apart_for(one, other, since, until) > 0

    def apart_for(self, one: str, other: str, since: float, until: float) -> float:
        """The longest time that ended in this window, or lasts in it, in which they were not surely in touch."""
        longest, began, reached = 0.0, float("inf"), float("-inf")
        for span in sorted(self.spans, key=lambda span: span.since):
            if not span.apart(one, other) or span.since > until:
                continue
            if span.since > reached:
                began = span.since
            reached = max(reached, span.until + REJOIN)
            if reached >= since:
                longest = max(longest, min(reached, until) - began)
        return longest

    def write(self, path: Path) -> None:
        path.write_text("".join(json.dumps(span.document()) + "\n" for span in self.spans))
