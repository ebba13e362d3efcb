"""The puller's end of replication: slice by slice, each asked for when the one before is on disk; live ones wait."""

from __future__ import annotations

from mesh.core.effects import Effect
from mesh.core.lattice import Mesh, Record
from mesh.core.members import Members
from mesh.core.messages import NO_CURSOR, Cursor, Pull, Pulled
from mesh.core.puller import FRESH, TOLD, TRIES, Puller
from tests.core.parts import PARAMS, beat, hello, messages, node, outbox, who

OWN = (Cursor("a/1", 3, "x"), Cursor("a/2", 3, "x"))


class Rig:
    """Node ``a`` pulls; ``b`` is alive and says what it is made to say."""

    def __init__(self, *cursors: Cursor) -> None:
        self.out = outbox("a")
        self.members = Members(node("a"), "a:1", PARAMS, self.out)
        self.absorbed: list[Record] = []
        self.puller = Puller(PARAMS, self.members, self.out, OWN, cursors, self._absorb)
        self.now = 100.0
        self.beat()

    def _absorb(self, records: tuple[Record, ...], cursor: Cursor, now: float) -> None:
        self.absorbed += self.out.absorb(records, cursor)

    def beat(self, life: int = 1) -> None:
        peer = self.members.peers.get(node("b"))
        if peer is None or peer.life != f"b{life}":
            peer = self.members.on_link_up(len(self.members.links) + 1, hello(who("b", life=life)), "", 0.0)
        self.members.number(peer, self.now)
        self.members.on_heartbeat(peer, beat("b", peer.heard_seq + 1, peer.seq, life=peer.life), self.now)

    def step(self, synced: bool = True) -> list[Effect]:
        self.puller.tick(self.now)
        effects = self.out.flush()
        if synced:
            self.out.on_synced(self.out.position)
        return effects + self.out.flush()

    def later(self, seconds: float) -> list[Effect]:
        self.now += seconds
        self.beat()
        return self.step()

    def pull(self, effects: list[Effect]) -> Pull:
        (pull,) = messages(Pull, effects, "b")
        return pull

    def get(self, position: int, *names: str, end: bool = True, session: int = 1, journal: str = "b/1") -> None:
        records = tuple(Mesh(name, False) for name in names)
        self.puller.on_pulled(node("b"), Pulled(session, Cursor(journal, position, "x"), end, records), self.now)


def of(pull: Pull, journal: str) -> Cursor:
    return next((cursor for cursor in pull.cursors if cursor.journal == journal), NO_CURSOR)


def test_a_pull_says_what_is_had_of_every_journal_our_own_lives_included() -> None:
    rig = Rig(Cursor("c/1", 9, "y"))
    rig.puller.pull(node("b"), rig.now)
    pull = rig.pull(rig.step())
    assert pull.cursors == (Cursor("a/1", 3, "x"), Cursor("a/2", 0, ""), Cursor("c/1", 9, "y"))
    assert not pull.wait


def test_a_pull_that_begins_anew_says_what_is_on_disk_not_what_is_known() -> None:
    """Whoever serves it counts it as a copy of that."""
    rig = Rig()
    rig.puller.pull(node("b"), rig.now)
    rig.step()
    rig.get(2, "m1", "m2", end=False)
    rig.step()
    rig.get(4, "m3", "m4")
    rig.step(synced=False)
    rig.puller.follow(node("b"), True, rig.now)
    assert of(rig.pull(rig.step(synced=False)), "b/1").position == 2
    rig.get(3, "m3", end=False, session=2)  # less than is known, and no repeat
    assert rig.puller.cursor(node("b")).position == 4
    assert of(rig.pull(rig.step()), "b/1").position == 4


def test_the_next_slice_is_asked_for_when_the_last_one_is_on_disk() -> None:
    rig = Rig()
    rig.puller.pull(node("b"), rig.now)
    rig.step()
    rig.get(2, "m1", "m2", end=False)
    effects = rig.step(synced=False)
    assert messages(Pull, effects, "b") == []
    assert [mesh.id for mesh in rig.absorbed if isinstance(mesh, Mesh)] == ["m1", "m2"]
    pull = rig.pull(rig.step())
    assert of(pull, "b/1") == Cursor("b/1", 2, "x")
    assert of(pull, "a/2").position == 2, "our own journal has what was pulled"
    rig.get(3, "m3")
    assert messages(Pull, rig.step(), "b") == []
    assert rig.puller.busy() == []
    assert rig.puller.complete[node("b")] == 100.0


def test_a_live_pull_goes_on_after_the_end_and_waits_there() -> None:
    rig = Rig()
    rig.puller.follow(node("b"), True, rig.now)
    assert not rig.pull(rig.step()).wait
    assert not rig.puller.caught_up(rig.now)
    rig.get(2, "m1", "m2")
    assert rig.pull(rig.step()).wait
    assert rig.puller.caught_up(rig.now)
    rig.get(3, "m3")
    pull = rig.pull(rig.step())
    assert (pull.wait, of(pull, "b/1").position) == (True, 3)


def test_a_pull_that_waits_is_repeated_for_it_says_what_is_durable_here() -> None:
    rig = Rig()
    rig.puller.follow(node("b"), True, rig.now)
    rig.step()
    rig.get(2, "m1", "m2")
    first = rig.pull(rig.step())
    assert messages(Pull, rig.later(PARAMS.resend_after - 0.01), "b") == []
    assert rig.pull(rig.later(0.02)) == first
    assert rig.pull(rig.later(PARAMS.resend_after)) == first, "as long as it takes"


def test_an_unanswered_pull_is_repeated_and_given_up() -> None:
    rig = Rig()
    rig.puller.pull(node("b"), rig.now)
    rig.step()
    asked = 0
    for _ in range(20):
        asked += len(messages(Pull, rig.later(0.5), "b"))
    assert asked == TRIES - 1
    assert rig.puller.busy() == []


def test_repeats_and_strangers_change_nothing() -> None:
    rig = Rig()
    rig.puller.pull(node("b"), rig.now)
    rig.step()
    rig.get(5, "m1", end=False)
    rig.get(5, "again", end=False)  # while the first is being written
    rig.step()
    rig.get(3, "older", end=False)
    rig.get(9, "other session", session=7)
    assert [mesh.id for mesh in rig.absorbed if isinstance(mesh, Mesh)] == ["m1"]


def test_another_life_of_the_source_is_asked_anew_and_goes_on_from_where_it_was() -> None:
    rig = Rig()
    rig.puller.follow(node("b"), True, rig.now)
    rig.step()
    rig.get(2, "m1", "m2")
    rig.step()
    rig.beat(life=2)
    pull = rig.pull(rig.step())
    assert (pull.session, pull.wait) == (2, False)
    assert of(pull, "b/1").position == 2
    assert not rig.puller.caught_up(rig.now)
    rig.get(3, "m3", session=2, journal="b/2")
    assert of(rig.pull(rig.step()), "b/2").position == 3


def test_who_lags_behind_what_its_leader_had_a_while_ago_is_not_caught_up() -> None:
    rig = Rig()
    rig.puller.follow(node("b"), True, rig.now)
    rig.step()
    rig.get(2, "m1", "m2")
    rig.puller.on_leader_position(2, rig.now)
    rig.puller.on_leader_position(5, rig.now)
    assert rig.puller.caught_up(rig.now + FRESH - 0.01), "what was synced a moment ago is on its way"
    assert not rig.puller.caught_up(rig.now + FRESH)
    rig.step()
    rig.get(5, "m3")
    assert rig.puller.caught_up(rig.now + FRESH)


def test_who_follows_and_is_not_recruited_does_not_know_what_its_leader_knows() -> None:
    rig = Rig()
    assert rig.puller.caught_up(rig.now), "it followed nobody yet"
    rig.puller.follow(node("b"), False, rig.now)
    assert not rig.puller.caught_up(rig.now)
    assert messages(Pull, rig.step(), "b") == []
    rig.puller.follow("", False, rig.now)
    assert rig.puller.caught_up(rig.now), "it leads"


def test_a_pull_tells_a_bounded_number_of_cursors_those_that_moved_last() -> None:
    rig = Rig(*(Cursor(f"j{n:03}", 1, "") for n in range(200)))
    rig.puller.pull(node("b"), rig.now)
    told = [cursor.journal for cursor in rig.pull(rig.step()).cursors]
    assert len(told) == TOLD + len(OWN)
    assert told[2:] == [f"j{n:03}" for n in range(200 - TOLD, 200)]
