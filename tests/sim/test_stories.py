"""Worlds written by hand: what the design promises in the situations that people meet, with numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest

from mesh.core.events import AddressFound
from mesh.core.ids import NO_CLAIM, Life, NodeId
from mesh.core.lattice import Retries, Shape
from mesh.core.ledger import DONE
from tests.sim.endings import judge, unsettled
from tests.sim.faults import Faults
from tests.sim.invariants import Watcher
from tests.sim.plans import HostPlan, JobPlan, Plan, hosts_of, job_of
from tests.sim.world import Host, World

FAILOVER = 3.0  # seconds from the loss of a leader to the first grant of the next one
PAUSE = 0.100  # without a grant while the leadership is handed over
SETTLE = 10.0


class Story:
    """A world whose faults a test strikes itself, one after another."""

    def __init__(self, *hosts: HostPlan, settle: float = SETTLE, seed: int = 0, discovery: bool = True) -> None:
        self.jobs: list[JobPlan] = []
        kinds = (
            job_of(name, 1, seconds=seconds) for name, seconds in (("quick", 0.02), ("short", 0.3), ("long", 20.0))
        )
        self.world = World(seed, Plan(hosts, tuple(kinds), settle=settle, discovery=discovery))
        self.world.most_steps = 1_000_000  # an hour of heartbeats is no livelock
        self.faults, self.watcher = Faults(self.world), Watcher(self.world)
        self.followed: list[tuple[float, str, str]] = []  # since when, who, whom; who follows itself leads
        self._followed: dict[Life, NodeId] = {}
        self.granted: list[tuple[float, Host]] = []
        self.world.after_step.append(self._listen)
        for host in self.world.hosts:
            self.world.at(host.plan.joins_at, self.world.start, host)

    def _listen(self, host: Host, _event: object, effects: list[object]) -> None:
        for effect in effects:
            kind = type(effect).__name__
            if kind == "LeaderChanged" and effect.claim.leader:  # type: ignore[attr-defined]
                leader = effect.claim.leader  # type: ignore[attr-defined]
                if self._followed.get(host.life) != leader:
                    self.followed.append(
                        (self.world.now, host.name, next(h.name for h in self.world.hosts if h.node == leader))
                    )
                self._followed[host.life] = leader
            elif kind == "BeginAttempts":
                self.granted.append((self.world.now, host))

    def submit(self, kind: str, tasks: int, name: str = "") -> list[str]:
        """A job of that kind; the ids of its tasks."""
        name = name or f"job{len(self.world.clients.jobs)}"
        shape = Shape(kind=f"kind-{kind}", retries=Retries(max=3, backoff_ms=100))
        job = job_of(name, tasks, shape)
        self.world.clients.submit(job.job, job.tasks)
        return [task.id for task in job.tasks]

    def run(self, seconds: float) -> None:
        self.world.run_until(self.world.now + seconds)
        assert not self.world.violations, self.world.violations

    def until(self, what: Callable[[], object], limit: float) -> float:
        """How long it took."""
        since = self.world.now
        assert self.world.run_until(since + limit, lambda: bool(what()), every=0.005), f"not within {limit} s"
        assert not self.world.violations, self.world.violations
        return self.world.now - since

    def leader(self) -> Host:
        (leader,) = (host for host in self.world.leaders() if host.up)
        return leader

    def united(self) -> bool:
        """Everybody who is up follows one established leader."""
        claims = {host.machine.election.announced() for host in self.world.hosts if host.up and host.machine}
        return len(claims) == 1 and claims != {NO_CLAIM} and next(iter(claims)).established

    def taken_since(self, when: float) -> list[str]:
        """Who took the leadership since then; who leads on, or leads again, did not take it."""
        return [leader for at, who, leader in self.followed if at >= when and who == leader]

    def led_by(self, name: str) -> bool:
        return self.united() and self.leader().name == name

    def done(self, tasks: list[str]) -> bool:
        leaders = [host.machine for host in self.world.leaders() if host.up and host.machine is not None]
        known = leaders[0].ledger.tasks if len(leaders) == 1 else {}
        return all(task in known and known[task].state == DONE for task in tasks)

    def begun_twice(self, tasks: list[str]) -> list[str]:
        return [task for task in tasks if self.world.runners.tries.get(task, 0) != 1]

    def end(self) -> None:
        """Nothing was lost, and nothing is left to do."""
        self.world.run_until(self.world.now + 90.0, lambda: not unsettled(self.world))
        assert not unsettled(self.world)
        judge(self.world)
        assert not self.world.violations, self.world.violations


def test_a_leader_is_killed_in_a_sweep_and_comes_back() -> None:
    story = Story(*hosts_of(4))
    story.until(story.united, 4.0)
    tasks = story.submit("long", 5) + story.submit("short", 30)  # a slot stays for more
    story.run(3.0)
    leader, others = story.leader(), [host for host in story.world.hosts if host is not story.leader()]
    assert leader.name == "h0"
    running = {task for host in others for task in story.world.runners.tasks(host)}
    assert running, "some of it runs on other nodes"
    killed = story.world.now
    story.world.crash(leader)
    more = story.submit("short", 2)
    story.until(lambda: any(story.world.runners.tries.get(task) for task in more), FAILOVER)
    assert story.taken_since(killed) == ["h1"]
    story.run(2.0)
    story.world.start(leader)
    story.until(lambda: story.done(tasks + more), 120.0)
    assert not story.begun_twice(sorted(running)), "what ran on other nodes ran on"
    story.end()


def test_a_lower_id_that_returns_settles_and_the_dispatch_pauses_for_less_than_100_ms() -> None:
    story = Story(*hosts_of(3))
    story.until(story.united, 4.0)
    story.submit("quick", 3)
    story.run(1.0)
    story.world.crash(story.leader())
    story.run(5.0)
    assert story.leader().name == "h1"
    returned = story.world.now
    story.world.start(story.world.hosts[0])
    story.run(SETTLE - 1.0)
    tasks = story.submit("quick", 1200)
    story.until(lambda: story.led_by("h0"), SETTLE + 5.0)
    asked = max(at for at, who, leader in story.followed if who == leader == "h0")
    assert SETTLE <= asked - returned < SETTLE + 3.0
    story.run(3.0)
    began = [at for at, _host in story.granted if asked - 1.0 < at < asked + 1.0]
    assert max(later - at for at, later in pairwise(began)) < PAUSE
    assert story.taken_since(returned + 1.0) == ["h0"], "one settle, one yield"
    story.until(lambda: story.done(tasks), 60.0)
    story.end()


def test_a_one_way_link_to_a_follower_changes_nothing() -> None:
    story = Story(*hosts_of(4))
    story.until(story.united, 4.0)
    tasks = story.submit("short", 40)
    since = story.world.now
    story.faults.cut({0}, {3}, 60.0, both=False)
    story.run(55.0)
    assert story.taken_since(since) == [], "h3 does not hear the leader, and knows that others do"
    assert story.done(tasks)
    story.run(15.0)
    assert story.united()
    assert story.taken_since(since) == []
    story.end()


def test_a_leader_that_nobody_hears_is_replaced_once() -> None:
    story = Story(*hosts_of(4))
    story.until(story.united, 4.0)
    since = story.world.now
    story.faults.cut({0}, {1, 2, 3}, 60.0, both=False)
    story.until(lambda: "h1" in story.taken_since(since), FAILOVER)
    story.run(20.0)
    quiet = story.world.now
    story.run(30.0)
    assert story.taken_since(quiet) == [], "it does not livelock"
    assert sorted(host.name for host in story.world.leaders()) in (["h1"], ["h0", "h1"])
    story.run(SETTLE + 15.0)
    assert story.united()
    story.end()


def test_two_sides_that_do_not_see_each_other_have_one_leader_by_a_node_that_both_see() -> None:
    story = Story(*hosts_of(5))
    story.until(story.united, 4.0)
    story.faults.cut({0, 1}, {3, 4}, 60.0)
    story.run(15.0)
    since = story.world.now
    tasks = story.submit("short", 10)
    story.run(40.0)
    assert len(story.world.leaders()) == 1
    assert story.taken_since(since) == []
    assert story.done(tasks)
    story.run(20.0)
    story.end()


@pytest.mark.parametrize("role", ["auto", "worker"])
def test_what_a_leader_accepted_that_stepped_down_out_of_reach_is_carried_by_a_node_that_both_see(role: str) -> None:
    one, other, between = hosts_of(3)
    story = Story(one, other, replace(between, role=role))
    story.until(story.united, 4.0)
    tasks = story.submit("long", 4)
    story.run(18.0)
    alone = [task for task in tasks if task in story.world.runners.tasks(story.leader())]
    assert alone, "some of it runs on the leader"
    story.faults.cut({0}, {1}, 60.0)
    story.faults.cut({0}, {2}, 5.0)
    story.run(5.0)
    assert [host.name for host in story.world.leaders()] == ["h0", "h1"], "it accepted what ended there"
    story.until(lambda: story.done(alone), 6.0)
    assert story.leader().name == "h1"
    story.run(35.0)
    assert not story.begun_twice(alone), "though its node was out of the leader's sight for longer than lost_after"
    story.run(20.0)
    story.end()


def test_a_laptop_that_was_an_island_for_an_hour_disturbs_nobody() -> None:
    laptop, *others = hosts_of(4)  # it has the lowest id
    story = Story(laptop, *others)
    story.until(story.united, 4.0)
    assert story.leader().name == "h0"
    story.faults.cut({0}, {1, 2, 3}, 3600.0)
    story.run(5.0)
    alone = story.submit("short", 4)
    story.run(3590.0)
    together = story.submit("short", 12)
    story.run(4.5)
    healed = story.world.now
    story.run(8.0)
    assert story.taken_since(healed + 0.5) == [], "who leads more members stays"
    assert story.leader().name == "h1"
    story.until(lambda: story.done(alone + together), 30.0)
    story.until(lambda: story.led_by("h0"), 3 * SETTLE)  # it had lost one leadership: twice the time
    assert story.world.now - healed > 2 * SETTLE - 1.0
    story.end()


def test_a_laptop_that_slept_for_an_hour_leads_nobody_on_waking() -> None:
    story = Story(*hosts_of(3))
    story.until(story.united, 4.0)
    story.world.sleep(story.leader(), 3600.0, frozen=False)
    story.run(30.0)
    assert story.leader().name in ("h0", "h1")
    tasks = story.submit("short", 8)
    story.run(3565.0)
    woke = story.world.now
    story.run(15.0)
    assert story.united()
    assert story.leader().name == "h1"
    assert not story.begun_twice(tasks)
    assert story.taken_since(woke + 6.0) == []
    story.until(lambda: story.led_by("h0"), 3 * SETTLE)
    story.end()


def test_two_young_groups_merge_with_their_jobs() -> None:
    story = Story(*hosts_of(6), discovery=False)
    groups = ((0, 1, 2), (3, 4, 5))
    story.faults.cut({0, 1, 2}, {3, 4, 5}, 12.0)
    story.run(0.5)
    for group in groups:
        for index in group:
            story.world.feed(story.world.hosts[index], AddressFound(story.world.hosts[group[0]].address))
    story.run(6.0)
    assert sorted(host.name for host in story.world.leaders()) == ["h0", "h3"]
    tasks = [*story.submit("short", 6, "one"), *story.submit("short", 6, "other")]
    story.run(6.0)
    story.world.feed(story.world.hosts[5], AddressFound(story.world.hosts[2].address))
    story.until(lambda: story.united() and len(story.world.leaders()) == 1, 10.0)
    story.until(lambda: story.done(tasks), 30.0)
    meshes = {machine.ledger.mesh_ids() for host in story.world.hosts if (machine := host.machine) is not None}
    assert len({ids[0] for ids in meshes}) == 1, "they are of one mesh now, which has the lower id"
    story.end()


def test_a_flapping_node_does_not_flap_the_mesh() -> None:
    story = Story(*hosts_of(4), settle=2.0)
    story.until(story.united, 4.0)
    flapping = story.world.hosts[0]
    for _ in range(6):
        story.world.crash(flapping)
        story.run(1.0)
        story.world.start(flapping)
        story.run(1.5)
    since = story.world.now
    for _ in range(8):  # the same life, on and off the network
        story.faults.cut({0}, {1, 2, 3}, 3.0)
        story.run(9.0)
    returns = [at for at, who, leader in story.followed if at >= since and (who, leader) == ("h1", "h0")]
    assert 1 <= len(returns) <= 2, f"others followed it {len(returns)} times in 8 turns; it settles longer each time"
    story.run(2.0 * 2**6)
    story.end()


def test_of_two_lives_of_one_identity_exactly_one_stays() -> None:
    story = Story(*hosts_of(4))
    story.until(story.united, 4.0)
    original = story.world.hosts[2]
    story.faults.copy(original)
    copy = story.world.hosts[-1]
    took = story.until(lambda: copy.exited or original.exited, 10.0)
    assert took < 10.0
    assert copy.exited
    assert "--new-id" in copy.exited
    assert not original.exited
    story.run(0.1)
    story.world.new_id(copy)
    story.world.start(copy)
    story.run(5.0)
    assert story.united()
    story.end()


def test_a_disk_that_is_stuck_deposes_nobody_for_five_seconds_and_then_its_leader_yields() -> None:
    story = Story(*hosts_of(3))
    story.until(story.united, 4.0)
    leader = story.leader()
    leader.disk.stuck_until = story.world.now + 30.0
    tasks = story.submit("short", 12)
    since = story.world.now
    story.run(4.5)
    assert story.taken_since(since) == []
    assert any(at > since for at, _ in story.granted), "grants do not wait for the disk"
    assert not story.world.clients.acknowledged, "acknowledgements do"
    story.until(lambda: story.taken_since(since) == ["h1"], 3.0)
    story.until(lambda: story.done(tasks), 60.0)
    story.until(lambda: story.taken_since(since) == ["h1", "h0"], 60.0)  # the disk works again, and for long enough
    story.end()


def test_a_worker_that_is_destroyed_loses_only_what_ran_there() -> None:
    worker = replace(hosts_of(4)[3], role="worker")
    story = Story(*hosts_of(3), worker)
    story.until(story.united, 4.0)
    tasks = story.submit("long", 8)
    story.run(2.0)
    lost = story.world.runners.tasks(story.world.hosts[3])
    assert lost
    struck = story.world.now
    story.world.crash(story.world.hosts[3], power=False)
    story.world.hosts[3].destroyed = True
    story.run(29.0)
    assert all(story.world.runners.tries[task] == 1 for task in lost), "it may be back within lost_after"
    story.until(lambda: story.done(tasks), 120.0)
    again = story.begun_twice(tasks)
    assert set(again) == lost
    assert story.world.now - struck < 100.0
    story.end()
