"""The index of a blob store: which blobs there are, what they list, and how many bytes that is, in SQLite.

Owns the file, its schema, and what is said when it cannot be used. It must not know of chunk files, threads or who uses
a blob now: :mod:`mesh.shell.blobs` calls it with one lock held.

A chunk is known as long as a blob lists it, complete or not; ``users`` counts those blobs. ``present``: its file is
settled, which is recorded only after it is so.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mesh.blob.manifest import Chunk, Manifest, name, parse
from mesh.core.errors import MeshError, QuotaExceeded
from mesh.core.ids import BlobId
from mesh.shell.blobs_use import Entry

VERSION = 1
_SCHEMA = (
    # The manifest last: what stands before it is read without it.
    """CREATE TABLE blobs (id TEXT PRIMARY KEY, size INTEGER NOT NULL, complete INTEGER NOT NULL,
                           pinned INTEGER NOT NULL, used INTEGER NOT NULL, manifest BLOB NOT NULL)""",
    # The size belongs to the key: a manifest that lies about it is about another chunk, which nobody has.
    """CREATE TABLE chunks (digest BLOB, size INTEGER, users INTEGER NOT NULL, present INTEGER NOT NULL,
                            PRIMARY KEY (digest, size)) WITHOUT ROWID""",
    f"PRAGMA user_version = {VERSION}",
)
_TABLES = {"blobs", "chunks"}
_PARTS = ("", "-wal", "-shm")
# What a manifest lists, each chunk once, so that the rest is said in SQL without a row of it coming up to Python.
_LISTED = "CREATE TEMP TABLE listed (digest BLOB, size INTEGER, PRIMARY KEY (digest, size)) WITHOUT ROWID"
_AMONG = "(digest, size) IN (SELECT digest, size FROM listed)"


class StoreError(MeshError):
    """The blob store cannot be used."""


class StoreDamaged(StoreError):
    """What is in its index is not what was written."""


class Index:
    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        claimed, stored, used = connection.execute(
            """SELECT (SELECT coalesce(sum(size), 0) FROM chunks),
                      (SELECT coalesce(sum(size), 0) FROM chunks WHERE present), (SELECT max(used) FROM blobs)"""
        ).fetchone()
        self.claimed: int = claimed  # bytes of the chunks that blobs list, each once
        self.stored: int = stored  # of those that are present
        self.used: int = used or 0  # the latest

    @classmethod
    def open(cls, path: Path) -> Index:
        """Opens or creates it. Raises StoreError; StoreDamaged where :func:`set_aside` is the way out.

        All of it is checked, 0.8 s for a million chunks: damage would otherwise be met again at each use of it.
        """
        connection: sqlite3.Connection | None = None
        try:
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            _prepare(path, connection)
            index = cls(path, connection)
            index._check()
            return index
        except BaseException as error:
            if connection is not None:
                connection.close()
            if isinstance(error, sqlite3.Error | OSError):
                raise explain(path, error) from error
            raise

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, the figures too."""
        figures = self.claimed, self.stored
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            self.claimed, self.stored = figures
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def rows(self) -> list[Entry]:
        """By id."""
        found = self._connection.execute("SELECT id, size, complete, pinned, used FROM blobs ORDER BY id").fetchall()
        return [Entry(blob, size, bool(complete), bool(pinned), used) for blob, size, complete, pinned, used in found]

    def row(self, blob: BlobId) -> Entry | None:
        query = "SELECT size, complete, pinned, used FROM blobs WHERE id = ?"
        found = self._connection.execute(query, (blob,)).fetchone()
        return found and Entry(blob, found[0], bool(found[1]), bool(found[2]), found[3])

    def manifest(self, blob: BlobId) -> bytes:
        """Encoded; of one that has a row. Raises StoreDamaged: it is not that blob's."""
        (encoded,) = self._connection.execute("SELECT manifest FROM blobs WHERE id = ?", (blob,)).fetchone()
        if type(encoded) is not bytes or name(encoded) != blob:  # SQLite has neither checksums nor types that hold
            raise damaged(self.path, f"the manifest of blob {blob!s:.12} is not its own")
        return encoded

    def unpinned(self) -> list[BlobId]:
        """Least recently used first."""
        return [blob for (blob,) in self._connection.execute("SELECT id FROM blobs WHERE NOT pinned ORDER BY used, id")]

    def known(self, digest: bytes) -> bool:
        """Whether any blob lists it."""
        return self._connection.execute("SELECT 1 FROM chunks WHERE digest = ?", (digest,)).fetchone() is not None

    def present(self, chunk: Chunk) -> bool:
        query = "SELECT 1 FROM chunks WHERE digest = ? AND size = ? AND present"
        return self._connection.execute(query, chunk).fetchone() is not None

    def present_among(self, chunks: Iterable[Chunk]) -> set[Chunk]:
        self._list(chunks)
        query = f"SELECT digest, size FROM chunks WHERE present AND {_AMONG}"
        return {Chunk(*values) for values in self._connection.execute(query)}

    def digests(self, first: int) -> set[bytes]:
        """Of known chunks, those that begin with this byte."""
        query = "SELECT digest FROM chunks WHERE digest >= ? AND digest < ?"
        span = bytes([first]), bytes([first + 1]) if first < 255 else b"\xff" * 33
        return {digest for (digest,) in self._connection.execute(query, span)}

    # What changes it, each within a transaction.

    def add(self, entry: Entry, encoded: bytes, manifest: Manifest) -> None:
        """One that has no row."""
        self._list(manifest.chunks)
        self.claimed += self._sum(
            """listed WHERE NOT EXISTS (SELECT 1 FROM chunks
                                        WHERE chunks.digest = listed.digest AND chunks.size = listed.size)"""
        )
        self._connection.execute(
            """INSERT INTO chunks SELECT digest, size, 1, 0 FROM listed WHERE true
               ON CONFLICT DO UPDATE SET users = users + 1"""
        )
        self._connection.execute("INSERT INTO blobs VALUES (?, ?, ?, ?, ?, ?)", (*entry, encoded))

    def drop(self, blob: BlobId) -> list[Chunk]:
        """One that has a row. Returns the chunks that no blob lists any more."""
        self._list(parse(self.manifest(blob), blob).chunks)
        execute = self._connection.execute
        gone = execute(f"SELECT digest, size, present FROM chunks WHERE users = 1 AND {_AMONG}").fetchall()
        execute(f"DELETE FROM chunks WHERE users = 1 AND {_AMONG}")
        execute(f"UPDATE chunks SET users = users - 1 WHERE {_AMONG}")
        execute("DELETE FROM blobs WHERE id = ?", (blob,))
        self.claimed -= sum(size for _, size, _ in gone)
        self.stored -= sum(size for _, size, present in gone if present)
        return [Chunk(digest, size) for digest, size, _ in gone]

    def settle(self, chunks: Iterable[Chunk]) -> None:
        """These, which are known, are present."""
        self._list(chunks)
        self.stored += self._sum(f"chunks WHERE NOT present AND {_AMONG}")
        self._connection.execute(f"UPDATE chunks SET present = 1 WHERE NOT present AND {_AMONG}")

    def lose(self, chunk: Chunk) -> list[BlobId]:
        """It is not present, and no blob that lists it is complete. Returns those that were."""
        query = "UPDATE chunks SET present = 0 WHERE digest = ? AND size = ? AND present"
        if self._connection.execute(query, chunk).rowcount:
            self.stored -= chunk.size
        listed = chunk.digest + chunk.size.to_bytes(4, "big")  # as a manifest has it
        rows = self._connection.execute("SELECT id FROM blobs WHERE complete AND instr(manifest, ?)", (listed,))
        hurt = [blob for (blob,) in rows]
        self._connection.executemany("UPDATE blobs SET complete = 0 WHERE id = ?", [(blob,) for blob in hurt])
        return hurt

    def complete(self, blob: BlobId) -> None:
        self._connection.execute("UPDATE blobs SET complete = 1 WHERE id = ?", (blob,))

    def pin(self, blob: BlobId, pinned: bool) -> bool:
        """Whether there is one."""
        return self._connection.execute("UPDATE blobs SET pinned = ? WHERE id = ?", (pinned, blob)).rowcount > 0

    def touch(self, used: dict[BlobId, int]) -> None:
        self._connection.executemany("UPDATE blobs SET used = ? WHERE id = ?", [(n, blob) for blob, n in used.items()])

    def _list(self, chunks: Iterable[Chunk]) -> None:
        self._connection.execute("DELETE FROM listed")
        self._connection.executemany("INSERT OR IGNORE INTO listed VALUES (?, ?)", chunks)

    def _sum(self, source: str) -> int:
        return int(self._connection.execute(f"SELECT coalesce(sum(size), 0) FROM {source}").fetchone()[0])

    def _check(self) -> None:
        (found,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise damaged(self.path, str(found))
        for row in self.rows():
            self.manifest(row.blob)


def set_aside(path: Path) -> Path:
    """A damaged index, closed, gets another name, which is returned. Raises StoreError."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    try:
        for part in reversed(_PARTS):  # the file last: while it is there, this was not done
            old = path.with_name(path.name + part)
            if old.exists():
                old.rename(aside.with_name(aside.name + part))
    except OSError as error:
        raise explain(path, error) from error
    return aside


def explain(path: Path, error: sqlite3.Error | OSError) -> MeshError:
    # Without a code: a text that is no UTF-8, or a connection that was closed.
    unknown = sqlite3.SQLITE_CORRUPT if isinstance(error, sqlite3.OperationalError) else sqlite3.SQLITE_ERROR
    code = getattr(error, "sqlite_errorcode", unknown) & 0xFF  # without its extension
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_TOOBIG):
        return damaged(path, str(error))
    if code == sqlite3.SQLITE_FULL:
        what = f"the blob store's index {path} cannot be written"
        return QuotaExceeded(
            what, str(error), "free space on its disk, or delete blobs; nothing that was there is lost"
        )
    return StoreError(
        f"the blob store's index {path} cannot be used",
        str(error),
        "is its directory writable, on a local disk with space left, and no other meshd's?",
    )


def damaged(path: Path, why: str) -> StoreDamaged:
    return StoreDamaged(
        f"the blob store's index {path} is damaged",
        why,
        "start meshd again: it sets the damaged file aside and begins an empty store; blobs are fetched again from"
        " other members that have them",
    )


def _prepare(path: Path, connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA fullfsync = ON")  # macOS: fsync alone stops at the drive's cache
    connection.execute("PRAGMA temp_store = MEMORY")
    # Whole at once: a cursor in the traceback of an error would keep a closed connection open.
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()}
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    if version > VERSION:
        raise StoreError(
            f"the blob store's index {path} was written by a newer meshd",
            f"its schema is version {version}, this meshd knows those up to {VERSION}",
            "start the newer version again, or choose another --state-dir; nothing was changed",
        )
    if version and not tables >= _TABLES:
        raise damaged(path, f"it lacks its table {', '.join(sorted(_TABLES - tables))}")
    if not version and tables:
        raise StoreError(
            f"the blob store's index {path} is none",
            f"it is a database that holds other tables: {', '.join(sorted(tables))}",
            "move it away, or choose another --state-dir; nothing was changed",
        )
    ((mode,),) = connection.execute("PRAGMA journal_mode = WAL").fetchall()
    if mode != "wal":
        raise StoreError(
            f"the blob store's index {path} cannot be used",
            "its file system offers no write-ahead log",
            "choose a --state-dir on a local disk",
        )
    if not version:
        connection.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.execute("COMMIT")
    connection.execute(_LISTED)
