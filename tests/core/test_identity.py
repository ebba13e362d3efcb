"""Which hellos a node takes a link with, and what it does about its own double (section 6, *Which mesh* and *Ids*)."""

from __future__ import annotations

import pytest

from mesh.core import identity
from mesh.core.effects import Effect, Exit, Hangup, Notice, Send
from mesh.core.events import DialFailed, JournalSynced, LinkRefused, LinkUp, Received, Ticked
from mesh.core.identity import Me
from mesh.core.ids import NO_CLAIM, node_id, ulid_of
from mesh.core.lattice import Mesh
from mesh.core.ledger import Ledger
from mesh.core.machine import Machine
from mesh.core.messages import Heartbeat, Hello
from tests.core.parts import PARAMS, beat, hello, node, one, only, who

MINE, THEIRS = hello(who("a")), hello(who("b"))


def refused(theirs: Hello, mine: Hello = MINE) -> tuple[str, str]:
    refusal = identity.refuse(mine, theirs)
    assert refusal is not None
    other = identity.refuse(theirs, mine)
    assert other is not None
    assert other.code == refusal.code, "both sides see it"
    return refusal.code, refusal.reason


# -- which mesh --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mine", "theirs"), [(False, False), (False, True), (True, False)])
def test_a_young_mesh_merges_with_any_of_its_name(mine: bool, theirs: bool) -> None:
    assert identity.refuse(MINE._replace(mature=mine), THEIRS._replace(mature=theirs)) is None


def test_two_that_are_not_young_refuse_each_other_and_say_both_ids() -> None:
    code, reason = refused(THEIRS._replace(mature=True), MINE._replace(mature=True))
    assert code == "foreign"
    assert "mesh-a" in reason
    assert "mesh-b" in reason
    assert "--mesh" in reason


def test_a_mesh_answers_to_every_id_it_absorbed() -> None:
    mine = MINE._replace(mature=True, mesh_ids=("mesh-a", "mesh-x"))
    assert identity.refuse(mine, THEIRS._replace(mature=True, mesh_ids=("mesh-b", "mesh-x"))) is None


def test_another_name_is_foreign_however_young() -> None:
    code, reason = refused(THEIRS._replace(mesh_name="other"))
    assert code == "foreign"
    assert "'other'" in reason
    assert "'lab'" in reason


def test_no_common_protocol_is_refused_and_one_common_is_enough() -> None:
    code, reason = refused(THEIRS._replace(protocols=(3, 2)))
    assert code == "protocol"
    assert "3, 2" in reason
    assert "upgrade" in reason
    assert identity.refuse(MINE, THEIRS._replace(protocols=(2, 1))) is None


def test_a_hello_says_who_one_is_and_for_how_long() -> None:
    ledger = Ledger()
    for record in (Mesh("m2", True), Mesh("m1", False)):
        ledger.join(record)
    said = identity.hello(who("a", role="worker"), ledger, 1.5)
    assert (said.mesh_ids, said.mature, said.uptime_ms) == (("m2", "m1"), True, 1500)
    assert (said.node, said.life, said.role, said.address) == (node("a"), "a1", "worker", "a:1")


@pytest.mark.parametrize(
    ("role", "may_lead", "works"),
    [("auto", True, True), ("leader", True, False), ("worker", False, True), ("observer", False, False)],
)
def test_roles(role: str, may_lead: bool, works: bool) -> None:
    assert (who(role=role).may_lead, who(role=role).works) == (may_lead, works)


def test_a_rank_leads_the_id_and_the_machine_stays_the_same() -> None:
    assert node_id(5, "X") == "05-X" < node_id(50, "A")
    assert ulid_of("05-X") == ulid_of("90-X") == "X"
    assert identity.same_machine("05-X", "90-X")
    assert not identity.same_machine("05-X", "05-Y")
    for rank in (-1, 100):
        with pytest.raises(ValueError, match="rank"):
            node_id(rank, "X")


# -- doubles ---------------------------------------------------------------------------------------------------------


class Rig:
    """A machine that may lead or not, with links to whom it is told."""

    def __init__(self, me: Me, now: float = 100.0) -> None:
        self.machine = Machine(me, PARAMS, [], now)
        self.now = now
        self.links = 0
        self.step(Ticked())

    def step(self, event: object, later: float = 0.0) -> list[Effect]:
        self.now += later
        effects = self.machine.step(event, self.now)  # type: ignore[arg-type]
        if self.machine.out.position > self.machine.out.synced:
            effects += self.machine.step(JournalSynced(self.machine.out.position), self.now)
        return effects

    def link(self, theirs: Hello, dialed: str = "") -> list[Effect]:
        self.links += 1
        return self.step(LinkUp(self.links, theirs, dialed))

    def lively(self, name: str) -> None:
        """A peer that is linked and heard in both directions."""
        effects = self.link(hello(who(name)))
        sent = [e.message for e in only(Send, effects) if isinstance(e.message, Heartbeat) and e.to == node(name)]
        self.step(Received(node(name), beat(name, 1, sent[-1].seq)))
        assert self.machine.members.is_alive(node(name), self.now)


def double(name: str, uptime: float, life: int = 9, rank: int = 50) -> Hello:
    return hello(who(name, life=life, rank=rank), uptime_ms=int(uptime * 1000), address="copy:1")


def test_the_leader_keeps_itself_and_refuses_its_younger_double() -> None:
    rig = Rig(who("a"))
    rig.now += 60
    hangup = one(Hangup, rig.link(double("a", uptime=5.0)))
    assert hangup.code == "duplicate"
    assert "meshd --new-id" in hangup.reason


def test_a_leader_does_not_refuse_the_double_that_runs_for_longer() -> None:
    """Both may lead alone; one must stay. The one that ran first hangs up and says why, so the other one listens."""
    rig = Rig(who("a"))
    assert only(Hangup, rig.link(double("a", uptime=500.0))) == []
    assert rig.machine.members.peers == {}, "all the same it is no peer"
    assert "meshd --new-id" in rig.machine.door.refusals["copy:1"]


def test_who_does_not_lead_refuses_no_double_for_good() -> None:
    rig = Rig(who("a", role="worker"))
    rig.now += 60
    assert one(Hangup, rig.link(double("a", uptime=5.0))).code == "doubt"


def test_a_double_of_another_rank_is_the_same_machine() -> None:
    rig = Rig(who("a"))
    rig.now += 60
    assert one(Hangup, rig.link(double("a", uptime=5.0, rank=10))).code == "duplicate"


def test_the_leader_keeps_the_one_that_was_connected_first() -> None:
    rig = Rig(who("a"))
    rig.lively("b")
    hangup = one(Hangup, rig.link(double("b", uptime=999.0)))
    assert (hangup.code, hangup.link) == ("duplicate", rig.links)
    assert rig.machine.members.peers[node("b")].life == "b1"
    assert rig.machine.door.refusals["copy:1"] == hangup.reason


def test_a_follower_leaves_it_to_the_leader() -> None:
    rig = Rig(who("a", role="worker"))
    rig.lively("b")
    assert one(Hangup, rig.link(double("b", uptime=1.0))).code == "doubt"


def test_a_new_life_of_a_peer_that_is_no_longer_alive_is_welcome() -> None:
    rig = Rig(who("a"))
    rig.lively("b")
    rig.now += PARAMS.silent_after
    effects = rig.link(double("b", uptime=0.0))
    assert only(Hangup, effects) == [Hangup(1, "", "")], "what the former one said may still arrive; it does not count"
    assert rig.machine.members.peers[node("b")].life == "b9"
    assert only(Hangup, rig.step(Received(node("b"), beat("b", 9, 1)))) == []


def test_a_second_link_of_the_same_life_is_no_double() -> None:
    rig = Rig(who("a"))
    rig.lively("b")
    assert only(Hangup, rig.link(hello(who("b")))) == []


def test_a_machine_that_starts_again_with_another_rank_is_gone_under_the_old_one() -> None:
    rig = Rig(who("a"))
    rig.lively("b")
    rig.now += PARAMS.silent_after
    rig.link(double("b", uptime=0.0, rank=10))
    assert rig.machine.members.peers[node("b")].gone
    assert "10-b" in rig.machine.members.peers


def test_our_own_address_found_by_another_name_is_dialled_no_more() -> None:
    rig = Rig(who("a"))
    rig.machine.members.on_address("alias:1", "")
    effects = rig.link(hello(who("a")), dialed="alias:1")
    assert one(Hangup, effects).code == "self"
    assert "alias:1" not in rig.machine.members.contacts
    assert rig.machine.door.refusals == {}


def test_told_to_be_a_duplicate_by_the_leader_a_process_ends_with_76() -> None:
    rig = Rig(who("a"))
    exit_ = one(Exit, rig.step(LinkRefused("b:1", "a already runs", "duplicate")))
    assert (exit_.code, exit_.reason) == (76, "a already runs")


@pytest.mark.parametrize("code", ["foreign", "protocol", "doubt"])
def test_other_refusals_are_of_that_link_only_and_said_once(code: str) -> None:
    rig = Rig(who("a"))
    rig.machine.members.on_address("b:1", "")
    said = [len(only(Notice, rig.step(LinkRefused("b:1", "no", code)))) for _ in range(3)]
    assert said == [1, 0, 0]
    assert rig.machine.door.refusals == {"b:1": "no"}
    contact = rig.machine.members.contacts["b:1"]
    assert contact.dial_at > rig.now, "it may be upgraded or merged one day: it is asked again, later"
    assert rig.machine.election.announced() != NO_CLAIM


def test_a_refused_hello_is_remembered_for_people_until_a_link_is_up() -> None:
    rig = Rig(who("a"))
    hangup = one(Hangup, rig.link(THEIRS._replace(mesh_name="other"), dialed="b:1"))
    assert rig.machine.door.refusals == {"b:1": hangup.reason}
    rig.link(THEIRS, dialed="b:1")
    assert rig.machine.door.refusals == {}


def test_meshes_that_link_answer_to_both_ids() -> None:
    rig = Rig(who("b"))
    rig.link(hello(who("a"), mesh_ids=("mesh-a", "mesh-x"), mature=True))
    assert rig.machine.ledger.mesh_ids() == ("mesh-a", "mesh-b", "mesh-x")
    assert rig.machine.hello(rig.now).mature


def test_a_mesh_is_young_until_two_members_were_together_for_a_minute() -> None:
    rig = Rig(who("a"))
    rig.lively("b")
    peer = rig.machine.members.peers[node("b")]
    steps = 0
    while not rig.machine.ledger.mature():
        steps += 1
        assert steps < 200
        rig.step(Ticked(), 0.5)
        rig.step(Received(node("b"), beat("b", peer.heard_seq + 1, peer.seq)))
    assert steps * 0.5 == pytest.approx(PARAMS.mature_after, abs=0.6)
    assert list(rig.machine.ledger.meshes.items()) == [("mesh-a", True), ("mesh-b", False)]


def test_a_refused_dial_of_a_silent_link_leaves_the_mesh_young() -> None:
    rig = Rig(who("a"))
    rig.link(THEIRS, dialed="b:1")
    for _ in range(200):
        rig.step(Ticked(), 0.5)
    rig.step(DialFailed("b:1", gone=True))
    assert not rig.machine.ledger.mature()
