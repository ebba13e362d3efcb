"""What happens to a node: the inputs of :meth:`mesh.core.machine.Machine.step`. Names are in the past tense.

Events carry batches. Wall-clock times in them are for people only; no decision reads them.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from mesh.core.ids import AttemptId, BlobId, JobId, NodeId, TaskId
from mesh.core.lattice import Checkpoint, Job, Outcome, Task
from mesh.core.messages import Hello, Message, Offer


class Ticked(NamedTuple):
    """The deadline has come."""


class Resumed(NamedTuple):
    """The machine slept: wall clock and monotonic clock disagree by ``gap`` seconds."""

    gap: float


class AddressFound(NamedTuple):
    """mDNS, ``--peer`` or another node told of an address. Nothing but the address is believed."""

    address: str
    node: NodeId = ""  # if the source named one


class LinkUp(NamedTuple):
    """A link exists and the other side said who it is. The machine may answer with ``Hangup``."""

    link: int
    hello: Hello
    dialed: str = ""  # the address we dialled; empty: the other side did


class LinkRefused(NamedTuple):
    """The other side would not have us, for a reason that people should see."""

    address: str
    reason: str
    code: str  # foreign, protocol, duplicate, invalid


class LinkDown(NamedTuple):
    link: int


class DialFailed(NamedTuple):
    """``gone``: the connection was actively refused, so no process listens there; otherwise it timed out."""

    address: str
    gone: bool


class Received(NamedTuple):
    sender: NodeId
    message: Message


class MessageUnreadable(NamedTuple):
    """A peer sent bytes that are no message, or too many of them. Its links are being closed, with this reason."""

    sender: NodeId
    reason: str


class JournalSynced(NamedTuple):
    position: int


class JournalFailed(NamedTuple):
    """Writes fail (disk full, read-only). ``reason`` empty: they work again."""

    reason: str


class SuccessorSynced(NamedTuple):
    """Another node has our journal up to this position on its disk: its Pull said so, and its cursor was right."""

    node: NodeId
    position: int


class Measured(NamedTuple):
    """The detectors ran."""

    offer: Offer


class AttemptsBegan(NamedTuple):
    attempts: tuple[tuple[AttemptId, int], ...]  # wall clock, ms


class AttemptsEnded(NamedTuple):
    attempts: tuple[tuple[AttemptId, int, Outcome], ...]  # phase: RELEASED, FAILED or SUCCEEDED


class AttemptsProgressed(NamedTuple):
    attempts: tuple[tuple[AttemptId, bytes], ...]  # JSON metrics, last values


class AttemptSaved(NamedTuple):
    """A checkpoint of an attempt is complete. It comes before the attempt's end."""

    checkpoint: Checkpoint


class AttemptResumed(NamedTuple):
    """An attempt goes on from this checkpoint."""

    attempt: AttemptId
    blob: BlobId


class Submitted(NamedTuple):
    """A slice of a job. The same job may come in many slices; ids make repeats harmless."""

    call: int
    job: Job
    tasks: tuple[Task, ...]
    owner: NodeId = ""  # of hold tasks: who is to grant them, the same in every repeat


class CancelAsked(NamedTuple):
    call: int
    target: JobId | TaskId


class PauseAsked(NamedTuple):
    call: int
    job: JobId
    paused: bool


class PriorityAsked(NamedTuple):
    call: int
    target: JobId | TaskId
    priority: int


class RetryAsked(NamedTuple):
    call: int
    target: JobId | TaskId
    force: bool = False  # hold tasks too that may still be running somewhere


class ForgetAsked(NamedTuple):
    """This member was destroyed, says a person: nobody waits for it, and what ran there is lost."""

    call: int
    node: str  # its id, or its name


class PinAsked(NamedTuple):
    """This blob stays on whatever nodes have it, though no task needs it; or no longer."""

    call: int
    blob: BlobId
    pinned: bool


class DeleteAsked(NamedTuple):
    call: int
    job: JobId


class BlobsChanged(NamedTuple):
    """The store has these whole from now on, or not any more. At start: all that it has."""

    gained: tuple[tuple[BlobId, int], ...]  # and their sizes in bytes
    lost: tuple[BlobId, ...]
    free: int  # bytes that it takes yet


class BlobSought(NamedTuple):
    """Tell who has this blob, with ``BlobFound``, again and again until ``BlobSettled``."""

    blob: BlobId
    size: int = 0  # bytes; 0 where not known
    copies: int = 0  # it is here, and shall be on so many nodes; 0: it is being fetched
    like: BlobId = ""  # who has this one has most of its chunks: copies go there first


class BlobSettled(NamedTuple):
    """Nobody here seeks it any more."""

    blob: BlobId


class CopyRefused(NamedTuple):
    """What ``CopyBlob`` asked for cannot be done here."""

    blob: BlobId
    reason: str


class BlobsDoubted(NamedTuple):
    """There is no room: which of these, which are here, may go? ``BlobsSpared`` follows, once a leader can say."""

    blobs: tuple[BlobId, ...]  # at most 1,000, those that should go first


class DrainAsked(NamedTuple):
    """Stop bidding, finish or release what runs, hand over, leave. ``Drained`` follows."""

    grace: float


Asked: TypeAlias = CancelAsked | PauseAsked | PriorityAsked | RetryAsked | DeleteAsked  # of jobs and tasks

Event: TypeAlias = (
    Ticked | Resumed | AddressFound | LinkUp | LinkRefused | LinkDown | DialFailed | Received | MessageUnreadable
    | JournalSynced | JournalFailed | SuccessorSynced | Measured | AttemptsBegan | AttemptsEnded | AttemptsProgressed
    | AttemptSaved | AttemptResumed | Submitted | CancelAsked | PauseAsked | PriorityAsked | RetryAsked | DeleteAsked
    | ForgetAsked | PinAsked | DrainAsked | BlobsChanged | BlobSought | BlobSettled | CopyRefused | BlobsDoubted
)  # fmt: skip
