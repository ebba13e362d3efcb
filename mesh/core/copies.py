"""The leader's copies: who pulls its journal live, how far each has it on disk, and what is safe therefore.

*Recruited* are the next nodes in line; one *counts* once it had all that was synced here when it was last served, and
as long as it is alive and gets on. With ``durability`` one, a record is safe when the furthest that counts has it; with
all, when each has; with local, or where none counts (this node is alone), when it is on this disk.

A leader that goes hands over here: its heir hears of it once it has all that this node recorded.

Must not know: what is in the journal, how it travels (``puller`` is the other end).
"""

from __future__ import annotations

from mesh.core.ids import NodeId
from mesh.core.members import Members
from mesh.core.messages import Message
from mesh.core.outbox import Outbox
from mesh.core.params import Params

LOCAL, ONE, ALL = "local", "one", "all"


class Copy:
    """One successor's. ``goal``: what was synced here when it was served last."""

    __slots__ = ("counts", "goal", "position", "progress")

    def __init__(self, now: float) -> None:
        self.position = 0
        self.goal: int | None = None
        self.counts = False
        self.progress = now  # when it last got on, or was level


class Copies:
    def __init__(self, params: Params, members: Members, out: Outbox) -> None:
        self.params, self.members, self.out = params, members, out
        self.recruits: tuple[NodeId, ...] = ()
        self._leading = False
        self._opened = 0.0
        self._copies: dict[NodeId, Copy] = {}
        self._heir: tuple[NodeId, Message, int, float] | None = None  # what it is told; once it has what, or when
        out.holders = self.holders

    def open(self, now: float) -> None:
        if not self._leading:
            self._leading, self._heir, self._opened = True, None, now
            self._copies.clear()
            self.recruit(now)

    def close(self) -> None:
        """What is not safe yet is for the next leader to say; to an heir that still pulls, it can be safe yet."""
        self._leading = False
        if self._heir is None:
            self._let_go()

    def _let_go(self) -> None:
        """Nobody copies this node any more, as far as it can say, and nobody waits here for a copy."""
        self._copies.clear()
        self.recruits = ()
        self.out.abandon()

    def recruit(self, now: float) -> None:
        """The able nodes next in line, by id, whether they know everything yet or not. Once per heartbeat."""
        if not self._leading:
            return
        able = [p.node for p in self.members.living(now) if p.heartbeat and p.heartbeat.eligible]
        self.recruits = tuple(able[: self.params.successors])
        for node in [node for node in self._copies if node not in self.recruits]:
            del self._copies[node]

    def heirs(self, now: float) -> list[NodeId]:
        """The recruits that are alive, those that count first."""
        counting = self._counting(now)
        alive = [node for node in self.recruits if self.members.is_alive(node, now)]
        return sorted(alive, key=lambda node: (node not in counting, node))

    def on_copied(self, node: NodeId, position: int, now: float) -> None:
        """It has our journal up to there on its disk, and asks for more."""
        if node not in self.recruits and (self._heir is None or self._heir[0] != node):
            return
        copy = self._copies.get(node)
        if copy is None:
            copy = self._copies[node] = Copy(now)
        if position > copy.position or position >= self.out.synced:
            copy.progress = now
        copy.position = position
        if (
            not copy.counts
            and self._able(node, now)
            and position >= (self.out.synced if copy.goal is None else copy.goal)
        ):
            copy.counts = True
            self.out.note("info", "successor_caught_up", node=node, position=position)
        copy.goal = self.out.synced

    def hand_over(self, node: NodeId, message: Message, now: float) -> None:
        """Send this once all that is recorded here is on that node's disk too; after a while, once it is on ours.

        Until then nobody is told that anything is safe by this disk alone; after that while they may ask elsewhere.
        """
        self._heir = (node, message, self.out.recorded, now + self.params.yield_timeout / 2)

    @property
    def handing_over(self) -> bool:
        return self._heir is not None

    def holds_tongue(self, now: float) -> bool:
        """Whether others should not hear yet that nobody leads: the heir first hears that all is flushed."""
        return self._heir is not None and now < self._heir[3]

    def holders(self, position: int) -> tuple[NodeId, ...]:
        return tuple(sorted(node for node, copy in self._copies.items() if copy.position >= position))

    def position(self, node: NodeId) -> int | None:
        """How far that successor has our journal on its disk; None where it is none."""
        copy = self._copies.get(node)
        return None if copy is None else copy.position

    def standing(self) -> tuple[NodeId, ...]:
        """The successors that count now: what is safe from here on will be on their disks."""
        return tuple(sorted(node for node, copy in self._copies.items() if copy.counts))

    def work(self, now: float) -> None:
        """Release what is safe by now."""
        if not (self._leading or self._heir):
            self.out.release(self.out.synced)
            return
        durability = self.out.ledger.value("mesh", "durability") or ONE
        positions = [self._copies[node].position for node in self._counting(now)]
        if durability == LOCAL:
            self.out.release(self.out.synced)
        elif positions:
            self.out.release(min(positions) if durability == ALL else max(positions))
        elif self._leading and not self._new(now):  # else what no copy has, the heir can say
            self.out.release(self.out.synced)
        if self._heir is not None:
            self._tell_heir(now)

    def deadline(self, now: float) -> float | None:
        if not (self._leading or self._heir):
            return None
        times = [self._heir[3]] if self._heir is not None and self._heir[3] > now else []
        if self._new(now):
            times.append(self._opened + self.params.copy_wait)
        behind = (copy for copy in self._copies.values() if copy.counts and copy.position < self.out.synced)
        times.extend(copy.progress + self.params.slow_sync for copy in behind)
        return min(times, default=None)

    def _tell_heir(self, now: float) -> None:
        assert self._heir is not None
        node, message, position, until = self._heir
        copy = self._copies.get(node)
        level = copy is not None and copy.position >= position
        late = now >= until or not self.members.is_alive(node, now)
        if self._leading:
            self._heir = None  # nobody took it
        elif self.out.synced >= position and (level or late):
            self._heir = None
            self.out.send(node, message)
            self._let_go()
        elif late:  # by a disk that does not sync; the heir has heard that nobody leads, and can say what it has
            self._let_go()

    def _new(self, now: float) -> bool:
        """Whether successors are there and had no time yet to catch up with a new leader."""
        waiting = self._leading and now - self._opened < self.params.copy_wait
        return waiting and any(self._able(node, now) for node in self.recruits)

    def _counting(self, now: float) -> list[NodeId]:
        found = []
        for node, copy in self._copies.items():
            if not copy.counts:
                continue
            if not self._able(node, now):
                copy.counts, copy.goal = False, None
            elif copy.position < self.out.synced and now - copy.progress >= self.params.slow_sync:
                copy.counts, copy.goal = False, None
                self.out.note("warning", "successor_stuck", node=node, position=copy.position)
            else:
                found.append(node)
        return found

    def _able(self, node: NodeId, now: float) -> bool:
        peer = self.members.peers.get(node)
        beat = None if peer is None else peer.heartbeat
        return beat is not None and beat.eligible and self.members.is_alive(node, now)
