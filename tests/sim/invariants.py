"""What must hold at every moment in every world, judged from outside, by what truly happened.

Allowances, each because of what the design says:
- Grants do not wait for a disk, so an attempt may be unknown to a leader that crashed and came back, or to the next
  one; a task may then run twice at a time. Under one claim it may not.
- Successors do not hold the ledger live yet. So a task that a leader acknowledged may be unknown while it is down, and
  two leaders may each accept a result where the second could not have known of the first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.core import effects as do
from mesh.core import events as ev
from mesh.core.ids import NO_CLAIM, AttemptId, Claim, TaskId
from mesh.core.lattice import FAILED, LOST, TASK_CANCELLED, Acceptance, Attempt, Ended, Task
from mesh.core.ledger import DONE, FINAL, TaskState
from mesh.core.messages import Grant, Heartbeat, Orders, Report, YieldRequest
from tests.sim.plans import fits

if TYPE_CHECKING:
    from mesh.core.machine import Machine
    from tests.sim.world import Host, World

WHOLE_EVERY = 100  # steps between checks of everything
MARGIN = 1.2  # seconds: the longest a message is on its way in a world without noise, and the pace of heartbeats
TOGETHER = 20.0  # seconds in undisturbed contact after which two nodes know what the other knows
UNITED = 20.0  # and after which a group has one leader
SETTLED = 35.0  # and after which the leadership only goes to a lower id, by settle and yield
HAND_OVER = 3  # seconds of disunity in a row that are no hand-over under way
LATE = 1.5  # measured durations in these worlds vary by 0.8 to 1.2, and are sent again when they moved by 1.2


class Watcher:
    """Watches a world; whatever is wrong is added to ``world.violations``."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.granted: dict[AttemptId, tuple[str, str]] = {}
        self.lost: set[tuple[AttemptId, int]] = set()  # and at which round
        self.ended: set[Ended] = set()
        self.failed_at: dict[tuple[str, TaskId], float] = {}  # (life, task) -> when that life learnt of a failure
        self.heard: dict[tuple[str, str], float] = {}  # (life, life it heard) -> when, a heartbeat that arrived
        self.following: dict[str, tuple[Claim, float]] = {}  # life -> whose claim it follows, and since when
        self.lost_leaderships: dict[str, int] = {}
        self.accepted: dict[TaskId, list[tuple[float, Host, str, AttemptId]]] = {}
        self.last_leader = ""
        self._disunited = 0
        self._before: tuple[Claim, frozenset[AttemptId]] | None = None
        world.before_step.append(self.before)
        world.after_step.append(self.after)
        world.after(1.0, self._look_at_groups)

    def fail(self, text: str) -> None:
        self.world.violate(text)

    def before(self, host: Host, event: ev.Event) -> None:
        self._before = None
        if type(event) is ev.Received:
            message = event.message
            if type(message) is Orders:
                assert host.machine is not None
                self._before = (host.machine.worker.claim, frozenset(host.machine.worker.held))
            elif type(message) is Heartbeat:
                self.heard[host.life, message.life] = self.world.now

    def after(self, host: Host, event: ev.Event, effects: list[do.Effect]) -> None:
        machine = host.machine
        if machine is None:
            return
        try:
            machine.check(whole=self.world.steps % WHOLE_EVERY == 0)
        except AssertionError as error:
            self.fail(f"{host.name}: {error}")
        if self._before is not None:
            self._on_orders(host, machine, event.message)  # type: ignore[union-attr]
        for effect in effects:
            kind = type(effect)
            if kind is do.Send:
                self._on_send(host, machine, effect)  # type: ignore[arg-type]
            elif kind is do.Persist:
                self._on_persist(host, machine, effect)  # type: ignore[arg-type]
            elif kind is do.TasksChanged and type(event) is not ev.JournalSynced:
                self._on_shown(host, machine, effect.tasks)  # type: ignore[union-attr]
            elif kind is do.LeaderChanged:
                self._on_leader(host, machine)
            elif kind is do.Drained:
                self._on_drained(host, machine)
        claim = machine.worker.claim
        if claim.leader == host.node and machine.worker.queue:
            self._on_held(host, machine)

    # -- orders -----------------------------------------------------------------------------------------------------

    def _on_orders(self, host: Host, machine: Machine, orders: Orders) -> None:
        """The fence: what comes under a claim that is not followed is not obeyed."""
        assert self._before is not None
        followed, held = self._before
        new = [grant.attempt for grant in orders.grants if grant.attempt in machine.worker.held.keys() - held]
        if new and orders.claim not in (followed, machine.worker.claim):
            self.fail(f"{host.name} follows {followed} and took {new[0]} of {orders.claim}")
        if new:
            self._on_held(host, machine)

    def _on_held(self, host: Host, machine: Machine) -> None:
        """No more than slots and allowance, by what this worker has measured; of one leader's grants."""
        worker, claim = machine.worker, machine.worker.claim
        prefix = f"{claim.term}.{claim.leader}.{claim.life}."
        slow = queued = 0
        short = 0.0
        for name, held in worker.held.items():
            if held.attempt.ended or held.grant is None or not name.startswith(prefix):
                continue
            micros = worker._speeds.get(held.grant.task.shape.kind)
            if micros is None or micros > self.world.params.allowance * 1e6 / LATE:
                slow += 1
            else:
                queued += 1
                short += micros
        slots = host.offer.slots
        # One may wait behind its own kind while nobody knows how long that takes; none behind what takes long.
        if slow > slots + 1:
            self.fail(f"{host.name} holds {slow} long tasks of {claim}, and has {slots} slots")
        room = slots * (self.world.params.allowance * 1e6 * LATE + (short / queued if queued else 0) * LATE) + 1
        if short > room:
            self.fail(
                f"{host.name} holds {queued} tasks, {short:.0f} us of work, of {claim}; its bids allow {room:.0f}"
            )

    # -- what is sent -----------------------------------------------------------------------------------------------

    def _on_send(self, host: Host, machine: Machine, effect: do.Send) -> None:
        message = effect.message
        match message:
            case Heartbeat():
                claim = message.claim
                # The ledger keeps the highest claim alone: a provisional one after an established one leaves no trace.
                # Nor does one beside that of a copy.
                if (
                    claim.established
                    and claim.leader == host.node
                    and claim.life == host.life
                    and not self._copied(host)
                ):
                    self._durable(host, "claim", claim.term, claim.leader, claim.life)
            case Orders():
                for grant in message.grants:
                    self._on_grant(host, machine, effect.to, grant)
                for attempt in message.acks:
                    self._durable(host, "attempt", attempt, True)
            case Report():
                for known in message.attempts:
                    if known.ended:
                        self._durable(host, "attempt", known.id, True)
            case YieldRequest():
                self._on_yield_request(host, message.claim)

    def _copied(self, host: Host) -> bool:
        return any(other is not host and other.plan.ulid == host.plan.ulid for other in self.world.hosts)

    def _durable(self, host: Host, *key: object) -> None:
        if key not in host.disk.known:
            self.fail(f"{host.name} promised what is not on its disk: {key}")

    def _on_grant(self, host: Host, machine: Machine, to: str, grant: Grant) -> None:
        before = self.granted.get(grant.attempt)
        if before is not None:  # orders are repeated until they are applied
            if before != (host.life, to):
                self.fail(f"{grant.attempt} was granted by {before[0]} to {before[1]}, and by {host.life} to {to}")
            return
        self.granted[grant.attempt] = (host.life, to)
        task, ledger = grant.task, machine.ledger
        state = ledger.tasks[task.id]
        why = ""
        if state.state in FINAL:
            why = f"it is {state.state}"
        elif any(a.id != grant.attempt for a in state.open_attempts()):
            why = f"it has {[a.id for a in state.open_attempts()]} open"
        elif ledger.value(f"job/{task.job}", "paused"):
            why = "its job is paused"
        elif not any(fits(other.plan, task.shape._replace(cwd="")) for other in self.world.hosts if other.node == to):
            why = "it does not fit"
        elif not machine.election.claim.established and self._others_known(machine):
            if task.job not in self.world.clients.submitted.get(host.life, ()):
                why = "the claim is provisional, and it was not submitted to this life"
        why = why or self._tried_enough(host, state, task)
        if why:
            self.fail(f"{host.name} grants {task.id} to {to} as {grant.attempt}, but {why}")

    @staticmethod
    def _others_known(machine: Machine) -> bool:
        return bool(machine.members.peers)

    def _tried_enough(self, host: Host, state: TaskState, task: Task) -> str:
        """Why it may not be tried again, or not yet."""
        retries = task.shape.retries
        failed = [a for a in state.attempts.values() if a.ended and a.phase == FAILED and a.run == state.run]
        if len(failed) > retries.max or any(a.outcome.code in retries.not_on for a in failed):
            return f"it failed {len(failed)} times"
        if not failed:
            return ""
        delay = (
            min(retries.backoff_ms * (retries.factor_milli / 1000) ** (len(failed) - 1), retries.max_delay_ms) / 1000
        )
        waited = self.world.now - self.failed_at.get((host.life, task.id), 0.0)
        return f"it failed {waited:.3f} s ago, and waits {delay} s" if waited < 0.74 * delay else ""

    def _on_yield_request(self, host: Host, claim: Claim) -> None:
        """A returning lower id stays steady before it asks, longer each time that it lost the leadership."""
        followed, since = self.following.get(host.life, (NO_CLAIM, 0.0))
        steady = self.world.params.settle * 2.0 ** self.lost_leaderships.get(host.life, 0)
        slept = 0.5  # its clock may be fast, and an event that it missed asleep is dealt with late
        if followed.leader != claim.leader or followed.life != claim.life:
            self.fail(f"{host.name} asks {claim.leader} for the leadership and follows {followed.leader}")
        elif self.world.now - since < min(steady, self.world.params.settle_limit) * 0.99 - slept:
            self.fail(f"{host.name} asks for the leadership after {self.world.now - since:.1f} s, steady is {steady} s")

    # -- what is recorded -------------------------------------------------------------------------------------------

    def _on_persist(self, host: Host, machine: Machine, effect: do.Persist) -> None:
        for record in effect.records:
            match record:
                case Attempt() if record.ended:
                    if record.phase == FAILED:
                        self.failed_at[host.life, record.task] = self.world.now
                case Attempt() if record.phase == LOST:
                    self._on_lost(host, machine, record)
                case Acceptance():
                    self._on_acceptance(host, machine, record)
                case Ended():
                    self._on_ended(host, machine, record)

    def _on_lost(self, host: Host, machine: Machine, attempt: Attempt) -> None:
        """Only what is not there any more, or whose holder was silent for ``lost_after``."""
        if (attempt.id, attempt.round) in self.lost or self.world.net.noise:
            return  # it came by another's journal
        self.lost.add((attempt.id, attempt.round))
        for holder in self.world.hosts:
            if (
                holder.node != attempt.node
                or holder.machine is None
                or (holder is not host and holder.node == host.node)
            ):
                continue  # a copy of a state directory believes that its former life is over
            held = holder.machine.worker.held.get(attempt.id)
            if held is None or held.attempt.ended or held.attempt.round > attempt.round:
                continue
            silent = self.world.now - self.heard.get((host.life, holder.life), 0.0)
            if holder is host or silent < self.world.params.lost_after * 0.99 - MARGIN:
                self.fail(f"{host.name} takes {attempt.id} for lost, {holder.name} was heard {silent:.1f} s ago")

    def _on_acceptance(self, host: Host, machine: Machine, record: Acceptance) -> None:
        if record.claim.life != host.life:
            return
        known = machine.ledger.tasks[record.task].acceptances or {}
        if len(known) > 1:
            self.fail(f"{host.name} accepts a second result of {record.task}: {sorted(known)}")
        if record.attempt not in self.world.runners.begun:
            self.fail(f"{host.name} accepts {record.attempt} of {record.task}, which never began")
        before = self.accepted.setdefault(record.task, [])
        group = next(group for group in groups(self.world) if host in group) if before else []
        for at, other, life, attempt in before:
            together = min(self.world.calm_for, self.world.now - at)
            durable = ("acceptance", record.task, attempt) in other.disk.known
            if attempt != record.attempt and together > TOGETHER and other.life == life and other in group and durable:
                self.fail(f"{host.name} accepts {record.attempt}; {other.name} accepted {attempt} {together:.0f} s ago")
        before.append((self.world.now, host, host.life, record.attempt))

    def _on_ended(self, host: Host, machine: Machine, record: Ended) -> None:
        """A task fails for good only after it truly failed, or was truly lost, as often as it may."""
        if record.status == TASK_CANCELLED:
            if record.task not in self.world.clients.cancelled:
                self.fail(f"{record.task} was cancelled and nobody asked for it")
            return
        if record in self.ended:
            return  # it came by another's journal
        self.ended.add(record)
        retries = self.world.clients.tasks[record.task].shape.retries
        failed = self.world.runners.failed.get(record.task, ())
        lost = {a.id for a in machine.ledger.tasks[record.task].attempts.values() if a.phase == LOST and not a.ended}
        once = failed and record.code in retries.not_on
        if len(failed) <= retries.max and not once and len(lost) < self.world.params.max_lost:
            self.fail(f"{record.task} failed for good ({record.code}) after {len(failed)} failures, {len(lost)} losses")

    # -- what is shown ----------------------------------------------------------------------------------------------

    def _on_shown(self, host: Host, machine: Machine, tasks: tuple[TaskId, ...]) -> None:
        """Either a sync has come, or there was nothing to wait for: then all that is known is on disk."""
        for task in tasks:
            state = machine.ledger.tasks[task]
            if state.state not in FINAL:
                continue
            if state.state == DONE:
                facts = [("acceptance", task, attempt) for attempt in state.acceptances or ()]
            else:
                facts = [("ended", task, state.run), ("run", task, state.run, state.cancelled)]
            if not any(fact in host.disk.known for fact in facts):
                self.fail(f"{host.name} shows {task} as {state.state} before that is on its disk")

    def _on_drained(self, host: Host, machine: Machine) -> None:
        if (
            machine.worker.busy
            and machine._drain_until is not None
            and host.local(self.world.now) < machine._drain_until
        ):
            self.fail(f"{host.name} says it is drained while it runs {machine.worker.busy}")

    # -- who leads --------------------------------------------------------------------------------------------------

    def _on_leader(self, host: Host, machine: Machine) -> None:
        claim = machine.election.announced()
        followed, since = self.following.get(host.life, (NO_CLAIM, 0.0))
        led = followed.leader == host.node and followed.established
        if led and claim.leader != host.node:
            self.lost_leaderships[host.life] = self.lost_leaderships.get(host.life, 0) + 1
        same = (followed.leader, followed.life) == (claim.leader, claim.life)
        self.following[host.life] = (claim, since if same else self.world.now)
        if claim.leader == host.node and not same:
            if self.world.calm_for > SETTLED and self.last_leader and host.node > self.last_leader:
                self.fail(
                    f"{host.name} takes over from {self.last_leader}, undisturbed for {self.world.calm_for:.0f} s"
                )
            self.last_leader = host.node
        self.world.note(f"{host.name} {'leads' if claim.leader == host.node else 'follows'} {claim.leader} {claim}")

    def _look_at_groups(self) -> None:
        """One leader per connected group that nothing disturbs, partitions included."""
        self.world.after(1.0, self._look_at_groups)
        problems = []
        if self.world.calm_for > UNITED:
            for group in groups(self.world):
                problem = disunity(self.world, group)
                if problem:
                    problems.append(f"{sorted(host.name for host in group)} have been undisturbed: {problem}")
        self._disunited = self._disunited + 1 if problems else 0
        if self._disunited > HAND_OVER:
            self.fail(problems[0])


def groups(world: World) -> list[list[Host]]:
    """Those that reach each other, directly or by way of others, in both directions."""
    left = [host for host in world.hosts if host.up]
    found = []
    while left:
        group, frontier = [left[0]], [left.pop(0)]
        while frontier:
            host = frontier.pop()
            near = [other for other in left if not world.net.is_cut(host, other)]
            left = [other for other in left if other not in near]
            group += near
            frontier += near
        found.append(group)
    return found


def disunity(world: World, group: list[Host]) -> str:
    """Why this group is not united under one leader; empty where it is."""
    able = [host for host in group if host.may_lead and not world.now < host.disk.troubled_until()]
    leading = [host for host in group if host.machine is not None and host.machine.leading]
    if not able:
        return ""
    if len(leading) != 1:
        return f"{len(leading)} lead: {[host.name for host in leading]}"
    machine = leading[0].machine
    assert machine is not None
    if not machine.election.claim.established:
        return f"{leading[0].name} leads provisionally"
    for host in group:
        assert host.machine is not None
        if not world.net.is_cut(host, leading[0]) and host.machine.election.announced() != machine.election.claim:
            return f"{host.name} follows {host.machine.election.announced()}, not {machine.election.claim}"
    return ""
