"""The live ledger: records joined, and the few things derived from them that must be quick to ask.

Joining is commutative, associative and idempotent (``tests/core/test_lattice.py``), so records may come in any order,
any number of times, from any journal; an attempt may arrive before its task. What is derived (state, counts) depends
on the joined records alone; ``check`` recomputes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from mesh.core.ids import NO_CLAIM, AttemptId, Claim, JobId, NodeId, TaskId, job_of, ulid_of
from mesh.core.lattice import (
    FAILED,
    LOST,
    RUNNING,
    SUCCEEDED,
    TASK_CANCELLED,
    Acceptance,
    Attempt,
    Claimed,
    Deleted,
    Ended,
    Job,
    Lived,
    Mesh,
    Owner,
    Record,
    Register,
    Run,
    Task,
)
from mesh.core.shards import Shards

# Derived state of a task, in the words people see.
PENDING, ACTIVE, DONE, BROKEN, CANCELLED = "pending", "running", "succeeded", "failed", "cancelled"
STATES = (PENDING, ACTIVE, DONE, BROKEN, CANCELLED)
FINAL = frozenset((DONE, BROKEN, CANCELLED))


class TaskState:
    """All that is known of one task. ``spec`` is None while only attempts at it are known here.

    Attempts and acceptances stand in tuples, for most tasks have one of each: a dict for either would take 0.4 GB more
    in a ledger of a million finished tasks.
    """

    __slots__ = ("accepts", "cancelled", "ended", "run", "spec", "state", "tries")

    def __init__(self) -> None:
        self.spec: Task | None = None
        self.tries: tuple[Attempt, ...] = ()
        self.accepts: tuple[Acceptance, ...] = ()
        self.run = 1
        self.cancelled = 0
        self.ended: Ended | None = None
        self.state = PENDING

    @property
    def attempts(self) -> dict[AttemptId, Attempt]:
        return {attempt.id: attempt for attempt in self.tries}

    @property
    def acceptances(self) -> dict[AttemptId, Acceptance]:
        return {acceptance.attempt: acceptance for acceptance in self.accepts}

    def derive(self) -> str:
        """accepted > cancelled > failed > open."""
        if self.accepts:
            return DONE
        if self.cancelled >= self.run:
            return CANCELLED
        if self.ended is not None and self.ended.run >= self.run:
            return CANCELLED if self.ended.status == TASK_CANCELLED else BROKEN
        for attempt in self.tries:
            if not attempt.ended and attempt.phase == RUNNING:
                return ACTIVE
        return PENDING

    def settled(self) -> bool:
        """Whether a leader that finds it in a journal has nothing to do with it. ``state`` is as derived."""
        if self.state not in FINAL:
            return False
        succeeded = False
        for attempt in self.tries:
            if attempt.ended:
                succeeded |= attempt.phase == SUCCEEDED
            elif attempt.phase != LOST:
                return False
        return not succeeded or bool(self.accepts) or self.cancelled >= self.run

    def open_attempts(self) -> list[Attempt]:
        """Offered or running, as far as is known; LOST ones are not."""
        return [a for a in self.tries if not a.ended and a.phase != LOST]

    def accepted(self) -> Acceptance | None:
        """The current acceptance: the highest claim, then the lowest attempt id."""
        if not self.accepts:
            return None
        if len(self.accepts) == 1:
            return self.accepts[0]
        best = max(a.claim.key for a in self.accepts)
        return min((a for a in self.accepts if a.claim.key == best), key=lambda a: a.attempt)

    def success(self) -> Attempt | None:
        """The success with the lowest attempt id, accepted or not."""
        found = [a for a in self.tries if a.ended and a.phase == SUCCEEDED]
        return min(found, key=lambda a: a.id) if found else None

    def failures(self) -> int:
        return sum(1 for a in self.tries if a.ended and a.phase == FAILED and a.run == self.run)

    def losses(self) -> int:
        return sum(1 for a in self.tries if not a.ended and a.phase == LOST and a.run == self.run)


class JobState:
    """``order`` counts jobs as this node learnt of them; it breaks ties between jobs that are otherwise equal."""

    __slots__ = ("counts", "order", "spec", "tasks")

    def __init__(self, order: int) -> None:
        self.spec: Job | None = None
        self.order = order
        self.tasks: list[TaskId] = []
        self.counts = dict.fromkeys(STATES, 0)

    def final(self) -> bool:
        return self.counts[PENDING] == 0 and self.counts[ACTIVE] == 0


class Ledger:
    """Everything this node remembers, as one join of records."""

    def __init__(self) -> None:
        self.jobs: dict[JobId, JobState] = {}
        self.tasks: Shards[TaskId, TaskState] = Shards()
        self.open: dict[NodeId, dict[AttemptId, TaskId]] = {}  # derived: open attempts, LOST ones not, by holder
        self.unsettled: dict[TaskId, None] = {}  # derived: what a leader that opens has to look at
        self.registers: dict[tuple[str, str], Register] = {}
        self.owners: dict[tuple[JobId, TaskId], Owner] = {}  # of hold tasks
        self.owned: dict[str, set[tuple[JobId, TaskId]]] = {}  # derived: the same, by the ULID of the owner
        self.meshes: dict[str, bool] = {}
        self.lives: dict[NodeId, Lived] = {}
        self.claim: Claim = NO_CLAIM
        self.deleted: set[JobId] = set()
        self._orders = 0  # jobs learnt of so far
        self._loose: dict[JobId, dict[TaskId, None]] = {}  # tasks that are known through other records alone
        self._registers_of: dict[JobId, list[tuple[str, str]]] = {}  # keys of a job's and its tasks' registers
        self._dying: list[list[TaskId]] = []  # of deleted jobs, still in `tasks`
        self._touched: set[TaskId] | None = None  # what changed since the last check; None: nobody checks

    def join(self, record: Record) -> bool:
        """Merge one record. True if it changed anything: only then is it worth journaling."""
        return _JOINS[type(record)](self, record)

    # One method per record type; each is a join of DESIGN's three kinds.

    def _join_job(self, job: Job) -> bool:
        if job.id in self.deleted:
            return False
        state = self._job(job.id)
        if state.spec is not None and job <= state.spec:
            return False
        state.spec = job
        return True

    def _join_task(self, task: Task) -> bool:
        if self.is_deleted(task.id):
            return False
        state = self.tasks.get(task.id)
        if state is None:
            state = self.tasks[task.id] = TaskState()
            self.unsettled[task.id] = None
        elif state.spec is None:
            self._no_longer_loose(task.id)
        elif task <= state.spec:
            return False
        else:
            state.spec = task  # of the same job, as its id says
            return True
        state.spec = task
        job = self._job(task.job)
        job.tasks.append(task.id)
        job.counts[state.state] += 1
        return True

    def _join_attempt(self, attempt: Attempt) -> bool:
        state = self._task(attempt.task)
        if state is None:
            return False
        for place, known in enumerate(state.tries):
            if known.id == attempt.id:
                if attempt <= known:
                    return False
                # Ids that came by wire are copies of those that are here: 0.4 GB in a million finished tasks.
                attempt = Attempt(known.task, known.id, *attempt[2:])
                state.tries = (*state.tries[:place], attempt, *state.tries[place + 1 :])
                break
        else:
            if state.spec is not None and attempt.task is not state.spec.id:
                attempt = Attempt(state.spec.id, *attempt[1:])
            state.tries = (*state.tries, attempt)
        here = self.open.setdefault(attempt.node, {})
        if attempt.ended or attempt.phase == LOST:
            here.pop(attempt.id, None)
        else:
            here[attempt.id] = attempt.task
        self._derive(attempt.task, state)
        return True

    def _join_acceptance(self, acceptance: Acceptance) -> bool:
        state = self._task(acceptance.task)
        if state is None:
            return False
        for known in state.accepts:
            if known.attempt == acceptance.attempt:
                if (acceptance.claim.key, acceptance.digest) <= (known.claim.key, known.digest):
                    return False
                break
        for tried in state.tries:
            if tried.id == acceptance.attempt and tried.outcome.digest == acceptance.digest:
                acceptance = Acceptance(
                    tried.task, tried.id, acceptance.claim, tried.outcome.digest
                )  # one copy of each
        others = tuple(known for known in state.accepts if known.attempt != acceptance.attempt) if state.accepts else ()
        state.accepts = (*others, acceptance)
        self._derive(acceptance.task, state)
        return True

    def _join_run(self, run: Run) -> bool:
        state = self._task(run.task)
        if state is None:
            return False
        if run.run <= state.run and run.cancelled <= state.cancelled:
            return False
        state.run = max(state.run, run.run)
        state.cancelled = max(state.cancelled, run.cancelled)
        self._derive(run.task, state)
        return True

    def _join_ended(self, ended: Ended) -> bool:
        state = self._task(ended.task)
        if state is None:
            return False
        if state.ended is not None and ended <= state.ended:
            return False
        state.ended = ended
        self._derive(ended.task, state)
        return True

    def _join_register(self, register: Register) -> bool:
        key = (register.scope, register.field)
        job = _job_of_scope(register.scope)
        if job in self.deleted:
            return False
        known = self.registers.get(key)
        if known is not None and register <= known:
            return False
        if known is None and job:
            self._registers_of.setdefault(job, []).append(key)
        self.registers[key] = register
        return True

    def _join_owner(self, owner: Owner) -> bool:
        if owner.job in self.deleted:
            return False
        key = (owner.job, owner.task)
        known = self.owners.get(key)
        if known is not None:
            if owner <= known:
                return False
            self.owned[ulid_of(known.owner)].discard(key)
        self.owners[key] = owner
        self.owned.setdefault(ulid_of(owner.owner), set()).add(key)
        return True

    def _join_mesh(self, mesh: Mesh) -> bool:
        known = self.meshes.get(mesh.id)
        if known is not None and known >= mesh.mature:
            return False
        self.meshes[mesh.id] = mesh.mature
        return True

    def _join_claimed(self, claimed: Claimed) -> bool:
        if claimed.claim.key <= self.claim.key:
            return False
        self.claim = claimed.claim
        return True

    def _join_lived(self, lived: Lived) -> bool:
        known = self.lives.get(lived.node)
        if known is not None and lived <= known:
            return False
        self.lives[lived.node] = lived
        return True

    def _join_deleted(self, deleted: Deleted) -> bool:
        """Invisible from now on; that of 100,000 tasks takes a second to free, which :meth:`purge` does in slices."""
        job = deleted.job
        if job in self.deleted:
            return False
        self.deleted.add(job)
        state = self.jobs.pop(job, None)
        names = state.tasks if state is not None else []
        names.extend(self._loose.pop(job, ()))
        if names:
            self._dying.append(names)
        for key in self._registers_of.pop(job, ()):
            del self.registers[key]
        for owned in [key for key in self.owners if key[0] == job]:  # few: one for a job, one for each forced task
            self.owned[ulid_of(self.owners.pop(owned).owner)].discard(owned)
        return True

    @property
    def dying(self) -> bool:
        return bool(self._dying)

    def purge(self, limit: int) -> list[tuple[TaskId, TaskState]]:
        """Free up to so many tasks of deleted jobs; they are returned, for who keeps anything else of them."""
        gone: list[tuple[TaskId, TaskState]] = []
        while self._dying and len(gone) < limit:
            name = self._dying[-1].pop()
            if not self._dying[-1]:
                self._dying.pop()
            state = self.tasks.pop(name)
            self.unsettled.pop(name, None)
            for attempt in state.tries:
                self.open[attempt.node].pop(attempt.id, None)
            gone.append((name, state))
        return gone

    def known(self, task: TaskId) -> TaskState | None:
        """What is known of this task; None: nothing, or its job was deleted."""
        return None if self.is_deleted(task) else self.tasks.get(task)

    def is_deleted(self, task: TaskId) -> bool:
        return bool(self.deleted) and job_of(task) in self.deleted

    def _job(self, job: JobId) -> JobState:
        state = self.jobs.get(job)
        if state is None:
            state = self.jobs[job] = JobState(self._orders)
            self._orders += 1
        return state

    def _task(self, task: TaskId) -> TaskState | None:
        """None where its job was deleted, which no record undoes."""
        if self.is_deleted(task):
            return None
        state = self.tasks.get(task)
        if state is None:
            state = self.tasks[task] = TaskState()
            self.unsettled[task] = None
            self._loose.setdefault(job_of(task), {})[task] = None
        return state

    def _no_longer_loose(self, task: TaskId) -> None:
        job = job_of(task)
        del self._loose[job][task]
        if not self._loose[job]:
            del self._loose[job]

    def _derive(self, task: TaskId, state: TaskState) -> None:
        if self._touched is not None:
            self._touched.add(task)
        derived = state.derive()
        if derived is not state.state:
            self._count(state, derived)
        if state.settled():
            self.unsettled.pop(task, None)
        else:
            self.unsettled[task] = None

    def _count(self, state: TaskState, derived: str) -> None:
        if state.spec is not None:
            counts = self.jobs[state.spec.job].counts
            counts[state.state] -= 1
            counts[derived] += 1
        state.state = derived

    def value(self, scope: str, field: str) -> str | None:
        register = self.registers.get((scope, field))
        return None if register is None else register.value

    def next_register(self, scope: str, field: str, node: NodeId, value: str) -> Register:
        """The record that overwrites what is known: version = highest seen + 1."""
        known = self.registers.get((scope, field))
        return Register(scope, field, 1 if known is None else known.version + 1, node, value)

    def forgotten(self, node: NodeId) -> bool:
        """Whether a person said that this member was destroyed, and it did not come back since."""
        return bool(self.value(f"node/{node}", "forgotten"))

    def owner_of(self, task: Task) -> Owner | None:
        """Who grants this hold task: its own record or its job's, whichever was handed over more often."""
        known = [self.owners[key] for key in ((task.job, ""), (task.job, task.id)) if key in self.owners]
        return max(known, key=lambda owner: (owner.handovers, owner.owner), default=None)

    def mesh_ids(self) -> tuple[str, ...]:
        """All ids this mesh answers to, its own first: the lowest mature one, else the lowest."""
        return tuple(sorted(self.meshes, key=lambda mesh: (not self.meshes[mesh], mesh)))

    def mature(self) -> bool:
        return any(self.meshes.values())

    def records(self) -> Iterator[Record]:
        """Everything, as records that join to an equal ledger. The order is fixed by ids."""
        yield Claimed(self.claim)
        yield from (self.lives[node] for node in sorted(self.lives))
        yield from (Mesh(mesh, self.meshes[mesh]) for mesh in sorted(self.meshes))
        yield from (Deleted(job) for job in sorted(self.deleted))
        yield from (self.registers[key] for key in sorted(self.registers))
        yield from (self.owners[key] for key in sorted(self.owners))
        yield from (job.spec for _, job in sorted(self.jobs.items()) if job.spec is not None)
        for name in sorted(self.tasks):
            state = self.tasks[name]
            if self.is_deleted(name):
                continue
            if state.spec is not None:
                yield state.spec
            if state.run > 1 or state.cancelled:
                yield Run(name, state.run, state.cancelled)
            yield from sorted(state.tries, key=lambda attempt: attempt.id)
            yield from sorted(state.accepts, key=lambda acceptance: acceptance.attempt)
            if state.ended is not None:
                yield state.ended

    def check(self, *, whole: bool = False) -> None:
        """Assert that derived values are what the records say: of what changed since last time, or of everything."""
        whole = whole or self._touched is None
        for name in self.tasks if whole else self._touched or ():
            state = self.tasks.get(name)
            if state is None:
                continue  # of a deleted job
            assert state.state == state.derive(), f"{name} is kept as {state.state}, its records say {state.derive()}"
            kept = name in self.unsettled
            assert kept != state.settled(), f"{name} is {'' if kept else 'not '}kept as unsettled, its records differ"
        self._touched = set()
        if whole:
            assert self.unsettled.keys() <= self.tasks.keys(), "tasks that are not known are kept as unsettled"
            for name, job in self.jobs.items():
                counts = dict.fromkeys(STATES, 0)
                for task in job.tasks:
                    counts[self.tasks[task].state] += 1
                assert counts == job.counts, f"job {name} counts {job.counts}, its tasks say {counts}"
            found = {(a.node, a.id) for task in self.tasks.values() for a in task.open_attempts()}
            here = {(node, attempt) for node, names in self.open.items() for attempt in names}
            assert found == here, f"open attempts are kept as {here - found}, records say {found - here}"
            owned = {(ulid_of(owner.owner), key) for key, owner in self.owners.items()}
            assert owned == {(ulid, key) for ulid, keys in self.owned.items() for key in keys}, "owners by ULID differ"
            self._check_deleted()

    def _check_deleted(self) -> None:
        kept = self.deleted & self.jobs.keys()
        assert not kept, f"jobs {sorted(kept)} were deleted and are still known"
        dying = {task for names in self._dying for task in names}
        dead = {task for task in self.tasks if self.is_deleted(task)}
        assert dead == dying, f"tasks {sorted(dead ^ dying)} of deleted jobs are not about to be freed"
        scopes = [scope for scope, _ in self.registers if _job_of_scope(scope) in self.deleted]
        assert not scopes, f"registers of {scopes} are kept, and their jobs were deleted"


def _job_of_scope(scope: str) -> JobId:
    """The job that a register belongs to; empty: none."""
    kind, _, name = scope.partition("/")
    return job_of(name) if kind in ("job", "task") else ""


_JOINS: dict[type, Callable[[Ledger, Any], bool]] = {
    Job: Ledger._join_job,
    Task: Ledger._join_task,
    Attempt: Ledger._join_attempt,
    Acceptance: Ledger._join_acceptance,
    Run: Ledger._join_run,
    Ended: Ledger._join_ended,
    Register: Ledger._join_register,
    Mesh: Ledger._join_mesh,
    Claimed: Ledger._join_claimed,
    Lived: Ledger._join_lived,
    Owner: Ledger._join_owner,
    Deleted: Ledger._join_deleted,
}
