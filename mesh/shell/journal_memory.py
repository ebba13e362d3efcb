"""The journal's memory twin: the same contract without a disk, for simulations and tests, and to read it by.

Nothing is synced until :meth:`MemoryJournal.sync` says so, and :meth:`MemoryJournal.crash` forgets the rest: what a
process that was killed finds when it starts again, which is another life of the journal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from math import inf

from mesh.core.lattice import Record
from mesh.core.messages import NO_CURSOR, Cursor
from mesh.shell.journal_rows import TOLD_LIVES, Kept, Life, Row, Slice, asked, begin, chain, reached
from mesh.wire.ledger import encode_records


class MemoryJournal:
    def __init__(self, id: str = "memory") -> None:
        self._name, self._opened = id, 0
        self._lives = [Life(id, 0)]
        self.failure = ""  # set it, and syncs fail with this reason
        self._failed = False
        self._synced: list[Record] = []
        self._pending: list[tuple[Record, Cursor]] = []
        self._digest = ""
        self._written: list[Row] = []
        self._rows = Kept(0, "", limit=inf)
        self._on_synced: Callable[[int], object] | None = None
        self._on_failed: Callable[[str], object] | None = None
        self._deliver: Callable[..., object] | None = None

    @property
    def id(self) -> str:
        return self._lives[-1].id

    @property
    def position(self) -> int:
        """Of the last synced record; 0 where there is none."""
        return len(self._synced)

    @property
    def cursor(self) -> Cursor:
        return Cursor(self.id, len(self._synced), self._digest)

    def owns(self, journal: str) -> bool:
        return any(life.id == journal for life in self._lives)

    def own(self) -> tuple[Cursor, ...]:
        """Of each of the latest lives, the end that it reached; this one's last."""
        ends = [*reached(self._lives).items(), (self.id, self.position)]
        return tuple(Cursor(life, end, self._rows.digest(end) or "") for life, end in ends[-TOLD_LIVES:])

    def cursors(self) -> tuple[Cursor, ...]:
        return self._rows.cursors()

    def verify(self, cursor: Cursor) -> bool:
        end = (reached(self._lives) | {self.id: self.position}).get(cursor.journal, -1)
        if not 0 <= cursor.position <= end:
            return False
        return cursor.position == 0 or self._rows.digest(cursor.position) == cursor.digest

    def start(
        self,
        deliver: Callable[..., object],
        on_synced: Callable[[int], object],
        on_failed: Callable[[str], object],
    ) -> None:
        assert self._deliver is None, "started twice"
        self._deliver, self._on_synced, self._on_failed = deliver, on_synced, on_failed

    def append(self, position: int, records: Sequence[Record], source: Cursor = NO_CURSOR) -> None:
        assert records, "an append of nothing has no position"
        expected = len(self._synced) + len(self._pending) + len(records)
        assert position == expected, f"{len(records)} records end at position {expected}, not {position}"
        self._pending += ((record, source) for record in records)

    def sync(self) -> int:
        """Make durable what is pending, unless :attr:`failure` forbids it, and tell; returns the position synced."""
        if self.failure:
            if self._pending and not self._failed:
                self._failed = True
                self._tell(self._on_failed, self.failure)
            return len(self._synced)
        if self._failed:
            self._failed = False
            self._tell(self._on_failed, "")
        pending, self._pending = self._pending, []
        for _, group in groupby(pending, key=lambda item: item[1].journal):  # a row has records of one source
            records, sources = zip(*group, strict=True)
            self._add(records, max(sources))
            self._tell(self._on_synced, len(self._synced))
        return len(self._synced)

    def _add(self, records: Sequence[Record], source: Cursor) -> None:
        self._synced += records
        last, body = len(self._synced), encode_records(records)
        self._digest = chain(self._digest, last, len(records), source, body)
        self._written.append(Row(last, len(records), self._digest, source, body))
        self._rows.add(self._written[-1])

    def crash(self) -> None:
        """Forget what was not synced, and who was to be told: the process is gone, and the next one opens it."""
        self._pending = []
        self._failed = False
        self._deliver = self._on_synced = self._on_failed = None
        self._opened += 1
        self._lives = begin(self._lives, f"{self._name}.{self._opened}", len(self._synced))

    def rewind(self, position: int) -> None:
        """The same, and a backup is put back, of the time when it ended at this row's end."""
        kept = [row for row in self._written if row.last <= position]
        assert sum(row.records for row in kept) == position, "a backup has whole rows"
        self._synced, self._written = self._synced[:position], kept
        self._digest = kept[-1].digest if kept else ""
        self._rows = Kept(0, "", limit=inf)
        for row in kept:
            self._rows.add(row)
        self.crash()

    def slice(self, cursors: Sequence[Cursor], limit_records: int, limit_bytes: int) -> Slice:
        assert min(limit_records, limit_bytes) > 0, "a slice of nothing never ends"
        own = {life.id for life in self._lives}
        found = self._rows.slice(self.id, *asked(own, cursors), limit_records, limit_bytes)
        assert found is not None, "all rows are kept"
        return found

    def tail(self, cursors: Sequence[Cursor], limit_records: int, limit_bytes: int) -> Slice | None:
        return self.slice(cursors, limit_records, limit_bytes)

    def records(self) -> Iterator[Record]:
        return iter(tuple(self._synced))

    def close(self) -> None:
        """Sync with one try; what cannot be synced is gone."""
        self.sync()
        self.crash()

    def _tell(self, callback: Callable[..., object] | None, argument: object) -> None:
        if self._deliver is not None:
            self._deliver(callback, argument)
