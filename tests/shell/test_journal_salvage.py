"""Damage of every kind: noticed, set aside, and what is before it goes on."""

from __future__ import annotations

import itertools
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mesh.core.lattice import Record
from mesh.core.messages import Cursor
from mesh.shell.journal import Journal
from mesh.shell.journal_file import JournalCorrupt, JournalError
from mesh.shell.journal_salvage import finish, salvage, set_aside
from mesh.wire.ledger import encode_records
from tests.shell.journal_ears import Ears, runs
from tests.shell.test_journal import add_row, sql, version_1

ROWS = range(10, 401, 10)
LAST = ROWS[-1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal of a few pages; every second row was pulled from J, all is in the file itself."""
    path = tmp_path / "journal.sqlite"
    journal = Journal.open(path)
    ears = Ears(journal)
    for last in ROWS:
        journal.append(last, runs(last - 9, last), *([Cursor("J", last, "j")] if last % 20 == 0 else []))
        ears.until(last)
    journal.close()
    return path


def start(path: Path) -> tuple[Journal, list[Record]]:
    """As a daemon does."""
    finish(path)
    try:
        journal = Journal.open(path)
        try:
            return journal, list(journal.records())
        except BaseException:
            journal.close()
            raise
    except JournalCorrupt:
        salvage(path, "now")
    journal = Journal.open(path)
    return journal, list(journal.records())


def goes_on(path: Path, was: str, damaged: bytes | None = None) -> int:
    """It starts with a prefix, and goes on; the damaged file is as it was. How many it kept."""
    journal, records = start(path)
    assert records == runs(1, len(records))
    assert len(records) % 10 == 0
    assert len(records) == journal.position < LAST
    kept = journal.position
    assert [end[:2] for end in journal.own()] == [*([(was, kept)] if kept else []), (journal.id, kept)]
    assert journal.cursors() == ((Cursor("J", kept - kept % 20, "j"),) if kept >= 20 else ())
    assert len(journal.slice((Cursor("J", LAST, ""),), LAST, 1 << 30).records()) == kept - kept // 20 * 10
    (aside,) = set_aside(path)
    assert aside.name == "journal.sqlite.damaged-now"
    if damaged is not None:
        assert aside.read_bytes() == damaged
    ears = Ears(journal)
    journal.append(kept + 1, runs(kept + 1, kept + 1))
    ears.until(kept + 1)
    journal.close()
    again, records = start(path)
    assert again.own()[-2:] == (journal.cursor, again.cursor)
    again.close()
    assert records == runs(1, kept + 1)
    assert sorted(file.name for file in path.parent.iterdir()) == ["journal.sqlite", aside.name]
    return kept


def name(path: Path) -> str:
    """The id of the life that wrote it."""
    with closing(Journal.open(path)) as journal:
        return journal.own()[0].journal


def test_a_byte_that_flipped_ends_what_is_kept(path: Path) -> None:
    was, whole = name(path), bytearray(path.read_bytes())
    whole[whole.index(b"t207") + 2] ^= 1
    path.write_bytes(whole)
    assert goes_on(path, was, bytes(whole)) == 200


def test_what_cannot_be_decoded_ends_what_is_kept(path: Path) -> None:
    was = name(path)
    sql(path, "UPDATE batches SET source_digest = CAST(x'ff' AS TEXT) WHERE last = 300")
    assert goes_on(path, was) == 290


def test_a_batch_with_the_right_digest_that_is_none(path: Path) -> None:
    add_row(path, LAST + 3, 3, b"\xff")
    add_row(path, LAST + 4, 1, encode_records(runs(LAST + 4, LAST + 4)))
    journal, records = start(path)
    journal.close()
    assert records == runs(1, LAST)
    assert len(set_aside(path)) == 1


def test_a_file_cut_short(path: Path) -> None:
    was, whole = name(path), path.read_bytes()
    path.write_bytes(whole[: len(whole) * 3 // 4])
    goes_on(path, was, whole[: len(whole) * 3 // 4])


@pytest.mark.parametrize("garbage", [b"what is this?\n" * 1000, b"x", b"SQLite format 3\0" + bytes(8192)])
def test_a_file_of_something_else(path: Path, garbage: bytes) -> None:
    was = name(path)
    path.write_bytes(garbage)
    assert goes_on(path, was, garbage) == 0


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ("DROP TABLE lives", LAST),
        ("UPDATE lives SET after = 'x'", LAST),
        ("UPDATE lives SET id = CAST(x'ff' AS TEXT)", LAST),
        ("DELETE FROM schema", LAST),
        ("DROP TABLE batches", 0),
        ("DELETE FROM batches WHERE last = 110", 100),
        ("UPDATE batches SET body = zeroblob(10) WHERE last = 10", 0),
    ],
)
def test_a_part_that_is_gone(path: Path, change: str, kept: int) -> None:
    was = name(path)
    sql(path, change)
    journal, records = start(path)
    assert records == runs(1, kept)
    assert journal.id != was
    assert journal.owns(was) == (kept > 0 and "lives" not in change)
    journal.close()


def test_a_damaged_journal_of_version_1(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    version_1(path, 2, 6, 9)
    sql(path, "UPDATE batches SET crc = crc + 1 WHERE last = 9")
    journal, records = start(path)
    journal.close()
    assert records == runs(1, 6)
    (aside,) = set_aside(path)
    assert len(sql(aside, "SELECT crc FROM batches")) == 3


@pytest.mark.parametrize("main", [None, b""])
def test_a_log_without_its_file_is_kept(path: Path, tmp_path: Path, main: bytes | None) -> None:
    journal = Journal.open(path)
    ears = Ears(journal)
    journal.append(LAST + 1, runs(LAST + 1, LAST + 1))
    ears.until(LAST + 1)
    place = tmp_path / "place" / path.name
    place.parent.mkdir()
    log = Path(shutil.copy(f"{path}-wal", f"{place}-wal")).read_bytes()
    journal.close()
    assert log
    if main is not None:
        place.write_bytes(main)
    fresh, records = start(place)
    fresh.close()
    assert records == []
    assert place.with_name(f"{path.name}.damaged-now-wal").read_bytes() == log


def test_each_byte_of_the_file_may_flip(path: Path, tmp_path: Path) -> None:
    """Whatever is hit: all is there, or the damage is set aside and what is before it is there."""
    whole = path.read_bytes()
    outcomes = set()
    for number, place in enumerate(range(0, len(whole), 211)):
        work = tmp_path / str(number) / path.name
        work.parent.mkdir()
        work.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << number % 8)]) + whole[place + 1 :])
        try:
            journal, records = start(work)
        except JournalError as error:
            outcomes.add(error.what.split(str(work))[1])
        else:
            journal.close()
            assert records == runs(1, len(records))
            assert set_aside(work) or len(records) == LAST
            assert set(work.parent.iterdir()) == {work, *set_aside(work)}  # no connection was left open
            outcomes.add("some" if len(records) < LAST else "all")
    assert {"some", "all"} <= outcomes
    assert outcomes <= {"some", "all", " was written by a newer meshd", " is none"}


def test_twice_in_one_second_nothing_is_overwritten(path: Path) -> None:
    for garbage in (b"first" * 100, b"second" * 100):
        path.write_bytes(garbage)
        start(path)[0].close()
    assert [file.read_bytes() for file in set_aside(path)] == [b"first" * 100, b"second" * 100]


def test_a_lock_that_somebody_holds_is_no_damage(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as blocker:
        blocker.execute("PRAGMA locking_mode = EXCLUSIVE")
        blocker.execute("BEGIN EXCLUSIVE")
        with pytest.raises(JournalError, match="locked") as caught:
            Journal.open(path, busy_timeout=0.01)
        assert not isinstance(caught.value, JournalCorrupt)
        with pytest.raises(JournalError, match="locked"):
            salvage(path, "now")
    assert set_aside(path) == []
    journal, records = start(path)
    journal.close()
    assert records == runs(1, LAST)


def test_lives_are_kept_as_far_as_the_rows_are(path: Path) -> None:
    """So who read what is still here goes on after it, and who read more of it is known for that."""
    points = []
    for life in (1, 2, 3):
        journal = Journal.open(path)
        ears = Ears(journal)
        for last in (LAST + 20 * life - 10, LAST + 20 * life):
            journal.append(last, runs(last - 9, last))
            ears.until(last)
            points.append(journal.cursor)
        journal.close()
    _, first, kept, lost, *beyond = points
    sql(path, "UPDATE batches SET body = zeroblob(10) WHERE last = ?", lost.position)
    journal, records = start(path)
    assert len(records) == kept.position
    assert sql(path, "SELECT max(after) FROM lives") == [(first.position,)]
    assert [end.position for end in journal.own()] == [LAST, *(point.position for point in (first, kept, kept))]
    assert journal.own()[1:] == (first, kept, journal.cursor)
    assert journal.owns(lost.journal)
    assert not journal.verify(lost)
    assert not any(journal.owns(point.journal) for point in beyond)
    journal.close()


class Killed(BaseException):
    pass


@pytest.mark.parametrize("step", range(1, 5))
def test_killed_amid_it_nothing_is_lost(path: Path, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of its first, second ... renaming. A log is there, too, once SQLite does not look any more."""
    sql(path, "UPDATE batches SET body = zeroblob(10) WHERE last = 300")
    damaged = path.read_bytes()
    rename, steps = Path.rename, itertools.count(1)

    def rename_or_die(file: Path, target: Path) -> Path:
        if (now := next(steps)) == step:
            raise Killed
        if now == 1:
            path.with_name(f"{path.name}-wal").write_bytes(b"a log")
        return rename(file, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename_or_die)
        with pytest.raises(Killed):
            salvage(path, "then")
    journal, records = start(path)
    journal.close()
    assert records == runs(1, 290)
    (aside,) = set_aside(path)
    assert aside.read_bytes() == damaged
    assert aside.name.endswith("then" if step > 2 else "now")
    logs = [f"{aside.name}-wal"] if step > 2 else []
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name, aside.name, *logs]
