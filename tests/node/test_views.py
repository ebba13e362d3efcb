"""The documents a node answers with: fields, states, reasons and errors, from a machine that was really stepped."""

from __future__ import annotations

import json
from itertools import count
from typing import Any, TypeVar

import pytest

from mesh.core import effects as fx
from mesh.core import events as ev
from mesh.core.errors import NoLeader, NotFound
from mesh.core.identity import Me
from mesh.core.ids import Claim
from mesh.core.lattice import (
    FAILED,
    SUCCEEDED,
    Acceptance,
    Attempt,
    Checkpoint,
    Checkpointing,
    Job,
    Outcome,
    Resources,
    Retries,
    Shape,
    Task,
)
from mesh.core.machine import Machine
from mesh.core.messages import Cursor, Device, Offer, Pull
from mesh.core.params import Params
from mesh.core.work import COMMAND, Work
from mesh.node import views, views_jobs
from mesh.wire.work import encode_work

T = TypeVar("T")
NODE = "50-" + "0" * 26
OTHER = "50-" + "0" * 25 + "7"
CARD = Device("cuda:0", "cuda", "Card", 24 << 30, 20 << 30)
PEER_FIELDS = {
    "copy", "refused_messages",
    "id", "name", "role", "leader", "state", "reason", "address", "devices", "slots", "free_slots", "bid", "term",
    "version",
}  # fmt: skip
TASK_FIELDS = {
    "id", "job", "state", "reason", "priority", "params", "attempts", "result_digest", "metrics", "error",
    "checkpoints",
}  # fmt: skip


def whole(work: views_jobs.Sliced[T]) -> T:
    """All slices at once."""
    while True:
        try:
            next(work)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]


class Node:
    """A machine, stepped; its journal is as quick as thought."""

    def __init__(self, slots: int = 1) -> None:
        me = Me(NODE, "L1", "one", "auto", "127.0.0.1:1", "views", "M", "0")
        self.machine = Machine(me, Params(), [], 0.0)
        self.now = 0.0
        self.begun: list[fx.Assignment] = []
        self.answers: list[fx.Answer] = []
        self.step(ev.Measured(Offer(slots, slots * 1000, 8 << 30, 4 << 30, (CARD,))))

    def step(self, event: ev.Event) -> None:
        self.now += 0.001
        pending = [event]
        while pending:
            for effect in self.machine.step(pending.pop(0), self.now):
                match effect:
                    case fx.Persist():
                        pending.append(ev.JournalSynced(effect.position))
                    case fx.BeginAttempts():
                        self.begun.extend(effect.assignments)
                    case fx.Answer():
                        self.answers.append(effect)

    def submit(self, count: int = 2, size: int = 0, shape: Shape | None = None, **job: Any) -> None:
        shape = shape or Shape()
        tasks = tuple(
            Task(f"j.{n}", "j", n, f"d{n}", shape, encode_work(Work(COMMAND, ("x",), params=b'{"lr": %d}' % n)))
            for n in range(count)
        )
        self.step(ev.Submitted(1, Job("j", "d", "mine", "sweep", size=size, **job), tasks))

    def end(self, phase: int = SUCCEEDED, **outcome: Any) -> str:
        attempt = self.begun.pop(0)
        self.step(ev.AttemptsBegan(((attempt.attempt, 1_000),)))
        self.step(ev.AttemptsEnded(((attempt.attempt, phase, Outcome(started_ms=1_000, **outcome)),)))
        return attempt.task.id


def test_peers_shows_this_node_and_what_it_offers() -> None:
    node = Node()
    (mine,) = views.peers(node.machine, node.now)
    assert mine.keys() == PEER_FIELDS
    assert (mine["id"], mine["name"], mine["leader"], mine["state"], mine["slots"]) == (NODE, "one", True, "alive", 1)
    assert mine["devices"] == [
        {"id": "cuda:0", "kind": "cuda", "name": "Card", "memory_bytes": 24 << 30, "free_memory_bytes": 20 << 30}
    ]
    assert mine["bid"]["free_slots"] == 1


def test_who_does_not_bid_says_why() -> None:
    node = Node()
    node.step(ev.Measured(Offer(1, 1000, 8 << 30, 4 << 30, unwilling="on battery")))
    (mine,) = views.peers(node.machine, node.now)
    assert mine["bid"] is None
    assert mine["reason"] == "on battery"


def test_a_member_that_was_never_reached_is_an_island_and_a_refused_address_has_its_reason() -> None:
    node = Node()
    node.step(ev.AddressFound("127.0.0.1:7", OTHER))
    node.step(ev.AddressFound("127.0.0.1:9"))
    node.step(ev.LinkRefused("127.0.0.1:9", "another mesh of this name", "foreign"))
    rows = {row["address"]: row for row in views.peers(node.machine, node.now)}
    assert rows["127.0.0.1:9"]["state"] == "refused"
    assert rows["127.0.0.1:9"]["reason"] == "another mesh of this name"
    assert next(row["state"] for row in rows.values() if row["id"] == OTHER) == "island"


def test_a_peer_that_was_refused_is_shown_with_why_and_how_often() -> None:
    node = Node()
    hello = node.machine.hello(node.now)._replace(node=OTHER, life="L9", name="other", address="127.0.0.1:7")
    node.step(ev.LinkUp(1, hello))
    node.step(ev.Received(OTHER, Pull(1, (Cursor("journal", -1, ""),))))
    (row,) = [row for row in views.peers(node.machine, node.now) if row["id"] == OTHER]
    assert (row["state"], row["refused_messages"], row["address"]) == ("refused", 1, "127.0.0.1:7")
    assert "there is no record -1 of journal 'journal'; nothing of it was taken" in row["reason"]
    status = views.status(node.machine, node.now)
    assert (status["refused_messages"], status["refused_hellos"]) == ({OTHER: 1}, 0)


def test_a_copy_on_its_way_is_shown_in_records() -> None:
    node = Node()
    node.submit(3)
    hello = node.machine.hello(node.now)._replace(node=OTHER, life="L9", name="other", address="127.0.0.1:7")
    node.step(ev.LinkUp(1, hello))
    node.machine.copies.recruits = (OTHER,)
    node.step(ev.SuccessorSynced(OTHER, 2))
    recorded = node.machine.out.recorded
    (row,) = [row for row in views.peers(node.machine, node.now) if row["id"] == OTHER]
    assert row["copy"] == {"counts": False, "share": round(2 / recorded, 4), "records": 2, "of": recorded}


def test_a_task_from_pending_to_done() -> None:
    node = Node()
    node.submit(metric="loss")
    document = views_jobs.task(node.machine, "j.1")
    assert document.keys() == TASK_FIELDS
    assert (document["state"], document["params"], document["error"]) == ("pending", {"lr": 1}, None)
    node.end(metrics=b'{"loss": 0.5}', digest="abc", finished_ms=2_500)
    done = views_jobs.task(node.machine, "j.0")
    assert (done["state"], done["result_digest"], done["metrics"]) == ("succeeded", "abc", {"loss": 0.5})
    (attempt,) = done["attempts"]
    assert attempt["state"] == "succeeded"
    assert (attempt["node"], attempt["node_name"]) == (NODE, "one")
    assert (attempt["started_at"], attempt["finished_at"]) == ("1970-01-01T00:00:01.000Z", "1970-01-01T00:00:02.500Z")
    json.dumps([document, done])


def test_a_task_shows_its_checkpoints_and_from_which_one_an_attempt_went_on() -> None:
    node = Node()
    node.submit(1, shape=Shape(retries=Retries(1, 0), checkpoints=Checkpointing(metric="loss")), metric="loss")
    first = node.begun[0].attempt
    for step, loss in ((4, 0.25), (5, 0.5)):
        metrics = json.dumps({"loss": loss}).encode()
        node.step(ev.AttemptSaved(Checkpoint(1, step, first, step, f"{step:064x}", 10, metrics, 3_000)))
    node.end(FAILED, code="ValueError")
    node.now += 1
    node.step(ev.Ticked())
    assert [checkpoint.step for checkpoint in node.begun[0].resume] == [5, 4]
    node.step(ev.AttemptResumed(node.begun[0].attempt, f"{5:064x}"))
    document = views_jobs.task(node.machine, "j.0")
    newest = {
        "blob": f"{5:064x}", "run": 1, "step": 5, "attempt": first, "size": 10, "metrics": {"loss": 0.5},
        "saved_at": "1970-01-01T00:00:03.000Z",
    }  # fmt: skip
    assert document["checkpoints"][0] == newest
    assert [attempt["resumed_from"] for attempt in document["attempts"]] == [None, newest]
    node.end(metrics=b'{"loss": 0.5}')
    best = whole(views_jobs.job(node.machine, "j"))["best"]
    assert (best["checkpoint"]["step"], best["checkpoint"]["metrics"]) == (4, {"loss": 0.25})


def test_of_two_successes_it_says_which_is_accepted_and_which_was_superseded() -> None:
    node = Node()
    node.submit(1)
    node.end(digest="mine")
    (mine,) = views_jobs.task(node.machine, "j.0")["attempts"]
    outcome = Outcome(result=b"other", digest="other")
    for number, claim in enumerate((Claim(True, 99, OTHER, "L9"), None), 1):
        attempt = f"99.{OTHER}.L9.{number}"
        node.machine.ledger.join(Attempt("j.0", attempt, True, 1, SUCCEEDED, 1, OTHER, outcome))
        if claim is not None:
            node.machine.ledger.join(Acceptance("j.0", attempt, claim, "other"))
    said = {a["id"]: (a["accepted"], a["superseded"]) for a in views_jobs.task(node.machine, "j.0")["attempts"]}
    winner, neither = f"99.{OTHER}.L9.1", f"99.{OTHER}.L9.2"
    assert said == {mine["id"]: (False, True), winner: (True, False), neither: (False, False)}


def test_a_job_has_the_best_of_its_metric_and_takes_no_nan_for_it() -> None:
    node = Node()
    node.submit(3, metric="loss")
    for metrics in (b'{"loss": 0.5}', b'{"loss": NaN}', b'{"loss": 0.25}'):
        node.end(metrics=metrics)
    job = whole(views_jobs.job(node.machine, "j"))
    assert job["state"] == "succeeded"
    assert job["best"] == {
        "task": "j.2", "params": {"lr": 2}, "metric": {"name": "loss", "value": 0.25}, "checkpoint": None,
    }  # fmt: skip


def test_a_job_whose_slices_still_come_is_running_although_all_that_came_has_ended() -> None:
    node = Node()
    node.submit(1, size=2)
    node.end()
    assert whole(views_jobs.job(node.machine, "j"))["state"] == "running"
    node.submit(2, size=2)
    node.end()
    assert whole(views_jobs.job(node.machine, "j"))["state"] == "succeeded"


def test_a_failed_task_says_how_and_with_which_traceback() -> None:
    node = Node()
    node.submit(1)
    node.end(FAILED, code="ValueError", message="no", detail="Traceback: here")
    document = views_jobs.task(node.machine, "j.0")
    assert (document["state"], document["reason"]) == ("failed", "no")
    assert document["error"] == "ValueError: no\nTraceback: here"
    assert whole(views_jobs.job(node.machine, "j"))["state"] == "failed"
    shown = views_jobs.result(node.machine, "j", "j.0")
    assert shown is not None
    assert shown[1:7] == (
        "failed",
        b"",
        "",
        "ValueError",
        "no",
        "Traceback: here",
    )  # type: ignore[index]


def test_a_task_that_is_tried_again_says_so() -> None:
    node = Node()
    node.submit(1, shape=Shape(retries=Retries(max=2)))
    node.end(FAILED, code="ValueError", message="no")
    assert views_jobs.task(node.machine, "j.0")["reason"] == "failed 1 times; last: ValueError: no"
    assert "tried again" in views_jobs.explain(node.machine, "j.0", node.now)["why"]


def test_paused_and_cancelled_jobs() -> None:
    node = Node()
    node.submit(3)  # one begins, one queues behind it
    node.step(ev.PauseAsked(2, "j", True))
    assert whole(views_jobs.job(node.machine, "j"))["state"] == "paused"
    assert views_jobs.explain(node.machine, "j.2", node.now)["why"] == "its job is paused"
    node.step(ev.CancelAsked(3, "j"))
    assert whole(views_jobs.job(node.machine, "j"))["state"] == "cancelled"
    assert whole(views_jobs.tasks(node.machine, "j", "cancelled"))[1]["reason"] == "cancelled by its user"


def test_explain_gives_the_decision_that_was_made() -> None:
    node = Node()
    node.submit(2)
    granted = views_jobs.explain(node.machine, "j.0", node.now)
    assert granted["choice"] == NODE
    assert [row["id"] for row in granted["nodes"]] == [NODE]
    node.end()
    assert views_jobs.explain(node.machine, "j.0", node.now)["choice"] == NODE


def test_explain_says_why_a_task_can_run_nowhere() -> None:
    node = Node()
    node.submit(1, shape=Shape((Resources(millicpus=16_000),)))
    document = views_jobs.explain(node.machine, "j.0", node.now)
    assert (document["choice"], document["why"]) == ("", "no node can run it")
    assert document["nodes"] == [{"id": NODE, "name": "one", "feasible": False, "why": "its 1 core cannot hold 16"}]


def test_explain_says_that_a_task_waits_for_the_rest_of_the_journal_that_told_of_it() -> None:
    node = Node()
    node.submit(3)
    assert "journal" not in views_jobs.explain(node.machine, "j.2", node.now)["why"]
    node.machine.leader.tasks.learn("of another", ["j.2"])
    assert "is still reading the journal" in views_jobs.explain(node.machine, "j.2", node.now)["why"]


def test_an_unknown_id_is_denied_only_when_every_journal_was_read() -> None:
    node = Node()
    with pytest.raises(NotFound, match="there is no task nope"):
        views_jobs.task(node.machine, "nope")
    node.step(ev.AddressFound("127.0.0.1:7", OTHER))
    with pytest.raises(NoLeader, match=OTHER):
        whole(views_jobs.job(node.machine, "nope"))


def test_a_deleted_job_is_denied_and_in_no_list() -> None:
    node = Node()
    node.submit(1)
    node.end()
    node.step(ev.DeleteAsked(2, "j"))
    for question in (lambda: whole(views_jobs.job(node.machine, "j")), lambda: views_jobs.task(node.machine, "j.0")):
        with pytest.raises(NotFound, match="job j was deleted"):
            question()
    assert whole(views_jobs.jobs(node.machine)) == whole(views_jobs.tasks(node.machine, "", "")) == []
    assert views.status(node.machine, node.now)["jobs"] == 0
    assert views_jobs.result(node.machine, "j", "j.0") is None


def test_results_of_another_job_and_of_open_tasks_are_not_given() -> None:
    node = Node()
    node.submit(2)
    node.end()
    assert views_jobs.result(node.machine, "other", "j.0") is None
    assert views_jobs.result(node.machine, "j", "j.1") is None
    assert whole(views_jobs.ended(node.machine, "j")) == ["j.0"]


def test_a_long_list_is_made_in_slices_and_what_is_deleted_meanwhile_is_left_out() -> None:
    node = Node(slots=0)
    node.submit(3 * views_jobs.SLICE, metric="loss")
    for work in (
        views_jobs.tasks(node.machine, "j", ""),
        views_jobs.ended(node.machine, "j"),
        views_jobs.jobs(node.machine),
    ):
        assert sum(1 for _ in zip(count(), work, strict=False)) >= 3
    assert [task["id"] for task in whole(views_jobs.tasks(node.machine, "j", ""))] == [
        f"j.{n}" for n in range(3 * views_jobs.SLICE)
    ]
    under_way = [views_jobs.tasks(node.machine, "j", ""), views_jobs.jobs(node.machine)]
    for work in under_way:
        next(work)
    node.step(ev.CancelAsked(2, "j"))
    node.step(ev.DeleteAsked(3, "j"))
    assert [whole(work) for work in under_way] == [[], []]
