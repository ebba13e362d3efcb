"""What grew old is not walked again, and cycles among it are found when nothing runs."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from mesh.node.garbage import FULL_EVERY, Collector


class Node:
    """One that can be part of a cycle, and be watched."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_what_survives_is_frozen() -> None:
    collector = Collector(0.0)
    before = gc.get_freeze_count()
    kept = [Node() for _ in range(1000)]
    gc.collect(0)
    gc.collect(1)
    collector.tidy(idle=False, now=1.0)
    assert gc.get_freeze_count() >= before + len(kept)


def test_the_oldest_generation_is_never_collected_by_itself() -> None:
    Collector(0.0)
    collections = gc.get_stats()[2]["collections"]
    kept = [[n] for n in range(2_000_000)]
    assert gc.get_stats()[2]["collections"] == collections
    assert kept


def test_a_cycle_that_grew_old_goes_when_nothing_runs_and_not_before() -> None:
    collector = Collector(0.0)
    node = Node()
    watch = weakref.ref(node)
    gc.collect(0)
    gc.collect(1)
    collector.tidy(idle=False, now=1.0)
    del node
    collector.tidy(idle=False, now=FULL_EVERY + 1)
    assert watch() is not None
    collector.tidy(idle=True, now=FULL_EVERY + 2)
    assert watch() is None
