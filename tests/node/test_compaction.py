"""A journal of which most is of no use is written anew at a start, and nobody notices but the disk."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest

from mesh.core.compaction import NOTHING, rewritten, useful
from mesh.core.ids import JobId
from mesh.core.lattice import Acceptance, Attempt, Deleted, Job, Outcome, Record, Shape, Task
from mesh.core.messages import Cursor
from mesh.node import compaction
from mesh.node.compaction import compacted
from mesh.shell import journal_compact
from mesh.shell.journal import Journal
from mesh.shell.journal_compact import compact
from mesh.shell.journal_file import JournalError, connect
from tests.core.parts import claim
from tests.core.test_lattice import joined
from tests.shell.journal_ears import Ears

FROM_OTHERS = Cursor("other", 9, "o")


def job(name: JobId, tasks: int) -> list[Record]:
    """One that succeeded, with all that is written of it."""
    records: list[Record] = [Job(name, "d")]
    for number in range(tasks):
        task, tried = f"{name}.{number}", f"3.50-a.a1.{name}{number}"
        attempt = Attempt(task, tried, False, 0, 0, 1, "50-b")
        done = attempt._replace(ended=True, phase=2, outcome=Outcome(result=b"r" * 20, digest="d"))
        records += [
            Task(task, name, number, f"d{number}", Shape(), b"p" * 100),
            attempt,
            attempt._replace(phase=1),
            done,
            Acceptance(task, tried, claim("a", 3), "d"),
        ]
    return records


RECORDS = [*job("a", 20), *job("b", 20), *job("keep", 10), Deleted("a"), Deleted("b")]


def write(path: Path, records: list[Record], rows: int = 7) -> Journal:
    """In rows of so many records, one of them pulled from another journal; closed properly, and opened again."""
    journal = Journal.open(path)
    ears = Ears(journal)
    for at in range(0, len(records), rows):
        last = min(at + rows, len(records))
        journal.append(last, records[at:last], *([FROM_OTHERS] if at == rows else []))
        ears.until(last)
    journal.close()
    return Journal.open(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


def small(path: Path, journal: Journal, least: int = 0) -> Journal | None:
    return compacted(path, journal, joined(journal.records()), least)


def known(records: Iterable[Record]) -> list[Record]:
    return [record for record in joined(records).records() if type(record) is not Attempt or record.ended]


def test_what_counts_is_kept_and_the_file_is_smaller(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mesh")
    with closing(write(path, RECORDS)) as before:
        was, size = before.id, path.stat().st_size
        _, end, _ = (None, *before.own())
        after = small(path, before)
    assert after is not None
    with closing(after):
        assert known(after.records()) == known(RECORDS)
        assert after.id != was
        assert after.position < len(RECORDS) / 2
        assert path.stat().st_size < size
        assert after.cursors() == tuple(sorted((end, FROM_OTHERS)))
        assert after.verify(after.cursor)
        assert [line.event for line in caplog.records] == ["journal_compacted"]  # type: ignore[attr-defined]
        fields = caplog.records[0].fields  # type: ignore[attr-defined]
        assert (fields["records_before"], fields["records"]) == (len(RECORDS), after.position)
        assert fields["bytes"] == path.stat().st_size
        ears = Ears(after)
        after.append(after.position + 1, [Deleted("keep")])  # it goes on
        ears.until(after.position + 1)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_once_is_enough(path: Path) -> None:
    with closing(write(path, RECORDS)) as before:
        after = small(path, before)
    assert after is not None
    with closing(after):
        assert small(path, after) is None


def test_who_had_read_the_old_one_is_sent_only_what_it_had_not_read(path: Path) -> None:
    records = [*RECORDS, *job("more", 1000)]  # more than fits in one row
    before = write(path, records, 500)
    half = before.slice((), 4500, 1 << 30)
    _, old, _ = (None, *before.own())  # of the life that wrote it, in which others read it
    part = half.cursor._replace(journal=old.journal)
    after = compact(path, before, lambda rows: rewritten(useful(joined(records)), rows, before.cursors()))
    with closing(after):
        end = after.slice((old,), 10_000, 1 << 30)
        assert (set(end.records()), end.end) == ({NOTHING}, True)
        rest = after.slice((part,), 10_000, 1 << 30)
        everything = after.slice((), 10_000, 1 << 30)
        assert len(rest.records()) < len(everything.records()) - 1000
        assert known([*half.records(), *rest.records()]) == known(records)
        assert known(everything.records()) == known(records)
        others = after.slice((old, FROM_OTHERS), 10_000, 1 << 30)
        assert others.records() == []


@pytest.mark.parametrize("records", [job("keep", 10), [*job("keep", 50), *job("a", 5), Deleted("a")]])
def test_where_most_is_of_use_it_stays(path: Path, records: list[Record]) -> None:
    with closing(write(path, records)) as journal:
        assert small(path, journal) is None


def test_a_small_file_stays(path: Path) -> None:
    with closing(write(path, RECORDS)) as journal:
        assert small(path, journal, compaction.LEAST) is None


def reopened(path: Path) -> None:
    """After a kill: the old one, whole, and what was half built disturbs nobody."""
    with closing(Journal.open(path)) as journal:
        assert list(journal.records()) == RECORDS
        after = small(path, journal)
    assert after is not None
    with closing(after):
        assert known(after.records()) == known(RECORDS)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


class Killed(BaseException):
    """Nothing is tidied up after it."""


def test_a_kill_while_the_new_one_is_built_leaves_the_old_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_short(*arguments: object) -> object:
        yield Cursor("old", 2, "x"), RECORDS[:2]
        raise Killed

    with closing(write(path, RECORDS)) as journal, monkeypatch.context() as patched:
        patched.setattr(compaction, "rewritten", cut_short)
        with pytest.raises(Killed):
            small(path, journal)
    assert path.with_name("journal.sqlite.compacting").exists()
    reopened(path)


def test_a_kill_before_the_new_one_takes_its_place_leaves_the_old_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*paths: object) -> None:
        raise Killed

    with closing(write(path, RECORDS)) as journal, monkeypatch.context() as patched:
        patched.setattr(journal_compact.os, "replace", killed)
        with pytest.raises(Killed):
            small(path, journal)
    reopened(path)


def test_a_kill_right_after_leaves_the_new_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(directory: Path) -> None:
        raise Killed

    with closing(write(path, RECORDS)) as journal, monkeypatch.context() as patched:
        patched.setattr(journal_compact, "sync_directory", killed)
        with pytest.raises(Killed):
            small(path, journal)
    with closing(Journal.open(path)) as journal:
        assert known(journal.records()) == known(RECORDS)


def test_where_the_disk_is_full_the_old_one_is_used(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*paths: object) -> None:
        raise OSError(28, os.strerror(28))

    journal = write(path, RECORDS)
    monkeypatch.setattr(journal_compact.os, "replace", full)
    after = small(path, journal)
    assert after is not None
    with closing(after):
        assert list(after.records()) == RECORDS
        assert list(after.records()) == RECORDS
    assert "No space left on device; it is used as it is" in caplog.text
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_file_that_somebody_else_reads_is_not_replaced(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its log would be taken for the new file's."""
    journal = write(path, RECORDS)
    with closing(connect(path)) as other:
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM batches").fetchall()
        with closing(connect(path)) as writer:  # so that there is something in the log
            writer.execute("INSERT INTO lives VALUES ('none', 1000000)")
        after = small(path, journal)
        assert after is not None
        with closing(after):
            assert list(after.records()) == RECORDS
    assert "another process has it open" in caplog.text


def test_where_it_cannot_even_be_opened_again_that_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*arguments: object) -> None:
        path.unlink()
        path.mkdir()
        raise JournalError("no")

    journal = write(path, RECORDS)
    monkeypatch.setattr(compaction, "compact", gone)
    with pytest.raises(JournalError, match="cannot be used"):
        small(path, journal)
