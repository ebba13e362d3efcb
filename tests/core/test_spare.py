"""What may go: the leader's answer to a node that needs room."""

from __future__ import annotations

import json
from dataclasses import replace

from mesh.core.effects import Answer, BlobsSpared, Send
from mesh.core.events import CancelAsked, DeleteAsked, PauseAsked, PinAsked
from mesh.core.ids import Claim
from mesh.core.lattice import FAILED, RELEASED, SUCCEEDED, Attempt, Checkpoint, Checkpointing, Outcome, Register, Shape
from mesh.core.messages import Spare, Spared
from mesh.core.params import Params
from tests.core import test_holder, test_leader
from tests.core.parts import PARAMS, job, messages, node, only, success, task

BLOBS = [f"{number:064x}" for number in range(10)]
FILES, LAST, BEST, OLD, RESULT, LOG, FREE = BLOBS[:7]


def saved(step: int, blob: str, loss: float) -> Checkpoint:
    return Checkpoint(1, step, "1.50-z.z1.1", step, blob, 10, json.dumps({"loss": loss}).encode())


def ask(rig: test_leader.Rig, *blobs: str, number: int = 1, whom: Claim | None = None, steps: int = 10) -> list[Spared]:
    rig.leader.on_spare(node("b"), Spare(whom or rig.leader.claim, number, blobs))
    return [answer for _ in range(steps) for answer in messages(Spared, rig.step(), "b")]


def world(**params: int) -> test_leader.Rig:
    """A task that was tried, with checkpoints, a result and a log, and one that waits for its files."""
    shape = Shape(kind="k", checkpoints=Checkpointing(keep=1, metric="loss"))
    tried = Attempt(
        "j.0", "1.50-z.z1.1", True, 1, SUCCEEDED, 1, node("z"), success()._replace(blob=RESULT, log=LOG),
        (saved(3, LAST, 0.5), saved(2, BEST, 0.1), saved(1, OLD, 0.9)),
    )  # fmt: skip
    waits = task("j.1", shape=Shape(kind="k", cwd="/nowhere"))._replace(needs=(FILES,))
    return test_leader.Rig(job(), task("j.0", shape=shape), tried, waits, params=replace(PARAMS, **params))


def test_what_the_ledger_refers_to_stays_and_the_rest_may_go() -> None:
    (answer,) = ask(world(), *BLOBS)
    assert answer == Spared(test_leader.LEADER, 1, (OLD, *BLOBS[6:]), "")


def test_what_only_a_task_reads_that_has_ended_may_go() -> None:
    rig = world()
    rig.ask(CancelAsked, "j.1")
    (answer,) = ask(rig, *BLOBS)
    assert FILES in answer.blobs


def test_what_belonged_to_a_deleted_job_may_go() -> None:
    rig = world()
    rig.ask(CancelAsked, "j")
    rig.ask(DeleteAsked, "j")
    (answer,) = ask(rig, *BLOBS)
    assert answer.blobs == tuple(BLOBS)


def test_the_log_of_a_failure_stays() -> None:
    failed = Attempt("j.0", "1.50-z.z1.1", True, 1, FAILED, 1, node("z"), Outcome("ValueError", log=LOG))
    rig = test_leader.Rig(job(), task("j.0"), failed)
    (answer,) = ask(rig, LOG, FREE)
    assert answer.blobs == (FREE,)


def pin(rig: test_leader.Rig, blob: str, pinned: bool) -> Answer:
    rig.leader.on_pin(PinAsked(99, blob, pinned))
    (answer,) = only(Answer, rig.step())
    return answer


def test_what_is_pinned_stays_until_it_is_unpinned() -> None:
    rig = world()
    rig.leader.holders = {FREE: (node("b"),)}.get  # type: ignore[assignment]
    assert pin(rig, FREE, True).error == ""
    assert ask(rig, FREE)[0].blobs == ()
    assert pin(rig, FREE, True).error == "", "again is done"
    assert pin(rig, FREE, False).error == ""
    assert ask(rig, FREE)[0].blobs == (FREE,)
    assert rig.out.ledger.registers[f"blob/{FREE}", "pinned"].version == 2


def test_what_nobody_has_cannot_be_pinned_and_being_unpinned_already_is_done() -> None:
    rig = world()
    answer = pin(rig, "../x" * 100, True)
    assert (answer.error, "no node that can be reached has blob" in answer.message) == ("NotFound", True)
    assert len(answer.message) < 200
    assert pin(rig, FREE, False).error == ""
    assert not rig.out.ledger.registers


def test_it_is_looked_for_in_slices_and_what_comes_meanwhile_counts() -> None:
    rig = test_leader.Rig(params=replace(PARAMS, slice_records=2))
    rig.submit(*(task(f"j.{number}") for number in range(9)))
    assert not ask(rig, FILES, FREE, steps=2)
    rig.submit(task("k.0", "k")._replace(needs=(FILES,)))
    answers = [answer for _ in range(10) for answer in messages(Spared, rig.step(), "b")]
    assert [answer.blobs for answer in answers] == [(FREE,)]
    assert rig.leader.deadline() is None or not rig.leader.spare.busy


def test_a_question_of_another_leader_and_one_while_journals_are_gathered() -> None:
    rig = world()
    assert not ask(rig, FREE, whom=test_leader.claim("y", 9))
    rig = test_leader.Rig(job(), task("j.0"), open_as=None)
    rig.member("z")
    rig.leader.open(test_leader.LEADER, rig.now)
    (answer,) = ask(rig, FREE)
    assert (answer.blobs, answer.why) == ((), "the leader is still gathering journals")


def test_two_that_need_room_are_both_answered() -> None:
    rig = world()
    rig.member("c")
    rig.leader.on_spare(node("c"), Spare(rig.leader.claim, 7, (FREE,)))
    rig.leader.on_spare(node("b"), Spare(rig.leader.claim, 1, (FILES,)))
    effects = [effect for _ in range(10) for effect in rig.step()]
    told = {effect.to: effect.message for effect in only(Send, effects) if isinstance(effect.message, Spared)}
    assert told[node("c")] == Spared(rig.leader.claim, 7, (FREE,), "")
    assert told[node("b")] == Spared(rig.leader.claim, 1, (), "")


# -- the node that asks


def test_it_asks_until_it_is_answered_and_takes_no_answer_to_an_earlier_question() -> None:
    rig = test_holder.Rig(FREE, params=Params())
    rig.holder.on_doubted((FREE,))
    assert rig.work() == [Spare(test_holder.LEADER, 1, (FREE,))]
    assert rig.work(rig.holder.params.seek_again) == [Spare(test_holder.LEADER, 1, (FREE,))]
    rig.holder.on_doubted((FREE, FILES))
    rig.work()
    rig.holder.on_message(Spared(test_holder.LEADER, 1, (FREE,), ""), rig.now)
    assert not rig.out.flush()
    rig.holder.on_message(Spared(test_holder.LEADER, 2, (FILES,), ""), rig.now)
    assert rig.out.flush() == [BlobsSpared((FILES,), "")]
    assert rig.work(10.0) == []
    assert rig.holder.deadline() is None


def test_a_new_leader_is_asked_again() -> None:
    rig = test_holder.Rig(FREE, params=Params())
    rig.holder.on_doubted((FREE,))
    rig.work()
    other = test_holder.claim("y", 2)
    rig.holder.on_claim(other)
    rig.holder.flush(rig.now)
    sent = [e.message for e in only(Send, rig.out.flush()) if e.to == node("y")]
    assert Spare(other, 1, (FREE,)) in sent


# -- and where a task goes


def test_a_task_goes_where_what_it_reads_is() -> None:
    rig = test_leader.Rig()
    rig.leader.holders = {FILES: (node("c"),)}.get  # type: ignore[assignment]
    b, c = rig.hand("b"), rig.hand("c")
    rig.submit(task("j.0")._replace(needs=(FILES,)))
    assert not b.granted
    (grant,) = c.granted.values()
    decision = rig.leader.decisions[grant.attempt]
    told = {name: why for name, _, why in decision.explain().nodes}
    assert told[node("c")].endswith("free now; it has what the task reads")
    assert told[node("b")] == "would have to fetch what the task reads"


def test_a_task_goes_where_its_checkpoint_is() -> None:
    drained = Attempt("j.0", "1.50-z.z1.1", True, 1, RELEASED, 1, node("z"), Outcome("drained"), (saved(3, LAST, 0.5),))
    rig = test_leader.Rig(job(), task("j.0"), drained, Register("job/j", "paused", 1, node("z"), "1"))
    rig.leader.holders = {LAST: (node("c"),)}.get  # type: ignore[assignment]
    b, c = rig.hand("b"), rig.hand("c")
    rig.ask(PauseAsked, "j", False)
    assert (len(b.granted), len(c.granted)) == (0, 1)
