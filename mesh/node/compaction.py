"""When a journal is written anew, and what the log says of it.

Only at a start: nobody reads or writes the journal then, and all of it was just read.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from mesh.core.compaction import rewritten, unneeded, useful
from mesh.core.ledger import Ledger
from mesh.shell.journal import Journal
from mesh.shell.journal_compact import compact, discard
from mesh.shell.journal_file import JournalError

log = logging.getLogger("mesh")

LEAST = 32 * 2**20  # bytes of a journal that is worth it: about a second to read, and what a disk does not notice


def compacted(path: Path, journal: Journal, ledger: Ledger, least: int = LEAST) -> Journal | None:
    """The new journal, where more than half of the old one's records are of no use; the old one is closed then.

    ``ledger`` is what was joined of the journal, which was not started. Where it cannot be written anew, it is used as
    it is, and the log says why. Raises JournalError where the journal cannot be opened again.
    """
    before, size = journal.position, path.stat().st_size
    if size < least:
        return None
    began = time.monotonic()
    if 2 * unneeded(ledger, before) <= before:
        return None
    wanted = list(useful(ledger))
    cursors = journal.cursors()
    try:
        smaller = compact(path, journal, lambda rows: rewritten(wanted, rows, cursors))
    except JournalError as error:
        log.warning("%s", error, extra={"event": "journal_not_compacted"})
        journal.close()
        try:
            discard(path)
        except OSError:
            log.warning("%s.compacting cannot be removed", path)
        return Journal.open(path)
    fields = {
        "records_before": before,
        "records": smaller.position,
        "bytes_before": size,
        "bytes": path.stat().st_size,
        "seconds": round(time.monotonic() - began, 3),
    }
    text = " ".join(f"{key}={value}" for key, value in fields.items())
    log.info("the journal was written anew: %s", text, extra={"event": "journal_compacted", "fields": fields})
    return smaller
