"""The journal: the ledger's records on this node's disk, in SQLite.

Owns one file (with its ``-wal`` and ``-shm``), the thread that writes it, the schema and the journal's id. It must not
know what a record means. :mod:`mesh.shell.journal_memory` is the readable reference of its contract.

Whatever is queued when the writer becomes free goes into one row by one autocommit INSERT: a lone record is committed
at once, and under load one fsync and a few hand-overs of the interpreter lock are shared by thousands. A row holds the
position of its last record, the count, a checksum (SQLite has none) and a RecordBatch.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeAlias
from zlib import crc32

from mesh.core.errors import MeshError
from mesh.core.lattice import Record
from mesh.wire.errors import WireError
from mesh.wire.ledger import decode_records, encode_records

# A reader decodes whole rows, also for a slice of one: a row ends once it has this much. One append is never divided.
ROW_RECORDS = 4096
ROW_BYTES = 16 * 2**20

Deliver: TypeAlias = Callable[..., object]  # as loop.call_soon_threadsafe: a callable and its arguments


class Migration(NamedTuple):
    name: str
    statements: tuple[str, ...]


# In order, never edited once released, each applied in one transaction together with its line in `schema`.
MIGRATIONS = (
    Migration(
        "identity and batches",
        (
            """CREATE TABLE schema (version INTEGER PRIMARY KEY, name TEXT NOT NULL,
                                    applied TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP)""",
            "CREATE TABLE identity (id TEXT NOT NULL)",
            "INSERT INTO identity VALUES (lower(hex(randomblob(16))))",
            """CREATE TABLE batches (last INTEGER PRIMARY KEY, count INTEGER NOT NULL,
                                     crc INTEGER NOT NULL, body BLOB NOT NULL)""",
        ),
    ),
)


class JournalError(MeshError):
    """The journal cannot be used."""


class JournalCorrupt(JournalError):
    """What is in the file is not what was written. Nothing in it was changed."""


class JournalTooNew(JournalError):
    """A newer version wrote it. Nothing in it was changed."""


class _Append(NamedTuple):
    position: int
    records: int
    body: bytes


class Journal:
    """Open it, read :meth:`records`, :meth:`start` it, then append; :meth:`close` it before the loop ends.

    Everything but the callbacks' delivery belongs to one thread at a time; that thread never waits for the disk, save
    for reading and in :meth:`close`.
    """

    def __init__(self, path: Path, writer: sqlite3.Connection, reader: sqlite3.Connection, retry_after: float) -> None:
        self._path, self._writer, self._reader, self._retry_after = path, writer, reader, retry_after
        query = "SELECT (SELECT id FROM identity), (SELECT coalesce(max(last), 0) FROM batches)"
        self._id, self._synced = reader.execute(query).fetchone()
        if not self._id:
            raise _damaged(path, "it has no id")
        self._appended: int = self._synced
        self._queue: SimpleQueue[_Append | None] = SimpleQueue()  # None: closing
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._deliver: Deliver
        self._on_synced: Callable[[int], object]
        self._on_failed: Callable[[str], object]

    @classmethod
    def open(cls, path: Path, *, busy_timeout: float = 1.0, retry_after: float = 0.5) -> Journal:
        """Opens or creates it. Raises JournalError, JournalCorrupt or JournalTooNew.

        ``busy_timeout``: seconds that a write waits for another process that reads the file with a lock, before it
        counts as failed; ``retry_after``: seconds from a failed write to the next try.
        """
        connections: list[sqlite3.Connection] = []
        try:
            for _ in ("writer", "reader"):
                connection = sqlite3.connect(path, timeout=busy_timeout, isolation_level=None, check_same_thread=False)
                connections.append(connection)
                if len(connections) == 1:
                    _migrate(path, connection)
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA fullfsync = ON")  # macOS: fsync alone stops at the drive's cache
            return cls(path, connections[0], connections[1], retry_after)
        except BaseException as error:
            for connection in connections:
                connection.close()
            if isinstance(error, sqlite3.Error):
                raise _explain(path, error) from error
            raise

    @property
    def id(self) -> str:
        """Drawn when the file was created: a position means something only together with it."""
        return str(self._id)

    @property
    def position(self) -> int:
        """Of the last record on disk; 0 where there is none."""
        return int(self._synced)

    def start(self, deliver: Deliver, on_synced: Callable[[int], object], on_failed: Callable[[str], object]) -> None:
        """Begin to write. The callbacks go through ``deliver``, which is ``loop.call_soon_threadsafe``.

        ``on_synced(position)``: everything up to there is on disk. ``on_failed(reason)``: writes fail, what is appended
        stays queued and is tried again; ``on_failed("")``: they work again.
        """
        assert self._thread is None, "started twice"
        self._deliver, self._on_synced, self._on_failed = deliver, on_synced, on_failed
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()

    def append(self, position: int, records: Sequence[Record]) -> None:
        """Queue them; ``position`` is that of the last one. Never waits. Raises WireError for what cannot be stored."""
        assert records, "an append of nothing has no position"
        expected = self._appended + len(records)
        assert position == expected, f"{len(records)} records end at position {expected}, not {position}"
        item = _Append(position, len(records), encode_records(records))
        self._appended = position
        self._queue.put(item)

    def read(self, after: int, limit: int) -> tuple[list[Record], int, bool]:
        """Up to ``limit`` synced records after a position, the position of the last one, and whether it is the end.

        A position beyond the end gives nothing and the end's position. Raises JournalCorrupt.
        """
        assert limit > 0, "a slice of nothing never ends"
        found: list[Record] = []
        for first, batch in self._batches(after):
            skip = max(after + 1 - first, 0)
            found += batch[skip : skip + limit - len(found)]
            if len(found) == limit:
                break
        last = min(after, self._synced) + len(found)
        return found, last, last >= self._synced

    def records(self) -> Iterator[Record]:
        """All of them, in order. Raises JournalCorrupt where the file is damaged, after what is before the damage."""
        for _, batch in self._batches(0):
            yield from batch

    def close(self) -> None:
        """Write what is queued, with one try where writes fail, and let go of the file. Waits for the disk."""
        if self._thread is not None:
            self._closing.set()
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        self._reader.close()
        self._writer.close()

    def _batches(self, after: int) -> Iterator[tuple[int, list[Record]]]:
        """Position of the first record and the records, of each row that reaches beyond ``after``."""
        reached = after
        cursor = self._reader.cursor()
        try:
            rows = cursor.execute("SELECT last, count, crc, body FROM batches WHERE last > ? ORDER BY last", (after,))
            for last, count, crc, body in rows:
                if last - count > reached:
                    raise self._corrupt(f"its records {reached + 1} to {last - count} are missing")
                if _checksum(last, count, body) != crc:
                    raise self._corrupt(f"the checksum of the batch that ends at position {last} is wrong")
                batch = decode_records(body)
                if len(batch) != count:
                    raise self._corrupt(f"the batch that ends at position {last} is not {count} records long")
                yield last - count + 1, batch
                reached = last
        except WireError as error:
            raise self._corrupt(str(error)) from error
        except sqlite3.Error as error:
            raise _explain(self._path, error) from error
        finally:
            cursor.close()  # an open one would keep the write-ahead log from being used anew

    def _corrupt(self, why: str) -> JournalCorrupt:
        return _damaged(self._path, why)

    def _write(self) -> None:
        """The thread: everything that is queued, row after row."""
        get, get_nowait = self._queue.get, self._queue.get_nowait
        item = get()
        while item is not None:
            bodies: list[bytes] = []
            count = size = 0
            while item is not None:
                position = item.position
                bodies.append(item.body)
                count += item.records
                size += len(item.body)
                if count >= ROW_RECORDS or size >= ROW_BYTES:
                    break
                try:
                    item = get_nowait()
                except Empty:
                    break
            body = b"".join(bodies)
            if not self._insert((position, count, _checksum(position, count, body), body)):
                return
            self._synced = position
            self._deliver(self._on_synced, position)
            if item is not None:
                item = get()

    def _insert(self, row: tuple[Any, ...]) -> bool:
        """Until it is on disk; ``False``: it is not, and the journal closes."""
        failed = False
        while True:
            last_try = self._closing.is_set()
            try:
                self._writer.execute("INSERT INTO batches VALUES (?, ?, ?, ?)", row)
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


def _checksum(last: int, count: int, body: bytes) -> int:
    return crc32(body, crc32(b"%d %d" % (last, count)))


def _migrate(path: Path, connection: sqlite3.Connection) -> None:
    """Brings the schema up to date. Reads before it writes, so that a file of others stays as it is."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables and "schema" not in tables:
        raise _damaged(path, f"it holds other tables: {', '.join(sorted(tables))}")
    version = connection.execute("SELECT coalesce(max(version), 0) FROM schema").fetchone()[0] if tables else 0
    if version > len(MIGRATIONS):
        raise JournalTooNew(
            f"the journal {path} was written by a newer meshd",
            f"its schema is version {version}, this meshd knows those up to {len(MIGRATIONS)}",
            "start the newer version again, or choose another --state-dir; nothing was changed",
        )
    ((mode,),) = connection.execute("PRAGMA journal_mode = WAL")
    if mode != "wal":
        raise JournalError(
            f"the journal {path} cannot be used",
            "its file system offers no write-ahead log",
            "choose a --state-dir on a local disk",
        )
    for number, migration in enumerate(MIGRATIONS[version:], version + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in migration.statements:
                connection.execute(statement)
            connection.execute("INSERT INTO schema (version, name) VALUES (?, ?)", (number, migration.name))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _explain(path: Path, error: sqlite3.Error) -> JournalError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # without its extension
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return _damaged(path, str(error))
    return JournalError(
        f"the journal {path} cannot be used",
        str(error),
        "is its directory writable, on a local disk with space left, and no other meshd's?",
    )


def _damaged(path: Path, why: str) -> JournalCorrupt:
    return JournalCorrupt(
        f"the journal {path} is damaged",
        why,
        "move it away together with its -wal and -shm files and start again: this node then pulls from other members"
        " what they hold",
    )
