"""What holds of every matching, and that it decides as a plain one does that asks everybody every time."""

from __future__ import annotations

import copy
from collections import Counter
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.account import Account
from mesh.core.held import Place
from mesh.core.kept import Kept
from mesh.core.lattice import Resources, Shape, Task
from mesh.core.matching import Decision, fastest
from mesh.core.messages import Bid, Device, Offer
from mesh.core.needs import shares_of
from mesh.core.opening import opening
from mesh.core.params import Params
from mesh.core.ready import LEAST_WEIGHT, ClassKey, Loads, Ready, ResourceClass
from mesh.core.turn import GUESS_MICROS
from tests.core.bids import match

PARAMS = Params(allowance_tasks=12)
KINDS = ("tiny", "brief", "long", "new")
SHAPES = (
    Shape(kind="tiny"),
    Shape(kind="brief"),
    Shape(kind="long"),
    Shape(kind="new"),
    Shape((Resources(0),), kind="tiny"),
    Shape((Resources(2000, 3),), kind="brief"),
    Shape((Resources(4000),), kind="long"),
    Shape((Resources(3000, 5),), kind="new"),
    Shape((Resources(500, 0, 500, 4),), kind="long"),
    Shape((Resources(500, 0, 1000),), kind="tiny"),
    Shape((Resources(500, 0, 2000, 2), Resources(4000)), kind="long"),
    Shape((Resources(9000),), kind="new"),
)


class World(NamedTuple):
    bids: dict[str, Bid]
    open: list[tuple[str, int, float]]  # node, shape, since
    tasks: list[tuple[Task, int]]  # and priority
    limit: int
    paused: bool


@st.composite
def bids(draw: st.DrawFn) -> Bid:
    slots = draw(st.integers(1, 4))
    cores = draw(st.sampled_from((4000, slots * 1000, 8000)))
    memory = draw(st.sampled_from((12, 6)))
    devices = tuple(
        Device(f"cuda:{n}", "cuda", "card", 8, draw(st.sampled_from((8, 3)))) for n in range(draw(st.integers(0, 2)))
    )
    offer = Offer(
        slots, cores, memory, memory, devices, min_priority=draw(st.sampled_from((1, 1, 5))),
        unwilling=draw(st.sampled_from(("",) * 8 + ("battery",))),
    )  # fmt: skip
    free = draw(st.sampled_from((slots, slots, slots // 2)))
    known = draw(st.sets(st.sampled_from(KINDS[:3])))
    speeds = {"tiny": 5_000, "brief": 40_000, "long": draw(st.sampled_from((100_000, 20_000_000)))}
    return Bid(
        offer, free, cores * free // slots, memory, tuple((d.id, draw(st.sampled_from((1000, 500)))) for d in devices),
        draw(st.sampled_from((50, 0))), tuple((kind, speeds[kind]) for kind in sorted(known)),
    )  # fmt: skip


@st.composite
def worlds(draw: st.DrawFn) -> World:
    nodes = {f"n{number}": draw(bids()) for number in range(draw(st.integers(2, 4)))}
    some = draw(st.lists(st.integers(0, len(SHAPES) - 1), min_size=1, max_size=4, unique=True))
    places = st.tuples(st.sampled_from(sorted(nodes)), st.integers(0, 7), st.sampled_from((0.0, 4.0)))
    each = st.tuples(st.integers(0, 2), st.sampled_from(some), st.sampled_from((5, 5, 5, 4, 6)))
    tasks = [
        (Task(f"t{at:02}", f"j{job}", at, "", SHAPES[what], b""), priority)
        for at, (job, what, priority) in enumerate(draw(st.lists(each, min_size=6, max_size=24)))
    ]
    return World(nodes, draw(st.lists(places, max_size=3)), tasks, draw(st.sampled_from((0, 3))), draw(st.booleans()))


def build(world: World, backwards: bool = False) -> tuple[Ready, Loads, dict[str, Account]]:
    ready, loads = Ready(), Loads()
    step = -1 if backwards else 1
    accounts = {node: Account(node, world.bids[node]) for node in list(world.bids)[::step]}
    for number, (node, what, since) in enumerate(world.open):
        accounts[node].hold(f"old{number}", "j1", SHAPES[what], 0, (), since)
        loads.opened("j1", SHAPES[what].alternatives[0])
    for node, each in world.bids.items():
        accounts[node].apply_bid(each._replace(speeds=()))
    for task, priority in world.tasks[::step]:
        ready.push(task, priority, int(task.job[1]))
    ready.limit("j0", world.limit)
    ready.pause("j2", world.paused)
    return ready, loads, accounts


NOW = 5.0


def outcome(decisions: list[Decision]) -> list[tuple[str, str, Place]]:
    return [(decision.task.id, decision.node, decision.place) for decision in decisions]


def plain(ready: Ready, loads: Loads, accounts: dict[str, Account]) -> list[tuple[str, str, Place]]:
    """The first round, by asking every node for every task. Keeps nodes by the same rule, told as plainly."""
    granted: list[tuple[str, str, Place]] = []
    done: set[ResourceClass] = set()
    blocked: set[tuple[Shape, int]] = set()
    nodes = sorted(accounts)
    while True:
        left = [cls for cls in ready.classes(loads) if cls not in done]
        # Nodes that could take nothing of any shape end a round; what is kept then matters to nobody.
        if not left or all(accounts[node].shut(PARAMS.allowance_tasks) for node in nodes):
            return granted
        cls = left[0]
        if ready.limit_of(cls.job) and loads.count(cls.job) >= ready.limit_of(cls.job):
            done.add(cls)
            continue
        guess = fastest(accounts.values(), cls.shape.kind)
        rooms = []
        for node in nodes:
            account = accounts[node]
            suit = account.suits(cls.shape, cls.priority)
            if account.away() is None and suit.why is None:
                place = account.place(
                    cls.shape, suit.alternatives, GUESS_MICROS if guess is None else guess, PARAMS.allowance_tasks, NOW
                )  # fmt: skip
                if isinstance(place, Place):
                    rooms.append(((place.late, place.alternative, place.micros, node), place))
        if rooms:
            (_late, _alternative, _micros, node), place = min(rooms, key=lambda room: room[0])
            task = ready.pop(cls)
            accounts[node].take(task.id, cls.job, cls.shape, place, NOW)
            loads.opened(cls.job, cls.shape.alternatives[place.alternative])
            granted.append((task.id, node, place))
            continue
        done.add(cls)
        if (cls.shape, cls.priority) not in blocked and len(left) > 1:
            blocked.add((cls.shape, cls.priority))
            keep(cls, [accounts[node] for node in nodes])


def keep(cls: ResourceClass, accounts: list[Account]) -> None:
    options = []
    for account in accounts:
        suit = account.suits(cls.shape, cls.priority)
        if account.away() is None and account.kept is None and suit.why is None:
            if account.flows(cls.shape, suit.alternatives):
                return
            for index in suit.alternatives:
                found = opening(account, cls.shape.alternatives[index], account.entered, NOW)
                soon = found.missing if found.starts is None else found.starts
                options.append((found.starts is None, soon, account.node, index, account, found))
    if options:
        _unknown, _soon, _node, index, account, found = min(options, key=lambda option: option[:4])
        key = ClassKey(cls.job, cls.shape, cls.priority, cls.own)
        account.keep(Kept(key, index, account.entered, found))


@settings(max_examples=200, deadline=None)
@given(worlds())
def test_the_same_as_a_plain_matching(world: World) -> None:
    assert outcome(match(*build(world), PARAMS, NOW)) == plain(*build(world))


@settings(max_examples=60, deadline=None)
@given(worlds())
def test_no_order_of_tables_or_arrivals_changes_a_decision(world: World) -> None:
    first, second = build(world), build(world, backwards=True)
    decisions = match(*first, PARAMS, NOW)
    assert outcome(decisions) == outcome(match(*second, PARAMS, NOW))
    kept = [[(node, a.kept.holder) for node, a in sorted(each[2].items()) if a.kept] for each in (first, second)]
    assert kept[0] == kept[1]
    assert [d.explain() for d in decisions] == [d.explain() for d in match(*build(world), PARAMS, NOW)]


@settings(max_examples=100, deadline=None)
@given(worlds())
def test_never_more_than_a_bid_offers(world: World) -> None:
    ready, loads, accounts = build(world)
    before = copy.deepcopy(accounts)
    decisions = match(ready, loads, accounts, PARAMS, NOW)
    for node, each in world.bids.items():
        here = [decision for decision in decisions if decision.node == node]
        begin = [d.task.shape.alternatives[d.alternative] for d in here if not d.place.queued]
        queued = [d for d in here if d.place.queued]
        if here:
            assert not each.offer.unwilling
            assert all(each.offer.min_priority <= 6 for d in here)
        assert len(begin) <= each.free_slots
        assert sum(need.millicpus for need in begin) <= each.free_millicpus
        assert sum(need.memory for need in begin) <= each.free_memory
        assert len(queued) <= PARAMS.allowance_tasks
        assert len(before[node]) + len(here) <= each.offer.slots + PARAMS.allowance_tasks or not here
        speeds = dict(each.speeds)
        for d in queued:
            need = d.task.shape.alternatives[d.alternative]
            assert need.millicpus <= each.offer.millicpus
            assert need.memory <= each.offer.memory
            assert speeds.get(d.task.shape.kind, 0) <= each.allowance_ms * 1000
        assert sum(d.task.shape.kind not in speeds for d in queued) <= 1
        work = sum(speeds.get(d.task.shape.kind, 0) for d in queued)
        # What runs has left the queue, so each slot may have one task more than its allowance of work.
        assert work <= each.offer.slots * (each.allowance_ms * 1000 + 40_000)
        shares: Counter[str] = Counter()
        memory: Counter[str] = Counter()
        for d in here:
            need = d.task.shape.alternatives[d.alternative]
            if d.devices and not d.place.queued:
                assert len(set(d.devices)) == len(d.devices)
                shares.update(dict(zip(d.devices, shares_of(need), strict=True)))
                memory.update(dict.fromkeys(d.devices, need.gpu_memory))
        free = dict(each.devices)
        measured = {device.id: device.free_memory for device in each.offer.devices}
        assert all(share <= free[device] for device, share in shares.items())
        assert all(need <= 8 for need in memory.values())
        for d in here:
            need = d.task.shape.alternatives[d.alternative]
            assert all(measured[device] >= need.gpu_memory for device in d.devices)


@settings(max_examples=60, deadline=None)
@given(worlds())
def test_priority_then_order_within_equal_needs(world: World) -> None:
    """Of tasks with one shape, in one job, none is granted before another that ranks higher."""
    ready, loads, accounts = build(world)
    granted = {decision.task.id: at for at, decision in enumerate(match(ready, loads, accounts, PARAMS, NOW))}
    for task, priority in world.tasks:
        for other, others in world.tasks:
            same = task.job == other.job and task.shape == other.shape
            if same and (-priority, task.index) < (-others, other.index) and other.id in granted:
                everywhere = all(each.offer.min_priority <= min(priority, others) for each in world.bids.values())
                if everywhere:
                    assert granted.get(task.id, 999) < granted[other.id]


@settings(max_examples=50, deadline=None)
@given(worlds())
def test_every_node_has_a_reason_in_every_decision(world: World) -> None:
    ready, loads, accounts = build(world)
    for decision in match(ready, loads, accounts, PARAMS, NOW):
        told = decision.explain()
        assert told.choice == decision.node
        assert [node for node, _feasible, _why in told.nodes] == sorted(world.bids)
        assert all(why for _node, _feasible, why in told.nodes)
        assert {node: feasible for node, feasible, _why in told.nodes}[decision.node]


@settings(max_examples=50, deadline=None)
@given(worlds())
def test_the_books_agree_afterwards(world: World) -> None:
    ready, loads, accounts = build(world)
    count = len(ready)
    decisions = match(ready, loads, accounts, PARAMS, NOW)
    assert len(ready) == count - len(decisions)
    assert sum(len(account) for account in accounts.values()) == len(decisions) + len(world.open)
    for job in ("j0", "j1", "j2"):
        needs = [d.task.shape.alternatives[d.alternative] for d in decisions if d.task.job == job]
        needs += [SHAPES[what].alternatives[0] for _node, what, _since in world.open if job == "j1"]
        assert loads.weight(job) == sum(max(LEAST_WEIGHT, need.millicpus, need.milligpus) for need in needs)
    for decision in decisions:
        held = accounts[decision.node].drop(decision.task.id)
        assert held is not None
        assert (held.job, held.devices) == (decision.task.job, decision.devices)
        loads.closed(held.job, held.need)
    assert loads.count("j1") == len(world.open)
    for account in accounts.values():
        sums = account.totals()
        assert sums.count == len(account) == sum(node == account.node for node, _what, _since in world.open)
        assert sums.work == account.short.work + account.long.work
