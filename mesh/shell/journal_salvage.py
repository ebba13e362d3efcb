"""A damaged journal: set aside as it is, and a new one begun with what is before the damage.

Owns the moving of the files, such that a kill at any point loses nothing that was there. It must not decide that a
journal is damaged: opening and reading it say so, and whoever hears that calls :func:`salvage`.

The new journal keeps the lives of the old one as far as its rows go, and each row its source: what others read of those
is still here, and only what is missing is pulled from other members.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from mesh.shell.journal_file import (
    ADD_LIFE,
    INSERT,
    PARTS,
    JournalCorrupt,
    JournalError,
    JournalTooNew,
    as_values,
    beside,
    check_size,
    connect,
    decode,
    explain,
    migrate,
    parts,
    read_lives,
    read_rows,
    rows_of_version_1,
    sync_directory,
    transaction,
)
from mesh.shell.journal_rows import Life, Row


class Salvaged(NamedTuple):
    aside: Path  # where the damaged file lies now, its log beside it
    records: int  # that were kept


def salvage(path: Path, stamp: str) -> Salvaged:
    """Replace the closed, damaged journal; ``stamp`` is the time for its new name. Raises JournalError.

    Where that is raised, the damaged journal is still in its place. Waits for the disk.
    """
    building, built = beside(path, ".salvaging"), beside(path, ".salvaged")
    try:
        for leftover in (building, built):
            for file in (leftover, *parts(leftover)):
                file.unlink(missing_ok=True)
        records = _build(path, building)
        for part in parts(building):
            part.unlink(missing_ok=True)
        building.rename(built)
        aside = _unused(path, stamp)
        _move(path, aside)
        _put(built, path)
    except sqlite3.Error as error:
        raise explain(building, error) from error
    except OSError as error:
        raise _immovable(path, error) from error
    return Salvaged(aside, records)


def finish(path: Path) -> None:
    """What a life that was killed in :func:`salvage` left to do. Call it before a journal is opened."""
    built = beside(path, ".salvaged")
    try:
        if path.exists() or not built.exists():
            return
        asides = [aside for aside in set_aside(path) if not beside(aside, "-wal").exists()]
        if any(part.exists() for part in parts(path)):  # never to be taken for the log of the new one
            _move(path, asides[-1] if asides else _unused(path, "unknown"))
        _put(built, path)
    except OSError as error:
        raise _immovable(path, error) from error


def set_aside(path: Path) -> list[Path]:
    """The damaged journals that lie beside it, oldest first."""
    found = path.parent.glob(f"{path.name}.damaged-*")
    return sorted(file for file in found if not file.name.endswith(PARTS))


def _build(path: Path, building: Path) -> int:
    last = 0
    with closing(connect(building)) as target:
        migrate(building, target)
        with transaction(target):
            target.execute("DELETE FROM lives")
            if not _too_small(path):
                for row in _intact(path):
                    target.execute(INSERT, as_values(row))
                    last = row.last
                target.executemany(ADD_LIFE, (life for life in _lives(path) if life.after < last))
        target.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()  # the file alone is moved
    return last


def _too_small(path: Path) -> bool:
    """To be looked at without changing it."""
    try:
        check_size(path)
    except JournalCorrupt:
        return True
    return not path.exists()


def _intact(path: Path) -> Iterator[Row]:
    """The rows before the first damage, of either version."""
    try:
        with closing(connect(path)) as source:
            columns = source.execute("PRAGMA table_info(batches)").fetchall()
            first = any(column[1] == "crc" for column in columns)
            for row in rows_of_version_1(path, source, "batches") if first else read_rows(path, source):
                decode(path, row)
                yield row
    except (JournalCorrupt, JournalTooNew):
        return
    except sqlite3.Error as error:
        if not _is_damage(path, error):
            raise explain(path, error) from error


def _lives(path: Path) -> list[Life]:
    """None where they cannot be read, as in version 1: then what others read is read by them once more."""
    try:
        with closing(connect(path)) as source:
            return read_lives(path, source)
    except (JournalCorrupt, sqlite3.Error):
        return []


def _is_damage(path: Path, error: sqlite3.Error) -> bool:
    """A table that is missing is; a lock that somebody holds, or a disk that does not answer, is none."""
    gone = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR
    return gone or isinstance(explain(path, error), JournalCorrupt)


def _move(path: Path, aside: Path) -> None:
    """The file first: where it is missing, :func:`finish` knows what was going on."""
    for suffix in ("", *PARTS):
        file = beside(path, suffix)
        if file.exists():
            file.rename(beside(aside, suffix))
    sync_directory(path.parent)


def _put(built: Path, path: Path) -> None:
    built.rename(path)
    sync_directory(path.parent)


def _unused(path: Path, stamp: str) -> Path:
    aside, number = beside(path, f".damaged-{stamp}"), 1
    while any(file.exists() for file in (aside, *parts(aside))):
        number += 1
        aside = beside(path, f".damaged-{stamp}.{number}")
    return aside


def _immovable(path: Path, error: OSError) -> JournalError:
    return JournalError(
        f"the damaged journal {path} cannot be set aside",
        str(error),
        "is its directory writable, with space left? Then start meshd again",
    )
