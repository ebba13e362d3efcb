"""The network: links with two ends that may believe different things, delays, cuts, resets and noise.

A link is a TCP connection: in order and whole while it lives, but what is in flight when it dies is gone, a cut stalls
it (the packets may arrive when the cut heals, late and all at once), and each end learns of its death by itself: by
the other's word, by a reset when it sends, or by a keep-alive that nobody answers. Noise goes beyond what TCP does,
because messages are meant to bear it: they are lost, doubled and overtake one another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from mesh.core import events as ev
from mesh.core.ids import NodeId
from mesh.core.messages import Message

if TYPE_CHECKING:
    from mesh.core.machine import Machine
    from tests.sim.world import Host, World

CONNECT_TIMEOUT = 1.0  # as mesh.shell.links
HELLO_TIMEOUT = 3.0
KEEPALIVE = (20.0, 30.0)
BACKLOG = 1000  # frames that wait in a stalled stream; the oldest is dropped


class End:
    """One side of a link. ``peer`` is whom it believes to speak to."""

    __slots__ = ("address", "free_at", "host", "id", "machine", "open", "other", "peer", "stalled")

    def __init__(self, host: Host, machine: Machine, number: int, peer: NodeId, address: str) -> None:
        self.host, self.machine, self.id, self.peer, self.address = host, machine, number, peer, address
        self.open = False
        self.other: End = self
        self.free_at = 0.0  # what is sent to this end arrives no earlier, where order holds
        self.stalled: list[tuple[Any, ...]] = []  # sent from here into a cut

    @property
    def alive(self) -> bool:
        return self.open and self.host.machine is self.machine


class Network:
    def __init__(self, world: World) -> None:
        self.world, self.rng = world, world.rng
        self.latency = world.plan.latency
        self.ordered = world.plan.ordered
        self.noise = 0.0  # probability that a message is lost, doubled or late
        self.resets = 0.0  # mean seconds between resets of some link; 0: none
        self.cuts: Counter[tuple[int, int]] = Counter()  # directed: how many faults cut this way
        self.ends: list[End] = []
        self._numbers = 0

    @property
    def restless(self) -> bool:
        return bool(self.noise or self.resets)

    def is_cut(self, one: Host, other: Host) -> bool:
        """In either direction: nothing that needs an answer gets through."""
        return bool(self.cuts) and ((one.index, other.index) in self.cuts or (other.index, one.index) in self.cuts)

    # -- faults -----------------------------------------------------------------------------------------------------

    def cut(self, ways: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Nothing gets through these ways until :meth:`heal` is called with them."""
        cut = list(ways)
        self.cuts.update(cut)
        for end in self._crossing(cut):
            self.world.after(self.rng.uniform(*KEEPALIVE), self._keepalive, end)
        return cut

    def heal(self, ways: Iterable[tuple[int, int]]) -> None:
        healed = list(ways)
        for way in healed:
            self.cuts[way] -= 1
            if self.cuts[way] <= 0:
                del self.cuts[way]
        for end in self._crossing(healed):
            if self.is_cut(end.host, end.other.host):
                continue
            fate = self.rng.random()
            stalled, end.stalled = end.stalled, []
            if fate < 0.35:
                self._reset(end)
            elif fate < 0.8:
                for what in stalled:  # the kernel sends it all again
                    self._in_order(end.other, *what)
            else:
                for what in stalled:
                    if what[0] == self._fin:
                        self._in_order(end.other, *what)

    def reset_some(self, seconds: float) -> None:
        """Connections break at random for a while, although the way is good."""
        self.resets = 0.7
        until = self.world.now + seconds

        def strike() -> None:
            if self.world.now >= until or not self.resets:
                self.resets = 0.0
                self.world.disturb("links are stable again")
                return
            living = [end for end in self.ends if end.alive]
            if living:
                self._reset(self.rng.choice(living))
            self.world.after(self.rng.expovariate(1 / self.resets), strike)

        strike()

    def vanish(self, host: Host) -> None:
        """The process is gone. The kernel closes what it had open, unless the machine went with it."""
        for end in [end for end in self.ends if end.host is host]:
            end.open = False
            if host.power:
                self._in_order(end.other, self._fin, end.other, None)
            else:
                self.world.after(self.rng.uniform(*KEEPALIVE), self._keepalive, end.other)
        host.links.clear()
        self._sweep()

    def fell_silent(self, host: Host) -> None:
        """It is suspended: keep-alives of others go unanswered."""
        for end in self.ends:
            if end.other.host is host:
                self.world.after(self.rng.uniform(*KEEPALIVE), self._keepalive, end)

    # -- links ------------------------------------------------------------------------------------------------------

    def dial(self, host: Host, address: str) -> None:
        if address not in host.dialling:  # else the dial under way will tell
            host.dialling.add(address)
            self.world.after(self._delay(), self._reach, host, host.machine, address)

    def _reach(self, host: Host, machine: Machine, address: str) -> None:
        if host.machine is not machine:
            return
        target = next((other for other in self.world.hosts if other.address == address), None)
        gone, wait = False, CONNECT_TIMEOUT
        if target is None or self.is_cut(host, target) or not target.power:
            pass
        elif target.machine is None:
            gone, wait = True, self._delay()
        elif target.asleep_since is not None:
            wait = HELLO_TIMEOUT if target.frozen else CONNECT_TIMEOUT
        elif host.asleep_since is None:
            self._connect(host, machine, target, target.machine, address)
            return
        self.world.after(wait, self._failed, host, machine, address, gone)

    def _failed(self, host: Host, machine: Machine, address: str, gone: bool) -> None:
        if host.machine is machine:
            host.dialling.discard(address)
            self.world.feed(host, ev.DialFailed(address, gone))

    def _connect(self, host: Host, machine: Machine, target: Host, answering: Machine, address: str) -> None:
        now = self.world.now
        mine, theirs = machine.hello(host.local(now)), answering.hello(target.local(now))
        self._numbers += 2
        near = End(host, machine, self._numbers, target.node, address)
        far = End(target, answering, self._numbers + 1, host.node, host.address)
        near.other, far.other = far, near
        self.ends += (near, far)
        self._in_order(near, self._opened, near, theirs, address)
        self._up(far)
        self.world.feed(target, ev.LinkUp(far.id, mine))

    def _opened(self, end: End, hello: Any, address: str) -> None:
        if end.host.machine is not end.machine:
            return
        end.host.dialling.discard(address)
        self._up(end)
        self.world.feed(end.host, ev.LinkUp(end.id, hello, address))
        if not end.other.open and not end.other.host.power:
            self._keepalive(end)

    def _up(self, end: End) -> None:
        end.open = True
        end.host.links.setdefault(end.peer, []).append(end)

    def hangup(self, host: Host, link: int, reason: str, code: str) -> None:
        end = next((end for end in self.ends if end.host is host and end.id == link and end.open), None)
        if end is not None:
            self._down(end)
            self._in_order(end.other, self._fin, end.other, (reason, code))

    def _reset(self, end: End) -> None:
        for side in (end, end.other):
            if side.alive:
                self._down(side)

    def _fin(self, end: End, refusal: tuple[str, str] | None) -> None:
        """The other side's last word arrives."""
        if end.host is not end.other.host and (end.other.host.index, end.host.index) in self.cuts:
            end.other.stalled.append((self._fin, end, refusal))
        elif end.alive:
            if refusal is not None:
                self.world.feed(end.host, ev.LinkRefused(end.address, *refusal))
            if end.alive:
                self._down(end)

    def _keepalive(self, end: End) -> None:
        other = end.other.host
        deaf = other.asleep_since is not None and not other.frozen
        if end.alive and (self.is_cut(end.host, other) or deaf or not end.other.alive):
            self._down(end)

    def _down(self, end: End) -> None:
        end.open = False
        ends = end.host.links.get(end.peer, [])
        if end in ends:
            ends.remove(end)
        if not ends:
            end.host.links.pop(end.peer, None)
        self.world.after(TELL, self._tell_down, end)
        self._sweep()

    def _tell_down(self, end: End) -> None:
        if end.host.machine is end.machine:
            self.world.feed(end.host, ev.LinkDown(end.id))

    def _sweep(self) -> None:
        if len(self.ends) > 200:
            self.ends = [end for end in self.ends if end.open or end.other.open or end.free_at >= self.world.now]

    def _crossing(self, ways: list[tuple[int, int]]) -> list[End]:
        affected = {frozenset(way) for way in ways}
        return [
            end for end in self.ends
            if (end.open or end.stalled) and frozenset((end.host.index, end.other.host.index)) in affected
        ]  # fmt: skip

    # -- messages ---------------------------------------------------------------------------------------------------

    def _delay(self) -> float:
        low, high = self.latency
        return low + (high - low) * self.rng.random()

    def _in_order(self, to: End, action: Any, *arguments: Any) -> None:
        """After everything that was sent to this end before."""
        to.free_at = when = max(self.world.now + self._delay(), to.free_at + 1e-6)
        self.world.at(when, action, *arguments)

    def send(self, host: Host, to: NodeId, message: Message) -> None:
        ends = host.links.get(to)
        if not ends:
            return
        end = ends[-1]
        other = end.other
        if not self.noise:
            if self.ordered:
                self._in_order(other, self._arrive, end, message)
            else:
                self.world.at(max(self.world.now + self._delay(), other.free_at), self._arrive, end, message)
            return
        copies, late = 1, 0.0
        if self.rng.random() < self.noise:
            what = self.rng.random()
            copies = 0 if what < 0.4 else 2 if what < 0.7 else 1
            late = self.rng.choice((0.0, 0.05, 0.5, 0.5, 4.0)) * self.rng.random()
        for _ in range(copies):
            self.world.at(max(self.world.now + self._delay() + late, other.free_at), self._arrive, end, message)

    def _arrive(self, end: End, message: Message) -> None:
        other = end.other
        if self.cuts and (end.host.index, other.host.index) in self.cuts:
            end.stalled.append((self._arrive, end, message))
            del end.stalled[:-BACKLOG]
        elif other.alive:
            self.world.feed(other.host, ev.Received(other.peer, message))
        elif other.host.power and end.alive and not self.is_cut(end.host, other.host):
            self._down(end)  # reset by a machine that knows of no such connection


TELL = 0.0001  # from the kernel to the loop
