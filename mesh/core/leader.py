"""The leader's side: tasks from submission to acceptance.

Everything about a task is decided by :meth:`Leader.consider`, from its records alone, whenever one of them changed:
whether it is done, failed for good, to be recalled, to wait, or ready. Events only write records and ask again, so a
result that comes twice, late, or by way of another node's journal needs no case of its own.

Grants leave before they are synced (they promise nothing); acknowledgements, acceptances and endings only after.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from hashlib import blake2b

from mesh.core.account import Account
from mesh.core.effects import Answer, JobsChanged, TasksChanged
from mesh.core.events import CancelAsked, PauseAsked, PriorityAsked, RetryAsked, Submitted
from mesh.core.held import NOTHING
from mesh.core.identity import Me
from mesh.core.ids import NO_CLAIM, AttemptId, Claim, JobId, NodeId, TaskId, attempt_id
from mesh.core.lattice import (
    FAILED,
    LOST,
    OFFERED,
    RELEASED,
    RUNNING,
    TASK_CANCELLED,
    TASK_FAILED,
    Acceptance,
    Attempt,
    Ended,
    Job,
    Outcome,
    Record,
    Register,
    Resources,
    Run,
    Task,
)
from mesh.core.ledger import BROKEN, CANCELLED, FINAL, TaskState
from mesh.core.matching import Decision, match
from mesh.core.members import Members, Peer
from mesh.core.messages import Grant, Refused, Report
from mesh.core.outbox import Outbox
from mesh.core.params import Params
from mesh.core.puller import Puller
from mesh.core.ready import Loads, Ready
from mesh.core.session import Session

CLOSED, PULLING, REBUILDING, OPEN = "closed", "pulling", "rebuilding", "open"

PAST_DECISIONS = 1000
GRANTS_AT_ONCE = 500  # per step: 1,600 on 100 nodes took 58 ms, and no step may take longer than 20

NOT_COUNTED = "never_arrived"  # LOST, but it cannot have begun: held against nobody
REFUSED = "refused"  # RELEASED because that node cannot do such work at the moment


class Leader:
    def __init__(self, me: Me, params: Params, members: Members, puller: Puller, out: Outbox) -> None:
        self.me, self.params, self.members, self.puller, self.out = me, params, members, puller, out
        self.ledger = out.ledger
        self.phase = CLOSED
        self.claim: Claim = NO_CLAIM
        self.trouble = ""  # why nothing can be accepted: the journal
        self.copies: dict[NodeId, int] = {}  # successors' synced positions of our journal
        self.ready = Ready()
        self.loads = Loads()
        self.sessions: dict[NodeId, Session] = {}
        self.accounts: dict[NodeId, Account] = {}
        self.decisions: dict[AttemptId, Decision] = {}  # of open attempts: why they are where they are
        self.past: dict[TaskId, Decision] = {}  # of the last tasks that ended, for those who ask why afterwards
        self.progress: dict[AttemptId, bytes] = {}
        self._followers: set[NodeId] = set()  # those whose journals were asked for since they follow this claim
        self._minted = 0
        self._hold_until = 0.0  # grants nothing before: after a takeover, after a suspend
        self._lost_at: dict[NodeId, float] = {}  # when open attempts on a node without a session become LOST
        self._fresh: set[JobId] = set()  # submitted in this life, to a provisional leader
        self._rebuild: Iterator[TaskId] | None = None
        self._chores: deque[tuple[int, Iterator[None]]] = deque()  # calls under way, and the rest of their work
        self._dirty = False
        self._changed: dict[TaskId, None] = {}
        self._jobs_changed: dict[JobId, None] = {}

    # -- opening and closing ----------------------------------------------------------------------------------------

    def open(self, claim: Claim, now: float) -> None:
        """Lead under this claim. An established leader pulls everybody's journal before it grants what it finds."""
        first = self.phase == CLOSED
        was_provisional = not self.claim.established
        self.claim = claim
        self.sessions.clear()  # workers declare again to every claim
        self.accounts.clear()
        self.loads = Loads()
        self._followers.clear()
        if first:
            self.ready = Ready()
            self.decisions.clear()
            self.progress.clear()
            self._fresh.clear()
            self._lost_at.clear()
        if first or (was_provisional and claim.established):
            self.phase, self._rebuild = PULLING, None
            if claim.established:
                for peer in self.members.living(now):
                    self.on_member(peer, now)
                self._hold_until = now + (self.params.takeover_grace if self._known_others() else 0.0)
        self._dirty = True

    def close(self) -> None:
        self.phase, self.claim = CLOSED, NO_CLAIM
        self.sessions.clear()
        self.accounts.clear()
        self._rebuild = None
        for call, _ in self._chores:
            self.out.do(Answer(call, "NoLeader", "only a part was changed; the leader changed meanwhile; try again"))
        self._chores.clear()

    def on_member(self, peer: Peer, now: float) -> None:
        """A member came in reach, or follows us now: what its journal knows, we should know."""
        if self.claim.established and peer.role in ("auto", "leader"):
            self.puller.pull(peer.node, now)

    def on_heartbeat(self, peer: Peer, follows: Claim, now: float) -> None:
        if follows != self.claim:
            self._followers.discard(peer.node)
        elif peer.node not in self._followers:
            self._followers.add(peer.node)
            self.on_member(peer, now)

    def on_resumed(self, now: float) -> None:
        self._hold_until = max(self._hold_until, now + self.params.resume_wait)

    def _known_others(self) -> bool:
        return any(not peer.left for peer in self.members.peers.values())

    # -- submissions and control ------------------------------------------------------------------------------------

    def on_submitted(self, event: Submitted, now: float) -> None:
        if self.phase == CLOSED or self.trouble:
            why = self.trouble or "nobody leads here at the moment"
            self.out.do(Answer(event.call, "NoLeader", f"the submission was not taken; {why}; try again"))
            return
        problem = self._conflict(event.job, event.tasks)
        if problem:
            self.out.do(Answer(event.call, "Conflict", problem))
            return
        new = self.out.record(event.job)
        provisional = self.phase != OPEN and not self.claim.established
        if new:
            self._jobs_changed[event.job.id] = None
        if provisional:
            self._fresh.add(event.job.id)
        for task in event.tasks:
            if self.out.record(task):
                self.consider(task.id, now)
        self.out.when_durable(Answer(event.call, count=len(event.tasks), durable_on=self.durable_on()))

    def durable_on(self) -> tuple[NodeId, ...]:
        copies = [node for node, position in self.copies.items() if position >= self.out.position]
        return (self.me.node, *sorted(copies))

    def _conflict(self, job: Job, tasks: tuple[Task, ...]) -> str:
        known = self.ledger.jobs.get(job.id)
        if known is not None and known.spec is not None and known.spec.digest != job.digest:
            return f"job {job.id} exists with other contents; nothing was changed; submit under a new id"
        for task in tasks:
            state = self.ledger.tasks.get(task.id)
            if state is not None and state.spec is not None and state.spec.digest != task.digest:
                return f"task {task.id} exists with other contents; nothing was changed; submit under a new id"
        return ""

    def on_asked(self, event: CancelAsked | PauseAsked | PriorityAsked | RetryAsked, now: float) -> None:
        target = event.job if isinstance(event, PauseAsked) else event.target
        tasks = self._tasks_of(target)
        if self.phase == CLOSED or self.trouble:
            why = self.trouble or "nobody leads here at the moment"
            self.out.do(Answer(event.call, "NoLeader", f"nothing was changed; {why}; try again"))
        elif tasks is None:
            why = self.why_unknown(now)
            text = f"{why}; try again" if why else "see `meshctl jobs`"
            self.out.do(
                Answer(event.call, "NoLeader" if why else "NotFound", f"there is no job or task {target}; {text}")
            )
        else:
            self._chores.append((event.call, self._carry_out(event, target, tasks, now)))

    def why_unknown(self, now: float) -> str:
        """Why an id that is not known here may exist all the same; empty: it does not."""
        if self.phase != OPEN:
            return "the leader is still gathering journals"
        away = [
            peer.name or peer.node for peer in self.members.known()
            if peer.role not in ("worker", "observer") and not self.members.alive(peer, now)
        ]  # fmt: skip
        return f"members that might know it are away: {', '.join(away)}" if away else ""

    def _carry_out(
        self, event: CancelAsked | PauseAsked | PriorityAsked | RetryAsked, target: str, tasks: list[TaskId], now: float
    ) -> Iterator[None]:
        """In slices: a job may have 100,000 tasks, and no step may take longer than 20 ms."""
        job = target if target in self.ledger.jobs else self._spec(tasks[0]).job
        count = len(tasks)
        match event:
            case CancelAsked() | RetryAsked():
                change = self._cancel if isinstance(event, CancelAsked) else self._retry
                count = 0
                for number, task in enumerate(tasks, 1):
                    count += change(task, now)
                    if number % self.params.slice_records == 0:
                        yield
            case PauseAsked():
                self._register(f"job/{event.job}", "paused", "1" if event.paused else "")
                self.ready.pause(event.job, event.paused)
            case PriorityAsked():
                self._prioritise(event.target, event.priority)
        self._dirty = True
        self._jobs_changed[job] = None
        self.out.when_durable(Answer(event.call, count=count, durable_on=self.durable_on()))

    def _tasks_of(self, target: JobId | TaskId) -> list[TaskId] | None:
        job = self.ledger.jobs.get(target)
        if job is not None and job.spec is not None:
            return list(job.tasks)
        state = self.ledger.tasks.get(target)
        return None if state is None or state.spec is None else [target]

    def _cancel(self, task: TaskId, now: float) -> bool:
        state = self.ledger.tasks[task]
        if state.state in FINAL:
            return False
        self.out.record(Run(task, state.run, state.run))
        self.out.record(Ended(task, state.run, TASK_CANCELLED, "cancelled", "cancelled by its user"))
        self.consider(task, now)
        return True

    def _retry(self, task: TaskId, now: float) -> bool:
        state = self.ledger.tasks[task]
        if state.state not in (BROKEN, CANCELLED):
            return False
        self.out.record(Run(task, state.run + 1, state.cancelled))
        self._changed[task] = None
        self.consider(task, now)
        return True

    def _prioritise(self, target: JobId | TaskId, priority: int) -> None:
        if target in self.ledger.jobs:
            self._register(f"job/{target}", "priority", str(priority))
            self.ready.reprioritise(target, priority)
            return
        self._register(f"task/{target}", "priority", str(priority))
        if target in self.ready:
            self._push(self._spec(target), None)

    def _register(self, scope: str, field: str, value: str) -> None:
        if self.ledger.value(scope, field) != value:
            self.out.record(self.ledger.next_register(scope, field, self.me.node, value))

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
        """Look at a task's records and do what they call for. Idempotent."""
        state = self.ledger.tasks[task]
        spec = state.spec
        if spec is None or self.phase == CLOSED:
            return
        if not state.acceptances and state.cancelled < state.run:
            success = state.success()
            if success is not None:
                self.out.record(Acceptance(task, success.id, self.claim, success.outcome.digest))
        if state.state in FINAL:
            self.ready.remove(task)
            self._changed[task] = None
            for attempt in state.open_attempts():
                self._recall(attempt, f"the task {state.state}" if state.state != CANCELLED else "cancelled")
            return
        open_attempts = state.open_attempts()
        if open_attempts:
            self.ready.remove(task)
            for attempt in self._surplus(open_attempts):
                self._recall(attempt, "another attempt is further along")
            return
        verdict = self._verdict(state)
        if verdict is not None:
            self.out.record(Ended(task, state.run, TASK_FAILED, *verdict))
            self._changed[task] = None
        elif (self.phase in (OPEN, REBUILDING) or spec.job in self._fresh) and task not in self.ready:
            self._push(spec, self._not_before(state, now))

    def _surplus(self, attempts: list[Attempt]) -> list[Attempt]:
        """Of several open attempts the one further along is kept: running before offered, then the first minted."""
        attempts.sort(key=lambda a: (-a.phase, a.outcome.started_ms, a.id))
        return attempts[1:]

    def _verdict(self, state: TaskState) -> tuple[str, str] | None:
        """Why a task without open attempts failed for good, if it did."""
        spec = self._spec_of(state)
        failed = [a for a in state.attempts.values() if a.ended and a.phase == FAILED and a.run == state.run]
        retries = spec.shape.retries
        for attempt in failed:
            if attempt.outcome.code in retries.not_on:
                return attempt.outcome.code, f"{attempt.outcome.message} (no retry can help: not_on)"
        if len(failed) > retries.max:
            last = max(failed, key=lambda a: (a.outcome.finished_ms, a.id))
            return last.outcome.code, last.outcome.message
        lost = [
            a for a in state.attempts.values()
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
        self._dirty = True

    def _spec(self, task: TaskId) -> Task:
        return self._spec_of(self.ledger.tasks[task])

    def _spec_of(self, state: TaskState) -> Task:
        assert state.spec is not None, "a task is considered only once it is known"
        return state.spec

    # -- reports ----------------------------------------------------------------------------------------------------

    def on_report(self, sender: NodeId, report: Report, now: float) -> None:
        if self.phase == CLOSED:
            return
        session = self._session(sender, report, now)
        acks: list[AttemptId] = []
        unknown: list[AttemptId] = []
        for attempt in report.attempts:
            if not self._knows(attempt.task):
                unknown.append(attempt.id)
                continue
            changed = self.out.record(attempt)
            if attempt.ended:
                acks.append(attempt.id)
                self._closed(attempt)
                if attempt.phase == RELEASED and attempt.outcome.code == REFUSED:
                    account = self.accounts.get(attempt.node)
                    if account is not None:
                        shape = self._spec(attempt.task).shape
                        account.bar(shape.cwd or shape, attempt.outcome.message, now)
                self.consider(attempt.task, now)
            elif session is not None and attempt.phase == RUNNING:
                self.accounts[sender].begun(attempt.task, now)
            if changed and not attempt.ended:
                self.consider(attempt.task, now)  # it may have been held lost, or be one of two
        self.progress.update(entry for entry in report.progress if entry[0] in self.decisions)
        if session is not None:
            session.on_report(report)
            if report.bid is not None:
                self._bid(session, report, now)
            if session.declared_whole:
                self._reconcile(session, now)
            if acks or unknown:
                answer = session.answer(self.claim, tuple(acks), tuple(unknown))
                self.out.when_durable(lambda: self.out.send(sender, answer))
        self._dirty = True

    def _knows(self, task: TaskId) -> bool:
        state = self.ledger.tasks.get(task)
        return state is not None and state.spec is not None

    def _session(self, sender: NodeId, report: Report, now: float) -> Session | None:
        """The session of a worker that follows our claim; each declaration starts a new one."""
        if report.claim != self.claim:
            return None
        peer = self.members.peers.get(sender)
        if peer is not None and peer.life != report.life:
            return None  # a former life of it spoke
        session = self.sessions.get(sender)
        if session is not None and session.life == report.life and report.session <= session.number:
            return session if report.session == session.number else None
        if not report.declares:
            # What it holds is not known (we had given it up): it has to declare.
            self.out.send(sender, Refused(self.claim, alive=True))
            return None
        self._drop(sender)
        session = self.sessions[sender] = Session(sender, report.life, report.session)
        self.accounts[sender] = Account(sender)
        self._lost_at.pop(sender, None)
        return session

    def _bid(self, session: Session, report: Report, now: float) -> None:
        assert report.bid is not None
        self.accounts[session.node].apply_bid(report.bid, session.uncounted())
        for what, why in report.cannot:
            self.accounts[session.node].bar(what, why, now)

    def _reconcile(self, session: Session, now: float) -> None:
        """A declaration is complete: what the ledger believes to be open there, and is not, never will be."""
        declared = session.declared
        session.complete, session.declared_whole = True, False
        for attempt in self._open_on(session.node):
            if attempt.id not in declared and attempt.id not in session.open:
                arrived = attempt.phase != OFFERED or self._former_life(session)
                self._lose(attempt, "its process ended" if arrived else NOT_COUNTED, now)
        for attempt_name in declared:
            self._adopt(session, attempt_name, now)
        session.declared = {}

    def _open_on(self, node: NodeId) -> list[Attempt]:
        found = sorted(self.ledger.open.get(node, {}).items())
        return [self.ledger.tasks[task].attempts[name] for name, task in found]

    def _former_life(self, session: Session) -> bool:
        lived = self.ledger.lives.get(session.node)
        return lived is not None and lived.life != session.life

    def _adopt(self, session: Session, name: AttemptId, now: float) -> None:
        """An attempt that another leader granted runs on, and counts against its node and its job."""
        attempt = session.declared[name]
        state = self.ledger.tasks.get(attempt.task)
        if name in session.open or state is None or state.spec is None or state.attempts[name].ended:
            return
        session.open[name] = (attempt.task, NOTHING, (), 0)
        self.accounts[session.node].hold(attempt.task, state.spec.job, state.spec.shape, None, (), now)
        self.loads.opened(state.spec.job, NOTHING)

    def _closed(self, attempt: Attempt) -> None:
        """Give back what an open attempt held."""
        decision = self.decisions.pop(attempt.id, None)
        if decision is not None:
            self.past[attempt.task] = decision
            if len(self.past) > PAST_DECISIONS:
                del self.past[next(iter(self.past))]
        self.progress.pop(attempt.id, None)
        session = self.sessions.get(attempt.node)
        if session is not None and session.open.pop(attempt.id, None) is not None:
            held = self.accounts[attempt.node].drop(attempt.task)
            if held is not None:
                self.loads.closed(held.job, held.need)

    # -- loss -------------------------------------------------------------------------------------------------------

    def on_gone(self, node: NodeId, now: float) -> None:
        """A node's process is known not to exist: nothing runs there any more."""
        if self.phase != CLOSED:
            self._drop(node)
            self._lose_all(node, "its process ended", now)

    def _drop(self, node: NodeId) -> None:
        self.sessions.pop(node, None)
        account = self.accounts.pop(node, None)
        if account is not None:
            for kind in account.kinds.values():
                for held in kind.held.values():
                    self.loads.closed(held.job, held.need)

    def _lose_all(self, node: NodeId, why: str, now: float) -> None:
        for attempt in self._open_on(node):
            self._lose(attempt, why, now)

    def _lose(self, attempt: Attempt, code: str, now: float) -> None:
        self._closed(attempt)
        self.out.record(attempt._replace(phase=LOST, outcome=Outcome(code=code)))
        self.consider(attempt.task, now)

    def _recall(self, attempt: Attempt, reason: str) -> None:
        session = self.sessions.get(attempt.node)
        if session is not None:
            session.recall(attempt.id, reason)

    # -- records by way of another journal --------------------------------------------------------------------------

    def on_records(self, records: Iterable[Record], now: float) -> None:
        if self.phase == CLOSED:
            return
        tasks = dict.fromkeys(
            record.id if isinstance(record, Task) else record.task
            for record in records
            if isinstance(record, Task | Attempt | Acceptance | Run | Ended)
        )
        for record in records:
            if isinstance(record, Job):
                self._jobs_changed[record.id] = None
            elif isinstance(record, Attempt) and record.ended:
                self._closed(record)
            elif isinstance(record, Register) and record.scope.startswith("job/"):
                self._apply_register(record)
        for task in tasks:
            self.consider(task, now)

    def _apply_register(self, register: Register) -> None:
        job = register.scope[4:]
        if register.field == "paused":
            self.ready.pause(job, bool(register.value))
        elif register.field == "priority":
            self.ready.reprioritise(job, int(register.value))

    # -- at the end of every step -----------------------------------------------------------------------------------

    def work(self, now: float) -> None:
        if self.phase != CLOSED:
            self._advance(now)
            self._watch(now)
            wake = self.ready.next_wake()
            if wake is not None and now >= wake:
                self._dirty = True
            if self._dirty and now >= self._hold_until and not self.trouble:
                self._match(now)
            for node in sorted(self.sessions):
                self.sessions[node].send(self.claim, self.params, self.out, now)
        if self._changed:
            tasks, self._changed = tuple(self._changed), {}
            self.out.when_durable(TasksChanged(tasks))
        if self._jobs_changed:
            jobs, self._jobs_changed = tuple(self._jobs_changed), {}
            self.out.when_durable(JobsChanged(jobs))

    def _advance(self, now: float) -> None:
        if self._chores and next(self._chores[0][1], self) is self:  # a chore yields None until it is done
            self._chores.popleft()
        if self.phase == PULLING and (self.claim.established or not self._known_others()):
            if any(self.members.is_alive(node, now) for node in self.puller.busy()):
                return
            self.phase, self._rebuild = REBUILDING, iter(list(self.ledger.tasks))
        if self.phase == REBUILDING and self._rebuild is not None:
            for _, task in zip(range(self.params.slice_records), self._rebuild, strict=False):
                self._find_place(task, now)
                self.consider(task, now)
            self._dirty = True
            if self._rebuild.__length_hint__() == 0:  # type: ignore[attr-defined]  # a list iterator has one
                self.phase, self._rebuild = OPEN, None

    def _find_place(self, task: TaskId, now: float) -> None:
        """Of an open attempt found at takeover: its node declares it, or it is lost after ``lost_after``."""
        for attempt in self.ledger.tasks[task].open_attempts():
            session = self.sessions.get(attempt.node)
            if session is None:
                self._lost_at.setdefault(attempt.node, now + self.params.lost_after)
            elif session.complete and attempt.id not in session.open:
                self._lose(attempt, NOT_COUNTED if attempt.phase == OFFERED else "its process ended", now)

    def _watch(self, now: float) -> None:
        """Silent workers get nothing more; after ``lost_after`` what runs there is LOST."""
        for node in sorted(self.sessions):
            if node == self.me.node or self.members.is_alive(node, now):
                continue
            peer = self.members.peers.get(node)
            heard = peer.heard if peer is not None and peer.heard > 0 else now
            self._drop(node)
            self._lost_at[node] = max(heard + self.params.lost_after, now)
            if peer is not None and peer.gone:
                self._lost_at[node] = now
        for node in sorted(self.accounts):
            account = self.accounts[node]
            pardon = account.next_pardon()
            if pardon is not None and now >= pardon:
                account.pardon(now)
                self._dirty = True
        for node, at in sorted(self._lost_at.items()):
            if now >= at:
                del self._lost_at[node]
                self._lose_all(node, f"its node was silent for {self.params.lost_after:.0f} s", now)

    def deadline(self) -> float | None:
        if self.phase == CLOSED:
            return None
        wake = self.ready.next_wake()
        times = [None if wake is None else max(wake, self._hold_until), *self._lost_at.values()]
        times.extend(account.next_pardon() for account in self.accounts.values())
        times.extend(session.deadline(self.params) for session in self.sessions.values())
        if self._dirty:
            times.append(self._hold_until)
        if self._rebuild is not None or self._chores:
            times.append(0.0)
        return min((time for time in times if time is not None), default=None)

    # -- granting ---------------------------------------------------------------------------------------------------

    def _match(self, now: float) -> None:
        self._dirty = False
        complete = {node: account for node, account in self.accounts.items() if self.sessions[node].complete}
        decisions = match(self.ready, self.loads, complete, self.params, now, GRANTS_AT_ONCE)
        for decision in decisions:
            self._grant(decision)
        if len(decisions) >= GRANTS_AT_ONCE:
            self._dirty = True  # there may be more: in the next step

    def _grant(self, decision: Decision) -> None:
        task = decision.task
        self._minted += 1
        name = attempt_id(self.claim, self._minted)
        run = self.ledger.tasks[task.id].run
        self.out.record(Attempt(task.id, name, False, 0, OFFERED, run, decision.node))
        self.decisions[name] = decision
        priority = self.priority(task)[0]
        need: Resources = task.shape.alternatives[decision.alternative]
        grant = Grant(name, run, task, priority, decision.devices, decision.alternative)
        self.sessions[decision.node].grant(grant, need)

    # -- invariants -------------------------------------------------------------------------------------------------

    def check(self, *, whole: bool = False) -> None:
        if self.phase == CLOSED or not whole:
            return
        for name, state in self.ledger.tasks.items():
            if name in self.ready:
                assert state.state not in FINAL, f"{name} is {state.state} and still ready"
                assert not state.open_attempts(), f"{name} is ready and has an open attempt"
        for node, session in self.sessions.items():
            for attempt, (task, *_rest) in session.open.items():
                known = self.ledger.tasks[task].attempts.get(attempt)
                assert known is None or not known.ended, f"{attempt} ended and is kept as open on {node}"
