"""What is said, shown and accepted: only what is on disk, and one answer for each task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.core import effects as do
from mesh.core.ids import AttemptId, Life, TaskId, job_of
from mesh.core.lattice import LOST, TASK_CANCELLED, Acceptance, Attempt, Ended
from mesh.core.ledger import DONE, FINAL
from mesh.core.messages import Heartbeat, Orders, Report
from mesh.core.owners import NOT_COUNTED
from tests.sim.leaders import group_of

if TYPE_CHECKING:
    from mesh.core.machine import Machine
    from tests.sim.world import Host, World

TOGETHER = 20.0  # seconds in undisturbed contact after which two nodes know what the other knows


class Promises:
    def __init__(self, world: World) -> None:
        self.world, self.fail = world, world.violate
        self.accepted: dict[TaskId, list[tuple[float, Host, Life, AttemptId]]] = {}
        self.ended: set[Ended] = set()
        self.tasks: dict[AttemptId, TaskId] = {}  # of all that was granted

    def _durable(self, host: Host, *key: object) -> None:
        if key not in host.disk.known:
            self.fail(f"{host.name} promised what is not on its disk: {key}")

    def on_send(self, host: Host, machine: Machine, effect: do.Send) -> None:
        match effect.message:
            case Heartbeat(claim=claim):
                # The ledger keeps the highest claim alone: a provisional one after an established one leaves no trace,
                # nor does one beside that of a copy of this state directory.
                if (
                    claim.established
                    and claim.leader == host.node
                    and claim.life == host.life
                    and not self._copied(host)
                ):
                    self._durable(host, "claim", claim.term, claim.leader, claim.life)
            case Orders(acks=acks):
                for attempt in acks:
                    self._durable_or_deleted(host, machine, self.tasks[attempt], "attempt", attempt, True)
            case Report(attempts=attempts):
                for known in attempts:
                    if known.ended:
                        self._durable_or_deleted(host, machine, known.task, "attempt", known.id, True)

    def _durable_or_deleted(self, host: Host, machine: Machine, task: TaskId, *key: object) -> None:
        if machine.ledger.is_deleted(task) and key not in host.disk.known:  # then that is what must be on disk
            self._durable(host, "deleted", job_of(task))
        else:
            self._durable(host, *key)

    def _copied(self, host: Host) -> bool:
        return host.plan.ulid in self.world.copied

    def on_shown(self, host: Host, machine: Machine, effect: do.TasksChanged) -> None:
        """What is shown is on disk as it stands, not only what had been when it was queued."""
        for task in effect.tasks:
            state = machine.ledger.known(task)
            if state is None or state.state not in FINAL:
                continue
            if state.state == DONE:
                facts = [("acceptance", task, attempt) for attempt in state.acceptances or ()]
            else:
                facts = [("ended", task, state.run), ("run", task, state.run, state.cancelled)]
            if not any(fact in host.disk.known for fact in facts):
                self.fail(f"{host.name} shows {task} as {state.state} before that is on its disk")

    def on_persist(self, host: Host, machine: Machine, effect: do.Persist) -> None:
        for record in effect.records:
            if type(record) is Attempt:
                self.tasks[record.id] = record.task
            elif type(record) is Acceptance and record.claim.life == host.life:
                self._on_acceptance(host, machine, record)
            elif type(record) is Ended and record not in self.ended:  # else it came by another's journal
                self.ended.add(record)
                self._on_ended(machine, record)

    def _on_acceptance(self, host: Host, machine: Machine, record: Acceptance) -> None:
        state = machine.ledger.known(record.task)
        if state is None:
            return  # in the same step it was deleted
        if len(state.acceptances or {}) > 1:
            self.fail(f"{host.name} accepts a second result of {record.task}: {sorted(state.acceptances or {})}")
        if state.cancelled >= state.run:
            self.fail(f"{host.name} accepts {record.attempt} of {record.task}, which is cancelled")
        if record.attempt not in self.world.runners.begun:
            self.fail(f"{host.name} accepts {record.attempt} of {record.task}, which never began")
        before = self.accepted.setdefault(record.task, [])
        group = group_of(self.world, host) if before else []
        for at, other, life, attempt in before:
            together = min(self.world.calm_for, self.world.now - at, other.disk.well_for())
            durable = ("acceptance", record.task, attempt) in other.disk.known
            if attempt != record.attempt and together > TOGETHER and other.life == life and other in group and durable:
                self.fail(f"{host.name} accepts {record.attempt}; {other.name} accepted {attempt} {together:.0f} s ago")
        before.append((self.world.now, host, host.life, record.attempt))

    def _on_ended(self, machine: Machine, record: Ended) -> None:
        """A task fails for good only after it truly failed, or was truly lost, as often as it may."""
        if record.status == TASK_CANCELLED:
            if record.task not in self.world.clients.cancelled:
                self.fail(f"{record.task} was cancelled and nobody asked for it")
            return
        retries = self.world.clients.tasks[record.task].shape.retries
        failed = self.world.runners.failed.get(record.task, ())
        state = machine.ledger.known(record.task)
        if state is None:
            return
        lost = [a for a in state.attempts.values() if a.phase == LOST and not a.ended and a.outcome.code != NOT_COUNTED]
        once = failed and record.code in retries.not_on
        if len(failed) <= retries.max and not once and len(lost) < self.world.params.max_lost:
            self.fail(f"{record.task} failed for good ({record.code}) after {len(failed)} failures, {len(lost)} losses")
