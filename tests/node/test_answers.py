"""What watchers and readers of logs are told, from a machine that really stepped."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from mesh.core import effects as fx
from mesh.core import events as ev
from mesh.core import params
from mesh.core.errors import BlobMissing, NotFound
from mesh.core.identity import Me
from mesh.core.lattice import FAILED, LOST, SUCCEEDED, Acceptance, Attempt, Job, Outcome, Retries, Shape, Task
from mesh.core.machine import Machine
from mesh.core.messages import Offer
from mesh.node.answers import Answers
from mesh.shell.server_watch import Standing
from mesh.wire.client import JobCounts, TaskResult

ME = Me("50-A", "life", "a", "auto", "127.0.0.1:1", "test", "mesh-1", "0")


class Rig:
    """A machine whose journal syncs at once."""

    def __init__(self) -> None:
        self.machine = Machine(ME, params.lan(), (), 0.0)
        self.answers = Answers(*([None] * 6))  # type: ignore[arg-type]
        self.answers.machine = self.machine
        self.now = 0.0
        self.began: list[str] = []
        self.step(ev.Ticked())
        self.step(ev.Measured(Offer(4, 4000, 1 << 30, 1 << 30)))

    def step(self, event: ev.Event) -> None:
        self.now += 0.01
        for effect in self.machine.step(event, self.now):
            if isinstance(effect, fx.Persist):
                self.step(ev.JournalSynced(effect.position))
            elif isinstance(effect, fx.BeginAttempts):
                self.began += [assignment.attempt for assignment in effect.assignments]

    def submit(self, count: int, kind: str = "sweep", retries: int = 0) -> None:
        shape = Shape(retries=Retries(max=retries))
        tasks = tuple(Task(f"t{number}", "j1", number, "d", shape, b"") for number in range(count))
        self.step(ev.Submitted(1, Job("j1", "d", kind=kind), tasks))

    def end(self, number: int, phase: int, outcome: Outcome) -> None:
        self.step(ev.AttemptsEnded(((self.began[number], phase, outcome),)))


@pytest.fixture
def rig() -> Rig:
    return Rig()


async def test_results_and_standing_follow_the_tasks(rig: Rig) -> None:
    rig.submit(3)
    assert rig.answers.standing("j1").state == "running"
    assert await rig.answers.ended("j1") == []
    assert rig.answers.result("j1", "t0") is None
    rig.end(0, SUCCEEDED, Outcome(result=b"r", digest="d", metrics=b"{}"))
    rig.end(1, FAILED, Outcome("ValueError", "bad", "trace", b"pickled"))
    rig.step(ev.CancelAsked(2, "t2"))
    assert await rig.answers.ended("j1") == ["t0", "t1", "t2"]
    first, second = rig.began[:2]
    assert rig.answers.result("j1", "t0") == TaskResult("t0", "succeeded", b"r", "d", "", "", "", "50-A", first, b"{}")
    assert rig.answers.result("j1", "t1") == TaskResult(
        "t1", "failed", b"pickled", "", "ValueError", "bad", "trace", "50-A", second
    )
    assert rig.answers.result("j1", "t2") == TaskResult(
        "t2", "cancelled", code="cancelled", message="cancelled by its user"
    )
    assert rig.answers.standing("j1") == Standing(JobCounts(succeeded=1, failed=1, cancelled=1), "failed", True, False)


def test_a_large_result_is_told_by_its_blob(rig: Rig) -> None:
    rig.submit(1)
    rig.end(0, SUCCEEDED, Outcome(digest=LOG, blob=LOG))
    told = rig.answers.result("j1", "t0")
    assert told is not None
    assert (told.state, told.result, told.digest, told.blob) == ("succeeded", b"", LOG, LOG)


async def test_result_that_is_not_here_yet_is_none(rig: Rig) -> None:
    rig.submit(1)
    claim = rig.machine.election.claim._replace(term=99)
    rig.machine.ledger.join(Acceptance("t0", "99.50-B.life.1", claim, "d"))
    assert await rig.answers.ended("j1") == ["t0"]
    assert rig.answers.result("j1", "t0") is None


def test_result_of_another_job_is_none(rig: Rig) -> None:
    rig.submit(1)
    rig.end(0, SUCCEEDED, Outcome(result=b"r"))
    assert rig.answers.result("j2", "t0") is None


def test_functions_are_open_ended_and_a_job_can_be_paused(rig: Rig) -> None:
    rig.submit(1, kind="functions")
    assert rig.answers.standing("j1").open_ended
    rig.step(ev.PauseAsked(2, "j1", True))
    assert rig.answers.standing("j1").state == "paused"


async def test_unknown_job_is_not_found(rig: Rig) -> None:
    with pytest.raises(NotFound, match="no job j9"):
        await rig.answers.ended("j9")
    with pytest.raises(NotFound, match="no job j9"):
        rig.answers.standing("j9")


@pytest.mark.parametrize(
    ("target", "attempt", "place"),
    [("a", "", ("", "")), ("50-A", "", ("", "")), ("t0", "", ("", "FIRST")), ("t0", "FIRST", ("", "FIRST"))],
)
def test_logs_are_placed(rig: Rig, target: str, attempt: str, place: tuple[str, str]) -> None:
    rig.submit(2)
    first = rig.began[0]

    def named(text: str) -> str:
        return first if text == "FIRST" else text

    assert rig.answers.place(target, named(attempt)) == (place[0], named(place[1]))


def test_the_output_of_a_task_is_not_sought_at_a_machine_that_was_lost(rig: Rig) -> None:
    rig.submit(1)
    rig.machine.ledger.join(Attempt("t0", "9.50-B.life.1", False, 0, LOST, 1, "50-B"))
    assert rig.answers.place("t0", "") == ("", rig.began[0])
    rig.end(0, SUCCEEDED, Outcome(started_ms=1))
    assert rig.answers.place("t0", "") == ("", rig.began[0])


@pytest.mark.parametrize(
    ("target", "attempt", "why"),
    [("t9", "", "no task or node t9"), ("t0", "x", "no attempt x"), ("t5", "", "not begun")],
)
def test_logs_that_nobody_has(rig: Rig, target: str, attempt: str, why: str) -> None:
    rig.submit(6)  # of which four run
    with pytest.raises(NotFound, match=why):
        rig.answers.place(target, attempt)


async def test_unknown_question_is_a_defect(rig: Rig) -> None:
    answers: Any = rig.answers
    answers._clock = type("Clock", (), {"now": staticmethod(lambda: 0.0)})
    with pytest.raises(LookupError, match="no question"):
        await answers.document("Weather")


class Stored:
    """Stands for the node's blobs, one of which is a log in two chunks."""

    def __init__(self) -> None:
        self.held = 0
        self.away = False

    async def hold(self, blob: str, damaged: bool) -> Stored:
        if self.away:
            raise BlobMissing(f"blob {blob[:4]} cannot be fetched", "no node has it", "wait")
        self.held += 1
        return self

    def release(self) -> None:
        self.held -= 1

    async def read(self, blob: str, first: int) -> AsyncIterator[bytes]:
        assert (blob, first, self.held) == (LOG, 0, 1)
        for data in (b"manifest", b"one ", b"two"):
            yield data


class Printed:
    """Stands for the runners."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces

    async def tail(self, attempt: str, follow: bool) -> AsyncIterator[bytes]:
        for data in self.pieces:
            yield data


LOG = "0f" * 32


def elsewhere(rig: Rig, log: str, *pieces: bytes) -> tuple[Any, Stored]:
    """A task that ran on a machine which is not here, and what it printed that is."""
    rig.submit(6)  # of which four run
    answers: Any = rig.answers
    answers._clock = type("Clock", (), {"now": staticmethod(lambda: rig.now)})
    answers._runners, answers._blobs = Printed(*pieces), Stored()
    ran = Attempt("t5", "1.50-B.life.1", True, 0, SUCCEEDED, 1, "50-B", Outcome(log=log))
    rig.machine.ledger.join(ran)
    return answers, answers._blobs


async def test_the_output_of_a_machine_that_is_away_is_its_copy(rig: Rig) -> None:
    answers, blobs = elsewhere(rig, LOG)
    address, attempt = answers.place("t5", "")
    assert (address, attempt) == ("", "1.50-B.life.1")
    assert [data async for data in answers.read("t5", attempt, True)] == [b"one ", b"two"]
    assert blobs.held == 0


async def test_a_log_that_is_on_this_disk_is_read_from_there(rig: Rig) -> None:
    answers, _ = elsewhere(rig, LOG, b"here")
    assert [data async for data in answers.read("t5", "1.50-B.life.1", True)] == [b"here"]


async def test_that_no_machine_has_the_output_is_said(rig: Rig) -> None:
    answers, blobs = elsewhere(rig, LOG)
    blobs.away = True
    with pytest.raises(NotFound) as caught:
        _ = [data async for data in answers.read("t5", "1.50-B.life.1", True)]
    assert str(caught.value) == (
        "the output of t5 is on machines that are away; it ran on 50-B; blob 0f0f cannot be fetched;"
        " start one of them again"
    )


def test_output_that_was_never_copied_is_where_it_was_printed(rig: Rig) -> None:
    answers, _ = elsewhere(rig, "")
    with pytest.raises(NotFound, match="the output of t5 is on 50-B; that node is not here"):
        answers.place("t5", "")
