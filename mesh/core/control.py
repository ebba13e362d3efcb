"""What users ask of jobs and tasks: cancel, pause, resume, retry, priority. Large jobs are changed in slices."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from mesh.core.effects import Answer
from mesh.core.events import Asked, CancelAsked, PauseAsked, PriorityAsked, RetryAsked
from mesh.core.ids import JobId, NodeId, TaskId
from mesh.core.outbox import Outbox
from mesh.core.params import Params
from mesh.core.tasks import Tasks


class Control:
    def __init__(self, params: Params, out: Outbox, tasks: Tasks, name: Callable[[NodeId], str] = str) -> None:
        """``name``: what people call a node."""
        self.name = name
        self.params, self.out, self.tasks = params, out, tasks
        self._chores: deque[tuple[int, Iterator[None]]] = deque()  # calls under way, and the rest of their work

    @property
    def busy(self) -> bool:
        return bool(self._chores)

    def on_asked(self, event: Asked, why_unknown: str, now: float) -> None:
        """``why_unknown``: why an id that is not known here may exist all the same; empty: it does not."""
        target = event.job if isinstance(event, PauseAsked) else event.target
        tasks = self._tasks_of(target)
        if tasks is not None:
            self._chores.append((event.call, self._carry_out(event, target, tasks, now)))
        elif why_unknown:
            text = f"there is no job or task {target} here; {why_unknown}; try again"
            self.out.do(Answer(event.call, "NoLeader", text))
        else:
            self.out.do(Answer(event.call, "NotFound", f"there is no job or task {target}; see `meshctl jobs`"))

    def advance(self) -> None:
        """One slice of what is under way."""
        if self._chores and next(self._chores[0][1], self) is self:  # it yields None until it is done
            self._chores.popleft()

    def close(self) -> None:
        for call, _ in self._chores:
            self.out.do(Answer(call, "NoLeader", "only a part was changed; the leader changed meanwhile; try again"))
        self._chores.clear()

    def _carry_out(self, event: Asked, target: str, tasks: list[TaskId], now: float) -> Iterator[None]:
        """A job may have 100,000 tasks, and no step may take longer than 20 ms."""
        job = target if target in self.out.ledger.jobs else self.tasks.spec(tasks[0]).job
        count = len(tasks)
        match event:
            case CancelAsked() | RetryAsked():
                count, held = 0, ""
                for number, task in enumerate(tasks, 1):
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
                    text = f"{target} is not run once more; {held}"
                    self.out.do(Answer(event.call, "Held", text))
                    return
            case PauseAsked():
                self.tasks.pause(event.job, event.paused)
            case PriorityAsked():
                self.tasks.prioritise(event.target, event.priority)
        self.tasks.job_changed(job)
        self.out.when_safe(Answer(event.call, count=count))

    def _tasks_of(self, target: JobId | TaskId) -> list[TaskId] | None:
        job = self.out.ledger.jobs.get(target)
        if job is not None and job.spec is not None:
            return list(job.tasks)
        state = self.out.ledger.tasks.get(target)
        return None if state is None or state.spec is None else [target]
