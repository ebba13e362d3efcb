"""What the Client service asks for, answered from the machine: the meeting of ``mesh.shell.server`` and ``mesh.core``.

It must not decide anything, nor know of gRPC.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from mesh.core.effects import Answer
from mesh.core.errors import BlobMissing, NotFound
from mesh.core.events import Event
from mesh.core.ids import AttemptId, JobId, TaskId
from mesh.core.lattice import LOST, Attempt
from mesh.core.ledger import DONE, FINAL
from mesh.core.machine import Machine
from mesh.node import views, views_jobs
from mesh.node.blobs import NodeBlobs
from mesh.node.driver import Clock, Driver
from mesh.node.logbook import Book
from mesh.shell.links import Links
from mesh.shell.runners import Runners
from mesh.shell.server_watch import Standing
from mesh.wire.client import JobCounts, TaskResult

T = TypeVar("T")


class Answers:
    """Implements the ports Mind, Results and Logs of :mod:`mesh.shell.server`."""

    def __init__(
        self,
        driver: Driver,
        clock: Clock,
        links: Links,
        runners: Runners,
        book: Book,
        blobs: NodeBlobs,
        damaged: Callable[[], Iterable[Path]] = tuple,
    ):
        """``damaged`` finds the journals that were set aside."""
        self.machine: Machine  # set before the first call is served: its address is that of the server
        self._driver, self._clock = driver, clock
        self._links, self._runners, self._book, self._blobs = links, runners, book, blobs
        self._damaged = damaged

    # Mind.

    def leading(self) -> bool:
        return self.machine.leading

    def leader_address(self) -> str:
        return self.machine.leader_address()

    async def ask(self, event: Callable[[int], Event]) -> Answer:
        return await self._driver.ask(event)

    async def safe(self) -> None:
        await self._driver.safe()

    async def document(self, name: str, *arguments: str) -> Any:
        machine, now = self.machine, self._clock.now()
        match name, arguments:
            case "Peers", ():
                return views.peers(machine, now)
            case "Jobs", ():
                return await _in_turns(views_jobs.jobs(machine))
            case "Job", (job,):
                return await _in_turns(views_jobs.job(machine, job))
            case "Tasks", (job, state):
                return await _in_turns(views_jobs.tasks(machine, job, state))
            case "Task", (task,):
                return views_jobs.task(machine, task)
            case "Blobs", ():
                return views.blobs(machine, now)
            case "Explain", (task,):
                return views_jobs.explain(machine, task, now)
            case "Status", ():
                vitals: dict[str, Any] = {**self._driver.vitals(), "dropped_messages": self._links.dropped}
                vitals |= self._blobs.vitals()
                told = views.status(machine, now)
                told["refused_hellos"] += self._links.strangers
                if damaged := [str(path) for path in self._damaged()]:
                    vitals["damaged_journals"] = damaged
                return {**told, **vitals}
        raise LookupError(f"{name}{arguments} is no question")

    # Results.

    def standing(self, job: JobId) -> Standing:
        counts, state, open_ended = views_jobs.standing(self.machine, job)
        return Standing(JobCounts(**counts), state, state in FINAL, open_ended)

    async def ended(self, job: JobId) -> list[TaskId]:
        return await _in_turns(views_jobs.ended(self.machine, job))

    def result(self, job: JobId, task: TaskId) -> TaskResult | None:
        found = views_jobs.result(self.machine, job, task)
        told = None if found is None else TaskResult(*found)
        if told is not None and told.state == DONE and not told.attempt:
            return None  # accepted by another leader; the result itself is still on its way here
        return told

    # Logs.

    def place(self, target: str, attempt: AttemptId) -> tuple[str, AttemptId]:
        me, members = self.machine.me, self.machine.members
        if target in (me.node, me.name):
            return "", ""
        for peer in members.known():
            if target in (peer.node, peer.name):
                return peer.address, ""
        state = self.machine.ledger.known(target)
        if state is None or state.spec is None or not self.machine.leading:
            raise NotFound(f"there is no task or node {target}", "", "see meshctl tasks and meshctl peers")
        if attempt and attempt not in state.attempts:
            raise NotFound(f"task {target} has no attempt {attempt}", "", f"see meshctl task {target}")
        if not state.attempts:
            raise NotFound(f"task {target} has printed nothing", "it has not begun", f"see meshctl explain {target}")
        chosen = state.attempts[attempt] if attempt else max(state.attempts.values(), key=_newness)
        if chosen.node == me.node:
            return "", chosen.id
        if chosen.outcome.log and not members.is_alive(chosen.node, self._clock.now()):
            return "", chosen.id  # of which there is a copy somewhere
        holder = members.peers.get(chosen.node)
        if holder is None or not holder.address:
            raise NotFound(f"the output of {target} is on {chosen.node}", "that node is not here", "start it again")
        return holder.address, chosen.id

    async def read(self, target: str, attempt: AttemptId, follow: bool) -> AsyncIterator[bytes]:
        printed = False
        async for data in self._runners.tail(attempt, follow) if attempt else self._book.read(follow):
            printed = True
            yield data
        state = self.machine.ledger.known(target) if attempt and not printed else None
        ran = None if state is None else state.attempts.get(attempt)
        if ran is not None and ran.outcome.log:
            async for data in self._copied(target, ran):
                yield data

    async def _copied(self, target: str, ran: Attempt) -> AsyncIterator[bytes]:
        """Its output as a blob, of which others have a copy."""
        try:
            held = await self._blobs.hold(ran.outcome.log, damaged=False)
        except BlobMissing as error:
            hint = "start one of them again"
            what = f"the output of {target} is on machines that are away"
            raise NotFound(what, f"it ran on {ran.node}; {error.what}", hint) from error
        try:
            pieces = self._blobs.read(ran.outcome.log, 0)
            await anext(pieces)  # its manifest
            async for data in pieces:
                yield data
        finally:
            held.release()


async def _in_turns(work: views_jobs.Sliced[T]) -> T:
    """Slice by slice, and whatever else waits in the loop in between."""
    while True:
        try:
            next(work)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        await asyncio.sleep(0)


def _newness(attempt: Attempt) -> tuple[int, bool, int, AttemptId]:
    """Of the last run; what still runs before what ended or was lost; then the latest to start."""
    return attempt.run, not attempt.ended and attempt.phase != LOST, attempt.outcome.started_ms, attempt.id
