"""From submission to acceptance, on the leader's side (sections 7 and 8 of docs/ARCHITECTURE.md)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mesh.core.effects import Answer, Effect, JobsChanged, TasksChanged
from mesh.core.events import CancelAsked, PauseAsked, PriorityAsked, RetryAsked, Submitted
from mesh.core.ids import Claim
from mesh.core.lattice import (
    FAILED,
    LOST,
    OFFERED,
    RELEASED,
    RUNNING,
    SUCCEEDED,
    TASK_CANCELLED,
    TASK_FAILED,
    Acceptance,
    Attempt,
    Ended,
    Outcome,
    Record,
    Register,
    Retries,
    Run,
    Shape,
    Task,
)
from mesh.core.leader import CLOSED, OPEN, PULLING, REBUILDING, Leader
from mesh.core.ledger import ACTIVE, BROKEN, CANCELLED, DONE, PENDING
from mesh.core.members import Members, Peer
from mesh.core.messages import Cursor, Grant, Orders, Pull, Pulled, Refused, Report
from mesh.core.params import Params
from mesh.core.puller import Puller
from mesh.core.tasks import NOT_COUNTED
from tests.core.bids import bid, offer, shape
from tests.core.parts import (
    PARAMS,
    attempts_of,
    beat,
    claim,
    hello,
    job,
    messages,
    node,
    one,
    only,
    outbox,
    persisted,
    success,
    task,
    tasks,
    who,
)

LEADER = claim("a", 3)


class Hand:
    """A worker as the leader hears it. It obeys at once and begins all that it is granted."""

    def __init__(self, rig: Rig, name: str, slots: int = 2) -> None:
        self.rig, self.name, self.node, self.slots = rig, name, node(name), slots
        self.session = self.applied = self.rounds = 0
        self.life = f"{name}1"
        self.held: dict[str, Attempt] = {}
        self.granted: dict[str, Grant] = {}
        self.recalled: dict[str, str] = {}
        self.acked: list[str] = []
        self.unknown: list[str] = []

    def obey(self, orders: Orders) -> None:
        if orders.session != self.session:
            return
        self.acked += orders.acks
        self.unknown += orders.unknown
        for name in orders.acks:
            self.held.pop(name, None)
        if orders.seq == self.applied + 1:
            self.applied = orders.seq
            for grant in orders.grants:
                self.granted[grant.attempt] = grant
                self.held[grant.attempt] = Attempt(
                    grant.task.id, grant.attempt, False, 0, OFFERED, grant.run, self.node
                )
            self.recalled.update(orders.recalls)

    def report(
        self,
        *attempts: Attempt,
        declares: int = 0,
        slices: int = 0,
        whom: Claim | None = None,
        progress: tuple[tuple[str, bytes], ...] = (),
    ) -> list[Effect]:
        free = self.slots - sum(not a.ended for a in self.held.values())
        what = bid(offer(self.slots))._replace(free_slots=max(0, free))
        report = Report(
            whom or self.rig.leader.claim, self.life, self.applied, attempts, progress, what, declares, (),
            self.session, slices,
        )  # fmt: skip
        self.rig.leader.on_report(self.node, report, self.rig.now)
        return self.rig.step()

    def declare(self, whom: Claim | None = None) -> list[Effect]:
        """All that it holds, with raised rounds: a new session."""
        self.session, self.applied, self.rounds = self.session + 1, 0, self.rounds + 1
        self.held = {n: a if a.ended else a._replace(round=self.rounds) for n, a in self.held.items()}
        return self.report(*self.held.values(), declares=1, slices=1, whom=whom)

    def begin(self, name: str) -> list[Effect]:
        self.held[name] = self.held[name]._replace(phase=RUNNING)
        return self.report(self.held[name])

    def end(self, name: str, phase: int = SUCCEEDED, **outcome: Any) -> list[Effect]:
        what = success()._replace(**outcome) if phase == SUCCEEDED else Outcome(**{"code": "ValueError", **outcome})
        self.held[name] = self.held[name]._replace(ended=True, phase=phase, outcome=what)
        return self.report(self.held[name])

    def attempt_at(self, task: str) -> str:
        """The newest attempt that it was granted at this task."""
        found = [name for name, grant in self.granted.items() if grant.task.id == task]
        assert found, f"{self.name} was never granted {task}"
        return found[-1]

    def does(self, task: str) -> bool:
        return any(a.task == task and not a.ended for a in self.held.values())


class Rig:
    """The leader's part on node ``a``, which works not itself."""

    def __init__(self, *records: Record, params: Params = PARAMS, open_as: Claim | None = LEADER) -> None:
        self.out = outbox("a", records)
        self.params = params
        self.members = Members(node("a"), "a:1", params, self.out)
        self.puller = Puller(params, self.members, self.out, (Cursor("mine", 0, ""),), (), self._absorb)
        self.copies: dict[str, int] | None = None  # of successors; None: there is none to wait for
        self.leader = Leader(who("a", "leader"), params, self.members, self.puller, self.out)
        self.hands: dict[str, Hand] = {}
        self.now = 100.0
        self.calls = 0
        self.on_disk = True
        if open_as is not None:
            self.leader.open(open_as, self.now)
            self.step()

    def _absorb(self, records: tuple[Record, ...], cursor: Cursor, now: float) -> None:
        self.leader.on_records(self.out.absorb(records, cursor), now, cursor.journal)

    def pulled(self, *records: Record) -> list[Effect]:
        """What another node's journal holds."""
        self._absorb(records, Cursor("other", 1, ""), self.now)
        return self.step()

    def step(self) -> list[Effect]:
        self.leader.work(self.now)
        self._release()
        effects = self.out.flush()
        if self.on_disk:
            while not self.out.durable:
                self.out.on_synced(self.out.position)
                self._release()
                effects += self.out.flush()
        for hand in self.hands.values():
            for orders in messages(Orders, effects, hand.name):
                hand.obey(orders)
        self.leader.check(whole=True)
        self.out.ledger.check(whole=True)
        return effects

    def _release(self) -> None:
        self.out.release(self.out.synced if self.copies is None else max(self.copies.values(), default=0))
        self.leader.tasks.show()

    def sync(self) -> list[Effect]:
        self.on_disk = True
        return self.step()

    def later(self, seconds: float, silent: str = "") -> list[Effect]:
        """All but the silent go on beating; the leader works at every deadline of its own."""
        until, effects = self.now + seconds, list[Effect]()
        while self.now < until:
            due = self.leader.deadline()
            self.now = min(until, self.now + 0.5, max(self.now + 0.001, due if due is not None else until))
            for hand in self.hands.values():
                if hand.name not in silent:
                    self.beat(hand.name)
            effects += self.step()
        return effects

    def beat(self, name: str, **says: Any) -> None:
        peer = self.members.peers[node(name)]
        self.members.number(peer, self.now)
        self.members.on_heartbeat(peer, beat(name, peer.heard_seq + 1, peer.seq, life=peer.life, **says), self.now)

    def member(self, name: str, role: str = "auto") -> Peer:
        """Linked and heard in both directions."""
        peer = self.members.on_link_up(len(self.members.links) + 1, hello(who(name, role)), "", 0.0)
        self.beat(name)
        return peer

    def hand(self, name: str = "b", slots: int = 2, declares: bool = True) -> Hand:
        self.member(name, "worker")
        hand = self.hands[name] = Hand(self, name, slots)
        if declares:
            hand.declare()
        return hand

    def submit(self, *each: Task, job_: Any = None) -> list[Effect]:
        self.calls += 1
        self.leader.on_submitted(Submitted(self.calls, job_ or job(each[0].job), each), self.now)
        return self.step()

    def ask(self, kind: Any, *arguments: Any) -> Answer:
        self.calls += 1
        self.leader.on_asked(kind(self.calls, *arguments), self.now)
        answers: list[Answer] = []
        for _ in range(1000):
            answers += only(Answer, self.step())
            if answers:
                break
        assert [a.call for a in answers] == [self.calls]
        return answers[0]

    def state(self, name: str) -> str:
        return self.out.ledger.tasks[name].state


def run_to_end(rig: Rig, hand: Hand, name: str, **outcome: Any) -> list[Effect]:
    return hand.end(hand.attempt_at(name), **outcome)


# -- submissions -----------------------------------------------------------------------------------------------------


def test_a_submission_is_answered_when_it_is_on_disk_and_says_where() -> None:
    rig = Rig()
    rig.on_disk = False
    effects = rig.submit(*tasks(3))
    assert only(Answer, effects) == []
    assert len(persisted(Task, effects)) == 3
    effects = rig.sync()
    assert one(Answer, effects) == Answer(1, count=3, durable_on=(node("a"),))
    assert one(JobsChanged, effects).jobs == ("j",)


def test_a_submission_names_the_successors_that_have_it() -> None:
    rig = Rig()
    rig.copies = {node("b"): rig.out.position, node("c"): rig.out.position}
    rig.out.holders = lambda position: tuple(n for n, copied in (rig.copies or {}).items() if copied >= position)
    assert only(Answer, rig.submit(*tasks(1))) == [], "it is on our disk, and on no other one yet"
    rig.copies[node("b")] = rig.out.position
    assert one(Answer, rig.step()).durable_on == (node("a"), node("b"))


def test_a_submission_that_is_sent_again_is_the_same_submission() -> None:
    rig = Rig()
    hand = rig.hand()
    rig.submit(*tasks(2))
    position = rig.out.position
    again = one(Answer, rig.submit(*tasks(2)))
    assert (again.error, again.count) == ("", 2)
    assert rig.out.position == position
    assert len(hand.granted) == 2


def test_a_job_may_come_in_slices() -> None:
    rig = Rig()
    each = tasks(4)
    rig.submit(*each[:2])
    rig.submit(*each[2:])
    assert rig.out.ledger.jobs["j"].tasks == [t.id for t in each]


def test_the_same_job_id_with_other_contents_is_refused_and_nothing_changes() -> None:
    rig = Rig()
    rig.submit(*tasks(1))
    position = rig.out.position
    answer = one(Answer, rig.submit(task("new"), job_=job("j", digest="other")))
    assert answer.error == "Conflict"
    assert "job j exists with other contents" in answer.message
    assert rig.out.position == position
    assert "new" not in rig.out.ledger.tasks


@pytest.mark.parametrize("other", [task("t")._replace(digest="other"), task("t", job="k")], ids=["digest", "job"])
def test_the_same_task_id_with_other_contents_is_refused_and_nothing_changes(other: Task) -> None:
    rig = Rig()
    rig.submit(task("t"))
    position = rig.out.position
    answer = one(Answer, rig.submit(task("new", job=other.job), other))
    assert answer.error == "Conflict"
    assert "task t exists with other contents" in answer.message
    assert rig.out.position == position


def test_nobody_takes_a_submission_where_nobody_leads_or_nothing_can_be_written() -> None:
    rig = Rig(open_as=None)
    assert one(Answer, rig.submit(task())).error == "NoLeader"
    rig = Rig()
    rig.leader.trouble = "the disk is full"
    answer = one(Answer, rig.submit(task()))
    assert answer.error == "NoLeader"
    assert "the disk is full" in answer.message
    assert rig.ask(CancelAsked, "j").error == "NoLeader"


# -- grants and results ----------------------------------------------------------------------------------------------


def test_grants_leave_before_they_are_on_disk_they_promise_nothing() -> None:
    rig = Rig()
    rig.hand("b")
    rig.on_disk = False
    effects = rig.submit(task())
    assert [g.task.id for orders in messages(Orders, effects, "b") for g in orders.grants] == ["t"]
    assert [a.phase for a in persisted(Attempt, effects)] == [OFFERED]


def test_no_two_grants_have_one_id_and_each_names_claim_and_run() -> None:
    rig = Rig()
    hand = rig.hand(slots=3)
    rig.submit(*tasks(3))
    assert list(hand.granted) == ["3.50-a.a1.1", "3.50-a.a1.2", "3.50-a.a1.3"]
    assert {grant.run for grant in hand.granted.values()} == {1}


def test_an_acknowledgement_waits_for_the_disk() -> None:
    """The worker forgets what is acknowledged: the record must be ours by then."""
    rig = Rig()
    hand = rig.hand()
    rig.submit(task())
    rig.on_disk = False
    run_to_end(rig, hand, "t")
    assert hand.acked == []
    rig.sync()
    assert hand.acked == [hand.attempt_at("t")]


def test_an_acceptance_is_shown_only_when_it_is_on_disk() -> None:
    rig = Rig()
    hand = rig.hand()
    rig.submit(task())
    rig.on_disk = False
    effects = run_to_end(rig, hand, "t")
    assert persisted(Acceptance, effects) == [Acceptance("t", hand.attempt_at("t"), LEADER, "digest of r")]
    assert only(TasksChanged, effects) == []
    assert one(TasksChanged, rig.sync()).tasks == ("t",)
    assert rig.state("t") == DONE


def test_what_is_safe_is_not_shown_where_it_changes_again_in_that_step() -> None:
    """Whoever is told looks at it after the step, when it is something else that no copy has yet."""
    rig = Rig()
    hand = rig.hand()
    rig.submit(task())
    hand.end(hand.attempt_at("t"), FAILED)
    rig.copies = {"s": rig.out.position}
    assert rig.leader.tasks.retry("t", rig.now)
    assert only(TasksChanged, rig.step()) == []
    rig.copies = {"s": rig.out.position}
    rig.out.release(rig.out.position)
    assert only(TasksChanged, hand.end(hand.attempt_at("t"))) == []
    rig.copies = {"s": rig.out.position}
    assert one(TasksChanged, rig.step()).tasks == ("t",)
    assert rig.state("t") == DONE


def test_a_result_that_comes_again_is_acknowledged_again_and_counted_once() -> None:
    rig = Rig()
    hand = rig.hand()
    rig.submit(task())
    run_to_end(rig, hand, "t")
    position = rig.out.position
    ended = attempts_of(rig.out.ledger, "t")[0]
    hand.report(ended)
    assert hand.acked == [ended.id] * 2
    assert rig.out.position == position


def test_what_is_not_known_is_said_to_be_unknown_and_not_recorded() -> None:
    rig = Rig()
    hand = rig.hand()
    position = rig.out.position
    hand.report(Attempt("strange", "9.x.y.1", True, 0, SUCCEEDED, 1, hand.node, success()))
    assert (hand.unknown, hand.acked) == (["9.x.y.1"], [])
    assert rig.out.position == position
    rig.submit(task("strange"))
    hand.report(Attempt("strange", "9.x.y.1", True, 0, SUCCEEDED, 1, hand.node, success()))
    assert hand.acked == ["9.x.y.1"]
    assert rig.state("strange") == DONE


def test_a_report_under_another_claim_is_recorded_and_not_answered() -> None:
    """What is true is true whoever is followed; but acknowledgements go to one's own followers."""
    rig = Rig()
    hand = rig.hand()
    rig.submit(task())
    name = hand.attempt_at("t")
    ended = hand.held[name]._replace(ended=True, phase=SUCCEEDED, outcome=success())
    hand.report(ended, whom=claim("z", 9))
    assert hand.acked == []
    assert rig.state("t") == DONE


def test_a_task_that_is_done_is_not_granted_and_its_other_attempts_are_recalled() -> None:
    rig = Rig()
    first, second = rig.hand("b"), rig.hand("c")
    rig.submit(task())
    holder, other = (first, second) if first.granted else (second, first)
    rig.pulled(Attempt("t", "2.x.y.1", True, 0, SUCCEEDED, 1, node("z"), success()))
    assert rig.state("t") == DONE
    assert holder.recalled == {holder.attempt_at("t"): "the task succeeded"}
    assert other.granted == {}


def test_a_node_that_cannot_do_such_work_is_left_alone_for_a_while() -> None:
    rig = Rig()
    hand = rig.hand()
    where = Shape(kind="k", cwd="/data")
    rig.submit(task("t1", shape=where))
    run_to_end(rig, hand, "t1", phase=RELEASED, code="refused", message="no such directory: /data")
    assert not hand.does("t1")
    rig.submit(task("t2", shape=where), task("t3"))
    assert (hand.does("t2"), hand.does("t3")) == (False, True)
    rig.later(31.0)
    assert hand.does("t1")


def test_max_parallel_holds() -> None:
    rig = Rig()
    hand = rig.hand(slots=8)
    rig.submit(*tasks(5), job_=job(max_parallel=2))
    assert len(hand.granted) == 2
    run_to_end(rig, hand, "j-00000")
    assert len(hand.granted) == 3


# -- failures and retries --------------------------------------------------------------------------------------------


def retrying(count: int, **more: Any) -> Shape:
    return Shape(kind="k", retries=Retries(count, **more))


def test_a_failure_is_final_without_retries_and_shown_when_on_disk() -> None:
    rig = Rig()
    hand = rig.hand()
    rig.submit(task())
    rig.on_disk = False
    effects = run_to_end(rig, hand, "t", phase=FAILED, message="bad value")
    assert persisted(Ended, effects) == [Ended("t", 1, TASK_FAILED, "ValueError", "bad value")]
    assert only(TasksChanged, effects) == []
    assert one(TasksChanged, rig.sync()).tasks == ("t",)
    assert rig.state("t") == BROKEN


def test_retries_wait_exponentially_longer_spread_by_ids_and_then_end() -> None:
    rig = Rig()
    hand = rig.hand()
    rig.submit(task(shape=retrying(3, backoff_ms=1000, factor_milli=2000)))
    waits = []
    for number in range(3):
        run_to_end(rig, hand, "t", phase=FAILED)
        assert rig.state("t") == PENDING
        began, granted = rig.now, len(hand.granted)
        while len(hand.granted) == granted:
            due = rig.leader.deadline()
            assert due is not None
            rig.later(max(0.001, due - rig.now))
            assert rig.now - began < 10
        waits.append((rig.now - began) / 2**number)
    assert all(0.75 <= wait <= 1.01 for wait in waits)
    assert len(set(waits)) == 3, "they do not return as one"
    run_to_end(rig, hand, "t", phase=FAILED, message="the fourth")
    assert rig.state("t") == BROKEN
    assert rig.out.ledger.tasks["t"].ended == Ended("t", 1, TASK_FAILED, "ValueError", "the fourth")


def test_a_back_off_is_limited() -> None:
    rig = Rig()
    hand = rig.hand()
    rig.submit(task(shape=retrying(9, backoff_ms=60_000, max_delay_ms=2_000)))
    run_to_end(rig, hand, "t", phase=FAILED)
    rig.later(2.1)
    assert len(hand.granted) == 2


def test_what_no_retry_can_help_ends_at_once() -> None:
    rig = Rig()
    hand = rig.hand()
    rig.submit(task(shape=retrying(5, not_on=("TypeError",))))
    run_to_end(rig, hand, "t", phase=FAILED, code="TypeError", message="wrong type")
    assert rig.state("t") == BROKEN
    ended = rig.out.ledger.tasks["t"].ended
    assert ended is not None
    assert (ended.code, "not_on" in ended.message) == ("TypeError", True)


def test_what_was_released_counts_against_nothing() -> None:
    rig = Rig()
    hand = rig.hand()
    rig.submit(task())
    for _ in range(5):
        run_to_end(rig, hand, "t", phase=RELEASED, code="drained")
    assert rig.state("t") == PENDING
    assert len(hand.granted) == 6


def test_a_success_after_failures_is_accepted() -> None:
    rig = Rig()
    hand = rig.hand()
    rig.submit(task(shape=retrying(1, backoff_ms=0)))
    run_to_end(rig, hand, "t", phase=FAILED)
    run_to_end(rig, hand, "t")
    assert rig.state("t") == DONE


# -- losses ----------------------------------------------------------------------------------------------------------


def test_of_what_is_missing_in_a_declaration_what_ran_died_and_what_was_offered_never_arrived() -> None:
    rig = Rig()
    hand = rig.hand()
    rig.submit(*tasks(2))
    ran, offered = hand.attempt_at("j-00000"), hand.attempt_at("j-00001")
    hand.begin(ran)
    hand.held.clear()
    effects = hand.declare()
    lost = {a.id: a.outcome.code for a in persisted(Attempt, effects) if a.phase == LOST}
    assert lost == {ran: "its process ended", offered: NOT_COUNTED}
    assert len(hand.granted) == 4, "both are granted again"


def test_what_was_offered_to_a_former_life_may_have_begun() -> None:
    rig = Rig()
    hand = rig.hand()
    rig.submit(task())
    first = hand.attempt_at("t")
    hand.held.clear()
    hand.life, hand.session = "b2", 0
    rig.members.peers[hand.node].life = hand.life
    hand.declare()
    codes = [a.outcome.code for a in attempts_of(rig.out.ledger, "t") if a.phase == LOST]
    assert first
    assert codes == ["its process ended"]


def test_what_is_declared_runs_on_and_is_not_granted_again() -> None:
    rig = Rig()
    hand = rig.hand(slots=4)
    rig.submit(*tasks(2))
    for name in list(hand.held):
        hand.begin(name)
    hand.declare()
    hand.declare()
    assert len(hand.granted) == 2
    assert rig.state("j-00000") == ACTIVE
    run_to_end(rig, hand, "j-00000")
    assert rig.state("j-00000") == DONE


def test_a_declaration_counts_only_when_all_of_it_is_here() -> None:
    rig = Rig()
    hand = rig.hand(slots=4)
    rig.submit(*tasks(2))
    held = list(hand.held.values())
    hand.session, hand.applied = 2, 0
    hand.report(held[1], declares=1, slices=2)
    assert [a.phase for a in attempts_of(rig.out.ledger, "j-00000")] == [OFFERED]
    hand.report(held[0], declares=2, slices=2)
    assert [a.phase for a in attempts_of(rig.out.ledger, "j-00000")] == [OFFERED]
    assert len(hand.granted) == 2


def test_tasks_that_kill_machines_end_after_three() -> None:
    rig = Rig()
    rig.submit(task())
    for number, name in enumerate("bcd"):
        hand = rig.hand(name)
        hand.begin(hand.attempt_at("t"))
        assert rig.state("t") == ACTIVE, f"after {number} losses it is tried again"
        rig.members.peers[hand.node].gone = True
        rig.leader.on_gone(hand.node, rig.now)
        del rig.hands[name]
        rig.step()
    assert rig.state("t") == BROKEN
    ended = rig.out.ledger.tasks["t"].ended
    assert ended is not None
    assert ended.code == "lost"
    assert all(node(name) in ended.message for name in "bcd")


def test_what_never_arrived_is_held_against_nobody() -> None:
    rig = Rig()
    hand = rig.hand()
    rig.submit(task())
    for _ in range(6):
        hand.held.clear()
        hand.declare()
    assert rig.state("t") == PENDING
    assert hand.does("t")


def test_a_silent_worker_gets_nothing_more_and_what_it_runs_is_lost_after_half_a_minute() -> None:
    rig = Rig()
    silent, other = rig.hand("b", slots=1), rig.hand("c", slots=1)
    rig.submit(*tasks(2))
    name = next(iter(silent.granted))
    mine = silent.granted[name].task.id
    silent.begin(name)
    rig.later(3.0, silent="b")
    rig.submit(task("late"))
    run_to_end(rig, other, next(t for t in ("j-00000", "j-00001") if t != mine))
    assert other.does("late")
    assert "late" not in {grant.task.id for grant in silent.granted.values()}
    rig.later(26.5, silent="b")
    assert rig.state(mine) == ACTIVE
    run_to_end(rig, other, "late")
    rig.later(1.0, silent="b")
    assert other.does(mine)
    (lost,) = [a for a in attempts_of(rig.out.ledger, mine) if a.phase == LOST]
    assert "silent for 30 s" in lost.outcome.code


def test_a_worker_that_comes_back_in_time_goes_on_with_what_it_runs() -> None:
    rig = Rig()
    hand = rig.hand(slots=1)
    rig.submit(task())
    hand.begin(hand.attempt_at("t"))
    rig.later(20.0, silent="b")
    rig.beat("b")
    assert messages(Refused, hand.report()) == [Refused(LEADER, alive=True)], "it has to declare"
    hand.declare()
    rig.later(20.0)
    assert len(hand.granted) == 1
    run_to_end(rig, hand, "t")
    assert rig.state("t") == DONE


def test_a_loss_that_is_refuted_recalls_the_attempt_that_is_less_far() -> None:
    rig = Rig()
    first = rig.hand("b", slots=1)
    rig.submit(task())
    first.begin(first.attempt_at("t"))
    rig.later(31.0, silent="b")
    second = rig.hand("c", slots=1)
    assert second.does("t")
    rig.beat("b")
    first.declare()
    assert second.recalled == {second.attempt_at("t"): "another attempt is further along"}
    assert first.recalled == {}
    second.end(second.attempt_at("t"), RELEASED, code="recalled")
    first.end(first.attempt_at("t"))
    assert rig.state("t") == DONE
    assert len(attempts_of(rig.out.ledger, "t")) == 2


def test_a_result_of_an_attempt_that_was_held_lost_is_taken_and_the_other_recalled() -> None:
    rig = Rig()
    first = rig.hand("b", slots=1)
    rig.submit(task())
    name = first.attempt_at("t")
    rig.later(31.0, silent="b")
    second = rig.hand("c", slots=1)
    assert second.does("t")
    rig.beat("b")
    first.held[name] = first.held[name]._replace(ended=True, phase=SUCCEEDED, outcome=success())
    first.declare()
    assert rig.state("t") == DONE
    assert second.recalled == {second.attempt_at("t"): "the task succeeded"}
    assert first.acked == [name]


def test_a_process_that_is_gone_loses_its_work_at_once() -> None:
    rig = Rig()
    hand, other = rig.hand("b", slots=1), rig.hand("c", slots=1)
    rig.submit(task())
    holder, free = (hand, other) if hand.granted else (other, hand)
    holder.begin(holder.attempt_at("t"))
    rig.members.peers[holder.node].gone = True
    rig.leader.on_gone(holder.node, rig.now)
    rig.step()
    assert free.does("t")


def test_while_its_journal_fails_a_leader_grants_nothing_and_is_not_woken_for_it() -> None:
    rig = Rig()
    hand = rig.hand(slots=2)
    rig.submit(task("t1", shape=retrying(1, backoff_ms=100)))
    run_to_end(rig, hand, "t1", phase=FAILED)
    rig.submit(task("t2"))
    run_to_end(rig, hand, "t2")
    rig.leader.trouble = "the disk is full"
    hand.report()
    rig.now += 5.0
    rig.beat("b")
    rig.step()
    due = rig.leader.deadline()
    assert due is None or due > rig.now
    assert not hand.does("t1")
    rig.leader.trouble = ""
    rig.step()
    assert hand.does("t1")


# -- what people ask -------------------------------------------------------------------------------------------------


def test_cancelling_ends_what_waits_recalls_what_runs_and_leaves_what_is_done() -> None:
    rig = Rig()
    hand = rig.hand(slots=2)
    rig.submit(*tasks(3))
    run_to_end(rig, hand, "j-00000")
    hand.begin(hand.attempt_at("j-00001"))
    answer = rig.ask(CancelAsked, "j")
    assert (answer.error, answer.count) == ("", 2)
    assert [rig.state(f"j-0000{i}") for i in range(3)] == [DONE, CANCELLED, CANCELLED]
    assert set(hand.recalled.values()) == {"cancelled"}
    assert hand.attempt_at("j-00001") in hand.recalled
    hand.end(hand.attempt_at("j-00001"), RELEASED, code="recalled")
    assert rig.state("j-00001") == CANCELLED
    assert rig.ask(CancelAsked, "j").count == 0


def test_a_success_that_comes_after_the_cancel_stays_cancelled() -> None:
    rig = Rig()
    hand = rig.hand()
    rig.submit(task())
    rig.ask(CancelAsked, "t")
    run_to_end(rig, hand, "t")
    assert rig.state("t") == CANCELLED
    assert hand.acked == [hand.attempt_at("t")]


def test_a_cancellation_is_answered_and_shown_when_it_is_on_disk() -> None:
    rig = Rig()
    rig.submit(task())
    rig.on_disk = False
    rig.leader.on_asked(CancelAsked(7, "t"), rig.now)
    effects = rig.step()
    assert persisted(Run, effects) == [Run("t", 1, 1)]
    assert persisted(Ended, effects)[0].status == TASK_CANCELLED
    assert only(Answer, effects) == []
    assert only(TasksChanged, effects) == []
    effects = rig.sync()
    assert one(Answer, effects).call == 7
    assert one(TasksChanged, effects).tasks == ("t",)


def test_retrying_by_hand_is_a_new_run_with_all_its_retries() -> None:
    rig = Rig()
    hand = rig.hand()
    rig.submit(task(shape=retrying(1, backoff_ms=0)), task("done"), task("gone"))
    for _ in range(2):
        run_to_end(rig, hand, "t", phase=FAILED)
    assert rig.state("t") == BROKEN
    run_to_end(rig, hand, "done")
    rig.ask(CancelAsked, "gone")
    hand.end(hand.attempt_at("gone"), RELEASED)
    assert rig.ask(RetryAsked, "j").count == 2, "what was accepted is not run again"
    assert hand.granted[hand.attempt_at("t")].run == 2
    run_to_end(rig, hand, "t", phase=FAILED)
    assert rig.state("t") == PENDING, "one retry is left in this run"
    run_to_end(rig, hand, "t")
    run_to_end(rig, hand, "gone")
    assert {rig.state(name) for name in ("t", "done", "gone")} == {DONE}


def test_a_paused_job_is_granted_nothing_until_it_is_resumed() -> None:
    rig = Rig()
    hand = rig.hand(slots=1)
    rig.submit(task("j-00000"), task("j-00001", shape=shape(kind="other")))
    rig.ask(PauseAsked, "j", True)
    run_to_end(rig, hand, "j-00000")
    assert len(hand.granted) == 1
    assert rig.out.ledger.value("job/j", "paused") == "1"
    rig.ask(PauseAsked, "j", False)
    assert hand.does("j-00001")


def test_a_pause_outlives_its_leader() -> None:
    rig = Rig(job(), *tasks(1), Register("job/j", "paused", 1, node("z"), "1"))
    hand = rig.hand()
    assert hand.granted == {}
    rig.pulled(Register("job/j", "paused", 2, node("z"), ""))
    assert hand.does("j-00000")


def test_priority_of_a_job_and_of_one_task() -> None:
    rig = Rig()
    rig.submit(task("j-00000"), task("j-00001", shape=shape(kind="other")))  # no kind queues behind another
    rig.submit(task("k-00000", "k", shape(kind="third")))
    rig.ask(PriorityAsked, "k", 9)
    rig.ask(PriorityAsked, "j-00001", 10)
    hand = rig.hand(slots=1)
    order = []
    for _ in range(3):
        name = next(reversed(hand.granted))
        order.append((hand.granted[name].task.id, hand.granted[name].priority))
        hand.end(name)
    assert order == [("j-00001", 10), ("k-00000", 9), ("j-00000", 5)]


def test_an_unknown_id_is_denied_only_when_every_journal_was_read() -> None:
    rig = Rig()
    answer = rig.ask(CancelAsked, "nothing")
    assert answer.error == "NotFound"
    rig.member("m")
    assert rig.ask(CancelAsked, "nothing").error == "NoLeader", "its journal was not read yet"
    rig.leader.on_heartbeat(rig.members.peers[node("m")], LEADER, "", rig.now)
    rig.puller.on_pulled(node("m"), Pulled(1, Cursor("journal", 0, ""), True, ()), rig.now)
    assert rig.ask(CancelAsked, "nothing").error == "NotFound"
    rig.now += 5.0
    answer = rig.ask(CancelAsked, "nothing")
    assert answer.error == "NoLeader"
    assert "away" in answer.message
    assert answer.message.endswith("m; try again")
    rig.beat("m")
    assert rig.ask(CancelAsked, "nothing").error == "NoLeader", "it may have led while it was away"
    rig = Rig(open_as=None)
    rig.member("m")
    rig.leader.open(LEADER, rig.now)
    assert "journals" in rig.ask(CancelAsked, "nothing").message


# -- provisional -----------------------------------------------------------------------------------------------------

FORMER = Attempt("j-00000", "1.50-z.z1.1", False, 0, RUNNING, 1, node("z"))


def test_a_provisional_leader_that_knows_others_grants_only_what_was_submitted_to_it() -> None:
    rig = Rig(job(), *tasks(2), open_as=None)
    rig.member("m")
    rig.leader.open(claim("a", 2, established=False), rig.now)
    hand = rig.hand(slots=8)
    assert hand.granted == {}
    rig.submit(task("new", job="k"))
    assert [grant.task.id for grant in hand.granted.values()] == ["new"]
    rig.leader.open(claim("a", 3), rig.now)
    rig.step()
    rig.puller.sessions.clear()  # m's journal held nothing
    hand.declare()
    rig.later(PARAMS.takeover_grace)
    assert {grant.task.id for grant in hand.granted.values()} == {"new", "j-00000", "j-00001"}
    assert len(hand.granted) == 3, "what runs already is not granted again"


def test_a_provisional_leader_that_is_alone_grants_all() -> None:
    rig = Rig(job(), *tasks(2), open_as=claim("a", 2, established=False))
    assert rig.leader.phase == OPEN
    rig.submit(task("new", job="k"))


# -- taking over -----------------------------------------------------------------------------------------------------


def test_a_takeover_pulls_rebuilds_and_then_grants_after_its_grace() -> None:
    rig = Rig(job(), *tasks(2), open_as=None)
    rig.member("m")
    rig.leader.open(LEADER, rig.now)
    effects = rig.step()
    assert rig.leader.phase == PULLING
    assert messages(Pull, effects, "m") == [Pull(1, (Cursor("mine", rig.out.synced, ""),))]
    hand = rig.hand(slots=8)
    assert hand.granted == {}
    rig.puller.on_pulled(node("m"), Pulled(1, Cursor("journal", 1, ""), True, (task("of-m"),)), rig.now)
    rig.step()
    assert rig.leader.phase == OPEN
    assert hand.granted == {}
    rig.later(PARAMS.takeover_grace - 0.01)
    assert hand.granted == {}
    rig.later(0.02)
    assert {grant.task.id for grant in hand.granted.values()} == {"j-00000", "j-00001", "of-m"}


def test_a_takeover_grants_as_soon_as_everybody_said_what_it_runs() -> None:
    """The wait is for what no journal knows. Who is gone runs nothing; who leads only, neither."""
    rig = Rig(job(), *tasks(2), open_as=None)
    rig.member("m", "leader")
    rig.member("gone")
    rig.members.peers[node("gone")].gone = True
    one_, other = rig.hand("b", declares=False), rig.hand("c", declares=False)
    rig.leader.open(LEADER, rig.now)
    rig.step()
    rig.puller.on_pulled(node("m"), Pulled(1, Cursor("journal", 1, ""), True, (task("of-m"),)), rig.now)
    one_.declare()
    rig.step()
    assert rig.leader.phase == OPEN
    assert one_.granted == {}
    other.declare()
    rig.step()
    assert {grant.task.id for hand in (one_, other) for grant in hand.granted.values()} >= {"j-00000", "j-00001"}


def test_a_task_of_a_journal_that_is_read_in_slices_waits_for_the_last() -> None:
    """Of a member that comes in reach later. What follows may say that it was accepted long ago."""
    rig = Rig(job())
    hand = rig.hand(slots=8)
    rig.submit(task("known"))
    rig.leader.gathering.on_member(rig.member("m"), rig.now)
    (pull,) = messages(Pull, rig.step(), "m")
    done = Attempt("old", "2.m.1", True, 0, SUCCEEDED, 1, node("m"), success())

    def told(position: int, end: bool, *records: Record) -> None:
        rig.puller.on_pulled(node("m"), Pulled(pull.session, Cursor("of m", position, ""), end, records), rig.now)
        rig.step()

    told(2, False, task("old"), task("new"))
    rig.submit(task("another"))
    assert {grant.task.id for grant in hand.granted.values()} == {"known", "another"}
    told(4, True, done, Acceptance("old", done.id, claim("m", 2), success().digest))
    assert {grant.task.id for grant in hand.granted.values()} == {"known", "another", "new"}
    assert rig.state("old") == DONE
    assert list(rig.out.ledger.tasks["old"].acceptances or {}) == [done.id]


def test_what_a_half_read_journal_has_changed_is_shown_once_that_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was about to be shown as it stood before, and stands otherwise by now, which is on no disk yet."""
    rig = Rig(job())
    hand = rig.hand()
    rig.submit(task("t"))
    rig.on_disk = False
    run_to_end(rig, hand, "t")
    monkeypatch.setattr(rig.leader.gathering, "reading", lambda journal, now: True)
    rig.leader.tasks.learn("of m", ["t"])
    rig.leader.tasks.consider("t", rig.now)
    assert not only(TasksChanged, rig.sync() + rig.step())
    monkeypatch.undo()
    assert only(TasksChanged, rig.step() + rig.step()) == [TasksChanged(("t",))]


def test_a_journal_that_breaks_off_holds_up_its_tasks_for_as_long_as_its_node_is_in_reach() -> None:
    rig = Rig(job())
    hand = rig.hand(slots=8)
    rig.leader.gathering.on_member(rig.member("m"), rig.now)
    (pull,) = messages(Pull, rig.step(), "m")
    rig.puller.on_pulled(node("m"), Pulled(pull.session, Cursor("of m", 1, ""), False, (task("new"),)), rig.now)
    rig.later(PARAMS.silent_after - 0.1)
    assert hand.granted == {}
    rig.later(0.6)
    assert {grant.task.id for grant in hand.granted.values()} == {"new"}


def test_a_takeover_does_not_wait_for_a_journal_whose_node_is_silent() -> None:
    rig = Rig(job(), *tasks(1), open_as=None)
    rig.member("m")
    rig.leader.open(LEADER, rig.now)
    rig.step()
    rig.now += 1.0
    rig.step()
    assert rig.leader.phase == PULLING
    rig.now += 2.0
    rig.step()
    assert rig.leader.phase == OPEN


def test_a_leader_without_others_opens_at_once() -> None:
    rig = Rig(job(), *tasks(1))
    assert rig.leader.phase == OPEN
    hand = rig.hand()
    assert hand.does("j-00000")


def test_running_work_of_an_unseen_node_waits_for_it_for_half_a_minute() -> None:
    rig = Rig(job(), *tasks(2), FORMER)
    hand = rig.hand("b", slots=8)
    assert [grant.task.id for grant in hand.granted.values()] == ["j-00001"]
    rig.later(29.9)
    assert len(hand.granted) == 1
    rig.later(0.2)
    assert hand.does("j-00000")


def test_running_work_that_its_node_declares_runs_on_under_the_new_leader() -> None:
    rig = Rig(job(), *tasks(1), FORMER)
    other = rig.hand("b", slots=8)
    holder = rig.hand("z", slots=1, declares=False)
    holder.held[FORMER.id] = FORMER
    holder.declare()
    rig.later(40.0)
    assert other.granted == holder.granted == {}
    holder.end(FORMER.id)
    assert rig.state("j-00000") == DONE


def test_what_an_attempt_reports_is_shown_until_it_ends_whoever_granted_it() -> None:
    rig = Rig(job(), *tasks(1), FORMER)
    holder = rig.hand("z", slots=1, declares=False)
    holder.held[FORMER.id] = FORMER
    holder.declare()
    holder.report(progress=((FORMER.id, b'{"loss": 1}'), ("of nobody", b"{}")))
    assert rig.leader.progress == {FORMER.id: b'{"loss": 1}'}
    holder.end(FORMER.id)
    assert rig.leader.progress == {}


def test_running_work_that_its_node_does_not_declare_is_granted_at_once() -> None:
    rig = Rig(job(), *tasks(1), FORMER)
    holder = rig.hand("z")
    assert holder.does("j-00000")


@pytest.mark.parametrize("still", [True, False])
def test_running_work_of_a_node_that_was_gone_is_granted_once_its_address_refuses_again(still: bool) -> None:
    """Mostly that of the leader before. But it may live again, and have been granted this where we did not see it."""
    rig = Rig(job(), *tasks(1), FORMER, open_as=None)
    peer = rig.member("z")
    address = peer.address
    rig.members.on_link_down(peer.links[0], rig.now)
    assert rig.members.on_dial_failed(address, True, rig.now) is peer
    rig.leader.open(LEADER, rig.now)
    hand = rig.hand("b")
    rig.later(1.0)
    assert not hand.does("j-00000")
    assert rig.members.contacts[address].dial_at <= rig.now
    if still:
        assert rig.members.on_dial_failed(address, True, rig.now) is peer
        rig.leader.on_gone(peer.node, rig.now)
    rig.later(1.5)
    assert hand.does("j-00000") == still
    if not still:
        return
    assert attempts_of(rig.out.ledger, "j-00000")[0].outcome.code == "its process ended"


def test_running_work_of_a_node_that_came_back_with_another_rank_is_granted_at_once() -> None:
    rig = Rig(job(), *tasks(1), FORMER, open_as=None)
    peer = rig.member("z")
    rig.members.on_link_down(peer.links[0], rig.now)
    peer.gone = True
    rig.members.contacts[peer.address].node = node("y")
    rig.leader.open(LEADER, rig.now)
    hand = rig.hand("b")
    rig.later(1.0)
    assert hand.does("j-00000")


def test_work_that_was_declared_before_its_task_was_known_runs_on() -> None:
    """A worker may be quicker with its declaration than a member with its journal."""
    rig = Rig(open_as=None)
    rig.member("m")
    rig.leader.open(LEADER, rig.now)
    rig.step()
    other = rig.hand("b", slots=8)
    holder = rig.hand("z", slots=1, declares=False)
    holder.held[FORMER.id] = FORMER
    holder.declare()
    assert holder.unknown == [FORMER.id]
    known: tuple[Record, ...] = (job(), *tasks(1), FORMER)
    rig.puller.on_pulled(node("m"), Pulled(1, Cursor("journal", 3, ""), True, known), rig.now)
    rig.later(1.0)
    assert rig.leader.phase == OPEN
    assert other.granted == holder.granted == {}
    assert rig.state("j-00000") == ACTIVE
    holder.end(FORMER.id)
    assert rig.state("j-00000") == DONE


def test_work_that_was_declared_runs_on_when_its_task_comes_after_it_in_a_journal() -> None:
    rig = Rig()
    holder = rig.hand("z", slots=1, declares=False)
    holder.held[FORMER.id] = FORMER
    holder.declare()
    rig.pulled(FORMER)
    rig.pulled(job(), *tasks(1))
    assert rig.state("j-00000") == ACTIVE
    assert holder.granted == {}


def test_work_that_another_journal_says_runs_where_it_does_not_is_lost() -> None:
    """A round that only a former leader knew of refutes a loss; its node is asked again, and holds it not."""
    rig = Rig(job(), *tasks(1), FORMER)
    holder = rig.hand("z", slots=1)
    again = holder.attempt_at("j-00000")
    holder.begin(again)
    assert messages(Refused, rig.pulled(FORMER._replace(round=1)), "z"), "it is asked to declare again"
    holder.declare()
    assert holder.recalled == {}
    assert [a.id for a in rig.out.ledger.tasks["j-00000"].open_attempts()] == [again]


def test_work_that_another_journal_says_runs_on_an_unseen_node_waits_for_it_for_half_a_minute() -> None:
    rig = Rig()
    hand = rig.hand()
    rig.pulled(job(), *tasks(1), FORMER)
    rig.later(29.0)
    assert hand.granted == {}
    rig.later(2.0)
    assert hand.does("j-00000")


@pytest.mark.parametrize("phase", [SUCCEEDED, FAILED])
def test_what_ended_and_was_not_decided_is_decided_by_the_next_leader(phase: int) -> None:
    ended = FORMER._replace(ended=True, phase=phase, outcome=Outcome("ValueError", digest="d"))
    rig = Rig(job(), *tasks(1), ended)
    assert rig.state("j-00000") == (DONE if phase == SUCCEEDED else BROKEN)
    if phase == SUCCEEDED:
        assert rig.out.ledger.tasks["j-00000"].accepted() == Acceptance("j-00000", ended.id, LEADER, "d")


def test_a_leader_that_knows_an_acceptance_writes_no_other() -> None:
    ended = FORMER._replace(ended=True, phase=SUCCEEDED, outcome=success())
    theirs = Acceptance("j-00000", ended.id, claim("z", 1), "digest of r")
    rig = Rig(job(), *tasks(1), ended, theirs)
    other = FORMER._replace(id="1.50-y.y1.1", node=node("y"), ended=True, phase=SUCCEEDED, outcome=success("other"))
    rig.pulled(other)
    assert rig.out.ledger.tasks["j-00000"].acceptances == {ended.id: theirs}


def test_a_leader_that_steps_down_does_nothing_more() -> None:
    rig = Rig()
    hand = rig.hand()
    rig.submit(task())
    rig.leader.close()
    assert rig.leader.phase == CLOSED
    assert rig.leader.deadline() is None
    position = rig.out.position
    hand.end(hand.attempt_at("t"))
    assert hand.acked == []
    assert rig.out.position == position


def test_who_asked_for_much_is_told_when_its_leader_changes_halfway() -> None:
    rig = Rig(job(), *tasks(10), params=replace(PARAMS, slice_records=4))
    rig.later(1.0)
    rig.leader.on_asked(CancelAsked(7, "j"), rig.now)
    assert only(Answer, rig.step()) == []
    rig.leader.close()
    answer = one(Answer, rig.step())
    assert (answer.call, answer.error) == (7, "NoLeader")
    assert "only a part was changed" in answer.message


def test_after_a_suspend_nothing_is_granted_for_a_second() -> None:
    rig = Rig()
    hand = rig.hand()
    rig.leader.on_resumed(rig.now)
    rig.submit(task())
    assert hand.granted == {}
    rig.later(0.99)
    assert hand.granted == {}
    rig.later(0.02)
    assert hand.does("t")


def test_a_member_that_follows_is_pulled_once() -> None:
    """What it submitted or finished as an island is in its journal."""
    rig = Rig()
    rig.member("m")
    peer = rig.members.peers[node("m")]
    rig.leader.on_heartbeat(peer, LEADER, "", rig.now)
    assert len(messages(Pull, rig.step())) == 1
    rig.puller.on_pulled(node("m"), Pulled(1, Cursor("journal", 0, ""), True, ()), rig.now)
    rig.leader.on_heartbeat(peer, LEADER, "", rig.now)
    assert messages(Pull, rig.step()) == []
    rig.leader.on_heartbeat(peer, claim("z", 9), "", rig.now)
    rig.leader.on_heartbeat(peer, LEADER, "", rig.now)
    assert len(messages(Pull, rig.step())) == 1


def test_a_member_whose_journal_can_be_written_again_is_pulled_again() -> None:
    """What it could not put on disk before was not served."""
    rig = Rig()
    rig.member("m")
    peer = rig.members.peers[node("m")]
    rig.leader.on_heartbeat(peer, LEADER, "its journal cannot be written", rig.now)
    rig.puller.on_pulled(node("m"), Pulled(1, Cursor("journal", 0, ""), True, ()), rig.now)
    rig.step()
    rig.leader.on_heartbeat(peer, LEADER, "its journal cannot be written", rig.now)
    assert messages(Pull, rig.step()) == []
    rig.leader.on_heartbeat(peer, LEADER, "", rig.now)
    assert len(messages(Pull, rig.step())) == 1


def test_a_submission_of_an_island_is_granted_once_its_journal_was_read() -> None:
    rig = Rig()
    hand = rig.hand()
    effects = rig.pulled(job("k"), *tasks(1, "k"))
    assert one(JobsChanged, effects).jobs == ("k",)
    assert hand.does("k-00000")


def test_two_jobs_of_one_shape_share_a_node_whoever_came_first() -> None:
    rig = Rig()
    rig.submit(*tasks(4, "j", shape()))
    rig.submit(*tasks(4, "k", shape()))
    hand = rig.hand(slots=4)
    assert [grant.task.job for grant in hand.granted.values()][:4] == ["j", "k", "j", "k"]


def test_rebuilding_goes_in_slices() -> None:
    rig = Rig(job(), *tasks(10), params=replace(PARAMS, slice_records=4), open_as=None)
    rig.leader.open(LEADER, rig.now)
    phases: list[tuple[str, int]] = []
    while rig.leader.phase != OPEN:
        assert len(phases) < 10
        rig.step()
        phases.append((rig.leader.phase, len(rig.leader.tasks.ready)))
    assert phases == [(REBUILDING, 4), (REBUILDING, 8), (OPEN, 10)]


def test_what_ended_where_it_was_granted_is_not_lost_before_that_journal_was_read() -> None:
    """An island's leader follows again: its worker declares nothing of what it acknowledged there, to itself say."""
    what, name = task("j.1"), "2.50-c.c1.1"
    attempt = Attempt("j.1", name, False, 0, RUNNING, 1, node("c"))
    rig = Rig(job(), what, attempt)
    rig.member("c")
    hand = rig.hands["c"] = Hand(rig, "c")
    hand.declare()
    rig.later(2.0)
    assert rig.out.ledger.tasks["j.1"].attempts[name].phase == RUNNING
    assert rig.leader.sessions[node("c")].complete is False
    rig.puller.complete[node("c")] = rig.now
    rig.pulled(attempt._replace(ended=True, phase=SUCCEEDED, outcome=success()))
    rig.step()
    assert rig.leader.sessions[node("c")].complete
    assert rig.state("j.1") == DONE
    assert not hand.granted


def test_a_journal_that_is_never_read_is_not_waited_for_longer_than_a_lost_node() -> None:
    name = "2.50-c.c1.1"
    rig = Rig(job(), task("j.1"), Attempt("j.1", name, False, 0, RUNNING, 1, node("c")))
    rig.member("c")
    hand = rig.hands["c"] = Hand(rig, "c")
    hand.declare()
    rig.later(PARAMS.lost_after + 1.0)
    assert rig.out.ledger.tasks["j.1"].attempts[name].phase == LOST
    assert hand.granted
