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
from pathlib import Path
from typing import Any

import pytest

from mesh.core.lattice import Run
from mesh.shell import journal as module
from mesh.shell.journal import (
    MIGRATIONS,
    ROW_RECORDS,
    Journal,
    JournalCorrupt,
    JournalError,
    JournalTooNew,
    Migration,
)
from mesh.wire.errors import WireError
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
    """The writer's connection, of which some writes fail."""

    def __init__(self, inner: sqlite3.Connection, failures: int) -> None:
        self._inner, self.failures = inner, failures

    def execute(self, *arguments: Any) -> object:
        if self.failures:
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
    for last in range(1500, 15_001, 1500):
        journal.append(last, runs(last - 1499, last))
    Ears(journal)
    journal.close()
    assert rows(path) == [4500, 4500, 4500, 1500]
    assert max(rows(path)) < ROW_RECORDS + 1500
    with closing(Journal.open(path)) as again:
        assert again.read(4499, 3) == (runs(4500, 4502), 4502, False)


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
        with pytest.raises(JournalCorrupt, match=match):
            journal.read(0, 100)
    assert str(path) in str(caught.value)
    assert "move it away" in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE batches SET body = zeroblob(length(body)) WHERE last = 6",
        "UPDATE batches SET body = substr(body, 1, length(body) - 1) WHERE last = 6",
        "UPDATE batches SET crc = crc + 1 WHERE last = 6",
        "UPDATE batches SET count = 5 WHERE last = 6",
        "UPDATE batches SET last = 5 WHERE last = 6",
    ],
)
def test_a_changed_batch_is_found(path: Path, change: str) -> None:
    filled(path, 2, 6, 9)
    sql(path, change)
    damaged(path, "checksum")


def test_what_is_before_the_damage_can_be_read(path: Path) -> None:
    filled(path, 2, 6, 9)
    sql(path, "UPDATE batches SET crc = crc + 1 WHERE last = 6")
    with closing(Journal.open(path)) as journal:
        assert journal.read(0, 2) == (runs(1, 2), 2, False)
        assert journal.read(6, 9) == (runs(7, 9), 9, True)


def test_a_missing_batch_is_found(path: Path) -> None:
    filled(path, 2, 6, 9)
    sql(path, "DELETE FROM batches WHERE last = 6")
    damaged(path, "records 3 to 6 are missing")


@pytest.mark.parametrize(("count", "body", "why"), [(3, b"\xff", "cannot be read"), (2, b"", "not 2 records long")])
def test_a_batch_that_is_none_is_found(path: Path, count: int, body: bytes, why: str) -> None:
    filled(path, 2)
    last = 2 + count
    sql(path, "INSERT INTO batches VALUES (?, ?, ?, ?)", last, count, module._checksum(last, count, body), body)
    damaged(path, why)


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
    with pytest.raises(JournalCorrupt, match="recipes"):
        Journal.open(path)
    assert path.read_bytes() == before


def test_a_journal_without_its_id_is_refused(path: Path) -> None:
    filled(path, 2)
    sql(path, "DELETE FROM identity")
    with pytest.raises(JournalCorrupt, match="no id"):
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
    with pytest.raises(JournalTooNew, match=r"version 99.*up to 1") as caught:
        Journal.open(path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before


def test_an_older_schema_is_brought_up_to_date_and_keeps_its_records(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(path, 2)
    with closing(Journal.open(path)) as journal:
        first = journal.id
    later = (Migration("a", ("CREATE TABLE a (x)",)), Migration("b", ("ALTER TABLE a ADD COLUMN y",)))
    monkeypatch.setattr(module, "MIGRATIONS", (*MIGRATIONS, *later))
    for _ in range(2):  # the second time there is nothing to do
        with closing(Journal.open(path)) as journal:
            assert list(journal.records()) == runs(1, 2)
            assert journal.id == first
    assert sql(path, "SELECT version, name FROM schema") == [(1, MIGRATIONS[0].name), (2, "a"), (3, "b")]


def test_a_migration_that_fails_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(path, 2)
    later = (Migration("a", ("CREATE TABLE a (x)",)), Migration("b", ("CREATE TABLE b (x)", "CREATE TABLE a (y)")))
    monkeypatch.setattr(module, "MIGRATIONS", (*MIGRATIONS, *later))
    with pytest.raises(JournalError, match="a already exists"):
        Journal.open(path)
    assert sql(path, "SELECT max(version) FROM schema") == [(2,)]
    assert sql(path, "SELECT name FROM sqlite_master WHERE name = 'b'") == []
    monkeypatch.undo()
    with pytest.raises(JournalTooNew):
        Journal.open(path)
