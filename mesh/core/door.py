"""Who gets a link, and who is sent away, with a reason for people: another mesh, another version, a second life of an
identity, a peer that sent what no correct node sends.
"""

from __future__ import annotations

from collections.abc import Callable

from mesh.core import identity, valid
from mesh.core.effects import Exit, Hangup
from mesh.core.events import LinkRefused, LinkUp
from mesh.core.identity import Me
from mesh.core.ids import NodeId
from mesh.core.lattice import Mesh
from mesh.core.members import Members, Peer
from mesh.core.messages import Hello
from mesh.core.outbox import Outbox

COPIED = "a copied state directory; start one of them with meshd --new-id"


class Door:
    """``leading``: whether this node leads, for the leader alone decides which of two lives goes."""

    def __init__(self, me: Me, members: Members, out: Outbox, leading: Callable[[], bool]) -> None:
        self.me, self.members, self.out, self.leading = me, members, out, leading
        self.refusals: dict[str, str] = {}  # address -> why there is no link
        self.invalid_hellos = 0  # of who did not even say who it is as a node would

    def on_link_up(self, event: LinkUp, mine: Hello, now: float) -> Peer | None:
        """The peer at the other end; None where it was sent away."""
        hello = event.hello
        refusal = (
            self._refuse_hello(hello, now) or identity.refuse(mine, hello)
            or self._judge_double(mine, hello, event.dialed, now)
        )  # fmt: skip
        if refusal is not None:
            if refusal.code != "ours":
                self.out.do(Hangup(event.link, refusal.reason, refusal.code))
            if refusal.code != "self":
                self.refusals[event.dialed or hello.address] = refusal.reason
                contact = self.members.contacts.get(event.dialed)
                if contact is not None:
                    self.members.back_off(contact, now)
            return None
        self.refusals.pop(event.dialed or hello.address, None)
        for link in self.members.former(hello.node, hello.life):
            # It was silent until its process was over for us. What it said last may lie in a buffer for minutes, and
            # would be taken for a second process beside its next life.
            self.out.do(Hangup(link, "", ""))
            self.members.on_link_down(link, now)
        peer = self.members.on_link_up(event.link, hello, event.dialed, now)
        self._record(peer, hello)
        return peer

    def _record(self, peer: Peer, hello: Hello) -> None:
        """What is to be known of it after a restart, and everywhere."""
        ledger, scope = self.out.ledger, f"node/{peer.node}"
        if hello.address and ledger.value(scope, "address") != hello.address:  # a next life dials it
            self.out.record(ledger.next_register(scope, "address", self.me.node, hello.address))
        if ledger.forgotten(peer.node):  # it was not destroyed, or it was mended
            self.out.record(ledger.next_register(scope, "forgotten", self.me.node, ""))
        for index, mesh in enumerate(hello.mesh_ids):
            self.out.record(Mesh(mesh, hello.mature and index == 0))

    def _refuse_hello(self, hello: Hello, now: float) -> identity.Refusal | None:
        if wrong := valid.hello_fault(hello):
            self.invalid_hellos += 1
            self.out.note("warning", "hello_refused", address=hello.address, reason=wrong)
            return identity.Refusal("invalid", wrong)
        peer = self.members.peers.get(hello.node)
        if peer is not None and peer.life == hello.life and now < peer.barred_until:
            return identity.Refusal("invalid", self._why_barred(peer))
        return None

    def _judge_double(self, mine: Hello, hello: Hello, dialed: str, now: float) -> identity.Refusal | None:
        """Two live lives of one identity: the leader alone decides, and keeps the one that was connected first."""
        if identity.same_machine(hello.node, self.me.node):
            if hello.life == self.me.life:
                self.members.forget_contact(dialed)
                return identity.Refusal("self", "this is the same process")
            first = (mine.uptime_ms, self.me.life) > (hello.uptime_ms, hello.life)
            if self.leading() and first:
                return identity.Refusal(
                    "duplicate", f"{mine.name} already runs with the identity {hello.node}: {COPIED}"
                )
            # Of two that meet the one that ran first hangs up. If the other did, it would not hear whether it must go.
            code = "doubt" if first else "ours"
            return identity.Refusal(code, f"{hello.name} has this node's own identity {hello.node}: {COPIED}")
        for peer in self.members.known():
            if not identity.same_machine(peer.node, hello.node):
                continue
            if peer.life != hello.life and peer.links and self.members.alive(peer, now):
                # Leading: for whom was not there first. Else it is for the leader to say.
                code = "duplicate" if self.leading() else "doubt"
                return identity.Refusal(code, f"{peer.name} already runs with the identity {peer.node}: {COPIED}")
            if peer.node != hello.node:
                peer.gone = True  # the same machine, started again with another rank
        return None

    def on_refused(self, event: LinkRefused, now: float) -> None:
        """The other side sent us away."""
        contact = self.members.contacts.get(event.address)
        if contact is not None:
            self.members.back_off(contact, now)
        if event.code == "self":
            self.members.forget_contact(event.address)
        elif event.code == "duplicate":
            self.out.do(Exit(76, event.reason))
        else:
            if self.refusals.get(event.address) != event.reason:
                self.out.note("warning", "link_refused", address=event.address, reason=event.reason)
            self.refusals[event.address] = event.reason

    def bar(self, node: NodeId, wrong: str, now: float) -> None:
        """It sent what no correct node sends: its links are closed, and this life of it gets none for a while."""
        peer = self.members.peers.get(node)
        if peer is None or now < peer.barred_until:
            return
        links = self.members.refuse(peer, wrong, now)
        why = self.refusals[peer.address] = self._why_barred(peer)
        for link in links:
            self.out.do(Hangup(link, why, "invalid"))
        self.out.note("warning", "peer_refused", node=node, name=peer.name, times=peer.refused, reason=wrong)

    def _why_barred(self, peer: Peer) -> str:
        return (
            f"{peer.name or peer.node} (version {peer.version}) sent {self.me.name} (version {self.me.version}) "
            f"what no correct node sends: {peer.why_refused}; nothing of it was taken; install the same version on both"
        )
