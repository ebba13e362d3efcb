"""The journal's file: its schema and migrations, reading it with every check, and what is said when it cannot be used.

Owns the SQL that more than one part needs. It must not know of threads nor of who reads.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from zlib import crc32

from mesh.core.errors import MeshError
from mesh.core.lattice import Record
from mesh.core.messages import NO_CURSOR, Cursor
from mesh.shell.journal_rows import SCAN_ROWS, Life, Row, chain
from mesh.wire.errors import WireError
from mesh.wire.ledger import decode_records


class JournalError(MeshError):
    """The journal cannot be used."""


class JournalCorrupt(JournalError):
    """What is in the file is not what was written. Nothing in it was changed."""


class JournalTooNew(JournalError):
    """A newer version wrote it. Nothing in it was changed."""


Statement: TypeAlias = str | Callable[[Path, sqlite3.Connection], object]


class Migration(NamedTuple):
    name: str
    statements: tuple[Statement, ...]


INSERT = "INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?)"
ADD_LIFE = "INSERT INTO lives VALUES (?, ?)"


def as_values(row: Row) -> tuple[object, ...]:
    last, records, digest, (source, position, source_digest), body = row
    return last, records, digest, source, position, source_digest, body


def rows_of_version_1(path: Path, connection: sqlite3.Connection, table: str) -> Iterator[Row]:
    """With the digests that version 2 adds."""
    reached, digest = 0, ""
    for last, count, crc, body in connection.execute(f"SELECT last, count, crc, body FROM {table} ORDER BY last"):
        _check_types(path, last, count, body)
        _check_order(path, reached, last, count)
        if crc32(body, crc32(b"%d %d" % (last, count))) != crc:
            raise damaged(path, f"the checksum of the batch that ends at position {last} is wrong")
        reached, digest = last, chain(digest, last, count, NO_CURSOR, body)
        yield Row(last, count, digest, NO_CURSOR, body)


def _copy_version_1(path: Path, connection: sqlite3.Connection) -> None:
    connection.executemany(INSERT, map(as_values, rows_of_version_1(path, connection, "batches_1")))


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
    Migration(
        "rolling digests, sources, lives",
        (
            "ALTER TABLE batches RENAME TO batches_1",
            # The body last: what stands before it is read without it.
            """CREATE TABLE batches (last INTEGER PRIMARY KEY, count INTEGER NOT NULL, digest TEXT NOT NULL,
                                     source TEXT NOT NULL, source_position INTEGER NOT NULL,
                                     source_digest TEXT NOT NULL, body BLOB NOT NULL)""",
            _copy_version_1,
            "DROP TABLE batches_1",
            # One tree, all of it read at each start: an index apart could be damaged unnoticed.
            "CREATE TABLE lives (id TEXT PRIMARY KEY, after INTEGER NOT NULL) WITHOUT ROWID",
            "INSERT OR IGNORE INTO lives SELECT id, 0 FROM identity",
            "DROP TABLE identity",
        ),
    ),
)
TABLES = {"schema", "identity", "lives", "batches"}  # of any version
PARTS = ("-wal", "-shm", "-journal")  # what SQLite keeps beside a file
_PAGE = 512  # bytes: the smallest page of a database


def check_size(path: Path) -> None:
    """SQLite takes a file of less than a page for an empty one, and deletes the log of an empty or missing one."""
    log = path.with_name(f"{path.name}-wal")
    size = path.stat().st_size if path.exists() else 0
    if size and size < _PAGE:
        raise damaged(path, f"of its file {size} bytes are left")
    if not size and log.exists() and log.stat().st_size:
        raise damaged(path, f"its file is missing or empty, and only the log {log.name} is left")


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def parts(path: Path) -> list[Path]:
    return [beside(path, suffix) for suffix in PARTS]


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def connect(path: Path, busy_timeout: float = 1.0) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=busy_timeout, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA fullfsync = ON")  # macOS: fsync alone stops at the drive's cache
    except BaseException:
        connection.close()
        raise
    return connection


def migrate(path: Path, connection: sqlite3.Connection) -> None:
    """Brings the schema up to date. Reads before it writes, so that a file of others stays as it is."""
    # Whole at once, here and elsewhere: a cursor in the traceback of an error would keep a closed connection open.
    found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    tables = {str(name) for (name,) in found}
    if tables and not tables & TABLES:
        raise JournalError(
            f"the journal {path} is none",
            f"it is a database that holds other tables: {', '.join(sorted(tables))}",
            "move it away, or choose another --state-dir; nothing was changed",
        )
    version = _version(path, connection, tables) if tables else 0
    if version > len(MIGRATIONS):
        raise _too_new(path, f"its schema is version {version}, this meshd knows those up to {len(MIGRATIONS)}")
    ((mode,),) = connection.execute("PRAGMA journal_mode = WAL")
    if mode != "wal":
        raise JournalError(
            f"the journal {path} cannot be used",
            "its file system offers no write-ahead log",
            "choose a --state-dir on a local disk",
        )
    for number, migration in enumerate(MIGRATIONS[version:], version + 1):
        with transaction(connection):
            for statement in migration.statements:
                if callable(statement):
                    statement(path, connection)
                else:
                    connection.execute(statement)
            connection.execute("INSERT INTO schema (version, name) VALUES (?, ?)", (number, migration.name))


def _version(path: Path, connection: sqlite3.Connection, tables: set[str]) -> int:
    version = 0
    if "schema" in tables:
        version = int(connection.execute("SELECT coalesce(max(version), 0) FROM schema").fetchone()[0])
        if not version:
            raise damaged(path, "it does not say which version wrote it")
    lacking = {"schema", "batches", "identity" if version == 1 else "lives"} - tables
    if lacking and version <= len(MIGRATIONS):
        raise damaged(path, f"it lacks its table {', '.join(sorted(lacking))}")
    return version


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def add_life(connection: sqlite3.Connection, life: Life) -> None:
    """In the place of those that wrote nothing, or nothing that is still here."""
    connection.execute("DELETE FROM lives WHERE after >= ?", (life.after,))
    connection.execute(ADD_LIFE, life)


def read_lives(path: Path, connection: sqlite3.Connection) -> list[Life]:
    """In the order of their rows. Raises JournalCorrupt and sqlite3.Error."""
    lives = [Life(*values) for values in connection.execute("SELECT id, after FROM lives ORDER BY after").fetchall()]
    sound = all(type(life.id) is str and type(life.after) is int for life in lives)
    if not sound or len({life.id for life in lives}) < len(lives):
        raise damaged(path, "what it says of its lives cannot be read")
    return lives


def _row(path: Path, values: tuple[Any, ...]) -> Row:
    last, records, digest, source, source_position, source_digest, body = values
    _check_types(path, last, records, body)
    return Row(last, records, digest, Cursor(source, source_position, source_digest), body)


def digest_at(connection: sqlite3.Connection, position: int) -> str | None:
    """The rolling digest there; ``None``: no row ends there."""
    if position == 0:
        return ""
    found = connection.execute("SELECT digest FROM batches WHERE last = ?", (position,)).fetchone()
    return found and str(found[0])


def read_rows(path: Path, connection: sqlite3.Connection) -> Iterator[Row]:
    """Each row, checked. Raises JournalCorrupt and sqlite3.Error."""
    reached, digest = 0, ""
    cursor = connection.cursor()
    try:
        for values in cursor.execute("SELECT * FROM batches ORDER BY last"):
            row = _row(path, values)
            _check_order(path, reached, row.last, row.records)
            check_digest(path, digest, row)
            yield row
            reached, digest = row.last, row.digest
    finally:
        cursor.close()  # an open one would keep the write-ahead log from being used anew


def read_slice(
    path: Path,
    connection: sqlite3.Connection,
    span: tuple[int, int],
    others: dict[str, int],
    limit_records: int,
    limit_bytes: int,
) -> tuple[int, str, bytes]:
    """Of the rows after the first position and up to the second, those that ``others`` do not cover: what fits.

    Up to which position rows were looked at, the rolling digest there, and the bodies. As ``Kept.slice``, in SQL, so
    that the bodies of rows that are skipped are not read.
    """
    after, stop = span
    if stop - after > SCAN_ROWS:
        query = "SELECT last FROM batches WHERE last > ? ORDER BY last LIMIT 1 OFFSET ?"
        found = connection.execute(query, (after, SCAN_ROWS - 1)).fetchone()
        stop = min(found[0], stop) if found else stop
    known = f"CASE source {'WHEN ? THEN ? ' * len(others)}ELSE -1 END" if others else "-1"
    query = f"SELECT * FROM batches WHERE last > ? AND last <= ? AND source_position > {known} ORDER BY last"
    bodies: list[bytes] = []
    records = size = 0
    reached = -1  # position of the last row taken
    digest: str | None = None
    cursor = connection.cursor()
    try:
        for values in cursor.execute(query, (after, stop, *(part for item in others.items() for part in item))):
            row = _row(path, values)
            before = row.last - row.records
            records += row.records
            size += len(row.body)
            if bodies and (records > limit_records or size > limit_bytes):
                stop = before
                break
            check_digest(path, digest if reached == before else digest_at(connection, before), row)
            bodies.append(row.body)
            reached, digest = row.last, row.digest
    finally:
        cursor.close()
    if reached != stop:
        digest = digest_at(connection, stop)
    if digest is None:
        raise damaged(path, f"the records up to position {stop} are missing")
    return stop, digest, b"".join(bodies)


def check_digest(path: Path, before: str | None, row: Row) -> None:
    """``before``: the rolling digest before the row, where there is a row before it."""
    if before is None:
        raise damaged(path, f"the records before position {row.last - row.records + 1} are missing")
    if chain(before, row.last, row.records, row.source, row.body) != row.digest:
        raise damaged(path, f"the digest of the batch that ends at position {row.last} is wrong")


def _check_types(path: Path, last: int, count: object, body: object) -> None:
    if type(count) is not int or type(body) is not bytes:  # SQLite has no types that would hold for damaged bytes
        raise damaged(path, f"the batch that ends at position {last} is none")


def _check_order(path: Path, reached: int, last: int, count: int) -> None:
    if last - count > reached:
        raise damaged(path, f"its records {reached + 1} to {last - count} are missing")


def decode(path: Path, row: Row) -> list[Record]:
    """The records of a row whose digest is right. Raises JournalCorrupt or JournalTooNew."""
    try:
        records = decode_records(row.body)
    except WireError as error:
        raise damaged(path, str(error)) from error
    if len(records) < row.records:  # what was written is here, so what is missing is of a kind that came later
        why = f"of the {row.records} records up to position {row.last} this meshd knows {len(records)}"
        raise _too_new(path, why)
    if len(records) > row.records:
        raise damaged(path, f"the batch that ends at position {row.last} is not {row.records} records long")
    return records


def explain(path: Path, error: sqlite3.Error | OSError) -> JournalError:
    # Without a code: a text that is no UTF-8, or a connection that was closed.
    unknown = sqlite3.SQLITE_CORRUPT if isinstance(error, sqlite3.OperationalError) else sqlite3.SQLITE_ERROR
    code = getattr(error, "sqlite_errorcode", unknown) & 0xFF  # without its extension
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_TOOBIG):
        return damaged(path, str(error))
    return JournalError(
        f"the journal {path} cannot be used",
        str(error),
        "is its directory writable, on a local disk with space left, and no other meshd's?",
    )


def damaged(path: Path, why: str) -> JournalCorrupt:
    return JournalCorrupt(
        f"the journal {path} is damaged",
        why,
        "start meshd again: it sets the damaged file aside, keeps what is before the damage and pulls the rest from"
        " other members",
    )


def _too_new(path: Path, why: str) -> JournalTooNew:
    return JournalTooNew(
        f"the journal {path} was written by a newer meshd",
        why,
        "start the newer version again, or choose another --state-dir; nothing was changed",
    )
