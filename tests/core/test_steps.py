"""What must come in slices does. Counted, not timed: a step may handle ``slice_records`` of anything, no more."""

from __future__ import annotations

from mesh.core.effects import BeginAttempts, Effect, Persist, Send, TasksChanged
from mesh.core.events import AttemptsEnded, CancelAsked, Event, JournalSynced, Measured, Received, Submitted, Ticked
from mesh.core.ids import Claim
from mesh.core.lattice import RUNNING, SUCCEEDED, Acceptance, Attempt, Claimed, Ended, Record, Run
from mesh.core.leader import GRANTS_AT_ONCE, OPEN
from mesh.core.machine import Machine
from mesh.core.messages import Cursor, Heartbeat, Orders, Pull, Pulled, Report
from tests.core.bids import bid, offer
from tests.core.parts import PARAMS, beat, claim, hello, job, messages, node, only, persisted, success, tasks, who

MANY = 10_000
SLICE = PARAMS.slice_records


class Rig:
    """One machine on a disk that is never late, and the effects of each step."""

    def __init__(self, *records: Record, role: str = "leader") -> None:
        self.machine = Machine(who("a", role), PARAMS, records, 0.0)
        self.now = 0.0
        self.steps: list[list[Effect]] = []
        self.step(Measured(offer(4)))
        self.quiet()

    def step(self, event: Event) -> list[Effect]:
        effects = self.machine.step(event, self.now)
        self.steps.append(effects)
        return effects

    def quiet(self, seconds: float = 0.0) -> list[list[Effect]]:
        """All steps until nothing is due any more, or until then."""
        until, first = self.now + seconds, len(self.steps)
        while True:
            assert len(self.steps) - first < 2000, "events without end"
            if not self.machine.out.durable:
                self.step(JournalSynced(self.machine.out.position))
                continue
            due = self.machine.deadline()
            if due is None or due > until:
                break
            self.now = max(self.now, due) + 1e-4
            self.step(Ticked())
        self.now = max(self.now, until)
        return self.steps[first:]

    def member(self, name: str, role: str = "auto", **says: object) -> None:
        effects = self.step(_link(name, role))
        (sent,) = messages(Heartbeat, effects, name)[-1:]
        self.step(Received(node(name), beat(name, 1, sent.seq, role=role, **says)))


def _link(name: str, role: str) -> Event:
    from mesh.core.events import LinkUp

    return LinkUp(sum(map(ord, name)), hello(who(name, role)))


def records_of(effects: list[Effect]) -> int:
    return sum(len(effect.records) for effect in only(Persist, effects))


def largest(steps: list[list[Effect]]) -> int:
    return max(records_of(effects) for effects in steps)


def test_a_takeover_of_ten_thousand_tasks_takes_several_steps() -> None:
    succeeded = Attempt("", "", True, 0, SUCCEEDED, 1, node("z"), success())
    each = tasks(MANY)
    ended = [succeeded._replace(task=t.id, id=f"1.{node('z')}.z1.{n}") for n, t in enumerate(each)]
    rig = Rig(job(), *each, *ended, Claimed(claim("z", 1)))
    accepting = [step for step in rig.steps if persisted(Acceptance, step)]
    assert len(accepting) == MANY // SLICE
    assert largest(accepting) <= SLICE + 1
    assert rig.machine.leader.phase == OPEN


def test_journals_are_asked_for_slice_by_slice() -> None:
    """The next slice is asked for when the last one was joined: neither side holds more than one."""
    rig = Rig()
    rig.member("m", claim=Claim(False, 0, "", ""))
    rig.quiet()
    each = tuple(task._replace(id=f"{task.job}.{task.index}") for task in tasks(MANY))
    parts = [each[at : at + SLICE] for at in range(0, MANY, SLICE)]
    asked = [message for step in rig.steps for message in messages(Pull, step, "m")]
    assert len(asked) == 1
    position = 0
    for number, part in enumerate(parts, 1):
        position += len(part)
        end = number == len(parts)
        cursor = Cursor("journal", position, "")
        effects = rig.step(Received(node("m"), Pulled(asked[0].session, cursor, end, part)))
        assert records_of(effects) <= SLICE
        assert not messages(Pull, effects, "m"), "what it asks for next says what is on its disk"
        again = messages(Pull, rig.step(JournalSynced(rig.machine.out.position)), "m")
        assert [pull.cursors for pull in again] == ([] if end else [(cursor,)])
    assert len(rig.machine.ledger.tasks) == MANY


def test_cancelling_ten_thousand_tasks_takes_several_steps_and_one_answer() -> None:
    rig = Rig(job(), *tasks(MANY))
    first = len(rig.steps)
    rig.step(CancelAsked(1, "j"))
    rig.quiet()
    steps = rig.steps[first:]
    cancelling = [step for step in steps if persisted(Run, step)]
    assert len(cancelling) == MANY // SLICE
    assert max(len(persisted(Ended, step)) for step in steps) == SLICE
    answers = [effect for step in steps for effect in step if type(effect).__name__ == "Answer"]
    assert len(answers) == 1


def follower(rig: Rig, name: str, slots: int) -> Report:
    """A worker whose speed is known, so that it is granted much ahead. Returns what it declared."""
    rig.member(name, "worker")
    fast = bid(offer(slots), allowance_ms=60_000, k=1)
    report = Report(rig.machine.leader.claim, f"{name}1", 0, (), (), fast, 1, (), 1, 1)
    rig.step(Received(node(name), report))
    return report


def test_grants_of_one_step_are_limited_and_the_rest_follows_at_once() -> None:
    rig = Rig()
    rig.quiet(4.0)
    follower(rig, "w", 64)
    rig.step(Submitted(1, job(), tasks(SLICE)))
    steps = [rig.steps[-1], *rig.quiet()]
    granted = [sum(len(orders.grants) for orders in messages(Orders, step, "w")) for step in steps]
    assert max(granted) <= GRANTS_AT_ONCE
    assert sum(granted) == SLICE
    assert len([count for count in granted if count]) == SLICE // GRANTS_AT_ONCE


def test_a_worker_declares_ten_thousand_results_in_slices() -> None:
    """Results of former lives, that no leader is known to have."""
    mine = Attempt("", "", True, 0, SUCCEEDED, 1, node("a"), success())
    rig = Rig(*(mine._replace(task=f"t{n}", id=f"1.{node('z')}.z1.{n}") for n in range(MANY)), role="worker")
    rig.member("z", claim=claim("z", 5), leader_heard=True, leads=1)
    rig.quiet()
    reports = [report for step in rig.steps for report in messages(Report, step, "z") if report.declares]
    assert [report.declares for report in reports] == list(range(MANY // SLICE, 0, -1))
    assert {len(report.attempts) for report in reports} == {SLICE}


def test_ten_thousand_ends_at_once_are_one_record_each_and_no_more() -> None:
    """A burst of results costs what it must: an end and an acceptance each, and no second look at the others."""
    rig = Rig(role="auto")
    rig.quiet(4.0)
    rig.step(Submitted(1, job(), tasks(4)))
    begun = [a for step in [rig.steps[-1], *rig.quiet()] for e in only(BeginAttempts, step) for a in e.assignments]
    assert len(begun) == 4
    effects = rig.step(AttemptsEnded(tuple((a.attempt, SUCCEEDED, success()) for a in begun)))
    assert len(persisted(Attempt, effects)) == 4
    assert len(persisted(Acceptance, effects)) == 4
    assert records_of(effects) == 8


def test_a_silent_node_does_not_make_the_leader_walk_all_tasks() -> None:
    """Losing a node touches what is open there. The counter is the ledger's own look-ups."""
    mine = Attempt("", "", False, 0, RUNNING, 1, node("w"))
    each = tasks(MANY)
    lost = [mine._replace(task=t.id, id=f"1.{node('z')}.z1.{n}") for n, t in enumerate(each[:10])]
    rig = Rig(job(), *each, *lost)
    seen: list[str] = []
    consider = rig.machine.leader.tasks.consider

    def counted(task: str, now: float) -> None:
        seen.append(task)
        consider(task, now)

    rig.machine.leader.tasks.consider = counted  # type: ignore[method-assign]
    rig.machine.leader.on_gone(node("w"), rig.now)
    assert sorted(seen) == [t.id for t in each[:10]]


def test_heartbeats_do_not_grow_with_the_work() -> None:
    rig = Rig(job(), *tasks(MANY))
    rig.member("m")
    beats = [e for step in rig.quiet(2.0) for e in only(Send, step) if isinstance(e.message, Heartbeat)]
    assert beats
    assert max(len(repr(beat_.message)) for beat_ in beats) < 1500


def history(count: int, first: int = 0) -> list[Record]:
    """Tasks that succeeded, as a leader that is gone wrote of them."""
    each = [task._replace(id=f"old.{n}", job="old", index=n) for n, task in enumerate(tasks(count), first)]
    ended = Attempt("", "", True, 0, SUCCEEDED, 1, node("z"), success())
    records: list[Record] = [job("old")]
    for n, task in enumerate(each, first):
        won = ended._replace(task=task.id, id=f"1.{node('z')}.z1.{n}")
        records += (task, won, Acceptance(task.id, won.id, claim("z", 1), won.outcome.digest))
    return records


def test_a_takeover_touches_what_is_open_and_not_a_hundred_thousand_that_ended() -> None:
    rig = Rig(job(), *tasks(10), *history(100_000))
    looked: list[str] = []
    consider = rig.machine.leader.tasks.consider

    def counted(task: str, now: float) -> None:
        looked.append(task)
        consider(task, now)

    rig.machine.leader.tasks.consider = counted  # type: ignore[method-assign]
    before = len(rig.steps)
    rig.quiet(4.0)  # established meanwhile: it looks at everything once more
    assert rig.machine.leader.claim.established
    assert rig.machine.leader.phase == OPEN
    assert sorted(looked) == [t.id for t in tasks(10)]
    assert len(rig.steps) - before < 30, "heartbeats, and no slices"
    assert len(rig.machine.leader.tasks.ready) == 10


def test_what_ended_by_a_journal_that_is_being_read_is_shown_once_everything_is_known() -> None:
    """Somebody may watch it here: a leader that gathers journals tells of them, though it looks at no other history."""
    rig = Rig(*history(3))
    rig.member("m", claim=Claim(False, 0, "", ""))
    rig.quiet()
    asked = [message for step in rig.steps for message in messages(Pull, step, "m")]
    before = len(rig.steps)
    rig.step(Received(node("m"), Pulled(asked[-1].session, Cursor("journal", 9, ""), True, tuple(history(2, 10)))))
    shown = [
        name for step in [*rig.steps[before:], *rig.quiet(4.0)] for e in only(TasksChanged, step) for name in e.tasks
    ]
    assert sorted(set(shown)) == ["old.10", "old.11"]
