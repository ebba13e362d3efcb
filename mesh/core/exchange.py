"""Which chunk of a blob to ask of which holder next.

Owns what is here of one blob that is being fetched, what each holder has, what it was asked for and how fast it
delivers. Goals: chunks that few have first; fetchers that begin together take different ones, so that they soon have
something to give each other; nothing moved twice but what a broken stream lost and a few chunks at the end; a bounded
number of bytes under way. Non-goals: it must not know of streams, addresses, the bytes or the clock.

Chunks are numbered from 0, and a set of them is an integer: bit n is chunk n. With 50,000 chunks a choice then costs
some 10 us, where a set would cost milliseconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from mesh.core.ids import NodeId

_MIB = 1 << 20
LEAST_WINDOW, MOST_WINDOW = 2 * _MIB, 16 * _MIB  # bytes asked of one holder and not delivered yet
MOST_ASKED = 64  # chunks of one holder: a model of tiny tensors has thousands in one window
MOST_FLYING = 40 * _MIB  # bytes of all holders that were asked for or are being written; in memory at the worst
GAIN = 2.0  # a window is so many times what was on its way at the fastest: it finds out whether more would be faster
COVER = 0.006  # seconds at its rate that a window is at least: what busy machines are late by; matters on fast links
MEMORY = 0.875  # of the bytes and seconds a rate is made of, per chunk: it follows the last eight or so
FRESH = 5.0  # seconds since a holder gained a chunk, or came; then it does not count as fetching any more
SECOND_SHARE = 32  # at the end one chunk in so many may be asked of a second holder
SLOW_SHARE, SLOW_GRACE = 0.125, 1.0  # of the others' median rate; seconds that it had at least, and that it needs

STALLED, SLOW, LYING = "stalled", "slow", "lying"


def members(chunks: int) -> Iterator[int]:
    """The numbers in a set, ascending. By bytes: taking the lowest bit off a long integer copies all of it."""
    for at, byte in enumerate(chunks.to_bytes((chunks.bit_length() + 7) // 8, "little")):
        if byte:
            for bit in range(8):
                if byte >> bit & 1:
                    yield 8 * at + bit


class Rarity:
    """How many holders have each chunk. Plane k holds bit k of every count, so adding a set is one carry per plane."""

    def __init__(self) -> None:
        self._planes: list[int] = []

    def add(self, chunks: int) -> None:
        for k, plane in enumerate(self._planes):
            self._planes[k] = plane ^ chunks
            chunks &= plane
        if chunks:
            self._planes.append(chunks)

    def remove(self, chunks: int) -> None:
        for k, plane in enumerate(self._planes):
            self._planes[k] = plane ^ chunks
            chunks &= ~plane
        assert not chunks, "only what was added is removed"

    def rarest(self, among: int) -> int:
        """Those of these that the fewest have."""
        for plane in reversed(self._planes):
            among = (among & ~plane) or among
        return among


class Holder:
    __slots__ = ("asked", "busy", "flying", "grew", "has", "heard", "moved", "quickest")

    def __init__(self, now: float) -> None:
        self.has, self.grew = 0, now
        self.asked: dict[int, float] = {}  # since when, in the order in which they come
        self.flying = 0  # bytes of them
        self.heard = 0.0  # when it last delivered, or was asked while nothing was under way
        self.moved, self.busy = 0.0, 0.0  # bytes, and seconds it took for them; older ones fade
        self.quickest = 0.0  # seconds from asking to delivery

    @property
    def rate(self) -> float:
        """Bytes per second; 0: not known yet."""
        return self.moved / self.busy if self.busy else 0.0

    @property
    def window(self) -> float:
        return min(MOST_WINDOW, max(LEAST_WINDOW, self.rate * max(GAIN * self.quickest, COVER)))

    def on_delivered(self, size: int, asked: float, now: float) -> None:
        took = now - asked
        self.quickest = min(self.quickest or took, took)
        self.moved = MEMORY * self.moved + size
        self.busy = MEMORY * self.busy + now - self.heard
        self.heard = now


class Exchange:
    """One blob's fetch. Tell it what came (``on_...``), then ask :meth:`next` for every holder that is connected."""

    def __init__(self, node: NodeId, sizes: Sequence[int], here: int, stall: float) -> None:
        """``sizes``: bytes of each chunk. ``here``: those present. ``stall``: seconds that a holder may be silent."""
        self.node, self.stall = node, stall
        self.here, self.dropped = here, dict[NodeId, str]()  # for good, and why
        self._sizes = sizes
        self._all = (1 << len(sizes)) - 1
        self._free = self._all & ~here  # neither here nor under way
        self._writing: set[int] = set()  # arrived, and being verified and written
        self._askers: dict[int, list[NodeId]] = {}
        self._holders: dict[NodeId, Holder] = {}
        self._rarity = Rarity()
        self._flying = 0
        self._asks = self._seconds = 0
        self._ours = self._all  # of n nodes that fetch it, every nth chunk
        self._theirs = 0  # what others that fetch it have by now

    @property
    def done(self) -> bool:
        return self.here == self._all

    @property
    def idle(self) -> bool:
        """Nothing is under way."""
        return not self._askers and not self._writing

    def missing(self) -> int:
        """The chunks that are neither here nor under way, and that no holder has."""
        found = self._free
        for holder in self._holders.values():
            found &= ~holder.has
        return found

    # What came.

    def on_have(self, node: NodeId, chunks: int, now: float) -> None:
        """It is connected and has these, or has more than before."""
        if node in self.dropped:
            return
        holder = self._holders.setdefault(node, Holder(now))
        new = chunks & self._all & ~holder.has
        if new:
            self._rarity.add(new)
            holder.has |= new
            holder.grew = now
        self._divide(now)

    def on_gone(self, node: NodeId) -> None:
        """Its stream ended: what it was asked for and did not deliver is free. It may come back."""
        holder = self._holders.pop(node, None)
        if holder is None:
            return
        self._rarity.remove(holder.has)
        for index in holder.asked:
            self._forget(node, index)

    def on_arrived(self, node: NodeId, index: int, now: float) -> bool:
        """Whether to verify and write it, and then to say :meth:`on_kept` or :meth:`on_wrong`; else it came twice."""
        holder = self._holders.get(node)
        if holder is None or index not in holder.asked:
            return False
        holder.on_delivered(self._sizes[index], holder.asked[index], now)
        self._take_back(node, holder, index)
        if self.here >> index & 1 or index in self._writing:
            return False
        self._writing.add(index)
        self._flying += self._sizes[index]
        self._free &= ~(1 << index)
        return True

    def on_kept(self, index: int) -> None:
        self._written(index)
        self.here |= 1 << index

    def on_wrong(self, node: NodeId, index: int) -> None:
        """It is not what the manifest says: this holder is never asked again for this blob."""
        self._written(index)
        if index not in self._askers:
            self._free |= 1 << index
        self.drop(node, LYING)

    def on_lacking(self, node: NodeId, index: int, now: float) -> None:
        """It was asked and has it no more."""
        holder = self._holders.get(node)
        if holder is None or index not in holder.asked:
            return
        holder.heard = now
        self._take_back(node, holder, index)
        self._rarity.remove(holder.has & 1 << index)
        holder.has &= ~(1 << index)

    def drop(self, node: NodeId, why: str) -> None:
        self.on_gone(node)
        self.dropped.setdefault(node, why)

    # What to do.

    def order(self) -> list[NodeId]:
        """Whom to ask :meth:`next` for first: those that can give us little, and last those that could give anything.

        Else a holder that all crowd round is asked for what idle ones have.
        """

        def could_give(node: NodeId) -> tuple[int, int, NodeId]:
            has = self._holders[node].has
            return ((has & self._free).bit_count(), has.bit_count(), node)

        return sorted(self._holders, key=could_give)

    def next(self, node: NodeId, now: float) -> list[int]:
        """What to ask this holder for, in this order; from now on it counts as asked."""
        holder = self._holders.get(node)
        found: list[int] = []
        if holder is None:
            return found
        while self._flying < MOST_FLYING and len(holder.asked) < MOST_ASKED:
            index = self._choose(holder)
            if index is None or (holder.asked and holder.flying + self._sizes[index] > holder.window):
                break
            self._free &= ~(1 << index)
            self._ask(node, holder, index, now)
            found.append(index)
        if not holder.asked and self._flying < MOST_FLYING:
            index = self._second(node, holder, now)
            if index is not None:
                self._seconds += 1
                self._ask(node, holder, index, now)
                found.append(index)
        return found

    def slow(self, now: float) -> list[NodeId]:
        """Drops the holders that are silent for too long, or far slower than others while they hold up the end."""
        found = []
        for node in sorted(self._holders):
            holder = self._holders[node]
            if holder.asked and now - holder.heard >= self.stall:
                self.drop(node, STALLED)
                found.append(node)
            elif holder.asked and self._holds_up(node, holder, now):
                self.drop(node, SLOW)
                found.append(node)
        self._divide(now)
        return found

    def _choose(self, holder: Holder) -> int | None:
        """Of what is free there, among the rarest, first of our share; from a digest on, so that no two are alike.

        Those who fetch together and know of each other begin with different chunks for certain; where they do not, the
        digest of node and count makes it likely. What is in another's share and no fetcher has yet, is most likely on
        its way to that one, who will give it sooner than a holder whom all ask: it is asked for one at a time. (Of
        eight who fetch 64 chunks over links of one rate, each would ask the one holder for three of them twice.)
        """
        chunks = holder.has & self._free
        if holder.asked:
            chunks &= self._ours | self._theirs
        if not chunks:
            return None
        chunks = self._rarity.rarest(chunks)
        chunks = chunks & self._ours or chunks
        self._asks += 1
        digest = hashlib.blake2b(f"{self.node} {self._asks}".encode(), digest_size=8).digest()
        start = int.from_bytes(digest, "big") % len(self._sizes)
        chunks = chunks >> start << start or chunks
        return (chunks & -chunks).bit_length() - 1

    def _divide(self, now: float) -> None:
        fetchers, self._theirs = {self.node}, 0
        for node, holder in self._holders.items():
            if holder.has != self._all and now - holder.grew < FRESH:
                fetchers.add(node)
                self._theirs |= holder.has
        each, count = len(fetchers), len(self._sizes)
        every = ((1 << each * (count // each + 1)) - 1) // ((1 << each) - 1)
        self._ours = every << sorted(fetchers).index(self.node) & self._all

    def _second(self, node: NodeId, holder: Holder, now: float) -> int | None:
        """At the end: what another was asked for, where this holder will surely have delivered it sooner."""
        if self._free or not holder.rate or self._seconds >= len(self._sizes) // SECOND_SHARE:
            return None
        best, chosen = 0.0, None
        for other in sorted(self._holders):
            rate, ahead = self._rate_at_most(self._holders[other], now), 0
            for index in self._holders[other].asked:
                ahead += self._sizes[index]
                wait = ahead / rate
                ours = holder.quickest + self._sizes[index] / holder.rate
                takes = holder.has >> index & 1 and self._askers[index] == [other] != [node]
                if takes and index not in self._writing and wait > max(best, 2 * ours):
                    best, chosen = wait, index
        return chosen

    def _holds_up(self, node: NodeId, holder: Holder, now: float) -> bool:
        """Whether all that is left is asked for, and others would have delivered by now what this one owes."""
        if self._free:
            return False
        others = [other for name, other in self._holders.items() if name != node]
        rates = sorted(other.rate for other in others if other.rate)
        if not rates or not all(any(other.has >> index & 1 for other in others) for index in holder.asked):
            return False
        rate = self._rate_at_most(holder, now)
        if holder.busy + now - holder.heard < SLOW_GRACE:
            return False
        return rate < SLOW_SHARE * rates[len(rates) // 2] and holder.flying / rate >= SLOW_GRACE

    def _rate_at_most(self, holder: Holder, now: float) -> float:
        """As if what comes next arrived now: falls while nothing comes."""
        if not holder.asked:
            return holder.rate
        elapsed = holder.busy + now - holder.heard
        following = self._sizes[next(iter(holder.asked))]
        return (holder.moved + following) / max(elapsed, 1e-9)

    # Accounts.

    def _ask(self, node: NodeId, holder: Holder, index: int, now: float) -> None:
        if not holder.asked:
            holder.heard = now
        holder.asked[index] = now
        holder.flying += self._sizes[index]
        self._flying += self._sizes[index]
        self._askers.setdefault(index, []).append(node)

    def _take_back(self, node: NodeId, holder: Holder, index: int) -> None:
        del holder.asked[index]
        holder.flying -= self._sizes[index]
        self._forget(node, index)

    def _forget(self, node: NodeId, index: int) -> None:
        self._flying -= self._sizes[index]
        askers = self._askers[index]
        askers.remove(node)
        if not askers:
            del self._askers[index]
            if not self.here >> index & 1 and index not in self._writing:
                self._free |= 1 << index

    def _written(self, index: int) -> None:
        self._writing.remove(index)
        self._flying -= self._sizes[index]

    def check(self) -> None:
        """Asserts that every chunk is accounted for once."""
        writing = sum(1 << index for index in self._writing)
        under_way = writing | sum(1 << index for index in self._askers)
        assert not self.here & writing
        assert not self._free & (self.here | under_way)
        assert self.here | self._free | under_way == self._all
        asked = [(node, index) for node, holder in self._holders.items() for index in holder.asked]
        assert sorted(asked) == sorted((node, index) for index, nodes in self._askers.items() for node in nodes)
        assert all(len(nodes) <= 2 for nodes in self._askers.values())
        sizes = [self._sizes[index] for _, index in asked] + [self._sizes[index] for index in self._writing]
        assert self._flying == sum(sizes)
        assert not self.dropped.keys() & self._holders.keys()
