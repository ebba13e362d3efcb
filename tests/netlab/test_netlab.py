"""Real daemons on hosts of their own, with real multicast between them: cables pulled, hosts destroyed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.e2e.mesh import Daemon, Mesh, alive, until
from tests.e2e.work import Gated
from tests.netlab.lab import Host, Lab

pytestmark = pytest.mark.netlab

UNPLUGGED = 5.0  # seconds: longer than silence is believed (2.2), shorter than work is given up (30)


@pytest.fixture
def gated(tmp_path: Path) -> Gated:
    return Gated(tmp_path)


def start(mesh: Mesh, host: Host, name: str, *flags: str, slots: int = 2) -> Daemon:
    where = ("--listen", host.address, "--insecure")
    return mesh.start(name, *where, *flags, mdns=True, slots=slots, before=host.before)


def three(mesh: Mesh, lab: Lab) -> tuple[list[Host], list[Daemon]]:
    """On a host each, found by mDNS alone, led by the first."""
    hosts = lab.hosts(3)
    a = start(mesh, hosts[0], "a", "--rank", "10")
    a.ready()  # or the others have met before it is there, and it leads only after 10 s
    b, c = start(mesh, hosts[1], "b"), start(mesh, hosts[2], "c")
    mesh.met(a, b, c, leader=a)
    return hosts, [a, b, c]


def runs(mesh: Mesh, at: Daemon) -> str:
    """A small job, submitted and finished there: its id."""
    return str(mesh.ctl("submit", "--wait", "--", "true", at=at)["id"])


def test_hosts_find_each_other_by_mdns(mesh: Mesh, lab: Lab) -> None:
    hosts, daemons = three(mesh, lab)
    peers = {peer["id"]: peer["address"] for peer in mesh.ctl("peers", at=daemons[2])}
    assert peers == {daemon.id: f"{host.address}:7433" for daemon, host in zip(daemons, hosts, strict=True)}
    assert all("INSECURE" in daemon.said() for daemon in daemons)
    runs(mesh, daemons[1])


@pytest.mark.parametrize("which", ["a follower", "the leader"])
def test_cable_pulled_and_back(mesh: Mesh, lab: Lab, gated: Gated, which: str) -> None:
    """Both sides go on by themselves; then there is one leader, and nothing of either side is lost or run twice."""
    hosts, (a, b, c) = three(mesh, lab)
    job = mesh.ctl("submit", gated.sweep(6), at=a)["job"]
    began = gated.until_began(6)
    gone, host, left = (c, hosts[2], [a, b]) if which == "a follower" else (a, hosts[0], [b, c])

    host.unplug()
    pulled = time.monotonic()
    leader = mesh.met_among(left)
    print(f"led again {time.monotonic() - pulled:.1f} s after the cable was pulled")
    until(lambda: gone.status()["leading"] and gone.status()["alive"] == 1, what="the island leads itself")
    for side in (leader, gone):  # a task ends meanwhile on either side, and its slot is free for another job
        gated.open(next(each.x for each in began if each.node == side.id))
    jobs = [runs(mesh, leader), runs(mesh, gone)]
    peers = {peer["id"]: peer for peer in mesh.ctl("peers", at=leader)}
    assert peers[gone.id]["state"] == "island"
    assert "silent for" in peers[gone.id]["reason"]
    time.sleep(max(0.0, pulled + UNPLUGGED - time.monotonic()))
    host.plug()
    healed = time.monotonic()

    mesh.met(a, b, c)
    print(f"one group again {time.monotonic() - healed:.1f} s after the cable was back")
    assert all(alive(each.pid) or gated.opened(each.x) for each in began)
    gated.open()
    done = mesh.until_state(job, "succeeded", at=b)
    assert done["tasks"]["succeeded"] == 6
    assert len(gated.began()) == 6
    for other in jobs:
        for daemon in (a, b, c):
            assert mesh.until_state(other, "succeeded", at=daemon)["tasks"]["succeeded"] == 1


def test_host_destroyed(mesh: Mesh, lab: Lab, gated: Gated) -> None:
    """As by a power cut: nobody answers any more, not even to say so. After 30 s its task runs elsewhere."""
    hosts, (a, b, c) = three(mesh, lab)
    job = mesh.ctl("submit", gated.sweep(6), at=a)["job"]
    began = gated.until_began(6)
    hosts[2].unplug()
    destroyed = time.monotonic()
    c.kill()
    gated.open()
    assert mesh.until_state(job, "succeeded", at=b, within=45)["tasks"]["succeeded"] == 6
    print(f"done {time.monotonic() - destroyed:.1f} s after the host was destroyed")
    tasks = {task["id"]: task for task in mesh.tasks(job, a)}
    for each in began:
        states = [attempt["state"] for attempt in tasks[each.task]["attempts"]]
        assert states == (["lost", "succeeded"] if each.node == c.id else ["succeeded"])
