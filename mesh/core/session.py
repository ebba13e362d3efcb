"""What the leader keeps of one worker under one claim: orders until they are applied, attempts until they end."""

from __future__ import annotations

from collections import deque

from mesh.core.ids import AttemptId, Claim, Life, NodeId, TaskId
from mesh.core.lattice import Attempt, Resources
from mesh.core.messages import Grant, Orders, Report
from mesh.core.outbox import Outbox
from mesh.core.params import Params

NOT_SENT = 1 << 62
ORDER_BYTES = 1 << 20  # payloads in one message, so that a heartbeat never waits behind more


class Talk:
    """Which sessions have something to say, and which wait to hear that it arrived: of 1,000 a step looks at few."""

    __slots__ = ("speaking", "unheard")

    def __init__(self) -> None:
        self.speaking: set[NodeId] = set()
        # When their orders were sent. Who repeats them waits equally long for each, so the first is the next.
        self.unheard: dict[NodeId, float] = {}

    def due(self, params: Params, now: float) -> list[NodeId]:
        """Those that speak, or repeat themselves."""
        due = set(self.speaking)
        for node, sent in self.unheard.items():
            if now - sent < params.resend_after:
                break
            due.add(node)
        return sorted(due)

    def deadline(self, params: Params) -> float | None:
        """When the next one repeats itself."""
        return next(iter(self.unheard.values())) + params.resend_after if self.unheard else None

    def forget(self, node: NodeId) -> None:
        self.speaking.discard(node)
        self.unheard.pop(node, None)

    def clear(self) -> None:
        self.speaking.clear()
        self.unheard.clear()


class Session:
    """Orders are numbered from 1 and applied in order; those that a report does not cover are sent again.

    The worker numbers its sessions, one for each declaration, so that neither side takes orders or counts of an
    earlier one for its own. The first orders, empty where nothing is granted, say that the declaration arrived.
    """

    def __init__(self, node: NodeId, life: Life, number: int, talk: Talk) -> None:
        """``talk``: where this one says that it has something to say."""
        self._talk = talk
        self.node, self.life, self.number = node, life, number
        self.seq = self.applied = 0
        self.complete = False  # its declaration was dealt with
        self.declared_whole = False  # all slices of it are here, and it was not dealt with yet
        self._slices: set[int] = set()
        self.declared: dict[AttemptId, Attempt] = {}
        self.open: dict[AttemptId, tuple[TaskId, Resources, tuple[str, ...], int]] = {}  # and the seq of its grant
        self.strangers: dict[AttemptId, Attempt] = {}  # as last reported, at tasks that the leader does not know
        self._unapplied: deque[Orders] = deque()
        self._sent_at = 0.0
        self._grants: list[tuple[Grant, Resources]] = []
        self._recalls: dict[AttemptId, str] = {}
        self._recalled: set[AttemptId] = set()

    def on_report(self, report: Report) -> None:
        if report.applied > self.applied:
            self.applied = min(report.applied, self.seq)
        while self._unapplied and self._unapplied[0].seq <= self.applied:
            self._unapplied.popleft()
        if not self._unapplied:
            self._talk.unheard.pop(self.node, None)
        if report.declares and not self.complete:
            self.declared.update((attempt.id, attempt) for attempt in report.attempts)
            self._slices.add(report.declares)
            self.declared_whole = len(self._slices) == report.slices

    def uncounted(self) -> list[tuple[Resources, tuple[str, ...]]]:
        """What was granted and the last bid could not count yet."""
        return [(need, devices) for _task, need, devices, seq in self.open.values() if seq > self.applied]

    def grant(self, grant: Grant, need: Resources) -> None:
        self._grants.append((grant, need))
        self._talk.speaking.add(self.node)

    def reserve(self, grant: Grant, need: Resources) -> None:
        """It is granted once it is on disk. No report covers the number that stands for it until then."""
        self.open[grant.attempt] = (grant.task.id, need, grant.devices, NOT_SENT)

    def wants(self, attempt: AttemptId) -> bool:
        """Whether what was reserved is still to be granted."""
        return attempt in self.open and attempt not in self._recalled

    def recall(self, attempt: AttemptId, reason: str) -> None:
        if attempt not in self._recalled:
            self._recalled.add(attempt)
            self._recalls[attempt] = reason
            self._talk.speaking.add(self.node)

    def answer(self, claim: Claim, acks: tuple[AttemptId, ...], unknown: tuple[AttemptId, ...]) -> Orders:
        """Outside the numbering: if it is lost, the worker reports again."""
        self._recalled.difference_update(acks)
        return Orders(claim, 0, (), (), acks, unknown, self.number)

    def send(self, claim: Claim, params: Params, out: Outbox, now: float) -> None:
        """What was decided in this step; and again what was not applied in time."""
        while self._grants or self._recalls or (self.complete and not self.seq):
            part: list[Grant] = []
            size = 0
            for grant, need in self._grants:
                if size > ORDER_BYTES or len(part) >= params.slice_records:
                    break
                size += len(grant.task.payload)
                part.append(grant)
                self.open[grant.attempt] = (grant.task.id, need, grant.devices, self.seq + 1)
            del self._grants[: len(part)]
            self.seq += 1
            recalls, self._recalls = tuple(self._recalls.items()), {}
            orders = Orders(claim, self.seq, tuple(part), recalls, (), (), self.number)
            if not self._unapplied:
                self._sent(now)
            self._unapplied.append(orders)
            out.send(self.node, orders)
        if self._unapplied and now - self._sent_at >= params.resend_after:
            self._sent(now)
            for orders in self._unapplied:
                out.send(self.node, orders)
        self._talk.speaking.discard(self.node)

    def _sent(self, now: float) -> None:
        self._sent_at = now
        self._talk.unheard.pop(self.node, None)
        self._talk.unheard[self.node] = now

    def deadline(self, params: Params) -> float | None:
        return self._sent_at + params.resend_after if self._unapplied else None
