"""What is granted, obeyed, begun and taken for lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.core import effects as do
from mesh.core import events as ev
from mesh.core.ids import AttemptId, Claim, Life, TaskId
from mesh.core.lattice import FAILED, LOST, OFFERED, Attempt, Checkpoint, Task
from mesh.core.ledger import FINAL, TaskState
from mesh.core.messages import Grant, Message, Orders, Report
from mesh.core.owners import NOT_COUNTED
from tests.sim.plans import fits

if TYPE_CHECKING:
    from mesh.core.machine import Machine
    from tests.sim.leaders import Leaders
    from tests.sim.world import Host, World

MARGIN = 1.2  # seconds: the longest a message is on its way in a world without noise, and the pace of heartbeats
DECLARED = 3.0  # seconds after which a worker in undisturbed contact has said what it holds
LATE = 1.5  # measured durations in these worlds vary by 0.8 to 1.2, and are told again when they moved by 1.2


class Grants:
    def __init__(self, world: World, leaders: Leaders) -> None:
        self.world, self.leaders, self.fail = world, leaders, world.violate
        self.granted: dict[AttemptId, tuple[Life, str]] = {}  # by whom, to whom
        self.failed_at: dict[tuple[Life, TaskId], float] = {}  # when that life learnt of a failure
        self.lost: set[tuple[AttemptId, int]] = set()  # and at which round
        self.received: dict[tuple[Life, int], set[int]] = {}  # numbers of the orders of each life's sessions
        self.never_arrived: set[AttemptId] = set()
        self.newest: dict[tuple[Life, TaskId], Checkpoint] = {}  # that each life knows of
        self._before: tuple[Claim, frozenset[AttemptId]] | None = None
        self._recorded: set[AttemptId] = set()  # as offered, in the step under way

    def before(self, host: Host, message: Message) -> None:
        if type(message) is Orders and host.machine is not None:
            self.received.setdefault((host.life, message.session), set()).add(message.seq)
            self._before = (host.machine.worker.claim, frozenset(host.machine.worker.held))

    def after(self, host: Host, machine: Machine, event: ev.Event) -> None:
        before, self._before = self._before, None
        self._recorded.clear()
        if before is not None and type(event) is ev.Received and type(event.message) is Orders:
            followed, held = before
            orders = event.message
            new = [grant.attempt for grant in orders.grants if grant.attempt in machine.worker.held.keys() - held]
            if new and orders.claim not in (followed, machine.worker.claim):
                self.fail(f"{host.name} follows {followed} and took {new[0]} of {orders.claim}")
        if machine.worker.queue:
            self._on_queue(host, machine)

    def _on_queue(self, host: Host, machine: Machine) -> None:
        """No more than slots and allowance, by what this worker has measured; of one leader's grants."""
        worker, claim = machine.worker, machine.worker.claim
        prefix = f"{claim.term}.{claim.leader}.{claim.life}."
        allowance = self.world.params.allowance * 1e6 * LATE
        slow = quick = 0
        work = 0.0
        for name, held in worker.held.items():
            if held.attempt.ended or held.grant is None or not name.startswith(prefix):
                continue
            micros = worker._speeds.get(held.grant.task.shape.kind)
            if micros is None or micros > allowance / LATE / LATE:
                slow += 1
            else:
                quick += 1
                work += micros
        slots = host.offer.slots
        # One may wait behind its own kind while nobody knows how long that takes; none behind what takes long.
        if slow > slots + 1:
            self.fail(f"{host.name} holds {slow} long tasks of {claim}, and has {slots} slots")
        room = slots * (allowance + (work / quick if quick else 0) * LATE) + 1
        if work > room:
            self.fail(f"{host.name} holds {quick} tasks, {work:.0f} us of work, of {claim}; its bids allow {room:.0f}")

    # -- grants -----------------------------------------------------------------------------------------------------

    def on_send(self, host: Host, machine: Machine, effect: do.Send) -> None:
        if type(effect.message) is Orders:
            for grant in effect.message.grants:
                self._on_grant(host, machine, effect.to, grant)
        elif type(effect.message) is Report:
            report = effect.message
            missing = set(range(1, report.applied + 1)) - self.received.get((report.life, report.session), set())
            if missing:
                self.fail(f"{host.name} says that orders up to {report.applied} were applied, but not {missing}")

    def on_begin(self, host: Host, effect: do.BeginAttempts) -> None:
        for assignment in effect.assignments:
            if assignment.attempt in self.never_arrived and host.plan.ulid not in self.world.copied:
                self.fail(f"{assignment.attempt} begins on {host.name} after all: it was said never to have arrived")

    def _on_grant(self, host: Host, machine: Machine, to: str, grant: Grant) -> None:
        before = self.granted.get(grant.attempt)
        if before is not None:  # orders are repeated until they are applied
            if before != (host.life, to):
                self.fail(f"{grant.attempt} was granted by {before[0]} to {before[1]}, and by {host.life} to {to}")
            return
        self.granted[grant.attempt] = (host.life, to)
        why = self._why_not(host, machine, to, grant)
        if why:
            self.fail(f"{host.name} grants {grant.task.id} to {to} as {grant.attempt}, but {why}")

    def _why_not(self, host: Host, machine: Machine, to: str, grant: Grant) -> str:
        task, state, world = grant.task, machine.ledger.known(grant.task.id), self.world
        claim = machine.election.claim
        if state is None:
            return "its job was deleted"
        if task.shape.hold:
            if ("attempt", grant.attempt, False) not in host.disk.known:
                return "it must not run twice, and the grant is not on disk"
            owner = machine.ledger.owner_of(task)
            if owner is None or owner.owner[3:] != host.node[3:]:
                return f"its owner is {owner}"
        elif grant.attempt not in self._recorded:
            return "it is not recorded"
        if state.state in FINAL:
            return f"it is {state.state}"
        if any(attempt.id != grant.attempt for attempt in state.open_attempts()):
            return f"it has {[attempt.id for attempt in state.open_attempts()]} open"
        if machine.ledger.value(f"job/{task.job}", "paused"):
            return "its job is paused"
        if not any(fits(other.plan, task.shape._replace(cwd="")) for other in world.hosts if other.node == to):
            return "it does not fit"
        fresh = task.job in world.clients.submitted.get(host.life, ())
        if not claim.established and machine.members.peers and not fresh:
            return "the claim is provisional, and it was not submitted to this life"
        newest = self.newest.get((host.life, task.id))
        if newest is not None and (not grant.resume or grant.resume[0] < newest):
            return f"its newest checkpoint is {newest}, and it is to go on from {grant.resume[:1]}"
        for other in world.hosts:
            if task.id in world.runners.tasks(other) and self._declared(host, claim, other):
                return f"it runs on {other.name}, which said so"
        return self._tried_enough(host, state, task)

    def _declared(self, host: Host, claim: Claim, other: Host) -> bool:
        """Whether it follows this claim for long enough, so that its leader knows what it holds."""
        followed, since = self.leaders.following.get(other.life, (None, 0.0))
        quiet = min(self.world.calm_for, self.world.now - since, host.disk.well_for(), other.disk.well_for())
        return followed == claim and quiet > DECLARED and other.up and not self.world.net.is_cut(host, other)

    def _tried_enough(self, host: Host, state: TaskState, task: Task) -> str:
        """Why it may not be tried again, or not yet."""
        retries = task.shape.retries
        failed = [a for a in state.attempts.values() if a.ended and a.phase == FAILED and a.run == state.run]
        if len(failed) > retries.max or any(a.outcome.code in retries.not_on for a in failed):
            return f"it failed {len(failed)} times"
        if not failed:
            return ""
        delay = retries.backoff_ms * (retries.factor_milli / 1000) ** (len(failed) - 1)
        delay = min(delay, retries.max_delay_ms) / 1000
        waited = self.world.now - self.failed_at.get((host.life, task.id), 0.0)
        return f"it failed {waited:.3f} s ago, and waits {delay} s" if waited < 0.74 * delay else ""

    # -- losses -----------------------------------------------------------------------------------------------------

    def on_persist(self, host: Host, machine: Machine, effect: do.Persist) -> None:
        for record in effect.records:
            if type(record) is not Attempt:
                continue
            if record.saved:
                key = host.life, record.task
                self.newest[key] = max(self.newest.get(key, record.saved[0]), record.saved[0])
            if record.ended:
                if record.phase == FAILED:
                    self.failed_at[host.life, record.task] = self.world.now
            elif record.phase == LOST:
                self._on_lost(host, record)
            elif record.phase == OFFERED:
                self._recorded.add(record.id)

    def _on_lost(self, host: Host, attempt: Attempt) -> None:
        """Only what is not there any more, or whose holder was silent for ``lost_after``."""
        if (attempt.id, attempt.round) in self.lost:
            return  # it came by another's journal
        self.lost.add((attempt.id, attempt.round))
        if attempt.outcome.code == NOT_COUNTED:
            self.never_arrived.add(attempt.id)
        if self.world.net.noise:
            return
        for holder in self.world.hosts:
            if holder.node != attempt.node or holder.machine is None or holder.disk.well_for() < MARGIN:
                continue  # what a broken disk holds back is not said either
            if any(other is not holder and other.plan.ulid == holder.plan.ulid for other in self.world.hosts):
                continue  # of a copied state directory one life speaks for the other, until one of them goes
            held = holder.machine.worker.held.get(attempt.id)
            if held is None or held.attempt.round > attempt.round:
                continue
            silent = max(self.leaders.silence(host, holder), self.leaders.silence(holder, host))  # in one direction
            if holder is host or silent < self.world.params.lost_after * 0.99 - MARGIN:
                self.fail(f"{host.name} takes {attempt.id} for lost, {holder.name} was heard {silent:.1f} s ago")

    def on_drained(self, host: Host, machine: Machine) -> None:
        until = machine._drain_until
        if machine.worker.busy and until is not None and host.local(self.world.now) < until:
            self.fail(f"{host.name} says it is drained while it runs {machine.worker.busy}")
