"""Which checkpoints of a task are kept, and from which one its next attempt goes on.

All of it follows from the attempts' records. What an attempt has saved is kept in its own record by the node that runs
it, and outlives that node: an attempt that was LOST keeps what was known of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable

from mesh.core.lattice import Attempt, Checkpoint, Checkpointing

MOST_KEPT = 100  # of one attempt: its record travels with every save


def kept(saved: Iterable[Checkpoint], policy: Checkpointing) -> tuple[Checkpoint, ...]:
    """The newest ``policy.keep``, newest first, and the best by its metric where it is none of them."""
    ordered = sorted(saved, reverse=True)
    chosen = ordered[: policy.keep]
    if policy.metric and len(ordered) > len(chosen):
        best = best_of(ordered, policy)
        if best is not None and best not in chosen:
            chosen.append(best)
    return tuple(chosen)


def best_of(saved: Iterable[Checkpoint], policy: Checkpointing) -> Checkpoint | None:
    """By the policy's metric; of equally good ones the newest. None: no checkpoint has a number there."""
    found = [(value, each) for each in saved if (value := _value(each.metrics, policy.metric)) is not None]
    if not policy.maximize:
        found = [(-value, each) for value, each in found]
    return max(found)[1] if found else None


def of_task(attempts: Iterable[Attempt], policy: Checkpointing) -> tuple[Checkpoint, ...]:
    """Those of all attempts that are kept, lost ones included, the newest first."""
    saved = [checkpoint for attempt in attempts for checkpoint in attempt.saved]
    return kept(saved, policy) if saved else ()


def _value(metrics: bytes, name: str) -> float | None:
    try:
        value = json.loads(metrics or b"{}").get(name)
    except (ValueError, AttributeError):
        return None  # of another version, perhaps: it is no best one then
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
