"""What one step wants done, in order, and what must wait until it is durable, or safe.

``Persist`` leaves before anything that was said in the same step. *Durable* is what is on this disk; *safe* is what is
on a successor's disk as well, where one counts (``copies`` says how far). Claims and reports wait for the former;
acknowledgements and whatever is shown wait for the latter.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from mesh.core.effects import Answer, Effect, Notice, Persist, Released, Send
from mesh.core.ids import NodeId
from mesh.core.lattice import Record
from mesh.core.ledger import Ledger
from mesh.core.messages import NO_CURSOR, Cursor, Message

ABANDONED = "another node leads now, and whether this was written there is not known; try again, it is not done twice"

Waiting = deque[tuple[int, Effect | Callable[[], None]]]


class Outbox:
    """Collects the effects of the step under way. ``record`` joins and journals in one go: there is no other way in."""

    def __init__(self, node: NodeId, ledger: Ledger, position: int) -> None:
        self.node = node
        self.ledger = ledger
        self.position = position  # of the last record given to the journal
        self.synced = self.safe = position
        self.holders: Callable[[int], tuple[NodeId, ...]] = lambda position: ()  # others that have all up to there
        self.local: deque[Message] = deque()  # to ourselves: delivered within the step
        self._records: list[tuple[Cursor, list[Record]]] = []  # by the journal that they came from
        self._count = 0
        self._effects: list[Effect] = []
        self._durable: Waiting = deque()
        self._safe: Waiting = deque()
        self._released = position

    def record(self, record: Record) -> bool:
        if not self.ledger.join(record):
            return False
        self._add([record], NO_CURSOR)
        return True

    def absorb(self, records: tuple[Record, ...], source: Cursor) -> list[Record]:
        """Record what was pulled from another journal, up to there; those that changed anything are returned."""
        join = self.ledger.join
        changed = [record for record in records if join(record)]
        self._add(changed, source)
        return changed

    def _add(self, records: list[Record], source: Cursor) -> None:
        if records and (not self._records or self._records[-1][0] != source):
            self._records.append((source, []))
        if records:
            self._records[-1][1].extend(records)
            self._count += len(records)

    def do(self, effect: Effect) -> None:
        self._effects.append(effect)

    def send(self, to: NodeId, message: Message) -> None:
        if to == self.node:
            self.local.append(message)
        else:
            self._effects.append(Send(to, message))

    def note(self, level: str, event: str, **fields: str | int | float) -> None:
        self._effects.append(Notice(level, event, tuple(fields.items())))

    @property
    def recorded(self) -> int:
        """The position of the last record, this step's included."""
        return self.position + self._count

    @property
    def durable(self) -> bool:
        """Whether everything recorded so far, this step included, is on this disk."""
        return self.synced >= self.recorded

    def when_durable(self, effect: Effect | Callable[[], None]) -> None:
        """Do this once everything recorded until now is on this disk; at once if it is."""
        if self.synced >= self.recorded:
            self._carry_out(effect)
        else:
            self._durable.append((self.recorded, effect))

    def when_safe(self, effect: Effect | Callable[[], None]) -> None:
        """Do this once everything recorded until now is safe. An Answer says on which nodes it is by then."""
        if self.safe >= self.recorded:
            self._carry_out(self._located(effect, self.recorded))
        else:
            self._safe.append((self.recorded, effect))

    def on_synced(self, position: int) -> None:
        assert position <= self.position, f"the journal synced {position}, but only {self.position} were given to it"
        self.synced = max(self.synced, position)
        while self._durable and self._durable[0][0] <= self.synced:
            self._carry_out(self._durable.popleft()[1])

    def release(self, position: int) -> None:
        """Everything up to there is safe. What was released stays so: later losses of copies take nothing back."""
        self.safe = max(self.safe, min(position, self.synced))
        while self._safe and self._safe[0][0] <= self.safe:
            last, effect = self._safe.popleft()
            self._carry_out(self._located(effect, last))

    def abandon(self) -> None:
        """Nobody waits any more for what is not safe: who asked is told to ask again."""
        waiting, self._safe = self._safe, deque()
        for _, effect in waiting:
            if isinstance(effect, Answer):
                self._effects.append(Answer(effect.call, "NoLeader", ABANDONED))

    def _located(self, effect: Effect | Callable[[], None], position: int) -> Effect | Callable[[], None]:
        """An answer, with the nodes that have what it answers for."""
        return effect._replace(durable_on=self.durable_on(position)) if isinstance(effect, Answer) else effect

    def _carry_out(self, effect: Effect | Callable[[], None]) -> None:
        if callable(effect):
            effect()
        else:
            self._effects.append(effect)

    def durable_on(self, position: int) -> tuple[NodeId, ...]:
        """The nodes that have everything up to there on disk, this one first."""
        return (self.node, *self.holders(position))

    def flush(self) -> list[Effect]:
        """The step is over: what is to be done, the journal first."""
        effects, self._effects = self._effects, []
        if self._records:
            persists: list[Effect] = []
            for source, records in self._records:
                self.position += len(records)
                persists.append(Persist(self.position, tuple(records), source))
            effects = persists + effects
            self._records, self._count = [], 0
        if self.safe > self._released:
            self._released = self.safe
            effects.append(Released(self.safe))
        return effects
