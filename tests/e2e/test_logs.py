"""What finished attempts printed, after their machines have gone."""

from __future__ import annotations

from tests.e2e.mesh import Daemon, Mesh, until


def printed(mesh: Mesh, a: Daemon) -> str:
    """A task that ran on b, once two nodes have what it printed."""

    def says() -> None:
        for n in range(3):
            print(f"line {n}")

    future = mesh.client(a).submit(says, resources={"labels": {"is": "b"}})
    future.result(30)

    until(lambda: [len(row["nodes"]) for row in mesh.ctl("blobs", at=a)] == [2], what="its log is copied")
    return future.task_id


def test_logs_shows_it_after_the_machine_was_killed(mesh: Mesh) -> None:
    a = mesh.start("a", "--rank", "10")
    b = mesh.start("b", "--label", "is=b", peers=[a])
    mesh.met(a, b, leader=a)
    task = printed(mesh, a)
    assert mesh.run("logs", task, at=a).stdout == "line 0\nline 1\nline 2\n"
    b.kill()
    assert mesh.run("logs", task, at=a).stdout == "line 0\nline 1\nline 2\n"


def test_it_is_said_where_no_machine_that_has_it_is_here(mesh: Mesh) -> None:
    """The leader may keep no copy; who asks it learns which machine is to be started."""
    a = mesh.start("a", "--role", "leader", "--rank", "10", "--store", "8B")
    b = mesh.start("b", "--label", "is=b", peers=[a])
    c = mesh.start("c", peers=[a])
    mesh.met(a, b, c, leader=a)
    task = printed(mesh, a)
    c.kill()
    b.kill()
    until(lambda: [peer["state"] for peer in mesh.peers(a)].count("alive") == 1, what="both are gone")
    failed = mesh.run("logs", task, at=a)
    assert failed.returncode == 1
    assert f"the output of {task} is on machines that are away; it ran on {b.id}" in failed.stderr
