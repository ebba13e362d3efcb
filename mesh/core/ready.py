"""Which tasks may be granted now, and whose turn it is.

Ready tasks stand in one queue per (job, resource class, priority), so that a matching looks at the heads alone:
a push or a pop costs O(log n) at worst, a round O(classes), never O(tasks). A queued task costs one pointer in its
queue and one entry in the table that says where it stands.

Order of the heads: higher priority; then fair share, the job that holds less now (:class:`Loads`); then first come,
first served (order of the jobs, index in the job, id).

Non-goals: who runs what (:mod:`mesh.core.account`), and where a task goes (:mod:`mesh.core.matching`).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from mesh.core.ids import JobId, TaskId
from mesh.core.lattice import Resources, Shape, Task

# A task that asks for next to nothing still counts in its job's share: a hundred of them weigh as much as ten cores.
LEAST_WEIGHT = 100

Rank: TypeAlias = tuple[int, int, int, int, TaskId]


class Loads:
    """What each job holds on all nodes: open attempts, and their weight for fair share.

    An attempt weighs its thousandths of cores or of GPUs, whichever is more: a job of 16-core tasks with one of them
    open has had as much as a job with sixteen small ones. Both are kept as integers, so nothing drifts.
    """

    __slots__ = ("_counts", "_weights")

    def __init__(self) -> None:
        self._counts: dict[JobId, int] = {}
        self._weights: dict[JobId, int] = {}

    def opened(self, job: JobId, need: Resources) -> None:
        self._counts[job] = self._counts.get(job, 0) + 1
        self._weights[job] = self._weights.get(job, 0) + max(LEAST_WEIGHT, need.millicpus, need.milligpus)

    def closed(self, job: JobId, need: Resources) -> None:
        """The opposite of :meth:`opened`, with the same resources."""
        count = self._counts[job] - 1
        if count:
            self._counts[job] = count
            self._weights[job] -= max(LEAST_WEIGHT, need.millicpus, need.milligpus)
        else:
            del self._counts[job], self._weights[job]

    def count(self, job: JobId) -> int:
        return self._counts.get(job, 0)

    def weight(self, job: JobId) -> int:
        return self._weights.get(job, 0)


class ResourceClass:
    """The ready tasks of one job with equal shape and priority, first come, first served.

    Tasks mostly come in order, so they stand in a deque; what comes out of order (retries, slices that overtook each
    other) goes to a heap beside it. Entries of tasks that left are skipped when they come to the front.
    """

    __slots__ = ("job", "late", "live", "order", "own", "priority", "run", "shape")

    def __init__(self, job: JobId, shape: Shape, priority: int, own: bool, order: int) -> None:
        self.job, self.shape, self.priority, self.own, self.order = job, shape, priority, own, order
        self.live = 0
        self.run: deque[Task] = deque()
        self.late: list[tuple[int, TaskId, Task]] = []

    @property
    def key(self) -> ClassKey:
        return ClassKey(self.job, self.shape, self.priority, self.own)


class ClassKey(NamedTuple):
    job: JobId
    shape: Shape
    priority: int
    own: bool  # these tasks have a priority of their own, and do not follow the job's


class _Waiting(NamedTuple):
    at: float
    task: Task
    priority: int
    order: int
    own: bool


class Ready:
    """All ready tasks, and those that wait for a retry."""

    def __init__(self) -> None:
        self._classes: dict[JobId, dict[ClassKey, ResourceClass]] = {}
        self._where: dict[TaskId, ResourceClass] = {}
        self._waiting: dict[TaskId, _Waiting] = {}
        self._alarms: list[tuple[float, TaskId]] = []
        self._paused: set[JobId] = set()
        self._limits: dict[JobId, int] = {}
        self._last: ResourceClass | None = None

    def __len__(self) -> int:
        """Tasks that may be granted now, those of paused jobs included."""
        return len(self._where)

    def __contains__(self, task: TaskId) -> bool:
        return task in self._where or task in self._waiting

    @property
    def waiting(self) -> int:
        """Tasks that wait for a retry."""
        return len(self._waiting)

    def push(self, task: Task, priority: int, job_order: int, own: bool = False) -> None:
        """Adds a task, or moves it: pushed again with another priority it stands in that class alone.

        ``own``: the priority was given to this task, and :meth:`reprioritise` of its job leaves it alone.
        """
        last = self._last
        if (
            last is not None
            and last.shape is task.shape
            and last.job == task.job
            and last.priority == priority
            and last.own == own
        ):
            into = last  # tasks come in slices of one class: the key need not be hashed for each
        else:
            into = self._last = self._class(task, priority, job_order, own)
        self._waiting.pop(task.id, None)
        old = self._where.get(task.id)
        if old is into:
            return
        if old is not None:
            self._left(old)
        self._where[task.id] = into
        into.live += 1
        run = into.run
        if not run or (run[-1].index, run[-1].id) < (task.index, task.id):
            run.append(task)
        else:
            heapq.heappush(into.late, (task.index, task.id, task))

    def push_later(self, task: Task, priority: int, job_order: int, at: float, own: bool = False) -> None:
        """Adds a task that may not be granted before ``at``, on the clock that :meth:`wake` is told."""
        self.remove(task.id)
        self._waiting[task.id] = _Waiting(at, task, priority, job_order, own)
        heapq.heappush(self._alarms, (at, task.id))

    def wake(self, now: float) -> None:
        """Makes ready what has waited long enough."""
        while self._alarms and self._alarms[0][0] <= now:
            at, task = heapq.heappop(self._alarms)
            waiting = self._waiting.get(task)
            if waiting is not None and waiting.at == at:
                self.push(waiting.task, waiting.priority, waiting.order, waiting.own)

    def next_wake(self) -> float | None:
        """When :meth:`wake` has something to do next."""
        while self._alarms:
            at, task = self._alarms[0]
            waiting = self._waiting.get(task)
            if waiting is not None and waiting.at == at:
                return at
            heapq.heappop(self._alarms)
        return None

    def waits_until(self, task: TaskId) -> float | None:
        waiting = self._waiting.get(task)
        return None if waiting is None else waiting.at

    def remove(self, task: TaskId) -> None:
        """Forgets a task, if it is here."""
        self._waiting.pop(task, None)
        old = self._where.pop(task, None)
        if old is not None:
            self._left(old)

    def remove_job(self, job: JobId) -> None:
        """Forgets all tasks of a job, its pause and its limit."""
        for cls in self._classes.pop(job, {}).values():
            for task in (*cls.run, *(entry[2] for entry in cls.late)):
                if self._where.get(task.id) is cls:
                    del self._where[task.id]
            cls.live = 0
        for task_id in [key for key, waiting in self._waiting.items() if waiting.task.job == job]:
            del self._waiting[task_id]
        self._last = None
        self._paused.discard(job)
        self._limits.pop(job, None)

    def detach(self, job: JobId) -> None:
        """The same at once, but for the table's entries, of which there may be 100,000: :meth:`forget` each in time."""
        self._classes.pop(job, None)
        for task_id in [key for key, waiting in self._waiting.items() if waiting.task.job == job]:
            del self._waiting[task_id]  # else it would wake
        self._last = None
        self._paused.discard(job)
        self._limits.pop(job, None)

    def forget(self, task: TaskId) -> None:
        """A task of a job that was detached."""
        self._where.pop(task, None)

    def reprioritise(self, job: JobId, priority: int) -> None:
        """Gives a job's tasks another priority, less those with one of their own. O(classes of the job)."""
        for task_id, waiting in self._waiting.items():
            if waiting.task.job == job and not waiting.own:
                self._waiting[task_id] = waiting._replace(priority=priority)
        classes = self._classes.get(job, {})
        for key in [key for key in classes if not key.own and key.priority != priority]:
            cls = classes[key]
            moved = key._replace(priority=priority)
            if moved not in classes:
                del classes[key]
                cls.priority = priority
                classes[moved] = cls
                continue
            # Only where a task was pushed with another priority than its job's without saying that it is its own.
            for task in self._tasks(cls):
                self.push(task, priority, cls.order)
        self._last = None

    def pause(self, job: JobId, paused: bool = True) -> None:
        """A paused job keeps its place, and nothing of it is granted."""
        if paused:
            self._paused.add(job)
        else:
            self._paused.discard(job)

    def is_paused(self, job: JobId) -> bool:
        return job in self._paused

    def limit(self, job: JobId, max_parallel: int) -> None:
        """At most so many open attempts of a job at a time; 0: as many as fit."""
        if max_parallel:
            self._limits[job] = max_parallel
        else:
            self._limits.pop(job, None)

    def limit_of(self, job: JobId) -> int:
        return self._limits.get(job, 0)

    def has_class(self, key: ClassKey) -> bool:
        return key in self._classes.get(key.job, {})

    def classes(self, loads: Loads) -> Iterator[ResourceClass]:
        """Those whose head may be granted, best first."""
        return (cls for _rank, cls in sorted(self.heads(loads), key=lambda head: head[0]))

    def heads(self, loads: Loads) -> list[tuple[Rank, ResourceClass]]:
        """What :meth:`classes` sorts. Ranks are distinct, since a task stands in one class."""
        return [
            (self.rank(cls, loads), cls)
            for job, classes in self._classes.items()
            if job not in self._paused
            for cls in classes.values()
        ]

    def rank(self, cls: ResourceClass, loads: Loads) -> Rank:
        """Less is earlier. The class holds a task."""
        head = self.peek(cls)
        return (-cls.priority, loads.weight(cls.job), cls.order, head.index, head.id)

    def peek(self, cls: ResourceClass) -> Task:
        """The head of a class that holds a task."""
        run, late, where = cls.run, cls.late, self._where
        while run and where.get(run[0].id) is not cls:
            run.popleft()
        while late and where.get(late[0][1]) is not cls:
            heapq.heappop(late)
        if not late:
            return run[0]
        if not run or late[0][:2] < (run[0].index, run[0].id):
            return late[0][2]
        return run[0]

    def pop(self, cls: ResourceClass) -> Task:
        """Takes the head of a class that holds a task."""
        task = self.peek(cls)
        if cls.run and cls.run[0] is task:
            cls.run.popleft()
        else:
            heapq.heappop(cls.late)
        del self._where[task.id]
        self._left(cls)
        return task

    def _class(self, task: Task, priority: int, order: int, own: bool) -> ResourceClass:
        key = ClassKey(task.job, task.shape, priority, own)
        classes = self._classes.setdefault(task.job, {})
        cls = classes.get(key)
        if cls is None:
            cls = classes[key] = ResourceClass(task.job, task.shape, priority, own, order)
        return cls

    def _left(self, cls: ResourceClass) -> None:
        cls.live -= 1
        entries = len(cls.run) + len(cls.late)
        if cls.live and entries < 2 * cls.live + 64:
            return
        if cls.live:
            self._compact(cls)
            return
        classes = self._classes[cls.job]
        del classes[cls.key]
        if not classes:
            del self._classes[cls.job]
        if self._last is cls:
            self._last = None

    def _tasks(self, cls: ResourceClass) -> list[Task]:
        entries = {task.id: task for task in (*cls.run, *(late[2] for late in cls.late))}
        return sorted(
            (task for task in entries.values() if self._where.get(task.id) is cls),
            key=lambda task: (task.index, task.id),
        )

    def _compact(self, cls: ResourceClass) -> None:
        cls.run, cls.late = deque(self._tasks(cls)), []
