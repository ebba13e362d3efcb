"""Deleting jobs, with real daemons: what runs is not deleted, and what was deleted stays so."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh import MeshClient
from tests.e2e.mesh import Mesh, until
from tests.e2e.work import Gated

pytestmark = pytest.mark.e2e


def test_a_node_that_slept_through_a_deletion_brings_nothing_back(mesh: Mesh) -> None:
    """Not even the one that leads again after it: its own journal holds all of the job."""
    a, b, c = mesh.start_all("a", "b", "c")
    job = mesh.ctl("submit", "--param", "x", "1", "2", "3", "--wait", "--", "true", at=c)["id"]
    kept = mesh.ctl("submit", "--wait", "--", "true", at=c)["id"]
    until(lambda: b.status()["jobs"] == 2, what="the successor has it")
    a.kill()
    mesh.met(b, c)
    assert mesh.ctl("delete", job, at=c) == {"id": job, "tasks": 3}
    assert [each["id"] for each in mesh.ctl("jobs", at=c)] == [kept]
    a.start()
    mesh.met(a, b, c, leader=a, within=60)
    for node in (a, b, c):
        assert [each["id"] for each in mesh.ctl("jobs", at=node)] == [kept]
        assert "was deleted" in mesh.run("job", job, at=node, json_too=False).stderr
    for node in (a, b):
        until(lambda node=node: node.status()["jobs"] == 1, what=f"{node.name} knows one job")  # type: ignore[misc]
    assert mesh.ctl("tasks", at=a)[0]["job"] == kept
    a.kill()
    a.start()
    until(lambda: a.status()["jobs"] == 1, what="its own journal says so, too")


def test_what_runs_is_not_deleted_and_is_once_it_was_cancelled(mesh: Mesh, tmp_path: Path) -> None:
    a = mesh.start("a")
    gated = Gated(tmp_path)
    job = mesh.ctl("submit", gated.sweep(2), at=a)["job"]
    gated.until_began(1)
    refused = mesh.run("delete", job, at=a, json_too=False)
    assert refused.stderr == (
        f"meshctl: job {job} cannot be deleted; 2 of its 2 tasks have not ended; cancel it first: "
        f"`meshctl cancel {job}`\n"
    )
    assert mesh.ctl("job", job, at=a)["state"] == "running"
    mesh.ctl("cancel", job, at=a)
    with MeshClient(a.socket) as client:
        assert len(client.peers()) == 1
    assert mesh.ctl("delete", job, at=a) == {"id": job, "tasks": 2}
    assert mesh.ctl("jobs", at=a) == []
    assert mesh.ctl("delete", job, at=a) == {"id": job, "tasks": 0}  # again is no error
    gated.open()
    until(lambda: mesh.peers(a)[0]["free_slots"] == 1, what="what ran of it was stopped")
