"""Nodes that fetch one blob from each other on virtual time, over links of a given rate.

A chunk takes its sender's uplink and its receiver's downlink, shared max-min fairly by all that is on its way (as TCP
roughly does). Requests and news take a moment; news are batched as the shell does.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from mesh.core.exchange import Exchange

MIB = 1 << 20
RATE = 200e6 / 8  # bytes per second, each way
LATENCY, NEWS_EVERY, TICK, REDIAL = 0.001, 0.1, 0.25, 0.1


@dataclass
class Flow:
    """What one holder was asked for by one fetcher; the first is on its way."""

    queue: deque[int] = field(default_factory=deque)
    left: float = 0.0  # bytes of the first
    rate: float = 0.0


class Swarm:
    def __init__(self, chunks: int, stall: float = 10.0, size: int = MIB) -> None:
        self.sizes, self.now, self.stall = [size] * chunks, 0.0, stall
        self.all = (1 << chunks) - 1
        self.fetchers: dict[str, Exchange] = {}
        self.has: dict[str, int] = {}
        self.up: dict[str, float] = {}
        self.down: dict[str, float] = {}
        self.lies: dict[str, set[int]] = {}  # chunks that a holder gives wrong
        self.finished: dict[str, float] = {}
        self.apart: set[tuple[str, str]] = set()  # who does not know of whom
        self.moved, self.cuts = 0.0, 0
        self.log: list[tuple[str, str, tuple[int, ...]]] = []  # who asked whom for what
        self._flows: dict[tuple[str, str], Flow] = {}
        self._news: dict[str, int] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def holder(self, name: str, has: int | None = None, up: float = RATE) -> None:
        self.has[name], self.up[name], self.down[name] = self.all if has is None else has, up, RATE

    def fetcher(self, name: str, here: int = 0, starts: float = 0.0) -> None:
        self.holder(name, here)
        self.fetchers[name] = Exchange(name, self.sizes, here, self.stall)
        self.at(starts, lambda: self._start(name))

    def _start(self, name: str) -> None:
        for other in self.has:
            if other != name and (name, other) not in self.apart:
                self._connect(name, other)
        self._tick(name)

    def _connect(self, name: str, other: str) -> None:
        if other in self.has:
            self._flows[name, other] = Flow()
            self.fetchers[name].on_have(other, self.has[other], self.now)

    def vanish(self, other: str) -> None:
        del self.has[other]
        for name in self.fetchers:
            self.cut(name, other)

    def at(self, later: float, do: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + later, self._count, do))

    def cut(self, name: str, other: str, again: bool = True) -> None:
        """The stream dies. All that was asked for on it counts as moved: it was in some buffer."""
        flow = self._flows.pop((name, other), None)
        if flow is None:
            return
        self.cuts += 1
        self.moved += sum(self.sizes[index] for index in flow.queue)
        if flow.queue:
            self.moved -= self.sizes[flow.queue[0]] - flow.left
        self.fetchers[name].on_gone(other)
        if again:
            self.at(REDIAL, lambda: self._connect(name, other))
            self.at(REDIAL, lambda: self.pump(name))
        self.pump(name)

    def run(self, until: float = 1000.0) -> dict[str, float]:
        """When each fetcher had all, as far as it did."""
        while len(self.finished) < len(self.fetchers) and self.now < until:
            self._share()
            ends = [(self.now + flow.left / flow.rate, key) for key, flow in self._flows.items() if flow.rate]
            at, key = min(ends, default=(float("inf"), ("", "")))
            if self._events and self._events[0][0] <= at:
                then, _, do = heapq.heappop(self._events)
                self._pass(then)
                do()
            else:
                self._pass(at)
                self._deliver(*key)
        return self.finished

    def pump(self, name: str) -> None:
        fetcher = self.fetchers[name]
        for other in fetcher.order():
            numbers = fetcher.next(other, self.now)
            if numbers:
                self.log.append((name, other, tuple(numbers)))
                flow = self._flows[name, other]
                self.at(LATENCY, lambda flow=flow, numbers=numbers: self._asked(flow, numbers))  # type: ignore[misc]
        fetcher.check()

    def _asked(self, flow: Flow, numbers: list[int]) -> None:
        if not flow.queue:
            flow.left = self.sizes[numbers[0]]
        flow.queue.extend(numbers)

    def _tick(self, name: str) -> None:
        if self.fetchers[name].done:
            return
        for other in self.fetchers[name].slow(self.now):
            self.cut(name, other, again=False)
        self.pump(name)
        self.at(TICK, lambda: self._tick(name))

    def _deliver(self, name: str, other: str) -> None:
        flow, fetcher = self._flows[name, other], self.fetchers[name]
        index = flow.queue.popleft()
        flow.left = self.sizes[flow.queue[0]] if flow.queue else 0.0
        if fetcher.on_arrived(other, index, self.now):
            if index in self.lies.get(other, ()):
                fetcher.on_wrong(other, index)
                self.cut(name, other, again=False)
            else:
                fetcher.on_kept(index)
                self.has[name] |= 1 << index
                self._tell(name, index)
        self.pump(name)
        if fetcher.done:
            self.finished.setdefault(name, self.now)

    def _tell(self, name: str, index: int) -> None:
        if not self._news.get(name):
            self.at(NEWS_EVERY + LATENCY, lambda: self._told(name))
        self._news[name] = self._news.get(name, 0) | 1 << index

    def _told(self, name: str) -> None:
        news, self._news[name] = self._news[name], 0
        for other, fetcher in self.fetchers.items():
            if (other, name) in self._flows:
                fetcher.on_have(name, news, self.now)
                self.pump(other)

    def _pass(self, then: float) -> None:
        for flow in self._flows.values():
            flow.left -= flow.rate * (then - self.now)
            self.moved += flow.rate * (then - self.now)
        self.now = then

    def _share(self) -> None:
        """Max-min fair rates: the fullest link first."""
        waiting = {key: flow for key, flow in self._flows.items() if flow.queue}
        for flow in self._flows.values():
            flow.rate = 0.0
        room = {("up", name): rate for name, rate in self.up.items()}
        room |= {("down", name): rate for name, rate in self.down.items()}
        while waiting:
            users: dict[tuple[str, str], list[tuple[str, str]]] = {}
            for key in waiting:
                users.setdefault(("up", key[1]), []).append(key)
                users.setdefault(("down", key[0]), []).append(key)
            link = min(users, key=lambda link: room[link] / len(users[link]))
            rate = room[link] / len(users[link])
            for key in users[link]:
                waiting.pop(key).rate = rate
                room["up", key[1]] -= rate
                room["down", key[0]] -= rate
