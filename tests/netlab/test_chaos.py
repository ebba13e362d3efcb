"""A small chaos, as `make chaos` makes large ones: the lab, the clients, the books and the verdict, together."""

from __future__ import annotations

import pytest

from tests.netlab.chaos import Chaos, chaos

pytestmark = [pytest.mark.netlab, pytest.mark.timeout(420)]


def test_a_small_chaos_breaks_no_promise() -> None:
    document, broken = chaos(Chaos(hosts=3, tasks=100, faults=6, seed=1))
    print(document)
    assert not broken, f"{broken}; see {document['kept']}"
    assert document["acknowledged"] == document["succeeded"] == document["shown"] == 100
