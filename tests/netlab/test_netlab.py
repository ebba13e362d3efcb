"""Real daemons on hosts of their own, with real multicast between them, and what they do under each fault."""

from __future__ import annotations

import os
import time
from datetime import datetime
from pathlib import Path

import pytest

from tests.e2e.mesh import Daemon, Mesh, alive, until
from tests.e2e.work import Began, Gated
from tests.netlab.disks import EXT4, TMPFS, can_break
from tests.netlab.lab import lab

pytestmark = pytest.mark.netlab

SILENCE = 5.0  # seconds: longer than silence is believed (2.2), shorter than work is given up (30)
GONE_BOUND, SILENT_BOUND = 5.0, 8.0  # seconds until another leads: 0.3 and 2.5 when idle, on 2 loaded cores more


@pytest.fixture
def gated(tmp_path: Path) -> Gated:
    return Gated(tmp_path)


def runs(mesh: Mesh, at: Daemon) -> str:
    """A small job, submitted and finished there: its id."""
    return str(mesh.ctl("submit", "--wait", "--", "true", at=at)["id"])


def running(mesh: Mesh, gated: Gated, leader: Daemon) -> list[Began]:
    """Six tasks that run, and of which the successors know: what now happens to the leader disturbs none of them."""
    began = gated.until_began(6)
    mesh.copied(leader, 2)
    return began


def led_again(mesh: Mesh, left: list[Daemon], since: float, bound: float) -> Daemon:
    """One of these leads, and has granted and accepted a task; within this many seconds."""
    leader = mesh.met_among(left)
    runs(mesh, leader)
    took = time.monotonic() - since
    print(f"led again and granted after {took:.1f} s")
    assert took < bound
    return leader


def undisturbed(mesh: Mesh, gated: Gated, began: list[Began], job: str, at: Daemon) -> None:
    """All that began still runs, ends when it may, and nothing was begun twice."""
    assert all(alive(each.pid) or gated.opened(each.x) for each in began)
    gated.open()
    assert mesh.until_state(job, "succeeded", at=at)["tasks"]["succeeded"] == len(began)
    assert len(gated.began()) == len(began)


def test_hosts_find_each_other_by_mdns(mesh: Mesh) -> None:
    with lab(3, mesh) as net:
        daemons = net.up()
        peers = {peer["id"]: peer["address"] for peer in mesh.ctl("peers", at=daemons[2])}
        assert peers == {net.daemons[name].id: f"{host.address}:7433" for name, host in net.hosts.items()}
        assert all("INSECURE" in daemon.said() for daemon in daemons)
        runs(mesh, daemons[1])


@pytest.mark.parametrize("which", ["a follower", "the leader"])
def test_cable_pulled_and_back(mesh: Mesh, gated: Gated, which: str) -> None:
    """Both sides go on by themselves; then there is one leader, and nothing of either side is lost or run twice."""
    with lab(3, mesh) as net:
        a, b, c = net.up()
        job = mesh.ctl("submit", gated.sweep(6), at=a)["job"]
        began = running(mesh, gated, a)
        gone, left = (c, [a, b]) if which == "a follower" else (a, [b, c])

        net.unplug(gone.name)
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
        time.sleep(max(0.0, pulled + SILENCE - time.monotonic()))
        net.heal()
        healed = time.monotonic()

        mesh.met(a, b, c)
        print(f"one group again {time.monotonic() - healed:.1f} s after the cable was back")
        undisturbed(mesh, gated, began, job, b)
        for other in jobs:
            for daemon in (a, b, c):
                assert mesh.until_state(other, "succeeded", at=daemon)["tasks"]["succeeded"] == 1


def test_host_destroyed(mesh: Mesh, gated: Gated) -> None:
    """As by a power cut: nobody answers any more, not even to say so. After 30 s its task runs elsewhere."""
    with lab(3, mesh) as net:
        a, b, c = net.up()
        job = mesh.ctl("submit", gated.sweep(6), at=a)["job"]
        began = running(mesh, gated, a)
        net.power_off("c")
        destroyed = time.monotonic()
        gated.open()
        assert mesh.until_state(job, "succeeded", at=b, within=45)["tasks"]["succeeded"] == 6
        print(f"done {time.monotonic() - destroyed:.1f} s after the host was destroyed")
        tasks = {task["id"]: task for task in mesh.tasks(job, a)}
        for each in began:
            states = [attempt["state"] for attempt in tasks[each.task]["attempts"]]
            assert states == (["lost", "succeeded"] if each.node == c.id else ["succeeded"])


def test_leader_killed(mesh: Mesh, gated: Gated) -> None:
    """Another leads and grants within the bound; what ran on the others runs on; the job ends once it is back."""
    with lab(3, mesh) as net:
        a, b, c = net.up(slots=4)  # beside what died with the leader there is room for one more
        job = mesh.ctl("submit", gated.sweep(6), at=a)["job"]
        began = running(mesh, gated, a)
        survived = [each for each in began if each.node != a.id]
        net.kill("a")
        led_again(mesh, [b, c], time.monotonic(), GONE_BOUND)
        assert all(alive(each.pid) for each in survived)
        net.restart("a")
        mesh.met(a, b, c)
        gated.open()
        assert mesh.until_state(job, "succeeded", at=b)["tasks"]["succeeded"] == 6
        again = gated.began()
        assert all(each in again for each in survived)
        assert len(again) == 6 + len(began) - len(survived)  # only what died with its machine began twice


def test_daemon_stopped_and_going_on(mesh: Mesh, gated: Gated) -> None:
    """SIGSTOP: connections stand and nobody answers. It is replaced, and follows when it goes on."""
    with lab(3, mesh) as net:
        a, b, c = net.up(slots=3)
        job = mesh.ctl("submit", gated.sweep(6), at=a)["job"]
        began = running(mesh, gated, a)
        net.pause("a")
        led_again(mesh, [b, c], time.monotonic(), SILENT_BOUND)
        net.resume("a")
        mesh.met(a, b, c)
        undisturbed(mesh, gated, began, job, c)


def test_one_way_link(mesh: Mesh, gated: Gated) -> None:
    """The leader is heard by a follower and does not hear it: the group works on, under one leader."""
    with lab(3, mesh) as net:
        a, b, c = net.up()
        job = mesh.ctl("submit", gated.sweep(6), at=a)["job"]
        began = running(mesh, gated, a)
        term = a.status()["term"]
        net.one_way("a", "c")
        time.sleep(SILENCE)
        gated.open(next(each.x for each in began if each.node == b.id))
        runs(mesh, b)
        leading = [daemon.name for daemon in (a, b, c) if daemon.status()["leading"]]
        print(f"leading under the one-way link: {leading}, term {a.status()['term']} after {term}")
        assert len(leading) == 1
        net.heal()
        mesh.met(a, b, c)
        undisturbed(mesh, gated, began, job, c)


def yields(mesh: Mesh, daemons: list[Daemon]) -> str:
    """The first of these leads no more, another does and works, and nobody is gone. Why, by what all are told."""
    bad, *others = daemons

    def another() -> Daemon | None:
        mesh.begin("submit", "--", "true", at=others[0])  # a journal that has nothing to write does not find out
        return next((daemon for daemon in others if daemon.status()["leading"]), None)

    leader = until(another, what="another leads")
    assert leader is not None
    runs(mesh, leader)
    peer = next(peer for peer in mesh.peers(leader) if peer["id"] == bad.id)
    assert peer["state"] == "alive"  # its heartbeats wait for no disk
    return str(peer["reason"])


def test_disk_of_the_leader_full(mesh: Mesh, gated: Gated) -> None:
    """It yields and says why; with room again it is one of them, and nothing is lost."""
    with lab(3, mesh, disk=TMPFS) as net:
        a, b, c = net.up(slots=3)
        job = mesh.ctl("submit", gated.sweep(6), at=a)["job"]
        began = running(mesh, gated, a)
        net.disks["a"].fill()
        why = yields(mesh, [a, b, c])
        assert "journal cannot be written" in why
        assert "full" in why
        net.disks["a"].empty()
        mesh.met(a, b, c)
        undisturbed(mesh, gated, began, job, b)


def test_disk_of_the_leader_stands_still(mesh: Mesh, gated: Gated, tmp_path: Path) -> None:
    """No fsync returns: after 5 s it yields, and it still answers; once they return it is one of them."""
    if not can_break(tmp_path):
        pytest.skip("this machine has no loop devices with ext4")
    with lab(3, mesh, disk=EXT4) as net:
        a, b, c = net.up(slots=3)
        job = mesh.ctl("submit", gated.sweep(6), at=a)["job"]
        began = running(mesh, gated, a)
        net.disks["a"].stall()
        assert "did not sync for 5 s" in yields(mesh, [a, b, c])
        assert not a.status()["leading"]
        net.disks["a"].go_on()
        mesh.met(a, b, c)
        undisturbed(mesh, gated, began, job, b)


def test_disk_of_the_leader_turns_read_only(mesh: Mesh, gated: Gated, tmp_path: Path) -> None:
    """It yields; what was acknowledged is on another disk. Mended and started again it has all of it, too."""
    if not can_break(tmp_path):
        pytest.skip("this machine has no loop devices with ext4")
    with lab(3, mesh, disk=EXT4) as net:
        a, b, c = net.up(slots=3)
        job = mesh.ctl("submit", gated.sweep(6), at=a)["job"]
        began = running(mesh, gated, a)
        net.disks["a"].break_()
        assert "journal cannot be written" in yields(mesh, [a, b, c])
        net.kill("a")
        net.disks["a"].mend()
        net.restart("a")
        mesh.met(a, b, c)
        gated.open()
        for daemon in (a, b, c):
            assert mesh.until_state(job, "succeeded", at=daemon)["tasks"]["succeeded"] == 6
        again = gated.began()
        assert all(each in again for each in began if each.node != a.id)


def test_narrow_cable(mesh: Mesh) -> None:
    """A node behind 4 Mbit/s that submits 200 KB of tasks stays a member: heartbeats find their way between them."""
    with lab(3, mesh) as net:
        a, _, c = net.up()
        net.limit("c", "4mbit")
        term = a.status()["term"]
        client = mesh.client(c)
        futures = [client.submit(len, "x" * 1000) for _ in range(200)]
        seen = set()
        while not all(future.done() for future in futures):
            seen |= {peer["state"] for peer in mesh.peers(a)}
            time.sleep(0.2)
        assert [future.result() for future in futures] == [1000] * 200
        assert seen == {"alive"}
        assert (a.status()["leading"], a.status()["term"]) == (True, term)


def test_clocks_that_disagree(mesh: Mesh) -> None:
    """An hour apart, and one of them jumps: no time of one machine is ever compared with another's."""
    with lab(2, mesh, clocks=True) as net:
        net.skew("b", 3600)
        a, b = net.up()
        ready = next(line for line in b.said().splitlines() if " ready: " in line)
        assert datetime.fromisoformat(ready.split()[0]).timestamp() - time.time() > 3500
        runs(mesh, b)
        net.skew("a", -7200)
        time.sleep(1.5)  # until the clock has jumped and a heartbeat has passed
        runs(mesh, a)
        mesh.met(a, b, leader=a)


def test_narrow_cable_full_of_chunks(mesh: Mesh, tmp_path: Path) -> None:
    """A node behind 4 Mbit/s that fetches 3 MiB for six seconds stays a member, and its leader takes its calls."""
    (tmp_path / "file").write_bytes(os.urandom(3 << 20))
    with lab(3, mesh) as net:
        a, _, c = net.up()
        put = mesh.ctl("put", str(tmp_path / "file"), "--copies", "1", at=a)
        net.limit("c", "4mbit")
        term = a.status()["term"]
        getting = mesh.begin("get", put["id"], str(tmp_path / "got"), at=c)
        seen = set()
        while getting.poll() is None:
            seen |= {peer["state"] for peer in mesh.peers(a)}
            time.sleep(0.2)
        assert (tmp_path / "got").read_bytes() == (tmp_path / "file").read_bytes()
        assert seen == {"alive"}
        assert a.status()["term"] == term
