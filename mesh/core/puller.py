"""Replication by pulling: each side asks for the other's journal after the cursor it last saw.

A leader pulls every eligible member before it grants; a returning lower id pulls the incumbent before it asks for the
leadership. Slices are asked for one by one, so neither side ever holds more than one. Successors that stay pulled live
are the same exchange, repeated: ``on_pulled`` is where their acknowledgement would leave.
"""

from __future__ import annotations

from collections.abc import Callable

from mesh.core.ids import NodeId
from mesh.core.lattice import Record
from mesh.core.members import Members
from mesh.core.messages import Pull, Pulled
from mesh.core.outbox import Outbox
from mesh.core.params import Params

TRIES = 3


class Session:
    __slots__ = ("asked_at", "id", "records", "started", "tries")

    def __init__(self, number: int, now: float) -> None:
        self.id, self.asked_at, self.started = number, now, now
        self.tries, self.records = 0, 0


class Puller:
    """``absorb`` is called with each slice's records, joined by the caller."""

    def __init__(
        self, params: Params, members: Members, out: Outbox, absorb: Callable[[tuple[Record, ...], float], None]
    ):
        self.params, self.members, self.out, self.absorb = params, members, out, absorb
        self.sessions: dict[NodeId, Session] = {}
        self.cursors: dict[NodeId, tuple[str, int]] = {}  # journal id and position, of what was joined
        self.complete: dict[NodeId, float] = {}  # when the last complete pull of this node began
        self._numbers = 0

    def pull(self, node: NodeId, now: float) -> None:
        """Fetch what that node has beyond our cursor. Repeating it while one is under way changes nothing."""
        if node in self.sessions or node == self.out.node:
            return
        self._numbers += 1
        self.sessions[node] = Session(self._numbers, now)
        self._ask(node, now)

    def busy(self) -> list[NodeId]:
        return sorted(self.sessions)

    def on_pulled(self, sender: NodeId, pulled: Pulled, now: float) -> None:
        session = self.sessions.get(sender)
        if session is None or pulled.session != session.id:
            return
        known = self.cursors.get(sender, ("", 0))
        if known[0] == pulled.journal and pulled.position < known[1]:
            return  # a repeat of an earlier slice
        self.absorb(pulled.records, now)
        session.records += len(pulled.records)
        session.tries = 0
        self.cursors[sender] = (pulled.journal, pulled.position)
        if pulled.end:
            del self.sessions[sender]
            self.complete[sender] = session.started
            if session.records:
                self.out.note("info", "pulled", node=sender, records=session.records)
        else:
            self._ask(sender, now)

    def tick(self, now: float) -> None:
        for node in sorted(self.sessions):
            session = self.sessions[node]
            if not self.members.is_alive(node, now) and now - session.asked_at >= self.params.resend_after:
                del self.sessions[node]
            elif now - session.asked_at >= self.params.pull_timeout:
                session.tries += 1
                if session.tries >= TRIES:
                    del self.sessions[node]
                    self.out.note("warning", "pull_failed", node=node, reason="no answer")
                else:
                    self._ask(node, now)

    def deadline(self, now: float) -> float | None:
        waits = (self.params.resend_after, self.params.pull_timeout)
        times = (s.asked_at + wait for s in self.sessions.values() for wait in waits)
        return min((time for time in times if time > now), default=None)

    def _ask(self, node: NodeId, now: float) -> None:
        session = self.sessions[node]
        session.asked_at = now
        journal, position = self.cursors.get(node, ("", 0))
        self.out.send(node, Pull(session.id, journal, position))
