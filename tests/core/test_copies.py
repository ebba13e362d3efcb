"""Who counts as a copy of the leader's journal, what is safe therefore, and how a leader hands over."""

from __future__ import annotations

import pytest

from mesh.core.copies import ALL, LOCAL, ONE, Copies
from mesh.core.effects import Answer, Effect, Notice, Send
from mesh.core.lattice import Mesh, Register
from mesh.core.members import Members
from mesh.core.messages import Yield
from tests.core.parts import PARAMS, beat, claim, hello, node, only, outbox, who

NEWS = Yield(claim("a"), "leaving")


class Rig:
    """Node ``a`` leads; ``b``, ``c`` and ``d`` are alive and able."""

    def __init__(self, *others: str, durability: str = ONE) -> None:
        self.out = outbox("a")
        self.members = Members(node("a"), "a:1", PARAMS, self.out)
        self.copies = Copies(PARAMS, self.members, self.out)
        self.now = 100.0
        for name in others:
            self.beat(name)
        if durability != ONE:
            self.out.record(Register("mesh", "durability", 1, node("a"), durability))
        self.copies.open(self.now)
        self.now += PARAMS.copy_wait
        for name in others:
            self.beat(name)
        self.write(0)

    def beat(self, name: str, **says: object) -> None:
        peer = self.members.peers.get(node(name))
        if peer is None:
            peer = self.members.on_link_up(len(self.members.links) + 1, hello(who(name)), "", 0.0)
        self.members.number(peer, self.now)
        self.members.on_heartbeat(peer, beat(name, peer.heard_seq + 1, peer.seq, **says), self.now)

    def write(self, records: int, synced: bool = True) -> list[Effect]:
        for number in range(records):
            self.out.record(Mesh(f"m{self.out.recorded + number}", False))
        return self.work(synced)

    def work(self, synced: bool = True) -> list[Effect]:
        effects = self.out.flush()
        if synced:
            self.out.on_synced(self.out.position)
        self.copies.work(self.now)
        return effects + self.out.flush()

    def copied(self, name: str, position: int | None = None) -> list[Effect]:
        self.copies.on_copied(node(name), self.out.synced if position is None else position, self.now)
        return self.work()

    @property
    def unsafe(self) -> int:
        """Records on this disk that are not safe."""
        return self.out.synced - self.out.safe


def test_the_next_two_in_line_are_recruited_whether_they_know_everything_or_not() -> None:
    rig = Rig("d", "c", "b")
    assert rig.copies.recruits == (node("b"), node("c"))
    rig.beat("b", eligible=False)
    rig.beat("c", caught_up=False)
    rig.copies.recruit(rig.now)
    assert rig.copies.recruits == (node("c"), node("d"))


def test_alone_it_is_safe_once_it_is_on_this_disk() -> None:
    rig = Rig()
    rig.write(3, synced=False)
    assert rig.out.safe == 0
    rig.work()
    assert rig.unsafe == 0


def test_a_recruit_counts_once_it_had_all_that_was_synced_when_it_was_served_and_not_before() -> None:
    rig = Rig("b")
    rig.write(5)
    rig.copied("b", 2)
    rig.write(5)
    assert rig.unsafe == 0, "nobody waits for who is catching up"
    rig.copied("b", 4)  # it asked when 5 were synced, and has 4
    assert rig.copies.standing() == ()
    rig.copied("b", 10)
    assert rig.copies.standing() == (node("b"),)
    rig.write(1)
    assert rig.unsafe == 1
    rig.copied("b")
    assert rig.unsafe == 0


def test_under_load_what_it_lacked_when_it_was_served_last_is_enough() -> None:
    """New records come all the time, so that it may never have everything at the moment when it says so."""
    rig = Rig("b")
    rig.write(5)
    rig.copied("b", 3)
    rig.write(5)
    rig.copied("b", 5)
    assert rig.copies.standing() == (node("b"),)


@pytest.mark.parametrize(("durability", "unsafe"), [(LOCAL, 0), (ONE, 1), (ALL, 3)])
def test_durability_says_whose_disk_is_waited_for(durability: str, unsafe: int) -> None:
    rig = Rig("b", "c", durability=durability)
    rig.copied("b")
    rig.copied("c")
    rig.write(4)
    rig.copied("b", rig.out.synced - 1)
    rig.copied("c", rig.out.synced - 3)
    assert rig.unsafe == unsafe


@pytest.mark.parametrize("why", ["silent", "not eligible", "gone"])
def test_a_successor_that_is_lost_is_waited_for_no_longer(why: str) -> None:
    rig = Rig("b")
    rig.copied("b")
    rig.write(1)
    assert rig.unsafe == 1
    if why == "silent":
        rig.now += PARAMS.silent_after + 0.1
    elif why == "gone":
        rig.members.peers[node("b")].gone = True
    else:
        rig.beat("b", eligible=False)
    rig.work()
    assert rig.unsafe == 0
    assert rig.copies.standing() == ()


def test_a_successor_that_beats_but_does_not_pull_is_given_up_after_five_seconds() -> None:
    rig = Rig("b")
    rig.copied("b")
    rig.write(1)
    until = rig.now + PARAMS.slow_sync
    while rig.now < until - 0.5:
        rig.now += 0.5
        rig.beat("b")
        rig.work()
    assert rig.unsafe == 1
    assert rig.copies.deadline(rig.now) == until
    rig.now = until
    rig.beat("b")
    assert [notice.event for notice in only(Notice, rig.work())] == ["successor_stuck"]
    assert rig.unsafe == 0


def test_a_new_leader_gives_its_successors_a_moment_to_catch_up() -> None:
    rig = Rig()
    rig.beat("b")
    rig.copies.close()
    rig.copies.open(rig.now)
    rig.write(1)
    assert rig.unsafe == 1
    assert rig.copies.deadline(rig.now) == rig.now + PARAMS.copy_wait
    rig.copied("b")
    assert rig.unsafe == 0
    rig.copies.close()
    rig.copies.open(rig.now)
    rig.write(1)
    rig.now += PARAMS.copy_wait
    rig.beat("b")
    rig.work()
    assert rig.unsafe == 0, "and no longer than that"


def test_an_answer_names_the_nodes_that_have_it_by_then() -> None:
    rig = Rig("b", "c")
    rig.copied("b")
    rig.copied("c")
    rig.out.record(Mesh("m", False))
    rig.out.when_safe(Answer(1))
    assert only(Answer, rig.work()) == []
    (answer,) = only(Answer, rig.copied("c"))
    assert answer.durable_on == (node("a"), node("c"))


def test_what_is_not_safe_when_the_leadership_is_lost_is_asked_for_again_elsewhere() -> None:
    rig = Rig("b")
    rig.copied("b")
    done: list[int] = []
    rig.out.record(Mesh("m", False))
    rig.out.when_safe(Answer(1))
    rig.out.when_safe(lambda: done.append(1))
    rig.work()
    rig.copies.close()
    (answer,) = only(Answer, rig.work())
    assert (answer.call, answer.error) == (1, "NoLeader")
    assert not done
    assert rig.unsafe == 0, "who does not lead waits for nobody"


def test_who_led_before_names_no_copies_any_more() -> None:
    rig = Rig("b")
    rig.copied("b")
    rig.write(1)
    rig.copies.close()
    assert rig.copies.standing() == ()
    assert rig.copies.deadline(rig.now) is None
    rig.now += PARAMS.slow_sync
    rig.beat("b")
    assert only(Notice, rig.work()) == [], "it is no longer for this node to say who is stuck"


def test_an_heir_is_told_once_it_has_everything_and_what_waited_for_it_is_said_first() -> None:
    rig = Rig("b")
    rig.copied("b")
    rig.out.record(Mesh("m", False))
    rig.out.when_safe(Answer(1))
    rig.copies.hand_over(node("b"), NEWS, rig.now)
    rig.copies.close()
    assert only(Answer, rig.work()) == only(Send, rig.work()) == []
    assert rig.copies.holds_tongue(rig.now)
    effects = rig.copied("b")
    assert [type(effect) for effect in effects[:2]] == [Answer, Send]
    assert only(Send, effects) == [Send(node("b"), NEWS)]
    assert not rig.copies.handing_over


def test_an_heir_that_does_not_take_it_in_time_is_told_all_the_same_once_it_is_flushed_here() -> None:
    rig = Rig("b")
    rig.write(1, synced=False)
    rig.copies.hand_over(node("b"), NEWS, rig.now)
    rig.copies.close()
    rig.now += PARAMS.yield_timeout
    rig.copies.work(rig.now)
    assert only(Send, rig.out.flush()) == []
    assert only(Send, rig.work()) == [Send(node("b"), NEWS)]


def test_a_disk_that_does_not_sync_holds_nobody_back_who_asked_a_leader_that_hands_over() -> None:
    """And once it does, it says nothing of what only it has: the heir, which is there, may not know of it."""
    rig = Rig("b")
    rig.copied("b")
    rig.out.record(Mesh("m", False))
    rig.out.when_safe(Answer(1))
    rig.copies.hand_over(node("b"), NEWS, rig.now)
    rig.copies.close()
    assert only(Answer, rig.work(synced=False)) == []
    rig.now += PARAMS.yield_timeout
    assert [(answer.call, answer.error) for answer in only(Answer, rig.work(synced=False))] == [(1, "NoLeader")]


def test_an_heir_that_stopped_to_pull_makes_no_answer_safe_by_one_disk() -> None:
    rig = Rig("b")
    rig.out.record(Mesh("m", False))
    rig.out.when_safe(Answer(1))
    rig.copies.hand_over(node("b"), NEWS, rig.now)
    rig.copies.close()
    assert only(Answer, rig.work()) == [], "it does not count, and is there all the same"
    rig.now += PARAMS.yield_timeout
    assert [answer.error for answer in only(Answer, rig.work())] == ["NoLeader"]
