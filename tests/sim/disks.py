"""Disks: a journal that is synced later than it was appended to, slowly, not at all, or with an error.

As ``mesh.shell.journal``: one writer, which takes all that is queued; what fails is tried again until it works. What
a crash leaves is what was written, which may be more than the machine was told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.core import effects as do
from mesh.core import events as ev
from mesh.core.lattice import SUCCEEDED, Acceptance, Attempt, Claimed, Ended, Record, Run, Task
from mesh.core.messages import Pulled

if TYPE_CHECKING:
    from tests.sim.world import Host, World

SLICE = 50  # records per Pulled: small, so that transfers take several messages
RETRY = 0.5
Batch = list[tuple[int, tuple[Record, ...]]]


class Disk:
    def __init__(self, world: World, host: Host, journal: str) -> None:
        self.world, self.host, self.journal = world, host, journal
        self.records: list[Record] = []
        self.known: set[tuple[object, ...]] = set()  # keys of records on disk, see key()
        self.paces = world.rng.choice(((0.0005, 0.002), (0.001, 0.004), (0.002, 0.02, 0.1)))
        self.slow = 1.0
        self.stuck_until = 0.0
        self.failing_until = 0.0
        self._told_failed = False
        self._queue: Batch = []
        self._writing: Batch | None = None

    def start(self) -> list[Record]:
        self._queue, self._writing, self._told_failed = [], None, False
        return list(self.records)

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

    def append(self, position: int, records: tuple[Record, ...]) -> None:
        self._queue.append((position, records))
        if self._writing is None:
            self._write()

    def serve(self, pull: do.ServePull) -> None:
        after = pull.position if pull.journal == self.journal else 0
        records = tuple(self.records[after : after + SLICE])
        last = min(after, len(self.records)) + len(records)
        end = last >= len(self.records)
        self.world.net.send(self.host, pull.to, Pulled(pull.session, self.journal, last, end, records))

    def well_for(self) -> float:
        """Seconds since it last failed or was stuck; negative while it is."""
        return self.world.now - max(self.stuck_until, self.failing_until)

    def _troubled(self) -> bool:
        return self.well_for() < 0

    def _write(self) -> None:
        self._writing, self._queue = self._queue, []
        delay = self.world.rng.choice(self.paces) * self.slow
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
        self.world.feed(self.host, ev.JournalSynced(batch[-1][0]))
        if self._queue and self._writing is None and self.host.machine is machine:
            self._write()

    def _store(self, batch: Batch) -> None:
        for position, records in batch:
            self.records.extend(records)
            assert len(self.records) == position, f"{self.host.name}: the journal has a hole before {position}"
            self.known.update(map(key, records))
            self.known.update(
                ("success", r.task) for r in records if type(r) is Attempt and r.ended and r.phase == SUCCEEDED
            )


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
        case Claimed():
            return ("claim", record.claim.term, record.claim.leader, record.claim.life)
    return ()
