"""Who leads. Each group of tests cites its rule: the numbered list of section 6 in docs/ARCHITECTURE.md."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.core.copies import Copies
from mesh.core.effects import Effect, LeaderChanged, Notice, Send
from mesh.core.election import ALONE, FOLLOWING, LEADING, Election
from mesh.core.ids import NO_CLAIM, Claim
from mesh.core.lattice import Claimed, Record
from mesh.core.members import Members
from mesh.core.messages import Message, Refused, Relayed, Sighting, Verdict, Yield, YieldRequest
from tests.core.parts import PARAMS, beat, claim, hello, messages, node, only, outbox, persisted, who


class Rig:
    """One node's election. Others beat when they are told to, or with every half second of ``wait``."""

    def __init__(self, name: str = "b", role: str = "auto", records: tuple[Record, ...] = ()) -> None:
        self.me = who(name, role)
        self.out = outbox(name, records)
        self.members = Members(self.me.node, self.me.address, PARAMS, self.out)
        self.caught_up = True
        self.copies = Copies(PARAMS, self.members, self.out)
        self.election = Election(self.me, PARAMS, self.members, self.out, self.copies, self._caught_up)
        self.now = 0.0
        self.steady: dict[str, dict[str, Any]] = {}
        self.said: list[Effect] = []  # since the last look

    def _caught_up(self, now: float) -> bool:
        return self.caught_up

    # -- what happens

    def start(self) -> None:
        self.election.start(self.now)
        self.settle()

    def settle(self, synced: bool = True) -> None:
        self._step()
        while synced and not self.out.durable:
            self.out.on_synced(self.out.position)
            self._step()

    def _step(self) -> None:
        """As the machine does it."""
        self.election.tick(self.now)
        if self.election.leading:
            self.copies.open(self.now)
            self.copies.recruit(self.now)
        else:
            self.copies.close()
        self.copies.work(self.now)
        self.said += self.out.flush()

    def copied(self, name: str) -> None:
        """That successor says that it has all we synced; twice, so that it counts."""
        for _ in range(2):
            self.copies.on_copied(node(name), self.out.synced, self.now)
        self.settle()

    def hear(self, name: str, both_ways: bool = True, synced: bool = True, **says: Any) -> None:
        """A heartbeat, as the peer's next; by default it echoes one that we sent just now."""
        peer = self.members.peers.get(node(name))
        if peer is None:
            peer = self.members.on_link_up(len(self.members.links) + 1, hello(who(name)), "", 0.0)
        if both_ways:
            self.members.number(peer, self.now)
        heartbeat = beat(name, peer.heard_seq + 1, peer.seq if both_ways else 0, **says)
        if self.members.on_heartbeat(peer, heartbeat, self.now):
            self.election.on_heartbeat(peer, heartbeat, self.now)
        self.settle(synced)

    def hear_leader(self, name: str, term: int = 1, established: bool = True, **says: Any) -> None:
        self.hear(name, **leads(name, term, established, **says))

    def get(self, sender: str, message: Message) -> None:
        self.election.on_message(node(sender), message, self.now)
        self.settle()

    def wait(self, seconds: float) -> None:
        """In steps of half a second, in which the steady ones beat."""
        until = self.now + seconds
        while self.now < until - 1e-9:
            self.now = min(until, self.now + 0.5)
            for name, says in self.steady.items():
                self.hear(name, **says)
            self.settle()

    # -- what is seen

    @property
    def claim(self) -> Claim:
        return self.election.announced()

    @property
    def role(self) -> str:
        return self.election.role

    def sent(self, kind: type[Any], to: str = "") -> list[Any]:
        found = messages(kind, self.said, to)
        self.said = []
        return found

    def leading(self, term: int) -> None:
        """Lead, established, under this term: how it came to that is not the matter of the test."""
        self.out.ledger.join(Claimed(claim("z", term - 1)))
        self.election.highest_term = term - 1
        self.election._claim(True, self.now)
        self.settle()
        assert self.claim == claim(self.me.name, term)
        self.said = []


def leads(name: str, term: int = 1, established: bool = True, **more: Any) -> dict[str, Any]:
    """What a leader says of itself."""
    return {"claim": claim(name, term, established), "leader_heard": True, "leads": 1, **more}


def follows(name: str, term: int = 1, heard: bool = True, **more: Any) -> dict[str, Any]:
    return {"claim": claim(name, term), "leader_heard": heard, **more}


# -- rule 1: provisional at the start --------------------------------------------------------------------------------


def test_1_a_node_that_starts_leads_at_once_and_provisionally() -> None:
    rig = Rig()
    rig.start()
    assert (rig.role, rig.claim) == (LEADING, claim("b", 1, established=False))
    assert only(LeaderChanged, rig.said) == [LeaderChanged(rig.claim, "b:1")]


def test_1_a_claim_is_synced_before_it_is_used() -> None:
    rig = Rig()
    rig.election.start(0.0)
    rig.settle(synced=False)
    assert persisted(Claimed, rig.said) == [Claimed(claim("b", 1, established=False))]
    assert (rig.role, rig.claim) == (ALONE, NO_CLAIM)
    assert only(LeaderChanged, rig.said) == []
    rig.settle()
    assert rig.role == LEADING


def test_1_a_term_is_above_every_one_ever_seen() -> None:
    rig = Rig(records=(Claimed(claim("z", 41)),))
    rig.start()
    assert rig.claim.term == 42


@pytest.mark.parametrize("role", ["worker", "observer"])
def test_1_who_may_not_lead_does_not_claim(role: str) -> None:
    rig = Rig(role=role)
    rig.start()
    rig.wait(10.0)
    assert (rig.role, rig.claim) == (ALONE, NO_CLAIM)
    assert role in rig.election.why_not_eligible()


# -- rule 2: established ---------------------------------------------------------------------------------------------


def test_2_alone_it_is_established_after_three_seconds() -> None:
    rig = Rig()
    rig.start()
    assert rig.election.deadline(rig.now) == PARAMS.takeover_grace, "by then somebody may have answered"
    rig.wait(PARAMS.takeover_grace)
    assert rig.election.deadline(rig.now) == PARAMS.provisional
    rig.wait(2.9 - PARAMS.takeover_grace)
    assert not rig.claim.established
    rig.wait(0.1)
    assert rig.claim == claim("b", 2)
    assert rig.election.deadline(rig.now) is None, "there is nothing left to wait for"


def test_2_when_all_that_answer_follow_nobody_it_is_established_at_once() -> None:
    rig = Rig()
    rig.start()
    rig.hear("c", both_ways=False)
    assert not rig.claim.established, "who does not hear us has not answered"
    rig.hear("c")
    assert rig.claim == claim("b", 2)


def test_2_a_lower_id_that_starts_too_goes_first() -> None:
    rig = Rig()
    rig.start()
    rig.hear_leader("a", established=False)
    assert not rig.claim.established
    rig.hear_leader("a", 2)
    assert (rig.role, rig.claim) == (FOLLOWING, claim("a", 2))


def test_2_a_higher_id_that_starts_too_does_not_count() -> None:
    rig = Rig()
    rig.start()
    rig.hear_leader("c", established=False)
    assert rig.claim.established


def test_2_an_incumbent_that_is_found_is_followed() -> None:
    rig = Rig()
    rig.start()
    rig.hear_leader("c", 7)
    assert (rig.role, rig.claim) == (FOLLOWING, claim("c", 7))
    assert only(LeaderChanged, rig.said)[-1] == LeaderChanged(claim("c", 7), "c:1")


@pytest.mark.parametrize(
    "says",
    [follows("z", 7), {"seen": (Sighting(claim("z", 7), "z:1", 3, ""),)}],
    ids=["a follower", "one who hears it"],
)
def test_2_an_incumbent_that_others_hear_is_looked_for_and_not_overtaken(says: dict[str, Any]) -> None:
    rig = Rig()
    rig.start()
    rig.steady["c"] = says
    rig.wait(6.0)
    assert not rig.claim.established
    rig.steady["c"] = follows("z", 7, heard=False)
    rig.wait(4.0)
    assert rig.claim.established, "they have lost it"
    assert rig.claim.term > 7


def test_2_while_an_incumbent_is_looked_for_the_three_seconds_do_not_run() -> None:
    rig = Rig()
    rig.start()
    rig.steady["c"] = follows("z", 7)
    rig.wait(3.0)
    del rig.steady["c"]
    rig.wait(2.5)  # c is silent now, too
    assert not rig.claim.established
    rig.wait(2.0)
    assert not rig.claim.established
    rig.wait(1.0)
    assert rig.claim.established


def test_2_who_stepped_down_for_an_incumbent_that_is_never_found_goes_on_provisionally() -> None:
    rig = Rig()
    rig.start()
    rig.hear("c", seen=(Sighting(claim("z", 7), "z:1", 3, ""),))
    assert rig.role == ALONE
    rig.wait(3.1)
    assert (rig.role, rig.claim.established) == (LEADING, False)
    rig.wait(3.0)
    assert rig.claim.established


def test_2_where_an_incumbent_lives_is_told_by_who_sees_it() -> None:
    rig = Rig()
    rig.start()
    rig.hear("c", seen=(Sighting(claim("z", 7), "z:1", 3, ""),))
    assert rig.members.contacts["z:1"].node == node("z")


# -- rule 3: claiming after a loss -----------------------------------------------------------------------------------


def follower(name: str = "b", leader: str = "a", term: int = 5) -> Rig:
    """A node that has followed an established leader for a while, with a third one there."""
    rig = Rig(name)
    rig.hear_leader(leader, term)
    assert rig.role == FOLLOWING
    rig.said = []
    return rig


def test_3_a_silent_leader_is_replaced_after_2_2_seconds() -> None:
    rig = follower()
    assert rig.election.deadline(rig.now) == pytest.approx(PARAMS.silent_after)
    rig.wait(2.19)
    assert rig.role == FOLLOWING
    rig.wait(0.02)
    assert (rig.role, rig.claim) == (LEADING, claim("b", 6))
    assert rig.election.followed == node("a")
    (lost,) = only(Notice, rig.said)
    assert (lost.event, dict(lost.fields)["node"], dict(lost.fields)["term"]) == ("leader_lost", node("a"), 5)
    assert "heard 2.2 s ago" in str(dict(lost.fields)["reason"])


def test_3_a_leader_whose_process_is_gone_is_replaced_at_once() -> None:
    rig = follower()
    rig.members.on_link_down(1, 0.1)
    assert rig.members.on_dial_failed("a:1", True, 0.1) is not None
    rig.settle()
    assert rig.claim == claim("b", 6)
    (lost,) = only(Notice, rig.said)
    assert dict(lost.fields)["reason"] == "its process is gone"


def test_3_not_while_a_member_hears_the_leader() -> None:
    rig = follower()
    rig.steady["c"] = follows("a", 5)
    rig.wait(5.0)
    assert rig.role == ALONE
    rig.steady["c"] = follows("a", 5, heard=False)
    rig.wait(0.5)
    assert rig.claim == claim("b", 6)


@pytest.mark.parametrize(("eligible", "claims"), [(True, False), (False, True)])
def test_3_not_while_a_lower_eligible_id_is_alive(eligible: bool, claims: bool) -> None:
    rig = follower("c")
    rig.steady["b"] = follows("a", 5, heard=False, eligible=eligible)
    rig.wait(3.0)
    assert (rig.role == LEADING) == claims


def test_3_a_higher_id_alive_does_not_hinder() -> None:
    rig = follower()
    rig.steady["c"] = follows("a", 5, heard=False)
    rig.wait(2.2)
    assert rig.claim == claim("b", 6)


@pytest.mark.parametrize("what", ["draining", "journal_trouble", "worker"])
def test_3_who_is_not_eligible_never_claims_and_says_why(what: str) -> None:
    rig = Rig(role="worker") if what == "worker" else Rig()
    rig.hear_leader("a", 5)
    if what == "draining":
        rig.election.draining = True
    elif what == "journal_trouble":
        rig.election.journal_trouble = "the disk is full"
    rig.wait(10.0)
    assert rig.role == ALONE
    assert rig.election.why_not_eligible() in ("it is draining", "the disk is full", "its role is worker")


def test_3_a_leader_that_is_heard_again_is_followed_again() -> None:
    rig = follower("c")
    rig.steady["b"] = follows("a", 5, heard=False)
    rig.wait(3.0)
    assert rig.role == ALONE
    rig.hear_leader("a", 5)
    assert rig.claim == claim("a", 5)


def test_3_a_leader_that_says_it_leads_no_more_is_left_at_once() -> None:
    rig = follower()
    rig.hear("a", claim=claim("c", 6))
    assert rig.role == ALONE
    rig.hear_leader("c", 6)
    assert rig.claim == claim("c", 6)


def test_3_a_leader_that_raises_its_term_is_followed_and_one_that_lowers_it_is_not() -> None:
    rig = follower()
    rig.hear_leader("a", 6)
    assert rig.claim == claim("a", 6)
    rig.hear_leader("a", 4)
    assert rig.claim == claim("a", 6)


def test_3_a_newer_life_of_the_leader_is_another_leader() -> None:
    rig = follower()
    rig.hear("a", life="a1", claim=claim("a", 9, life=2), leader_heard=True)
    assert rig.role == ALONE, "it names a life that it does not have"


def test_3_a_leader_that_was_started_again_is_followed_under_its_new_claim() -> None:
    rig = follower()
    rig.members.on_link_up(9, hello(who("a", life=2)), "", 0.0)
    for _ in range(2):
        rig.hear("a", life="a2", claim=claim("a", 6, life=2), leader_heard=True)
    assert rig.claim == claim("a", 6, life=2)


def test_3_who_hears_its_leader_takes_no_other_one() -> None:
    rig = follower()
    rig.hear_leader("c", 9)
    assert rig.claim == claim("a", 5), "the two will meet"


# -- rule 4: meeting -------------------------------------------------------------------------------------------------

B_STAYS, OTHER_STAYS = "b stays", "other stays"


@pytest.mark.parametrize(
    ("mine", "theirs", "outcome"),
    [
        # (members led, whom it last followed) of both; b judges c, the higher id
        ((3, ""), (2, ""), B_STAYS),
        ((2, ""), (3, ""), OTHER_STAYS),
        ((2, ""), (2, "b"), B_STAYS),
        ((2, "c"), (2, ""), OTHER_STAYS),
        ((2, "c"), (2, "b"), B_STAYS),
        ((2, ""), (2, "z"), B_STAYS),
        ((3, "c"), (2, ""), B_STAYS),  # who leads more members stays, whomever it followed
        ((2, ""), (3, "b"), OTHER_STAYS),
    ],
)
def test_4_the_lower_id_judges_by_members_then_by_whom_they_followed_then_by_id(
    mine: tuple[int, str], theirs: tuple[int, str], outcome: str
) -> None:
    rig = Rig()
    rig.leading(5)
    rig.election.followed = node(mine[1]) if mine[1] else ""
    for number in range(mine[0] - 1):
        rig.hear(f"m{number}", **follows("b", 5))
    rig.said = []
    rig.hear_leader("c", 9, leads=theirs[0], followed=node(theirs[1]) if theirs[1] else "")
    said = rig.said
    if outcome == B_STAYS:
        assert messages(Verdict, said, "c") == [Verdict(node("b"), node("c"), 9, True)]
        assert rig.claim == claim("b", 10), "it claims above both"
    else:
        assert messages(Verdict, said, "c") == [Verdict(node("c"), node("b"), 9, True)]
        assert rig.role == ALONE
        rig.hear_leader("c", 10)
        assert rig.claim == claim("c", 10)


def test_4_who_stays_and_is_above_already_needs_no_new_claim() -> None:
    rig = Rig()
    rig.leading(9)
    rig.hear_leader("c", 5)
    assert rig.claim == claim("b", 9)
    assert rig.sent(Verdict) == [Verdict(node("b"), node("c"), 9, True)]


def test_4_the_higher_id_waits_for_the_verdict() -> None:
    rig = Rig("c")
    rig.leading(5)
    rig.hear_leader("b", 9, leads=7)
    assert rig.claim == claim("c", 5)
    assert rig.sent(Verdict) == []


def test_4_the_established_one_stays_whatever_the_ids_and_numbers() -> None:
    rig = Rig()
    rig.start()
    rig.steady["z"] = follows("y", 2)  # keeps b provisional
    rig.wait(0.5)
    rig.hear_leader("c", 1, leads=1)
    assert (rig.role, rig.claim.leader) in ((FOLLOWING, node("c")), (ALONE, ""))
    rig.hear_leader("c", 1, leads=1)
    assert rig.claim == claim("c", 1)

    rig = Rig()
    rig.leading(5)
    rig.hear_leader("a", 9, established=False, leads=9)
    assert rig.claim == claim("b", 5)
    assert rig.sent(Verdict) == [], "a provisional one follows by itself"


def test_4_leaders_that_hear_each_other_one_way_have_not_met() -> None:
    rig = Rig()
    rig.leading(5)
    rig.hear("c", both_ways=False, **leads("c", 9))
    assert rig.claim == claim("b", 5)
    assert rig.sent(Verdict) == []


@pytest.mark.parametrize("established", [True, False])
def test_4_a_verdict_binds_who_stays(established: bool) -> None:
    rig = Rig("c")
    rig.leading(5)
    rig.get("b", Verdict(node("c"), node("b"), 9, established))
    assert rig.claim == claim("c", 10)
    rig.get("b", Verdict(node("c"), node("b"), 9, established))
    assert rig.claim == claim("c", 10), "told twice is told once"


def test_4_a_verdict_binds_who_yields_and_it_waits_for_the_other_for_three_seconds() -> None:
    rig = Rig("c")
    rig.leading(5)
    rig.steady["b"] = follows("nobody", 9, heard=False, eligible=False)
    rig.wait(0.5)
    rig.get("b", Verdict(node("b"), node("c"), 9, True))
    assert rig.role == ALONE
    assert only(Notice, rig.said)[-1].event == "stepped_down"
    rig.wait(2.9)
    assert rig.role == ALONE, "b was judged to stay: it will claim"
    rig.wait(0.2)
    assert rig.claim == claim("c", 10), "it did not"


def test_4_a_verdict_about_others_or_to_a_follower_changes_nothing() -> None:
    rig = Rig("c")
    rig.leading(5)
    rig.get("b", Verdict(node("x"), node("y"), 9, True))
    assert rig.claim == claim("c", 5)
    rig = follower("c")
    rig.get("b", Verdict(node("c"), node("b"), 9, True))
    assert rig.claim == claim("a", 5)
    assert rig.election.highest_term == 9


def test_4_leaders_that_one_member_hears_have_met_and_it_relays() -> None:
    rig = Rig()
    rig.leading(5)
    rig.hear("m", **follows("b", 5), seen=(Sighting(claim("c", 9), "c:1", 1, ""),))
    assert rig.sent(Relayed) == [Relayed(node("b"), node("c"), Verdict(node("b"), node("c"), 9, True))]
    assert rig.claim == claim("b", 10)


def test_4_who_is_heard_directly_needs_no_relay() -> None:
    rig = Rig()
    rig.leading(9)
    rig.hear_leader("c", 5)
    rig.said = []
    rig.hear(
        "m", **follows("b", 9), seen=(Sighting(claim("c", 5), "c:1", 1, ""), Sighting(claim("b", 9), "b:1", 1, ""))
    )
    assert rig.sent(Relayed) == []


def test_4_a_member_relays_one_hop_and_the_target_obeys() -> None:
    verdict = Verdict(node("b"), node("c"), 9, True)
    member = follower("m", "b", 5)
    member.get("b", Relayed(node("b"), node("c"), verdict))
    assert member.said == [Send(node("c"), Relayed(node("b"), node("c"), verdict))]
    target = Rig("c")
    target.leading(5)
    target.hear("m", **follows("b", 5), seen=(Sighting(claim("b", 5), "b:1", 1, ""),))
    target.get("m", Relayed(node("b"), node("c"), verdict))
    assert target.role == ALONE


def test_4_a_follower_tells_which_leaders_it_hears() -> None:
    rig = follower("m", "a", 5)
    rig.hear_leader("c", 9, leads=4, followed=node("a"))
    assert rig.election.sightings(rig.now) == (
        Sighting(claim("a", 5), "a:1", 1, ""),
        Sighting(claim("c", 9), "c:1", 4, node("a")),
    )


# -- rule 5: settle and yield ----------------------------------------------------------------------------------------


def returning(losses: int = 0) -> Rig:
    """Node a, lower than the leader c that it follows."""
    rig = follower("a", "c", 5)
    rig.election.losses = losses
    rig.steady["c"] = leads("c", 5)
    return rig


def test_5_a_returning_lower_id_asks_after_ten_steady_seconds() -> None:
    rig = returning()
    rig.wait(9.5)
    assert rig.sent(YieldRequest) == []
    rig.wait(0.5)
    assert rig.sent(YieldRequest, "c") == [YieldRequest(claim("c", 5))]
    rig.wait(0.5)
    assert rig.sent(YieldRequest) == [], "it asks again only after the time-out"
    rig.wait(0.5)
    assert len(rig.sent(YieldRequest)) == 1


@pytest.mark.parametrize(("losses", "seconds"), [(1, 20), (2, 40), (5, 320), (6, 600), (60, 600)])
def test_5_settling_doubles_with_each_leadership_lost_up_to_ten_minutes(losses: int, seconds: int) -> None:
    rig = returning(losses)
    rig.wait(seconds - 0.5)
    assert rig.sent(YieldRequest) == []
    rig.wait(0.5)
    assert len(rig.sent(YieldRequest)) == 1


def test_5_a_leadership_is_lost_when_an_established_leader_steps_down() -> None:
    rig = Rig("c")
    rig.leading(5)
    rig.get("b", Verdict(node("b"), node("c"), 9, True))
    assert rig.election.losses == 1
    rig = Rig("c")
    rig.start()
    rig.hear_leader("b", 3)
    assert rig.election.losses == 0, "a provisional one never had it"


def test_5_not_before_it_caught_up() -> None:
    rig = returning()
    rig.caught_up = False
    rig.wait(15.0)
    assert rig.sent(YieldRequest) == []
    rig.caught_up = True
    rig.wait(0.5)
    assert len(rig.sent(YieldRequest)) == 1


def test_5_not_while_its_disk_may_take_long_to_sync_the_claim() -> None:
    rig = returning()
    rig.election.lagged_at = rig.now + 5.0
    rig.wait(5.0 + PARAMS.settle - 0.5)
    assert rig.sent(YieldRequest) == []
    rig.wait(1.0)
    assert len(rig.sent(YieldRequest)) == 1


def test_5_not_while_a_still_lower_eligible_id_is_there() -> None:
    rig = returning()
    rig.steady["A"] = follows("c", 5)
    rig.wait(15.0)
    assert rig.sent(YieldRequest) == []


def test_5_not_from_a_higher_id() -> None:
    rig = follower("c", "a", 5)
    rig.steady["a"] = leads("a", 5)
    rig.wait(30.0)
    assert rig.sent(YieldRequest) == []


def test_5_a_change_of_leader_starts_settling_anew() -> None:
    rig = returning()
    rig.wait(9.0)
    rig.steady = {"d": leads("d", 6)}
    rig.wait(3.0)
    assert rig.claim == claim("d", 6)
    rig.said = []
    rig.wait(9.0)
    assert rig.sent(YieldRequest) == []
    rig.wait(1.0)
    assert rig.sent(YieldRequest, "d") == [YieldRequest(claim("d", 6))]


def incumbent(name: str = "c", term: int = 5) -> Rig:
    rig = Rig(name)
    rig.leading(term)
    rig.steady["a"] = follows(name, term)
    rig.wait(0.5)
    rig.said = []
    return rig


def test_5_the_incumbent_flushes_and_yields() -> None:
    rig = incumbent()
    rig.out.record(Claimed(claim("z", 6)))  # something that is not on disk yet
    rig.election.on_message(node("a"), YieldRequest(claim("c", 5)), rig.now)
    rig.settle(synced=False)
    assert rig.role == ALONE, "it grants no more"
    assert rig.sent(Yield) == []
    rig.settle()
    assert rig.sent(Yield) == [], "what it recorded is not on its heir's disk yet"
    rig.copied("a")
    assert rig.sent(Yield, "a") == [Yield(claim("c", 5), "a lower id returned")]


def test_5_an_heir_that_does_not_pull_is_told_all_the_same() -> None:
    """It pulls then, before it grants."""
    rig = incumbent()
    rig.get("a", YieldRequest(claim("c", 5)))
    rig.now += PARAMS.yield_timeout / 2 - 0.01
    rig.settle()
    assert rig.sent(Yield) == []
    assert rig.copies.deadline(rig.now) == pytest.approx(rig.now + 0.01)
    rig.now += 0.02
    rig.settle()
    assert rig.sent(Yield, "a") == [Yield(claim("c", 5), "a lower id returned")]


@pytest.mark.parametrize(
    "why", ["another claim", "a higher id", "not eligible", "not alive", "a stranger", "provisional"]
)
def test_5_but_only_to_a_living_eligible_lower_id_that_follows_it(why: str) -> None:
    rig = incumbent()
    sender, asked = "a", claim("c", 5)
    if why == "another claim":
        asked = claim("c", 4)
    elif why == "a higher id":
        sender = "d"
        rig.hear("d", **follows("c", 5))
    elif why == "not eligible":
        rig.hear("a", **follows("c", 5), eligible=False)
    elif why == "not alive":
        rig.steady = {}
        rig.wait(3.0)
    elif why == "a stranger":
        sender = "0"
    else:
        rig.election.on_resumed(rig.now)
        asked = rig.claim
    rig.get(sender, YieldRequest(asked))
    assert rig.sent(Yield) == []
    assert rig.role == LEADING


def test_5_to_whom_it_yields_claims_the_next_term() -> None:
    rig = returning()
    rig.wait(10.0)
    rig.get("c", Yield(claim("c", 5), "a lower id returned"))
    assert (rig.role, rig.claim) == (LEADING, claim("a", 6))


def test_5_what_the_incumbent_says_after_its_yield_takes_nothing_back() -> None:
    """It says that it leads no more, while the claim that it made room for is being written."""
    rig = Rig("a")
    rig.hear_leader("c", 5)
    rig.election.on_message(node("c"), Yield(claim("c", 5), "leaving"), rig.now)
    rig.hear("c", synced=False)
    rig.settle()
    assert rig.claim == claim("a", 6), "one claim, and no other after it"
    assert rig.election.handed == node("c")


def test_5_a_yield_of_a_claim_that_is_over_gives_nothing() -> None:
    rig = returning()
    rig.get("c", Yield(claim("c", 4), "late"))
    assert rig.role == FOLLOWING
    rig = Rig(role="worker")
    rig.get("c", Yield(claim("c", 4), "wrong address"))
    assert rig.role == ALONE


def test_5_the_incumbent_leads_again_if_the_other_does_not_claim_in_time() -> None:
    rig = incumbent()
    rig.steady["a"] = follows("c", 5, heard=False, eligible=False)  # it lost its journal just now
    rig.get("a", YieldRequest(claim("c", 5)))
    assert rig.role == ALONE
    assert rig.election.deadline(rig.now) == rig.now + PARAMS.yield_timeout
    rig.wait(0.9)
    assert rig.role == ALONE
    rig.wait(0.1)
    assert rig.claim == claim("c", 6)


# -- rule 6: refused -------------------------------------------------------------------------------------------------


def test_6_a_leader_of_a_lower_claim_is_answered_with_the_highest() -> None:
    rig = follower("c", "b", 9)
    rig.steady["d"] = follows("b", 9)  # d still hears b, so nobody replaces it
    rig.wait(3.0)
    rig.said = []
    rig.hear_leader("a", 3)
    assert rig.sent(Refused, "a") == [Refused(claim("b", 9), alive=False)]


def test_6_refused_in_the_name_of_the_dead_it_claims_above_them() -> None:
    rig = Rig()
    rig.leading(5)
    rig.get("m", Refused(claim("z", 9), alive=False))
    assert rig.claim == claim("b", 10)


def test_6_refused_in_the_name_of_the_living_it_waits_to_meet() -> None:
    rig = Rig()
    rig.leading(5)
    rig.get("m", Refused(claim("z", 9), alive=True))
    assert rig.claim == claim("b", 5)
    assert rig.election.highest_term == 9


def test_6_refused_under_a_lower_claim_it_stays() -> None:
    rig = Rig()
    rig.leading(5)
    rig.get("m", Refused(claim("z", 4), alive=False))
    assert rig.claim == claim("b", 5)


# -- rule 8: a journal that fails; and leaving -----------------------------------------------------------------------


def test_8_a_leader_hands_over_to_the_next_in_line() -> None:
    rig = Rig("a")
    rig.leading(5)
    rig.hear("d", **follows("a", 5))
    rig.hear("c", **follows("a", 5))
    rig.hear("b", **follows("a", 5), eligible=False)
    rig.said = []
    rig.election.draining = True
    rig.election.abdicate("draining", rig.now)
    rig.copied("c")
    assert rig.sent(Yield) == [Yield(claim("a", 5), "draining")]
    assert rig.role == ALONE


def test_8_it_hands_over_to_one_that_counts_before_a_lower_id_that_does_not() -> None:
    rig = Rig("a")
    rig.leading(5)
    rig.hear("b", **follows("a", 5))
    rig.hear("c", **follows("a", 5))
    rig.copied("c")
    rig.said = []
    rig.election.draining = True
    rig.election.abdicate("draining", rig.now)
    rig.copied("c")
    assert rig.sent(Yield, "c") == [Yield(claim("a", 5), "draining")]


def test_8_what_cannot_be_flushed_is_not_waited_for() -> None:
    rig = Rig("a")
    rig.leading(5)
    rig.hear("b", **follows("a", 5))
    rig.said = []
    rig.out.record(Claimed(claim("z", 6)))
    rig.election.journal_trouble = "the disk is full"
    rig.election.abdicate("the disk is full", rig.now)
    rig.settle(synced=False)
    assert rig.role == ALONE, "the heir hears that nobody leads"
    assert rig.sent(Yield, "b") == [], "a Yield says that all is flushed"
    rig.wait(5.0)
    assert rig.role == ALONE


def test_8_without_an_heir_it_goes_on() -> None:
    rig = Rig("a")
    rig.leading(5)
    rig.hear("b", **follows("a", 5), eligible=False)
    rig.election.abdicate("draining", rig.now)
    assert rig.role == LEADING


def test_8_who_follows_has_nothing_to_hand_over() -> None:
    rig = follower()
    rig.election.abdicate("draining", rig.now)
    rig.settle()
    assert rig.role == FOLLOWING
    assert rig.said == []


@pytest.mark.parametrize(("other", "claims"), [(True, False), (False, True)])
def test_3_who_lacks_what_the_last_leader_knew_lets_one_go_first_that_does_not(other: bool, claims: bool) -> None:
    rig = Rig("a")
    rig.hear_leader("c", 5)
    rig.caught_up = False
    rig.steady["b"] = follows("c", 5, heard=False, caught_up=other)
    rig.wait(PARAMS.silent_after + 1.0)
    assert (rig.role == LEADING) is claims


def test_recruits_are_the_next_two_eligible_ids() -> None:
    rig = Rig("a")
    rig.leading(5)
    for name in ("e", "d", "c"):
        rig.hear(name, **follows("a", 5))
    rig.hear("b", **follows("a", 5), eligible=False)
    assert rig.copies.recruits == (node("c"), node("d"))


def test_a_leader_counts_who_follows_it_and_itself() -> None:
    rig = Rig("a")
    assert rig.election.leads(0.0) == 0
    rig.leading(5)
    rig.hear("b", **follows("a", 5))
    rig.hear("c", **follows("b", 5))
    assert rig.election.leads(rig.now) == 2


# -- rule 9: after a suspend -----------------------------------------------------------------------------------------


def test_9_after_a_suspend_a_claim_is_provisional_until_members_answered() -> None:
    rig = Rig("a")
    rig.leading(5)
    rig.hear("b", **follows("a", 5))
    rig.now += 100
    rig.members.forgive(rig.now)
    rig.election.on_resumed(rig.now)
    assert rig.claim == claim("a", 5, established=False)
    assert rig.election.urgent, "it asks at once"
    rig.now += 1.0  # what b said before does not count any more
    rig.hear("b", **follows("a", 5))
    assert rig.claim == claim("a", 6)


def test_9_what_members_said_before_the_suspend_is_no_answer() -> None:
    """Else a laptop that slept would take the leadership back before it heard that others went on without it."""
    rig = Rig("a")
    rig.leading(5)
    rig.hear("b", **follows("a", 5))
    rig.now += 100
    rig.members.forgive(rig.now)
    rig.election.on_resumed(rig.now)
    rig.settle()
    assert rig.claim == claim("a", 5, established=False)
    rig.hear_leader("b", 6)
    assert rig.claim == claim("b", 6)


def test_9_where_nobody_answers_it_is_established_again_after_three_seconds() -> None:
    rig = Rig("a")
    rig.leading(5)
    rig.hear("b", **follows("a", 5))
    rig.now += 100
    rig.members.forgive(rig.now)
    rig.election.on_resumed(rig.now)
    rig.wait(2.9)
    assert not rig.claim.established
    rig.wait(0.1)
    assert rig.claim == claim("a", 6)


def test_9_who_finds_itself_replaced_follows() -> None:
    rig = Rig("a")
    rig.leading(5)
    rig.hear("b", **follows("a", 5))
    rig.now += 100
    rig.election.on_resumed(rig.now)
    rig.hear_leader("b", 6)
    assert rig.claim == claim("b", 6)
    assert rig.election.losses == 1, "it settles for longer before it asks again"


def test_9_a_follower_has_no_claim_to_doubt() -> None:
    rig = follower()
    rig.election.on_resumed(rig.now)
    assert rig.claim == claim("a", 5)


# -- whom to dial -----------------------------------------------------------------------------------------------------


def test_a_leader_that_was_met_just_now_is_at_hand_before_it_answers_and_for_as_long_as_it_may() -> None:
    rig = Rig("c")
    rig.start()
    rig.hear("a", both_ways=False, **leads("a", 4))
    leader = rig.election.at_hand(rig.now)
    assert leader is not None
    assert leader.node == node("a")
    rig.wait(PARAMS.silent_after)
    assert rig.election.at_hand(rig.now) is None


@pytest.mark.parametrize("role", ["auto", "worker"])
def test_who_leads_provisionally_is_not_at_hand_and_who_is_followed_and_heard_is(role: str) -> None:
    rig = Rig("c", role)
    rig.start()
    rig.hear("b", both_ways=False, **leads("b", 4, established=False))
    assert rig.election.at_hand(rig.now) is None
    rig.steady = {"a": leads("a", 4)}
    rig.wait(5.0)
    leader = rig.election.at_hand(rig.now)
    assert leader is not None
    assert leader.node == node("a")


def test_who_leads_has_no_leader_at_hand() -> None:
    rig = Rig("a")
    rig.start()
    rig.hear("b")
    rig.wait(4.0)
    assert rig.claim.established
    rig.hear("c", both_ways=False, **leads("c", 4))
    assert rig.election.at_hand(rig.now) is None
