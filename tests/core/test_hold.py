"""Hold tasks (section 7): granted by their owner alone, waiting where they may have begun and were lost, forced."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mesh.core import events as ev
from mesh.core import owners
from mesh.core.effects import Answer, Effect, Persist
from mesh.core.lattice import (
    FAILED,
    LOST,
    OFFERED,
    RELEASED,
    RUNNING,
    Attempt,
    Job,
    Outcome,
    Owner,
    Retries,
    Run,
    Shape,
    Task,
)
from mesh.core.ledger import ACTIVE, DONE, PENDING, Ledger
from mesh.core.messages import NO_CURSOR, Orders, Pulled
from mesh.core.owners import NOT_COUNTED
from mesh.core.reasons import MAY_RUN, OWNED
from tests.core.cluster import Cluster
from tests.core.parts import PARAMS, job, messages, node, one, only, outbox, persisted
from tests.core.test_leader import Hand, Rig

HOLD = Shape(kind="h", retries=Retries(1, backoff_ms=0), hold=True)


def held(name: str = "t", of: str = "j") -> Task:
    return Task(name, of, 0, f"d-{name}", HOLD, b"")


def submit(rig: Rig, *each: Task, owner: str = "a") -> list[Effect]:
    rig.calls += 1
    rig.leader.on_submitted(ev.Submitted(rig.calls, job(each[0].job), each, node(owner) if owner else ""), rig.now)
    return rig.step() + rig.step()  # the second one is that in which the journal says that it synced


def waits(rig: Rig, task: str = "t") -> str:
    why = rig.leader.tasks.waits(task)
    return "" if why is None else why.code


def lost(rig: Rig, hand: Hand) -> None:
    rig.leader.on_gone(hand.node, rig.now)
    rig.step()


def running(owner: str = "a") -> tuple[Rig, Hand, str]:
    """One runs on ``b``."""
    rig = Rig()
    hand = rig.hand("b")
    submit(rig, held(), owner=owner)
    name = hand.attempt_at("t")
    hand.begin(name)
    return rig, hand, name


# -- who grants ------------------------------------------------------------------------------------------------------


def test_the_owner_stands_in_the_journal_before_its_tasks_and_grants_them() -> None:
    rig = Rig()
    hand = rig.hand("b")
    effects = submit(rig, held())
    records = [record for persist in only(Persist, effects) for record in persist.records]
    assert records.index(Owner("j", "", 0, node("a"))) < records.index(held())
    assert hand.does("t")


def test_a_submission_that_names_no_owner_is_refused() -> None:
    rig = Rig()
    answer = one(Answer, submit(rig, held(), owner=""))
    assert answer.error == "MeshError"
    assert "upgrade the client" in answer.message
    assert "t" not in rig.out.ledger.tasks


def test_who_is_not_named_takes_the_submission_and_grants_nothing() -> None:
    """Its client sent it to the named one before, and does not know whether that took it."""
    rig = Rig()
    hand = rig.hand("b")
    assert one(Answer, submit(rig, held(), owner="c")).error == ""
    assert not hand.granted
    assert waits(rig) == OWNED
    assert node("c") in str(rig.leader.tasks.waits("t"))
    assert "meshctl retry t --force" in str(rig.leader.tasks.waits("t"))


def test_what_is_handed_over_is_granted_once_the_hand_over_was_read() -> None:
    rig = Rig()
    hand = rig.hand("b")
    submit(rig, held(), owner="c")
    rig.pulled(Owner("j", "", 1, node("a")))
    rig.step()
    assert hand.does("t")


def test_a_job_that_is_handed_over_is_considered_in_slices() -> None:
    rig = Rig(params=replace(PARAMS, slice_records=2))
    rig.hand("b")
    submit(rig, *(held(f"t{n}") for n in range(5)), owner="c")
    rig.pulled(Owner("j", "", 1, node("a")))
    assert rig.leader.deadline() == 0.0
    for _ in range(3):
        rig.step()
    assert not rig.leader.tasks.busy
    assert all(not waits(rig, f"t{n}") for n in range(5))


def test_a_machine_started_with_another_rank_is_the_same_owner() -> None:
    ledger = Ledger()
    ledger.join(Owner("j", "", 0, "50-A"))
    assert owners.owns(ledger, "10-A", held())
    assert not owners.owns(ledger, "50-B", held())


def test_the_grant_leaves_once_it_is_on_disk() -> None:
    rig = Rig()
    hand = rig.hand("b")
    rig.on_disk = False
    effects = submit(rig, held())
    assert rig.out.ledger.tasks["t"].attempts
    assert not messages(Orders, effects, "b")
    effects = rig.sync() + rig.step()
    assert [grant.task.id for orders in messages(Orders, effects, "b") for grant in orders.grants] == ["t"]
    assert hand.does("t")


def test_it_never_waits_in_the_queue_of_a_node() -> None:
    """If the node is lost, nobody can tell whether it had begun."""
    rig = Rig()
    hand = rig.hand("b", slots=1)
    submit(rig, held("t"), held("u"))
    assert set(hand.held) == {hand.attempt_at("t")}
    run = hand.attempt_at("t")
    hand.begin(run)
    hand.end(run, micros=1000)  # its duration is known now, and short
    rig.step()
    assert hand.does("u")


def test_a_grant_that_was_taken_back_before_it_left_never_began() -> None:
    rig = Rig()
    hand = rig.hand("b")
    rig.on_disk = False
    submit(rig, held())
    rig.leader.on_asked(ev.CancelAsked(99, "j"), rig.now)
    rig.sync()
    assert not hand.granted
    [attempt] = rig.out.ledger.tasks["t"].attempts.values()
    assert (attempt.phase, attempt.outcome.code) == (LOST, NOT_COUNTED)


def granted_on_paper() -> tuple[Rig, Hand]:
    """One is granted to ``b``, and not on disk yet."""
    rig = Rig()
    hand = rig.hand("b")
    rig.on_disk = False
    submit(rig, held())
    assert rig.out.ledger.tasks["t"].open_attempts()
    return rig, hand


def test_what_is_another_ones_before_the_grant_is_on_disk_is_not_granted() -> None:
    """A copy of our own state directory followed another leader, and handed over what is ours."""
    rig, hand = granted_on_paper()
    rig.pulled(Owner("j", "", 1, node("c")))
    rig.sync()
    rig.step()
    assert not hand.granted
    [attempt] = rig.out.ledger.tasks["t"].attempts.values()
    assert (attempt.phase, attempt.outcome.code) == (LOST, NOT_COUNTED)
    assert waits(rig) == OWNED
    rig.pulled(Owner("j", "", 2, node("a")))
    rig.step()
    assert hand.does("t"), "it is ours again"


@pytest.mark.parametrize(("run", "phase"), [(1, RUNNING), (1, LOST), (2, RUNNING), (2, LOST)])
def test_what_is_ours_again_with_an_attempt_of_another_is_not_granted_beside_that(run: int, phase: int) -> None:
    rig, hand = granted_on_paper()
    theirs = Attempt("t", "3.c.c.1", False, 0, phase, run, node("c"))
    rig.pulled(Owner("j", "t", 1, node("c")), Run("t", run, 0), theirs, Owner("j", "t", 2, node("a")))
    rig.sync()
    rig.later(1.0)
    assert not hand.granted


def test_what_was_forced_elsewhere_and_is_ours_again_is_granted_in_the_run_that_was_begun_there() -> None:
    rig, hand = granted_on_paper()
    over = Attempt("t", "3.c.c.1", True, 0, RELEASED, 2, node("c"))
    rig.pulled(Owner("j", "t", 1, node("c")), Run("t", 2, 0), over, Owner("j", "t", 2, node("a")))
    rig.sync()
    rig.later(1.0)
    assert [grant.run for grant in hand.granted.values()] == [2]


# -- what was lost ---------------------------------------------------------------------------------------------------


def test_what_may_have_begun_and_was_lost_waits_for_its_machine() -> None:
    rig, b, name = running()
    c = rig.hand("c")
    lost(rig, b)
    rig.later(60.0, silent="b")
    assert not c.granted
    assert (rig.state("t"), waits(rig)) == (PENDING, MAY_RUN)
    rig.member("b", "worker")
    b.life = rig.members.peers[b.node].life
    b.declare()  # it ran on
    assert (rig.state("t"), waits(rig)) == (ACTIVE, "")
    b.end(name)
    assert rig.state("t") == DONE
    assert not c.granted


def test_what_was_lost_three_times_still_waits_and_does_not_fail() -> None:
    rig = Rig()
    submit(rig, held())
    for n in range(5):
        rig.pulled(Attempt("t", f"1.x.x.{n}", False, 0, LOST, 1, node("x"), Outcome("its process ended")))
    assert (rig.state("t"), waits(rig)) == (PENDING, MAY_RUN)


def test_what_failed_is_tried_again_and_what_was_released_is_granted_again() -> None:
    for phase in (FAILED, RELEASED):
        rig, b, name = running()
        b.end(name, phase)
        rig.later(1.0)
        assert b.attempt_at("t") != name


def test_an_offer_that_its_node_does_not_declare_never_arrived_if_it_followed_nobody_else() -> None:
    """Its sessions are numbered: one in between was another leader's, where it may have ended the attempt."""
    for other, expected in ((0, ""), (1, MAY_RUN)):
        rig = Rig()
        hand = rig.hand("b")
        hand.obey = lambda orders: None  # type: ignore[method-assign]
        submit(rig, held())
        del hand.obey  # type: ignore[attr-defined]
        hand.session += other
        hand.declare()
        rig.step()
        assert waits(rig) == expected
        assert hand.does("t") is (not expected)


def test_an_offer_found_in_a_journal_may_have_begun_in_a_former_life_of_its_node() -> None:
    rig = Rig()
    hand = rig.hand("b")
    rig.pulled(Owner("j", "", 0, node("a")), job("j"), held(), Attempt("t", "1.x.x.1", False, 0, OFFERED, 1, hand.node))
    hand.declare()  # it is asked to
    rig.step()
    assert waits(rig) == MAY_RUN


# -- people ----------------------------------------------------------------------------------------------------------


def test_a_retry_of_what_waits_is_refused_with_the_reason_and_forced_on_request() -> None:
    rig, b, name = running()
    c = rig.hand("c")
    lost(rig, b)
    refused = rig.ask(ev.RetryAsked, "t")
    assert refused.error == "Held"
    assert "b was lost while it may have run it" in refused.message
    assert "--force" in refused.message
    assert rig.ask(ev.RetryAsked, "j").error == "Held"
    assert rig.ask(ev.RetryAsked, "t", True).count == 1
    rig.step()
    rig.step()
    assert c.does("t")
    assert c.granted[c.attempt_at("t")].run == 2
    # The old one comes back with a success: that is the result, and the other is called back.
    rig.member("b", "worker")
    b.life = rig.members.peers[b.node].life
    b.declare()
    b.end(name)
    rig.step()
    assert rig.state("t") == DONE
    assert c.attempt_at("t") in c.recalled


def test_a_person_replaces_an_owner_that_is_gone_for_this_task_alone() -> None:
    rig = Rig()
    hand = rig.hand("b")
    submit(rig, held("t"), held("u"), owner="c")
    assert rig.ask(ev.RetryAsked, "t", True).count == 1
    rig.step()
    rig.step()
    assert hand.does("t")
    assert waits(rig, "u") == OWNED
    assert rig.out.ledger.owner_of(held("t")) == Owner("j", "t", 1, node("a"))


def test_force_is_no_more_than_a_retry_for_what_is_not_held() -> None:
    rig, b, name = running()
    assert rig.ask(ev.RetryAsked, "t", True).count == 0
    b.end(name)
    assert rig.ask(ev.RetryAsked, "t", True).count == 0


# -- hand-overs ------------------------------------------------------------------------------------------------------


def test_what_is_told_goes_straight_back_unless_it_went_further_since() -> None:
    told = Owner("j", "", 1, node("b"))
    for known, expected in ((None, 2), (Owner("j", "", 0, node("x")), 2), (Owner("j", "", 2, node("c")), None)):
        out = outbox("b", [known] if known else [])
        owners.renounce(out, (told, Owner("k", "", 3, node("z")), Run("t", 1, 0)), node("a"))
        assert persisted(Owner, out.flush()) == ([Owner("j", "", 2, node("a"))] if expected else [])


def test_a_follower_that_owns_something_is_told_and_read() -> None:
    rig = Rig()
    submit(rig, held(), owner="c")
    rig.member("c")
    rig.leader.on_heartbeat(rig.members.peers[node("c")], rig.leader.claim, "", rig.now)
    effects = rig.step()
    [told] = messages(Pulled, effects, "c")
    assert told == Pulled(0, NO_CURSOR, True, (Owner("j", "", 0, node("c")),))


class Two(Cluster):
    def hold(self, name: str, count: int) -> None:
        tasks = tuple(Task(f"j.{n}", "j", n, f"d{n}", HOLD, b"") for n in range(count))
        owner = self.nodes[name].id
        self._call(name, lambda call: ev.Submitted(call, Job("j", "j"), tasks, owner))


def two() -> Two:
    cluster = Two()
    cluster.start("a", "slots=1")
    cluster.start("b", "slots=1")
    cluster.connect("b", "a")
    cluster.run("4")
    return cluster


def ledger_of(cluster: Cluster, name: str) -> Any:
    return cluster.nodes[name].up.ledger


def test_an_owner_that_leaves_hands_over_and_the_next_leader_grants() -> None:
    cluster = two()
    cluster.hold("a", 4)
    cluster.settle()
    cluster.drain("a", "0.1")
    cluster.run("3")
    assert cluster.nodes["b"].up.leading
    assert ledger_of(cluster, "b").owner_of(held("j.3", "j")).owner == cluster.nodes["b"].id


def test_what_a_dead_leader_owns_waits_and_goes_on_when_it_is_back() -> None:
    cluster = two()
    cluster.hold("a", 6)
    cluster.settle()
    cluster.begin("b")
    cluster.crash("a")
    cluster.run("3")
    machine = cluster.nodes["b"].up
    assert machine.leading
    why = machine.leader.tasks.waits("j.5")
    assert why is not None
    assert why.code == OWNED
    assert set(cluster.nodes["b"].running.values()) <= {"j.0", "j.1"}
    cluster.start("a")
    cluster.connect("a", "b")
    cluster.run("3")
    assert machine.leading, "who returns settles first"
    assert machine.ledger.owner_of(held("j.5", "j")) == Owner("j", "", 1, cluster.nodes["b"].id)
    assert machine.leader.tasks.waits("j.5") is None
