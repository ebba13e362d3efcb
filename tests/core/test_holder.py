"""What a node tells its leader of its blobs, how often, and what it hears."""

from __future__ import annotations

from mesh.core.effects import BlobFound, CopyBlob, Send
from mesh.core.events import BlobsChanged, BlobSought
from mesh.core.holder import Holder
from mesh.core.ids import NO_CLAIM, BlobId
from mesh.core.messages import Copy, CopyFailed, Found, Holds, HoldsSeen, Message, Seek
from mesh.core.params import Params
from tests.core.parts import claim, node, only, outbox

BLOB, OTHER = "b1" * 32, "b2" * 32
LEADER = claim("z")
SLICED = Params(slice_records=2)


class Rig:
    """Node ``a``, which follows ``z`` and has told it that it holds nothing, unless told otherwise."""

    def __init__(self, *held: BlobId, params: Params = SLICED, seen: bool = True) -> None:
        self.out = outbox("a")
        self.holder = Holder("a1", params, self.out)
        self.now = 100.0
        self.change(*held)
        self.holder.on_claim(LEADER)
        self.first = self.work()
        if seen:
            self.see(self.first[-1])

    def change(self, *gained: BlobId, lost: tuple[BlobId, ...] = ()) -> None:
        self.holder.on_changed(BlobsChanged(tuple((blob, 5) for blob in gained), lost, 7))

    def see(self, holds: Message) -> None:
        assert isinstance(holds, Holds)
        self.holder.on_message(HoldsSeen(LEADER, holds.session, holds.seq), self.now)

    def work(self, seconds: float = 0.0) -> list[Message]:
        self.now += seconds
        self.holder.flush(self.now)
        return [effect.message for effect in only(Send, self.out.flush()) if effect.to == node("z")]


def holds(message: Message) -> tuple[int, int, tuple[BlobId, ...], tuple[BlobId, ...]]:
    assert isinstance(message, Holds)
    return message.session, message.seq, tuple(blob for blob, _ in message.gained), message.lost


def test_all_that_is_held_is_declared_in_slices() -> None:
    third = "b3" * 32
    rig = Rig(BLOB, OTHER, third)
    assert [holds(each) for each in rig.first] == [(1, 1, (BLOB, OTHER), ()), (1, 2, (third,), ())]
    assert [each.more for each in only(Holds, rig.first)] == [True, False]


def test_who_holds_nothing_says_so() -> None:
    assert [holds(each) for each in Rig().first] == [(1, 1, (), ())]


def test_what_changes_is_told_once_it_changes() -> None:
    rig = Rig(BLOB)
    rig.change(OTHER, lost=(BLOB,))
    assert [holds(each) for each in rig.work()] == [(1, 2, (OTHER,), (BLOB,))]
    assert rig.work() == []


def test_what_comes_and_goes_within_a_step_is_not_told_as_held() -> None:
    rig = Rig()
    rig.change(BLOB)
    rig.change(lost=(BLOB,))
    assert [holds(each) for each in rig.work()] == [(1, 2, (), (BLOB,))]


def test_what_was_not_seen_is_told_again() -> None:
    rig = Rig(seen=False)
    rig.change(BLOB)
    told = rig.first + rig.work()
    assert rig.work(SLICED.resend_after - 0.1) == []
    assert rig.work(0.1) == told
    rig.see(told[0])
    assert rig.work(SLICED.resend_after) == told[1:]
    rig.see(told[1])
    assert rig.work(SLICED.resend_after) == []
    assert rig.holder.deadline() is None


def test_a_leader_that_knows_nothing_is_told_all_of_it_again() -> None:
    rig = Rig(BLOB)
    rig.now += SLICED.resend_after
    rig.holder.on_message(HoldsSeen(LEADER, 0, 0), rig.now)
    assert [holds(each) for each in rig.work()] == [(2, 1, (BLOB,), ())]


def test_a_declaration_under_way_is_not_begun_anew() -> None:
    rig = Rig(BLOB, seen=False)
    rig.holder.on_message(HoldsSeen(LEADER, 0, 0), rig.now)
    assert rig.work() == []


def test_a_new_leader_is_told_all_of_it_and_asked_again() -> None:
    rig = Rig(BLOB)
    rig.holder.on_sought(BlobSought(OTHER))
    rig.work()
    rig.holder.on_claim(NO_CLAIM)
    rig.change(lost=("b4" * 32,))
    rig.change("b4" * 32)
    rig.change(lost=("b4" * 32,))
    assert rig.work() == []
    rig.holder.on_claim(claim("z", 2))
    declared, asked = rig.work()
    assert holds(declared) == (2, 1, (BLOB,), ())
    assert asked == Seek(claim("z", 2), OTHER, 0, 0)


def test_what_is_sought_is_asked_for_until_it_is_settled() -> None:
    rig = Rig()
    rig.holder.on_sought(BlobSought(BLOB, 5, 2))
    assert rig.work() == [Seek(LEADER, BLOB, 5, 2)]
    assert rig.work(SLICED.seek_again - 0.1) == []
    assert rig.holder.deadline() == rig.now + 0.1
    assert rig.work(0.1) == [Seek(LEADER, BLOB, 5, 2)]
    rig.holder.on_settled(BLOB)
    assert rig.work(SLICED.seek_again) == []


def test_answers_are_passed_on_while_they_are_waited_for() -> None:
    rig = Rig()
    found = Found(LEADER, BLOB, ((node("b"), "b:1"),), (), True, True, "")
    rig.holder.on_message(found, rig.now)
    assert rig.out.flush() == []
    rig.holder.on_sought(BlobSought(BLOB))
    rig.holder.on_message(found._replace(claim=claim("y")), rig.now)
    assert only(BlobFound, rig.out.flush()) == []
    rig.holder.on_message(found, rig.now)
    assert rig.out.flush() == [BlobFound(BLOB, found.holders, (), True, True, "")]


def test_a_copy_is_begun_once_however_often_it_is_asked_for() -> None:
    rig = Rig()
    copy = Copy(LEADER, BLOB, 5, ((node("b"), "b:1"),))
    for _ in range(2):
        rig.holder.on_message(copy, rig.now)
    assert rig.out.flush() == [CopyBlob(BLOB, 5, copy.holders)]
    rig.change(BLOB)
    rig.work()
    rig.holder.on_message(copy, rig.now)
    assert rig.out.flush() == []


def test_a_copy_that_cannot_be_made_is_refused_and_may_be_asked_for_again() -> None:
    rig = Rig()
    copy = Copy(LEADER, BLOB, 5, ())
    rig.holder.on_message(copy, rig.now)
    rig.out.flush()
    rig.holder.on_refused_copy(BLOB, "the disk is full")
    assert rig.work() == [CopyFailed(LEADER, BLOB, "the disk is full")]
    rig.holder.on_message(copy, rig.now)
    assert only(CopyBlob, rig.out.flush()) == [CopyBlob(BLOB, 5, ())]
