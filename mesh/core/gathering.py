"""What a leader reads of other journals: which it asked for, which it has, and who may know what it does not.

Each member that follows it is asked once, and again where its journal may hold more: it was out of sight, could not
write, owns hold tasks, or carries what others cannot bring.
"""

from __future__ import annotations

from mesh.core import owners
from mesh.core.ids import NO_CLAIM, Claim, NodeId
from mesh.core.members import NEVER, Members, Peer
from mesh.core.messages import NO_CURSOR, Pulled
from mesh.core.outbox import Outbox
from mesh.core.params import Params
from mesh.core.puller import Puller


class Gathering:
    def __init__(self, params: Params, members: Members, puller: Puller, out: Outbox) -> None:
        self.params, self.members, self.puller, self.out = params, members, puller, out
        self.claim: Claim = NO_CLAIM
        self._since = 0.0  # the present claim was made
        self._handed: NodeId = ""
        self._followers: set[NodeId] = set()  # those whose journals were asked for since they follow this claim
        self._troubled: set[NodeId] = set()  # those that were not eligible when last heard

    def open(self, claim: Claim, now: float, handed: NodeId) -> None:
        """``handed``: the predecessor that flushed and yielded, so that its journal is enough."""
        self.claim, self._since, self._handed = claim, now, handed
        self._followers.clear()

    def read_all(self, now: float) -> None:
        """Ask everybody in reach."""
        for peer in self.members.living(now):
            self.on_member(peer, now)

    def on_member(self, peer: Peer, now: float) -> None:
        """A member came in reach, or follows us now: what its journal knows, we should know."""
        if self.claim.established and peer.role in ("auto", "leader"):
            self.puller.pull(peer.node, now)

    def on_heartbeat(self, peer: Peer, follows: bool, why_not: str, now: float) -> None:
        """``follows``: our claim. ``why_not``: why it is not eligible; once it is again, its journal may hold more."""
        if not follows:
            self._followers.discard(peer.node)
        else:
            mended = peer.node in self._troubled and not why_not
            if peer.node not in self._followers or mended or not self.read(peer):
                self._followers.add(peer.node)
                self.on_member(peer, now)
            self._claim_from(peer, now)
            carried = 0 if peer.heartbeat is None else peer.heartbeat.carried
            if carried > self.puller.cursor(peer.node).position and self.claim.established:
                self.puller.pull(peer.node, now)  # of whatever role
        if why_not:
            self._troubled.add(peer.node)
        else:
            self._troubled.discard(peer.node)

    def _claim_from(self, peer: Peer, now: float) -> None:
        """A follower hands over what it owns of hold tasks; it may not know that it does, and we not that it did."""
        owed = owners.owed(self.out.ledger, peer.node, self.params.slice_records)
        if owed and self.claim.established:
            self.out.send(peer.node, Pulled(0, NO_CURSOR, True, owed))
            self.puller.pull(peer.node, now)

    def under_way(self, now: float) -> bool:
        """Whether somebody in reach was asked, and has not told everything."""
        busy = (node for node in self.puller.busy() if node == (self._handed or node))
        return any(self.members.is_alive(node, now) for node in busy)

    def reading(self, journal: str, now: float) -> bool:
        """Whether somebody in reach is telling us of this journal, and has not told everything."""
        told = (node for node in self.puller.busy() if self.puller.journals.get(node) == journal)
        return any(self.members.is_alive(node, now) for node in told)

    def read(self, peer: Peer) -> bool:
        """Whether its journal was read since we lead, and since it is alive: it may have led while it was away."""
        return self.puller.complete.get(peer.node, NEVER) >= max(self._since, peer.since)

    def may_tell(self, node: NodeId, now: float) -> bool:
        """Whether this node is in reach and can have led, and its journal was not read yet."""
        peer = self.members.peers.get(node)
        leads = peer is not None and peer.role not in ("worker", "observer")
        return peer is not None and leads and self.members.alive(peer, now) and not self.read(peer)

    def unread(self, now: float) -> list[str]:
        """The members that may know what we do not, as people call them."""
        return [
            peer.name or peer.node for peer in self.members.known()
            if peer.role not in ("worker", "observer") and not self.out.ledger.forgotten(peer.node)
            and not (self.members.alive(peer, now) and self.read(peer))
        ]  # fmt: skip
