"""When what runs on a node without a session is lost: ``lost_after`` of silence, or that its process is gone.

Leases without clocks: no time of another machine counts, only how long nothing was heard of it here.
"""

from __future__ import annotations

from collections.abc import Iterator

from mesh.core.ids import NodeId
from mesh.core.ledger import Ledger
from mesh.core.members import NEVER, Members
from mesh.core.params import Params


class Losses:
    def __init__(self, params: Params, members: Members, ledger: Ledger) -> None:
        self.params, self.members, self.ledger = params, members, ledger
        self._at: dict[NodeId, float] = {}

    @property
    def after(self) -> float:
        """Seconds of silence after which what runs on a node is lost: the mesh's own setting, or the preset."""
        chosen = self.ledger.value("mesh", "lost_after")
        return self.params.lost_after if chosen is None else float(chosen)

    def clear(self) -> None:
        self._at.clear()

    def expect(self, node: NodeId, now: float) -> None:
        """It is to declare what it runs, from now on. Whose process is gone does not."""
        peer = self.members.peers.get(node)
        self._at.setdefault(node, now if peer is not None and peer.gone else now + self.after)

    def fell_silent(self, node: NodeId, now: float) -> None:
        """Its session is over, for it was silent, or is gone."""
        peer = self.members.peers.get(node)
        heard = peer.heard if peer is not None and peer.heard > NEVER else now
        self._at[node] = now if peer is not None and peer.gone else max(heard + self.after, now)

    def declared(self, node: NodeId) -> None:
        self._at.pop(node, None)

    def on_resumed(self, now: float) -> None:
        """It was we who heard nothing."""
        for node, at in self._at.items():
            self._at[node] = max(at, now + self.after)

    def due(self, now: float) -> Iterator[tuple[NodeId, str]]:
        """The nodes whose time is over, and why."""
        for node, at in sorted(self._at.items()):
            if now < at:
                continue
            del self._at[node]
            peer = self.members.peers.get(node)
            gone = peer is not None and peer.gone
            if peer is not None and not gone:
                # It may have been in reach meanwhile, for too short a time to say what it holds.
                reached = peer.since if self.members.alive(peer, now) else min(peer.heard, peer.acked)
                if reached + self.after > now:
                    self._at[node] = reached + self.after
                    continue
            yield node, "its process ended" if gone else f"its node was silent for {self.after:.0f} s"

    def deadline(self) -> float | None:
        return min(self._at.values(), default=None)
