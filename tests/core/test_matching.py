"""Which task goes where, who waits for what, and what people are told."""

from __future__ import annotations

import pytest

from mesh.core.account import Account
from mesh.core.ballot import Explanation
from mesh.core.lattice import Shape, Task
from mesh.core.matching import Decision, Matching, explain
from mesh.core.params import lan
from mesh.core.ready import Loads, Ready
from tests.core.bids import GIB, accounts, bid, gpu, need, offer, shape, tasks

PARAMS = lan()


class Mesh:
    """A leader's view of some nodes, with workers that do exactly what they are told."""

    def __init__(self, **nodes: Account) -> None:
        self.ready, self.loads, self.accounts, self.orders = Ready(), Loads(), dict(nodes), {}
        self.now = 0.0
        self.near: dict[str, tuple[str, ...]] = {}  # task: who has what it reads
        self.matching = Matching(PARAMS, lambda task: self.near.get(task.id, ()))

    def push(self, each: list[Task], priority: int = 5) -> list[Task]:
        for task in each:
            self.ready.push(task, priority, self.orders.setdefault(task.job, len(self.orders)))
        return each

    def match(self, limit: int = 0) -> list[Decision]:
        for node in [node for node in self.accounts if node not in self.matching.accounts]:
            self.matching.add(self.accounts[node])
        return self.matching.match(self.ready, self.loads, self.now, limit)

    def granted(self) -> list[tuple[str, str]]:
        return [(decision.task.id, decision.node) for decision in self.match()]

    def end(self, node: str, task: str) -> None:
        """The attempt ended, and the report that says so has a bid that shows what is free of everything held."""
        account = self.accounts[node]
        held = account.drop(task)
        assert held is not None
        self.loads.closed(held.job, held.need)
        assert account.bid is not None
        what, totals = account.bid.offer, account.totals()
        free = (what.slots - totals.count, what.millicpus - totals.millicpus, what.memory - totals.memory)
        shares = {device.id: 1000 for device in what.devices}
        account.apply_bid(
            account.bid._replace(
                free_slots=max(0, free[0]),
                free_millicpus=max(0, free[1]),
                free_memory=max(0, free[2]),
                devices=tuple(shares.items()),
                speeds=(),
            )
        )

    def explain(self, task: Task, priority: int = 5) -> Explanation:
        return explain(task, priority, False, self.ready, self.loads, self.accounts, PARAMS, self.now)


def mesh(**bids: object) -> Mesh:
    return Mesh(**accounts(**bids))  # type: ignore[arg-type]


def test_the_lowest_estimated_completion_wins_and_ties_go_to_the_lower_id() -> None:
    here = mesh(slow=bid(offer(slots=2), k=300), a=bid(offer(slots=1), k=100), b=bid(offer(slots=1), k=100))
    here.push(tasks("j", 7))
    assert [node for _task, node in here.granted()] == ["a", "b", "a", "b", "a", "b", "slow"]


def test_free_room_before_queues_while_durations_are_unknown() -> None:
    here = mesh(a=bid(offer(slots=2)), b=bid(offer(slots=1)))
    here.push(tasks("j", 9))
    assert [node for _task, node in here.granted()] == ["a", "a", "b", "a", "b"]


def test_who_has_what_a_task_reads_comes_first_unless_it_is_much_slower_or_busy() -> None:
    here = mesh(a=bid(offer(slots=2), k=100), b=bid(offer(slots=1), k=140), slow=bid(offer(slots=9), k=200))
    here.near = dict.fromkeys(("j-00000", "j-00001"), ("b",)) | {"j-00002": ("slow",)}
    here.push(tasks("j", 4))
    decisions = here.match()
    assert [decision.node for decision in decisions] == ["b", "a", "a", "a"], "the second finds b busy"
    assert [decision.near for decision in decisions] == [True, False, False, False], "slow takes twice as long"
    assert decisions[0].why == "1 core free now; it has what the task reads"


def test_a_node_that_has_not_measured_a_kind_is_believed_to_be_fast() -> None:
    here = mesh(known=bid(offer(slots=1), k=20_000), fresh=bid(offer(slots=1)))
    here.push(tasks("j", 1))
    assert here.granted() == [("j-00000", "fresh")]


def test_alternatives_in_the_order_they_are_listed() -> None:
    what = shape(need(1, gpus=1, gpu_memory=12 * GIB), need(16))
    here = mesh(a=bid(offer(slots=40, cores=40)), b=bid(offer(slots=2, cores=4, devices=(gpu(0),))))
    here.push(tasks("j", 3, what))
    decisions = here.match()
    assert [(d.node, d.alternative, d.devices) for d in decisions] == [
        ("b", 0, ("cuda:0",)), ("a", 1, ()), ("a", 1, ()),
    ]  # fmt: skip
    told = {node: why for node, _feasible, why in decisions[0].explain().nodes}
    assert told["a"] == "has room only for 16 cores, which the task lists later"


def test_max_parallel_and_pause() -> None:
    here = mesh(a=bid(offer(slots=8, cores=8)))
    limited, paused = here.push(tasks("limited", 9)), here.push(tasks("paused", 9))
    here.ready.limit("limited", 2)
    here.ready.pause("paused")
    assert here.granted() == [("limited-00000", "a"), ("limited-00001", "a")]
    told = here.explain(limited[2])
    assert told.choice == ""
    assert told.why == "2 tasks of its job run or wait on nodes, and max_parallel is 2"
    assert here.explain(paused[0]).why == "its job is paused"
    here.end("a", "limited-00000")
    here.ready.pause("paused", False)
    assert [task for task, _node in here.granted()][:2] == ["paused-00000", "limited-00002"]


def test_a_limit_ends_the_round_early_and_the_next_goes_on() -> None:
    here = mesh(a=bid(k=10))
    here.push(tasks("j", 25))
    parts = [len(here.match(limit=10)) for _ in range(4)]
    assert parts == [10, 10, 5, 0]


def test_fair_share_between_jobs_of_equal_priority() -> None:
    here = mesh(a=bid(offer(slots=8, cores=8), k=10_000_000))
    here.push(tasks("many", 3000))
    assert len(here.match()) == 8
    here.push(tasks("few", 10))
    for turn in range(10):
        here.end("a", f"many-{turn:05}" if turn < 8 else f"few-{turn - 8:05}")
        here.match()
    assert here.loads.count("few") == 4
    assert here.loads.count("many") == 4


# -- reservations ------------------------------------------------------------------------------------------------------


def busy(here: Mesh, node: str, count: int, what: Shape, job: str = "old") -> None:
    for task in tasks(job, count, what):
        suit = here.accounts[node].suits(what, 5)
        place = here.accounts[node].place(what, suit.alternatives, 1, 1, here.now)
        here.accounts[node].take(task.id, job, what, place, here.now)  # type: ignore[arg-type]
        here.loads.opened(job, what.alternatives[0])


def test_a_blocked_task_keeps_the_node_that_can_hold_it_soonest() -> None:
    here = mesh(
        a=bid(old=100_000_000, k=90_000_000),
        b=bid(old=10_000_000, k=90_000_000),
        c=bid(offer(cores=2, slots=2), k=90_000_000),
    )
    busy(here, "a", 1, shape(need(2), kind="old"))
    busy(here, "b", 1, shape(need(2), kind="old"))
    big = here.push(tasks("big", 1, shape(need(4), kind="big")))[0]
    small = here.push(tasks("small", 9))
    assert here.granted() == [("small-00000", "a"), ("small-00001", "a"), ("small-00002", "c"), ("small-00003", "c")]
    kept = here.accounts["b"].kept
    assert kept is not None
    assert (kept.holder.job, kept.starts) == ("big", 10.0)
    assert here.explain(big).why == "every node that can run it is busy or away; b is kept free for it"
    told = {node: why for node, _feasible, why in here.explain(small[4]).nodes}
    assert told["b"] == "kept free for job big, which needs 4 cores"
    here.now = 10.0
    here.end("b", "old-00000")
    assert here.granted() == [("big-00000", "b")]
    assert here.accounts["b"].kept is None


@pytest.mark.parametrize(
    ("micros", "granted"),
    [(9_000_000, 2), (11_000_000, 0), (None, 0)],
    ids=["over in time", "too long", "not measured"],
)
def test_backfill_with_what_is_over_in_time(micros: int | None, granted: int) -> None:
    speeds = {"old": 10_000_000} | ({} if micros is None else {"k": micros})
    here = mesh(a=bid(**speeds))
    busy(here, "a", 1, shape(need(2), kind="old"))
    here.push(tasks("big", 1, shape(need(4), kind="big")))
    here.push(tasks("small", 9))
    assert len(here.match()) == granted


def test_backfill_with_what_fits_beside_the_holder() -> None:
    here = mesh(a=bid(offer(slots=9, cores=7), old=10_000_000))
    busy(here, "a", 1, shape(need(5), kind="old"))
    here.push(tasks("big", 1, shape(need(4), kind="big")))
    here.push(tasks("small", 9))
    assert len(here.match()) == 2  # two cores are free now; three would be beside the large one
    kept = here.accounts["a"].kept
    assert kept is not None
    assert (kept.starts, kept.slots, kept.millicpus) == (10.0, 6, 1000)


def test_where_nobody_can_say_when_only_what_fits_beside_it_goes_on() -> None:
    here = mesh(a=bid(offer(slots=9, cores=6)))
    busy(here, "a", 4, shape(kind="unmeasured"))
    here.push(tasks("big", 1, shape(need(4), kind="big")))
    here.push(tasks("small", 9))
    assert len(here.match()) == 2
    for number in range(4):
        here.now += 1.0
        here.end("a", f"old-{number:05}")
        assert here.granted()[:1] == ([("big-00000", "a")] if number == 3 else [])


def test_a_kept_node_stays_kept_and_its_queue_is_left_to_run_empty() -> None:
    here = mesh(a=bid(offer(slots=1), tiny=10_000), b=bid(offer(slots=1), tiny=10_000))
    here.push(tasks("stream", 99, shape(kind="tiny")))
    assert len(here.match()) == 12
    here.push(tasks("new", 1, shape(kind="unmeasured")), priority=6)
    assert here.granted() == []
    for number in range(0, 12, 2):
        here.now += 0.01
        here.end("b", f"stream-{number + 1:05}")
        here.end("a", f"stream-{number:05}")
        nodes = [node for _task, node in here.granted()]
        assert nodes == (["a", "b"] if number == 10 else ["b"])
        assert [node for node, account in here.accounts.items() if account.kept] == ([] if number == 10 else ["a"])
    assert here.loads.count("new") == 1


def test_what_gets_in_within_the_allowance_keeps_nobody_out() -> None:
    here = mesh(a=bid(offer(slots=1), tiny=10_000), b=bid(offer(slots=1, devices=(gpu(0),))))
    what = shape(need(labels=(("zone", "lab"),)), kind="tiny")
    here.accounts["a"].apply_bid(bid(offer(slots=1, labels=(("zone", "lab"),)), tiny=10_000))
    here.push(tasks("stream", 99, what), priority=6)
    here.push(tasks("card", 2, shape(need(gpus=1), kind="card")))
    assert [node for _task, node in here.granted()].count("b") == 1
    here.end("b", "card-00000")
    assert here.granted() == [("card-00001", "b")]
    assert here.accounts["a"].kept is None


def test_cards_are_kept_too() -> None:
    machine = offer(slots=9, cores=9, devices=(gpu(0), gpu(1)))
    here = mesh(a=bid(machine, old=10_000_000, half=20_000_000))
    busy(here, "a", 1, shape(need(1, gpus=1), kind="old"))
    here.push(tasks("big", 1, shape(need(1, gpus=2), kind="big")))
    half = here.push(tasks("half", 1, shape(need(1, gpus=0.5), kind="half")))[0]
    plain = here.push(tasks("plain", 1))[0]
    assert here.granted() == [(plain.id, "a")]
    told = here.explain(half)
    assert told.nodes == (("a", True, "busy: needs 0.5 GPU, 1 free now"),)


def test_who_cannot_be_helped_by_waiting_keeps_nothing() -> None:
    here = mesh(a=bid())
    huge = here.push(tasks("huge", 1, shape(need(64))))[0]
    here.push(tasks("small", 1))
    assert here.granted() == [("small-00000", "a")]
    assert here.accounts["a"].kept is None
    told = here.explain(huge)
    assert (told.choice, told.why) == ("", "no node can run it")
    assert told.nodes == (("a", False, "its 4 cores cannot hold 64"),)


@pytest.mark.parametrize("measured", [True, False])
def test_a_stream_of_small_tasks_does_not_starve_a_large_one(measured: bool) -> None:
    """Small tasks of staggered lengths, so that no node ever empties by itself, on two nodes of four cores."""
    speeds = {f"small{i}": 1_000_000 + i * 370_000 for i in range(3)} if measured else {}
    here = mesh(a=bid(**speeds), b=bid(**speeds))
    kinds = [shape(kind=f"small{i}") for i in range(3)]
    running: list[tuple[float, str, str]] = []
    here.push([Task(f"small-{i:05}", "small", i, "", kinds[i % 3], b"") for i in range(400)])
    begun_at: dict[str, float] = {}
    idle = 0.0
    while len(begun_at) < 1 and here.now < 60:
        if here.now > 5 and "large" not in here.orders:
            here.push(tasks("large", 1, shape(need(4), kind="large")))
        for decision in here.match():
            queue = len(here.accounts[decision.node]) > 4
            length = 1.0 + int(decision.task.shape.kind[-1]) * 0.37 if decision.task.job == "small" else 1.0
            if decision.task.job == "large":
                begun_at["large"] = here.now
            running.append((here.now + length * (2 if queue else 1), decision.node, decision.task.id))
        running.sort()
        end, node, task = running.pop(0)
        idle += (8 - len(running) - 1) * (end - here.now)
        here.now = end
        here.end(node, task)
    assert here.now < 9, "the large task waited longer than the small ones on one node take"
    assert idle < 12, "keeping one node free left the other one idle"


# -- explanations ------------------------------------------------------------------------------------------------------


def test_every_losing_node_has_its_reason_from_the_real_decision() -> None:
    here = mesh(
        e=bid(offer(min_priority=7)), a=bid(k=2_000_000), b=bid(k=1_000_000), c=bid(k=1_000_000),
        d=bid(offer(unwilling="a person uses it")),
    )  # fmt: skip
    here.accounts["f"] = Account("f")
    here.push(tasks("j", 1))
    decision = here.match()[0]
    told = decision.explain()
    assert (told.choice, decision.node) == ("b", "b")
    assert told.why == "1 core free now; done in an estimated 1 s, and no node is sooner"
    assert told.nodes == (
        ("a", True, "would finish in 2 s, the chosen node in 1 s"),
        ("b", True, told.why),
        ("c", True, "would finish no sooner, and the lower id goes first"),
        ("d", True, "unwilling: a person uses it"),
        ("e", False, "min priority 7, task has 5"),
        ("f", True, "has not bid yet"),
    )


def test_reasons_are_those_of_the_moment_of_the_decision() -> None:
    here = mesh(a=bid(offer(slots=1), k=10_000_000), b=bid(offer(slots=1), k=10_000_000))
    here.push(tasks("j", 2))
    first, second = here.match()
    assert first.explain().nodes[1][2] == "would finish no sooner, and the lower id goes first"
    assert second.explain().nodes[0][2] == "busy: its slot is taken"


def test_explaining_a_waiting_task_says_what_a_matching_would_do() -> None:
    here = mesh(a=bid(offer(cores=2)), b=bid())
    task = tasks("j", 1, shape(need(4)))[0]
    told = here.explain(task)
    here.push([task])
    decision = here.match()[0]
    assert told == decision.explain()
    later = tasks("j", 1, start=5)[0]
    here.ready.push_later(later, 5, 0, at=2.5)
    assert here.explain(later).why == "it failed and is tried again in 2.5 s"
    assert Mesh().explain(task) == ("", "no node bids", ())
