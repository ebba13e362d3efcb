"""A journal that is written anew with fewer records, in the place of the old one.

Owns the new file and the moment in which it takes the old one's name: a kill at any point leaves the one or the other.
It must not decide which records are of use, nor when writing them anew is worth it.

The new journal has none of the old one's lives, for its positions are others. Its rows are said to come from the last
of these: who had read that one to the end, or as far as a row, is not sent it again.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

from mesh.core.lattice import Record
from mesh.core.messages import NO_CURSOR, Cursor
from mesh.shell.journal import Journal
from mesh.shell.journal_file import (
    INSERT,
    JournalError,
    as_values,
    beside,
    connect,
    decode,
    explain,
    migrate,
    parts,
    read_rows,
    sync_directory,
)
from mesh.shell.journal_rows import ROW_BYTES, ROW_RECORDS, Row, chain
from mesh.wire.ledger import encode_records

Rows: TypeAlias = Iterable[tuple[Cursor, Iterable[Record]]]


def compact(path: Path, journal: Journal, rewrite: Callable[[Rows], Rows]) -> Journal:
    """The new one, opened; the journal that was given is closed, or was never started and is still good.

    ``rewrite`` is given the rows, each with the cursor after it, and gives those of the new one, each with its source.
    Raises JournalError where there is no new one: then the old one is as it was, and whoever asked opens it again.
    """
    building = beside(path, ".compacting")
    try:
        discard(path)
        _build(path, building, _last_written(journal), rewrite)
        journal.close()
        for log in parts(path):
            # SQLite would take it for the new file's. It removes its log where the last connection to a file closes.
            if log.exists() and log.stat().st_size:
                raise JournalError(
                    f"the journal {path} cannot be written anew",
                    f"another process has it open: {log.name} is still there",
                    "it is used as it is",
                )
        for part in (*parts(path), *parts(building)):
            part.unlink(missing_ok=True)
        os.replace(building, path)
        sync_directory(path.parent)
    except sqlite3.Error as error:
        raise explain(building, error) from error
    except OSError as error:
        raise JournalError(f"the journal {path} cannot be written anew", str(error), "it is used as it is") from error
    return Journal.open(path)


def _last_written(journal: Journal) -> str:
    """The life that wrote the last row: who read us to the end has a cursor of that one."""
    *_, before, present = (NO_CURSOR, *journal.own())
    return before.journal if before.journal and before.position == present.position else present.journal


def discard(path: Path) -> None:
    """What a life that was killed while it built a new journal has left. Raises OSError."""
    building = beside(path, ".compacting")
    for leftover in (building, *parts(building)):
        leftover.unlink(missing_ok=True)


def _build(path: Path, building: Path, journal: str, rewrite: Callable[[Rows], Rows]) -> None:
    with closing(connect(path)) as source, closing(connect(building)) as target:
        migrate(building, target)
        rows = (
            (Cursor(journal, row.last, row.digest), decode(path, row)) for row in read_rows(path, source)
        )  # fmt: skip
        target.execute("BEGIN IMMEDIATE")
        target.executemany(INSERT, map(as_values, _chained(rewrite(rows))))
        target.execute("COMMIT")
        target.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()  # synced; the file alone is moved
    for part in parts(building):
        part.unlink(missing_ok=True)


def _chained(rows: Rows) -> Iterator[Row]:
    """In as few rows as the journal's own writer would make of them: each holds records of one source."""
    last, digest = 0, ""
    for source, records in _joined(rows):
        last += len(records)
        body = encode_records(records)
        digest = chain(digest, last, len(records), source, body)
        yield Row(last, len(records), digest, source, body)


def _joined(rows: Rows) -> Iterator[tuple[Cursor, list[Record]]]:
    together: list[Record] = []
    upto: Cursor | None = None
    size = 0
    for source, part in rows:
        records = list(part)
        bytes_ = len(encode_records(records))
        if upto is not None and (
            source.journal != upto.journal or len(together) + len(records) > ROW_RECORDS or size + bytes_ > ROW_BYTES
        ):
            yield upto, together
            together, size = [], 0
        together += records
        size += bytes_
        upto = source
    if upto is not None:
        yield upto, together
