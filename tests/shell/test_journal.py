"""What only the file can do: be torn, damaged, full, old or new, and survive a kill."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice, pairwise
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from mesh.core.lattice import Run, Shape, Task
from mesh.core.messages import NO_CURSOR, Cursor
from mesh.shell import journal_file as module
from mesh.shell.journal import Journal
from mesh.shell.journal_file import (
    MIGRATIONS,
    JournalCorrupt,
    JournalError,
    JournalTooNew,
    Migration,
)
from mesh.shell.journal_rows import KEPT_BYTES, ROW_BYTES, ROW_RECORDS, chain
from mesh.wire.errors import WireError
from mesh.wire.ledger import encode_records
from tests.shell.journal_child import record
from tests.shell.journal_ears import Ears, runs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


def filled(path: Path, *lasts: int) -> None:
    """A journal with one row for each of these, closed."""
    journal = Journal.open(path)
    ears = Ears(journal)
    for last in lasts:
        journal.append(last, runs(journal.position + 1, last))
        ears.until(last)
    journal.close()


def sql(path: Path, statement: str, *arguments: object) -> list[Any]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return connection.execute(statement, arguments).fetchall()


class Faulty:
    """The writer's connection, of which some writes fail: so many, after so many that do not."""

    def __init__(self, inner: sqlite3.Connection, failures: int, before: int = 0) -> None:
        self._inner, self.failures, self._before = inner, failures, before

    @property
    def in_transaction(self) -> bool:
        return self._inner.in_transaction

    def execute(self, *arguments: Any) -> object:
        if self._before:
            self._before -= 1
        elif self.failures:
            self.failures -= 1
            raise sqlite3.OperationalError("database or disk is full")
        return self._inner.execute(*arguments)

    def close(self) -> None:
        self._inner.close()


# Durability


def test_every_commit_reaches_the_disk(path: Path) -> None:
    with closing(Journal.open(path)) as journal:
        for connection in (journal._writer, journal._reader):
            assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
            assert connection.execute("PRAGMA fullfsync").fetchone() == (1,)
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@contextmanager
def child(*command: str) -> Iterator[subprocess.Popen[str]]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def journal_child(path: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.shell.journal_child", str(path), *arguments]


def test_killed_amid_appends_it_has_everything_that_was_told(path: Path) -> None:
    told = 0
    for more in (10, 37, 80):  # three lives of one journal, each killed after so many commits
        with child(*journal_child(path, "endless")) as process:
            assert process.stdout is not None
            for _ in range(more):
                kind, position = process.stdout.readline().split()
                assert kind == "synced"
                told = int(position)
            process.send_signal(signal.SIGKILL)
            for line in process.stdout.read().splitlines(keepends=True):  # told while the kill was on its way
                if line.endswith("\n"):
                    told = int(line.split()[1])
        with closing(Journal.open(path)) as journal:
            assert journal.position >= told
            assert list(journal.records()) == [record(n) for n in range(1, journal.position + 1)]


def starved(process: subprocess.Popen[str], path: Path) -> None:
    output, _ = process.communicate(timeout=60)
    lines = output.splitlines()
    assert process.returncode == 0, output
    assert [line.split()[0] for line in lines] == ["failed", "failed", "synced"]
    assert str(path) in lines[0]
    assert lines[1].split() == ["failed"]  # it works again


def test_a_full_disk_is_told_and_nothing_is_lost(path: Path) -> None:
    with child(*journal_child(path, "quota")) as process:
        starved(process, path)
    with closing(Journal.open(path)) as journal:
        assert journal.position > 100
        assert list(journal.records()) == [record(n) for n in range(1, journal.position + 1)]


def test_a_full_file_system_is_told_and_nothing_is_lost(tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    tried = shutil.which("unshare") and subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    if not tried or tried.returncode:
        pytest.skip("needs root for a mount namespace of its own; the quota test covers the rest")
    inside = journal_child(mount / "journal.sqlite", "full", str(mount / "ballast"))
    # Copied out at the end: the mount goes with its namespace.
    script = 'mount -t tmpfs -o size=640k none "$1" && shift && "$@" && cp small/journal.sqlite out.sqlite'
    script = script.replace("small", str(mount)).replace("out.sqlite", str(tmp_path / "out.sqlite"))
    with child("unshare", "-m", "sh", "-c", script, "sh", str(mount), *inside) as process:
        starved(process, mount / "journal.sqlite")
    with closing(Journal.open(tmp_path / "out.sqlite")) as journal:
        assert list(journal.records()) == [record(n) for n in range(1, journal.position + 1)]
        assert journal.position > 100


def test_a_torn_log_gives_the_commits_before_the_tear(path: Path, tmp_path: Path) -> None:
    journal = Journal.open(path)
    ears = Ears(journal)
    for last in range(10, 101, 10):
        journal.append(last, runs(last - 9, last))
        ears.until(last)
    log = path.with_name(path.name + "-wal").read_bytes()
    main = path.read_bytes()
    journal.close()
    seen = set()
    for cut in range(0, len(log) + 1, 997):
        torn = tmp_path / f"torn{cut}"
        torn.mkdir()
        (torn / path.name).write_bytes(main)
        (torn / f"{path.name}-wal").write_bytes(log[:cut] + bytes(min(500, len(log) - cut)))
        try:
            found = Journal.open(torn / path.name)
        except JournalError:
            continue
        with closing(found):
            assert list(found.records()) == runs(1, found.position)
            assert found.position % 10 == 0
            seen.add(found.position)
    assert len(seen) > 5


# Group commit


def rows(path: Path) -> list[int]:
    return [count for (count,) in sql(path, "SELECT count FROM batches ORDER BY last")]


def test_idle_it_writes_at_once_and_under_load_in_groups(path: Path) -> None:
    journal = Journal.open(path, retry_after=0.01)
    ears = Ears(journal)
    for last in (1, 2, 3):
        journal.append(last, runs(last, last))
        ears.until(last)
    journal._writer = Faulty(journal._writer, failures=1)  # type: ignore[assignment]
    journal._retry_after = 3600  # until close wakes it
    journal.append(4, runs(4, 4))
    assert "full" in str(ears.next())
    for last in range(5, 105):
        journal.append(last, runs(last, last))
    journal.close()
    assert rows(path) == [1, 1, 1, 1, 100]
    ears.until(104)
    assert ears.heard[-3:] == ["", 4, 104]


def test_a_row_ends_when_it_is_large(path: Path) -> None:
    journal = Journal.open(path)
    for last in range(225, 1126, 225):
        journal.append(last, runs(last - 224, last))
    journal.append(9500, runs(1126, 9500))  # one append is never divided
    journal.append(9501, runs(9501, 9501))
    journal.append(9502, [Task("t", "j", 0, "d", Shape(kind="k"), bytes(ROW_BYTES))])
    journal.append(9503, runs(9503, 9503))
    Ears(journal)
    journal.close()
    assert rows(path) == [450, 450, 225, 8375, 1, 1, 1]
    assert ROW_RECORDS == 500
    with closing(Journal.open(path)) as again:
        assert list(islice(again.records(), 9501)) == runs(1, 9501)


def test_a_failure_is_told_once_however_often_it_is_tried(path: Path) -> None:
    journal = Journal.open(path, retry_after=0.001)
    journal._writer = Faulty(journal._writer, failures=5)  # type: ignore[assignment]
    ears = Ears(journal)
    journal.append(2, runs(1, 2))
    ears.until(2)
    assert ears.heard == [f"{path} cannot be written: database or disk is full", "", 2]
    journal.close()


def test_closing_tries_once_more_and_gives_up(path: Path) -> None:
    journal = Journal.open(path, retry_after=3600)
    faulty = Faulty(journal._writer, failures=1000)
    journal._writer = faulty  # type: ignore[assignment]
    ears = Ears(journal)
    journal.append(1, runs(1, 1))
    assert "full" in str(ears.next())
    journal.close()
    assert faulty.failures == 998
    assert ears.quiet()


def test_what_cannot_be_stored_is_refused_and_leaves_the_position(path: Path) -> None:
    journal = Journal.open(path)
    ears = Ears(journal)
    with pytest.raises(WireError):
        journal.append(1, [Run("\udcff", 0, 0)])
    journal.append(1, runs(1, 1))
    ears.until(1)
    journal.close()


# Damage


def damaged(path: Path, match: str) -> None:
    """Reading says so, naming the file, and changes nothing."""
    with closing(Journal.open(path)) as journal:
        with pytest.raises(JournalCorrupt, match=match) as caught:
            list(journal.records())
    assert str(path) in str(caught.value)
    assert "sets the damaged file aside" in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE batches SET body = zeroblob(length(body)) WHERE last = 6",
        "UPDATE batches SET body = substr(body, 1, length(body) - 1) WHERE last = 6",
        "UPDATE batches SET body = 5 WHERE last = 6",
        "UPDATE batches SET digest = upper(digest) WHERE last = 6",
        "UPDATE batches SET digest = CAST(x'ff' AS TEXT) WHERE last = 6",
        "UPDATE batches SET source = 'J' WHERE last = 6",
        "UPDATE batches SET source_position = 1 WHERE last = 6",
        "UPDATE batches SET source_digest = 'd' WHERE last = 6",
        "UPDATE batches SET count = 5 WHERE last = 6",
        "UPDATE batches SET count = 'x' WHERE last = 6",
        "UPDATE batches SET last = 5 WHERE last = 6",
    ],
)
def test_a_changed_batch_is_found(path: Path, change: str) -> None:
    filled(path, 2, 6, 9)
    sql(path, change)
    damaged(path, "the batch that ends at position|UTF-8")


def test_what_is_before_the_damage_can_be_read(path: Path) -> None:
    filled(path, 2, 6, 9)
    sql(path, "UPDATE batches SET body = zeroblob(length(body)) WHERE last = 6")
    with closing(Journal.open(path)) as journal:
        found = journal.records()
        assert list(islice(found, 2)) == runs(1, 2)
        with pytest.raises(JournalCorrupt):
            next(found)


def test_a_missing_batch_is_found(path: Path) -> None:
    filled(path, 2, 6, 9)
    sql(path, "DELETE FROM batches WHERE last = 6")
    damaged(path, "records 3 to 6 are missing")


def test_what_is_served_from_the_file_is_checked(path: Path) -> None:
    filled(path, 2, 6, 9)
    sql(path, "UPDATE batches SET body = zeroblob(length(body)) WHERE last = 6")
    with closing(Journal.open(path)) as journal:
        start = journal.slice((), 2, 1000)
        assert start.records() == runs(1, 2)
        with pytest.raises(JournalCorrupt, match="position 6 is wrong"):
            journal.slice((start.cursor,), 2, 1000)
        after = Cursor(journal.id, 6, "")
        assert journal.slice((after,), 9, 1000).records() == runs(7, 9)
    sql(path, "UPDATE batches SET count = 'x' WHERE last = 6")
    with closing(Journal.open(path)) as journal, pytest.raises(JournalCorrupt, match="position 6 is none"):
        journal.slice((), 9, 1000)
    sql(path, "DELETE FROM batches WHERE last = 6")
    with closing(Journal.open(path)) as journal, pytest.raises(JournalCorrupt, match="are missing"):
        journal.slice((start.cursor,), 9, 1000)


def add_row(path: Path, last: int, count: int, body: bytes) -> None:
    """With the digest that belongs to it."""
    (before,) = sql(path, "SELECT digest FROM batches WHERE last = ?", last - count)
    digest = chain(*before, last, count, NO_CURSOR, body)
    sql(path, "INSERT INTO batches VALUES (?, ?, ?, '', 0, '', ?)", last, count, digest, body)


@pytest.mark.parametrize(
    ("body", "why"), [(b"\xff", "cannot be read"), (encode_records(runs(1, 4)), "not 3 records long")]
)
def test_a_batch_that_is_none_is_found(path: Path, body: bytes, why: str) -> None:
    filled(path, 2)
    add_row(path, 5, 3, body)
    damaged(path, why)


def test_records_of_a_kind_that_came_later_are_no_damage(path: Path) -> None:
    filled(path, 2)
    add_row(path, 4, 2, encode_records(runs(3, 3)) + b"\x0a\x04\xfa\x7f\x01x")  # field 2047
    with (
        closing(Journal.open(path)) as journal,
        pytest.raises(JournalTooNew, match="of the 2 records up to position 4"),
    ):
        list(journal.records())


def test_bytes_that_are_no_database_are_refused_and_kept(path: Path) -> None:
    path.write_bytes(b"not a database, but somebody's only copy of something" * 100)
    before = path.read_bytes()
    with pytest.raises(JournalCorrupt, match="not a database") as caught:
        Journal.open(path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before


def test_a_database_of_others_is_refused_and_kept(path: Path) -> None:
    sql(path, "CREATE TABLE recipes (name)")
    before = path.read_bytes()
    with pytest.raises(JournalError, match="recipes") as caught:
        Journal.open(path)
    assert not isinstance(caught.value, JournalCorrupt)  # nothing to set aside: it was never a journal
    assert path.read_bytes() == before


@pytest.mark.parametrize("change", ["after = 'x'", "after = 1.5", "id = x'00'", "id = CAST(x'ff' AS TEXT)"])
def test_lives_that_are_none_are_found(path: Path, change: str) -> None:
    filled(path, 2)
    sql(path, f"UPDATE lives SET {change}")
    before = sql(path, "SELECT CAST(id AS BLOB), after FROM lives")
    with pytest.raises(JournalCorrupt, match=r"lives cannot be read|UTF-8"):
        Journal.open(path)
    assert sql(path, "SELECT CAST(id AS BLOB), after FROM lives") == before


def test_two_lives_of_one_id_are_found(path: Path) -> None:
    filled(path, 2)
    sql(path, "DROP TABLE lives")
    sql(path, "CREATE TABLE lives (id, after)")  # no key that would forbid it, as where it is damaged
    sql(path, "INSERT INTO lives VALUES ('L', 0), ('L', 1)")
    with pytest.raises(JournalCorrupt, match="lives cannot be read"):
        Journal.open(path)


def test_a_life_that_does_not_end_where_a_row_does_is_not_told(path: Path) -> None:
    """A bit flipped in their table, which has no digest."""
    for last in (2, 6, 9):
        filled(path, last)
    sql(path, "UPDATE lives SET after = 3 WHERE after = 2")
    with closing(Journal.open(path)) as journal:
        assert [end.position for end in journal.own()] == [6, 9, 9]


def test_a_journal_without_lives_has_none_before_this_one(path: Path) -> None:
    filled(path, 2)
    sql(path, "DELETE FROM lives")
    with closing(Journal.open(path)) as journal:
        assert journal.own() == (journal.cursor,)
        assert journal.position == 2


@pytest.mark.parametrize("table", ["schema", "lives", "batches"])
def test_a_journal_without_one_of_its_tables_is_refused(path: Path, table: str) -> None:
    filled(path, 2)
    sql(path, f"DROP TABLE {table}")
    with pytest.raises(JournalCorrupt, match=f"lacks its table {table}"):
        Journal.open(path)


def test_overwritten_pages_are_found(path: Path) -> None:
    filled(path, *range(50, 1001, 50))
    whole = path.read_bytes()
    size = 4096
    assert len(whole) > 4 * size
    for page in range(1, len(whole) // size):
        path.write_bytes(whole[: page * size] + os.urandom(size) + whole[(page + 1) * size :])
        with pytest.raises(JournalError) as caught, closing(Journal.open(path)) as journal:
            # Every record is needed at a start.
            list(journal.records())
        assert str(path) in str(caught.value)


def test_a_file_cut_short_is_found(path: Path) -> None:
    filled(path, *range(50, 1001, 50))
    path.write_bytes(path.read_bytes()[:-8192])
    with pytest.raises(JournalCorrupt, match="malformed"), closing(Journal.open(path)) as journal:
        list(journal.records())


def test_an_empty_file_is_a_new_journal(path: Path) -> None:
    path.touch()
    with closing(Journal.open(path)) as journal:
        assert journal.position == 0


def test_a_place_where_nothing_can_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="unable to open") as caught:
        Journal.open(tmp_path / "nowhere" / "journal.sqlite")
    assert not isinstance(caught.value, JournalCorrupt)
    assert "writable" in str(caught.value)


# Schema


def test_each_journal_has_an_id_of_its_own(tmp_path: Path) -> None:
    with closing(Journal.open(tmp_path / "a")) as a, closing(Journal.open(tmp_path / "b")) as b:
        assert len(a.id) == len(b.id) == 32
        assert a.id != b.id


def test_a_newer_schema_is_refused_and_kept(path: Path) -> None:
    filled(path, 2)
    sql(path, "INSERT INTO schema (version, name) VALUES (99, 'later')")
    before = path.read_bytes()
    with pytest.raises(JournalTooNew) as caught:
        Journal.open(path)
    assert str(caught.value) == (
        f"the journal {path} was written by a newer meshd; "
        "its schema is version 99, this meshd knows those up to 2; "
        "start the newer version again, or choose another --state-dir; nothing was changed"
    )
    assert path.read_bytes() == before


def test_an_older_schema_is_brought_up_to_date_and_keeps_its_records(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(path, 2)
    with closing(Journal.open(path)) as journal:
        first = journal.own()[0]
    later = (Migration("a", ("CREATE TABLE a (x)",)), Migration("b", ("ALTER TABLE a ADD COLUMN y",)))
    monkeypatch.setattr(module, "MIGRATIONS", (*MIGRATIONS, *later))
    for _ in range(2):  # the second time there is nothing to do
        with closing(Journal.open(path)) as journal:
            assert list(journal.records()) == runs(1, 2)
            assert journal.own() == (first, journal.cursor)
    assert sql(path, "SELECT version, name FROM schema") == [
        *((number, migration.name) for number, migration in enumerate(MIGRATIONS, 1)),
        (3, "a"),
        (4, "b"),
    ]


def test_a_migration_that_fails_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(path, 2)
    later = (Migration("a", ("CREATE TABLE a (x)",)), Migration("b", ("CREATE TABLE b (x)", "CREATE TABLE a (y)")))
    monkeypatch.setattr(module, "MIGRATIONS", (*MIGRATIONS, *later))
    with pytest.raises(JournalError, match="a already exists"):
        Journal.open(path)
    assert sql(path, "SELECT max(version) FROM schema") == [(3,)]
    assert sql(path, "SELECT name FROM sqlite_master WHERE name = 'b'") == []
    monkeypatch.undo()
    with pytest.raises(JournalTooNew):
        Journal.open(path)


# What version 1 did, in its own words.
VERSION_1 = (
    """CREATE TABLE schema (version INTEGER PRIMARY KEY, name TEXT NOT NULL,
                            applied TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP)""",
    "CREATE TABLE identity (id TEXT NOT NULL)",
    "INSERT INTO identity VALUES ('0123456789abcdef0123456789abcdef')",
    """CREATE TABLE batches (last INTEGER PRIMARY KEY, count INTEGER NOT NULL,
                             crc INTEGER NOT NULL, body BLOB NOT NULL)""",
    "INSERT INTO schema (version, name) VALUES (1, 'identity and batches')",
)


def version_1(path: Path, *lasts: int) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        for statement in VERSION_1:
            connection.execute(statement)
        for first, last in pairwise((0, *lasts)):
            body, count = encode_records(runs(first + 1, last)), last - first
            crc = crc32(body, crc32(b"%d %d" % (last, count)))
            connection.execute("INSERT INTO batches VALUES (?, ?, ?, ?)", (last, count, crc, body))


def test_a_journal_of_version_1_is_as_if_this_one_had_written_it(path: Path, tmp_path: Path) -> None:
    version_1(path, 2, 6, 9)
    filled(tmp_path / "now", 2, 6, 9)
    rows = "SELECT * FROM batches ORDER BY last"
    for _ in range(2):
        with closing(Journal.open(path)) as journal:
            assert journal.own() == (Cursor("0123456789abcdef0123456789abcdef", *journal.cursor[1:]), journal.cursor)
            assert list(journal.records()) == runs(1, 9)
            assert journal.cursors() == ()
            assert journal.slice((), 100, 1000).records() == runs(1, 9)
        assert sql(path, rows) == sql(tmp_path / "now", rows)
    assert sql(path, "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name") == [
        ("batches",),
        ("lives",),
        ("schema",),
    ]


def test_an_empty_journal_of_version_1_has_no_former_life(path: Path) -> None:
    version_1(path)
    with closing(Journal.open(path)) as journal:
        assert journal.own() == (journal.cursor,)


def test_a_journal_of_version_1_without_its_id_is_refused(path: Path) -> None:
    version_1(path, 2)
    sql(path, "DROP TABLE identity")
    with pytest.raises(JournalCorrupt, match="lacks its table identity"):
        Journal.open(path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("UPDATE batches SET crc = crc + 1 WHERE last = 6", "checksum of the batch that ends at position 6"),
        ("DELETE FROM batches WHERE last = 6", "records 3 to 6 are missing"),
        ("UPDATE batches SET body = 'x' WHERE last = 6", "is none"),
    ],
)
def test_a_damaged_journal_of_version_1_stays_as_it_is(path: Path, change: str, why: str) -> None:
    version_1(path, 2, 6, 9)
    sql(path, change)
    before = sql(path, "SELECT * FROM batches")
    with pytest.raises(JournalCorrupt, match=why):
        Journal.open(path)
    assert sql(path, "SELECT * FROM batches") == before
    assert sql(path, "SELECT version FROM schema") == [(1,)]


# Whether it is what others read


def test_a_copy_of_another_node_s_journal_goes_its_own_way(path: Path, tmp_path: Path) -> None:
    with closing(Journal.open(path)) as journal:
        ears = Ears(journal)
        journal.append(2, runs(1, 2))
        ears.until(2)
        common = journal.cursor
        copy = Path(shutil.copytree(path.parent, tmp_path / "copy")) / path.name
        with closing(Journal.open(copy)) as copied:
            assert copied.own() == (common, Cursor(copied.id, *common[1:]))
            assert copied.verify(common)
            journal.append(3, runs(3, 3))
            ears.until(3)
            assert not copied.verify(journal.cursor)
            assert not journal.owns(copied.id)


def test_a_life_is_on_disk_with_its_first_row_and_not_before(path: Path) -> None:
    filled(path, 2)
    before = path.read_bytes()
    with closing(Journal.open(path)) as journal:
        former = journal.own()[0].journal
    assert path.read_bytes() == before, "who only reads changes nothing"
    journal = Journal.open(path, retry_after=3600)  # until close wakes it
    # BEGIN, and the life's two statements; then the row's fails.
    journal._writer = Faulty(journal._writer, failures=1, before=3)  # type: ignore[assignment]
    ears = Ears(journal)
    journal.append(3, runs(3, 3))
    assert "full" in str(ears.next())
    lives = "SELECT * FROM lives ORDER BY after"
    assert sql(path, lives) == [(former, 0)]
    journal.append(4, runs(4, 4))
    journal.close()
    assert rows(path) == [2, 1, 1]
    assert sql(path, lives) == [(former, 0), (journal.id, 2)]


def test_rows_that_are_gone_take_their_lives_with_them(path: Path) -> None:
    for last in (2, 6, 9):
        filled(path, last)
    with closing(Journal.open(path)) as journal:
        ends = journal.own()
    sql(path, "DELETE FROM batches WHERE last > 2")
    filled(path, 4)
    with closing(Journal.open(path)) as journal:
        assert [end.position for end in journal.own()] == [2, 4, 4]
        assert journal.own()[0] == ends[0]
        assert not any(journal.owns(end.journal) for end in ends[1:])


# Memory


def test_memory_keeps_the_last_rows_and_no_more(path: Path) -> None:
    journal = Journal.open(path)
    ears = Ears(journal)
    points = [journal.cursor]
    for last in range(1, 21):
        journal.append(last, [Task(f"t{last}", "j", 0, "d", Shape(kind="k"), bytes(KEPT_BYTES // 8))])
        ears.until(last)
        points.append(journal.cursor)
    answered = [point.position for point in points if journal.tail((point,), 1000, 1 << 30) is not None]
    assert answered in ([*range(13, 21)], [*range(12, 21)])
    for point in points:
        found = journal.tail((point,), 3, 1 << 30)
        assert found in (None, journal.slice((point,), 3, 1 << 30))
        assert journal.verify(point)
        assert not journal.verify(point._replace(digest="x")) or not point.position
    journal.close()
