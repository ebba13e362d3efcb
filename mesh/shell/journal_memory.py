"""The journal's memory twin: the same contract without a disk, for simulations and tests, and to read it by.

Nothing is synced until :meth:`MemoryJournal.sync` says so, and :meth:`MemoryJournal.crash` forgets the rest: what a
process that was killed finds when it starts again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from mesh.core.lattice import Record


class MemoryJournal:
    def __init__(self, id: str = "memory") -> None:
        self.id = id
        self.failure = ""  # set it, and syncs fail with this reason
        self._failed = False
        self._synced: list[Record] = []
        self._pending: list[Record] = []
        self._on_synced: Callable[[int], object] | None = None
        self._on_failed: Callable[[str], object] | None = None
        self._deliver: Callable[..., object] | None = None

    @property
    def position(self) -> int:
        """Of the last synced record; 0 where there is none."""
        return len(self._synced)

    def start(
        self,
        deliver: Callable[..., object],
        on_synced: Callable[[int], object],
        on_failed: Callable[[str], object],
    ) -> None:
        assert self._deliver is None, "started twice"
        self._deliver, self._on_synced, self._on_failed = deliver, on_synced, on_failed

    def append(self, position: int, records: Sequence[Record]) -> None:
        assert records, "an append of nothing has no position"
        expected = len(self._synced) + len(self._pending) + len(records)
        assert position == expected, f"{len(records)} records end at position {expected}, not {position}"
        self._pending += records

    def sync(self) -> int:
        """Make durable what is pending, unless :attr:`failure` forbids it, and tell; returns the position synced."""
        if self.failure:
            if self._pending and not self._failed:
                self._failed = True
                self._tell(self._on_failed, self.failure)
            return len(self._synced)
        if self._failed:
            self._failed = False
            self._tell(self._on_failed, "")
        if self._pending:
            self._synced += self._pending
            self._pending = []
            self._tell(self._on_synced, len(self._synced))
        return len(self._synced)

    def crash(self) -> None:
        """Forget what was not synced, and who was to be told: the process is gone."""
        self._pending = []
        self._failed = False
        self._deliver = self._on_synced = self._on_failed = None

    def read(self, after: int, limit: int) -> tuple[list[Record], int, bool]:
        assert limit > 0, "a slice of nothing never ends"
        found = self._synced[after : after + limit]
        last = min(after, len(self._synced)) + len(found)
        return found, last, last == len(self._synced)

    def records(self) -> Iterator[Record]:
        return iter(tuple(self._synced))

    def close(self) -> None:
        """Sync with one try; what cannot be synced is gone."""
        self.sync()
        self.crash()

    def _tell(self, callback: Callable[..., object] | None, argument: object) -> None:
        if self._deliver is not None:
            self._deliver(callback, argument)
