"""Checkpoints in the ledger: which are kept, who hears of them, and what the next attempt goes on from."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest

from mesh.core.checkpoints import best_of, kept, of_task
from mesh.core.effects import BeginAttempts, StopAttempts
from mesh.core.events import PauseAsked
from mesh.core.lattice import (
    FAILED,
    LOST,
    OFFERED,
    RELEASED,
    RUNNING,
    Attempt,
    Checkpoint,
    Checkpointing,
    Outcome,
    Register,
    Retries,
    Shape,
)
from mesh.core.messages import PAUSED, Report
from tests.core import test_leader, test_worker
from tests.core.parts import PARAMS, grant, job, messages, node, only, task

BLOBS = [f"{number:064x}" for number in range(100)]


def saved(step: int, attempt: str = "1", number: int = 1, run: int = 1, **metrics: float) -> Checkpoint:
    text = json.dumps(metrics).encode() if metrics else b""
    return Checkpoint(run, step, attempt, number, BLOBS[step], 10, text)


# -- which are kept


def test_the_newest_are_kept_and_the_best_with_them() -> None:
    losses = (0.5, 0.1, 0.3, 0.4, 0.2)
    all_ = [saved(step, number=step + 1, loss=loss) for step, loss in enumerate(losses)]
    policy = Checkpointing(keep=2, metric="loss")
    assert [each.step for each in kept(all_, policy)] == [4, 3, 1]
    assert [each.step for each in kept(all_, policy._replace(maximize=True))] == [4, 3, 0]
    assert [each.step for each in kept(all_, policy._replace(metric=""))] == [4, 3]
    assert [each.step for each in kept(all_[:2], policy)] == [1, 0], "the best is one of the newest"


def test_what_is_pruned_one_by_one_is_what_is_pruned_at_once() -> None:
    policy = Checkpointing(keep=2, metric="loss")
    all_ = [saved(step, number=step + 1, loss=abs(step - 3)) for step in range(9)]
    told: tuple[Checkpoint, ...] = ()
    for each in all_:
        told = kept((*told, each), policy)
    assert told == kept(all_, policy)


def test_of_equally_good_ones_the_newest_and_what_is_no_number_is_never_the_best() -> None:
    policy = Checkpointing(metric="loss")
    assert best_of([saved(1, loss=1.0), saved(2, loss=1.0)], policy) == saved(2, loss=1.0)
    odd = [saved(step)._replace(metrics=text) for step, text in enumerate((b"no json", b"[]", b'{"loss": "x"}', b""))]
    assert best_of(odd, policy) is None


def test_the_newest_of_a_task_is_that_of_the_last_run_then_the_highest_step_lost_ones_included() -> None:
    attempts = [
        Attempt("j.t", "1", False, 3, LOST, 1, node("b"), saved=(saved(9), saved(8))),
        Attempt("j.t", "2", True, 1, FAILED, 2, node("c"), saved=(saved(4, "2", run=2),)),
        Attempt("j.t", "3", False, 0, OFFERED, 2, node("d")),
    ]
    assert of_task(attempts, Checkpointing()) == (saved(4, "2", run=2), saved(9), saved(8))


# -- the worker


@dataclass
class Rig(test_worker.Rig):
    what: Shape = field(default_factory=lambda: Shape(kind="k", checkpoints=Checkpointing(keep=2)))

    def __init__(self, what: Shape | None = None) -> None:
        super().__init__()
        self.what = what or Shape(kind="k", checkpoints=Checkpointing(keep=2))
        self.follow()
        self.orders()
        self.run("1", "2", what=self.what)
        self.worker.on_began((("1", 5),), self.now)
        self.later(PARAMS.heartbeat)

    def save(self, step: int, attempt: str = "1") -> list[Attempt]:
        """What the leader hears of it at once."""
        self.worker.on_saved(saved(step, attempt, step), self.now)
        return [a for report in messages(Report, self.step(), "a") for a in report.attempts]


def test_the_leader_hears_of_a_checkpoint_at_once_and_of_those_that_are_kept() -> None:
    rig = Rig()
    for step in (1, 2, 3):
        (told,) = rig.save(step)
    assert told.saved == (saved(3, number=3), saved(2, number=2))
    assert (told.phase, told.round) == (RUNNING, 3), "each is above the one before"


def test_a_report_of_a_checkpoint_that_was_lost_is_repeated() -> None:
    rig = Rig()
    (told,) = rig.save(1)
    again = messages(Report, rig.later(test_worker.REFRESH), "a")
    assert [a for report in again for a in report.attempts] == [told]


def test_what_it_goes_on_from_is_told_once_and_repeated() -> None:
    rig = Rig()
    rig.worker.on_resumed("1", BLOBS[3], rig.now)
    (report,) = messages(Report, rig.step(), "a")
    assert [a.resumed for a in report.attempts] == [BLOBS[3]]
    rig.worker.on_resumed("1", BLOBS[3], rig.now)
    assert not rig.step()


def test_checkpoints_are_declared_to_a_new_leader_and_are_part_of_the_end() -> None:
    rig = Rig()
    rig.save(1)
    declared = messages(Report, rig.follow(), "a")
    assert [a.saved for report in declared for a in report.attempts if a.id == "1"] == [(saved(1),)]
    rig.orders()
    (ended,) = [r for r in messages(Report, rig.end("1"), "a") if r.attempts]
    assert ended.attempts[0].saved == (saved(1),)


def test_a_checkpoint_of_what_has_ended_or_was_never_granted_changes_nothing() -> None:
    rig = Rig()
    rig.end("1")
    assert not rig.save(1)
    assert not rig.save(1, "7")


def test_a_grant_brings_what_it_goes_on_from() -> None:
    rig = test_worker.Rig()
    rig.follow()
    told = grant("1", task("t"))._replace(run=2, resume=(saved(7),))
    (begin,) = only(BeginAttempts, rig.orders(told))
    assert (begin.assignments[0].run, begin.assignments[0].resume) == (2, (saved(7),))


def test_a_drain_stops_at_once_what_has_a_checkpoint_and_later_what_saves_one() -> None:
    rig = Rig()
    rig.save(1)
    rig.worker.on_drain(rig.now)
    assert only(StopAttempts, rig.step()) == [StopAttempts(("1",), "drained", "its node is leaving")]
    rig.worker.on_saved(saved(1, "2"), rig.now)
    assert only(StopAttempts, rig.step()) == [StopAttempts(("2",), "drained", "its node is leaving")]


def test_a_recall_for_a_pause_says_so() -> None:
    rig = Rig()
    assert only(StopAttempts, rig.orders(recalls=(("1", PAUSED),))) == [
        StopAttempts(("1",), "paused", "its job was paused")
    ]


# -- the leader


class Hand(test_leader.Hand):
    def save(self, name: str, *steps: int) -> None:
        held = self.held[name]
        told = tuple(saved(step, name, step) for step in reversed(steps))
        self.held[name] = held._replace(phase=RUNNING, round=held.round + 1, saved=told)
        self.report(self.held[name])


def running(*more: str) -> tuple[test_leader.Rig, Hand, str]:
    """A leader, a worker, and its attempt at a task."""
    rig = test_leader.Rig()
    hand = rig.hands["b"] = Hand(rig, "b", 1)
    rig.member("b", "worker")
    hand.declare()
    rig.submit(task("j.0", shape=Shape(kind="k", retries=Retries(3, backoff_ms=0))), job_=job())
    return rig, hand, hand.attempt_at("j.0")


def test_after_the_death_of_a_machine_the_next_attempt_goes_on_from_the_newest() -> None:
    rig, hand, name = running()
    hand.save(name, 1, 2)
    rig.leader.on_gone(hand.node, rig.now)
    other = rig.hand("c")
    resumed = other.granted[other.attempt_at("j.0")]
    assert resumed.resume == (saved(2, name, 2), saved(1, name, 1))
    lost = rig.out.ledger.tasks["j.0"].attempts[name]
    assert (lost.phase, len(lost.saved)) == (LOST, 2)


def test_after_a_failure_too() -> None:
    rig, hand, name = running()
    hand.save(name, 4)
    hand.end(name, FAILED)
    rig.later(1)
    again = hand.granted[hand.attempt_at("j.0")]
    assert again.attempt != name
    assert again.resume == (saved(4, name, 4),)


def test_a_pause_recalls_what_has_a_checkpoint_and_lets_the_rest_end() -> None:
    rig = test_leader.Rig()
    hand = rig.hands["b"] = Hand(rig, "b", 2)
    rig.member("b", "worker")
    hand.declare()
    rig.submit(task("j.0"), task("j.1"))
    first, second = (hand.attempt_at(name) for name in ("j.0", "j.1"))
    hand.save(first, 1)
    hand.begin(second)
    rig.ask(PauseAsked, "j", True)
    assert hand.recalled == {first: PAUSED}
    hand.save(second, 1)
    assert hand.recalled == {first: PAUSED, second: PAUSED}, "now it loses nothing either"
    for name in (first, second):
        hand.end(name, RELEASED, code="paused")
    assert [rig.state(name) for name in ("j.0", "j.1")] == ["pending", "pending"]
    rig.ask(PauseAsked, "j", False)
    assert [each.resume for each in list(hand.granted.values())[2:]] == [(saved(1, first),), (saved(1, second),)]


def test_a_pause_that_comes_by_another_journal_recalls_too() -> None:
    rig, hand, name = running()
    hand.save(name, 1)
    rig.pulled(Register("job/j", "paused", 1, node("z"), "1"))
    assert hand.recalled == {name: PAUSED}


@pytest.mark.parametrize("late", [False, True])
def test_a_checkpoint_that_comes_after_its_node_was_given_up_blocks_nothing(late: bool) -> None:
    rig, hand, name = running()
    rig.leader.on_gone(hand.node, rig.now)
    if late:  # it was on its way
        hand.save(name, 3)
    rig.later(2 * PARAMS.lost_after, silent="b")
    other = rig.hand("c")
    rig.later(1, silent="b")
    assert [each.step for each in other.granted[other.attempt_at("j.0")].resume] == ([3] if late else [])


def test_of_two_attempts_after_a_heal_the_one_with_the_later_checkpoint_is_kept() -> None:
    """The second began later and, on the other side, got further."""
    rig, first, name = running()
    first.save(name, 1)
    rig.later(PARAMS.lost_after + 1, silent="b")
    second = rig.hands["c"] = Hand(rig, "c", 1)
    rig.member("c", "worker")
    second.declare()
    again = second.attempt_at("j.0")
    second.save(again, 2, 3)
    rig.beat("b")
    first.declare()
    assert first.recalled == {name: "another attempt is further along"}
    assert second.recalled == {}


def test_an_attempt_that_is_known_with_more_checkpoints_is_the_greater_one() -> None:
    mine = Attempt("j.t", "1", False, 1, RUNNING, 1, node("b"), Outcome(started_ms=5), (saved(1),))
    assert mine._replace(round=2, saved=(saved(2), saved(1))) > mine > mine._replace(round=0, saved=())
