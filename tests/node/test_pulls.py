"""Pulls served from a journal in memory: slices to who lags, news to who waits, and nothing for a wrong cursor."""

from __future__ import annotations

import asyncio
import logging

import pytest

from mesh.core.effects import ServePull
from mesh.core.events import Event, SuccessorSynced
from mesh.core.ids import NodeId
from mesh.core.lattice import Record, Register
from mesh.core.messages import NO_CURSOR, Cursor, Message, Pulled
from mesh.node.pulls import Pulls
from mesh.shell.journal_file import JournalError
from mesh.shell.journal_memory import MemoryJournal
from mesh.shell.journal_rows import Slice
from mesh.wire.ledger import decode_records


def row(number: int) -> Register:
    return Register(f"node/{number}", "address", 1, "50-A", "x")


class Rig:
    def __init__(self, rows: int = 0, slice_records: int = 2) -> None:
        self.journal = MemoryJournal("j")
        self.sent: list[tuple[NodeId, Message]] = []
        self.posted: list[Event] = []
        self.pulls = Pulls(self.journal, lambda to, message: self.sent.append((to, message)), self.post, slice_records)
        self.write(rows)

    def post(self, event: Event) -> None:
        self.posted.append(event)

    def write(self, rows: int, source: Cursor = NO_CURSOR) -> list[Record]:
        first = self.journal.position
        records = [row(first + n) for n in range(rows)]
        for number, record in enumerate(records, 1):
            self.journal.append(first + number, [record], source)
            self.journal.sync()  # a row for each
        self.pulls.on_synced()
        return records

    def take(self, to: NodeId = "50-B") -> Pulled:
        """The one answer that was sent since."""
        ((node, message),) = self.sent
        self.sent.clear()
        assert node == to
        assert isinstance(message, Pulled)
        return message


def records(pulled: Pulled) -> list[Record]:
    assert isinstance(pulled.records, bytes)
    return decode_records(pulled.records)


def test_who_starts_from_nothing_gets_slice_after_slice_up_to_the_end() -> None:
    rig = Rig(rows=5)
    cursors: tuple[Cursor, ...] = ()
    found: list[Record] = []
    for number in range(3):
        rig.pulls.serve(ServePull("50-B", 7, cursors, False))
        pulled = rig.take()
        found += records(pulled)
        assert (pulled.session, pulled.end) == (7, number == 2)
        cursors = (pulled.cursor,)
    assert found == [row(n) for n in range(5)]
    assert pulled.cursor == rig.journal.cursor
    assert rig.posted == [SuccessorSynced("50-B", 2), SuccessorSynced("50-B", 4)], "what it asked with is on its disk"


def test_who_has_everything_and_does_not_wait_is_told_so() -> None:
    rig = Rig(rows=2)
    rig.pulls.serve(ServePull("50-B", 7, (rig.journal.cursor,), False))
    pulled = rig.take()
    assert (pulled.end, pulled.cursor, records(pulled)) == (True, rig.journal.cursor, [])


def test_who_waits_hears_of_the_next_record_once() -> None:
    rig = Rig(rows=2)
    rig.pulls.serve(ServePull("50-B", 7, (rig.journal.cursor,), True))
    assert rig.sent == []
    new = rig.write(1)
    assert records(rig.take()) == new
    rig.write(1)
    assert rig.sent == [], "it asks again when that is on its disk"


def test_who_waits_with_an_empty_journal_waits_too() -> None:
    rig = Rig()
    rig.pulls.serve(ServePull("50-B", 7, (), True))
    assert rig.sent == []
    new = rig.write(1)
    assert records(rig.take()) == new


def test_the_latest_pull_of_a_node_counts() -> None:
    rig = Rig(rows=2)
    for session in (7, 8):
        rig.pulls.serve(ServePull("50-B", session, (rig.journal.cursor,), True))
    rig.write(1)
    assert rig.take().session == 8


def test_records_that_the_puller_has_from_elsewhere_move_its_cursor_only() -> None:
    rig = Rig(rows=1)
    rig.pulls.serve(ServePull("50-B", 7, (Cursor("other", 9, "d"), rig.journal.cursor), True))
    rig.write(1, Cursor("other", 8, "c"))
    pulled = rig.take()
    assert (records(pulled), pulled.cursor, pulled.end) == ([], rig.journal.cursor, True)


def test_what_was_read_in_a_former_life_counts() -> None:
    rig = Rig(rows=2)
    two = rig.journal.cursor
    rig.journal.crash()
    (three,) = rig.write(1)
    end = rig.journal.cursor
    assert end.journal != two.journal
    rig.pulls.serve(ServePull("50-B", 7, (two,), True))
    pulled = rig.take()
    assert (pulled.cursor, records(pulled)) == (end, [three])
    rig.journal.crash()
    rig.pulls.serve(ServePull("50-B", 7, (two, end), True))
    assert rig.sent == [], "it has everything, although not by this life's id"
    assert rig.posted == [SuccessorSynced("50-B", 2), SuccessorSynced("50-B", 3)], "the furthest"
    (four,) = rig.write(1)
    assert records(rig.take()) == [four]


WRONG = [Cursor("j", 1, "another content"), Cursor("j", 9, "")]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_cursor_of_a_history_that_was_undone_counts_for_nothing(
    wrong: Cursor, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(rows=1)
    rig.write(1, Cursor("other", 8, "c"))
    rig.journal.crash()
    elsewhere = Cursor("other", 8, "c")
    with caplog.at_level(logging.WARNING):
        rig.pulls.serve(ServePull("50-B", 7, (wrong, elsewhere), True))
    pulled = rig.take()
    assert (pulled.cursor, records(pulled)) == (rig.journal.cursor, [row(0)])
    assert rig.posted == [], "that node holds no copy of it"
    (told,) = caplog.records
    assert getattr(told, "event", "") == "journal_rewound"
    assert f"50-B has read up to record {wrong.position} of this journal, which does not hold it" in told.getMessage()
    rig.pulls.serve(ServePull("50-B", 7, (wrong, pulled.cursor), True))
    assert rig.sent == []
    assert rig.posted == [SuccessorSynced("50-B", 2)]


def test_a_wrong_cursor_is_told_once_for_each_reader(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(rows=2)
    with caplog.at_level(logging.WARNING):
        for reader in ("50-B", "50-C", "50-B"):
            for wrong in WRONG:
                rig.pulls.serve(ServePull(reader, 7, (wrong,), False))
    assert [message.args[0] for message in caplog.records if message.args] == ["50-B", "50-C"]


async def test_what_is_not_kept_in_memory_is_read_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(rows=3, slice_records=5)
    monkeypatch.setattr(rig.journal, "tail", lambda *_: None)
    rig.pulls.serve(ServePull("50-B", 7, (), False))
    assert rig.sent == []
    await rig.pulls._reading["50-B"]
    assert len(records(rig.take())) == 3
    rig.pulls.serve(ServePull("50-B", 8, (), False))
    reading = rig.pulls._reading["50-B"]
    rig.pulls.close()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert rig.sent == []


async def test_the_next_slice_is_read_before_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(rows=9)
    read: list[int] = []
    slice_ = rig.journal.slice

    def counted(cursors: tuple[Cursor, ...], limit_records: int, limit_bytes: int) -> Slice:
        read.append(max((cursor.position for cursor in cursors), default=0))
        return slice_(cursors, limit_records, limit_bytes)

    monkeypatch.setattr(rig.journal, "slice", counted)
    monkeypatch.setattr(rig.journal, "tail", lambda *_: None)

    async def ask(*cursors: Cursor) -> list[Record]:
        rig.pulls.serve(ServePull("50-B", 7, cursors, False))
        await rig.pulls._reading["50-B"]
        pulled = rig.take()
        if not pulled.end:
            await rig.pulls._ahead["50-B"].reading
        return [*records(pulled), pulled.cursor]  # type: ignore[list-item]

    *rows, first = await ask()
    assert (rows, read) == ([row(0), row(1)], [0, 2])
    *rows, second = await ask(first)  # type: ignore[arg-type]
    assert (rows, read) == ([row(2), row(3)], [0, 2, 4])
    *rows, _ = await ask(first)  # type: ignore[arg-type]
    assert (rows, read) == ([row(2), row(3)], [0, 2, 4, 2, 4]), "of who is not as far as was thought it is read anew"
    *rows, third = await ask(second)  # type: ignore[arg-type]
    *rows, fourth = await ask(third)  # type: ignore[arg-type]
    assert read[-1] == 8, "the last row is read ahead, and was the end"
    rig.write(1)
    *rows, _ = await ask(fourth)  # type: ignore[arg-type]
    assert rows == [row(8), row(9)], "and it is not the end any more"
    rig.pulls.close()


@pytest.mark.parametrize("broken", ["verify", "slice"])
async def test_a_disk_that_cannot_be_read_leaves_a_pull_unanswered_and_says_so(
    broken: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is no defect of the machine, which must not end for it; who pulls asks again."""

    def unreadable(*_: object) -> None:
        raise JournalError("the journal cannot be used", "disk I/O error", "")

    rig = Rig(rows=2)
    monkeypatch.setattr(rig.journal, broken, unreadable)
    monkeypatch.setattr(rig.journal, "tail", lambda *_: None)
    rig.pulls.serve(ServePull("50-B", 7, (rig.journal.cursor,), False))
    for reading in list(rig.pulls._reading.values()):
        await reading
    assert rig.sent == []
    assert "disk I/O error" in caplog.text
