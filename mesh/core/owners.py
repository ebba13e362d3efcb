"""Hold tasks (``on_lost: hold``): who may grant them, and what they wait for. They must not run twice.

A hold task has one owner, which alone grants it: the leader that its client named, with the submission and with every
repeat of it, so that two leaders that were sent the same one agree. It knows every attempt that it granted (they are on
its disk before the grant leaves) and hands over only with all of them: the hand-over stands behind them in its journal,
and whoever reads it has read them. So whether there are two leaders does not matter here either.

What was lost and may have begun is not granted again. Its machine ends the wait, or a person who forces it.
"""

from __future__ import annotations

from collections.abc import Iterable

from mesh.core import reasons
from mesh.core.ids import NodeId, TaskId, ulid_of
from mesh.core.lattice import LOST, Attempt, Owner, Record, Run, Task
from mesh.core.ledger import FINAL, Ledger, TaskState
from mesh.core.outbox import Outbox
from mesh.core.reasons import Why

NOT_COUNTED = "never_arrived"  # LOST, but it cannot have begun: held against nobody


def owns(ledger: Ledger, node: NodeId, task: Task) -> bool:
    """Whether this machine grants the task; started with another rank it is the same machine."""
    owner = ledger.owner_of(task)
    return owner is not None and ulid_of(owner.owner) == ulid_of(node)


def waits(ledger: Ledger, node: NodeId, state: TaskState) -> Why | None:
    """Why this leader does not grant a task that has no open attempt; None: nothing keeps it from that."""
    task = state.spec
    if task is None or not task.shape.hold or state.state in FINAL or state.open_attempts():
        return None
    return _obstacle(ledger, node, state, task)


def stands(ledger: Ledger, node: NodeId, attempt: Attempt) -> bool:
    """Whether what this leader granted on paper may leave, now that it is on disk.

    A journal that was read meanwhile may tell of another owner: where a person forced the task, or of a copy of our own
    state directory, which handed over what is ours. It may even be ours again since, with what they granted.
    """
    state = ledger.known(attempt.task)
    if state is None or state.spec is None or state.run != attempt.run:
        return False
    alone = [each.id for each in state.open_attempts()] == [attempt.id]
    return alone and _obstacle(ledger, node, state, state.spec) is None


def _obstacle(ledger: Ledger, node: NodeId, state: TaskState, task: Task) -> Why | None:
    """Of a hold task, apart from its open attempts."""
    lost = (a for a in state.tries if not a.ended and a.phase == LOST and a.run == state.run)
    nodes = sorted({attempt.node for attempt in lost if attempt.outcome.code != NOT_COUNTED})
    if nodes:
        return Why(reasons.MAY_RUN, (nodes[0], task.id))
    if owns(ledger, node, task):
        return None
    owner = ledger.owner_of(task)
    return Why(reasons.OWNED, ("" if owner is None else owner.owner, task.id))


def force(out: Outbox, state: TaskState) -> None:
    """A person wants it run all the same: by this leader, in a new run, in which what is lost does not count."""
    task = state.spec
    assert task is not None, "only a task that is known can be forced"
    owner = out.ledger.owner_of(task)
    if owner is None or ulid_of(owner.owner) != ulid_of(out.node):
        out.record(Owner(task.job, task.id, 1 if owner is None else owner.handovers + 1, out.node))
    out.record(Run(task.id, state.run + 1, state.cancelled))


def hand_over(out: Outbox, to: NodeId) -> None:
    """This node leads no more: whatever it owns is that node's. In one step, for no pull may see the half of it."""
    mine = ulid_of(out.node)
    for key in sorted(out.ledger.owned.get(mine, ())) if ulid_of(to) != mine else ():
        known = out.ledger.owners[key]
        out.record(Owner(*key, known.handovers + 1, to))


def renounce(out: Outbox, told: Iterable[Record], to: NodeId) -> None:
    """Hand over what our leader says is ours. We may never have heard of it, nor then of what was granted before: so
    it is not ours for a moment, and goes straight back to who told us. What we know to have handed over since is not
    ours to give."""
    for owner in told:
        if not isinstance(owner, Owner) or ulid_of(to) == ulid_of(out.node):
            continue
        known = out.ledger.owners.get((owner.job, owner.task))
        if ulid_of(owner.owner) == ulid_of(out.node) and (known is None or known <= owner):
            out.record(owner._replace(handovers=owner.handovers + 1, owner=to))


def owed(ledger: Ledger, node: NodeId, limit: int) -> tuple[Owner, ...]:
    """What that node owns, whether it knows that or not."""
    keys = ledger.owned.get(ulid_of(node))
    return tuple(ledger.owners[key] for key in sorted(keys)[:limit]) if keys else ()


def touched(ledger: Ledger, owner: Owner) -> list[TaskId]:
    """The tasks that this record decides about."""
    if owner.task:
        return [owner.task] if owner.task in ledger.tasks else []
    job = ledger.jobs.get(owner.job)
    return [] if job is None else list(job.tasks)
