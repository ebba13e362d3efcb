"""A few machines in one process, moved by hand: nothing arrives, no disk is synced and no time passes unless told.

Used by the golden transcripts (``test_golden``); every command and every effect becomes a line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from mesh.core import effects as do
from mesh.core import events as ev
from mesh.core.ids import AttemptId
from mesh.core.lattice import FAILED, RELEASED, SUCCEEDED, Job, Outcome, Record, Retries, Shape, Task
from mesh.core.machine import Machine
from mesh.core.messages import Cursor, Heartbeat, Pull, Pulled
from mesh.core.params import Params
from tests.core import shorthand
from tests.core.bids import offer
from tests.core.parts import who

EPOCH = 100.0  # of the monotonic clock when a transcript begins
MOST_STEPS = 3000  # of one command
SLICE = 100  # records in one Pulled


@dataclass
class Node:
    name: str
    role: str = "auto"
    slots: int = 2
    rank: int = 50
    life: int = 0
    machine: Machine | None = None
    disk: list[Record] = field(default_factory=list)
    unsynced: list[do.Persist] = field(default_factory=list)
    running: dict[AttemptId, str] = field(default_factory=dict)  # -> task
    stuck: bool = False  # its disk
    waiting: dict[str, do.ServePull] = field(default_factory=dict)  # pulls, by who asked
    pulls: dict[str, do.Effect] = field(default_factory=dict)  # that wait, as shown, by receiver
    beats: dict[str, Heartbeat] = field(default_factory=dict)  # what was last shown, by receiver

    @property
    def id(self) -> str:
        return f"{self.rank:02}-{self.name}"

    @property
    def up(self) -> Machine:
        assert self.machine is not None, f"{self.name} is not running"
        return self.machine


class Cluster:
    """Commands are the public methods; their arguments are words of a script."""

    def __init__(self, params: Params | None = None) -> None:
        self.params = params or Params()
        self.now = EPOCH
        self.nodes: dict[str, Node] = {}
        self.links: dict[int, tuple[str, str]] = {}  # the end of the one who dialled is 2n, the other 2n + 1
        self.flight: list[tuple[str, str, ev.Received]] = []
        self.copied: list[tuple[Node, ev.SuccessorSynced]] = []  # to be told
        self.dials: list[tuple[str, str]] = []
        self.cuts: set[frozenset[str]] = set()
        self.lines: list[str] = []
        self.asleep: set[str] = set()
        self.calls = 0
        self.steps = 0

    # -- commands --------------------------------------------------------------------------------------------------

    def start(self, name: str, *options: str) -> None:
        """start NAME [role=auto] [slots=2] [rank=50] [copy=NAME, whose state directory it was given]"""
        node = self.nodes.setdefault(name, Node(name))
        given = dict(option.split("=") for option in options)
        node.role, node.slots = given.get("role", node.role), int(given.get("slots", node.slots))
        node.rank = int(given.get("rank", node.rank))
        node.life += 1
        me = who(name, node.role, node.life, node.rank)
        if "copy" in given:
            original = self.nodes[given["copy"]]
            node.disk = list(original.disk)
            me = me._replace(node=original.id, new_mesh_id=original.up.me.new_mesh_id)
        node.unsynced, node.running, node.beats, node.waiting = [], {}, {}, {}
        node.machine = Machine(me, self.params, list(node.disk), self.now, (Cursor(node.name, 0, ""),))
        self.feed(node, ev.Measured(offer(node.slots)))

    def crash(self, name: str) -> None:
        """Its process is gone; what it did not sync is lost; its links close."""
        self.nodes[name].machine = None
        self.dials = [each for each in self.dials if each[0] != name]
        for link, ends in list(self.links.items()):
            if name in ends:
                self._close(link, silent=name)

    def connect(self, dialer: str, target: str) -> None:
        self._connect(self.nodes[dialer], self.nodes[target])

    def sync(self, name: str) -> None:
        node = self.nodes[name]
        batch, node.unsynced = node.unsynced, []
        for persist in batch:
            node.disk += persist.records
        if batch:
            self.feed(node, ev.JournalSynced(batch[-1].position))
            for pull in list(node.waiting.values()):
                self._serve(node, pull, told=True)

    def deliver(self, source: str, target: str) -> None:
        """What is under way from one to the other now."""
        arriving = [each for each in self.flight if each[:2] == (source, target)]
        self.flight = [each for each in self.flight if each[:2] != (source, target)]
        for _, _, event in arriving:
            self.feed(self.nodes[target], event)

    def drop(self, source: str, target: str) -> None:
        self.flight = [each for each in self.flight if each[:2] != (source, target)]

    def cut(self, one: str, other: str) -> None:
        self.cuts.add(frozenset((one, other)))

    def heal(self) -> None:
        self.cuts.clear()

    def settle(self) -> None:
        """Sync, deliver and connect, with no time passing, until nothing is left to do."""
        while self._one_thing():
            pass

    def run(self, seconds: str) -> None:
        """Settle, and let time pass."""
        until = self.now + float(seconds)
        while True:
            self.settle()
            awake = [n for n in self._running() if n.name not in self.asleep]
            due = min((max(self.now, n.up.deadline() or until) for n in awake), default=until)
            if due >= until:
                break
            self.now = due + 1e-4  # 2.2 s of silence are over a little after 2.2 s
            for node in awake:
                deadline = node.up.deadline()
                if deadline is not None and deadline <= self.now:
                    self.feed(node, ev.Ticked())
        self.now = until

    def sleep(self, name: str) -> None:
        self.asleep.add(name)

    def wake(self, name: str, gap: str) -> None:
        self.asleep.discard(name)
        self.feed(self.nodes[name], ev.Resumed(float(gap)))

    def submit(self, name: str, job: str, count: str, *options: str) -> None:
        """submit NODE JOB COUNT [retries=0]"""
        given = dict(option.split("=") for option in options)
        shape = Shape(kind=job, retries=Retries(int(given.get("retries", 0))))
        tasks = tuple(Task(f"{job}.{i}", job, i, f"{job}.{i}", shape, b"") for i in range(int(count)))
        self._call(name, lambda call: ev.Submitted(call, Job(job, job), tasks))

    def cancel(self, name: str, target: str) -> None:
        self._call(name, lambda call: ev.CancelAsked(call, target))

    def retry(self, name: str, target: str) -> None:
        self._call(name, lambda call: ev.RetryAsked(call, target))

    def pause(self, name: str, job: str) -> None:
        self._call(name, lambda call: ev.PauseAsked(call, job, True))

    def drain(self, name: str, grace: str) -> None:
        self.feed(self.nodes[name], ev.DrainAsked(float(grace)))

    def begin(self, name: str) -> None:
        """Its runners say that all that was handed to them has begun."""
        node = self.nodes[name]
        self.feed(node, ev.AttemptsBegan(tuple((attempt, 1) for attempt in node.running)))

    def end(self, name: str, *rest: str) -> None:
        """end NODE TASK... [failed|released]: its runners say so"""
        phase = {"failed": FAILED, "released": RELEASED}.get(rest[-1], SUCCEEDED)
        tasks = rest if phase == SUCCEEDED else rest[:-1]
        node = self.nodes[name]
        code = "" if phase == SUCCEEDED else "ValueError" if phase == FAILED else "recalled"
        ended = []
        for task in tasks:
            found = [each for each, of in node.running.items() if of == task]
            assert found, f"{name} does not run {task}, but {node.running}"
            attempt = found[-1]
            del node.running[attempt]
            ended.append((attempt, phase, Outcome(code, digest=f"of {task}" if phase == SUCCEEDED else "")))
        self.feed(node, ev.AttemptsEnded(tuple(ended)))

    def disk(self, name: str, state: str) -> None:
        """disk NODE stuck|works"""
        self.nodes[name].stuck = state == "stuck"

    def show(self) -> None:
        """Who leads, and what became of tasks, as each running node knows it."""
        for node in self._running():
            machine = node.up
            tasks = " ".join(f"{name}={state.state}" for name, state in sorted(machine.ledger.tasks.items()))
            role = machine.election.role
            phase = f", {machine.leader.phase}" if machine.leading else ""
            claim = shorthand.claim(machine.election.announced())
            self.lines.append(f"{node.name} is {role} {claim}{phase}; {tasks or 'no tasks'}")

    # -- the world -------------------------------------------------------------------------------------------------

    def feed(self, node: Node, event: ev.Event) -> None:
        self.steps += 1
        assert self.steps < MOST_STEPS, f"{node.name}: events without end, the last one {event!r:.200}"
        effects = node.up.step(event, self.now)
        for effect in effects:
            self._carry_out(node, effect)
        if node.machine is not None:
            node.machine.check(whole=True)

    def _carry_out(self, node: Node, effect: do.Effect) -> None:
        if not self._said(node, effect):
            shown = shorthand.effect(_without_own(node, effect))
            self.lines.append(f"{self.now - EPOCH:7.2f} {node.name} {shown}")
        match effect:
            case do.Persist():
                node.unsynced.append(effect)
            case do.Send():
                target = next((n.name for n in self._running() if n.up.me.node == effect.to and n is not node), None)
                if target is not None and self._linked(node.name, target):
                    self.flight.append((node.name, target, ev.Received(node.up.me.node, effect.message)))
            case do.Dial():
                self.dials.append((node.name, effect.address.partition(":")[0]))
            case do.Hangup():
                link, reason = effect.link, ev.LinkRefused(f"{node.name}:1", effect.reason, effect.code)
                ends = self.links.get(link // 2)
                if ends is not None:
                    other = ends[1] if ends[0] == node.name else ends[0]
                    self._close(link // 2)
                    self.feed(self.nodes[other], reason)
            case do.ServePull():
                self._serve(node, effect)
            case do.BeginAttempts():
                node.running.update((a.attempt, a.task.id) for a in effect.assignments)
            case do.Exit():
                self.crash(node.name)
            case _:
                pass  # told to people, or asked for by a command of its own

    def _serve(self, node: Node, pull: do.ServePull, told: bool = False) -> None:
        """All of it in the order written; what the puller has from elsewhere is sent again."""
        own = next((cursor for cursor in pull.cursors if cursor.journal == node.name), None)
        after = own.position if own is not None else 0
        node.waiting.pop(pull.to, None)
        if own is not None and not told:
            self.copied.append((node, ev.SuccessorSynced(pull.to, after)))
        records = tuple(node.disk[after : after + SLICE])
        if not records and pull.wait:
            node.waiting[pull.to] = pull
            return
        last = after + len(records)
        pulled = Pulled(pull.session, Cursor(node.name, last, "x"), last >= len(node.disk), records)
        self._carry_out(node, do.Send(pull.to, pulled))

    def _said(self, node: Node, send: do.Effect) -> bool:
        """Whether this is a heartbeat that says what the last one to that peer said, or goes without saying."""
        match send:
            case do.Released() | do.ServePull():
                return True
            case do.Send(message=Pull(wait=True)):
                pull = _without_own(node, send)
                before, node.pulls[send.to] = node.pulls.get(send.to), pull
                return before == pull
        if not isinstance(send, do.Send) or not isinstance(send.message, Heartbeat):
            return False
        told = send.message._replace(seq=0, echo=0, position=0, peers=(), incarnation=0)
        before, node.beats[send.to] = node.beats.get(send.to), told
        return before == told

    def _one_thing(self) -> bool:
        for node in self._running():
            if node.unsynced and not node.stuck:
                self.sync(node.name)
                return True
        if self.copied:
            node, event = self.copied.pop(0)
            if node.machine is not None:
                self.feed(node, event)
            return True
        if self.dials:
            self._answer_dial(*self.dials.pop(0))
            return True
        if self.flight:
            source, target, event = self.flight.pop(0)
            if self.nodes[target].machine is not None and target not in self.asleep and self._linked(source, target):
                self.feed(self.nodes[target], event)
            return True
        return False

    def _answer_dial(self, source: str, target: str) -> None:
        node, other = self.nodes[source], self.nodes.get(target)
        if node.machine is None:
            return
        if frozenset((source, target)) in self.cuts or target in self.asleep:
            self.feed(node, ev.DialFailed(f"{target}:1", gone=False))
        elif other is None or other.machine is None:
            self.feed(node, ev.DialFailed(f"{target}:1", gone=True))
        else:
            self._connect(node, other)

    def _connect(self, node: Node, other: Node) -> None:
        number = len(self.links) + 1 + max(self.links, default=0)
        self.links[number] = (node.name, other.name)
        mine, theirs = node.up.hello(self.now), other.up.hello(self.now)
        self.feed(other, ev.LinkUp(number * 2 + 1, mine))
        if number in self.links and node.machine is not None:
            self.feed(node, ev.LinkUp(number * 2, theirs, f"{other.name}:1"))

    def _close(self, link: int, silent: str = "") -> None:
        ends = self.links.pop(link)
        for end, number in zip(ends, (link * 2, link * 2 + 1), strict=True):
            if end != silent and self.nodes[end].machine is not None:
                self.feed(self.nodes[end], ev.LinkDown(number))

    def _linked(self, one: str, other: str) -> bool:
        pair = {one, other}
        return frozenset(pair) not in self.cuts and any(set(ends) == pair for ends in self.links.values())

    def _running(self) -> list[Node]:
        return [self.nodes[name] for name in sorted(self.nodes) if self.nodes[name].machine is not None]

    def _call(self, name: str, event: Callable[[int], ev.Event]) -> None:
        self.calls += 1
        self.feed(self.nodes[name], event(self.calls))


def _without_own(node: Node, effect: do.Effect) -> do.Effect:
    """A pull without the cursor of the puller's own journal, which moves with every record."""
    if not isinstance(effect, do.Send) or not isinstance(effect.message, Pull):
        return effect
    others = tuple(cursor for cursor in effect.message.cursors if cursor.journal != node.name)
    return effect._replace(message=effect.message._replace(cursors=others))
