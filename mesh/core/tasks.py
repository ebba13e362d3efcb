"""What becomes of tasks while this node leads: ready, recalled, tried again, accepted, failed for good.

Everything about a task is decided by :meth:`Tasks.consider`, from its records alone, whenever one of them changed.
Events only write records and ask again, so a result that comes twice, late, or by way of another node's journal needs
no case of its own.

Must not know: nodes, bids and orders. It says "recall this attempt", and the leader knows where that is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from itertools import islice

from mesh.core import owners
from mesh.core.effects import JobsChanged, TasksChanged
from mesh.core.ids import NO_CLAIM, Claim, JobId, NodeId, TaskId, job_of
from mesh.core.lattice import (
    FAILED,
    LOST,
    TASK_CANCELLED,
    TASK_FAILED,
    Acceptance,
    Attempt,
    Deleted,
    Ended,
    Job,
    Owner,
    Record,
    Register,
    Run,
    Task,
)
from mesh.core.ledger import BROKEN, CANCELLED, FINAL, TaskState
from mesh.core.messages import PAUSED
from mesh.core.outbox import Outbox
from mesh.core.owners import NOT_COUNTED
from mesh.core.params import Params
from mesh.core.ready import Ready
from mesh.core.reasons import Why
from mesh.core.shards import Shards


class Tasks:
    """``claim`` is the one that decides here, NO_CLAIM: none. Until ``everything`` is known to be known, only jobs
    that were submitted to this leader are decided upon: of others it may not have read the half. The same holds for
    tasks that it learns of from a journal, ``half_read``, until that is read to its end: what follows may say that they
    were granted, or accepted."""

    def __init__(
        self, params: Params, out: Outbox, recall: Callable[[Attempt, str], None], confirmed: Callable[[Attempt], bool]
    ) -> None:
        self.params, self.out, self.ledger, self.recall, self.confirmed = params, out, out.ledger, recall, confirmed
        self.claim: Claim = NO_CLAIM
        self.everything = False
        self.fresh: set[JobId] = set()  # submitted to this leader while it did not know everything
        self.ready = Ready()
        self.dirty = False  # something became ready: a matching may find a place for it
        self._changed: dict[TaskId, None] = {}
        self._shown_at: dict[TaskId, int] = {}  # the position that has to be safe before a change is shown
        self._due: dict[TaskId, None] = {}  # safe, to be shown at the end of this step
        self._unshown: dict[TaskId, None] = {}  # that ended by other journals, while not everything was known
        self._jobs_changed: dict[JobId, None] = {}
        self._came: deque[Iterator[TaskId]] = deque()  # handed over to us, or read of to the end: to be considered
        self.half_read: dict[str, list[TaskId]] = {}  # journal -> tasks that it told us of first
        self._learnt: Shards[TaskId, str] = Shards()  # these tasks -> journal

    def open(self, claim: Claim) -> None:
        """Decide under this claim, with nothing ready yet."""
        self.claim, self.everything = claim, False
        self.ready = Ready()
        self.fresh.clear()
        self._unshown.clear()

    def close(self) -> None:
        self.claim, self.everything = NO_CLAIM, False
        self._shown_at.clear()
        self._came.clear()
        self.half_read, self._learnt = {}, Shards()

    # -- what users ask for -----------------------------------------------------------------------------------------

    def submit(self, job: Job, tasks: tuple[Task, ...], now: float, owner: NodeId = "") -> str:
        """Take a slice of a job. What speaks against it, or empty; then nothing was changed.

        ``owner``: who is to grant its hold tasks. It stands before them in the journal.
        """
        problem = self._conflict(job, tasks)
        if problem:
            return problem
        if self.out.record(job):
            self._jobs_changed[job.id] = None
        if not self.everything:
            self.fresh.add(job.id)
        if owner and any(task.shape.hold for task in tasks):
            self.out.record(Owner(job.id, "", 0, owner))
        for task in tasks:
            if self.out.record(task):
                self.consider(task.id, now)
        return ""

    def _conflict(self, job: Job, tasks: tuple[Task, ...]) -> str:
        if job.id in self.ledger.deleted:
            return f"job {job.id} was deleted; nothing was changed; submit under a new id"
        known = self.ledger.jobs.get(job.id)
        if known is not None and known.spec is not None and known.spec.digest != job.digest:
            return f"job {job.id} exists with other contents; nothing was changed; submit under a new id"
        for task in tasks:
            state = self.ledger.tasks.get(task.id)
            spec = state.spec if state is not None else None
            if spec is not None and (spec.digest, spec.job) != (task.digest, task.job):
                return f"task {task.id} exists with other contents; nothing was changed; submit under a new id"
        return ""

    def cancel(self, task: TaskId, now: float) -> bool:
        state = self.ledger.tasks[task]
        if state.state in FINAL:
            return False
        self.out.record(Run(task, state.run, state.run))
        self.out.record(Ended(task, state.run, TASK_CANCELLED, "cancelled", "cancelled by its user"))
        self.consider(task, now)
        return True

    def retry(self, task: TaskId, now: float, force: bool = False) -> bool:
        state = self.ledger.tasks[task]
        if force and self.waits(task) is not None:
            owners.force(self.out, state)
        elif state.state in (BROKEN, CANCELLED):
            self.out.record(Run(task, state.run + 1, state.cancelled))
        else:
            return False
        self._changed[task] = None
        self.consider(task, now)
        return True

    def waits(self, task: TaskId) -> Why | None:
        """What a hold task waits for that no machine here can give it."""
        return owners.waits(self.ledger, self.out.node, self.ledger.tasks[task])

    def prioritise(self, target: JobId | TaskId, priority: int) -> None:
        if target in self.ledger.jobs:
            self._register(f"job/{target}", "priority", str(priority))
            self.ready.reprioritise(target, priority)
            return
        self._register(f"task/{target}", "priority", str(priority))
        if target in self.ready:
            self._push(self.spec(target), None)

    def pause(self, job: JobId, paused: bool) -> None:
        self._register(f"job/{job}", "paused", "1" if paused else "")
        self._pause(job, paused)

    def _pause(self, job: JobId, paused: bool) -> None:
        """Nothing more of it is granted. What has a checkpoint is recalled, to go on from there; other work ends."""
        self.ready.pause(job, paused)
        if paused:
            for node in sorted(self.ledger.open):
                for attempt, task in list(self.ledger.open[node].items()):
                    if job_of(task) == job:
                        self._recall_saved(self.ledger.tasks[task].attempts[attempt])

    def _recall_saved(self, attempt: Attempt) -> None:
        if attempt.saved:
            self.recall(attempt, PAUSED)

    def delete(self, job: JobId) -> None:
        self.out.record(Deleted(job))
        self.detach(job)

    def detach(self, job: JobId) -> None:
        """It was deleted: at once nothing of it is granted, and who watches it should look. :meth:`forget` follows."""
        self.ready.detach(job)
        self.fresh.discard(job)
        self.job_changed(job)

    def take_unshown(self) -> Iterable[TaskId]:
        """What ended while not everything was known; it is known now, and the caller considers each again."""
        unshown, self._unshown = self._unshown, {}
        return unshown

    def forget(self, task: TaskId) -> None:
        """Of a deleted job: what is kept here, besides its records."""
        self.ready.forget(task)
        self._unshown.pop(task, None)
        self._changed.pop(task, None)
        self._shown_at.pop(task, None)

    def job_changed(self, job: JobId) -> None:
        """Somebody who watches this job should look."""
        self.dirty = True
        self._jobs_changed[job] = None

    def _register(self, scope: str, field: str, value: str) -> None:
        if self.ledger.value(scope, field) != value:
            self.out.record(self.ledger.next_register(scope, field, self.out.node, value))

    def priority(self, task: Task) -> tuple[int, bool]:
        """What counts now, and whether it was given to this very task."""
        own = self.ledger.value(f"task/{task.id}", "priority") if self.ledger.registers else None
        if own is not None:
            return int(own), True
        changed = self.ledger.value(f"job/{task.job}", "priority") if self.ledger.registers else None
        spec = self.ledger.jobs[task.job].spec
        return int(changed) if changed is not None else spec.priority if spec is not None else 5, False

    # -- the one decision about a task ------------------------------------------------------------------------------

    def consider(self, task: TaskId, now: float) -> None:
        """Look at a task's records and do what they call for. Idempotent. Of a deleted job nothing is."""
        state = self.ledger.known(task)
        if state is None:
            return
        if self.waits_for_journal(task):
            for shown in (self._changed, self._shown_at, self._due):
                shown.pop(task, None)  # it stands otherwise by now, which is not on disk yet; it is shown later
            return
        spec = state.spec
        if spec is None or not (self.everything or spec.job in self.fresh):
            self.ready.remove(task)  # it was, when everything was known; what is being read may say otherwise
            if state.state in FINAL:
                self._unshown[task] = None  # it may be watched; a later slice may open it again
            return
        if not state.accepts and state.cancelled < state.run:
            success = state.success()
            if success is not None:
                self.out.record(Acceptance(task, success.id, self.claim, success.outcome.digest))
        if state.state in FINAL:
            self.ready.remove(task)
            self._changed[task] = None
            for attempt in state.open_attempts():
                self.recall(attempt, f"the task {state.state}" if state.state != CANCELLED else "cancelled")
            return
        open_attempts = state.open_attempts()
        if open_attempts:
            self.ready.remove(task)
            for attempt in self._surplus(open_attempts):
                self.recall(attempt, "another attempt is further along")
            for attempt in open_attempts if self.ready.is_paused(spec.job) else ():
                self._recall_saved(attempt)
            return
        verdict = self._verdict(state)
        if verdict is not None:
            self.ready.remove(task)
            self.out.record(Ended(task, state.run, TASK_FAILED, *verdict))
            self._changed[task] = None
        elif spec.shape.hold and self.waits(task) is not None:
            self.ready.remove(task)
        else:
            at = self._not_before(state, now)
            if task not in self.ready or at is not None:  # a failure may have come to light since it became ready
                self._push(spec, at)

    def _surplus(self, attempts: list[Attempt]) -> list[Attempt]:
        """Of several open attempts the one further along is kept: running before offered, then by the step that was
        saved, then the first that began.

        Of those that their nodes have said to hold: what only a journal knows may be over, and displaces nothing.
        """
        attempts = [attempt for attempt in attempts if self.confirmed(attempt)]
        attempts.sort(key=lambda a: (-a.phase, -a.saved[0].step if a.saved else 1, a.outcome.started_ms, a.id))
        return attempts[1:]

    def _verdict(self, state: TaskState) -> tuple[str, str] | None:
        """Why a task without open attempts failed for good, if it did."""
        spec = self._spec_of(state)
        failed = [a for a in state.tries if a.ended and a.phase == FAILED and a.run == state.run]
        retries = spec.shape.retries
        for attempt in failed:
            if attempt.outcome.code in retries.not_on:
                return attempt.outcome.code, f"{attempt.outcome.message} (no retry can help: not_on)"
        if len(failed) > retries.max:
            last = max(failed, key=lambda a: (a.outcome.finished_ms, a.id))
            return last.outcome.code, last.outcome.message
        if spec.shape.hold:
            return None  # what was lost may come back: it waits
        lost = [
            a for a in state.tries
            if not a.ended and a.phase == LOST and a.run == state.run and a.outcome.code != NOT_COUNTED
        ]  # fmt: skip
        if len(lost) >= self.params.max_lost:
            nodes = ", ".join(sorted({a.node for a in lost}))
            return "lost", f"{len(lost)} machines were lost while they ran it: {nodes}"
        return None

    def _not_before(self, state: TaskState, now: float) -> float | None:
        """Exponential back-off after a failure, spread by a digest of the ids so that failures do not return as one."""
        failures = state.failures()
        if not failures:
            return None
        spec = self._spec_of(state)
        retries = spec.shape.retries
        delay = retries.backoff_ms * (retries.factor_milli / 1000) ** (failures - 1)
        spread = blake2b(f"{spec.id}/{state.run}/{failures}".encode(), digest_size=2).digest()
        jitter = 0.75 + int.from_bytes(spread, "big") / 65536 / 4
        return now + min(delay, float(retries.max_delay_ms)) / 1000 * jitter

    def _push(self, spec: Task, at: float | None) -> None:
        priority, own = self.priority(spec)
        job = self.ledger.jobs[spec.job]
        if job.spec is not None and job.spec.max_parallel != self.ready.limit_of(spec.job):
            self.ready.limit(spec.job, job.spec.max_parallel)
        if self.ledger.registers and self.ledger.value(f"job/{spec.job}", "paused"):
            self.ready.pause(spec.job)
        if at is None:
            self.ready.push(spec, priority, job.order, own)
        else:
            self.ready.push_later(spec, priority, job.order, at, own)
        self.dirty = True

    def spec(self, task: TaskId) -> Task:
        return self._spec_of(self.ledger.tasks[task])

    def _spec_of(self, state: TaskState) -> Task:
        assert state.spec is not None, "a task is considered only once it is known"
        return state.spec

    # -- records by way of another journal --------------------------------------------------------------------------

    def on_records(self, records: Iterable[Record], now: float) -> None:
        tasks: dict[TaskId, None] = {}
        for record in records:
            if isinstance(record, Task):
                tasks[record.id] = None
            elif isinstance(record, Attempt | Acceptance | Run | Ended):
                tasks[record.task] = None
            elif isinstance(record, Owner):
                self._owner_changed(record, now)
            elif isinstance(record, Job):
                self._jobs_changed[record.id] = None
            elif isinstance(record, Register) and record.scope.startswith("job/"):
                self._apply_register(record)
            elif isinstance(record, Deleted):
                self.detach(record.job)
        for task in tasks:
            self.consider(task, now)

    def learn(self, journal: str, tasks: list[TaskId]) -> None:
        """These were not known here before they came from this journal, which is not read to its end."""
        self.half_read.setdefault(journal, []).extend(tasks)
        for task in tasks:
            self._learnt[task] = journal

    def waits_for_journal(self, task: TaskId) -> bool:
        return bool(self.half_read) and self._learnt.get(task) in self.half_read

    def read(self, journal: str) -> None:
        """It is, or cannot be now: what it told of is decided upon, in slices."""
        self._came.append(self._settled(self.half_read.pop(journal)))

    def _settled(self, tasks: list[TaskId]) -> Iterator[TaskId]:
        for task in tasks:
            self._learnt.pop(task, None)
            yield task

    def _owner_changed(self, owner: Owner, now: float) -> None:
        """What is ours now may wait for its turn, since a job may be large; what is not is not granted from now on."""
        names = owners.touched(self.ledger, owner)
        if not owner.task and owner.owner == self.out.node:
            self._came.append(iter(names))
            return
        for name in names:
            self.consider(name, now)

    @property
    def busy(self) -> bool:
        return bool(self._came)

    def advance(self, now: float) -> None:
        """One slice of what was handed over."""
        if self._came:
            names = list(islice(self._came[0], self.params.slice_records))
            for name in names:
                self.consider(name, now)
            if len(names) < self.params.slice_records:
                self._came.popleft()

    def _apply_register(self, register: Register) -> None:
        job = register.scope[4:]
        if job in self.ledger.deleted:
            return
        self.dirty = True
        if register.field == "paused":
            self._pause(job, bool(register.value))
        elif register.field == "priority":
            self.ready.reprioritise(job, int(register.value))

    def tell(self) -> None:
        """Who watches is told what ended or changed, once that is safe."""
        if self._changed:
            tasks, self._changed = tuple(self._changed), {}
            position = self.out.recorded
            self._shown_at.update(dict.fromkeys(tasks, position))
            self.out.when_safe(lambda: self._show(tasks, position))
        if self._jobs_changed:
            jobs, self._jobs_changed = tuple(self._jobs_changed), {}
            self.out.when_safe(JobsChanged(jobs))

    def _show(self, tasks: tuple[TaskId, ...], position: int) -> None:
        for task in tasks:
            if self._shown_at.get(task) == position:
                del self._shown_at[task]
                self._due[task] = None

    def show(self) -> None:
        """End of a step: of what is safe, what did not change again in it. That is not safe yet, and is shown then."""
        if not self._due:
            return
        due, self._due = self._due, {}
        tasks = tuple(task for task in due if task not in self._shown_at and not self.ledger.is_deleted(task))
        if tasks:
            self.out.do(TasksChanged(tasks))

    def check(self) -> None:
        for name, state in self.ledger.tasks.items():
            if name in self.ready and not self.ledger.is_deleted(name):
                assert state.state not in FINAL, f"{name} is {state.state} and still ready"
                assert not state.open_attempts(), f"{name} is ready and has an open attempt"
                assert self.waits(name) is None, f"{name} is ready, but {self.waits(name)}"
