"""The journal: the ledger's records on this node's disk, in SQLite.

Owns one file (with its ``-wal`` and ``-shm``), the thread that writes it and the ids of its lives. It must not know
what a record means. :mod:`mesh.shell.journal_memory` is the readable reference of its contract,
:mod:`mesh.shell.journal_file` has the schema, :mod:`mesh.shell.journal_rows` what a reader of rows is given.

Whatever is queued when the writer becomes free goes into one row by one autocommit INSERT: a lone record is committed
at once, and under load one fsync and a few hand-overs of the interpreter lock are shared by thousands. A row holds the
position of its last record, the count, a rolling digest (SQLite has no checksums), the point in another journal that it
was pulled up to, and a RecordBatch.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple, TypeAlias

from mesh.core.lattice import Record
from mesh.core.messages import NO_CURSOR, Cursor
from mesh.shell.journal_file import (
    INSERT,
    add_life,
    as_values,
    check_size,
    connect,
    decode,
    digest_at,
    explain,
    migrate,
    read_lives,
    read_rows,
    read_slice,
    transaction,
)
from mesh.shell.journal_rows import ROW_BYTES, ROW_RECORDS, TOLD_LIVES, Kept, Row, Slice, asked, begin, chain, reached
from mesh.wire.ledger import encode_records

Deliver: TypeAlias = Callable[..., object]  # as loop.call_soon_threadsafe: a callable and its arguments


class _Append(NamedTuple):
    position: int
    records: int
    body: bytes
    source: Cursor


class Journal:
    """Open it, read :meth:`records`, :meth:`start` it, then append; :meth:`close` it before the loop ends.

    Everything but the callbacks' delivery and :meth:`slice` belongs to one thread at a time; that thread never waits
    for the disk, save for reading and in :meth:`close`.
    """

    def __init__(self, path: Path, connections: Sequence[sqlite3.Connection], retry_after: float) -> None:
        self._path, self._retry_after = path, retry_after
        self._writer, self._reader, self._slicer = connections
        self._slicing = threading.Lock()
        find = self._reader.execute
        end = find("SELECT last, digest FROM batches ORDER BY last DESC LIMIT 1").fetchone()
        self._end: tuple[int, str] = end or (0, "")  # what is synced: position and rolling digest
        position, digest = self._end
        lives = begin(read_lives(path, self._reader), secrets.token_hex(16), position)
        self._life, self._former, self._ids = lives[-1], reached(lives), frozenset(life.id for life in lives)
        self._begun = False  # on disk, that is: a life is written with its first row
        sources = "SELECT source, source_position, source_digest FROM batches WHERE source != ''"
        self._kept = Kept(position, digest, (Cursor(*source) for source in find(sources).fetchall()))
        self._appended = self._end[0]
        self._queue: SimpleQueue[_Append | None] = SimpleQueue()  # None: closing
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._deliver: Deliver
        self._on_synced: Callable[[int], object]
        self._on_failed: Callable[[str], object]

    @classmethod
    def open(cls, path: Path, *, busy_timeout: float = 1.0, retry_after: float = 0.5) -> Journal:
        """Opens or creates it: another life of it. Raises JournalError, JournalCorrupt or JournalTooNew.

        ``busy_timeout``: seconds that a write waits for another process that reads the file with a lock, before it
        counts as failed; ``retry_after``: seconds from a failed write to the next try.
        """
        connections: list[sqlite3.Connection] = []
        try:
            check_size(path)
            connections.append(connect(path, busy_timeout))
            migrate(path, connections[0])
            connections += (connect(path, busy_timeout) for _ in ("reader", "slicer"))
            return cls(path, connections, retry_after)
        except BaseException as error:
            for connection in connections:
                connection.close()
            if isinstance(error, sqlite3.Error | OSError):
                raise explain(path, error) from error
            raise

    @property
    def id(self) -> str:
        """This life's, drawn when it was opened: a position means something only together with it."""
        return self._life.id

    @property
    def position(self) -> int:
        """Of the last record on disk; 0 where there is none."""
        return self._end[0]

    @property
    def cursor(self) -> Cursor:
        """Of the last record on disk."""
        return Cursor(self.id, *self._end)

    def owns(self, journal: str) -> bool:
        """Whether this id is of this life or of a former one. From any thread."""
        return journal in self._ids

    def own(self) -> tuple[Cursor, ...]:
        """The ends of the latest lives, oldest first; the last one is :attr:`cursor`. All up to there is held here."""
        ends: list[Cursor] = []
        try:
            for journal, position in list(self._former.items())[1 - TOLD_LIVES :]:
                digest = digest_at(self._reader, position)
                if digest is not None:  # else a bit flipped in the table of lives, and it is as if it were not there
                    ends.append(Cursor(journal, position, digest))
        except sqlite3.Error as error:
            raise explain(self._path, error) from error
        return (*ends, self.cursor)

    def cursors(self) -> tuple[Cursor, ...]:
        """Of each journal that synced records were pulled from, the furthest point, in order of the journals' ids."""
        return self._kept.cursors()

    def verify(self, cursor: Cursor) -> bool:
        """Whether it is a point of this life or of a former one. ``False`` for one that :meth:`owns`: what was read
        is not here; the file was put back or copied.
        """
        end = self._end[0] if cursor.journal == self.id else self._former.get(cursor.journal, -1)
        if not 0 <= cursor.position <= end:
            return False
        if cursor.position == 0:
            return True
        digest = self._kept.digest(cursor.position)
        if digest is None:
            try:
                digest = digest_at(self._reader, cursor.position)
            except sqlite3.Error as error:
                raise explain(self._path, error) from error
        return digest == cursor.digest

    def start(self, deliver: Deliver, on_synced: Callable[[int], object], on_failed: Callable[[str], object]) -> None:
        """Begin to write. The callbacks go through ``deliver``, which is ``loop.call_soon_threadsafe``.

        ``on_synced(position)``: everything up to there is on disk. ``on_failed(reason)``: writes fail, what is appended
        stays queued and is tried again; ``on_failed("")``: they work again.
        """
        assert self._thread is None, "started twice"
        self._deliver, self._on_synced, self._on_failed = deliver, on_synced, on_failed
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()

    def append(self, position: int, records: Sequence[Record], source: Cursor = NO_CURSOR) -> None:
        """Queue them; ``position`` is that of the last one. Never waits. Raises WireError for what cannot be stored.

        ``source``: the point in another journal that they were pulled up to; without one they are our own.
        """
        assert records, "an append of nothing has no position"
        expected = self._appended + len(records)
        assert position == expected, f"{len(records)} records end at position {expected}, not {position}"
        item = _Append(position, len(records), encode_records(records), source)
        self._appended = position
        self._queue.put(item)

    def slice(self, cursors: Sequence[Cursor], limit_records: int, limit_bytes: int) -> Slice:
        """What a reader that has read up to these cursors, of whichever journals, should get next. From any thread.

        Whole rows after the furthest of its cursors of our own lives, each of which :meth:`verify` approved, or from
        the start; without those that came from a journal that it has read that far (its own is one); at least one,
        unless at the end or where many were left out. Raises JournalError.
        """
        assert min(limit_records, limit_bytes) > 0, "a slice of nothing never ends"
        synced, digest = self._end
        after, others = asked(self._ids, cursors)
        body = b""
        position = synced
        if after < synced:
            try:
                with self._slicing:
                    position, digest, body = read_slice(
                        self._path, self._slicer, (after, synced), others, limit_records, limit_bytes
                    )
            except sqlite3.Error as error:
                raise explain(self._path, error) from error
        return Slice(Cursor(self.id, position, digest), position == synced, body)

    def tail(self, cursors: Sequence[Cursor], limit_records: int, limit_bytes: int) -> Slice | None:
        """The same from memory; ``None``: that far back only :meth:`slice` can tell."""
        assert min(limit_records, limit_bytes) > 0, "a slice of nothing never ends"
        return self._kept.slice(self.id, *asked(self._ids, cursors), limit_records, limit_bytes)

    def records(self) -> Iterator[Record]:
        """All of them, in order. Raises JournalCorrupt where the file is damaged, after what is before the damage."""
        try:
            for row in read_rows(self._path, self._reader):
                yield from decode(self._path, row)
        except sqlite3.Error as error:
            raise explain(self._path, error) from error

    def close(self) -> None:
        """Write what is queued, with one try where writes fail, and let go of the file. Waits for the disk."""
        if self._thread is not None:
            self._closing.set()
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        with self._slicing:
            self._slicer.close()
        self._reader.close()
        self._writer.close()

    def _write(self) -> None:
        """The thread: everything that is queued, row after row. A row has records of one source."""
        get, get_nowait = self._queue.get, self._queue.get_nowait
        item = get()
        while item is not None:
            last, count, body, source = item
            bodies, size = [body], len(body)
            waiting = False
            while True:
                try:
                    item = get_nowait()
                except Empty:
                    waiting = True
                    break
                if item is None:
                    break
                position, records, body, further = item
                size += len(body)
                if count + records > ROW_RECORDS or size > ROW_BYTES:
                    break
                if further is not source:  # our own share one object
                    if further.journal != source.journal:
                        break
                    source = max(source, further)
                bodies.append(body)
                last, count = position, count + records
            body = b"".join(bodies)
            row = Row(last, count, chain(self._end[1], last, count, source, body), source, body)
            if not self._insert(row):
                return
            self._end = last, row.digest
            self._kept.add(row)
            self._deliver(self._on_synced, last)
            if waiting:
                item = get()

    def _insert(self, row: Row) -> bool:
        """Until it is on disk; ``False``: it is not, and the journal closes."""
        values = as_values(row)
        failed = False
        while True:
            last_try = self._closing.is_set()
            try:
                if self._begun:
                    self._writer.execute(INSERT, values)
                else:
                    with transaction(self._writer):  # never a row of a life that is not known
                        add_life(self._writer, self._life)
                        self._writer.execute(INSERT, values)
                    self._begun = True
            except (sqlite3.Error, MemoryError) as error:
                if not failed:
                    failed = True
                    self._deliver(self._on_failed, f"{self._path} cannot be written: {error or 'out of memory'}")
                if last_try:
                    return False
                self._closing.wait(self._retry_after)
            else:
                if failed:
                    self._deliver(self._on_failed, "")
                return True
