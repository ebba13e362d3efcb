"""Daemons that were told nothing of one another become one mesh."""

from __future__ import annotations

import pytest

from tests.e2e.mesh import Mesh, until

pytestmark = pytest.mark.e2e

FIELDS = {
    "id": str, "name": str, "role": str, "leader": bool, "state": str, "reason": str, "address": str, "devices": list,
    "slots": int, "free_slots": int, "bid": dict, "term": int, "version": str,
}  # fmt: skip


def test_three_meet_by_mdns_and_the_lowest_leads(mesh: Mesh) -> None:
    daemons = [mesh.start(name, mdns=True) for name in "abc"]
    mesh.met(*daemons)
    # At once, or after it has settled for 10 s where the others had met before it was there.
    leader = mesh.met(*daemons, leader=min(daemons, key=lambda daemon: daemon.id))
    assert all(daemon.status()["established"] for daemon in daemons)
    for daemon in daemons:
        peers = mesh.ctl("peers", at=daemon)
        assert [peer["id"] for peer in peers if peer["leader"]] == [leader.id]
        assert {peer["id"]: peer["state"] for peer in peers} == {d.id: "alive" for d in daemons}
        assert {peer["id"]: peer["address"] for peer in peers} == {d.id: d.address for d in daemons}
        for peer in peers:
            assert {name: type(peer[name]) for name in FIELDS} == FIELDS


def test_other_mesh_names_keep_apart(mesh: Mesh) -> None:
    one, other = mesh.start("a", mdns=True), mesh.start("b", mdns=True, mesh=f"{mesh.name}-other")
    also = mesh.start("c", mdns=True)
    mesh.met(one, also)  # by then mDNS has shown everyone to everyone
    mesh.met(other)
    assert other.status()["members"] == 1


def test_address_of_another_mesh_is_refused_and_shown(mesh: Mesh) -> None:
    one = mesh.start("a")
    other = mesh.start("b", mesh=f"{mesh.name}-other", peers=[one])
    [refused] = until(lambda: [peer for peer in mesh.peers(other) if peer["state"] == "refused"])
    assert refused["address"] == one.address
    assert mesh.name in refused["reason"]
    assert one.status()["members"] == other.status()["members"] == 1


def test_roles(mesh: Mesh) -> None:
    """A worker never leads, an observer neither leads nor works, a leader runs nothing."""
    leader = mesh.start("leads", "--role", "leader")
    worker = mesh.start("works", "--role", "worker", "--rank", "10", peers=[leader])
    observer = mesh.start("looks", "--role", "observer", "--rank", "05", peers=[leader])

    def met() -> bool:
        """The two that cannot lead hear the leader, and need not hear each other."""
        alive = {peer["id"]: peer["bid"] for peer in mesh.peers(leader) if peer["state"] == "alive"}
        follow = all(daemon.status()["leader"] == leader.id for daemon in (leader, worker, observer))
        return follow and alive.keys() == {leader.id, worker.id, observer.id} and alive[worker.id] is not None

    until(met, what="the leader hears both")
    job = mesh.ctl("submit", "--param", "x", "1", "2", "3", "--wait", "--", "true", at=observer)
    ran = {attempt["node"] for task in mesh.tasks(job["id"], leader) for attempt in task["attempts"]}
    assert ran == {worker.id}
