"""Rows of a journal: what one group commit holds, the chain of their digests, and which of them a reader still needs.
And its lives: under which ids they were written.

Owns the rules that the file and its memory twin share. It must not know of files nor of what a record means.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Iterable, Sequence
from itertools import pairwise
from operator import attrgetter
from threading import Lock
from typing import NamedTuple

from blake3 import blake3

from mesh.core.lattice import Record
from mesh.core.messages import Cursor
from mesh.wire.ledger import decode_records

# Readers get whole rows, so these bound what a reader must take at once. 500 records are decoded in 2 ms, then joined
# and encoded for its own journal in 5; where all cores are busy that was up to 28, and 34 with 1,000. One append is
# never divided.
ROW_RECORDS = 500
ROW_BYTES = 4 * 2**20
# One call looks at so many rows at the most, however many of them its reader does not need: 1 ms where rows are small,
# 12 ms where they are large.
SCAN_ROWS = 4096
KEPT_BYTES = 8 * 2**20  # of rows in memory, for readers that follow closely
ROW_OVERHEAD = 400  # bytes of a row in memory besides its body
TOLD_LIVES = 32  # of our own, to others: what they would leave out because of older ones, they send again


class Row(NamedTuple):
    last: int  # position of its last record
    records: int
    digest: str  # of everything up to here
    source: Cursor  # the point in another journal that its records were pulled up to; NO_CURSOR: our own
    body: bytes  # a RecordBatch


class Life(NamedTuple):
    """What is written between two openings of a journal, under an id of its own.

    Whatever happens to the file between them, an id names one history: two readers of it were told the same.
    """

    id: str
    after: int  # the position where it began, up to which the one before it had reached


class Slice(NamedTuple):
    """What a reader should get next. ``body`` may be empty before the end: then all that was looked at is known to it.

    ``cursor``: ours, after the last row that was looked at; the reader asks with it next. ``end``: nothing synced lies
    beyond. ``body``: the rows' RecordBatches, which together are one.
    """

    cursor: Cursor
    end: bool
    body: bytes

    def records(self) -> list[Record]:
        return decode_records(self.body)


def chain(before: str, last: int, records: int, source: Cursor, body: bytes) -> str:
    """The rolling digest after a row; ``before`` is the one before it, empty at position 0."""
    header = f"{before} {last} {records} {source.position} {source.digest} {source.journal}\n"
    return blake3(header.encode() + body).hexdigest(length=16)


def begin(former: Iterable[Life], id: str, end: int) -> list[Life]:
    """The lives of a journal that is opened with this end: of the former, those that wrote something that is here."""
    return [*(life for life in former if life.after < end), Life(id, end)]


def reached(lives: Iterable[Life]) -> dict[str, int]:
    """Up to which position each did, in order; the last one still writes and is not among them."""
    return {life.id: following.after for life, following in pairwise(lives)}


def asked(own: Container[str], cursors: Sequence[Cursor]) -> tuple[int, dict[str, int]]:
    """Up to where the holder of these cursors has read this journal, whose ids are ``own``, and where which others."""
    after, others = 0, dict[str, int]()
    for cursor in cursors:
        if cursor.journal in own:
            after = max(after, cursor.position)
        elif cursor.journal:
            others[cursor.journal] = max(others.get(cursor.journal, 0), cursor.position)
    return after, others


class Kept:
    """The rows that were written last, and the furthest sources of all rows. Safe to use from several threads."""

    def __init__(self, position: int, digest: str, sources: Iterable[Cursor] = (), limit: float = KEPT_BYTES) -> None:
        """The first row to come begins after this position; ``sources`` are those of the rows up to there."""
        self._before = position, digest
        self._limit = limit
        self._sources: dict[str, Cursor] = {}
        self._rows: list[Row] = []
        self._size = 0
        self._lock = Lock()
        for source in sources:
            self._note(source)

    def add(self, row: Row) -> None:
        with self._lock:
            if row.source.journal:
                self._note(row.source)
            self._rows.append(row)
            self._size += len(row.body) + ROW_OVERHEAD
            if self._size > self._limit * 1.125:  # seldom, as the rows behind move up
                self._drop()

    def cursors(self) -> tuple[Cursor, ...]:
        with self._lock:
            return tuple(sorted(self._sources.values()))

    def _note(self, source: Cursor) -> None:
        if source.position >= self._sources.get(source.journal, source).position:
            self._sources[source.journal] = source

    def _drop(self) -> None:
        number = 0
        while self._size > self._limit:
            self._size -= len(self._rows[number].body) + ROW_OVERHEAD
            number += 1
        self._before = self._rows[number - 1].last, self._rows[number - 1].digest
        del self._rows[:number]

    def digest(self, position: int) -> str | None:
        """At the end of a row that is kept; ``None``: there is none here that ends at this position."""
        with self._lock:
            number = bisect_right(self._rows, position, key=attrgetter("last"))
            last, digest = (self._rows[number - 1].last, self._rows[number - 1].digest) if number else self._before
            return digest if last == position else None

    def slice(
        self, journal: str, after: int, others: dict[str, int], limit_records: int, limit_bytes: int
    ) -> Slice | None:
        """As :meth:`mesh.shell.journal.Journal.tail`; ``journal`` is this life's id, :func:`asked` gave the rest."""
        bodies: list[bytes] = []
        records = size = 0
        with self._lock:
            if after < self._before[0]:
                return None
            rows = self._rows
            first = bisect_right(rows, after, key=attrgetter("last"))
            stop = min(first + SCAN_ROWS, len(rows))
            for number in range(first, stop):
                row = rows[number]
                if others.get(row.source.journal, -1) >= row.source.position:
                    continue
                records += row.records
                size += len(row.body)
                if bodies and (records > limit_records or size > limit_bytes):
                    stop = number
                    break
                bodies.append(row.body)
            last, digest = (rows[stop - 1].last, rows[stop - 1].digest) if stop else self._before
            return Slice(Cursor(journal, last, digest), stop == len(rows), b"".join(bodies))
