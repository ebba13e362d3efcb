"""The ledger's records: what is remembered, replicated and merged.

State merges by three joins only, composed: ``max`` over a total order that covers the whole value, ``or``, and
map-pointwise. Journal record, replication message and in-memory record are one type: the tuples below. Each is
compared as the tuple it is, so ``max`` is total; none holds a float (times are integer milliseconds, shares are
thousandths), so that equal means byte-identical everywhere.

Non-goals: what follows from the records (status, readiness, counts) is derived in ``ledger`` and never stored.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from mesh.core.ids import AttemptId, BlobId, Claim, JobId, Life, NodeId, TaskId

# Phases. Open attempts (ended False) go OFFERED < RUNNING < LOST; the holder refutes LOST by declaring again with a
# higher round. Ended ones go RELEASED < FAILED < SUCCEEDED; only the holder ends an attempt.
OFFERED, RUNNING, LOST = 0, 1, 2
RELEASED, FAILED, SUCCEEDED = 0, 1, 2

# Status of an Ended record.
TASK_FAILED, TASK_CANCELLED = 1, 2


class Resources(NamedTuple):
    """What one attempt needs, as one alternative. Zero and empty mean: no requirement."""

    millicpus: int = 1000
    memory: int = 0  # bytes
    milligpus: int = 0
    gpu_memory: int = 0  # bytes, on each GPU
    device: str = "any"  # any, cpu, cuda, mps
    labels: tuple[tuple[str, str], ...] = ()
    profile: str = ""


class Retries(NamedTuple):
    max: int = 0  # further attempts after the first failure
    backoff_ms: int = 1000
    factor_milli: int = 2000
    max_delay_ms: int = 300_000
    not_on: tuple[str, ...] = ()  # exception names (or exit codes, as text) that no retry can help


class Checkpointing(NamedTuple):
    """What becomes of a task's checkpoints. ``metric``: the best by it is never collected; empty: by none."""

    every_ms: int = 60_000  # for programs that ask how often to save
    keep: int = 3  # the newest; older ones may be collected
    copies: int = 2  # nodes that shall have each
    metric: str = ""
    maximize: bool = False


USUAL = Checkpointing()


class Shape(NamedTuple):
    """All that matching looks at. Tasks of one job with equal shapes form a *resource class* and share this object."""

    alternatives: tuple[Resources, ...] = (Resources(),)
    kind: str = ""  # what runs, for measured speeds: a program's name, or module:function
    python: str = ""  # the minor version it needs ("3.11"); empty: any
    cwd: str = ""  # a directory that must exist there; empty: none
    retries: Retries = Retries()
    timeout_ms: int = 0  # 0: none
    hold: bool = False  # on_lost: hold. It must not run twice: what may have begun and was lost waits
    checkpoints: Checkpointing = USUAL


class Job(NamedTuple):
    id: JobId
    digest: str  # of everything below, and of the tasks submitted with it
    name: str = ""
    kind: str = "tasks"  # sweep, tasks, functions
    priority: int = 5
    max_parallel: int = 0  # 0: as many as fit
    metric: str = ""
    maximize: bool = False
    submitted_ms: int = 0  # by the client's clock, for people only
    source: bytes = b""  # the file as submitted, for people only
    size: int = 0  # tasks it will have, though they come in slices; 0: as many as come


class Task(NamedTuple):
    id: TaskId
    job: JobId
    index: int  # type: ignore[assignment]  # tuple.index is not used of records
    digest: str
    shape: Shape
    payload: bytes  # mesh.core.work.Work, encoded; opaque here
    needs: tuple[BlobId, ...] = ()  # that it reads: they stay until it has ended, and it runs best where they are


class Outcome(NamedTuple):
    """How an attempt went, in the words of its holder."""

    code: str = ""  # for machines: exception name, "exit 3", "timeout", "memory", "signal 11", "refused", "recalled"...
    message: str = ""  # for people
    detail: str = ""  # the remote traceback
    result: bytes = b""
    digest: str = ""  # of the result
    metrics: bytes = b""  # JSON object of last values
    started_ms: int = 0  # the holder's wall clock, for people only
    finished_ms: int = 0
    micros: int = 0  # measured duration of the work itself
    blob: BlobId = ""  # the result, where it is too large for a record; ``result`` is empty then
    log: BlobId = ""  # all that it printed; empty: nothing, or it is on its node alone


NO_OUTCOME = Outcome()


class Checkpoint(NamedTuple):
    """A state that a task saved, complete: on as many nodes as were asked for, or as there were.

    The newest of a task is the greatest: the fields stand in the order that decides.
    """

    run: int
    step: int
    attempt: AttemptId
    number: int  # of that attempt's saves, from 1
    blob: BlobId
    size: int  # bytes
    metrics: bytes = b""  # JSON object
    saved_ms: int = 0  # the holder's wall clock, for people only


class Attempt(NamedTuple):
    """One try at a task on one node. Joins by ``max``: the fields stand in the order that decides.

    With each checkpoint its holder raises ``round``, so that the record with more of them is the greater one; what is
    LOST keeps those that were known.
    """

    task: TaskId
    id: AttemptId
    ended: bool
    round: int
    phase: int
    run: int
    node: NodeId
    outcome: Outcome = NO_OUTCOME
    saved: tuple[Checkpoint, ...] = ()  # that are kept of those it saved, the newest first
    resumed: BlobId = ""  # the checkpoint that it went on from; empty: from none


class Acceptance(NamedTuple):
    """That a leader took this attempt's result for the task's. Per attempt the highest claim stays."""

    task: TaskId
    attempt: AttemptId
    claim: Claim
    digest: str


class Run(NamedTuple):
    """``run`` counts retries by hand, from 1; cancelling sets ``cancelled`` to the run it cancels. Both join by max."""

    task: TaskId
    run: int
    cancelled: int


class Ended(NamedTuple):
    """Written before a failure or a cancellation is shown. Joins by max over (run, status)."""

    task: TaskId
    run: int
    status: int
    code: str = ""
    message: str = ""


class Owner(NamedTuple):
    """The one node that grants the hold tasks of a job; joins by max over (handovers, owner).

    One record for a job and not one for each of its tasks: a leader that goes hands over a job of 100,000 by one. Of a
    task that a person forced there is one of its own (``task`` empty: of the job), which does not take the job along.
    """

    job: JobId
    task: TaskId
    handovers: int
    owner: NodeId


class Register(NamedTuple):
    """Last writer wins by (version, node); version is the highest seen + 1. No local time is ever compared."""

    scope: str  # "job/ID", "task/ID", "node/ULID"
    field: str  # "priority", "paused", "address"
    version: int
    node: NodeId
    value: str


class Mesh(NamedTuple):
    """A mesh id this mesh answers to; ``mature`` joins by or, ids as a set that only grows."""

    id: str
    mature: bool


class Claimed(NamedTuple):
    """The highest claim known. Joins by max over the claim's key."""

    claim: Claim


class Lived(NamedTuple):
    """A life of a node's own journal, so that a restart knows which attempts died with its former lives."""

    node: NodeId
    number: int
    life: Life


class Deleted(NamedTuple):
    """That a job was deleted. Kept for good, and above every record of the job and its tasks, whichever comes first."""

    job: JobId


Record: TypeAlias = (
    Job | Task | Attempt | Acceptance | Run | Ended | Register | Mesh | Claimed | Lived | Owner | Deleted
)  # fmt: skip
