"""One contract, two journals: the file and its memory twin."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.core.ids import Claim
from mesh.core.lattice import Attempt, Claimed, Job, Outcome, Record, Run, Shape, Task
from mesh.core.messages import NO_CURSOR, Cursor
from mesh.shell import journal_file, journal_rows
from mesh.shell.journal import Journal
from mesh.shell.journal_memory import MemoryJournal
from mesh.shell.journal_rows import TOLD_LIVES, Slice
from tests.shell.journal_ears import Ears, runs

AnyJournal: TypeAlias = Journal | MemoryJournal


class Bench(Protocol):
    """How a test handles either."""

    def open(self) -> AnyJournal:
        """The same journal each time, as its last process left it: another life."""

    def sync(self, journal: AnyJournal) -> None:
        """Let it write; a real one does so by itself."""

    def break_(self, journal: AnyJournal) -> None: ...

    def mend(self, journal: AnyJournal) -> None: ...

    def back_up(self) -> None:
        """A copy is made of what is synced."""

    def restore(self) -> None:
        """It is put back in the place of the journal, which is closed."""


class FileBench:
    def __init__(self, path: Path) -> None:
        self._path, self._backup = path / "journal.sqlite", path / "backup"
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

    def back_up(self) -> None:
        with closing(sqlite3.connect(self._path)) as source, closing(sqlite3.connect(self._backup)) as target:
            source.backup(target)

    def restore(self) -> None:
        shutil.copy(self._backup, self._path)


class MemoryBench:
    def __init__(self, name: str = "memory") -> None:
        self._journal = MemoryJournal(name)
        self._backup = 0

    def open(self) -> MemoryJournal:
        self._journal.crash()
        return self._journal

    def sync(self, journal: AnyJournal) -> None:
        self._journal.sync()

    def break_(self, journal: AnyJournal) -> None:
        self._journal.failure = "the disk is full"

    def mend(self, journal: AnyJournal) -> None:
        self._journal.failure = ""

    def back_up(self) -> None:
        self._backup = self._journal.position

    def restore(self) -> None:
        self._journal.rewind(self._backup)


BenchFor: TypeAlias = Callable[[str], Bench]


@pytest.fixture(params=["file", "memory"])
def bench_for(request: pytest.FixtureRequest, tmp_path: Path) -> BenchFor:
    """For journals of several names."""

    def bench_for(name: str) -> Bench:
        if request.param == "memory":
            return MemoryBench(name)
        (tmp_path / name).mkdir()
        return FileBench(tmp_path / name)

    return bench_for


@pytest.fixture
def bench(bench_for: BenchFor) -> Bench:
    return bench_for("journal")


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
    for start in (0, 1, 6, 9, 10, 11):
        found: list[Record] = []
        cursor, end = Cursor(journal.id, start, ""), False
        while not end:
            part = journal.slice((cursor,), limit, MUCH)
            found, cursor, end = found + part.records(), part.cursor, part.end
        assert found == runs(start + 1, 10)
        assert cursor == journal.cursor
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
    assert at(journal.slice((), MUCH, MUCH)) == (1, True, [1])
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


# What other nodes read


MUCH = 1 << 30


class Scribe:
    """Appends rows, one for each call, and has them synced."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.journal = bench.open()
        self._began = self.journal.position
        self.ears = Ears(self.journal)

    def write(self, count: int = 1, source: Cursor = NO_CURSOR) -> Cursor:
        first = self.journal.position + 1
        return self.append(runs(first, first + count - 1), source)

    def append(self, records: Sequence[Record], source: Cursor = NO_CURSOR) -> Cursor:
        last = self.journal.position + len(records)
        self.journal.append(last, records, source)
        self._bench.sync(self.journal)
        self.ears.until(last)
        return self.journal.cursor

    def slice(self, *cursors: Cursor, records: int = MUCH, size: int = MUCH) -> Slice:
        """From the file; what memory says is the same, as far back as it can tell."""
        found = self.journal.slice(cursors, records, size)
        start = max((cursor.position for cursor in cursors if self.journal.owns(cursor.journal)), default=0)
        followed = self.journal.tail(cursors, records, size)
        assert followed == found or (followed is None and start < self._began)
        return found


@pytest.fixture
def scribe(bench: Bench) -> Iterator[Scribe]:
    scribe = Scribe(bench)
    yield scribe
    scribe.journal.close()


def at(slice: Slice) -> tuple[int, bool, list[int]]:
    """The position, whether it is the end, and the records' numbers."""
    return slice.cursor.position, slice.end, [record.run for record in slice.records() if isinstance(record, Run)]


def test_a_cursor_names_what_is_synced(scribe: Scribe) -> None:
    journal = scribe.journal
    assert journal.cursor == Cursor(journal.id, 0, "")
    first, second = scribe.write(3), scribe.write(2)
    assert first[:2] == (journal.id, 3)
    assert second[:2] == (journal.id, 5)
    assert {len(first.digest), len(second.digest)} == {32}
    assert first.digest != second.digest


def test_only_points_of_this_journal_are_verified(scribe: Scribe, bench: Bench) -> None:
    journal = scribe.journal
    points = [journal.cursor, scribe.write(3), scribe.write(2)]
    bench.break_(journal)
    journal.append(6, runs(6, 6))
    for cursor in points:
        assert journal.verify(cursor)
        assert not journal.verify(cursor._replace(journal="other"))
        assert not journal.verify(Cursor(journal.id, cursor.position + 1, cursor.digest))
    assert not journal.verify(points[2]._replace(digest=points[1].digest))
    assert not journal.verify(Cursor(journal.id, -1, ""))
    assert not journal.verify(NO_CURSOR)
    bench.mend(journal)
    bench.sync(journal)
    scribe.ears.until(6)
    assert journal.verify(journal.cursor)


def test_a_digest_stands_for_all_before_it_and_for_its_source(tmp_path: Path) -> None:
    def digest(name: str, *appends: tuple[int, Cursor]) -> str:
        bench = FileBench(tmp_path / name)
        (tmp_path / name).mkdir()
        scribe = Scribe(bench)
        for number, source in appends:
            last = scribe.journal.position + 1
            scribe.journal.append(last, [Run("t", number, 0)], source)
            scribe.ears.until(last)
        scribe.journal.close()
        return scribe.journal.cursor.digest

    source = Cursor("J", 7, "d")
    usual = digest("usual", (1, NO_CURSOR), (2, source), (3, NO_CURSOR))
    assert usual == digest("same", (1, NO_CURSOR), (2, source), (3, NO_CURSOR))
    assert usual != digest("early", (9, NO_CURSOR), (2, source), (3, NO_CURSOR))
    for number, other in enumerate((NO_CURSOR, source._replace(journal="K"), source._replace(position=8))):
        assert usual != digest(f"other{number}", (1, NO_CURSOR), (2, other), (3, NO_CURSOR))


def test_slices_are_whole_rows_within_the_limits(scribe: Scribe) -> None:
    assert at(scribe.slice(records=1)) == (0, True, [])
    points = [scribe.write(count) for count in (2, 3, 1)]
    assert at(scribe.slice()) == (6, True, [1, 2, 3, 4, 5, 6])
    assert at(scribe.slice(records=1)) == (2, False, [1, 2])  # one row always
    assert at(scribe.slice(records=4)) == (2, False, [1, 2])
    assert at(scribe.slice(records=5)) == (5, False, [1, 2, 3, 4, 5])
    assert at(scribe.slice(points[0], records=5)) == (6, True, [3, 4, 5, 6])
    assert at(scribe.slice(points[2])) == (6, True, [])
    assert [scribe.slice(records=n).cursor for n in (2, 5, 6)] == points
    body = len(scribe.slice(records=2).body)
    assert at(scribe.slice(size=1)) == (2, False, [1, 2])
    assert at(scribe.slice(size=2 * body)) == (2, False, [1, 2])
    assert at(scribe.slice(size=3 * body)) == (6, True, [1, 2, 3, 4, 5, 6])


def test_what_its_reader_has_from_elsewhere_is_left_out(scribe: Scribe) -> None:
    scribe.write()
    for position in (4, 5, 9):
        scribe.write(1, Cursor("J", position, f"j{position}"))
    scribe.write(1, Cursor("K", 5, "k"))
    end = scribe.write()
    assert at(scribe.slice()) == (6, True, [1, 2, 3, 4, 5, 6])
    assert at(scribe.slice(Cursor("L", 99, ""), NO_CURSOR)) == (6, True, [1, 2, 3, 4, 5, 6])
    assert at(scribe.slice(Cursor("J", 5, "?"))) == (6, True, [1, 4, 5, 6])
    assert at(scribe.slice(Cursor("J", 3, ""))) == (6, True, [1, 2, 3, 4, 5, 6])
    assert at(scribe.slice(Cursor("J", 9, ""), Cursor("K", 5, ""))) == (6, True, [1, 6])
    # The cursor passes what was left out before the row that did not fit, too.
    first = scribe.slice(Cursor("J", 9, ""), records=1)
    assert at(first) == (4, False, [1])
    assert at(scribe.slice(Cursor("J", 9, ""), first.cursor)) == (6, True, [5, 6])
    assert scribe.slice(Cursor("K", 5, "")).cursor == end
    scribe.write(1, Cursor("J", 12, ""))
    assert at(scribe.slice(end, Cursor("J", 12, ""))) == (7, True, [])
    assert scribe.slice(end, Cursor("J", 12, "")).cursor == scribe.journal.cursor


def test_a_row_has_records_of_one_source(bench: Bench) -> None:
    journal = bench.open()
    sources = [NO_CURSOR, NO_CURSOR, Cursor("J", 1, "a"), Cursor("J", 3, "b"), Cursor("K", 1, "c"), NO_CURSOR]
    for last, source in enumerate(sources, 1):
        journal.append(last, runs(last, last), source)
    ears = Ears(journal)
    bench.sync(journal)
    ears.until(6)
    assert ears.heard == [2, 4, 5, 6]
    assert at(journal.slice((Cursor("J", 2, ""),), MUCH, MUCH)) == (6, True, [1, 2, 3, 4, 5, 6])
    assert at(journal.slice((Cursor("J", 3, ""),), MUCH, MUCH)) == (6, True, [1, 2, 5, 6])
    assert journal.cursors() == (sources[3], sources[4])
    journal.close()


def test_cursors_are_the_furthest_that_synced_rows_hold(scribe: Scribe, bench: Bench) -> None:
    journal = scribe.journal
    assert journal.cursors() == ()
    k, j3, j5 = Cursor("K", 2, "k"), Cursor("J", 3, "j3"), Cursor("J", 5, "j5")
    scribe.write(1, k)
    scribe.write(2, j5)
    scribe.write(1, j3)
    scribe.write()
    assert journal.cursors() == (j5, k)
    bench.break_(journal)
    journal.append(6, runs(6, 6), Cursor("L", 1, "l"))
    assert journal.cursors() == (j5, k)
    journal.close()
    bench.mend(journal)
    again = bench.open()
    assert again.cursors() == (j5, k)
    again.close()


def test_opened_again_it_serves_what_it_had(scribe: Scribe, bench: Bench) -> None:
    points = [scribe.write(2), scribe.write(2, Cursor("J", 2, "j")), scribe.write(2)]
    scribe.journal.close()
    again = bench.open()
    assert again.cursor == points[2]._replace(journal=again.id)
    assert all(again.verify(point) for point in points)
    assert at(again.slice((), MUCH, MUCH)) == (6, True, [1, 2, 3, 4, 5, 6])
    assert at(again.slice((points[0], Cursor("J", 2, "j")), MUCH, MUCH)) == (6, True, [5, 6])
    followed = again.tail(points[2:], MUCH, MUCH)
    assert followed is not None
    assert at(followed) == (6, True, [])
    assert followed.cursor == again.cursor
    again.close()


# Its lives


def test_each_opening_is_another_life_and_the_former_ones_stay_its_own(bench: Bench) -> None:
    ends: list[Cursor] = []
    for _ in range(3):
        scribe = Scribe(bench)
        journal = scribe.journal
        assert journal.own() == (*ends, journal.cursor)
        assert journal.id not in {end.journal for end in ends}
        early, end = scribe.write(), scribe.write()
        assert journal.own() == (*ends, end)
        ends.append(end)
        assert all(journal.owns(end.journal) for end in ends)
        assert all(journal.verify(point) for point in (early, *ends))
        journal.close()
    journal = bench.open()
    for number, (life, position, digest) in enumerate(ends):
        assert position == 2 * number + 2
        beyond = ends[number + 1 :]
        assert not any(journal.verify(later._replace(journal=life)) for later in beyond), "it did not reach that far"
        assert not journal.verify(Cursor(life, position, "another content"))
        assert not journal.verify(Cursor(life, position - 1, digest))
        assert journal.verify(Cursor(life, 0, ""))
        assert all(journal.verify(sooner._replace(journal=life)) for sooner in ends[:number]), "it went on from there"
    assert all(journal.verify(end._replace(journal=journal.id)) for end in ends)
    assert not journal.owns("other")
    assert not journal.owns("")
    journal.close()


def test_a_reader_goes_on_after_the_furthest_that_it_read_in_any_life(bench: Bench) -> None:
    ends = []
    for _ in range(3):
        scribe = Scribe(bench)
        ends.append(scribe.write(2))
        scribe.journal.close()
    scribe = Scribe(bench)
    new = scribe.write(1)
    assert at(scribe.slice(ends[0])) == (7, True, [3, 4, 5, 6, 7])
    assert at(scribe.slice(ends[2], ends[0])) == (7, True, [7])
    assert scribe.slice(ends[1]).cursor == new, "by this life's id from now on"
    assert at(scribe.slice(ends[0], new)) == (7, True, [])
    scribe.journal.close()


def test_a_life_that_wrote_nothing_leaves_no_trace(bench: Bench) -> None:
    empty = bench.open()
    first = empty.id
    empty.close()
    scribe = Scribe(bench)
    assert not scribe.journal.owns(first)
    assert scribe.journal.own() == (scribe.journal.cursor,)
    end = scribe.write(2)
    scribe.journal.close()
    idle = bench.open()
    assert idle.own() == (end, end._replace(journal=idle.id))
    second = idle.id
    idle.close()
    journal = bench.open()
    assert not journal.owns(second)
    assert journal.own() == (end, end._replace(journal=journal.id))
    journal.close()


def test_what_fails_to_be_written_is_in_no_life(bench: Bench) -> None:
    scribe = Scribe(bench)
    end = scribe.write(2)
    bench.break_(scribe.journal)
    scribe.journal.append(3, runs(3, 3))
    assert scribe.journal.own() == (end,)
    scribe.journal.close()
    bench.mend(scribe.journal)
    journal = bench.open()
    assert journal.own() == (end, end._replace(journal=journal.id))
    journal.close()


def test_of_many_lives_the_latest_are_told_and_all_are_its_own(bench: Bench) -> None:
    ends = []
    for _ in range(TOLD_LIVES + 2):
        scribe = Scribe(bench)
        ends.append(scribe.write())
        scribe.journal.close()
    journal = bench.open()
    assert journal.own() == (*ends[3:], journal.cursor)
    assert len(journal.own()) == TOLD_LIVES
    assert all(journal.verify(end) for end in ends)
    journal.close()


def test_a_backup_that_is_put_back_is_told_from_what_was_read(bench: Bench) -> None:
    scribe = Scribe(bench)
    kept = [scribe.write(2), scribe.write(4)]
    scribe.journal.close()
    bench.back_up()
    scribe = Scribe(bench)
    lost = scribe.write(3)
    scribe.journal.close()
    bench.restore()
    scribe = Scribe(bench)
    journal = scribe.journal
    for _ in range(2):
        assert all(journal.verify(cursor) for cursor in kept)
        assert not journal.owns(lost.journal), "nothing of that life is here"
        assert not journal.verify(lost)
        assert journal.own() == (kept[1], journal.cursor)
        scribe.write(3)  # as far as what was lost
    assert journal.position > lost.position
    journal.close()


def test_what_a_backup_took_back_is_left_out_by_nobody(bench_for: BenchFor) -> None:
    """J is put back after D has read it, and written on. C has read the new J as far; D alone has what was lost."""
    of_j = bench_for("J")
    j, c, d = Scribe(of_j), Scribe(bench_for("C")), Scribe(bench_for("D"))

    def pull(me: Scribe, other: Scribe, *cursors: Cursor) -> list[int]:
        assert all(other.journal.verify(cursor) for cursor in cursors if other.journal.owns(cursor.journal))
        found = other.slice(*cursors, *me.journal.own())
        assert found.end
        if records := found.records():
            me.append(records, found.cursor)
        return at(found)[2]

    begun = j.write(2)
    assert pull(c, j) == pull(d, j) == [1, 2]
    of_j.back_up()
    lost = j.write(2)
    assert pull(d, j, *d.journal.cursors()) == [3, 4]
    j.journal.close()
    of_j.restore()
    j = Scribe(of_j)
    new = j.append([Run("new", number, 0) for number in (13, 14, 15)])
    assert new.position > lost.position
    assert pull(c, j, *c.journal.cursors()) == [13, 14, 15]
    assert set(c.journal.cursors()) == {begun, new}
    assert pull(c, d, *c.journal.cursors()) == [3, 4], "it has read J farther than D has, but another one"
    assert j.journal.own() == (begun, new)
    assert pull(j, d) == [3, 4], "and J itself gets it back"
    assert d.journal.cursors() == (lost,)
    assert j.journal.owns(lost.journal)
    assert not j.journal.verify(lost), "so it is dropped, and D is served anew"
    assert pull(d, j) == [1, 2, 13, 14, 15]
    for scribe in (j, c, d):
        assert {record.run for record in scribe.journal.records() if isinstance(record, Run)} == {
            *range(1, 5),
            *range(13, 16),
        }
        scribe.journal.close()


def test_a_call_looks_at_so_many_rows_and_no_more(scribe: Scribe, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (journal_rows, journal_file):
        monkeypatch.setattr(module, "SCAN_ROWS", 4)
    for last in range(1, 10):
        scribe.write(1, Cursor("J", last, "") if last not in (7, 9) else NO_CURSOR)
    known = Cursor("J", 9, "")
    assert at(first := scribe.slice(known)) == (4, False, [])
    assert at(second := scribe.slice(known, first.cursor)) == (8, False, [7])
    assert at(scribe.slice(known, second.cursor)) == (9, True, [9])


def test_what_three_nodes_know_travels_once(tmp_path: Path) -> None:
    scribes = {}
    for name in "ABC":
        (tmp_path / name).mkdir()
        scribes[name] = Scribe(FileBench(tmp_path / name))
    a, b, c = scribes.values()
    read: dict[Scribe, dict[Scribe, Cursor]] = {scribe: {} for scribe in scribes.values()}

    def pull(me: Scribe, other: Scribe) -> int:
        found = other.slice(*read[me].values(), me.journal.cursor)
        assert found.end
        read[me][other] = found.cursor
        if records := found.records():
            last = me.journal.position + len(records)
            me.journal.append(last, records, found.cursor)
            me.ears.until(last)
        return len(records)

    a.write(5)
    b.write(3)
    assert pull(b, a) == 5
    assert pull(c, a) == 5
    assert pull(c, b) == 3  # and not what came from A
    assert pull(a, b) == 3  # and not its own
    assert pull(a, c) == 0
    assert pull(b, c) == 0
    a.write(2)
    assert pull(b, a) == 2  # and not what B wrote
    assert pull(c, b) == 2
    assert pull(c, a) == 2  # which it has from B already, but A cannot know that
    for scribe in scribes.values():
        assert set(scribe.journal.cursors()) <= set(read[scribe].values())
        scribe.journal.close()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scribe]:
    """A file of rows of every size and source."""
    scribe = Scribe(FileBench(tmp_path_factory.mktemp("mixed")))
    for number in range(40):
        source = [NO_CURSOR, Cursor("J", number, "j"), Cursor("K", number, "k"), Cursor("L", 3, "l")][
            number * 7 % 5 % 4
        ]
        scribe.write(1 + number * 5 % 9, source)
    yield scribe
    scribe.journal.close()


@settings(max_examples=200, deadline=None)
@given(
    position=st.integers(-3, 210),
    others=st.lists(st.tuples(st.sampled_from("JKLM"), st.integers(0, 45)), max_size=5),
    records=st.integers(1, 50),
    size=st.integers(1, 500),
)
def test_memory_and_file_say_the_same(
    mixed: Scribe, position: int, others: list[tuple[str, int]], records: int, size: int
) -> None:
    cursors = [Cursor(journal, at, "") for journal, at in others]
    if position >= 0:
        cursors.append(Cursor(mixed.journal.id, position, ""))
    mixed.slice(*cursors, records=records, size=size)


def test_slices_may_be_read_by_a_thread_while_rows_are_written(scribe: Scribe) -> None:
    total = 200
    found: list[Record] = []

    def read() -> None:
        cursor = scribe.journal.cursor._replace(position=0)
        while cursor.position < total:
            part = scribe.journal.slice((cursor,), 7, MUCH)
            found.extend(part.records())
            cursor = part.cursor

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(total):
        scribe.write()
    reader.join()
    assert found == runs(1, total)


Step: TypeAlias = tuple[int, int]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=30), limit=st.integers(1, 5))
def test_nodes_that_pull_from_each_other_miss_nothing(steps: list[Step], limit: int) -> None:
    """Three nodes; each step is one of them writing (itself) or pulling one slice (another). What they know already is
    not journaled again, as the ledger's joins have it.
    """
    nodes = [MemoryJournal(name) for name in "ABC"]
    cursors: list[dict[str, Cursor]] = [{}, {}, {}]
    held: list[set[Record]] = [set(), set(), set()]
    written: list[Record] = []

    def pull(me: int, other: int) -> bool:
        found = nodes[other].slice((*cursors[me].values(), nodes[me].cursor), limit, MUCH)
        cursors[me][nodes[other].id] = found.cursor
        new = [record for record in found.records() if record not in held[me]]
        held[me].update(new)
        if new:
            nodes[me].append(nodes[me].position + len(new), new, found.cursor)
            nodes[me].sync()
        return found.end

    for me, other in steps:
        if other in (me, 3):
            record = Run(f"t{len(written)}", 1, 0)
            written.append(record)
            held[me].add(record)
            nodes[me].append(nodes[me].position + 1, [record])
            nodes[me].sync()
        else:
            pull(me, other)
    for _ in range(3):  # then all of them catch up
        for me in range(3):
            for other in range(3):
                while me != other and not pull(me, other):
                    pass
    for node in nodes:
        assert sorted(node.records(), key=str) == sorted(written, key=str)


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
