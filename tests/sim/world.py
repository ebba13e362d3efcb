"""The whole mesh in one process on virtual time.

Machines are real; the network, the disks, the runners, the clocks and the client are modelled here, all drawn from one
seeded generator, so a seed is a world and replays exactly. Nothing here knows what the machines ought to decide: that
is in ``invariants``.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from mesh.core import effects as do
from mesh.core import events as ev
from mesh.core.identity import Me
from mesh.core.ids import AttemptId, NodeId, TaskId
from mesh.core.lattice import FAILED, RELEASED, SUCCEEDED, Job, Outcome, Record, Retries, Shape, Task
from mesh.core.ledger import DONE
from mesh.core.machine import Machine
from mesh.core.messages import Message, Offer, Orders, Pulled
from mesh.core.params import Params

MOST_STEPS = 60_000  # a default world takes about 7,000
SLICE = 50  # records per Pulled in this world: small, so that transfers take several messages


@dataclass(frozen=True)
class Plan:
    """What happens in a world. A default one has at least 4 nodes, 30 tasks and 3 faults."""

    nodes: int = 4
    tasks: int = 30
    faults: int = 4
    fault_time: float = 40.0
    limit: float = 400.0  # virtual seconds after which it must have settled


@dataclass
class Link:
    number: int
    ends: tuple[NodeId, NodeId]
    ids: dict[NodeId, int]
    up: bool = True


@dataclass
class Node:
    """A machine in the world: what survives a crash is ``disk``."""

    id: NodeId
    skew: float
    slots: int
    machine: Machine | None = None
    life: int = 0
    disk: list[Record] = field(default_factory=list)
    journal: str = ""
    unsynced: list[tuple[int, tuple[Record, ...]]] = field(default_factory=list)
    syncing: bool = False
    disk_stuck_until: float = 0.0
    paused_until: float = 0.0
    missed: list[ev.Event] = field(default_factory=list)
    asleep_since: float = 0.0
    running: dict[int, list[tuple[AttemptId, TaskId]]] = field(default_factory=dict)
    stopped: set[AttemptId] = field(default_factory=set)
    timer: float | None = None


class World:
    def __init__(self, seed: int, plan: Plan | None = None, params: Params | None = None) -> None:
        self.seed, self.plan = seed, plan or Plan()
        self.params = params or Params()
        self.rng = random.Random(seed)
        self.now = 0.0
        self.steps = 0
        self.slept = False
        self.trace = hashlib.blake2b(digest_size=16)
        self.log: list[str] = []
        self.keep_log = False
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._counter = 0
        self.links: dict[int, Link] = {}
        self._link_numbers = 0
        self.cut: set[tuple[NodeId, NodeId]] = set()  # directed: messages from the first never reach the second
        self.noise = 0.0  # probability that a message is dropped, doubled or late
        self.nodes: dict[NodeId, Node] = {}
        self.begun: dict[AttemptId, NodeId] = {}
        self.executions: dict[TaskId, int] = {}
        self.shown: dict[TaskId, set[str]] = {}  # digests of accepted results that a client was told
        self.acknowledged: dict[TaskId, Task] = {}
        self.cancelled: set[TaskId] = set()
        self.open_calls = 0
        self.pending_calls: dict[tuple[NodeId, int], Callable[[do.Answer], None]] = {}
        self.partitioned = False  # ever, for what may legitimately happen twice
        self.violations: list[str] = []
        self.after_step: list[Callable[[World, Node], None]] = []
        self.on_orders: list[Callable[[World, NodeId, NodeId, Orders], None]] = []
        self.exited: dict[NodeId, str] = {}
        for index in range(self.plan.nodes):
            ulid = f"{index:026d}"
            node = Node(f"50-{ulid}", self.rng.uniform(0, 1000), self.rng.choice((1, 2, 2, 3)))
            node.journal = f"j{index}"
            self.nodes[node.id] = node

    # -- time ----------------------------------------------------------------------------------------------------------

    def at(self, when: float, action: Callable[[], None]) -> None:
        self._counter += 1
        heapq.heappush(self._heap, (when, self._counter, action))

    def run_until(self, until: float, stop: Callable[[], bool] | None = None) -> bool:
        """Advance virtual time; True if ``stop`` became true."""
        check_at = self.now
        while self._heap and self._heap[0][0] <= until:
            when, _, action = heapq.heappop(self._heap)
            self.now = max(self.now, when)
            action()
            if stop is not None and self.now >= check_at:
                if stop():
                    return True
                check_at = self.now + 0.5
        self.now = max(self.now, until)
        return False

    # -- machines ------------------------------------------------------------------------------------------------------

    def start(self, node: Node) -> None:
        node.life += 1
        life = f"{node.id[-3:]}L{node.life}"
        me = Me(node.id, life, f"n{node.id[-2:]}", "auto", address(node.id), "sim", f"mesh{node.id[-3:]}", "0")
        node.machine = Machine(me, self.params, list(node.disk), self.now + node.skew)
        node.unsynced, node.syncing, node.running, node.stopped = [], False, {}, set()
        node.missed, node.paused_until = [], 0.0
        self.note(f"{node.id} starts as {life}")
        self.feed(node, ev.Measured(Offer(node.slots, node.slots * 1000, 1 << 33, 1 << 32)))
        for other in self.nodes:
            if other != node.id:
                delay = self.rng.uniform(0.1, 1.5)
                self.at(self.now + delay, lambda o=other: self._found(node, life, o))  # type: ignore[misc]
                self.at(self.now + delay, lambda o=other: self._found_by(node, o))  # type: ignore[misc]

    def _found(self, node: Node, life: str, other: NodeId) -> None:
        if node.machine is not None and node.machine.me.life == life:
            self.feed(node, ev.AddressFound(address(other), other))

    def _found_by(self, node: Node, other: NodeId) -> None:
        if self.nodes[other].machine is not None:
            self.feed(self.nodes[other], ev.AddressFound(address(node.id), node.id))

    def crash(self, node: Node) -> None:
        """Process gone; what was not synced is lost; its links close as far as the network carries the news."""
        if node.machine is None:
            return
        self.note(f"{node.id} crashes")
        node.machine = None
        node.unsynced, node.running, node.syncing = [], {}, False
        for link in list(self.links.values()):
            if node.id in link.ends:
                self._close(link)

    def pause(self, node: Node, seconds: float) -> None:
        if node.machine is None or node.paused_until > self.now:
            return
        self.note(f"{node.id} sleeps for {seconds:.1f} s")
        self.slept = True
        node.asleep_since, node.paused_until = self.now, self.now + seconds
        self.at(node.paused_until, lambda: self._wake(node, node.life))

    def _wake(self, node: Node, life: int) -> None:
        if node.machine is None or node.life != life or self.now < node.paused_until:
            return
        node.paused_until = 0.0
        gap = self.now - node.asleep_since
        missed, node.missed = node.missed, []
        self.note(f"{node.id} wakes after {gap:.1f} s")
        self.feed(node, ev.Resumed(gap))
        for event in missed:
            self.feed(node, event)

    def feed(self, node: Node, event: ev.Event) -> None:
        if node.machine is None:
            return
        if node.paused_until > self.now:
            if not isinstance(event, ev.Ticked):
                node.missed.append(event)
            return
        machine = node.machine
        self.steps += 1
        assert self.steps < MOST_STEPS, "livelock: events without end"
        effects = machine.step(event, self.now + node.skew)
        if self.keep_log:
            self.note(f"{node.id[-3:]} <- {event!r:.300}")
        for effect in effects:
            if self.keep_log:
                self.note(f"{node.id[-3:]} -> {effect!r:.300}")
            self.trace.update(repr(effect).encode())
            self._carry_out(node, machine, effect)
        for check in self.after_step:
            check(self, node)
        self._arm(node, machine)

    def _arm(self, node: Node, machine: Machine) -> None:
        deadline = machine.deadline()
        when = self.now if deadline is None else max(self.now, deadline - node.skew) + 1e-6
        if node.timer is not None and node.timer <= when and node.timer > self.now:
            return
        node.timer = when
        self.at(when, lambda: self._tick(node, machine, when))

    def _tick(self, node: Node, machine: Machine, when: float) -> None:
        if node.machine is not machine or node.timer != when:
            return
        node.timer = None
        if node.paused_until > self.now:
            node.timer = node.paused_until + 1e-6
            self.at(node.timer, lambda: self._tick(node, machine, node.timer or 0.0))
            return
        self.feed(node, ev.Ticked())

    # -- effects -------------------------------------------------------------------------------------------------------

    def _carry_out(self, node: Node, machine: Machine, effect: do.Effect) -> None:
        match effect:
            case do.Persist():
                node.unsynced.append((effect.position, effect.records))
                self._sync_soon(node, machine)
            case do.Send():
                self._send(node.id, effect.to, effect.message)
            case do.Dial():
                self._dial(node, machine, effect.address)
            case do.Hangup():
                link = next((k for k in self.links.values() if k.ids.get(node.id) == effect.link), None)
                if link is not None:
                    other = link.ends[0] if link.ends[1] == node.id else link.ends[1]
                    self._close(link, silent=node.id)
                    self._later(other, ev.LinkRefused(address(node.id), effect.reason, effect.code))
            case do.ServePull():
                self._serve(node, effect)
            case do.BeginAttempts():
                self._begin(node, effect)
            case do.StopAttempts():
                for name in effect.attempts:
                    self._stop(node, name, effect.code)
            case do.Answer():
                waiting = self.pending_calls.pop((node.id, effect.call), None)
                if waiting is not None:
                    waiting(effect)
            case do.TasksChanged():
                self._show(machine, effect.tasks)
            case do.Exit():
                self.exited[node.id] = effect.reason
                self.violations.append(f"{node.id} left with exit {effect.code}: {effect.reason}")
            case do.Notice() | do.LeaderChanged() | do.JobsChanged() | do.Drained():
                pass

    def _sync_soon(self, node: Node, machine: Machine) -> None:
        if node.syncing:
            return
        node.syncing = True
        delay = self.rng.choice((0.0005, 0.002, 0.002, 0.02, 0.1))
        self.at(max(self.now, node.disk_stuck_until) + delay, lambda: self._synced(node, machine))

    def _synced(self, node: Node, machine: Machine) -> None:
        if node.machine is not machine:
            return
        if node.paused_until > self.now:
            self.at(node.paused_until + 0.001, lambda: self._synced(node, machine))
            return
        batch, node.unsynced = node.unsynced, []
        node.syncing = False
        for _, records in batch:
            node.disk.extend(records)
        if batch:
            assert len(node.disk) == batch[-1][0], "journal positions have a hole"
            self.feed(node, ev.JournalSynced(batch[-1][0]))
        if node.unsynced and node.machine is machine:
            self._sync_soon(node, machine)

    def _serve(self, node: Node, effect: do.ServePull) -> None:
        after = effect.position if effect.journal == node.journal else 0
        records = tuple(node.disk[after : after + SLICE])
        position = after + len(records)
        end = position >= len(node.disk)
        self._send(node.id, effect.to, Pulled(effect.session, node.journal, position, end, records))

    # -- network -------------------------------------------------------------------------------------------------------

    def _send(self, source: NodeId, target: NodeId, message: Message) -> None:
        if isinstance(message, Orders):
            for hook in self.on_orders:
                hook(self, source, target, message)
        link = next((k for k in reversed(self.links.values()) if k.up and set(k.ends) == {source, target}), None)
        if link is None:
            return
        copies = 1
        late = 0.0
        if self.noise and self.rng.random() < self.noise:
            what = self.rng.random()
            if what < 0.4:
                copies = 0
            elif what < 0.7:
                copies = 2
            late = self.rng.uniform(0, 0.8)
        for _ in range(copies):
            delay = self.rng.uniform(0.0002, 0.003) + late
            self.at(self.now + delay, lambda: self._arrive(link, source, target, message))

    def _arrive(self, link: Link, source: NodeId, target: NodeId, message: Message) -> None:
        if link.up and (source, target) not in self.cut:
            self.feed(self.nodes[target], ev.Received(source, message))

    def _dial(self, node: Node, machine: Machine, where: str) -> None:
        target = next((n for n in self.nodes.values() if address(n.id) == where), None)
        life = machine.me.life

        def outcome() -> None:
            if node.machine is None or node.machine.me.life != life:
                return
            blocked = target is None or (node.id, target.id) in self.cut or (target.id, node.id) in self.cut
            if blocked or target is None:
                self.at(self.now + 1.0, lambda: self._fail_dial(node, life, where, False))
            elif target.machine is None:
                self._fail_dial(node, life, where, True)
            elif target.paused_until > self.now or node.paused_until > self.now:
                self.at(self.now + 1.0, lambda: self._fail_dial(node, life, where, False))
            else:
                self._connect(node, target, where)

        self.at(self.now + self.rng.uniform(0.001, 0.01), outcome)

    def _fail_dial(self, node: Node, life: str, where: str, gone: bool) -> None:
        if node.machine is not None and node.machine.me.life == life:
            self.feed(node, ev.DialFailed(where, gone))

    def _connect(self, node: Node, target: Node, where: str) -> None:
        assert node.machine is not None and target.machine is not None
        self._link_numbers += 1
        number = self._link_numbers
        link = Link(number, (node.id, target.id), {node.id: number * 2, target.id: number * 2 + 1})
        self.links[number] = link
        mine, theirs = node.machine.hello(self.now + node.skew), target.machine.hello(self.now + target.skew)
        self.feed(target, ev.LinkUp(number * 2 + 1, mine))
        if link.up:
            self.feed(node, ev.LinkUp(number * 2, theirs, where))

    def _close(self, link: Link, silent: NodeId = "") -> None:
        """Both ends learn of it, unless the way is cut."""
        if not link.up:
            return
        link.up = False
        self.links.pop(link.number, None)
        for end in link.ends:
            if end != silent:
                self._later(end, ev.LinkDown(link.ids[end]))
        if silent and self.nodes[silent].machine is not None:
            self._later(silent, ev.LinkDown(link.ids[silent]))

    def _later(self, node: NodeId, event: ev.Event) -> None:
        machine = self.nodes[node].machine

        def deliver() -> None:
            if self.nodes[node].machine is machine:
                self.feed(self.nodes[node], event)

        self.at(self.now + self.rng.uniform(0.0005, 0.005), deliver)

    def partition(self, groups: list[set[NodeId]]) -> None:
        self.note(f"partition: {[sorted(n[-3:] for n in g) for g in groups]}")
        self.partitioned = True
        for one in groups:
            for other in groups:
                if one is not other:
                    self.cut |= {(a, b) for a in one for b in other}

    def cut_way(self, source: NodeId, target: NodeId) -> None:
        self.note(f"one-way cut {source[-3:]} -> {target[-3:]}")
        self.partitioned = True
        self.cut.add((source, target))

    def heal(self) -> None:
        self.note("heal")
        self.cut.clear()
        # Connections that lost packets for long are reset by one side or the other.
        for link in list(self.links.values()):
            if self.rng.random() < 0.5:
                self._close(link)

    # -- runners -------------------------------------------------------------------------------------------------------

    def _begin(self, node: Node, effect: do.BeginAttempts) -> None:
        if node.running.get(effect.slot):
            self.violations.append(f"{node.id} begins work in slot {effect.slot}, which is busy")
        if effect.slot >= node.slots:
            self.violations.append(f"{node.id} begins work in slot {effect.slot} of {node.slots}")
        queue = []
        for assignment in effect.assignments:
            if assignment.attempt in self.begun:
                self.violations.append(f"{assignment.attempt} was begun twice: a double grant")
            self.begun[assignment.attempt] = node.id
            queue.append((assignment.attempt, assignment.task.id))
        node.running[effect.slot] = queue
        self._next_in_slot(node, effect.slot)

    def _next_in_slot(self, node: Node, slot: int) -> None:
        queue = node.running.get(slot)
        if not queue:
            return
        attempt, task = queue[0]
        life = node.life
        self._later(node.id, ev.AttemptsBegan(((attempt, int(self.now * 1000)),)))
        # How long and how well is a property of the task and its try, so that a re-run is not a copy.
        tries = self.executions[task] = self.executions.get(task, 0) + 1
        dice = random.Random(f"{self.seed}/{task}/{tries}")
        kind = random.Random(f"{self.seed}/{task.split('.')[0]}")
        seconds = kind.choice((0.002, 0.02, 0.3, 1.0, 3.0)) * dice.uniform(0.8, 1.2)
        bad = dice.random() < 0.08
        self.at(self.now + seconds, lambda: self._finish(node, life, slot, attempt, task, seconds, bad))

    def _finish(
        self, node: Node, life: int, slot: int, attempt: AttemptId, task: TaskId, seconds: float, bad: bool
    ) -> None:
        queue = node.running.get(slot)
        if node.machine is None or node.life != life or not queue or queue[0][0] != attempt:
            return
        if node.paused_until > self.now:
            self.at(node.paused_until + 0.01, lambda: self._finish(node, life, slot, attempt, task, seconds, bad))
            return
        queue.pop(0)
        micros = int(seconds * 1e6)
        if bad:
            outcome, phase = Outcome("ValueError", "bad luck", finished_ms=int(self.now * 1000), micros=micros), FAILED
        else:
            digest = f"{task}@{attempt}"
            outcome, phase = Outcome(result=b"r", digest=digest, micros=micros), SUCCEEDED
        self.feed(node, ev.AttemptsEnded(((attempt, phase, outcome),)))
        self._next_in_slot(node, slot)

    def _stop(self, node: Node, attempt: AttemptId, code: str) -> None:
        for slot, queue in node.running.items():
            for index, (name, _task) in enumerate(queue):
                if name != attempt:
                    continue
                del queue[index]
                outcome = Outcome(code, "stopped")
                self._later(node.id, ev.AttemptsEnded(((attempt, RELEASED, outcome),)))
                if index == 0:
                    self.at(self.now + 0.006, lambda s=slot: self._next_in_slot(node, s))  # type: ignore[misc]
                return

    # -- the client ----------------------------------------------------------------------------------------------------

    def leaders(self) -> list[Node]:
        return [n for n in self.nodes.values() if n.machine is not None and n.machine.leading]

    def call(self, build: Callable[[int], ev.Event], answered: Callable[[do.Answer], None]) -> None:
        """Ask whoever leads, again until it is answered. A client sees one leader at a time, not always the right one."""
        state = {"done": False}
        self.open_calls += 1

        def again() -> None:
            if state["done"]:
                return
            leaders = [n for n in self.leaders() if n.paused_until <= self.now]
            if leaders:
                node = self.rng.choice(leaders)
                self._counter += 1
                number = self._counter

                def answer(reply: do.Answer) -> None:
                    if reply.error == "NoLeader" or state["done"]:
                        return
                    state["done"] = True
                    self.open_calls -= 1
                    answered(reply)

                self.pending_calls[(node.id, number)] = answer
                self.feed(node, build(number))
            if not state["done"]:
                self.at(self.now + 1.0, again)

        again()

    def submit(self, job: Job, tasks: list[Task]) -> None:
        def answered(reply: do.Answer) -> None:
            if reply.error:
                self.violations.append(f"submission of {job.id} was refused: {reply.error} {reply.message}")
                return
            self.acknowledged.update((task.id, task) for task in tasks)

        self.call(lambda number: ev.Submitted(number, job, tuple(tasks)), answered)

    def cancel(self, target: str, tasks: list[TaskId]) -> None:
        self.cancelled.update(tasks)
        self.call(lambda number: ev.CancelAsked(number, target), lambda reply: None)

    def _show(self, machine: Machine, tasks: tuple[TaskId, ...]) -> None:
        for task in tasks:
            state = machine.ledger.tasks[task]
            accepted = state.accepted()
            if state.state == DONE and accepted is not None:
                self.shown.setdefault(task, set()).add(accepted.digest)

    def note(self, text: str) -> None:
        self.log.append(f"{self.now:9.3f} {text}")
        if len(self.log) > 400_000:
            del self.log[:200_000]


def address(node: NodeId) -> str:
    return f"host{int(node[3:])}:7433"


def job_of(index: int, tasks: int, rng: random.Random) -> tuple[Job, list[Task]]:
    """A job of small tasks, with or without retries."""
    shape = Shape(kind=f"kind{index}", retries=Retries(max=3, backoff_ms=100))
    name = f"job{index}"
    job = Job(name, f"d{index}", name, priority=rng.randint(1, 10), max_parallel=rng.choice((0, 0, 0, 2)))
    return job, [Task(f"{name}.{n}", name, n, f"d{index}.{n}", shape, b"") for n in range(tasks)]
