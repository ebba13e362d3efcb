"""Replication by pulling: each side asks for the other's journal after the cursor it last saw.

A leader pulls every eligible member before it grants; a returning lower id pulls the incumbent before it asks for the
leadership. Slices are asked for one by one, so neither side ever holds more than one. Successors that stay pulled live
are the same exchange, repeated: ``on_pulled`` is where their acknowledgement would leave.
"""

from __future__ import annotations

from collections.abc import Callable

from mesh.core.ids import Life, NodeId
from mesh.core.lattice import Record
from mesh.core.members import Members
from mesh.core.messages import Pull, Pulled
from mesh.core.outbox import Outbox
from mesh.core.params import Params

TRIES = 3


class Session:
    __slots__ = ("asked_at", "id", "life", "records", "started", "tries")

    def __init__(self, number: int, life: Life, now: float) -> None:
        self.id, self.life, self.asked_at, self.started = number, life, now, now
        self.tries, self.records = 0, 0


class Puller:
    """``absorb`` is called with each slice's records, joined by the caller."""

    def __init__(
        self, params: Params, members: Members, out: Outbox, absorb: Callable[[tuple[Record, ...], float], None]
    ):
        self.params, self.members, self.out, self.absorb = params, members, out, absorb
        self.sessions: dict[NodeId, Session] = {}
        # Journal id and position of what was joined, in one life of the node: a copied or restored state directory has
        # another content under the same id.
        self.cursors: dict[NodeId, tuple[Life, str, int]] = {}
        self.complete: dict[NodeId, float] = {}  # when the last complete pull of this node began
        self._numbers = 0

    def pull(self, node: NodeId, now: float) -> None:
        """Fetch what that node has beyond our cursor. Repeating it while one is under way changes nothing."""
        if node in self.sessions or node == self.out.node:
            return
        self._begin(node, now)

    def busy(self) -> list[NodeId]:
        return sorted(self.sessions)

    def on_pulled(self, sender: NodeId, pulled: Pulled, now: float) -> None:
        session = self.sessions.get(sender)
        if session is None or pulled.session != session.id or session.life != self._life(sender):
            return
        journal, position = self._cursor(sender)
        if journal == pulled.journal and pulled.position < position:
            return  # a repeat of an earlier slice
        self.absorb(pulled.records, now)
        session.records += len(pulled.records)
        session.tries = 0
        self.cursors[sender] = (session.life, pulled.journal, pulled.position)
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
            elif session.life != self._life(node):
                self._begin(node, now)
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

    def _begin(self, node: NodeId, now: float) -> None:
        self._numbers += 1
        self.sessions[node] = Session(self._numbers, self._life(node), now)
        self._ask(node, now)

    def _ask(self, node: NodeId, now: float) -> None:
        session = self.sessions[node]
        session.asked_at = now
        self.out.send(node, Pull(session.id, *self._cursor(node)))

    def _life(self, node: NodeId) -> Life:
        peer = self.members.peers.get(node)
        return "" if peer is None else peer.life

    def _cursor(self, node: NodeId) -> tuple[str, int]:
        life, journal, position = self.cursors.get(node, ("", "", 0))
        return (journal, position) if life == self._life(node) else ("", 0)
