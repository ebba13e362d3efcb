"""Who is there. *Alive* is heard in both directions, *gone* is known not to exist, all else is silence (section 6)."""

from __future__ import annotations

import pytest

from mesh.core.effects import Dial
from mesh.core.members import NEVER, Contact, Members, Peer
from mesh.core.messages import Heartbeat
from tests.core.parts import PARAMS, beat, hello, node, outbox, who

WINDOW = PARAMS.silent_after


class Rig:
    """Node ``a``, and what others say to it."""

    def __init__(self) -> None:
        self.out = outbox("a")
        self.members = Members(node("a"), "a:1", PARAMS, self.out)
        self.links = 0

    def join(self, name: str, dialed: str = "", life: int = 1) -> Peer:
        self.links += 1
        return self.members.on_link_up(self.links, hello(who(name, life=life)), dialed, 0.0)

    def hear(self, peer: Peer, now: float, beat_: Heartbeat | None = None) -> bool:
        """Its next heartbeat, which echoes the last one we sent."""
        return self.members.on_heartbeat(
            peer, beat_ or beat(peer.name, peer.heard_seq + 1, peer.seq, life=peer.life), now
        )

    def exchange(self, peer: Peer, now: float) -> None:
        self.members.number(peer, now)
        assert self.hear(peer, now)

    def dialed(self, now: float, wanted: set[str] | None = None) -> list[str]:
        self.members.dial(now, wanted)
        return [effect.address for effect in self.out.flush() if isinstance(effect, Dial)]

    def contact(self, address: str) -> Contact:
        return self.members.contacts[address]


# -- alive -----------------------------------------------------------------------------------------------------------


def test_alive_needs_both_directions() -> None:
    rig = Rig()
    peer = rig.join("b")
    assert not rig.members.alive(peer, 0.0), "a link alone proves nothing"
    rig.hear(peer, 0.0, beat("b", 1, echo=0))
    assert not rig.members.alive(peer, 0.0), "it was heard, but whether it hears us is not known"
    rig.members.number(peer, 0.1)
    rig.hear(peer, 0.2, beat("b", 2, echo=1))
    assert rig.members.alive(peer, 0.2)


def test_who_does_not_hear_us_is_not_alive_however_loud_it_is() -> None:
    rig = Rig()
    peer = rig.join("b")
    rig.exchange(peer, 0.0)
    for step in range(1, 6):
        rig.members.number(peer, step * 0.5)
        rig.hear(peer, step * 0.5, beat("b", peer.heard_seq + 1, echo=1))  # still the first of ours
    assert not rig.members.alive(peer, 2.5)
    assert rig.members.silent_for(peer, 2.5) == 0.0


def test_why_one_is_not_alive_tells_the_directions_apart() -> None:
    rig = Rig()
    assert rig.members.why_not_alive(node("b"), 0.0) == "this life of it was not heard yet"
    peer = rig.join("b")
    rig.hear(peer, 0.0, beat("b", 1, echo=0))
    assert rig.members.why_not_alive(peer.node, 0.5) == "heard 0.5 s ago, and it answered no beat of ours"
    rig.exchange(peer, 1.0)
    assert rig.members.why_not_alive(peer.node, 1.0) == ""
    rig.hear(peer, 3.0, beat("b", peer.heard_seq + 1, echo=0))
    why = rig.members.why_not_alive(peer.node, 4.0)
    assert why == "heard 1.0 s ago, and the last beat of ours that it answered was sent 3.0 s ago"
    peer.gone = True
    assert rig.members.why_not_alive(peer.node, 4.0) == "its process is gone"


def test_an_echo_counts_from_when_we_sent_what_it_echoes() -> None:
    rig = Rig()
    peer = rig.join("b")
    rig.members.number(peer, 0.0)
    rig.members.number(peer, 0.5)
    rig.hear(peer, 1.0, beat("b", 1, echo=1))
    assert peer.acked == 0.0
    rig.hear(peer, 1.1, beat("b", 2, echo=2))
    assert peer.acked == 0.5


def test_silence_is_suspected_after_three_heartbeats_and_over_at_2_2_seconds() -> None:
    rig = Rig()
    peer = rig.join("b")
    rig.exchange(peer, 0.0)
    assert not rig.members.suspect(peer, 1.49)
    assert rig.members.suspect(peer, 1.5)
    assert rig.members.alive(peer, 2.19)
    assert rig.members.next_change([peer.node], 2.0) == pytest.approx(WINDOW)
    assert not rig.members.alive(peer, 2.2)
    assert rig.members.next_change([peer.node], 2.2) is None


def test_alive_without_interruption_starts_anew_after_silence() -> None:
    rig = Rig()
    peer = rig.join("b")
    rig.exchange(peer, 1.0)
    rig.exchange(peer, 2.0)
    assert peer.since == 1.0
    rig.exchange(peer, 9.0)
    assert peer.since == 9.0


@pytest.mark.parametrize("old", [beat("b", 3, 1), beat("b", 2, 1), beat("b", 9, 1, life="b0")])
def test_old_heartbeats_and_those_of_former_lives_are_nothing(old: Heartbeat) -> None:
    rig = Rig()
    peer = rig.join("b")
    rig.members.number(peer, 0.0)
    assert rig.hear(peer, 0.0, beat("b", 3, 1))
    assert not rig.hear(peer, 2.0, old)
    assert peer.heard == 0.0


def test_a_suspect_refutes_by_raising_its_incarnation() -> None:
    rig = Rig()
    peer = rig.join("b")
    rig.hear(peer, 0.0, beat("b", 1, 0, suspects=(node("c"),)))
    assert rig.members.incarnation == 0
    rig.hear(peer, 0.5, beat("b", 2, 0, suspects=(node("a"), node("c"))))
    assert rig.members.incarnation == 1


def test_who_was_late_blames_himself_for_one_window() -> None:
    """Lateness of our own loop is added to every window, whatever ticks on time meanwhile."""
    rig = Rig()
    peer = rig.join("b")
    rig.exchange(peer, 0.0)
    rig.members.late(0.2, 1.0)  # jitter: nothing
    assert not rig.members.alive(peer, WINDOW)
    rig.members.late(0.8, 1.0)
    rig.members.late(0.3, 1.5)
    for _ in range(20):
        rig.members.late(0.0, 2.0)
    assert not rig.members.suspect(peer, PARAMS.suspect_after + 0.7)
    assert rig.members.suspect(peer, PARAMS.suspect_after + 0.8)
    assert rig.members.alive(peer, WINDOW + 0.7)
    assert rig.members.next_change([peer.node], 2.0) == pytest.approx(WINDOW + 0.8)
    assert not rig.members.alive(peer, WINDOW + 0.8)


def test_a_lateness_is_forgotten_after_a_window() -> None:
    rig = Rig()
    peer = rig.join("b")
    rig.exchange(peer, 0.0)
    rig.members.late(5.0, 0.5)
    rig.members.late(1.0, 1.5)
    assert rig.members.next_change([peer.node], 1.5) == pytest.approx(0.5 + WINDOW)
    assert rig.members.alive(peer, 0.5 + WINDOW - 0.1)
    assert rig.members.alive(peer, 0.5 + WINDOW + 0.1), "the lesser one still counts"
    assert rig.members.next_change([peer.node], 0.5 + WINDOW) == pytest.approx(WINDOW + 1.0)
    assert not rig.members.alive(peer, WINDOW + 1.0)


def test_after_a_suspend_nobody_was_silent_but_those_who_were_before() -> None:
    rig = Rig()
    there, never = rig.join("b"), rig.join("c")
    rig.exchange(there, 0.0)
    rig.members.forgive(100.0)
    assert rig.members.alive(there, 100.1)
    assert there.since == 100.0, "but nobody was together meanwhile"
    assert not rig.members.alive(there, 100.0 + WINDOW - PARAMS.suspect_after), "it must answer soon all the same"
    assert never.heard == NEVER
    assert not rig.members.alive(never, 100.0)


# -- gone --------------------------------------------------------------------------------------------------------------


def test_gone_is_closed_and_refused() -> None:
    rig = Rig()
    peer = rig.join("b")
    rig.exchange(peer, 0.0)
    rig.members.on_link_down(1, 0.5)
    assert rig.members.alive(peer, 0.5), "a connection breaks for many reasons"
    assert rig.dialed(0.5) == ["b:1"], "so it is asked at once whether the process exists"
    assert rig.members.on_dial_failed("b:1", True, 0.6) is peer
    assert not rig.members.alive(peer, 0.6)
    assert rig.members.on_dial_failed("b:1", True, 0.9) is None, "it is gone once"


def test_a_dial_that_times_out_proves_nothing() -> None:
    rig = Rig()
    peer = rig.join("b")
    rig.exchange(peer, 0.0)
    rig.members.on_link_down(1, 0.5)
    assert rig.members.on_dial_failed("b:1", False, 0.6) is None
    assert rig.members.alive(peer, 0.6)


def test_a_refused_dial_proves_nothing_while_another_link_is_up_or_at_an_old_address() -> None:
    rig = Rig()
    peer = rig.join("b")
    rig.join("b")
    rig.members.on_link_down(1, 0.5)
    assert rig.members.on_dial_failed("b:1", True, 0.6) is None
    rig.members.on_address("old:1", peer.node)
    rig.members.on_link_down(2, 0.7)
    assert rig.members.on_dial_failed("old:1", True, 0.8) is None
    assert not peer.gone


def test_who_is_heard_again_or_links_again_is_not_gone() -> None:
    rig = Rig()
    peer = rig.join("b")
    peer.gone = True
    rig.exchange(peer, 1.0)
    assert rig.members.alive(peer, 1.0)
    peer.gone = True
    assert not rig.join("b").gone


def test_a_new_life_starts_from_nothing() -> None:
    rig = Rig()
    peer = rig.join("b")
    rig.exchange(peer, 1.0)
    assert rig.join("b", life=2) is peer
    assert not rig.members.alive(peer, 1.0)
    assert (peer.heartbeat, peer.heard_seq, peer.since) == (None, 0, NEVER)
    assert not rig.hear(peer, 1.1, beat("b", 50, 1, life="b1"))


# -- dialling --------------------------------------------------------------------------------------------------------


def test_an_address_is_dialled_once_and_then_with_growing_patience() -> None:
    rig = Rig()
    rig.members.on_address("b:1", "")
    assert rig.dialed(0.0) == ["b:1"]
    assert rig.dialed(0.1) == [], "it is being dialled"
    now, waits = 0.1, []
    for _ in range(7):
        rig.members.on_dial_failed("b:1", True, now)
        due = rig.members.next_dial(None)
        assert due is not None
        waits.append(due - now)
        assert rig.dialed(due - 0.01) == []
        assert rig.dialed(due) == ["b:1"]
        now = due
    assert waits == pytest.approx([0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0])


def test_a_link_that_was_good_is_dialled_again_at_once() -> None:
    rig = Rig()
    rig.members.on_address("b:1", "")
    rig.dialed(0.0)
    rig.members.on_dial_failed("b:1", True, 0.0)
    rig.dialed(1.0)
    peer = rig.join("b", dialed="b:1")
    assert rig.dialed(50.0) == [], "who is linked is not dialled"
    assert rig.members.next_dial(None) is None
    rig.exchange(peer, 51.0)
    rig.members.on_link_down(1, 52.0)
    assert rig.dialed(52.0) == ["b:1"]


def test_a_link_that_is_closed_before_a_word_is_dialled_with_growing_patience() -> None:
    """Each side refuses the other only after the link is up: without this they would dial for ever, at once."""
    rig = Rig()
    rig.members.on_address("b:1", "")
    rig.dialed(0.0)
    rig.members.on_dial_failed("b:1", True, 0.0)
    rig.dialed(1.0)
    rig.join("b", dialed="b:1")
    rig.members.on_link_down(1, 1.0)
    assert rig.dialed(1.2) == []
    assert rig.dialed(1.25) == ["b:1"]


def test_news_of_an_address_ends_a_long_back_off_and_no_short_one() -> None:
    rig = Rig()
    rig.members.on_address("b:1", "")
    contact = rig.contact("b:1")
    rig.members.back_off(contact, 0.0)
    rig.members.on_address("b:1", "")
    assert contact.dial_at == 0.25
    while contact.backoff < PARAMS.redial_limit:
        rig.members.back_off(contact, 0.0)
    rig.members.on_address("b:1", "")
    assert rig.dialed(0.1) == ["b:1"]


def test_only_the_wanted_and_the_unknown_are_dialled() -> None:
    """A follower keeps to its leader and the successors: 1,000 nodes must not mean a million links."""
    rig = Rig()
    for name in ("b", "c"):
        rig.members.on_address(f"{name}:1", node(name))
    rig.members.on_address("mdns:9", "")
    assert rig.members.next_dial({node("c")}) == NEVER
    assert rig.dialed(0.0, {node("c")}) == ["c:1", "mdns:9"]
    assert rig.dialed(0.0, None) == ["b:1"]


def test_our_own_address_and_id_are_never_dialled() -> None:
    rig = Rig()
    rig.members.on_address("a:1", "")
    rig.members.on_address("elsewhere:1", node("a"))
    rig.members.on_address("", node("b"))
    assert rig.dialed(0.0) == []


# -- the address book -------------------------------------------------------------------------------------------------


def test_a_heartbeat_tells_addresses_and_only_those_are_believed() -> None:
    rig = Rig()
    peer = rig.join("b")
    rig.hear(peer, 0.0, beat("b", 1, 0, peers=((node("c"), "c:1"), (node("a"), "a:9"))))
    assert [p.node for p in rig.members.known()] == [node("b"), node("c")]
    assert not rig.members.is_alive(node("c"), 0.0)
    assert rig.dialed(0.0) == ["c:1"]


def test_the_book_is_told_once_until_it_changes() -> None:
    rig = Rig()
    b, c = rig.join("b"), rig.join("c")
    assert rig.members.addresses_for(b) == ((node("c"), "c:1"),)
    assert rig.members.addresses_for(b) == ()
    assert rig.members.addresses_for(c) == ((node("b"), "b:1"),)
    rig.join("d")
    assert rig.members.addresses_for(b) == ((node("c"), "c:1"), (node("d"), "d:1"))


def test_the_gone_are_not_told_of() -> None:
    rig = Rig()
    b, c = rig.join("b"), rig.join("c")
    c.gone = True
    assert rig.members.addresses_for(b) == ()


def test_who_moves_is_dialled_at_the_new_address_alone() -> None:
    rig = Rig()
    rig.join("b")
    book = rig.members.book
    peer = rig.members.on_link_up(9, hello(who("b"), address="b:2"), "", 0.0)
    assert peer.address == "b:2"
    assert rig.members.book == book + 1
    assert set(rig.members.contacts) == {"b:2"}


def test_a_link_that_is_not_known_goes_down_without_a_trace() -> None:
    rig = Rig()
    assert rig.members.on_link_down(77, 0.0) is None


def test_heartbeats_to_a_peer_are_numbered_from_one_and_echo_its_last() -> None:
    rig = Rig()
    peer = rig.join("b")
    assert rig.members.number(peer, 0.0) == (1, 0)
    rig.hear(peer, 0.0, beat("b", 7, 1))
    assert rig.members.number(peer, 0.5) == (2, 7)
