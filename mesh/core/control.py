"""What users ask of jobs, tasks and members: cancel, pause, retry, priority, delete, forget. Large jobs in slices."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from mesh.core.effects import Answer
from mesh.core.events import Asked, CancelAsked, DeleteAsked, ForgetAsked, PauseAsked, PriorityAsked, RetryAsked
from mesh.core.ids import JobId, NodeId, TaskId, job_of
from mesh.core.ledger import ACTIVE, PENDING
from mesh.core.members import Members
from mesh.core.outbox import Outbox
from mesh.core.params import Params
from mesh.core.tasks import Tasks


class Control:
    def __init__(
        self,
        params: Params,
        out: Outbox,
        tasks: Tasks,
        on_deleted: Callable[[JobId], None],
        name: Callable[[NodeId], str] = str,
    ) -> None:
        """``on_deleted``: told what job was, for others keep something of it; ``name``: what people call a node."""
        self.params, self.out, self.tasks, self.on_deleted, self.name = params, out, tasks, on_deleted, name
        self._chores: deque[tuple[int, Iterator[None]]] = deque()  # calls under way, and the rest of their work

    @property
    def busy(self) -> bool:
        return bool(self._chores)

    def on_asked(self, event: Asked, why_unknown: str, now: float) -> None:
        """``why_unknown``: why an id that is not known here may exist all the same; empty: it does not."""
        target = event.job if isinstance(event, PauseAsked | DeleteAsked) else event.target
        tasks = self._tasks_of(target)
        if self.out.ledger.is_deleted(target):
            self._was_deleted(event, target)
        elif tasks is not None and isinstance(event, DeleteAsked):
            self._chores.append((event.call, self._delete(event)))
        elif tasks is not None:
            job = target if target in self.out.ledger.jobs else self.tasks.spec(target).job
            self._chores.append((event.call, self._carry_out(event, job, tasks, now)))
        elif why_unknown:
            text = f"there is no job or task {target} here; {why_unknown}; try again"
            self.out.do(Answer(event.call, "NoLeader", text))
        else:
            self.out.do(Answer(event.call, "NotFound", f"there is no job or task {target}; see `meshctl jobs`"))

    def whom_to_forget(self, event: ForgetAsked, members: Members, now: float) -> NodeId | None:
        """The member that is away and meant; None: there is not one such, and that was answered."""
        found = [peer for peer in members.known() if event.node in (peer.node, peer.name)]
        away = [peer.node for peer in found if not members.alive(peer, now)]
        if not found:
            text = f"there is no member {event.node}; see `meshctl peers`"
            self.out.do(Answer(event.call, "NotFound", text))
        elif not away:
            text = f"{event.node} is not forgotten; it is alive; stop meshd there first"
            self.out.do(Answer(event.call, "Conflict", text))
        elif len(away) > 1:
            text = f"several members are named {event.node}; {', '.join(away)}; give an id"
            self.out.do(Answer(event.call, "Conflict", text))
        return away[0] if len(away) == 1 else None

    def advance(self) -> None:
        """One slice of what is under way."""
        if self._chores and next(self._chores[0][1], self) is self:  # it yields None until it is done
            self._chores.popleft()

    def close(self) -> None:
        for call, _ in self._chores:
            self.out.do(Answer(call, "NoLeader", "only a part was changed; the leader changed meanwhile; try again"))
        self._chores.clear()

    def _carry_out(self, event: Asked, job: JobId, tasks: list[TaskId], now: float) -> Iterator[None]:
        """A job may have 100,000 tasks, and no step may take longer than 20 ms. Meanwhile it may be deleted."""
        count, deleted = len(tasks), self.out.ledger.deleted
        match event:
            case _ if job in deleted:
                pass
            case CancelAsked() | RetryAsked():
                count, held = 0, ""
                for number, task in enumerate(tasks, 1):
                    if job in deleted:
                        break
                    if isinstance(event, CancelAsked):
                        count += self.tasks.cancel(task, now)
                    elif self.tasks.retry(task, now, event.force):
                        count += 1
                    else:
                        why = None if held else self.tasks.waits(task)
                        held = held if why is None else str(why._replace(args=(self.name(why.args[0]), *why.args[1:])))
                    if number % self.params.slice_records == 0:
                        yield
                if held and not count:
                    text = f"{event.target} is not run once more; {held}"
                    self.out.do(Answer(event.call, "Held", text))
                    return
            case PauseAsked():
                self.tasks.pause(event.job, event.paused)
            case PriorityAsked():
                self.tasks.prioritise(event.target, event.priority)
        if job in deleted:
            self._was_deleted(event, job)
            return
        self.tasks.job_changed(job)
        self.out.when_safe(Answer(event.call, count=count))

    def _delete(self, event: DeleteAsked) -> Iterator[None]:
        """When its turn has come: what was asked before is done. Tasks that were never submitted stop nobody."""
        name, job = event.job, self.out.ledger.jobs.get(event.job)
        if name in self.out.ledger.deleted:
            self._was_deleted(event, name)
        elif job is None:
            text = f"{name} cannot be deleted; it is a task, and only whole jobs can; `meshctl delete {job_of(name)}`"
            self.out.do(Answer(event.call, "Conflict", text))
        elif not job.final():
            left = job.counts[PENDING] + job.counts[ACTIVE]
            why = f"{left} of its {len(job.tasks)} tasks {'has' if left == 1 else 'have'} not ended"
            text = f"job {name} cannot be deleted; {why}; cancel it first: `meshctl cancel {name}`"
            self.out.do(Answer(event.call, "Conflict", text))
        else:
            count = len(job.tasks)
            self.tasks.delete(name)
            self.on_deleted(name)
            self.out.when_safe(Answer(event.call, count=count))
        yield from ()

    def _was_deleted(self, event: Asked, target: JobId | TaskId) -> None:
        """Deleting again is done: a client that lost its connection asks again."""
        if isinstance(event, DeleteAsked):
            self.out.when_safe(Answer(event.call))
        else:
            text = f"there is no job or task {target}; job {job_of(target)} was deleted; see `meshctl jobs`"
            self.out.when_safe(Answer(event.call, "NotFound", text))

    def _tasks_of(self, target: JobId | TaskId) -> list[TaskId] | None:
        job = self.out.ledger.jobs.get(target)
        if job is not None and job.spec is not None:
            return list(job.tasks)
        state = self.out.ledger.known(target)
        return None if state is None or state.spec is None else [target]
