"""Runners: what was begun takes as long and ends as the dice of its task say."""

from __future__ import annotations

import random
from hashlib import blake2b
from typing import TYPE_CHECKING

from mesh.core import effects as do
from mesh.core import events as ev
from mesh.core.ids import AttemptId, TaskId
from mesh.core.lattice import FAILED, RELEASED, SUCCEEDED, Checkpoint, Outcome
from mesh.core.needs import shares_of

if TYPE_CHECKING:
    from mesh.core.machine import Machine
    from tests.sim.plans import Behaviour
    from tests.sim.world import Host, World


QUIET = 45.0  # seconds without a disturbance: lost_after, and time to find each other before


class Runners:
    def __init__(self, world: World) -> None:
        self.world = world
        self.kinds: dict[str, Behaviour] = {job.tasks[0].shape.kind: job.behaviour for job in world.plan.jobs}
        self.begun: dict[AttemptId, Host] = {}
        self.started: set[AttemptId] = set()
        self.tries: dict[TaskId, int] = {}
        self.failed: dict[TaskId, set[AttemptId]] = {}  # the truth about failures
        self._slots: dict[tuple[int, int], list[do.Assignment]] = {}
        self.over: set[AttemptId] = set()  # released or failed: what they did is known to have ended
        self.saved: dict[TaskId, set[Checkpoint]] = {}  # the truth about checkpoints
        self._runs: dict[TaskId, dict[AttemptId, int]] = {}  # of hold tasks: attempts handed to a runner

    def begin(self, host: Host, effect: do.BeginAttempts) -> None:
        key = (host.index, effect.slot)
        if self._slots.get(key):
            self.world.violate(f"{host.name} begins work in slot {effect.slot}, which is busy")
        if effect.slot >= host.offer.slots:
            self.world.violate(f"{host.name} begins work in slot {effect.slot} of {host.offer.slots}")
        for assignment in effect.assignments:
            if assignment.attempt in self.begun:
                self.world.violate(f"{assignment.attempt} was begun twice: a double grant")
            self._check_alone(host, assignment)
            self._check_resume(host, assignment)
            self.begun[assignment.attempt] = host
            self._check_held(host, assignment)
        self._slots[key] = list(effect.assignments)
        self._check_room(host)
        self._next(host, host.machine, effect.slot)

    def _check_alone(self, host: Host, assignment: do.Assignment) -> None:
        """In quiet times nothing runs twice at a time."""
        for (index, _slot), queue in self._slots.items():
            other = self.world.hosts[index]
            for running in queue:
                if running.task.id == assignment.task.id and other.up and self.world.calm_for > QUIET:
                    self.world.violate(f"{assignment.task.id} begins on {host.name} and runs on {other.name}")

    def _check_resume(self, host: Host, assignment: do.Assignment) -> None:
        """It may go on from what was saved, and from nothing else."""
        resume = list(assignment.resume)
        if resume != sorted(resume, reverse=True) or not set(resume) <= self.saved.get(assignment.task.id, set()):
            self.world.violate(f"{assignment.task.id} shall go on from {resume} on {host.name}, which it never saved")

    def _check_held(self, host: Host, assignment: do.Assignment) -> None:
        """What must not run twice begins in one run only after all that began before is known to have ended in vain.

        Where a disk was put back to what it was a while ago, or copied, its node does not know what it did.
        """
        if not assignment.task.shape.hold or self.world.copied:
            return
        if any(not ruined.destroyed for _, ruined in self.world.ruined):
            return
        assert host.machine is not None
        run = host.machine.worker.held[assignment.attempt].attempt.run
        before = self._runs.setdefault(assignment.task.id, {})
        twice = [attempt for attempt, other in before.items() if other == run and attempt not in self.over]
        if twice:
            self.world.violate(f"{assignment.task.id} must not run twice: {twice[0]}, now {assignment.attempt}")
        before[assignment.attempt] = run

    def _check_room(self, host: Host) -> None:
        running = [queue[0] for (index, _slot), queue in self._slots.items() if index == host.index and queue]
        if len(running) > 1 and sum(a.millicpus for a in running) > host.offer.millicpus:
            self.world.violate(f"{host.name} runs {[a.task.id for a in running]} on {host.offer.millicpus} millicpus")
        free = {device.id: 1000 for device in host.offer.devices}
        for assignment in running:
            needs = [need for need in assignment.task.shape.alternatives if need.millicpus == assignment.millicpus]
            for device, share in zip(assignment.devices, shares_of(needs[0]), strict=True):
                free[device] -= share
        if any(share < 0 for share in free.values()):
            self.world.violate(f"{host.name} promised more of its cards than there is: {free}")

    def tasks(self, host: Host) -> set[TaskId]:
        """What runs or waits in a slot there."""
        return {a.task.id for (index, _), queue in self._slots.items() if index == host.index for a in queue}

    def kill(self, host: Host) -> None:
        """Nothing survives meshd."""
        for key in [key for key in self._slots if key[0] == host.index]:
            del self._slots[key]

    def stop(self, host: Host, effect: do.StopAttempts) -> None:
        wanted = set(effect.attempts)
        for (index, slot), queue in self._slots.items():
            if index != host.index:
                continue
            for assignment in [a for a in queue if a.attempt in wanted]:
                first = queue[0] is assignment
                queue.remove(assignment)
                self.world.after(0.004, self._stopped, host, host.machine, assignment.attempt, effect.code)
                if first:
                    self.world.after(0.005, self._next, host, host.machine, slot)

    def _stopped(self, host: Host, machine: Machine, attempt: AttemptId, code: str) -> None:
        if host.machine is machine:
            self.over.add(attempt)
            self.world.feed(host, ev.AttemptsEnded(((attempt, RELEASED, Outcome(code, "stopped")),)))

    def _next(self, host: Host, machine: Machine | None, slot: int) -> None:
        queue = self._slots.get((host.index, slot))
        if host.machine is not machine or not queue:
            return
        assignment = queue[0]
        if assignment.attempt in self.started:
            return
        self.started.add(assignment.attempt)
        task = assignment.task
        if task.shape.cwd and task.shape.cwd not in host.plan.dirs:
            outcome = Outcome("refused", f"{task.shape.cwd} does not exist here")
            self.world.after(0.001, self._end, host, machine, slot, assignment, RELEASED, outcome)
            return
        now_ms = int(self.world.now * 1000)
        self.world.after(0.001, self._began, host, machine, assignment.attempt, now_ms)
        # How long and how well is a property of the task and its try, so that a re-run is not a copy.
        tries = self.tries[task.id] = self.tries.get(task.id, 0) + 1
        dice = random.Random(f"{self.world.seed}/{task.id}/{tries}")
        behaviour = self.kinds[task.shape.kind]
        seconds = behaviour.seconds * dice.uniform(0.8, 1.2)
        micros = int(seconds * 1e6)
        if dice.random() < behaviour.bad:
            ended = FAILED, Outcome(behaviour.code, "bad luck", finished_ms=now_ms, micros=micros)
        else:
            digest = f"{task.id}@{assignment.attempt}"
            ended = SUCCEEDED, Outcome(result=b"r", digest=digest, finished_ms=now_ms, micros=micros)
            if seconds > 2:
                self.world.after(1.0, self._progress, host, machine, assignment.attempt)
        if self.world.plan.saves and seconds > 0.1:
            self._save(host, machine, assignment, seconds, dice.randint(1, 5))
        self.world.after(0.001 + seconds, self._end, host, machine, slot, assignment, *ended)

    def _save(self, host: Host, machine: Machine | None, assignment: do.Assignment, seconds: float, count: int) -> None:
        """It goes on from the newest one, and saves so many more, evenly."""
        first = 0
        if assignment.resume:
            first = assignment.resume[0].step + 1
            event: ev.Event = ev.AttemptResumed(assignment.attempt, assignment.resume[0].blob)
            self.world.after(0.002, self._tell, host, machine, event)
        for number in range(1, count + 1):
            name = f"{assignment.attempt}/{number}"
            checkpoint = Checkpoint(
                assignment.run, first + number, assignment.attempt, number,
                blake2b(name.encode(), digest_size=32).hexdigest(), 10,
            )  # fmt: skip
            self.saved.setdefault(assignment.task.id, set()).add(checkpoint)
            self.world.after(seconds * number / (count + 1), self._tell, host, machine, ev.AttemptSaved(checkpoint))

    def _tell(self, host: Host, machine: Machine | None, event: ev.Event) -> None:
        if host.machine is machine and machine is not None and host.asleep_since is None:
            self.world.feed(host, event)

    def _began(self, host: Host, machine: Machine, attempt: AttemptId, now_ms: int) -> None:
        if host.machine is machine:
            self.world.feed(host, ev.AttemptsBegan(((attempt, now_ms),)))

    def _progress(self, host: Host, machine: Machine, attempt: AttemptId) -> None:
        if host.machine is machine:
            self.world.feed(host, ev.AttemptsProgressed(((attempt, b'{"step": 1}'),)))

    def _end(
        self, host: Host, machine: Machine, slot: int, assignment: do.Assignment, phase: int, outcome: Outcome
    ) -> None:
        queue = self._slots.get((host.index, slot))
        if host.machine is not machine or not queue or queue[0] is not assignment:
            return
        if host.asleep_since is not None:  # it sleeps with its machine
            self.world.after(0.5, self._end, host, machine, slot, assignment, phase, outcome)
            return
        queue.pop(0)
        if phase != SUCCEEDED:
            self.over.add(assignment.attempt)
        if phase == FAILED:
            self.failed.setdefault(assignment.task.id, set()).add(assignment.attempt)
        self.world.feed(host, ev.AttemptsEnded(((assignment.attempt, phase, outcome),)))
        # The next one begins in the same turn of the runner, before the machine is told of anything else.
        self._next(host, machine, slot)
