"""The whole mesh in one process on virtual time.

Machines are real; hosts, network, disks, runners, clocks and clients are modelled, all drawn from one seeded generator,
so a seed is a world and replays exactly. This module owns time, the hosts and how events and effects pass between a
machine and what is modelled around it. It must not know what the machines ought to decide: that is in ``invariants``.
"""

from __future__ import annotations

import heapq
import json
import random
import struct
from collections.abc import Callable, Iterable
from dataclasses import replace
from hashlib import blake2b
from typing import Any

from mesh.core import effects as do
from mesh.core import events as ev
from mesh.core.errors import MeshError
from mesh.core.identity import Me
from mesh.core.ids import Life, NodeId, node_id
from mesh.core.machine import Machine
from mesh.core.messages import Offer
from mesh.core.params import Params
from tests.sim.blobs import Blobs
from tests.sim.clients import Clients
from tests.sim.disks import Disk
from tests.sim.network import End, Network
from tests.sim.plans import CLONE, HostPlan, Plan
from tests.sim.runners import Runners

MOST_STEPS = 100_000  # a default world takes about 5,000
MOST_TICKS = 1_000  # in a row, each wanted at once; slices of a default world's work take about 30
TICK = 1e-5  # a timer that is due at once fires this much later: no step takes no time
FROZEN = 1.5  # the driver takes its own lateness for a suspend from here on (mesh.node.driver)
ASK_AGAIN = 15.0  # seconds between questions of who leads or has no leader (mesh.lan.discovery)
UNIT = 1e6
TIME = struct.Struct("d")


class Livelock(AssertionError):
    """Events without end."""


class Host:
    """A computer in the world with one state directory. What survives a crash is ``disk``."""

    def __init__(self, world: World, index: int, plan: HostPlan) -> None:
        rng = world.rng
        self.index, self.plan = index, plan
        self.name = f"h{index}"
        self.address = f"{self.name}:7433"
        self.node: NodeId = node_id(plan.rank, f"{plan.ulid:026d}")
        self.offer: Offer = plan.offer
        self.disk = Disk(world, self, f"j{plan.ulid}")
        self.offset, self.rate = rng.uniform(0, 1000), 1.0 + rng.uniform(-plan.drift, plan.drift)
        self.machine: Machine | None = None
        self.life: Life = ""
        self.lives = 0
        self.power = True  # off: it answers nothing, not even that nobody listens
        self.asleep_since: float | None = None
        self.frozen = False  # asleep, but its clock runs on (a stopped process, a frozen virtual machine)
        self.slept = 0.0  # in all
        self.woke = 0.0  # when it last did
        self.missed: list[ev.Event] = []
        self.due: float | None = None  # the one timer
        self.ticked, self.ticks = 0.0, 0  # when it last came, and how many came one after another
        self.links: dict[NodeId, list[End]] = {}
        self.dialling: set[str] = set()
        self.exited = ""  # why its process may not go on
        self.drained = False
        self.destroyed = False

    def local(self, now: float) -> float:
        return self.offset + self.rate * now

    @property
    def up(self) -> bool:
        return self.machine is not None and self.asleep_since is None

    @property
    def may_lead(self) -> bool:
        return self.plan.role in ("auto", "leader")

    @property
    def works(self) -> bool:
        return self.plan.role in ("auto", "worker")


class World:
    def __init__(self, seed: int, plan: Plan) -> None:
        self.seed, self.plan = seed, plan
        self.params = Params(settle=plan.settle, slice_records=plan.slice_records, max_lost=plan.max_lost)
        self.rng = random.Random(seed)
        self.now = 0.0
        self.steps = 0
        self.appends = 0  # to any disk
        self.most_steps = MOST_STEPS
        self.calmed = False  # faults are over: who still leaves comes back
        self.copied: set[int] = set()  # ULIDs of which there was a copy
        self.ruined: list[tuple[float, Host]] = []  # whose disk lost what was on it, and when
        self._disturbed: dict[Host | None, float] = {}  # when something last began or ceased to be wrong
        self.violations: list[str] = []
        self.log: list[str] = []
        self.verbose = self.traced = False
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._pushed = 0
        self._hash = blake2b(digest_size=16)
        self.net = Network(self)
        self.runners = Runners(self)
        self.clients = Clients(self)
        self.blobs = Blobs(self)
        self.before_step: list[Callable[[Host, ev.Event], None]] = []
        self.after_step: list[Callable[[Host, ev.Event, list[do.Effect]], None]] = []
        self.hosts = [Host(self, index, host) for index, host in enumerate(plan.hosts)]
        self._effects: dict[type, Callable[[Host, Any], None]] = {
            do.Persist: lambda host, e: host.disk.append(e),
            do.Send: lambda host, e: self.net.send(host, e.to, e.message),
            do.Dial: lambda host, e: self.net.dial(host, e.address),
            do.Hangup: lambda host, e: self.net.hangup(host, e.link, e.reason, e.code),
            do.ServePull: lambda host, e: host.disk.serve(e),
            do.Released: lambda host, e: None,
            do.BeginAttempts: self.runners.begin,
            do.StopAttempts: self.runners.stop,
            do.Answer: self.clients.answered,
            do.TasksChanged: lambda host, e: self.clients.told(host, e.tasks),
            do.Drained: lambda host, e: self._drained(host),
            do.Exit: lambda host, e: self._exit(host, e.reason),
            do.Notice: lambda host, e: None,
            do.LeaderChanged: lambda host, e: None,
            do.JobsChanged: lambda host, e: None,
            do.BlobFound: self.blobs.found,
            do.CopyBlob: self.blobs.copy,
            do.BlobsSpared: self.blobs.spared,
        }

    # -- time -------------------------------------------------------------------------------------------------------

    def at(self, when: float, action: Callable[..., None], *arguments: Any) -> None:
        self._pushed += 1
        heapq.heappush(self._heap, (when, self._pushed, action, arguments))

    def after(self, delay: float, action: Callable[..., None], *arguments: Any) -> None:
        self.at(self.now + delay, action, *arguments)

    def run_until(self, until: float, stop: Callable[[], bool] | None = None, every: float = 0.5) -> bool:
        """Advance virtual time; True if ``stop``, asked ``every`` so often, became true."""
        ask_at = self.now
        heap = self._heap
        while heap and heap[0][0] <= until:
            when, _, action, arguments = heapq.heappop(heap)
            self.now = max(self.now, when)
            action(*arguments)
            if stop is not None and self.now >= ask_at:
                if stop():
                    return True
                ask_at = self.now + every
        self.now = max(self.now, until)
        return stop is not None and stop()

    def disturb(self, text: str, host: Host | None = None) -> None:
        """Something begins or ceases to be wrong: with this host alone, or with several."""
        self._disturbed[host] = self.now
        self.note(text)

    @property
    def calm_for(self) -> float:
        """Seconds since anything last began or ceased to be wrong; 0 while messages are being lost."""
        return 0.0 if self.net.restless else self.now - max(self._disturbed.values(), default=0.0)

    def calm_beside(self, host: Host) -> float:
        """The same, whatever befell this host itself."""
        others = (when for other, when in self._disturbed.items() if other is not host)
        return 0.0 if self.net.restless else self.now - max(others, default=0.0)

    def ruin(self, host: Host) -> None:
        self.ruined.append((self.now, host))
        self.blobs.ruined(host)

    def survives(self, nodes: Iterable[NodeId], since: float) -> bool:
        """Whether what was on the disks of all these then is on one of them yet."""
        lost = {host.node for when, host in self.ruined if when >= since}
        return not lost.issuperset(nodes)

    # -- hosts ------------------------------------------------------------------------------------------------------

    def start(self, host: Host) -> None:
        """Start meshd there, on what its disk holds."""
        if host.machine is not None or host.destroyed or host.exited:
            return
        host.lives += 1
        host.life = f"{host.name}.{host.lives}"
        host.power, host.drained, host.asleep_since, host.missed, host.due = True, False, None, [], None
        me = Me(
            host.node, host.life, host.name, host.plan.role, host.address, "sim", f"mesh-{host.life}", "0"
        )  # fmt: skip
        self.disturb(f"{host.name} {host.node} starts as {host.life} ({host.plan.role})", host)
        records, own, cursors = host.disk.start()
        host.machine = Machine(me, self.params, records, host.local(self.now), own, cursors)
        self.feed(host, ev.Measured(host.offer))
        self.blobs.started(host)
        if self.plan.discovery:
            self.after(self.rng.uniform(0.1, 1.5), self._browse, host, host.life, 2.0)

    def _browse(self, host: Host, life: Life, again: float) -> None:
        """mDNS: ask who is there, and be heard asking; again and again, more and more rarely by who has a leader.

        ``again``: seconds until the next time; 0: this once, after a suspend.
        """
        if host.life != life or host.machine is None:
            return
        for other in self.hosts:
            if other is host or not other.up or (host.index, other.index) in self.net.cuts:
                continue
            self.feed(other, ev.AddressFound(host.address))
            if (other.index, host.index) not in self.net.cuts:
                self.feed(host, ev.AddressFound(other.address))
        if not again:
            return
        election = host.machine.election
        seeking = election.leading or not election.heard_leader(host.local(self.now))
        self.after(min(again, ASK_AGAIN) if seeking else again, self._browse, host, life, min(again * 3, 60.0))

    def crash(self, host: Host, power: bool = True) -> None:
        """The process is gone, and what was not synced. ``power`` False: so is the machine, which says nothing."""
        if host.machine is None:
            return
        self.disturb(f"{host.name} {'crashes' if power else 'loses power'}", host)
        host.machine, host.asleep_since, host.missed, host.due = None, None, [], None
        host.power = power
        host.dialling.clear()
        host.disk.crash()
        self.runners.kill(host)
        self.clients.lost(host)
        self.blobs.crashed(host)
        self.net.vanish(host)

    def sleep(self, host: Host, seconds: float, frozen: bool) -> None:
        """A suspended machine, whose clock stands still; ``frozen``: a stopped process, whose clock runs on."""
        if not host.up:
            return
        self.disturb(f"{host.name} {'freezes' if frozen else 'sleeps'} for {seconds:.1f} s", host)
        host.asleep_since, host.frozen = self.now, frozen
        if not frozen:
            self.net.fell_silent(host)
        self.after(seconds, self._over, host, host.machine, self.now)

    def _over(self, host: Host, machine: Machine, since: float) -> None:
        if host.machine is machine and host.asleep_since == since:
            self.wake(host)

    def wake(self, host: Host) -> None:
        machine = host.machine
        if machine is None or host.asleep_since is None:
            return
        gap = self.now - host.asleep_since
        host.slept, host.woke = host.slept + gap, self.now
        if not host.frozen:
            host.offset -= host.rate * gap
        self.disturb(f"{host.name} wakes after {gap:.1f} s", host)
        missed, host.missed, host.asleep_since = host.missed, [], None
        late = host.due is not None and self.now > host.due
        if gap >= FROZEN and (not host.frozen or late):
            self.feed(host, ev.Resumed(gap))
            if self.plan.discovery:
                self.after(self.rng.uniform(0.05, 0.5), self._browse, host, host.life, 0.0)
        if late:
            self.feed(host, ev.Ticked())
        for event in missed:
            if host.machine is machine:
                self.feed(host, event)
        if host.machine is machine:
            self._arm(host, machine)

    def drain(self, host: Host, grace: float) -> None:
        if host.up:
            self.disturb(f"{host.name} is asked to drain within {grace:.0f} s", host)
            self.feed(host, ev.DrainAsked(grace))

    def _drained(self, host: Host) -> None:
        host.drained = True
        self.after(0.0, self._leave, host, host.machine)

    def _exit(self, host: Host, reason: str) -> None:
        host.exited = reason
        self.after(0.0, self._leave, host, host.machine)

    def _leave(self, host: Host, machine: Machine) -> None:
        """An orderly end: what is queued for the disk is written first."""
        if host.machine is machine:
            self.note(f"{host.name} leaves: {host.exited or 'drained'}")
            host.disk.close()
            self.crash(host)
            if self.calmed:
                self.new_id(host)
                self.after(1.0, self.start, host)

    def new_id(self, host: Host) -> None:
        """What the refusal of a double says to do: ``meshd --new-id``, on the same directory."""
        if host.exited:
            ulid, before = CLONE + host.index, host.node
            host.plan = replace(host.plan, ulid=ulid)
            host.node = node_id(host.plan.rank, f"{ulid:026d}")
            host.exited = ""
            if not any(other.node == before for other in self.hosts):
                self.clients.forget(before)  # nobody has that identity any more, and somebody has to say so

    def leaders(self) -> list[Host]:
        return [host for host in self.hosts if host.machine is not None and host.machine.leading]

    # -- steps ------------------------------------------------------------------------------------------------------

    def feed(self, host: Host, event: ev.Event) -> None:
        machine = host.machine
        if machine is None:
            return
        if host.asleep_since is not None:
            if type(event) is not ev.Ticked:
                host.missed.append(event)
            return
        self.steps += 1
        if self.steps > self.most_steps:
            raise Livelock(f"events without end: {self.steps} by {self.now:.1f} s")
        if self.verbose:
            self.note(f"{host.name} <- {event!r:.400}")
        for check in self.before_step:
            check(host, event)
        effects = machine.step(event, host.local(self.now))
        self._hash.update(TIME.pack(self.now))
        if self.traced:
            said = host.index, type(event).__name__, [type(e).__name__ for e in effects], effects
            self._hash.update(json.dumps(said, default=_plain).encode())
        for effect in effects:
            if self.verbose:
                self.note(f"{host.name} -> {effect!r:.400}")
            self._effects[type(effect)](host, effect)
        for watch in self.after_step:
            watch(host, event, effects)
        if host.machine is machine:
            self._arm(host, machine)

    def _arm(self, host: Host, machine: Machine) -> None:
        """As the driver does: one timer, replaced whenever the deadline has changed."""
        deadline = machine.deadline()
        when = None if deadline is None else max((deadline - host.offset) / host.rate, self.now) + TICK
        if when != host.due:
            host.due = when
            if when is not None:
                self.at(when, self._tick, host, machine, when)

    def _tick(self, host: Host, machine: Machine, when: float) -> None:
        if host.machine is machine and host.due == when and host.asleep_since is None:
            host.due = None
            host.ticks = host.ticks + 1 if self.now - host.ticked < 2 * TICK else 0
            host.ticked = self.now
            if host.ticks > MOST_TICKS:
                raise Livelock(f"{host.name} wants {host.ticks} ticks in a row by {self.now:.1f} s")
            self.feed(host, ev.Ticked())

    # -- what is left of it -----------------------------------------------------------------------------------------

    def trace(self) -> str:
        """A digest of the times of all steps; with ``traced``, of every event's kind and every effect too."""
        return self._hash.hexdigest()

    def violate(self, text: str) -> None:
        self.note(f"VIOLATED: {text}")
        self.violations.append(f"at {self.now:.3f}: {text}")

    def note(self, text: str) -> None:
        self.log.append(f"{self.now:9.3f} {text}")


def _plain(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    raise MeshError(f"an effect holds {value!r}, which no journal or wire carries")
