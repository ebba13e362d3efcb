"""The figures of checkpoints, of small states: that they are taken, and those that do not depend on the machine."""

from __future__ import annotations

import pytest

from bench import checkpoints

pytestmark = pytest.mark.e2e


def test_of_a_state_that_changed_a_little_a_little_is_stored_and_moved_to_where_the_rest_is() -> None:
    pytest.importorskip("torch")
    found = checkpoints.again(8 << 20)
    assert found["changed"] == pytest.approx(0.01, rel=0.01)
    assert found["changed"] <= found["moved"] <= checkpoints.GOAL_SHARE
    assert found["changed"] <= found["stored_there"] == found["files_there"] <= checkpoints.GOAL_SHARE
    assert found["stored_here"] == found["stored_there"]
    assert found["nodes_that_grew"] == 2, "not the third, which has nothing of it"


def test_a_save_is_timed_beside_copies_of_the_same_tensors() -> None:
    pytest.importorskip("torch")
    found = checkpoints.stall(8 << 20, tensors=4, turns=2)
    assert len(found["each_turn"]) == 2
    assert min(found["ratio"], found["ratio_to_copy"]) > 0
