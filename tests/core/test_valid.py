"""What a peer may not say: refused whole with its reason, its links closed and counted, and the ledger as it was."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import pytest

from mesh.core import valid
from mesh.core.checkpoints import MOST_KEPT
from mesh.core.effects import Dial, Effect, Hangup, Notice, Persist
from mesh.core.events import LinkDown, LinkRefused, LinkUp, MessageUnreadable, Received, Ticked
from mesh.core.ids import NO_CLAIM, Claim, NodeId
from mesh.core.lattice import (
    FAILED,
    LOST,
    NO_OUTCOME,
    OFFERED,
    RELEASED,
    RUNNING,
    SUCCEEDED,
    TASK_FAILED,
    Acceptance,
    Attempt,
    Checkpoint,
    Checkpointing,
    Claimed,
    Deleted,
    Ended,
    Job,
    Lived,
    Mesh,
    Outcome,
    Owner,
    Record,
    Register,
    Resources,
    Retries,
    Run,
    Shape,
    Task,
)
from mesh.core.machine import Machine
from mesh.core.messages import (
    NO_CURSOR,
    Copy,
    CopyFailed,
    Cursor,
    Found,
    Grant,
    Hello,
    Holds,
    HoldsSeen,
    Message,
    Orders,
    Pull,
    Pulled,
    Refused,
    Relayed,
    Report,
    Seek,
    Sighting,
    Spare,
    Spared,
    Verdict,
    Yield,
    YieldRequest,
)
from mesh.core.params import Params
from mesh.core.session import Session, Talk
from mesh.core.valid import (
    ID_LENGTH,
    LAST_MS,
    METRICS_BYTES,
    MOST,
    MOST_CURSORS,
    OUTCOME_BYTES,
    PAYLOAD_BYTES,
    SOURCE_BYTES,
)
from tests.core.bids import bid
from tests.core.parts import beat, claim, hello, messages, node, one, only, who

B = node("b")
CLAIM = claim("b", 3)
NAME = "3.50-b.b1.7"
LONG = "x" * (ID_LENGTH + 1)
TASK = Task("j.1", "j", 1, "d", Shape(), b"work")
BLOB = "0f" * 32
SAVED = Checkpoint(1, 2, NAME, 1, BLOB, 5)
OPEN = Attempt("j.1", NAME, False, 0, RUNNING, 1, B, Outcome(started_ms=5))
OVER = Attempt("j.1", NAME, True, 2, SUCCEEDED, 1, B, Outcome(result=b"r", digest="d", started_ms=5, finished_ms=6))

GOOD: tuple[Record, ...] = (
    Job("j", "d"), TASK, OPEN, OVER, OPEN._replace(phase=OFFERED, outcome=NO_OUTCOME),
    OPEN._replace(phase=LOST, outcome=Outcome("its process ended")), OVER._replace(phase=RELEASED, outcome=NO_OUTCOME),
    OVER._replace(phase=FAILED, outcome=Outcome("ValueError", "bad", "trace", b"pickled")),
    Acceptance("j.1", NAME, claim("a", 9, established=False), "d"), Run("j.1", 1, 0), Run("j.1", 2, 2),
    Ended("j.1", 1, TASK_FAILED, "lost", "3 machines"), Owner("j", "", 0, B), Owner("j", "j.1", 4, B),
    Register("job/j", "priority", 1, B, "-3"), Register("mesh", "lost_after", 2, B, "12.5"),
    Register("node/50-c", "address", 1, B, ""), Register("task/j." + "x" * (ID_LENGTH - 2), "priority", 1, B, "1"),
    Register("of a later version", "whatever", 1, B, "it means"),
    Mesh("m", False), Claimed(CLAIM), Claimed(NO_CLAIM), Lived(B, 1, "b1"), Deleted("j"),
)  # fmt: skip


def shape(**more: Any) -> Task:
    return TASK._replace(shape=Shape((Resources(**more),)))


BAD: tuple[tuple[Record, str], ...] = (
    (Job("", "d"), "no id of a job"),
    (Job("a.b", "d"), "no id of a job"),
    (Job(LONG, "d"), "no id of a job"),
    (Job("j", "d", submitted_ms=LAST_MS + 1), "which is no time"),
    (Job("j", "d", submitted_ms=-1), "which is no time"),
    (Job("j", "d", source=b"x" * (SOURCE_BYTES + 1)), f"the limit is {SOURCE_BYTES}"),
    (Job("j", "d", size=-1), "counts -1 tasks"),
    (Job("j", "d", max_parallel=-1), "-1 at a time"),
    (TASK._replace(id="k.1"), "'k.1' of job 'j' is not"),
    (TASK._replace(id="j."), "'j.' of job 'j' is not"),
    (TASK._replace(id="j"), "'j' of job 'j' is not"),
    (TASK._replace(job=""), "'' is not such"),
    (TASK._replace(id="j." + LONG), "no id of a task"),
    (TASK._replace(payload=b"x" * (PAYLOAD_BYTES + 1)), f"the limit is {PAYLOAD_BYTES}"),
    (TASK._replace(index=-1), "number -1"),
    (TASK._replace(shape=Shape(())), "does not say what it needs"),
    (shape(millicpus=-1), "-1 millicpus"),
    (shape(memory=MOST), f"{MOST} bytes"),
    (shape(milligpus=1_000_001), "no machine has more"),
    (TASK._replace(shape=Shape(retries=Retries(backoff_ms=-1))), "retries or a timeout below 0"),
    (TASK._replace(shape=Shape(timeout_ms=-1)), "retries or a timeout below 0"),
    (OPEN._replace(task="t"), "no id of a task"),
    (OPEN._replace(resumed="../x"), "is no blob's id"),
    (OPEN._replace(saved=(SAVED._replace(attempt="3.50-b.b1.8"),)), "not all of them its own"),
    (OPEN._replace(saved=(SAVED,) * (MOST_KEPT + 2)), "102 checkpoints"),
    (OPEN._replace(saved=(SAVED._replace(blob="x"),)), "is no blob's id"),
    (OPEN._replace(saved=(SAVED._replace(number=0),)), "number 0"),
    (OPEN._replace(saved=(SAVED._replace(size=-1),)), "-1 bytes"),
    (OPEN._replace(saved=(SAVED._replace(saved_ms=-1),)), "of -1 ms"),
    (OPEN._replace(saved=(SAVED._replace(metrics=b"x" * (METRICS_BYTES + 1)),)), "bytes of metrics"),
    (TASK._replace(needs=("x",)), "is no blob's id"),
    (TASK._replace(needs=(BLOB,) * 1001), "needs 1001 blobs"),
    (OVER._replace(outcome=Outcome(blob="x")), "is no blob's id"),
    (OVER._replace(outcome=Outcome(log="../x")), "is no blob's id"),
    (OPEN._replace(outcome=Outcome(log=BLOB)), "has a result and has not ended"),
    (TASK._replace(shape=Shape(checkpoints=Checkpointing(keep=0))), "keeps 0 checkpoints"),
    (TASK._replace(shape=Shape(checkpoints=Checkpointing(keep=MOST_KEPT + 1))), "keeps 101 checkpoints"),
    (TASK._replace(shape=Shape(checkpoints=Checkpointing(copies=0))), "in 0 copies"),
    (OPEN._replace(task="j." + LONG), "no id of a task"),
    (OPEN._replace(id=""), "no id of an attempt"),
    (OPEN._replace(id="7"), "no id of an attempt"),
    (OPEN._replace(id="x.50-b.b1.7"), "no id of an attempt"),
    (OPEN._replace(id="3.b.b1.7"), "no id of an attempt"),
    (OPEN._replace(id="3.50-b..7"), "no id of an attempt"),
    (OPEN._replace(id="3.50-b.b1."), "no id of an attempt"),
    (OPEN._replace(id="3.50-b.b1.seven"), "no id of an attempt"),
    (OPEN._replace(id=f"3.50-b.{LONG}.7"), "no id of an attempt"),
    (OPEN._replace(node="b"), "no id of a node"),
    (OPEN._replace(round=-1), "round -1"),
    (OPEN._replace(round=MOST), f"round {MOST}"),
    (OPEN._replace(run=0), "run 0"),
    (OPEN._replace(run=2**63 - 1), f"run {2**63 - 1}"),
    (OPEN._replace(phase=3), "open in phase 3"),
    (OPEN._replace(phase=-1), "open in phase -1"),
    (OVER._replace(phase=3), "ended in phase 3"),
    (OVER._replace(ended=False), "has a result and has not ended"),
    (OVER._replace(outcome=Outcome(result=b"x" * (OUTCOME_BYTES + 1))), f"the limit is {OUTCOME_BYTES}"),
    (OVER._replace(outcome=Outcome(detail="x" * OUTCOME_BYTES, metrics=b"{}")), f"the limit is {OUTCOME_BYTES}"),
    (OVER._replace(outcome=Outcome(finished_ms=LAST_MS + 1)), "no times"),
    (OVER._replace(outcome=Outcome(started_ms=-1)), "no times"),
    (OVER._replace(outcome=Outcome(micros=-1)), "no times"),
    (Acceptance("t", NAME, CLAIM, "d"), "no id of a task"),
    (Acceptance("j.1", "7", CLAIM, "d"), "no id of an attempt"),
    (Acceptance("j.1", NAME, NO_CLAIM, "d"), "has term 0"),
    (Acceptance("j.1", NAME, CLAIM._replace(term=MOST), "d"), f"has term {MOST}"),
    (Acceptance("j.1", NAME, CLAIM._replace(life=""), "d"), "names no life"),
    (Acceptance("j.1", NAME, CLAIM._replace(leader="b"), "d"), "no id of a node"),
    (Acceptance("j.1", NAME, CLAIM, LONG), "digest of"),
    (Run("j.1", 1, 2), "is in run 1, and run 2 of it was cancelled"),
    (Run("j.1", 0, 0), "is in run 0"),
    (Run("j.1", 1, -1), "run -1 of it"),
    (Run("j.1", MOST, 0), f"is in run {MOST}"),
    (Run("t", 1, 0), "no id of a task"),
    (Ended("j.1", 1, 0), "status 0"),
    (Ended("j.1", 1, 3), "status 3"),
    (Ended("j.1", 0, 1), "in run 0"),
    (Ended("t", 1, 1), "no id of a task"),
    (Ended("j.1", 1, 1, message="x" * (OUTCOME_BYTES + 1)), "why it ended"),
    (Register("job/j", "priority", 0, B, "1"), "version 0"),
    (Register("job/j", "priority", 2**63 - 1, B, "1"), f"version {2**63 - 1}"),
    (Register("job/j", "priority", 1, B, "high"), "'high', which is no number"),
    (Register("job/j", "priority", 1, B, "9" * 5000), "which is no number"),
    (Register("mesh", "lost_after", 1, B, "soon"), "'soon', which are no seconds"),
    (Register("mesh", "lost_after", 1, B, "nan"), "'nan', which are no seconds"),
    (Register("", "priority", 1, B, "1"), "has no name"),
    (Register("job/j", "", 1, B, "1"), "has no name"),
    (Register("job/j", "note", 1, B, "x" * (PAYLOAD_BYTES + 1)), "characters"),
    (Register("job/j", "priority", 1, "b", "1"), "no id of a node"),
    (Mesh("", True), "no id of a mesh"),
    (Mesh(LONG, True), "no id of a mesh"),
    (Claimed(CLAIM._replace(term=2**63 - 1)), f"has term {2**63 - 1}"),
    (Claimed(CLAIM._replace(term=-1)), "has term -1"),
    (Lived(B, 0, "b1"), "has number 0"),
    (Lived(B, MOST, "b1"), f"has number {MOST}"),
    (Lived(B, 1, ""), "life ''"),
    (Lived("", 1, "b1"), "no id of a node"),
    (Owner("j", "k.1", 0, B), "'k.1' of job 'j' is not"),
    (Owner("", "", 0, B), "'' is not such"),
    (Owner("j", "", -1, B), "changed -1 times"),
    (Owner("j", "", 0, ""), "no id of a node"),
    (Deleted(""), "no id of a job"),
    (Deleted("j.1"), "no id of a job"),
)  # fmt: skip


def test_what_correct_nodes_record_has_no_fault() -> None:
    assert [valid.fault(record) for record in GOOD] == [""] * len(GOOD)
    assert valid.first_fault(GOOD) == ""


@pytest.mark.parametrize(("record", "why"), BAD, ids=[f"{type(r).__name__} {why}"[:60] for r, why in BAD])
def test_what_no_correct_node_records_is_named(record: Record, why: str) -> None:
    assert why in valid.fault(record)
    assert len(valid.fault(record)) < 400, "it goes to a log, whatever was in the record"
    assert valid.first_fault((*GOOD, record)) == valid.fault(record)


def test_a_shape_is_looked_at_though_one_before_it_was_sound() -> None:
    assert valid.first_fault([TASK, TASK, TASK._replace(shape=Shape(()))]).endswith("does not say what it needs")


class Rig:
    """Machine ``a``, which leads, hears ``b``, and was asked for its records by nobody."""

    def __init__(self) -> None:
        self.machine = Machine(who("a"), Params(), (), 0.0, (Cursor("of a", 0, ""),))
        self.now = 0.0
        self.seq = 0
        self.links = 0
        self.step(Ticked())
        assert self.link() == []

    def step(self, event: Any, now: float | None = None) -> list[Effect]:
        self.now = self.now + 0.01 if now is None else now
        effects = self.machine.step(event, self.now)
        self.machine.check(whole=True)
        return effects

    def link(self, life: int = 1, name: str = "b") -> list[Hangup]:
        self.links += 1
        return only(Hangup, self.step(LinkUp(self.links, hello(who(name, life=life)))))

    def says(self, message: Message) -> list[Effect]:
        return self.step(Received(B, message))

    def beat(self) -> list[Effect]:
        self.seq += 1
        echo = self.machine.members.peers[B].seq
        return self.says(beat("b", self.seq, echo))

    def pulls(self) -> int:
        """The session of a pull of b's journal that is under way."""
        self.machine.puller.pull(B, self.now)
        (pull,) = messages(Pull, self.step(Ticked()), "b")[-1:]
        return pull.session

    @property
    def ledger(self) -> str:
        return blake2b(repr(list(self.machine.ledger.records())).encode()).hexdigest()


def refused(rig: Rig, effects: list[Effect], why: str) -> None:
    hangup = one(Hangup, effects)
    assert (hangup.link, hangup.code) == (rig.links, "invalid")
    assert why in hangup.reason
    assert "nothing of it was taken; install the same version on both" in hangup.reason
    note = one(Notice, [effect for effect in only(Notice, effects) if effect.event == "peer_refused"])
    assert (note.level, dict(note.fields)["node"], dict(note.fields)["times"]) == ("warning", B, 1)
    assert why in str(dict(note.fields)["reason"])
    peer = rig.machine.members.peers[B]
    assert (peer.refused, peer.links) == (1, [])
    assert rig.machine.door.refusals["b:1"] == hangup.reason


@pytest.mark.parametrize(("record", "why"), BAD, ids=[f"{type(r).__name__} {why}"[:60] for r, why in BAD])
def test_a_pulled_batch_with_one_bad_record_is_refused_whole(record: Record, why: str) -> None:
    rig = Rig()
    session = rig.pulls()
    before, position = rig.ledger, rig.machine.out.recorded
    batch = (*GOOD, record)
    effects = rig.says(Pulled(session, Cursor("of b", len(batch), "x"), True, batch))
    refused(rig, effects, why)
    assert only(Persist, effects) == []
    assert (rig.ledger, rig.machine.out.recorded) == (before, position)
    assert rig.machine.puller.cursors == {}


def test_the_same_batch_without_it_is_taken() -> None:
    rig = Rig()
    batch = GOOD[:-1]  # but for the deletion
    effects = rig.says(Pulled(rig.pulls(), Cursor("of b", len(batch), "x"), True, batch))
    assert only(Hangup, effects) == []
    assert rig.machine.ledger.tasks["j.1"].attempts[NAME] == OVER
    assert rig.machine.members.peers[B].refused == 0


def grants(**more: Any) -> Orders:
    return Orders(CLAIM, 1, (Grant(NAME, 1, TASK, 5, (), 0)._replace(**more),), (), (), ())


def report(*attempts: Attempt, claimed: Claim = NO_CLAIM) -> Report:
    return Report(claimed, "b1", 0, attempts, (), bid(), 0)


def holds(**more: Any) -> Holds:
    return Holds(CLAIM, "b1", 1, 1, ((BLOB, 5),), (BLOB,), 7, False)._replace(**more)


FOUND = Found(CLAIM, BLOB, ((B, "b:1"),), ((B, "b:1"),), True, True, "")
TOO_HIGH = CLAIM._replace(term=2**63 - 1)
MESSAGES: tuple[tuple[Message, str], ...] = (
    (Pulled(1, Cursor("of b", 1, "x"), True, (TASK, OPEN)), "2 records end at record 1"),
    (Pulled(1, Cursor("", 2, "x"), True, (TASK,)), "of journal ''"),
    (Pulled(1, Cursor("of b", -1, "x"), True, ()), "no record -1"),
    (Pulled(1, Cursor("of a", 2, "x"), True, (TASK,)), "journal of a is this node's own"),
    (Pulled(0, NO_CURSOR, True, (Owner("j", "", -1, B),)), "changed -1 times"),
    (Pull(1, (Cursor("j", -1, ""),)), "no record -1"),
    (Pull(1, (Cursor("j", 1, ""),) * (MOST_CURSORS + 1)), f"the limit is {MOST_CURSORS}"),
    (report(OPEN._replace(round=-1)), "round -1"),
    (report(OVER._replace(node=node("c"))), "only who holds an attempt reports on it"),
    (report(OPEN._replace(phase=LOST)), "nobody reports that of his own"),
    (report(claimed=TOO_HIGH), "has term"),
    (grants(attempt="3.50-b.b2.7"), "another claim than it was minted under"),
    (grants(attempt="7"), "no id of an attempt"),
    (grants(alternative=1), "alternative 1"),
    (grants(alternative=-1), "alternative -1"),
    (grants(run=0), "in run 0"),
    (grants(resume=(SAVED._replace(step=-1),)), "step -1"),
    (grants(resume=(SAVED,) * (MOST_KEPT + 2)), "102 checkpoints"),
    (Seek(CLAIM, BLOB, 1, 0, "x"), "is no blob's id"),
    (grants(devices=("cuda:0",)), "1 cards"),
    (grants(task=TASK._replace(id="k.1")), "'k.1' of job 'j' is not"),
    (grants()._replace(claim=TOO_HIGH), "is granted under another claim"),
    (Orders(TOO_HIGH, 1, (), (), (), ()), "has term"),
    (beat("b", claim=TOO_HIGH), "has term"),
    (beat("b", seq=-1), "heartbeat -1"),
    (beat("b", seen=(Sighting(TOO_HIGH, "c:1", 1, ""),)), "has term"),
    (beat("b", peers=(("c", "c:1"),)), "no id of a node"),
    (Verdict(node("a"), B, 2**63 - 1, True), "above term"),
    (YieldRequest(TOO_HIGH), "has term"),
    (Yield(TOO_HIGH, "why"), "has term"),
    (Refused(TOO_HIGH, True), "has term"),
    (Relayed(B, node("a"), Verdict(node("a"), B, -1, True)), "above term -1"),
    (Relayed("b", node("a"), Yield(CLAIM, "why")), "no id of a node"),
    (holds(claim=TOO_HIGH), "has term"),
    (holds(life=""), "slice 1 of session 1"),
    (holds(seq=0), "slice 0"),
    (holds(session=0), "session 0"),
    (holds(free=-1), "-1 bytes are free"),
    (holds(gained=((BLOB, -1),)), "impossible sizes"),
    (holds(gained=(("../" + BLOB[3:], 1),)), "is no blob's id"),
    (holds(lost=(BLOB.upper(),)), "is no blob's id"),
    (HoldsSeen(CLAIM, 1, -1), "slice -1"),
    (HoldsSeen(TOO_HIGH, 1, 1), "has term"),
    (Seek(CLAIM, BLOB, -1, 0), "-1 bytes"),
    (Seek(CLAIM, BLOB, 1, -1), "-1 copies"),
    (Seek(CLAIM, BLOB[1:], 1, 0), "is no blob's id"),
    (Seek(TOO_HIGH, BLOB, 1, 0), "has term"),
    (FOUND._replace(blob="x"), "is no blob's id"),
    (FOUND._replace(holders=(("b", "b:1"),)), "no id of a node"),
    (FOUND._replace(fetching=(("b", "b:1"),)), "no id of a node"),
    (FOUND._replace(claim=TOO_HIGH), "has term"),
    (Copy(CLAIM, BLOB, -1, ()), "-1 bytes"),
    (Copy(CLAIM, "", 1, ()), "is no blob's id"),
    (Copy(CLAIM, BLOB, 1, (("b", "b:1"),)), "no id of a node"),
    (Copy(TOO_HIGH, BLOB, 1, ()), "has term"),
    (CopyFailed(CLAIM, "x", "why"), "is no blob's id"),
    (Spare(CLAIM, 0, ()), "question 0"),
    (Spare(CLAIM, 1, ("x",)), "is no blob's id"),
    (Spared(TOO_HIGH, 1, (), ""), "has term"),
    (CopyFailed(TOO_HIGH, BLOB, "why"), "has term"),
)  # fmt: skip


@pytest.mark.parametrize(("message", "why"), MESSAGES, ids=[f"{type(m).__name__} {why}"[:60] for m, why in MESSAGES])
def test_messages_of_every_kind_are_held_to_the_same(message: Message, why: str) -> None:
    rig = Rig()
    session = rig.pulls()
    if isinstance(message, Pulled) and message.session:
        message = message._replace(session=session)
    before = rig.ledger
    refused(rig, rig.says(message), why)
    assert rig.ledger == before
    assert rig.machine.election.claim.term < 10, "a term that high would be claimed above next"


def test_who_was_started_with_another_rank_reports_what_it_held_before() -> None:
    assert valid.message_fault(B, report(OVER._replace(node="90-b"))) == ""


def test_a_journal_with_two_histories_is_refused() -> None:
    rig = Rig()
    first = Pulled(rig.pulls(), Cursor("of b", 2, "x"), True, (TASK, OPEN))
    assert only(Hangup, rig.says(first)) == []
    refused(rig, rig.says(first._replace(cursor=Cursor("of b", 2, "other"))), "had other records up to 2")


def test_an_attempt_of_another_task_than_was_granted_is_refused() -> None:
    rig = Rig()
    session = rig.machine.leader.sessions[B] = Session(B, "b1", 1, Talk())
    session.open["1.50-a.a1.1"] = ("j.1", Resources(), (), 1)
    told = OPEN._replace(id="1.50-a.a1.1")
    assert only(Hangup, rig.says(report(told))) == []
    rig.machine.leader.sessions[B] = session
    refused(rig, rig.says(report(told._replace(task="j.2"))), "was granted for task j.1, not for j.2")


def test_what_is_no_message_counts_as_well() -> None:
    rig = Rig()
    before = rig.ledger
    refused(rig, rig.step(MessageUnreadable(B, "no message; its bytes are malformed")), "its bytes are malformed")
    assert rig.ledger == before


def test_who_was_refused_gets_no_link_for_a_while_each_time_longer_and_a_new_life_at_once() -> None:
    rig = Rig()
    bad = Pull(1, (Cursor("j", -1, ""),))
    waited = []
    for times in range(1, 7):
        (hangup,) = only(Hangup, rig.says(bad))
        at = rig.now
        assert only(Hangup, rig.says(bad)) == [], "it was under way"
        (again,) = rig.link()
        assert (again.code, again.reason) == ("invalid", hangup.reason)
        rig.step(LinkDown(again.link))
        until = rig.machine.members.peers[B].barred_until
        waited.append(round(until - at, 3))
        assert only(Dial, rig.step(Ticked(), until - 0.001)) == []
        rig.now = until
        assert rig.link() == []
        assert rig.machine.members.peers[B].refused == times
    assert waited == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    assert only(Hangup, rig.says(bad))
    assert rig.link(life=2) == [], "it may have been mended"
    assert (rig.machine.members.peers[B].refused, rig.machine.members.peers[B].barred_for) == (7, 0.0)


def test_who_is_refused_hears_why_and_dials_less_and_less_often() -> None:
    rig = Rig()
    (note,) = only(Notice, rig.step(LinkRefused("b:1", "b would not have it", "invalid")))
    assert (note.event, dict(note.fields)["reason"]) == ("link_refused", "b would not have it")
    assert rig.machine.door.refusals["b:1"] == "b would not have it"


@pytest.mark.parametrize(
    "wrong",
    [{"node": ""}, {"node": "b"}, {"node": NodeId("5x-b")}, {"life": ""}, {"mesh_ids": (), "mature": True}],
    ids=str,
)
def test_a_hello_that_no_node_says_makes_no_link(wrong: dict[str, Any]) -> None:
    rig = Rig()
    before = rig.ledger
    theirs: Hello = hello(who("c"))._replace(**wrong)
    effects = rig.step(LinkUp(9, theirs))
    assert one(Hangup, effects).code == "invalid"
    assert [note.event for note in only(Notice, effects)] == ["hello_refused"]
    assert (rig.machine.door.invalid_hellos, len(rig.machine.members.peers), rig.ledger) == (1, 1, before)
