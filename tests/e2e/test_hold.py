"""What must not run twice (``on_lost: hold``), with real daemons: it waits where it may have begun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.mesh import Daemon, Mesh, alive, until
from tests.e2e.work import Gated

pytestmark = pytest.mark.e2e


@pytest.fixture
def gated(tmp_path: Path) -> Gated:
    return Gated(tmp_path)


def the(mesh: Mesh, job: str, task: str, at: Daemon) -> dict[str, Any]:
    [found] = [each for each in mesh.tasks(job, at) if each["id"] == task]
    return found


def test_a_worker_killed_holds_its_task_until_a_person_forces_it(mesh: Mesh, gated: Gated) -> None:
    a, b, c = mesh.start_all("a", "b", "c")
    job = mesh.ctl("submit", gated.sweep(4, on_lost="hold"), at=b)["job"]
    [victim] = [each for each in gated.until_began(3) if each.node == c.id]
    c.kill()
    until(lambda: the(mesh, job, victim.task, a)["attempts"][0]["state"] == "lost", what="the attempt is lost")
    until(lambda: not alive(victim.pid), what="the task died with its daemon")
    gated.open()
    until(lambda: mesh.client(a).job(job).status()["tasks"]["succeeded"] == 3, what="all others have ended")
    task = the(mesh, job, victim.task, a)
    assert task["state"] == "pending"
    assert "must not run twice (on_lost: hold), and c was lost while it may have run it" in task["reason"]
    assert f"meshctl retry {victim.task} --force" in mesh.ctl("explain", victim.task, at=b)["why"]
    assert [each.x for each in gated.began()].count(victim.x) == 1

    refused = mesh.run("retry", victim.task, at=a)
    assert refused.returncode == 1
    assert "c was lost while it may have run it" in refused.stderr
    assert mesh.ctl("retry", victim.task, "--force", at=b) == {"id": victim.task, "tasks": 1}
    mesh.until_state(job, "succeeded", at=b)
    assert [each.x for each in gated.began()].count(victim.x) == 2
    assert [attempt["run"] for attempt in the(mesh, job, victim.task, a)["attempts"]] == [1, 2]


def test_a_leader_killed_keeps_what_it_owns_until_it_is_back(mesh: Mesh, gated: Gated) -> None:
    a, b, c = mesh.start_all("a", "b", "c")
    job = mesh.ctl("submit", gated.sweep(5, on_lost="hold"), at=c)["job"]
    began = gated.until_began(3)
    a.kill()
    mesh.met_among([b, c])
    gated.open()
    until(lambda: mesh.client(b).job(job).status()["tasks"]["succeeded"] == 2, what="what the others ran has ended")
    waiting = [task for task in mesh.tasks(job, b) if task["state"] == "pending"]
    assert len(waiting) == 3
    assert all("a alone may grant it" in t["reason"] or "a was lost" in t["reason"] for t in waiting)
    assert len(gated.began()) == 3

    a.start()
    held = next(each for each in began if each.node == a.id)
    until(lambda: mesh.client(b).job(job).status()["tasks"]["succeeded"] == 4, what="the two that never began ran")
    assert len(gated.began()) == 5
    assert "a was lost while it may have run it" in the(mesh, job, held.task, b)["reason"]
