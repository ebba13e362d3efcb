"""One contract, two journals: the file and its memory twin."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Protocol, TypeAlias

import pytest

from mesh.core.ids import Claim
from mesh.core.lattice import Attempt, Claimed, Job, Outcome, Record, Run, Shape, Task
from mesh.shell.journal import Journal
from mesh.shell.journal_memory import MemoryJournal
from tests.shell.journal_ears import Ears, runs

AnyJournal: TypeAlias = Journal | MemoryJournal


class Bench(Protocol):
    """How a test handles either."""

    def open(self) -> AnyJournal:
        """The same journal each time, as its last process left it."""

    def sync(self, journal: AnyJournal) -> None:
        """Let it write; a real one does so by itself."""

    def break_(self, journal: AnyJournal) -> None: ...

    def mend(self, journal: AnyJournal) -> None: ...


class FileBench:
    def __init__(self, path: Path) -> None:
        self._path = path / "journal.sqlite"
        self._blocker: sqlite3.Connection | None = None

    def open(self) -> Journal:
        return Journal.open(self._path, busy_timeout=0.01, retry_after=0.01)

    def sync(self, journal: AnyJournal) -> None:
        pass

    def break_(self, journal: AnyJournal) -> None:
        self._blocker = sqlite3.connect(self._path, isolation_level=None)
        self._blocker.execute("BEGIN IMMEDIATE")  # nobody else can write now

    def mend(self, journal: AnyJournal) -> None:
        assert self._blocker is not None
        self._blocker.close()


class MemoryBench:
    def __init__(self) -> None:
        self._journal = MemoryJournal()

    def open(self) -> MemoryJournal:
        return self._journal

    def sync(self, journal: AnyJournal) -> None:
        self._journal.sync()

    def break_(self, journal: AnyJournal) -> None:
        self._journal.failure = "the disk is full"

    def mend(self, journal: AnyJournal) -> None:
        self._journal.failure = ""


@pytest.fixture(params=["file", "memory"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    return FileBench(tmp_path) if request.param == "file" else MemoryBench()


VARIED: list[Record] = [
    Job("j", "d", source=b"\x00\xff"),
    Task("t", "j", 0, "d", Shape(kind="k"), b"payload"),
    Attempt("t", "a", True, 0, 2, 1, "n", Outcome(result=b"r", message="ü")),
    Claimed(Claim(True, 3, "50-n", "life")),
]


def test_what_is_appended_is_synced_and_told_in_order(bench: Bench) -> None:
    journal = bench.open()
    assert (journal.position, list(journal.records())) == (0, [])
    ears = Ears(journal)
    for last in (1, 4, 10):
        before = ears.heard[-1] if ears.heard else 0
        assert isinstance(before, int)
        journal.append(last, runs(before + 1, last))
        bench.sync(journal)
        assert ears.next() == last
        assert journal.position == last
    assert ears.heard == [1, 4, 10]
    assert list(journal.records()) == runs(1, 10)
    journal.close()


def test_opened_again_it_gives_the_same_records_and_goes_on(bench: Bench) -> None:
    journal = bench.open()
    Ears(journal)
    journal.append(4, VARIED)
    journal.close()  # writes what is queued
    again = bench.open()
    assert again.id == journal.id
    assert again.position == 4
    assert list(again.records()) == VARIED
    ears = Ears(again)
    again.append(6, runs(5, 6))
    bench.sync(again)
    ears.until(6)
    again.close()
    assert list(bench.open().records()) == VARIED + runs(5, 6)


def test_what_is_appended_before_the_start_waits_for_it(bench: Bench) -> None:
    journal = bench.open()
    journal.append(2, runs(1, 2))
    ears = Ears(journal)
    bench.sync(journal)
    ears.until(2)
    journal.close()


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
def test_slices_join_to_the_whole_whatever_their_size(bench: Bench, limit: int) -> None:
    journal = bench.open()
    ears = Ears(journal)
    for first, last in ((1, 1), (2, 6), (7, 9), (10, 10)):  # one row each, as each is synced before the next
        journal.append(last, runs(first, last))
        bench.sync(journal)
        ears.until(last)
    for start in range(11):
        found: list[Record] = []
        position, end = start, False
        while not end:
            records, last, end = journal.read(position, limit)
            assert last == position + len(records)
            assert len(records) == min(limit, 10 - position)
            found, position = found + records, last
        assert found == runs(start + 1, 10)
    assert journal.read(11, limit) == ([], 10, True)
    journal.close()


def test_an_empty_journal_is_at_its_end(bench: Bench) -> None:
    journal = bench.open()
    assert journal.read(0, 10) == ([], 0, True)
    journal.close()


@pytest.mark.parametrize("position", [0, 1, 3, 4])
def test_positions_are_contiguous(bench: Bench, position: int) -> None:
    journal = bench.open()
    with pytest.raises(AssertionError, match="end at position 2"):
        journal.append(position, runs(1, 2))
    with pytest.raises(AssertionError, match="nothing"):
        journal.append(0, [])
    journal.append(2, runs(1, 2))
    with pytest.raises(AssertionError, match="end at position 3"):
        journal.append(2, runs(2, 2))
    journal.close()


def test_a_failure_is_told_once_and_what_waited_is_written_when_it_is_over(bench: Bench) -> None:
    journal = bench.open()
    ears = Ears(journal)
    journal.append(1, runs(1, 1))
    bench.sync(journal)
    ears.until(1)
    bench.break_(journal)
    journal.append(2, runs(2, 2))
    bench.sync(journal)
    reason = ears.next()
    assert isinstance(reason, str)
    assert reason
    journal.append(5, runs(3, 5))
    bench.sync(journal)
    assert journal.position == 1
    assert list(journal.records()) == runs(1, 1)
    assert journal.read(0, 10) == (runs(1, 1), 1, True)
    bench.mend(journal)
    bench.sync(journal)
    ears.until(5)
    assert [what for what in ears.heard if isinstance(what, str)] == [reason, ""]
    assert ears.heard.index("") < ears.heard.index(5)
    assert list(journal.records()) == runs(1, 5)
    journal.close()


def test_closed_while_writes_fail_it_has_what_was_told(bench: Bench) -> None:
    journal = bench.open()
    ears = Ears(journal)
    journal.append(1, runs(1, 1))
    bench.sync(journal)
    ears.until(1)
    bench.break_(journal)
    journal.append(3, runs(2, 3))
    bench.sync(journal)
    assert isinstance(ears.next(), str)
    journal.close()
    bench.mend(journal)
    again = bench.open()
    assert list(again.records()) == runs(1, 1)
    again.append(2, [Run("other", 1, 0)])  # the positions that were never told are free
    again.close()


def test_memory_forgets_at_a_crash_what_was_not_synced() -> None:
    journal = MemoryJournal()
    ears = Ears(journal)
    journal.append(2, runs(1, 2))
    assert journal.sync() == 2
    journal.append(3, runs(3, 3))
    journal.crash()
    assert journal.sync() == 2
    ears.until(2)
    assert ears.quiet()
    assert list(journal.records()) == runs(1, 2)
    later = Ears(journal)
    journal.append(3, [Run("other", 1, 0)])
    assert journal.sync() == 3
    assert later.next() == 3
