"""Which node gets what, as seen from outside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.mesh import Mesh, until
from tests.e2e.work import Gated

pytestmark = pytest.mark.e2e


def test_nothing_waits_behind_a_long_task_while_another_node_is_free(mesh: Mesh, tmp_path: Path) -> None:
    """What was sent ahead to a busy node, for a wait that was thought to be short, goes elsewhere."""
    gated = Gated(tmp_path)
    a, b = mesh.start_all("a", "b")
    job = mesh.ctl("submit", gated.sweep(5), at=a)["job"]
    first = gated.until_began(2)
    for count in (3, 4, 5):
        gated.open(next(each.x for each in gated.began() if each.node == b.id and not gated.opened(each.x)))
        gated.until_began(count)
    on_a = [each for each in gated.began() if each.node == a.id]
    assert on_a == [each for each in first if each.node == a.id]
    gated.open()
    mesh.until_state(job, "succeeded", at=a)


def test_labels_and_profiles_choose_the_node(mesh: Mesh, tmp_path: Path) -> None:
    a = mesh.start("a", "--rank", "10", "--label", "room=east")
    b = mesh.start("b", "--label", "room=west", "--profile", "gpu_high", peers=[a])
    mesh.met(a, b)
    for resources, node in (
        ({"labels": {"room": "west"}}, b), ({"labels": {"room": "east"}}, a), ({"profile": "gpu_high"}, b),
        ([{"gpus": 4}, {"labels": {"room": "west"}}], b),
    ):  # fmt: skip
        file = tmp_path / "sweep.yaml"
        sweep = {"method": "grid", "parameters": {"x": {"values": [1, 2]}}, "command": ["true"]}
        file.write_text(json.dumps(sweep | {"mesh": {"resources": resources}}))
        job = mesh.ctl("submit", str(file), "--wait", at=b)["id"]
        assert {x["node"] for task in mesh.tasks(job, a) for x in task["attempts"]} == {node.id}, resources


def test_working_directory_that_no_node_has(mesh: Mesh, tmp_path: Path) -> None:
    """Nobody fails at it: each node says that it lacks it, and the task waits until one has it."""
    a, b = mesh.start_all("a", "b")
    gated = Gated(tmp_path)
    blocking = mesh.ctl("submit", gated.sweep(2), at=a)["job"]
    gated.until_began(2)
    gone = tmp_path / "gone"
    gone.mkdir()
    (gone / "sweep.yaml").write_text('{"method": "grid", "parameters": {"x": {"values": [1]}}, "command": ["true"]}')
    job = mesh.ctl("submit", str(gone / "sweep.yaml"), at=a)["job"]
    (gone / "sweep.yaml").unlink()
    gone.rmdir()
    gated.open()
    mesh.until_state(blocking, "succeeded", at=a)

    def whys() -> list[str]:
        return [node["why"] for node in mesh.ctl("explain", f"{job}.0", at=b)["nodes"]]

    until(lambda: len([why for why in whys() if str(gone) in why]) == 2, what="both nodes say that they lack it")
    assert mesh.ctl("job", job, at=a)["tasks"]["failed"] == 0
