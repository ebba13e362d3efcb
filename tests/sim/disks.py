"""Disks: a journal that is synced later than it was appended to, slowly, not at all, or with an error.

As ``mesh.shell.journal``: one writer, which takes all that is queued; what fails is tried again until it works. What
a crash leaves is what was written, which may be more than the machine was told.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from mesh.core import effects as do
from mesh.core import events as ev
from mesh.core.compaction import rewritten, useful
from mesh.core.ids import TaskId, job_of
from mesh.core.lattice import SUCCEEDED, Acceptance, Attempt, Claimed, Deleted, Ended, Record, Run, Task
from mesh.core.ledger import Ledger
from mesh.core.messages import Cursor, Pulled

if TYPE_CHECKING:
    from tests.sim.world import Host, World

SLICE = 50  # records per Pulled: small, so that transfers take several messages
RETRY = 0.5
Batch = list[do.Persist]


class Row(NamedTuple):
    """What one append left: ``digest`` stands for the content of the journal up to here."""

    last: int
    digest: str
    source: Cursor
    records: tuple[Record, ...]


class Disk:
    def __init__(self, world: World, host: Host, journal: str) -> None:
        self.world, self.host, self.journal = world, host, journal
        self.rows: list[Row] = []
        self.records: list[Record] = []
        self.known: set[tuple[object, ...]] = set()  # keys of records on disk, see key()
        self.paces = world.rng.choice(((0.0005, 0.002), (0.001, 0.004), (0.002, 0.02, 0.1)))
        self.slow = 1.0
        self.slow_until = 0.0  # when the last write ends that was slow
        self.stuck_until = 0.0
        self.failing_until = 0.0
        self._told_failed = False
        self._queue: Batch = []
        self._writing: Batch | None = None
        self._parked: dict[str, do.ServePull] = {}
        self.lives: list[tuple[str, int]] = []  # the journal's id in each life, and the position that it began after

    def start(self) -> tuple[list[Record], list[Cursor], list[Cursor]]:
        """What a new process finds: its records, how far each life of it reached, and what it holds of others'."""
        self._queue, self._writing, self._told_failed, self._parked = [], None, False, {}
        self.lives = [life for life in self.lives if life[1] < len(self.records)]
        if self.world.plan.compacts and self.rows:
            self._compact()
        end = len(self.records)
        self.lives.append((f"{self.host.name}/{self.host.life}", end))
        self.journal = self.lives[-1][0]
        own = [Cursor(journal, reached, "") for journal, reached in self._reaches()]
        return list(self.records), own, self._cursors()

    def _cursors(self) -> list[Cursor]:
        furthest = {row.source.journal: row.source for row in self.rows if row.source.journal}
        return [furthest[journal] for journal in sorted(furthest)]

    def _reaches(self) -> list[tuple[str, int]]:
        ends = [after for _, after in self.lives[1:]] + [len(self.records)]
        return [(journal, end) for (journal, _), end in zip(self.lives, ends, strict=True)]

    def _compact(self) -> None:
        """As ``mesh.node.compaction`` with ``mesh.shell.journal_compact``."""
        ledger = Ledger()
        for record in self.records:
            ledger.join(record)
        base = self.lives[-1][0] if self.lives else f"{self.host.life}/none"
        rows = [(Cursor(base, row.last, row.digest), row.records) for row in self.rows]
        found = list(rewritten(list(useful(ledger)), rows, self._cursors()))
        self.rows, self.records, self.known, self.lives = [], [], set(), []
        for source, records in found:
            self._add(source, tuple(records))

    def crash(self) -> None:
        """What was being written may have arrived, although nobody was told."""
        if self._writing and not self._troubled() and self.world.rng.random() < 0.3:
            self._store(self._writing)
        self._queue, self._writing = [], None

    def close(self) -> None:
        """In an orderly end what is queued is written, with one try."""
        if not self._troubled():
            self._store((self._writing or []) + self._queue)
        self._queue, self._writing = [], None

    def has_task(self, task: TaskId) -> bool:
        """Or that its job was deleted, which is all that counts then."""
        return ("task", task) in self.known or ("deleted", job_of(task)) in self.known

    def copy_of(self, other: Disk) -> None:
        self.rows, self.records, self.known = list(other.rows), list(other.records), set(other.known)
        self.lives = list(other.lives)

    def rewind(self, rows: int) -> None:
        """A backup is restored, of the time when there were so many rows."""
        self.rows = self.rows[:rows]
        self.records = [record for row in self.rows for record in row.records]
        self.known = {each for record in self.records for each in _keys(record)}
        self.lives = [life for life in self.lives if life[1] <= len(self.records)]

    def append(self, persist: do.Persist) -> None:
        self._queue.append(persist)
        if self._writing is None:
            self._write()

    def serve(self, pull: do.ServePull) -> None:
        """As the driver and ``mesh.shell.journal`` do it between them."""
        mine = {journal for journal, _ in self.lives}
        right = [cursor for cursor in pull.cursors if cursor.journal in mine and self._right(cursor)]
        pull = pull._replace(cursors=(*(c for c in pull.cursors if c.journal not in mine), *right))
        if right:
            position = max(cursor.position for cursor in right)
            self.world.after(0.0, self._tell, self.host.machine, ev.SuccessorSynced(pull.to, position))
        self._parked.pop(pull.to, None)
        self._answer(pull)

    def _tell(self, machine: object, event: ev.Event) -> None:
        if self.host.machine is machine and self.host.asleep_since is None:
            self.world.feed(self.host, event)

    def _right(self, cursor: Cursor) -> bool:
        if cursor.position > dict(self._reaches())[cursor.journal]:
            return False
        return not cursor.position or any((row.last, row.digest) == cursor[1:] for row in reversed(self.rows))

    def _answer(self, pull: do.ServePull) -> None:
        mine = {journal for journal, _ in self.lives}
        after = max((cursor.position for cursor in pull.cursors if cursor.journal in mine), default=0)
        read = {cursor.journal: cursor.position for cursor in pull.cursors}
        position, digest, end = after, "", True
        records: list[Record] = []
        for row in self.rows[bisect_right(self.rows, after, key=lambda row: row.last) :]:
            if len(records) >= SLICE:
                end = False
                break
            if not row.source.journal or row.source.position > read.get(row.source.journal, -1):
                records += row.records
            position, digest = row.last, row.digest
        if pull.wait and position == after:
            self._parked[pull.to] = pull
            return
        if position == after and after:
            digest = next(row.digest for row in reversed(self.rows) if row.last == after)
        cursor = Cursor(self.journal, position, digest)
        self.world.net.send(self.host, pull.to, Pulled(pull.session, cursor, end, tuple(records)))

    def well_for(self) -> float:
        """Seconds since it last failed or was stuck; negative while it is."""
        return self.world.now - max(self.stuck_until, self.failing_until)

    def _troubled(self) -> bool:
        return self.well_for() < 0

    def _write(self) -> None:
        self._writing, self._queue = self._queue, []
        delay = self.world.rng.choice(self.paces) * self.slow
        if self.slow > 1.0:
            self.slow_until = max(self.slow_until, self.world.now + delay)
        self.world.at(max(self.world.now, self.stuck_until) + delay, self._written, self.host.machine, self._writing)

    def _written(self, machine: object, batch: Batch) -> None:
        if self.host.machine is not machine or self._writing is not batch:
            return
        if self.host.asleep_since is not None:
            self.world.after(1.0, self._written, machine, batch)
            return
        if self.world.now < self.failing_until:
            if not self._told_failed:
                self._told_failed = True
                self.world.feed(self.host, ev.JournalFailed("no space left on device"))
            self.world.after(RETRY, self._written, machine, batch)
            return
        self._store(batch)
        self._writing = None
        if self._told_failed:
            self._told_failed = False
            self.world.feed(self.host, ev.JournalFailed(""))
        self.world.feed(self.host, ev.JournalSynced(batch[-1].position))
        for pull in list(self._parked.values()):
            del self._parked[pull.to]
            self._answer(pull)
        if self._queue and self._writing is None and self.host.machine is machine:
            self._write()

    def _store(self, batch: Batch) -> None:
        for persist in batch:
            self._add(persist.source, persist.records)
            assert len(self.records) == persist.position, f"{self.host.name}: a hole before {persist.position}"

    def _add(self, source: Cursor, records: tuple[Record, ...]) -> None:
        self.world.appends += 1
        self.records.extend(records)
        self.rows.append(Row(len(self.records), f"{self.world.appends}", source, records))
        for record in records:
            self.known.update(_keys(record))


def _keys(record: Record) -> Iterator[tuple[object, ...]]:
    yield key(record)
    if type(record) is Attempt and record.ended and record.phase == SUCCEEDED:
        yield "success", record.task


def key(record: Record) -> tuple[object, ...]:
    """What identifies the fact that a record states, for those facts that promises depend on."""
    match record:
        case Attempt():
            return ("attempt", record.id, record.ended)
        case Acceptance():
            return ("acceptance", record.task, record.attempt)
        case Ended():
            return ("ended", record.task, record.run)
        case Run():
            return ("run", record.task, record.run, record.cancelled)
        case Task():
            return ("task", record.id)
        case Deleted():
            return ("deleted", record.job)
        case Claimed():
            return ("claim", record.claim.term, record.claim.leader, record.claim.life)
    return ()
