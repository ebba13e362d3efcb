"""What the leader knows of blobs, from what nodes tell it; whom it names, and whom it asks to copy."""

from __future__ import annotations

from typing import Any

from mesh.core.holdings import MOST_NAMED, ROOM, Holdings
from mesh.core.members import Members
from mesh.core.messages import Copy, CopyFailed, Found, Holds, HoldsSeen, Message, Seek
from tests.core.parts import PARAMS, beat, claim, hello, node, only, outbox, who

BLOB, OTHER = "b1" * 32, "b2" * 32
GIB = 1 << 30


class Rig:
    """Node ``a`` leads, and the others follow it; each has declared that it holds nothing and has a GiB free."""

    def __init__(self, *others: str, declared: bool = True, **roles: str) -> None:
        self.out = outbox("a")
        self.members = Members(node("a"), "a:1", PARAMS, self.out)
        self.holdings = Holdings(node("a"), "a:1", "auto", PARAMS, self.members, self.out)
        self.now = 100.0
        self.seqs: dict[str, int] = {}
        self.holdings.open(claim("a"))
        self.names = others
        for name in others:
            self.members.on_link_up(
                len(self.members.links) + 1, hello(who(name, roles.get(name, "auto"))), "", self.now
            )
        self.wait(0.0)
        for name in ("a", *others) if declared else ():
            self.holds(name)

    def wait(self, seconds: float, *silent: str) -> None:
        self.now += seconds
        for name in self.names:
            if name not in silent:
                peer = self.members.peers[node(name)]
                self.members.number(peer, self.now)
                says = beat(name, peer.heard_seq + 1, peer.seq, claim=claim("a"), role=peer.role)
                self.members.on_heartbeat(peer, says, self.now)

    def holds(self, name: str, *gained: str, **more: Any) -> list[Message]:
        """It says so; the leader's words to it."""
        self.seqs[name] = seq = more.pop("seq", self.seqs.get(name, 0) + 1)
        says = Holds(claim("a"), f"{name}1", 1, seq, tuple((blob, 5) for blob in gained), (), GIB, False)._replace(
            **more
        )
        self.holdings.on_holds(node(name), says, self.now)
        return self.said(name)

    def said(self, name: str) -> list[Message]:
        if name == "a":
            told, self.out.local = list(self.out.local), type(self.out.local)()
            return told
        mine, others = [], []
        for effect in self.out.flush():
            (mine if getattr(effect, "to", "") == node(name) else others).append(effect)
        for effect in others:
            self.out.do(effect)
        return [effect.message for effect in mine]  # type: ignore[union-attr]

    def seek(self, name: str, copies: int = 0, size: int = 0) -> Found:
        self.holdings.on_seek(node(name), Seek(claim("a"), BLOB, size, copies), self.now)
        *_, found = only(Found, self.said(name))  # it may have been told before of what came since it last asked
        return found

    def asked(self, *names: str) -> list[str]:
        """Who of these was asked to copy."""
        return [name for name in names if only(Copy, self.said(name))]


def named(found: Found) -> list[str]:
    return [holder for holder, _ in found.holders]


def test_who_declared_a_blob_is_named_with_its_address() -> None:
    rig = Rig("b", "c")
    rig.holds("b", BLOB)
    found = rig.seek("c")
    assert (found.holders, found.fetching, found.sure) == (((node("b"), "b:1"),), (), True)


def test_the_leader_itself_is_a_holder() -> None:
    rig = Rig("b")
    rig.holds("a", BLOB)
    assert rig.seek("b").holders == ((node("a"), "a:1"),)


def test_who_is_silent_is_not_named_and_is_again_once_it_speaks() -> None:
    rig = Rig("b", "c")
    rig.holds("b", BLOB)
    rig.wait(PARAMS.silent_after + 0.1, "b")
    assert named(rig.seek("c")) == []
    rig.wait(0.1)
    assert named(rig.seek("c")) == [node("b")]


def test_who_lost_it_is_not_named() -> None:
    rig = Rig("b", "c")
    rig.holds("b", BLOB)
    rig.holds("b", lost=(BLOB,))
    assert named(rig.seek("c")) == []


def test_a_size_is_known_as_long_as_somebody_has_the_blob() -> None:
    rig = Rig("b", "c")
    rig.holds("b", BLOB)
    rig.holds("c", BLOB)
    rig.holds("b", lost=(BLOB,))
    assert rig.holdings.sizes == {BLOB: 5}
    rig.holds("c", lost=(BLOB,))
    assert rig.holdings.sizes == rig.holdings.holders == {}


def test_whose_process_ended_is_not_named_until_its_next_life_declares() -> None:
    rig = Rig("b", "c")
    rig.holds("b", BLOB)
    rig.holdings.on_gone(node("b"))
    assert named(rig.seek("c")) == []
    rig.holds("b", BLOB, life="b2", seq=1)
    assert named(rig.seek("c")) == [node("b")]


def test_nothing_is_sure_before_all_have_declared() -> None:
    rig = Rig("b", "c", declared=False)
    for name in ("a", "b"):
        rig.holds(name)
    assert not rig.seek("b").sure
    rig.holds("c", more=True)
    assert not rig.seek("b").sure
    rig.holds("c", BLOB)
    assert rig.seek("b").sure


def test_nothing_is_sure_while_one_that_is_alive_follows_another_yet() -> None:
    rig = Rig("b", "c", declared=False)
    for name in ("a", "b"):
        rig.holds(name)
    peer = rig.members.peers[node("c")]
    rig.members.number(peer, rig.now)
    rig.members.on_heartbeat(peer, beat("c", peer.heard_seq + 1, peer.seq, claim=claim("z")), rig.now)
    assert not rig.seek("b").sure


def test_slices_are_taken_once_and_in_order() -> None:
    rig = Rig("b")
    rig.holds("b", BLOB, seq=3)  # the second was lost on its way
    assert named(rig.seek("a")) == []
    assert rig.holds("b", OTHER, seq=2) == [HoldsSeen(claim("a"), 1, 2)]
    assert rig.holds("b", BLOB, seq=3) == [HoldsSeen(claim("a"), 1, 3)]
    rig.holds("b", lost=(BLOB,), seq=4)
    rig.holds("b", BLOB, seq=3)  # repeated, late
    assert named(rig.seek("a")) == []


def test_who_goes_on_with_a_session_that_is_not_known_declares_anew() -> None:
    rig = Rig("b", declared=False)
    assert rig.holds("b", BLOB, seq=2) == [HoldsSeen(claim("a"), 0, 0)]
    assert rig.holds("b", BLOB, session=2, seq=1) == [HoldsSeen(claim("a"), 2, 1)]
    rig.holds("b", lost=(BLOB,), session=1, seq=1)  # of the session before, late
    assert named(rig.seek("a")) == [node("b")]


def test_a_follower_that_never_declared_is_asked_to_and_not_with_every_heartbeat() -> None:
    rig = Rig("b", declared=False)
    rig.holdings.on_heartbeat(node("b"), claim("c"), rig.now)
    assert rig.said("b") == []  # it follows somebody else yet
    for _ in range(3):
        rig.holdings.on_heartbeat(node("b"), claim("a"), rig.now)
    assert rig.said("b") == [HoldsSeen(claim("a"), 0, 0)]
    rig.holds("b")
    rig.now += 10.0
    rig.holdings.on_heartbeat(node("b"), claim("a"), rig.now)
    assert rig.said("b") == []


def test_words_under_another_claim_change_nothing() -> None:
    rig = Rig("b", "c")
    assert rig.holds("b", BLOB, claim=claim("a", 7)) == []
    rig.holdings.on_seek(node("c"), Seek(claim("c"), BLOB, 0, 0), rig.now)
    assert rig.said("c") == []


def test_those_who_fetch_hear_of_each_other_while_they_ask() -> None:
    rig = Rig("b", "c")
    assert rig.seek("b").fetching == ()
    assert rig.seek("c").fetching == ((node("b"), "b:1"),)
    rig.wait(3 * PARAMS.seek_again)
    assert rig.seek("c").fetching == ()


def test_those_who_fetch_are_told_at_once_of_another_and_not_again_when_it_asks_again() -> None:
    rig = Rig("b", "c", "d")
    rig.holds("d", BLOB)
    rig.seek("b")
    rig.seek("c")
    (told,) = only(Found, rig.said("b"))
    assert (named(told), told.fetching) == ([node("d")], ((node("c"), "c:1"),))
    rig.wait(PARAMS.seek_again)
    rig.seek("c")
    assert rig.said("b") == []


def test_who_has_fetched_it_is_a_holder_and_fetches_no_more() -> None:
    rig = Rig("b", "c")
    rig.seek("b")
    rig.holds("b", BLOB)
    found = rig.seek("c")
    assert (named(found), found.fetching) == ([node("b")], ())


def test_of_many_holders_each_who_asks_hears_of_a_few_and_not_of_the_same() -> None:
    others = [f"n{number:02}" for number in range(40)]
    rig = Rig(*others, "y", "z")
    for name in others:
        rig.holds(name, BLOB)
    one, other = named(rig.seek("y")), named(rig.seek("z"))
    assert len(one) == len(other) == MOST_NAMED
    assert set(one) != set(other)


# -- copies -----------------------------------------------------------------------------------------------------------


def test_enough_nodes_have_it_once_the_copy_is_there() -> None:
    rig = Rig("b", "c")
    rig.holds("b", BLOB)
    assert not rig.seek("b", copies=2).enough
    (target,) = rig.asked("c") or ["a"]
    assert not rig.seek("b", copies=2).enough
    rig.holds(target, BLOB)
    found = rig.seek("b", copies=2)
    assert (found.enough, found.why, named(found)) == (True, "", [node(target)])


def test_no_more_are_asked_than_are_missing_and_each_again_only_after_a_while() -> None:
    rig = Rig("b", "c", "d", "e")
    rig.holds("b", BLOB)
    rig.seek("b", copies=3)
    first = rig.asked("c", "d", "e") + ["a"] * len(only(Copy, rig.said("a")))
    assert len(first) == 2
    rig.seek("b", copies=3)
    assert rig.asked("c", "d", "e") == []
    rig.wait(PARAMS.copy_again)
    rig.seek("b", copies=3)
    again = rig.asked("c", "d", "e") + ["a"] * len(only(Copy, rig.said("a")))
    assert again == first


def test_a_copy_names_those_who_have_it() -> None:
    rig = Rig("b")
    rig.holds("b", BLOB)
    rig.seek("b", copies=2, size=7)
    assert rig.said("a") == [Copy(claim("a"), BLOB, 7, ((node("b"), "b:1"),))]


def test_a_copy_of_what_the_leader_alone_has_names_the_leader() -> None:
    rig = Rig("b")
    rig.holds("a", BLOB)
    rig.seek("a", copies=2)
    assert rig.said("b") == [Copy(claim("a"), BLOB, 0, ((node("a"), "a:1"),))]


def test_the_node_with_most_room_is_asked_first() -> None:
    rig = Rig("b", "c", "d")
    rig.holds("b", BLOB)
    rig.holds("c", free=90 * GIB)
    rig.holds("d", free=900 * GIB)
    rig.seek("b", copies=2)
    assert rig.asked("c", "d") == ["d"]


def test_another_machine_is_asked_before_another_node_of_the_same() -> None:
    rig = Rig("b", "c", "d")
    rig.members.peers[node("d")].address = "b:2"
    rig.holds("b", BLOB)
    rig.holds("c", free=90 * GIB)
    rig.holds("d", free=900 * GIB)
    rig.seek("b", copies=2)
    assert rig.asked("c", "d") == ["c"]


def test_an_observer_is_not_asked_and_who_is_full_only_after_who_has_room() -> None:
    rig = Rig("b", "c", "d", "e", c="observer")
    rig.members.peers[node("e")].address = "b:2"
    rig.holds("b", BLOB)
    rig.holds("a", free=ROOM)
    rig.holds("d", free=ROOM)
    rig.seek("b", copies=2, size=1)
    assert rig.asked("c", "d", "e") == ["e"]
    rig.holdings.on_copy_failed(node("e"), CopyFailed(claim("a"), BLOB, "its disk is broken"), rig.now)
    rig.seek("b", copies=4, size=1)
    assert rig.asked("c", "d") == ["d"]
    assert only(Copy, rig.said("a"))
    for name in ("d", "a"):
        rig.holdings.on_copy_failed(node(name), CopyFailed(claim("a"), BLOB, "nothing may go"), rig.now)
    found = rig.seek("b", copies=2, size=1)
    assert (found.enough, found.why) == (True, "50-a: nothing may go; d: nothing may go; e: its disk is broken")


def test_alone_it_is_enough_and_says_why() -> None:
    rig = Rig()
    rig.holds("a", BLOB)
    found = rig.seek("a", copies=2)
    assert (found.enough, found.why) == (True, "no other node that keeps blobs is alive")


def test_nobody_is_told_that_it_is_enough_before_all_have_declared() -> None:
    rig = Rig("b", declared=False)
    rig.holds("a", BLOB)
    assert not rig.seek("a", copies=2).enough


def test_who_could_not_is_not_asked_again_for_a_while_and_its_reason_is_told() -> None:
    rig = Rig("b", "c", b="observer")
    rig.holds("a", BLOB)
    rig.seek("a", copies=2)
    assert rig.asked("c") == ["c"]
    rig.holdings.on_copy_failed(node("c"), CopyFailed(claim("a"), BLOB, "the disk is full"), rig.now)
    found = rig.seek("a", copies=2)
    assert (found.enough, found.why) == (True, "c: the disk is full")
    assert rig.asked("c") == []
    rig.wait(PARAMS.copy_pardon)
    rig.seek("a", copies=2)
    assert rig.asked("c") == ["c"]


def test_in_the_place_of_one_that_fell_silent_another_is_asked() -> None:
    rig = Rig("b", "c", "d", b="observer")
    rig.holds("a", BLOB)
    rig.seek("a", copies=2)
    (first,) = rig.asked("c", "d")
    rig.wait(PARAMS.silent_after + 0.1, first)
    rig.seek("a", copies=2)
    assert rig.asked("c", "d") == [({"c", "d"} - {first}).pop()]


def test_who_waits_for_copies_hears_of_one_at_once() -> None:
    rig = Rig("b", "c", "d")
    rig.holds("b", BLOB)
    assert not rig.seek("b", copies=2, size=5).enough
    (copier,) = rig.asked("a", "c", "d")
    rig.holds(copier, BLOB)
    (found,) = only(Found, rig.said("b"))
    assert (found.enough, named(found)) == (True, [node(copier)])
    (other,) = {"a", "c", "d"} - {copier, "a"} if copier != "a" else {"c"}
    rig.holds(other, BLOB)
    assert not only(Found, rig.said("b")), "it waits no more"


def test_who_waits_for_copies_hears_at_once_why_there_are_none() -> None:
    rig = Rig("b")
    rig.holds("b", BLOB)
    rig.seek("b", copies=2, size=5)
    assert rig.asked("a") == ["a"]
    rig.holdings.on_copy_failed(node("a"), CopyFailed(claim("a"), BLOB, "its disk is full"), rig.now)
    (found,) = only(Found, rig.said("b"))
    assert (found.enough, "its disk is full" in found.why) == (True, True)


def test_who_has_enough_copies_since_a_holder_is_back_waits_no_more() -> None:
    rig = Rig("b", "c", "d")
    for name in ("b", "c"):
        rig.holds(name, BLOB)
    rig.wait(PARAMS.silent_after + 0.1, "c")
    assert not rig.seek("b", copies=2, size=5).enough
    rig.wait(0.1)
    assert rig.seek("b", copies=2, size=5).enough
    rig.holds("d", BLOB)
    assert not only(Found, rig.said("b"))


def test_who_asked_long_ago_waits_no_more() -> None:
    rig = Rig("b", "c")
    rig.holds("b", BLOB)
    rig.seek("b", copies=3, size=5)
    rig.wait(3 * PARAMS.seek_again)
    rig.said("b")
    rig.holds("c", BLOB)
    assert not only(Found, rig.said("b"))
