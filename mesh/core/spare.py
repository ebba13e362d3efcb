"""What may go: a node that needs room asks its leader which of its blobs the ledger refers to no more.

Referred to is what people pinned, what a task reads that has not ended, and of every job that was not deleted its
tasks' checkpoints that are kept, results and logs. It is looked for when somebody asks, in slices, and counted nowhere:
room is short seldom.
"""

from __future__ import annotations

from collections.abc import Iterator

from mesh.core.checkpoints import of_task
from mesh.core.ids import BlobId, Claim, JobId, NodeId
from mesh.core.ledger import FINAL, TaskState
from mesh.core.messages import Spare, Spared
from mesh.core.outbox import Outbox
from mesh.core.params import Params

PINNED = "pinned"  # the field of a register


def pin_of(blob: BlobId) -> str:
    """The scope of its register."""
    return f"blob/{blob}"


def referred(state: TaskState) -> Iterator[BlobId]:
    """The blobs that a task refers to."""
    if state.spec is not None:
        if state.state not in FINAL:
            yield from state.spec.needs
        for checkpoint in of_task(state.tries, state.spec.shape.checkpoints):
            yield checkpoint.blob
    for attempt in state.tries:
        if attempt.outcome.blob:
            yield attempt.outcome.blob
        if attempt.outcome.log:
            yield attempt.outcome.log


class SpareBlobs:
    def __init__(self, params: Params, out: Outbox) -> None:
        self.params, self.out = params, out
        self._asked: dict[NodeId, Spare] = {}  # the last question of each
        self._search: Iterator[None] | None = None

    def ask(self, node: NodeId, question: Spare) -> None:
        """Repeated until it is answered; one search after another."""
        self._asked[node] = question

    def close(self) -> None:
        self._asked.clear()
        self._search = None

    @property
    def busy(self) -> bool:
        return bool(self._asked)

    def advance(self, claim: Claim, unknown: str) -> None:
        """One slice. ``unknown``: why there may be tasks that are not known here; then nothing may go."""
        if unknown:
            for node, question in self._asked.items():
                self.out.send(node, Spared(claim, question.number, (), unknown))
            self.close()
        elif self._asked:
            if self._search is None:
                node = next(iter(self._asked))
                self._search = self._look(node, self._asked[node], claim)
            if next(self._search, self) is self:  # it yields None until it is done
                self._search = None

    def _look(self, node: NodeId, question: Spare, claim: Claim) -> Iterator[None]:
        ledger, seen = self.out.ledger, 0
        may_go = {blob for blob in question.blobs if not ledger.value(pin_of(blob), PINNED)}
        done: set[JobId] = set()
        while may_go and (jobs := [job for job in ledger.jobs if job not in done]):  # some came meanwhile
            for job in jobs:
                done.add(job)
                of_job = ledger.jobs.get(job)
                for task in list(of_job.tasks) if of_job is not None else ():
                    state = ledger.known(task)
                    if state is not None:
                        may_go.difference_update(referred(state))
                    seen += 1
                    if seen % self.params.slice_records == 0:
                        yield
        if self._asked.get(node) == question:
            del self._asked[node]
        self.out.send(node, Spared(claim, question.number, tuple(b for b in question.blobs if b in may_go), ""))
