"""One contract, two journals: the file and its memory twin."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
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
from mesh.shell.journal_rows import Slice
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


# What other nodes read


MUCH = 1 << 30


class Scribe:
    """Appends rows, one for each call, and has them synced."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.journal = bench.open()
        self.ears = Ears(self.journal)

    def write(self, count: int = 1, source: Cursor = NO_CURSOR) -> Cursor:
        last = self.journal.position + count
        self.journal.append(last, runs(last - count + 1, last), source)
        self._bench.sync(self.journal)
        self.ears.until(last)
        return self.journal.cursor

    def slice(self, *cursors: Cursor, records: int = MUCH, size: int = MUCH) -> Slice:
        """From the file; what memory says is the same."""
        found = self.journal.slice(cursors, records, size)
        assert self.journal.tail(cursors, records, size) == found
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


def test_renamed_it_has_the_same_rows_and_asks_others_anew(scribe: Scribe, bench: Bench) -> None:
    journal = scribe.journal
    old = scribe.write(3, Cursor("J", 3, "j"))
    name = journal.rename()
    assert journal.id == name != old.journal
    assert journal.cursor == old._replace(journal=name)
    assert journal.verify(journal.cursor)
    assert not journal.verify(old)
    assert at(scribe.slice(old)) == (3, True, [1, 2, 3])
    assert journal.cursors() == ()
    scribe.write(1, Cursor("J", 2, "later"))
    journal.close()
    again = bench.open()
    assert again.id == name
    assert again.cursors() == (Cursor("J", 2, "later"),)
    assert list(again.records()) == runs(1, 4)
    again.close()


def test_opened_again_it_serves_what_it_had(scribe: Scribe, bench: Bench) -> None:
    points = [scribe.write(2), scribe.write(2, Cursor("J", 2, "j")), scribe.write(2)]
    scribe.journal.close()
    again = bench.open()
    assert again.cursor == points[2]
    assert all(again.verify(point) for point in points)
    assert at(again.slice((), MUCH, MUCH)) == (6, True, [1, 2, 3, 4, 5, 6])
    assert at(again.slice((points[0], Cursor("J", 2, "j")), MUCH, MUCH)) == (6, True, [5, 6])
    followed = again.tail(points[2:], MUCH, MUCH)
    assert followed is not None
    assert at(followed) == (6, True, [])
    again.close()


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
    nodes = [MemoryJournal("ABC"[number]) for number in range(3)]
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
