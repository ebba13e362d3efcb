"""What one step wants done, in order, and what must wait until it is durable.

``Persist`` leaves before anything that was said in the same step. What may only be said once its records are on disk
(acknowledgements, acceptances shown, claims used) is queued here against the journal position it depends on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from mesh.core.effects import Effect, Notice, Persist, Send
from mesh.core.ids import NodeId
from mesh.core.lattice import Record
from mesh.core.ledger import Ledger
from mesh.core.messages import Message


class Outbox:
    """Collects the effects of the step under way. ``record`` joins and journals in one go: there is no other way in."""

    def __init__(self, node: NodeId, ledger: Ledger, position: int) -> None:
        self.node = node
        self.ledger = ledger
        self.position = position  # of the last record given to the journal
        self.synced = position
        self.copies: dict[NodeId, int] = {}  # node -> position up to which it has this journal on its disk
        self.local: deque[Message] = deque()  # to ourselves: delivered within the step
        self._records: list[Record] = []
        self._effects: list[Effect] = []
        self._waiting: deque[tuple[int, Effect | Callable[[], None]]] = deque()

    def record(self, record: Record) -> bool:
        if not self.ledger.join(record):
            return False
        self._records.append(record)
        return True

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
    def durable(self) -> bool:
        """Whether everything recorded so far, this step included, is on disk."""
        return not self._records and self.synced >= self.position

    def durable_on(self) -> tuple[NodeId, ...]:
        """The nodes that have everything recorded so far on disk, once it is synced here."""
        last = self.position + len(self._records)
        return (self.node, *sorted(node for node, position in self.copies.items() if position >= last))

    def when_durable(self, effect: Effect | Callable[[], None]) -> None:
        """Do this once everything recorded until now is on disk; at once if it is."""
        if not self.durable:
            self._waiting.append((self.position + len(self._records), effect))
        elif callable(effect):
            effect()
        else:
            self._effects.append(effect)

    def on_synced(self, position: int) -> None:
        assert position <= self.position, f"the journal synced {position}, but only {self.position} were given to it"
        self.synced = max(self.synced, position)
        while self._waiting and self._waiting[0][0] <= self.synced:
            effect = self._waiting.popleft()[1]
            if callable(effect):
                effect()
            else:
                self._effects.append(effect)

    def flush(self) -> list[Effect]:
        """The step is over: what is to be done, the journal first."""
        effects, self._effects = self._effects, []
        if self._records:
            self.position += len(self._records)
            effects.insert(0, Persist(self.position, tuple(self._records)))
            self._records = []
        return effects
