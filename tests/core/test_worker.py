"""The worker's side: what it was granted, in which order it begins, and what it keeps until a leader has it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mesh.core.effects import BeginAttempts, Effect, StopAttempts
from mesh.core.ids import NO_CLAIM, Claim, attempt_id
from mesh.core.lattice import (
    FAILED,
    OFFERED,
    RELEASED,
    RUNNING,
    SUCCEEDED,
    Attempt,
    Outcome,
    Resources,
    Shape,
    Task,
)
from mesh.core.messages import Bid, Device, Grant, Offer, Orders, Refused, Report
from mesh.core.valid import OUTCOME_BYTES
from mesh.core.worker import BATCH_TASKS, STUCK_AFTER, Worker
from mesh.core.worker import REFRESH as REFRESHES
from tests.core.bids import GIB, gpu, need, offer, shape
from tests.core.parts import PARAMS, claim, grant, messages, node, only, outbox, persisted, success, sync, task, who

LEADER = claim("a", 3)
REFRESH = REFRESHES * PARAMS.resend_after


class Rig:
    """Worker ``b`` that follows ``a``; nothing leaves but through ``out``."""

    def __init__(self, slots: int = 2, cores: int = 8, devices: tuple[Device, ...] = (), me: str = "b") -> None:
        self.out = outbox(me)
        self.params = PARAMS
        self.worker = Worker(who(me), self.params, self.out)
        self.now = 100.0
        self.seq = 0
        self.offer = offer(slots, cores, devices=devices)
        self.worker.on_offer(self.offer)
        self.said: list[Effect] = []

    def step(self) -> list[Effect]:
        """The end of a step, and its journal on disk."""
        self.worker.flush(self.now)
        effects = sync(self.out)
        self.worker.check()
        return effects

    def follow(self, whom: Claim = LEADER) -> list[Effect]:
        self.seq = 0
        self.worker.on_claim(whom)
        return self.step()

    def orders(
        self, *grants: Grant, recalls: tuple[tuple[str, str], ...] = (), acks: tuple[str, ...] = (),
        unknown: tuple[str, ...] = (), whom: Claim = LEADER, seq: int | None = None,
    ) -> list[Effect]:  # fmt: skip
        if seq is None:
            seq = self.seq + 1 if grants or recalls or not (acks or unknown) else 0
        self.seq = max(self.seq, seq)
        self.worker.on_orders(
            node("a"), Orders(whom, seq, grants, recalls, acks, unknown, self.worker.session), True, self.now
        )
        return self.step()

    def run(self, *names: str, what: Shape | None = None) -> list[Effect]:
        return self.orders(*(grant(name, task(f"t{name}", shape=what)) for name in names))

    def end(self, *names: str, phase: int = SUCCEEDED, micros: int = 0) -> list[Effect]:
        self.worker.on_ended(tuple((name, phase, success(micros=micros)) for name in names), self.now)
        return self.step()

    def later(self, seconds: float) -> list[Effect]:
        self.now += seconds
        return self.step()

    @property
    def bid(self) -> Bid:
        bid = self.worker.bid()
        assert bid is not None
        return bid


def begun(effects: list[Effect]) -> list[tuple[int, list[str]]]:
    return [(e.slot, [a.attempt for a in e.assignments]) for e in only(BeginAttempts, effects)]


def reported(effects: list[Effect]) -> list[tuple[str, bool, int]]:
    return [(a.id, a.ended, a.phase) for report in messages(Report, effects) for a in report.attempts]


def ready(slots: int = 2) -> Rig:
    rig = Rig(slots)
    rig.follow()
    return rig


# -- beginning -------------------------------------------------------------------------------------------------------


def test_grants_begin_in_order_one_in_each_slot_and_the_rest_waits() -> None:
    rig = ready(2)
    assert begun(rig.run("1", "2", "3")) == [(0, ["1"]), (1, ["2"])]
    assert list(rig.worker.queue) == ["3"]
    assert begun(rig.end("2")) == [(1, ["3"])]
    assert begun(rig.end("1", "3")) == []
    assert rig.worker.idle


def test_an_assignment_says_what_it_may_use() -> None:
    rig = Rig(devices=(gpu(0), gpu(1)))
    rig.follow()
    needs = need(2, GIB, gpus=1)
    effects = rig.orders(grant("1", task(shape=shape(need(9), needs)), ("cuda:1",), alternative=1))
    (assignment,) = only(BeginAttempts, effects)[0].assignments
    assert (assignment.devices, assignment.memory, assignment.millicpus) == (("cuda:1",), GIB, 2000)


def test_tiny_tasks_of_a_known_kind_are_handed_over_in_batches_shared_among_free_slots() -> None:
    rig = ready(2)
    rig.run("0")
    rig.end("0", micros=100)
    assert begun(rig.run(*"123456")) == [(0, ["1", "2", "3"]), (1, ["4", "5", "6"])]


@pytest.mark.parametrize(
    ("micros", "count"), [(100, BATCH_TASKS), (1000, 10), (5000, 2), (9999, 1), (2_000_000, 1), (1, BATCH_TASKS)]
)
def test_a_batch_lasts_ten_milliseconds(micros: int, count: int) -> None:
    rig = ready(1)
    rig.run("0")
    rig.end("0", micros=micros)
    (slot_and_names,) = begun(rig.run(*(f"{i:03}" for i in range(200))))
    assert len(slot_and_names[1]) == count


@pytest.mark.parametrize(
    "what",
    [
        shape(kind="unknown"),
        shape(need(1, GIB)),  # its memory is watched alone
        shape()._replace(timeout_ms=5),
    ],
    ids=["unknown", "memory", "timeout"],
)  # fmt: skip
def test_what_is_not_known_or_has_limits_of_its_own_runs_alone(what: Shape) -> None:
    rig = ready(1)
    rig.run("0", what=shape())
    rig.end("0", micros=100)
    assert begun(rig.run("1", "2", what=what)) == [(0, ["1"])]


def test_a_batch_is_of_one_shape_and_one_alternative() -> None:
    rig = ready(1)
    two = shape(need(1), need(2))
    rig.run("0", what=two)
    rig.end("0", micros=100)
    effects = rig.orders(
        grant("1", task("t1", shape=two)), grant("2", task("t2", shape=two)),
        grant("3", task("t3", shape=two), alternative=1), grant("4", task("t4", shape=two)),
    )  # fmt: skip
    assert begun(effects) == [(0, ["1", "2"])]
    assert begun(rig.end("1", "2")) == [(0, ["3"])]
    assert begun(rig.orders(grant("5", task("t5", shape=shape())))) == []
    assert begun(rig.end("3")) == [(0, ["4"])]
    assert begun(rig.end("4")) == [(0, ["5"])]


def test_the_ends_of_a_batch_come_one_by_one_and_the_slot_is_free_after_the_last() -> None:
    rig = ready(1)
    rig.run("0")
    rig.end("0", micros=100)
    rig.run("1", "2", "3")
    assert begun(rig.end("1")) == []
    assert rig.bid.free_slots == 0
    assert begun(rig.end("3", "2")) == []
    assert rig.bid.free_slots == 1


def test_more_cores_than_there_are_wait_even_for_a_free_slot() -> None:
    rig = Rig(slots=3, cores=4)
    rig.follow()
    big = shape(need(3))
    assert begun(rig.run("1", "2", what=big)) == [(0, ["1"])]
    assert begun(rig.end("1")) == [(0, ["2"])]


def test_what_is_alone_begins_however_much_it_wants() -> None:
    rig = Rig(slots=2, cores=4)
    rig.follow()
    assert begun(rig.run("1", what=shape(need(64)))) == [(0, ["1"])]


def test_without_an_offer_nothing_is_taken_and_with_fewer_slots_nothing_more_begins() -> None:
    rig = ready(2)
    rig.run("1", "2", "3")
    rig.worker.on_offer(offer(1, 8))
    rig.out.flush()
    assert begun(rig.end("2")) == []
    assert begun(rig.end("1")) == [(0, ["3"])]


# -- orders ----------------------------------------------------------------------------------------------------------


def test_orders_are_applied_in_order_and_once() -> None:
    rig = ready(4)
    first, second = grant("1", task("t1")), grant("2", task("t2"))
    assert begun(rig.orders(second, seq=2)) == [], "the one before it was lost"
    assert begun(rig.orders(first, seq=1)) == [(0, ["1"])]
    assert begun(rig.orders(first, seq=1)) == []
    effects = rig.orders(second, seq=2)
    assert begun(effects) == [(1, ["2"])]
    assert messages(Report, effects)[-1].applied == 2
    assert messages(Report, rig.orders(first, seq=1))[-1].applied == 2, "an old one takes nothing back"


def test_a_repeat_is_answered_so_that_the_leader_stops_repeating() -> None:
    rig = ready()
    rig.run("1")
    assert messages(Report, rig.orders(seq=1))[0].applied == 1


def test_orders_under_a_lower_claim_are_refused_with_the_claim_that_is_followed() -> None:
    rig = ready()
    effects = rig.orders(grant("1", task()), whom=claim("z", 2))
    assert messages(Refused, effects) == [Refused(LEADER, alive=True)]
    assert begun(effects) == []


def test_orders_under_a_higher_claim_are_not_obeyed_before_it_is_followed() -> None:
    rig = ready()
    higher = claim("c", 9)
    assert rig.orders(grant("1", task()), whom=higher) == []
    rig.follow(higher)
    assert begun(rig.orders(grant("1", task()), whom=higher)) == [(0, ["1"])]


def test_orders_of_an_earlier_session_are_not_obeyed() -> None:
    """They were decided before the declaration; the leader decides anew by it."""
    rig = ready()
    old = Orders(LEADER, 1, (grant("1", task()),), (), (), (), rig.worker.session)
    rig.follow(LEADER)
    rig.worker.on_orders(node("a"), old, True, rig.now)
    assert begun(rig.step()) == []


def test_a_grant_that_is_held_already_is_not_run_again() -> None:
    rig = ready(4)
    rig.run("1")
    assert begun(rig.run("1")) == []
    rig.end("1")
    assert begun(rig.run("1")) == []


# -- recalls ---------------------------------------------------------------------------------------------------------


def test_what_is_queued_is_given_back_at_once() -> None:
    rig = ready(1)
    rig.run("1", "2", "3")
    effects = rig.orders(recalls=(("2", "cancelled"),))
    assert only(StopAttempts, effects) == []
    (released,) = persisted(Attempt, effects)
    assert (released.id, released.ended, released.phase) == ("2", True, RELEASED)
    assert (released.outcome.code, released.outcome.message) == ("recalled", "cancelled")
    assert reported(effects) == [("2", True, RELEASED)]
    assert begun(rig.end("1")) == [(0, ["3"])]


def test_what_runs_is_stopped_once_and_ends_when_its_runner_says_so() -> None:
    rig = ready(1)
    rig.run("1")
    recall = (("1", "cancelled"),)
    assert only(StopAttempts, rig.orders(recalls=recall)) == [StopAttempts(("1",), "recalled", "cancelled")]
    assert only(StopAttempts, rig.orders(recalls=recall)) == []
    assert not rig.worker.held["1"].attempt.ended
    assert reported(rig.end("1", phase=RELEASED)) == [("1", True, RELEASED)]


def test_the_worker_decides_races() -> None:
    rig = ready(1)
    rig.run("1")
    rig.end("1")
    effects = rig.orders(recalls=(("1", "too late"), ("9", "never seen")))
    assert only(StopAttempts, effects) == []
    assert rig.worker.held["1"].attempt.phase == SUCCEEDED


# -- ending and reporting --------------------------------------------------------------------------------------------


def test_a_finished_attempt_is_on_disk_before_it_is_reported() -> None:
    rig = ready()
    rig.run("1")
    rig.worker.on_ended((("1", SUCCEEDED, success()),), rig.now)
    rig.worker.flush(rig.now)
    effects = rig.out.flush()
    assert [a.id for a in persisted(Attempt, effects)] == ["1"]
    assert messages(Report, effects) == []
    rig.out.on_synced(rig.out.position)
    assert reported(rig.out.flush()) == [("1", True, SUCCEEDED)]


def test_what_no_leader_would_take_for_its_size_is_a_failure_that_says_so() -> None:
    rig = Rig()
    rig.follow()
    rig.run("1")
    outcome = Outcome(result=b"x" * (OUTCOME_BYTES + 1), started_ms=5)
    rig.worker.on_ended((("1", SUCCEEDED, outcome),), rig.now)
    (report,) = messages(Report, rig.step(), "a")
    (attempt,) = report.attempts
    assert (attempt.ended, attempt.phase, attempt.outcome.code) == (True, FAILED, "too_large")
    assert f"the limit is {OUTCOME_BYTES}; return less" in attempt.outcome.message


def test_to_oneself_it_is_reported_at_once() -> None:
    """One journal holds what the worker and what the leader say of it, in one transaction."""
    rig = Rig(me="a")
    mine = claim("a", 3)
    rig.follow(mine)
    rig.orders(grant("1", task()), whom=mine)
    rig.out.local.clear()
    rig.worker.on_ended((("1", SUCCEEDED, success()),), rig.now)
    rig.worker.flush(rig.now)
    assert [(m.attempts[0].id, m.attempts[0].ended) for m in only(Report, rig.out.local)] == [("1", True)]


def test_beginnings_are_reported_a_little_later_and_together() -> None:
    rig = ready(2)
    rig.run("1", "2")
    rig.worker.on_began((("1", 50),), rig.now)
    assert reported(rig.step()) == []
    due = rig.worker.deadline()
    assert due == pytest.approx(rig.now + PARAMS.heartbeat / 5)
    rig.now += 0.06
    rig.worker.on_began((("2", 60), ("9", 70)), rig.now)
    assert rig.worker.deadline() == due, "the first one is not kept waiting by the next"
    assert reported(rig.later(0.05)) == [("1", False, RUNNING), ("2", False, RUNNING)]
    assert rig.worker.held["1"].attempt.outcome.started_ms == 50


def test_what_ended_before_its_beginning_was_reported_is_reported_as_ended() -> None:
    rig = ready()
    rig.run("1")
    rig.worker.on_began((("1", 50),), rig.now)
    assert reported(rig.end("1")) == [("1", True, SUCCEEDED)]


def test_progress_rides_with_the_next_report_the_last_value_wins() -> None:
    rig = ready()
    rig.run("1")
    for metrics in (b"1", b"2"):
        rig.worker.on_progress((("1", metrics), ("9", b"?")), rig.now)
    assert messages(Report, rig.step()) == []
    assert messages(Report, rig.later(0.11))[0].progress == (("1", b"2"),)


@pytest.mark.parametrize("phase", [SUCCEEDED, FAILED, RELEASED])
def test_a_result_is_reported_until_it_is_acknowledged(phase: int) -> None:
    rig = ready()
    rig.run("1")
    assert reported(rig.end("1", phase=phase)) == [("1", True, phase)]
    assert reported(rig.later(1.9)) == []
    assert rig.worker.deadline() == pytest.approx(rig.now + 0.1)
    assert reported(rig.later(0.2)) == [("1", True, phase)]
    assert reported(rig.later(2.1)) == [("1", True, phase)]
    assert rig.worker.unreported == 1
    rig.orders(acks=("1",))
    assert (rig.worker.unreported, rig.worker.held) == (0, {})
    assert reported(rig.later(60.0)) == []


def test_an_acknowledgement_of_what_has_not_ended_is_nothing() -> None:
    rig = ready()
    rig.run("1")
    rig.orders(acks=("1", "9"))
    assert "1" in rig.worker.held


@pytest.mark.parametrize("role", ["worker", "auto"])
def test_what_is_acknowledged_is_remembered_as_it_stands_in_the_journal(role: str) -> None:
    rig = ready()
    rig.worker.me = who("b", role=role)
    rig.run("1")
    rig.end("1")
    rig.orders(acks=("1",))
    assert "1" not in rig.worker.held
    assert rig.out.ledger.tasks["t1"].tries[0].phase == SUCCEEDED


def test_what_the_leader_does_not_know_is_kept_and_offered_now_and_then() -> None:
    rig = ready()
    rig.run("1")
    rig.end("1")
    rig.orders(unknown=("1",))
    assert reported(rig.later(9.0)) == []
    assert rig.worker.unreported == 1
    assert reported(rig.later(1.1)) == [("1", True, SUCCEEDED)]


def test_what_one_leader_does_not_know_is_declared_to_the_next() -> None:
    rig = ready()
    rig.run("1")
    rig.end("1")
    rig.orders(unknown=("1",))
    assert reported(rig.follow(claim("c", 4))) == [("1", True, SUCCEEDED)]


def test_what_an_island_s_leader_acknowledged_is_told_to_who_granted_it() -> None:
    """It knows the attempt as running, and would take it for lost and grant its task again."""
    rig = ready()
    name = attempt_id(LEADER, 1)
    rig.run(name)
    rig.follow(claim("c", 4))
    rig.end(name)
    rig.orders(acks=(name,), whom=claim("c", 4))
    assert rig.worker.unreported == 0
    assert reported(rig.follow(claim("c", 5))) == [], "who acknowledged it has it"
    again = LEADER._replace(term=6)
    assert reported(rig.follow(again)) == [(name, True, SUCCEEDED)]
    rig.orders(acks=(name,), whom=again)
    assert rig.worker.unreported == 0
    assert reported(rig.follow(claim("c", 7))) == []


def test_nothing_is_reported_while_nobody_leads() -> None:
    rig = ready()
    rig.run("1")
    rig.follow(NO_CLAIM)
    assert reported(rig.end("1")) == []
    assert rig.worker.deadline() is None
    assert reported(rig.later(60.0)) == []
    assert reported(rig.follow(claim("c", 4))) == [("1", True, SUCCEEDED)]


def test_results_of_former_lives_are_declared() -> None:
    rig = Rig()
    rig.worker.restore([Attempt("t", "old", True, 0, SUCCEEDED, 1, node("b"), success())])
    assert reported(rig.follow()) == [("old", True, SUCCEEDED)]
    assert rig.worker.unreported == 1
    assert reported(rig.later(2.1)) == [("old", True, SUCCEEDED)]
    rig.orders(acks=("old",))
    assert rig.worker.unreported == 0


# -- declaring -------------------------------------------------------------------------------------------------------


def test_a_declaration_says_all_that_is_held_with_raised_rounds() -> None:
    rig = ready(2)
    rig.run("1", "2", "3")
    rig.worker.on_began((("1", 50),), rig.now)
    rig.end("2")
    (report,) = messages(Report, rig.follow(claim("c", 4)))
    assert report.claim == claim("c", 4)
    assert (report.declares, report.slices, report.applied) == (1, 1, 0)
    assert report.bid is not None
    assert {a.id: (a.ended, a.phase, a.round) for a in report.attempts} == {
        "1": (False, RUNNING, 1),
        "2": (True, SUCCEEDED, 0),
        "3": (False, OFFERED, 1),
    }
    (report,) = messages(Report, rig.follow(claim("c", 5)))
    assert {a.id: a.round for a in report.attempts} == {"1": 2, "2": 0, "3": 2}, "each refutes LOST once more"


def test_a_declaration_comes_in_slices_that_count_down() -> None:
    rig = ready(1)
    rig.worker.params = replace(PARAMS, slice_records=2)
    rig.run("1", "2", "3", "4", "5")
    reports = messages(Report, rig.follow(claim("c", 4)))
    assert [(r.declares, r.slices, len(r.attempts)) for r in reports] == [(3, 3, 2), (2, 3, 2), (1, 3, 1)]
    assert len({r.session for r in reports}) == 1


def test_each_declaration_is_a_session_of_its_own() -> None:
    rig = Rig()
    sessions = [messages(Report, rig.follow(c))[0].session for c in (LEADER, LEADER, claim("c", 4))]
    assert sessions == [1, 2, 3]


def test_one_that_nobody_answers_is_made_again_with_growing_patience() -> None:
    rig = Rig()
    rig.follow()
    times = []
    for _ in range(4):
        due = rig.worker.deadline()
        assert due is not None
        times.append(due - rig.now)
        assert messages(Report, rig.later(due - rig.now - 0.01)) == []
        assert messages(Report, rig.later(0.02))[0].declares == 1
    assert times == sorted(times)
    assert times[-1] > times[0]
    rig.orders()
    assert rig.worker.deadline() == rig.now + REFRESH, "it was welcomed"


def test_a_bid_is_told_now_and_then_although_nothing_changed() -> None:
    """The last one may be lost, and then nobody would ever grant again what it would have made room for."""
    rig = ready()
    rig.orders()
    assert messages(Report, rig.later(REFRESH - 0.1)) == []
    (report,) = messages(Report, rig.later(0.2))
    assert report.bid is not None
    assert (report.declares, report.attempts) == (0, ())


def test_what_waits_behind_a_long_task_is_given_back() -> None:
    rig = ready(1)
    rig.run("1", "2", "3")
    assert reported(rig.later(1.0)) == [], "whether it began is not known: it may be about to"
    rig.worker.on_began((("1", 5),), rig.now)
    rig.step()
    assert reported(rig.later(STUCK_AFTER - 0.01)) == [("1", False, RUNNING)]
    effects = rig.later(0.02)
    assert [(a.id, a.phase, a.outcome.code) for a in persisted(Attempt, effects)] == [
        ("2", RELEASED, "queued"),
        ("3", RELEASED, "queued"),
    ]
    (report,) = messages(Report, effects)
    assert report.bid is not None
    ((kind, micros),) = report.bid.speeds
    assert kind == "k"
    assert micros >= STUCK_AFTER * 1e6, "nothing is queued behind this kind any more"
    assert only(StopAttempts, effects) == []


def test_what_is_queued_waits_its_moment_however_long_the_other_runs_already() -> None:
    """Given back at once it could be granted again at once, and so on."""
    rig = ready(1)
    rig.run("1")
    rig.worker.on_began((("1", 5),), rig.now)
    rig.later(5.0)
    rig.run("2")
    assert persisted(Attempt, rig.later(STUCK_AFTER - 0.01)) == []
    assert [a.outcome.code for a in persisted(Attempt, rig.later(0.02))] == ["queued"]


def test_what_waits_behind_several_is_kept_while_one_of_them_has_just_begun() -> None:
    rig = ready(2)
    rig.run("1", "2", "3")
    rig.worker.on_began((("1", 5),), rig.now)
    rig.later(0.4)
    rig.worker.on_began((("2", 5),), rig.now)
    assert persisted(Attempt, rig.later(0.4)) == []
    assert list(rig.worker.queue) == ["3"]


def test_a_leader_that_lost_us_out_of_sight_is_told_all_again() -> None:
    rig = ready()
    rig.orders()
    rig.run("1")
    rig.worker.on_refused()
    assert messages(Report, rig.step())[0].declares == 1
    rig.worker.on_refused()
    assert messages(Report, rig.step()) == [], "a declaration is under way"


def test_a_worker_that_has_measured_nothing_yet_says_nothing() -> None:
    rig = Rig()
    rig.worker.offer = None
    assert messages(Report, rig.follow()) == []
    rig.worker.on_offer(rig.offer)
    assert messages(Report, rig.step())[0].declares == 1


# -- bids ------------------------------------------------------------------------------------------------------------


def test_a_bid_counts_what_runs_and_not_what_waits() -> None:
    rig = ready(2)
    rig.run("1", "2", "3", what=shape(need(2)))
    assert (rig.bid.free_slots, rig.bid.free_millicpus) == (0, 4000)
    rig.end("1", "2")
    assert (rig.bid.free_slots, rig.bid.free_millicpus) == (1, 6000)


def test_a_bid_counts_shares_of_cards() -> None:
    rig = Rig(slots=4, devices=(gpu(0), gpu(1)))
    rig.follow()
    rig.orders(
        grant("1", task("t1", shape=shape(need(gpus=0.25))), ("cuda:0",)),
        grant("2", task("t2", shape=shape(need(gpus=1))), ("cuda:1",)),
    )
    assert rig.bid.devices == (("cuda:0", 750), ("cuda:1", 0))


def test_speeds_are_told_when_they_are_new_or_moved_by_a_fifth() -> None:
    rig = ready(1)

    def told(micros: int) -> tuple[tuple[str, int], ...]:
        rig.run(name := f"a{rig.now}")
        rig.now += 1
        effects = rig.end(name, micros=micros)
        return tuple(speed for r in messages(Report, effects) if r.bid for speed in r.bid.speeds)

    assert told(1000) == (("k", 1000),)
    assert told(1000) == ()
    assert told(1400) == ()  # 1100 on average
    assert told(2000) == (("k", 1325),)
    assert rig.worker._speeds == {"k": 1325.0}
    (report,) = messages(Report, rig.follow(claim("c", 4)))
    assert report.bid is not None
    assert report.bid.speeds == (("k", 1325),), "a new leader is told all"


@pytest.mark.parametrize(("phase", "micros"), [(FAILED, 10), (SUCCEEDED, 0)])
def test_only_measured_successes_count(phase: int, micros: int) -> None:
    rig = ready()
    rig.run("1")
    (report,) = messages(Report, rig.end("1", phase=phase, micros=micros))
    assert report.bid is not None
    assert report.bid.speeds == ()


def test_the_allowance_is_50_ms_or_two_round_trips() -> None:
    rig = Rig()
    assert rig.bid.allowance_ms == 50
    rig.worker.round_trip = 0.1
    assert rig.bid.allowance_ms == 200


def test_a_new_offer_is_told_at_once() -> None:
    rig = ready()
    rig.worker.on_offer(offer(5))
    (report,) = messages(Report, rig.step())
    assert report.bid is not None
    assert report.bid.offer.slots == 5


# -- drain -----------------------------------------------------------------------------------------------------------


def test_draining_gives_back_what_waits_lets_run_what_runs_and_bids_no_more() -> None:
    rig = ready(1)
    rig.run("1", "2")
    rig.worker.on_drain(rig.now)
    effects = rig.step()
    assert reported(effects) == [("2", True, RELEASED)]
    assert only(StopAttempts, effects) == []
    assert rig.bid.offer.unwilling == "draining"
    effects = rig.run("3")
    assert [(a.id, a.outcome.code) for a in persisted(Attempt, effects)] == [("3", "drained")]
    assert begun(rig.end("1")) == []
    assert rig.worker.idle


def test_what_is_over_its_grace_is_stopped_all_together() -> None:
    rig = ready(2)
    rig.run("2", "1", "3")
    rig.worker.stop_all("drained", "its node is leaving")
    assert only(StopAttempts, rig.step()) == [StopAttempts(("1", "2"), "drained", "its node is leaving")]
    rig.end("1", "2")
    rig.end("3")
    rig.worker.stop_all("drained", "again")
    assert only(StopAttempts, rig.step()) == []


def test_an_attempt_that_ended_stays_as_it_ended() -> None:
    rig = ready()
    rig.run("1")
    rig.end("1")
    rig.worker.on_ended((("1", FAILED, Outcome(code="late")), ("9", FAILED, Outcome())), rig.now)
    assert reported(rig.step()) == []
    assert rig.worker.held["1"].attempt.phase == SUCCEEDED


def test_who_does_not_work_reports_nothing() -> None:
    rig = Rig()
    rig.worker.me = who("b", role="leader")
    assert messages(Report, rig.follow()) == []
    assert rig.worker.deadline() is None


def test_a_task_keeps_its_alternatives_resources() -> None:
    rig = ready()
    what = Task("t", "j", 0, "", Shape((Resources(1000), Resources(3000))), b"")
    rig.orders(grant("1", what, alternative=1))
    assert rig.bid.free_millicpus == 5000
    assert isinstance(rig.offer, Offer)
