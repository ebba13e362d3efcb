"""A small chaos, as `make chaos` makes large ones: the lab, the clients, the books and the verdict, together."""

from __future__ import annotations

import pytest

from tests.netlab.chaos import Chaos, chaos

pytestmark = [pytest.mark.netlab, pytest.mark.timeout(420)]


# Until successors hold what a leader accepts, what it accepted just before it is out of reach is computed again by the
# next one, and one of the two results wins.
NOT_BUILT = {"unreplicated", "recomputed"}


def test_a_small_chaos_breaks_no_promise() -> None:
    document, broken = chaos(Chaos(hosts=3, tasks=100, faults=6, seed=1))
    print(document)
    assert not set(broken) - NOT_BUILT, f"{broken}; see {document['kept']}"
    assert document["acknowledged"] == document["succeeded"] == document["shown"] == 100
