"""What a matching remembers from one round to the next changes no decision, no reason and no reservation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.account import BARRED_FOR, Account
from mesh.core.ballot import PAGE, Verdicts
from mesh.core.changes import Changes, Fastest
from mesh.core.lattice import Shape, Task
from mesh.core.matching import TURNS, Decision, Matching
from mesh.core.messages import Bid
from mesh.core.ready import Loads, Ready
from mesh.core.reasons import QUEUE_FULL, Why
from tests.core.bids import bid, gpu, match, offer, tasks
from tests.core.test_matching_laws import PARAMS, SHAPES

SEEDS = range(60)
ROUNDS = 40
NODES = tuple(f"n{number}" for number in range(5))


def some_bid(rng: Random) -> Bid:
    slots = rng.randint(1, 4)
    devices = tuple(gpu(number, 8, rng.choice((8, 3))) for number in range(rng.choice((0, 0, 1, 2))))
    what = offer(slots, rng.choice((4, slots, 8)), 12, devices, unwilling=rng.choice(("",) * 9 + ("battery",)))
    speeds = {"tiny": 5_000, "brief": 40_000, "long": rng.choice((100_000, 20_000_000)), "new": 3_000_000}
    known = {kind: micros + rng.randint(0, 2) for kind, micros in speeds.items() if rng.random() < 0.4}
    each = bid(what, rng.choice((50, 0)), **known)
    free = rng.choice((slots, slots, slots // 2))
    return each._replace(free_slots=free, free_millicpus=what.millicpus * free // slots)


class Pair:
    """A matching that goes on, and before each of its rounds a copy of everything for one that begins."""

    def __init__(self) -> None:
        self.ready, self.loads, self.matching, self.now = Ready(), Loads(), Matching(PARAMS), 0.0
        self.accounts: dict[str, Account] = {}
        self.pushed = self.held = 0

    def come(self, node: str, each: Bid) -> None:
        self.go(node)
        self.accounts[node] = Account(node, each)
        self.matching.add(self.accounts[node])

    def go(self, node: str) -> None:
        account = self.accounts.pop(node, None)
        self.matching.remove(node)
        for kind in account.kinds.values() if account is not None else ():
            for held in kind.held.values():
                self.loads.closed(held.job, held.need)

    def bid(self, node: str, each: Bid) -> None:
        if node in self.accounts:
            self.accounts[node].apply_bid(each)

    def end(self, number: int, told: bool) -> None:
        """One of the open attempts; ``told``: with a bid that counts it."""
        every = [(n, t) for n, a in sorted(self.accounts.items()) for k in a.kinds.values() for t in k.held]
        if not every:
            return
        node, task = every[number % len(every)]
        account = self.accounts[node]
        held = account.drop(task)
        assert held is not None
        self.loads.closed(held.job, held.need)
        if told and account.bid is not None:
            free = max(0, account.bid.offer.slots - len(account))
            account.apply_bid(account.bid._replace(free_slots=free, speeds=()))

    def hold(self, node: str, what: int) -> None:
        if node in self.accounts:
            self.held += 1
            self.accounts[node].hold(f"held{self.held}", "j1", SHAPES[what], 0, (), self.now)
            self.loads.opened("j1", SHAPES[what].alternatives[0])

    def begin(self, node: str) -> None:
        for kind in self.accounts[node].kinds.values() if node in self.accounts else ():
            for task in list(kind.held):
                self.accounts[node].begun(task, self.now)

    def bar(self, node: str, what: int) -> None:
        if node in self.accounts:
            self.accounts[node].bar(SHAPES[what], "no such package", self.now)

    def quarantine(self, node: str, why: str) -> None:
        if node in self.accounts:
            self.accounts[node].barred = why

    def push(self, job: int, what: int, priority: int, count: int) -> None:
        for _ in range(count):
            self.pushed += 1
            self.ready.push(Task(f"t{self.pushed:03}", f"j{job}", self.pushed, "", SHAPES[what], b""), priority, job)

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def match(self, limit: int) -> None:
        ready, loads, accounts = copy.deepcopy((self.ready, self.loads, self.accounts))
        fresh = match(ready, loads, accounts, PARAMS, self.now, limit)
        decisions = self.matching.match(self.ready, self.loads, self.now, limit)
        assert [told(decision) for decision in decisions] == [told(decision) for decision in fresh]
        assert [kept(self.accounts[node]) for node in self.accounts] == [kept(accounts[node]) for node in accounts]

    def meddle(self, rng: Random, shapes: list[int]) -> None:
        node, what, number = rng.choice(NODES), rng.choice(shapes), rng.randint(0, 30)
        kinds: dict[str, Callable[[], None]] = {
            "end": lambda: self.end(number, rng.random() < 0.7),
            "push": lambda: self.push(rng.randint(0, 2), what, rng.choice((5, 5, 5, 4, 6)), rng.randint(1, 5)),
            "bid": lambda: self.bid(node, some_bid(rng)),
            "wait": lambda: self.wait(rng.choice((0.01, 3.0, BARRED_FOR))),
            "come": lambda: self.come(node, some_bid(rng)),
            "go": lambda: self.go(node),
            "hold": lambda: self.hold(node, what),
            "begin": lambda: self.begin(node),
            "bar": lambda: self.bar(node, what),
            "quarantine": lambda: self.quarantine(node, rng.choice(("", "", "it fails"))),
        }
        (kind,) = rng.choices(list(kinds), (12, 6, 4, 2, 1, 1, 1, 2, 1, 1))
        kinds[kind]()


def told(decision: Decision) -> tuple[object, ...]:
    return decision.task.id, decision.place, decision.explain()


def kept(account: Account) -> tuple[object, ...] | None:
    what = account.kept
    return what and (what.holder, what.alternative, what.after, what.starts, what.devices, what.slots)


@pytest.mark.parametrize("seed", SEEDS)
def test_rounds_that_remember_decide_as_rounds_that_do_not(seed: int) -> None:
    rng, pair = Random(seed), Pair()
    shapes = rng.sample(range(len(SHAPES)), 4)
    for node in NODES[:3]:
        pair.come(node, some_bid(rng))
    for _ in range(ROUNDS):
        for _ in range(rng.randint(1, 4)):
            pair.meddle(rng, shapes)
        pair.match(rng.choice((0, 0, 0, 2)))


def test_what_decisions_say_stays_as_it_was_when_they_were_made() -> None:
    """Forty nodes, so that verdicts of later rounds go to pages that earlier decisions share."""
    pair = Pair()
    for number in range(40):
        pair.come(f"m{number:02}", bid(offer(slots=1), k=1_000_000 + number))
    for task in tasks("j", 60):
        pair.ready.push(task, 5, 0)
    decisions, said = [], []
    for turn in range(20):
        for decision in pair.matching.match(pair.ready, pair.loads, pair.now, 3):
            decisions.append(decision)
            said.append(decision.explain())
        pair.end(turn, True)
        pair.come(f"m{turn:02}", bid(offer(slots=1 + turn % 2), k=900_000))
    assert len(decisions) > 40
    assert [decision.explain() for decision in decisions] == said


def test_a_snapshot_shares_the_pages_that_do_not_change() -> None:
    verdicts = Verdicts()
    full = Why(QUEUE_FULL, (1,))
    for number in range(10 * PAGE):
        verdicts.put(f"n{number}", full)
    first = verdicts.snapshot()
    verdicts.put("n0", Why(QUEUE_FULL, (2,)))
    verdicts.drop("n1")
    second = verdicts.snapshot()
    assert sum(one is not other for one, other in zip(first, second, strict=True)) == 1
    verdicts.put("new", full)
    assert len(verdicts.snapshot()) == 10, "the place of one that left is used again"
    assert sum(entry is not None for page in first for entry in page) == 10 * PAGE


def test_shapes_of_long_ago_are_forgotten() -> None:
    pair = Pair()
    pair.come("n0", bid(offer(slots=4)))
    for number in range(2 * TURNS):
        (task,) = tasks("j", 1, Shape(kind=f"k{number}"), start=number)
        pair.ready.push(task, 5, 0)
        pair.match(0)
        pair.end(0, True)
    assert len(pair.matching._turns) == TURNS


def test_who_changed_since_is_told_once_and_only_then() -> None:
    changes = Changes()
    for node in ("a", "b", "a", "c"):
        changes.touch(node)
    assert changes.since(0) == ["c", "a", "b"]
    assert changes.since(2) == ["c", "a"]
    assert changes.since(changes.count) == []


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.none() | st.integers(1, 9)), max_size=30))
def test_the_fastest_is_the_least_of_those_that_are_there(steps: list[tuple[str, int | None]]) -> None:
    fastest, plain = Fastest(), dict[str, int]()
    for node, micros in steps:
        fastest.tell(node, micros)
        if micros is None:
            plain.pop(node, None)
        else:
            plain[node] = micros
        assert fastest.least() == min(plain.values(), default=None)
