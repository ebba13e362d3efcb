"""SIGTERM: hand over, finish what runs or give it back, leave with 0. A second one: at once."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.e2e.mesh import Mesh, alive, until
from tests.e2e.work import Gated

pytestmark = pytest.mark.e2e


@pytest.fixture
def gated(tmp_path: Path) -> Gated:
    return Gated(tmp_path)


def test_leader_hands_over_and_finishes_what_it_runs(mesh: Mesh, gated: Gated) -> None:
    a, b = mesh.start_all("a", "b")
    job = mesh.ctl("submit", gated.sweep(3), at=a)["job"]
    [on_a] = [each for each in gated.until_began(2) if each.node == a.id]
    a.terminate()
    until(lambda: b.status()["leading"], within=3, what="the other one leads")
    peers = {peer["id"]: peer for peer in mesh.ctl("peers", at=b)}
    assert not peers[a.id]["leader"]
    assert alive(on_a.pid)
    assert a.process.poll() is None
    gated.open(on_a.x)
    assert a.ends() == 0
    gated.open()
    assert mesh.until_state(job, "succeeded", at=b)["tasks"]["succeeded"] == 3
    assert len(gated.began()) == 3  # nothing was run twice
    assert until(lambda: {peer["id"]: peer for peer in mesh.peers(b)}[a.id]["state"] == "left")


def test_what_outlasts_the_grace_is_released_and_runs_elsewhere(mesh: Mesh, gated: Gated) -> None:
    a, b = mesh.start_all("a", "b", flags=("--grace", "1"))
    job = mesh.ctl("submit", gated.sweep(2), at=a)["job"]
    [on_a, on_b] = sorted(gated.until_began(2), key=lambda each: each.node != a.id)
    a.terminate()
    asked = time.monotonic()
    assert a.ends() == 0
    print(f"left {time.monotonic() - asked:.2f} s after it was asked, with a grace of 1 s")
    assert not alive(on_a.pid)
    gated.open()
    mesh.until_state(job, "succeeded", at=b)
    tasks = {task["id"]: [(x["state"], x["node"]) for x in task["attempts"]] for task in mesh.tasks(job, b)}
    assert tasks[on_a.task] == [("released", a.id), ("succeeded", b.id)]
    assert tasks[on_b.task] == [("succeeded", b.id)]


def test_a_drained_node_takes_nothing_new(mesh: Mesh, gated: Gated) -> None:
    a, b = mesh.start_all("a", "b")
    job = mesh.ctl("submit", gated.sweep(6), at=a)["job"]
    [on_b] = [each for each in gated.until_began(2) if each.node == b.id]
    b.terminate()
    until(lambda: "draining" in b.said())
    gated.open()
    assert b.ends() == 0
    mesh.until_state(job, "succeeded", at=a)
    assert [each.task for each in gated.began() if each.node == b.id] == [on_b.task]


def test_second_sigterm_stops_at_once(mesh: Mesh, gated: Gated) -> None:
    a, b = mesh.start_all("a", "b")
    job = mesh.ctl("submit", gated.sweep(2), at=a)["job"]
    [on_b] = [each for each in gated.until_began(2) if each.node == b.id]
    b.terminate()
    until(lambda: "draining" in b.said())
    b.terminate()
    asked = time.monotonic()
    assert b.ends() == 128 + signal.SIGTERM
    assert time.monotonic() - asked < 5
    until(lambda: not alive(on_b.pid))
    gated.open()
    mesh.until_state(job, "succeeded", at=a)


def test_alone_and_asked_to_leave_it_keeps_what_was_acknowledged(mesh: Mesh, gated: Gated) -> None:
    a = mesh.start("a", "--grace", "0")
    job = mesh.ctl("submit", gated.sweep(3), at=a)["job"]
    gated.until_began(1)
    assert a.stop() == 0
    gated.open()
    a.start()
    assert mesh.until_state(job, "succeeded", at=a)["tasks"]["succeeded"] == 3
