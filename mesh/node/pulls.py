"""What other nodes pull from this node's journal: slices to those who lag behind, news to those who wait.

Owns the pulls that wait, and the reading of slices beside the loop, one ahead of what is asked for. It must not know
what a record means, nor who leads.
What a puller has read of a history that was undone here, by a backup that was put back, counts for nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from mesh.core.effects import ServePull
from mesh.core.events import Event, SuccessorSynced
from mesh.core.ids import NodeId
from mesh.core.messages import Cursor, Message, Pulled
from mesh.shell.journal_file import JournalError
from mesh.shell.journal_rows import Slice

log = logging.getLogger("mesh")

SLICE_BYTES = 4 * 1024 * 1024  # of records in one Pulled


class Source(Protocol):
    """The journal, as far as it is served to others."""

    def owns(self, journal: str) -> bool: ...

    def verify(self, cursor: Cursor) -> bool: ...

    def tail(self, cursors: Sequence[Cursor], limit_records: int, limit_bytes: int) -> Slice | None: ...

    def slice(self, cursors: Sequence[Cursor], limit_records: int, limit_bytes: int) -> Slice: ...


class _Ahead(NamedTuple):
    """The slice that a node will want next. It may hold what that node has from elsewhere by then, and no less."""

    cursors: tuple[Cursor, ...]  # that it will have at least
    reading: asyncio.Task[Slice]

    def fits(self, pull: ServePull) -> bool:
        """Whether it has read exactly as far here, and of others no less than was thought."""
        *others, own = self.cursors
        reached = {cursor.journal: cursor.position for cursor in pull.cursors}
        return own in pull.cursors and all(reached.get(other.journal, -1) >= other.position for other in others)


class Pulls:
    """Call it in the loop: :meth:`serve` for each pull, :meth:`on_synced` when the journal holds more."""

    def __init__(
        self,
        journal: Source,
        send: Callable[[NodeId, Message], None],
        post: Callable[[Event], None],
        slice_records: int,
    ) -> None:
        self._journal, self._send, self._post, self._slice_records = journal, send, post, slice_records
        self._waiting: dict[NodeId, ServePull] = {}
        self._reading: dict[NodeId, asyncio.Task[None]] = {}
        self._ahead: dict[NodeId, _Ahead] = {}
        self._warned: set[tuple[NodeId, str]] = set()  # of which reader, and which id of ours

    def serve(self, pull: ServePull) -> None:
        """The latest pull of a node is the one that counts."""
        self._forget(pull.to)
        try:
            wrong = [cursor for cursor in self._own(pull) if not self._journal.verify(cursor)]
        except JournalError as error:  # the machine is as it was: this is no defect of its
            _unreadable(pull, error)
            return
        for cursor in wrong:
            self._warn(pull.to, cursor)
        pull = pull._replace(cursors=tuple(cursor for cursor in pull.cursors if cursor not in wrong))
        if own := self._own(pull):
            self._post(SuccessorSynced(pull.to, max(cursor.position for cursor in own)))
        self._answer(pull)

    def _own(self, pull: ServePull) -> list[Cursor]:
        return [cursor for cursor in pull.cursors if self._journal.owns(cursor.journal)]

    def _warn(self, reader: NodeId, wrong: Cursor) -> None:
        if (reader, wrong.journal) in self._warned:  # it says so in each pull
            return
        self._warned.add((reader, wrong.journal))
        log.warning(
            "%s has read up to record %d of this journal, which does not hold it: it was restored from a backup, "
            "rewound or copied; it is served anew",
            reader, wrong.position,
            extra={"event": "journal_rewound", "fields": {"node": reader, **wrong._asdict()}},
        )  # fmt: skip

    def on_synced(self) -> None:
        for pull in list(self._waiting.values()):
            del self._waiting[pull.to]
            self._answer(pull)

    def close(self) -> None:
        for node in [*self._reading, *self._waiting]:
            self._forget(node)
        for ahead in self._ahead.values():
            ahead.reading.cancel()

    def _forget(self, node: NodeId) -> None:
        self._waiting.pop(node, None)
        reading = self._reading.pop(node, None)
        if reading is not None:
            reading.cancel()

    def _answer(self, pull: ServePull) -> None:
        found = self._journal.tail(pull.cursors, self._slice_records, SLICE_BYTES)
        if found is not None:
            self._tell(pull, found)
        else:  # from the disk, which may be slow
            self._reading[pull.to] = asyncio.get_running_loop().create_task(self._read(pull))

    async def _read(self, pull: ServePull) -> None:
        try:
            ahead = self._ahead.pop(pull.to, None)
            found = await ahead.reading if ahead is not None and ahead.fits(pull) else None
            if found is None or found.end:  # that it was the end then says nothing of now
                found = await self._slice(pull.cursors)
        except JournalError as error:
            _unreadable(pull, error)
            return
        finally:
            if self._reading.get(pull.to) is asyncio.current_task():
                del self._reading[pull.to]
        self._tell(pull, found)
        if not found.end:
            self._read_ahead(pull, found)

    async def _slice(self, cursors: tuple[Cursor, ...]) -> Slice:
        return await asyncio.to_thread(self._journal.slice, cursors, self._slice_records, SLICE_BYTES)

    def _read_ahead(self, pull: ServePull, told: Slice) -> None:
        """While it joins and writes what it was told: reading takes as long, where this node works as well."""
        others = (cursor for cursor in pull.cursors if not self._journal.owns(cursor.journal))
        cursors = (*others, told.cursor)
        reading = asyncio.get_running_loop().create_task(self._slice(cursors))
        reading.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody may ask for it
        self._ahead[pull.to] = _Ahead(cursors, reading)

    def _tell(self, pull: ServePull, found: Slice) -> None:
        start = max((cursor.position for cursor in self._own(pull)), default=0)
        if pull.wait and found.end and found.cursor.position == start:
            self._waiting[pull.to] = pull
        else:
            self._send(pull.to, Pulled(pull.session, found.cursor, found.end, found.body))


def _unreadable(pull: ServePull, error: JournalError) -> None:
    """It stays unanswered: who pulls asks again, and gives this node up after a while."""
    log.error("the journal cannot be read for %s: %s", pull.to, error, extra={"event": "journal_unreadable"})
