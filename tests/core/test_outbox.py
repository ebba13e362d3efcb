"""The journal goes first, and what depends on it waits for it. Each test is a promise of section 5's contract."""

from __future__ import annotations

import pytest

from mesh.core.effects import Answer, Notice, Persist, Send
from mesh.core.lattice import Lived, Mesh
from mesh.core.messages import YieldRequest
from tests.core.parts import claim, node, outbox

HELLO = YieldRequest(claim("b"))


def test_the_journal_precedes_what_was_said_in_the_same_step() -> None:
    out = outbox()
    out.send(node("b"), HELLO)
    out.record(Mesh("m", False))
    out.do(Answer(1))
    assert out.flush() == [Persist(1, (Mesh("m", False),)), Send(node("b"), HELLO), Answer(1)]
    assert out.flush() == []


def test_positions_count_records_and_go_on_from_what_was_read() -> None:
    out = outbox(records=[Mesh("m", False)])
    out.record(Mesh("m", True))
    out.record(Lived("50-a", 1, "a1"))
    assert out.flush() == [Persist(3, (Mesh("m", True), Lived("50-a", 1, "a1")))]
    out.record(Mesh("n", False))
    assert out.flush() == [Persist(4, (Mesh("n", False),))]


def test_what_changes_nothing_is_not_journaled() -> None:
    out = outbox()
    assert out.record(Mesh("m", True))
    assert not out.record(Mesh("m", False))
    assert out.flush() == [Persist(1, (Mesh("m", True),))]


def test_what_depends_on_nothing_unsynced_is_done_at_once() -> None:
    out = outbox()
    done: list[str] = []
    out.when_durable(Answer(1))
    out.when_durable(lambda: done.append("called"))
    assert out.flush() == [Answer(1)]
    assert done == ["called"]


def test_what_depends_on_a_record_waits_until_it_is_on_disk() -> None:
    out = outbox()
    done: list[int] = []
    out.record(Mesh("m", False))
    assert not out.durable
    out.when_durable(Answer(1))
    out.when_durable(lambda: done.append(1))
    assert out.flush() == [Persist(1, (Mesh("m", False),))]
    assert not out.durable
    assert not done
    out.on_synced(1)
    assert out.durable
    assert out.flush() == [Answer(1)]
    assert done == [1]


def test_each_waits_for_its_own_position_and_none_overtakes() -> None:
    out = outbox()
    for number in (1, 2, 3):
        out.record(Mesh(f"m{number}", False))
        out.when_durable(Answer(number))
        out.flush()
    out.on_synced(2)
    assert out.flush() == [Answer(1), Answer(2)]
    out.on_synced(3)
    assert out.flush() == [Answer(3)]


def test_a_record_of_this_step_counts_before_it_was_given_to_the_journal() -> None:
    out = outbox()
    out.record(Mesh("m", False))
    out.flush()
    out.record(Mesh("n", False))
    out.on_synced(1)  # of the step before; the second record is not even handed over
    out.when_durable(Answer(1))
    assert out.flush() == [Persist(2, (Mesh("n", False),))]
    out.on_synced(2)
    assert out.flush() == [Answer(1)]


def test_an_older_sync_takes_nothing_back_and_one_from_nowhere_is_an_error() -> None:
    out = outbox()
    out.record(Mesh("m", False))
    out.record(Mesh("n", False))
    out.flush()
    out.on_synced(2)
    out.on_synced(1)
    assert out.durable
    with pytest.raises(AssertionError, match="synced 3, but only 2"):
        out.on_synced(3)


def test_what_is_said_when_durable_may_record_and_wait_again() -> None:
    out = outbox()

    def then() -> None:
        out.record(Mesh("n", False))
        out.when_durable(Answer(2))

    out.record(Mesh("m", False))
    out.when_durable(then)
    out.flush()
    out.on_synced(1)
    assert out.flush() == [Persist(2, (Mesh("n", False),))]
    out.on_synced(2)
    assert out.flush() == [Answer(2)]


def test_messages_to_oneself_never_leave() -> None:
    out = outbox("a")
    out.send(node("a"), HELLO)
    out.send(node("b"), HELLO)
    assert out.flush() == [Send(node("b"), HELLO)]
    assert list(out.local) == [HELLO]


def test_a_notice_keeps_the_order_of_its_fields() -> None:
    out = outbox()
    out.note("info", "happened", second=2, first="x")
    assert out.flush() == [Notice("info", "happened", (("second", 2), ("first", "x")))]
