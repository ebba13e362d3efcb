"""SIGKILL, to each part in turn, in the middle of a sweep: what was acknowledged is there and every task ends."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.e2e.mesh import Daemon, Mesh, alive, until
from tests.e2e.work import Began, Gated

pytestmark = pytest.mark.e2e


@pytest.fixture
def gated(tmp_path: Path) -> Gated:
    return Gated(tmp_path)


def on(daemon: Daemon, began: list[Began]) -> list[Began]:
    return [each for each in began if each.node == daemon.id]


def attempts(mesh: Mesh, job: str, task: str, at: Daemon) -> list[tuple[str, str, str]]:
    """(state, reason, node) of each, in order."""
    [found] = [each for each in mesh.tasks(job, at) if each["id"] == task]
    return [(attempt["state"], attempt["reason"], attempt["node"]) for attempt in found["attempts"]]


def test_runner_killed(mesh: Mesh, gated: Gated) -> None:
    """Its attempt fails with the true reason and is tried again; nobody else notices."""
    a, b, c = mesh.start_all("a", "b", "c")
    job = mesh.ctl("submit", gated.sweep(5), at=b)["job"]
    began = gated.until_began(3)
    [victim] = on(c, began)
    os.kill(victim.runner, signal.SIGKILL)
    gated.until_began(4)
    gated.open()
    done = mesh.until_state(job, "succeeded", at=a)
    assert done["tasks"]["succeeded"] == 5
    (first, why, node), *others = attempts(mesh, job, victim.task, a)
    assert (first, node) == ("failed", c.id)
    assert "signal 9 (SIGKILL)" in why
    assert [state for state, _, _ in others] == ["succeeded"]
    assert not alive(victim.pid)
    assert len(gated.began()) == 6  # five trials, one of them twice


def test_worker_killed(mesh: Mesh, gated: Gated) -> None:
    """Its process is known to be gone: what it ran is lost at once, not after 30 s, and runs elsewhere."""
    a, b, c = mesh.start_all("a", "b", "c")
    job = mesh.ctl("submit", gated.sweep(4), at=a)["job"]
    [victim] = on(c, gated.until_began(3))
    c.kill()
    killed = time.monotonic()
    until(lambda: attempts(mesh, job, victim.task, a)[0][0] == "lost", within=3, what="the attempt is lost")
    print(f"lost after {time.monotonic() - killed:.2f} s")
    until(lambda: not alive(victim.pid), what="the task died with its daemon")
    gated.open()
    mesh.until_state(job, "succeeded", at=b)
    lost, again = attempts(mesh, job, victim.task, a)
    assert lost == ("lost", "its process ended", c.id)
    assert again[0] == "succeeded"
    assert again[2] in (a.id, b.id)
    assert {peer["id"]: peer["state"] for peer in mesh.ctl("peers", at=a)}[c.id] == "left"


def test_leader_killed_and_started_again(mesh: Mesh, gated: Gated) -> None:
    """What it acknowledged and accepted is there; what survivors ran ran on, and its results arrive."""
    a, b, c = mesh.start_all("a", "b", "c")
    job = mesh.ctl("submit", gated.sweep(8), at=b)["job"]
    gated.until_began(3)
    gated.open(0)  # one has succeeded and was accepted before the kill
    until(lambda: mesh.tasks(job, a)[0]["state"] == "succeeded")
    accepted = mesh.tasks(job, a)[0]
    began = gated.until_began(4)
    running = [each for each in began if alive(each.pid)]
    [on_a], [on_b], [on_c] = on(a, running), on(b, running), on(c, running)

    a.kill()
    killed = time.monotonic()
    led = until(lambda: {b.status()["leader"], c.status()["leader"]} <= {b.id, c.id} and b.status()["leader"], within=5)
    print(f"led again after {time.monotonic() - killed:.2f} s by {'b' if led == b.id else 'c'}")
    assert time.monotonic() - killed < 4
    until(lambda: not alive(on_a.pid), what="the leader's own task died with it")
    gated.open(on_b.x)  # ends while nobody who leads knows its job
    until(lambda: not alive(on_b.pid))
    a.start()
    mesh.met(a, b, c)
    assert alive(on_c.pid), "a change of leader stopped a task elsewhere"
    gated.open()
    done = mesh.until_state(job, "succeeded", at=a)
    print(f"all done {time.monotonic() - killed:.2f} s after the kill")
    assert done["tasks"] == {"pending": 0, "running": 0, "succeeded": 8, "failed": 0, "cancelled": 0}
    assert done["best"]["metric"] == {"name": "score", "value": 7}
    tasks = {task["id"]: task for task in mesh.tasks(job, a)}
    assert tasks[accepted["id"]]["attempts"] == accepted["attempts"]
    for survivor in (on_b, on_c):
        assert [attempt["id"] for attempt in tasks[survivor.task]["attempts"]] == [survivor.attempt]
        assert [each.attempt for each in gated.began() if each.task == survivor.task] == [survivor.attempt]
    assert [attempt["state"] for attempt in tasks[on_a.task]["attempts"]] == ["lost", "succeeded"]
    assert len(gated.began()) == 9  # what the leader itself ran is all that ran twice


def test_leader_killed_for_good(mesh: Mesh, gated: Gated) -> None:
    """Its process is gone, so nobody waits for 2.2 s of silence: another one leads, takes and runs new work."""
    a, b, c = mesh.start_all("a", "b", "c")
    a.kill()
    killed = time.monotonic()
    until(lambda: b.status()["leader"] == c.status()["leader"] in (b.id, c.id), within=2, what="another one leads")
    print(f"led again after {time.monotonic() - killed:.2f} s")
    gated.open()
    job = mesh.ctl("submit", gated.sweep(4), "--wait", at=c)
    assert job["state"] == "succeeded"
    assert {each.node for each in gated.began()} == {b.id, c.id}


def test_leader_killed_over_and_over_alone(mesh: Mesh, gated: Gated) -> None:
    """One node, killed at any moment: every submission that was acknowledged runs to its end, once it stays up."""
    a = mesh.start("a", slots=2)
    jobs = []
    for number in range(3):
        jobs.append(mesh.ctl("submit", "--param", "x", "1", "2", "3", "--", "sh", "-c", "sleep 0.1", at=a)["job"])
        time.sleep(0.1 * number)
        a.kill()
        a.start()
    for job in jobs:
        assert mesh.until_state(job, "succeeded", at=a)["tasks"]["succeeded"] == 3


def test_detached_tasks_die_with_a_killed_daemon(mesh: Mesh) -> None:
    """Nothing survives meshd: not a child, not what made a session of its own, not a daemon's double fork."""
    a = mesh.start("a", slots=3)
    command = "setsid sleep 1000 & (setsid sh -c 'sleep 1001 & sleep 1002' &) & sleep 1003"
    mesh.ctl("submit", "--param", "n", "1", "2", "3", "--", "sh", "-c", command, at=a)

    def sleeping() -> list[int]:
        return [pid for pid, words in mesh.survivors().items() if words.startswith("sleep 100")]

    until(lambda: len(sleeping()) == 12, what="all of them sleep")
    a.kill()
    killed = time.monotonic()
    until(lambda: not mesh.survivors(), within=5, what="nothing is left")
    print(f"all gone after {time.monotonic() - killed:.2f} s")


def test_what_a_killed_daemon_left_behind_is_ended_by_its_next_life(mesh: Mesh) -> None:
    """Also where the zygote was killed at the same moment, and nobody was left to clean up."""
    a = mesh.start("a")
    mesh.ctl("submit", "--", "sh", "-c", "setsid sleep 1000 & sleep 1001", at=a)

    def sleeping() -> list[int]:
        return [pid for pid, words in mesh.survivors().items() if words.startswith("sleep 100")]

    until(lambda: len(sleeping()) == 2)
    before = sleeping()
    helpers = [pid for pid, words in mesh.survivors().items() if "sleep" not in words and pid != a.process.pid]
    for pid in (a.process.pid, *helpers):
        os.kill(pid, signal.SIGSTOP)
    for pid in (a.process.pid, *helpers):
        os.kill(pid, signal.SIGKILL)
    a.process.wait()
    a.start().ready()
    until(lambda: not any(map(alive, before)), what="the former life's tasks are gone")
