"""A small chaos, as `make chaos` makes large ones: the lab, the clients, the books and the verdict, together."""

from __future__ import annotations

import pytest

from tests.netlab.chaos import Chaos, chaos

pytestmark = [pytest.mark.netlab, pytest.mark.timeout(420)]


# What is known to fail, to be taken out here as it is mended.
KNOWN = {
    "unreplicated": "successors do not hold yet what a leader accepts; out of reach, it is computed again",
    "recomputed": "the same",
    "disturbed": "a dead life's attempt, read from the journal of a node that returns, has a running one recalled",
    "exits": "heartbeats of a dead life that arrive after a partition have its next life refused with 76",
}


def test_a_small_chaos_breaks_no_promise() -> None:
    document, broken = chaos(Chaos(hosts=3, tasks=100, faults=6, seed=1))
    print(document)
    assert not broken.keys() - KNOWN.keys(), f"{broken}; see {document['kept']}"
    assert document["acknowledged"] == document["succeeded"] == document["shown"] == 100
