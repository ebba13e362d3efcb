"""What the Client service asks for, answered from the machine: the meeting of ``mesh.shell.server`` and ``mesh.core``.

It must not decide anything, nor know of gRPC.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from mesh.core.effects import Answer
from mesh.core.errors import NoLeader, NotFound
from mesh.core.events import Event
from mesh.core.ids import AttemptId, JobId, TaskId
from mesh.core.lattice import FAILED, NO_OUTCOME, Attempt
from mesh.core.ledger import BROKEN, CANCELLED, DONE, FINAL, JobState
from mesh.core.machine import Machine
from mesh.node import views
from mesh.node.driver import Clock, Driver
from mesh.node.logbook import Book
from mesh.shell.links import Links
from mesh.shell.runners import Runners
from mesh.shell.server_watch import Standing
from mesh.wire.client import JobCounts, TaskResult


class Answers:
    """Implements the ports Mind, Results and Logs of :mod:`mesh.shell.server`."""

    def __init__(self, driver: Driver, clock: Clock, links: Links, runners: Runners, book: Book):
        self.machine: Machine  # set before the first call is served: its address is that of the server
        self._driver, self._clock = driver, clock
        self._links, self._runners, self._book = links, runners, book

    # Mind.

    def leading(self) -> bool:
        return self.machine.leading

    def leader_address(self) -> str:
        return self.machine.leader_address()

    async def ask(self, event: Callable[[int], Event]) -> Answer:
        return await self._driver.ask(event)

    async def durable(self) -> None:
        await self._driver.durable()

    def document(self, name: str, *arguments: str) -> Any:
        machine, now = self.machine, self._clock.now()
        match name, arguments:
            case "Peers", ():
                return views.peers(machine, now)
            case "Jobs", ():
                return views.jobs(machine)
            case "Job", (job,):
                return views.job(machine, job)
            case "Tasks", (job, state):
                return views.tasks(machine, job, state)
            case "Task", (task,):
                return views.task(machine, task)
            case "Explain", (task,):
                return views.explain(machine, task, now)
            case "Status", ():
                vitals = {**self._driver.vitals(), "dropped_messages": self._links.dropped}
                return {**views.status(machine, now), **vitals}
        raise LookupError(f"{name}{arguments} is no question")

    # Results.

    def standing(self, job: JobId) -> Standing:
        ledger = self.machine.ledger
        found = self._job(job)
        counts = JobCounts(**found.counts)
        ended = bool(found.tasks) and found.final()
        if not ended:
            state = "paused" if ledger.value(f"job/{job}", "paused") else "running"
        elif counts.failed:
            state = BROKEN
        else:
            state = CANCELLED if counts.cancelled else DONE
        return Standing(counts, state, ended, found.spec is None or found.spec.kind == "functions")

    def ended(self, job: JobId) -> list[TaskId]:
        tasks = self.machine.ledger.tasks
        return [task for task in self._job(job).tasks if tasks[task].state in FINAL]

    def result(self, job: JobId, task: TaskId) -> TaskResult | None:
        found = self.machine.ledger.tasks.get(task)
        if found is None or found.spec is None or found.spec.job != job or found.state not in FINAL:
            return None
        acceptance, end = found.accepted(), found.ended
        attempt: Attempt | None
        if acceptance is not None:
            attempt = found.attempts.get(acceptance.attempt)
            if attempt is None:
                return None  # accepted by another leader; the result itself is still on its way here
        else:
            failed = (a for a in found.attempts.values() if a.ended and a.phase == FAILED and a.run == found.run)
            attempt = max(failed, key=lambda a: (a.outcome.finished_ms, a.id), default=None)
        outcome = NO_OUTCOME if attempt is None else attempt.outcome
        code, message = (end.code, end.message) if acceptance is None and end is not None else ("", "")
        return TaskResult(
            task,
            found.state,
            outcome.result,
            outcome.digest,
            code or outcome.code,
            message or outcome.message,
            outcome.detail,
            "" if attempt is None else attempt.node,
            "" if attempt is None else attempt.id,
            outcome.metrics,
        )

    def _job(self, job: JobId) -> JobState:
        found = self.machine.ledger.jobs.get(job)
        if found is not None and found.spec is not None:
            return found
        if not self.machine.leader.answers:
            raise NoLeader(f"job {job} is not known yet", "the leader is still reading what others know", "try again")
        raise NotFound(f"there is no job {job}", "", "see meshctl jobs")

    # Logs.

    def place(self, target: str, attempt: AttemptId) -> tuple[str, AttemptId]:
        me, members = self.machine.me, self.machine.members
        if target in (me.node, me.name):
            return "", ""
        for peer in members.known():
            if target in (peer.node, peer.name):
                return peer.address, ""
        state = self.machine.ledger.tasks.get(target)
        if state is None or state.spec is None or not self.machine.leading:
            raise NotFound(f"there is no task or node {target}", "", "see meshctl tasks and meshctl peers")
        if attempt and attempt not in state.attempts:
            raise NotFound(f"task {target} has no attempt {attempt}", "", f"see meshctl task {target}")
        if not state.attempts:
            raise NotFound(f"task {target} has printed nothing", "it has not begun", f"see meshctl explain {target}")
        chosen = state.attempts[attempt] if attempt else max(state.attempts.values(), key=_newness)
        if chosen.node == me.node:
            return "", chosen.id
        holder = members.peers.get(chosen.node)
        if holder is None or not holder.address:
            raise NotFound(f"the output of {target} is on {chosen.node}", "that node is not here", "start it again")
        return holder.address, chosen.id

    def read(self, target: str, attempt: AttemptId, follow: bool) -> AsyncIterator[bytes]:
        if not attempt:
            return self._book.read(follow)
        return self._runners.tail(attempt, follow)


def _newness(attempt: Attempt) -> tuple[int, bool, int, AttemptId]:
    """Of the last run; what still runs before what ended; then the latest to start."""
    return attempt.run, not attempt.ended, attempt.outcome.started_ms, attempt.id
