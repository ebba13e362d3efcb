"""Carries to the leader what members recorded that cannot reach it.

Two that do not see each other may both be alive to a third (a firewall, a one-way radio): one of them leads, by the
rule for leaders that meet, and the other, once it has stepped down, has nobody to follow. What it accepted must not be
accepted anew. So the third pulls its journal and says in its heartbeats how far its own holds such things; its leader,
where that goes beyond what it has of that journal, pulls it. One hop is enough: further away nobody has met.
"""

from __future__ import annotations

from mesh.core.ids import NO_CLAIM, NodeId
from mesh.core.members import Members, Peer
from mesh.core.messages import Cursor, Heartbeat
from mesh.core.outbox import Outbox
from mesh.core.params import Params
from mesh.core.puller import Puller


class Carrier:
    """``carried``: the position in this node's journal up to which it holds what it fetched for its leader."""

    def __init__(self, params: Params, members: Members, out: Outbox, puller: Puller) -> None:
        self.params, self.members, self.out, self.puller = params, members, out, puller
        self.carried = 0
        self._since: dict[NodeId, float] = {}  # who follows nobody, while we do
        self._had: dict[NodeId, Cursor] = {}  # of their journals, when that was last told

    def on_heartbeat(self, peer: Peer, beat: Heartbeat, follows: bool, now: float) -> None:
        """``follows``: this node follows a leader that it hears."""
        able = beat.role in ("auto", "leader") and self.members.alive(peer, now)
        if not follows or beat.claim != NO_CLAIM or not able:
            self._since.pop(peer.node, None)
            self._had.pop(peer.node, None)
            return
        if now - self._since.setdefault(peer.node, now) < self.params.silent_after:
            return  # while the leader changes nobody follows for a moment
        cursor = self.puller.cursor(peer.node)
        if cursor != self._had.setdefault(peer.node, cursor):
            self._had[peer.node], self.carried = cursor, self.out.recorded
        if beat.position > cursor.position:
            self.puller.pull(peer.node, now)
