"""What nodes say to each other. ``mesh.wire`` encodes these; no other form of them exists.

Peer messages keep the mesh together (:class:`Heartbeat` to :class:`Pulled`); work messages go between a worker and
the leader (:class:`Report` up, :class:`Orders` down). Every message may be lost, repeated, delayed or reordered.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from mesh.core.ids import AttemptId, BlobId, Claim, Life, NodeId
from mesh.core.lattice import Attempt, Checkpoint, Record, Task

PROTOCOL = 1


class Hello(NamedTuple):
    """The first message on every link, in both directions."""

    protocols: tuple[int, ...]  # accepted versions, highest first
    mesh_name: str
    mesh_ids: tuple[str, ...]  # all ids this mesh answers to; the first is its own
    mature: bool
    node: NodeId
    life: Life
    name: str
    address: str  # host:port where it can be dialled
    role: str  # auto, leader, worker, observer
    version: str
    uptime_ms: int  # of this life: of two lives of one identity that meet, the one that runs longer stays


class Sighting(NamedTuple):
    """A leader that the sender hears although it does not follow it."""

    claim: Claim
    address: str
    leads: int
    followed: NodeId  # the leader it last followed before it led; empty: none


class Heartbeat(NamedTuple):
    seq: int  # counts this sender's heartbeats to this receiver
    echo: int  # the highest seq heard from the receiver: alive means heard in both directions
    life: Life
    incarnation: int  # raised to refute a suspicion
    eligible: bool
    why_not: str  # why it is not eligible
    claim: Claim  # the claim it follows or makes; NO_CLAIM: none
    leader_heard: bool  # the claim's leader is alive to the sender
    leads: int  # members that follow the sender, itself included; 0 where it does not lead
    followed: NodeId  # the leader it followed last
    suspects: tuple[NodeId, ...]  # of those that it monitors
    seen: tuple[Sighting, ...]
    peers: tuple[tuple[NodeId, str], ...]  # members and their addresses, only where they changed or were asked for
    name: str
    role: str
    address: str
    position: int  # of its journal, synced
    successors: tuple[NodeId, ...] = ()  # of a leader: who pulls its journal live, and is heard by its followers
    caught_up: bool = True  # it knows what its last leader knew, but for the last moments
    carried: int = 0  # of its journal: so far it holds what it fetched from members that cannot reach its leader


class Verdict(NamedTuple):
    """Two leaders have met; the one of lower id judged. Binding."""

    stays: NodeId
    yields: NodeId
    above: int  # who stays claims a term above this
    established: bool


class YieldRequest(NamedTuple):
    """A lower id that caught up and settled asks the incumbent of ``claim`` for the leadership."""

    claim: Claim


class Yield(NamedTuple):
    """The incumbent flushed and stopped granting under ``claim``; its receiver claims the next term."""

    claim: Claim
    reason: str


class Refused(NamedTuple):
    """A message under a lower claim was not obeyed. ``alive``: the higher claimant is alive to the refuser."""

    highest: Claim
    alive: bool


class Relayed(NamedTuple):
    """Carried for a leader that cannot reach another one directly. One hop, never further."""

    source: NodeId
    target: NodeId
    message: Verdict | YieldRequest | Yield


class Cursor(NamedTuple):
    """A point in one node's journal: everything up to there, and nothing else, was read or written.

    A journal takes a new id at each start, so an id names one history, also where a backup was put back. ``digest`` is
    the rolling digest of the content up to ``position``, by which a journal knows points of its former lives.
    """

    journal: str  # the id of one life of it; empty: no journal yet
    position: int
    digest: str


NO_CURSOR = Cursor("", 0, "")


class Pull(NamedTuple):
    """Asks for what the receiver's journal holds beyond these cursors, and says that all up to them is on disk.

    Among them may be some of the receiver's own journal: after the furthest the answer begins. Those of other journals
    say what need not be sent because it was pulled from there. ``wait``: answer only when there is something to send.
    """

    session: int  # the puller's; echoed
    cursors: tuple[Cursor, ...]
    wait: bool = False


class Pulled(NamedTuple):
    """``session`` 0: nobody asked; a leader tells a follower of what it owns and may not know to own."""

    session: int
    cursor: Cursor  # of the sender's journal, after this slice
    end: bool  # nothing synced lies beyond
    records: tuple[Record, ...] | bytes  # bytes: as the journal holds them, on their way out


class Holds(NamedTuple):
    """Node to leader: which blobs it has whole. All of them under every new claim, and then what changes.

    Numbered from 1 in each session; a node counts its sessions. Repeated until ``HoldsSeen`` covers it.
    """

    claim: Claim  # the one that this node follows
    life: Life
    session: int
    seq: int
    gained: tuple[tuple[BlobId, int], ...]  # and their sizes in bytes
    lost: tuple[BlobId, ...]
    free: int  # bytes that its store takes yet
    more: bool  # of a declaration: another slice follows


class HoldsSeen(NamedTuple):
    """Leader to node. ``session`` 0: it knows nothing of what that node holds, or not any more: declare it."""

    claim: Claim
    session: int
    seq: int  # all up to this one


class Seek(NamedTuple):
    """Node to leader: who has this blob? Repeated while it is wanted here.

    ``copies`` 0: its sender fetches it, and serves what it has of it so far. Else the sender has it whole, and asks
    that so many nodes, itself included, have it.
    """

    claim: Claim
    blob: BlobId
    size: int  # bytes; 0 where not known
    copies: int
    like: BlobId = ""  # who has this one has most of its chunks: copies go there first


class Found(NamedTuple):
    """The answer to a Seek, as of now."""

    claim: Claim
    blob: BlobId
    holders: tuple[tuple[NodeId, str], ...]  # alive, with their addresses; some of them where there are many
    fetching: tuple[tuple[NodeId, str], ...]
    sure: bool  # every node that is alive has said what it holds
    enough: bool  # as many nodes have it as were asked for, or as can
    why: str  # why fewer than were asked for; empty: no reason, or not fewer


class Copy(NamedTuple):
    """Leader to node: fetch this blob and keep it. Repeated until it ``Holds`` it, or says why not."""

    claim: Claim
    blob: BlobId
    size: int
    holders: tuple[tuple[NodeId, str], ...]


class CopyFailed(NamedTuple):
    claim: Claim
    blob: BlobId
    reason: str


class Spare(NamedTuple):
    """Node to leader: which of these blobs, that it has, does the ledger refer to no more? Repeated until answered."""

    claim: Claim
    number: int  # of its questions; echoed
    blobs: tuple[BlobId, ...]


class Spared(NamedTuple):
    """The answer to a Spare: these may go."""

    claim: Claim
    number: int
    blobs: tuple[BlobId, ...]
    why: str  # why that cannot be said, and none may go; empty: it can


class Device(NamedTuple):
    """An accelerator."""

    id: str  # cuda:0, mps
    kind: str  # cuda, mps
    name: str
    memory: int  # bytes
    free_memory: int  # bytes, measured: others use cards too


class Offer(NamedTuple):
    """What a machine has, as its detectors measured it, less what its owner withholds."""

    slots: int
    millicpus: int
    memory: int
    free_memory: int
    devices: tuple[Device, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    profile: str = "cpu_x86"
    cpu: str = ""
    python: str = "3.11"
    min_priority: int = 1
    max_priority: int = 10
    unwilling: str = ""  # why it takes nothing now; empty: it does
    runners: tuple[str, ...] = ("command", "call", "function")


class Bid(NamedTuple):
    """What a worker offers right now, counting what it knows to hold."""

    offer: Offer
    free_slots: int
    free_millicpus: int
    free_memory: int
    devices: tuple[tuple[str, int], ...]  # device id, free thousandths
    allowance_ms: int  # of work it is willing to queue, per slot
    speeds: tuple[tuple[str, int], ...]  # shape kind -> measured microseconds, only what changed since the last bid


PAUSED = "paused"  # why what has a checkpoint is recalled, to go on from there later


class Grant(NamedTuple):
    attempt: AttemptId
    run: int
    task: Task
    priority: int
    devices: tuple[str, ...]
    alternative: int  # which of the shape's alternatives was matched
    resume: tuple[Checkpoint, ...] = ()  # of the task, as far as its granter knows, the newest first


class Report(NamedTuple):
    """Worker to leader: bids and batched reports, and on every (re)connect a declaration of all that it holds."""

    claim: Claim  # the one this worker follows
    life: Life
    applied: int  # all orders up to this seq, of this claim, were applied
    attempts: tuple[Attempt, ...]  # RUNNING or ended
    progress: tuple[tuple[AttemptId, bytes], ...]  # JSON metrics of running attempts; not part of the ledger
    bid: Bid | None
    declares: int  # slices still to come + 1 of a declaration; 0: none
    cannot: tuple[tuple[str, str], ...] = ()  # shape's cwd or kind this node can not serve, and why
    session: int = 0  # counts this life's declarations: each one starts the numbering of orders anew
    slices: int = 0  # of the declaration in all


class Orders(NamedTuple):
    """Leader to worker, numbered per session; repeated until ``Report.applied`` covers them."""

    claim: Claim
    seq: int
    grants: tuple[Grant, ...]
    recalls: tuple[tuple[AttemptId, str], ...]  # and why
    acks: tuple[AttemptId, ...]  # ended attempts that are durable elsewhere: the worker may forget them
    unknown: tuple[AttemptId, ...]  # the leader does not know their task: keep them
    session: int = 0  # the worker's, that these belong to


BlobMessage: TypeAlias = Holds | HoldsSeen | Seek | Found | Copy | CopyFailed | Spare | Spared
Message: TypeAlias = (
    Heartbeat | Verdict | YieldRequest | Yield | Refused | Relayed | Pull | Pulled | Report | Orders | BlobMessage
)  # fmt: skip
WORK_MESSAGES = (Report, Orders)
