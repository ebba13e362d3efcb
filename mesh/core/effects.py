"""What the machine wants done: the outputs of :meth:`mesh.core.machine.Machine.step`. Names are imperatives.

The driver carries them out in the order given; none of them waits inside a step. What depends on durability comes
out of a later step, after ``JournalSynced``.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from mesh.core.ids import AttemptId, BlobId, Claim, JobId, NodeId, TaskId
from mesh.core.lattice import Checkpoint, Record, Task
from mesh.core.messages import NO_CURSOR, Cursor, Message


class Persist(NamedTuple):
    """Append these records to the journal. ``position`` is that of the last one; positions count records from 1.

    ``source``: the point of another journal up to which they were pulled; NO_CURSOR: they are our own.
    """

    position: int
    records: tuple[Record, ...]
    source: Cursor = NO_CURSOR


class Send(NamedTuple):
    """To a node with a live link; where there is none, drop it. Every message may be lost."""

    to: NodeId
    message: Message


class Dial(NamedTuple):
    """Open a link to this address: ``LinkUp``, ``LinkRefused`` or ``DialFailed`` follows."""

    address: str


class Hangup(NamedTuple):
    """Close a link and tell the other side why.

    ``code``: foreign, protocol, duplicate, invalid, or empty for a plain close.
    """

    link: int
    reason: str
    code: str


class ServePull(NamedTuple):
    """Send one slice of what is synced beyond these cursors as ``Pulled``; with ``wait`` once there is something.

    Where to begin is the furthest of those that are points of our own journal, and it is told to the machine
    (``SuccessorSynced``). One of ours that is none is of a history that was undone here, and counts for nothing.
    """

    to: NodeId
    session: int
    cursors: tuple[Cursor, ...]
    wait: bool


class Released(NamedTuple):
    """Everything up to this position may be shown: it is on disk here, and on a successor where one counts."""

    position: int


class BeginAttempts(NamedTuple):
    """Run these, one after another, on one runner: one slot."""

    slot: int
    assignments: tuple[Assignment, ...]


class Assignment(NamedTuple):
    attempt: AttemptId
    task: Task
    devices: tuple[str, ...]  # accelerators that it may see
    memory: int  # bytes it may use; 0: no limit
    millicpus: int
    run: int = 1
    resume: tuple[Checkpoint, ...] = ()  # what it may go on from, the newest first


class StopAttempts(NamedTuple):
    """Kill the trees of these. ``AttemptsEnded`` still follows for each, with ``code`` as its code."""

    attempts: tuple[AttemptId, ...]
    code: str  # cancelled, recalled, drained
    reason: str


class Answer(NamedTuple):
    """To the caller of Submitted or Asked. ``error``: the class name in ``mesh.core.errors``; empty: done."""

    call: int
    error: str = ""
    message: str = ""
    count: int = 0  # type: ignore[assignment]  # tuple.count is not used of effects
    durable_on: tuple[NodeId, ...] = ()


class BlobFound(NamedTuple):
    """The leader's answer to ``BlobSought``, as :class:`mesh.core.messages.Found` explains it."""

    blob: BlobId
    holders: tuple[tuple[NodeId, str], ...]
    fetching: tuple[tuple[NodeId, str], ...]
    sure: bool
    enough: bool
    why: str


class CopyBlob(NamedTuple):
    """Fetch it from these, or whoever has it then, and keep it: ``BlobsChanged`` or ``CopyRefused`` follows."""

    blob: BlobId
    size: int
    holders: tuple[tuple[NodeId, str], ...]


class BlobsSpared(NamedTuple):
    """Of the last ``BlobsDoubted`` these may go. ``why``: why none; empty: all that may are named."""

    blobs: tuple[BlobId, ...]
    why: str


class TasksChanged(NamedTuple):
    """These ended for their users, durably; or are open again. Whoever waits for them may look."""

    tasks: tuple[TaskId, ...]


class JobsChanged(NamedTuple):
    jobs: tuple[JobId, ...]


class LeaderChanged(NamedTuple):
    """What this node follows now, and where calls go. ``address`` empty: nobody, or unknown."""

    claim: Claim
    address: str


class Notice(NamedTuple):
    """A line for the log. ``event`` is a stable name; ``fields`` are for people and machines alike."""

    level: str  # debug, info, warning, error
    event: str
    fields: tuple[tuple[str, str | int | float], ...]


class Drained(NamedTuple):
    """Nothing is left to do here; the process may exit with 0."""


class Exit(NamedTuple):
    """This process must not go on (76: another life of this identity was there first)."""

    code: int
    reason: str


Effect: TypeAlias = (
    Persist | Send | Dial | Hangup | ServePull | Released | BeginAttempts | StopAttempts | Answer | TasksChanged
    | JobsChanged | LeaderChanged | Notice | Drained | Exit | BlobFound | CopyBlob | BlobsSpared
)  # fmt: skip
