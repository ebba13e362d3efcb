"""Who is there: addresses to dial, links, heartbeats in both directions, suspicion.

*Alive* means heard in both directions: the peer's heartbeat came lately and echoes one that we sent lately. *Gone*
means that its process is known not to exist (connection closed and reconnection refused, or a new life of it was
seen); everything else is silence, and silence becomes a verdict only after ``silent_after``.

Goals: detection in 2.2 s without false alarms when our own loop was late (as Lifeguard does, every window grows by
our own lateness). Non-goals: who leads (``election``), what work is where (``leader``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from mesh.core.effects import Dial
from mesh.core.ids import Life, NodeId
from mesh.core.messages import Heartbeat, Hello
from mesh.core.outbox import Outbox
from mesh.core.params import Params

NEVER = float("-inf")


class Contact:
    """An address that may be dialled."""

    __slots__ = ("address", "backoff", "dial_at", "dialing", "node")

    def __init__(self, address: str, node: NodeId) -> None:
        self.address, self.node = address, node
        self.dial_at = NEVER
        self.backoff = 0.0
        self.dialing = False


class Peer:
    """Another node, as seen from here."""

    __slots__ = (
        "acked", "address", "barred_for", "barred_until", "gone", "heard", "heard_seq", "heartbeat", "incarnation",
        "life", "links", "met", "name", "node", "refused", "role", "sent", "seq", "since", "told", "version",
        "why_refused",
    )  # fmt: skip

    def __init__(self, node: NodeId) -> None:
        self.node = node
        self.address = self.name = self.role = self.version = ""
        self.life: Life = ""
        self.links: list[int] = []
        self.met = NEVER  # when the first of its present links came up
        self.heartbeat: Heartbeat | None = None
        self.heard = NEVER  # when its last heartbeat came
        self.acked = NEVER  # when we sent the newest of ours that it echoed
        self.since = NEVER  # alive without interruption since
        self.heard_seq = self.seq = self.incarnation = 0
        self.sent: deque[tuple[int, float]] = deque(maxlen=32)
        self.gone = False
        self.told = -1  # the version of the address book it was sent
        self.refused = 0  # messages that no correct node sends; of all its lives
        self.why_refused = ""  # the last of them
        self.barred_for = 0.0  # the last time, this life of it
        self.barred_until = NEVER


class Members:
    def __init__(self, node: NodeId, address: str, params: Params, out: Outbox) -> None:
        self.node, self.address, self.params, self.out = node, address, params, out
        self.peers: dict[NodeId, Peer] = {}
        self.contacts: dict[str, Contact] = {}
        self.links: dict[int, NodeId] = {}
        self.lives: dict[int, Life] = {}  # of the other side of each link: a copied state directory has two at a time
        self.incarnation = 0
        self._refuted_at = NEVER
        self.book = 0  # counts changes of addresses
        self._dialling: tuple[set[NodeId] | None, float | None] | None = (
            None  # for whom, when next; None: to be found out
        )
        self._lates: deque[tuple[float, float]] = deque()  # our own latenesses, each with when it is forgotten

    # -- addresses and links ----------------------------------------------------------------------------------------

    def on_address(self, address: str, node: NodeId) -> None:
        if not address or address == self.address or node == self.node:
            return
        self._dialling = None
        contact = self.contacts.get(address)
        if contact is None:
            self.contacts[address] = contact = Contact(address, node)
        elif node and not contact.node:
            contact.node = node
        if node and node not in self.peers:
            self._peer(node)
        if contact.backoff >= self.params.redial_limit and self._unlinked(contact):
            contact.dial_at = NEVER  # news of it: do not sit out the back-off

    def on_link_up(self, link: int, hello: Hello, dialed: str, now: float) -> Peer:
        peer = self._peer(hello.node)
        if not peer.links:
            peer.met = now
        self._dialling = None
        if dialed:
            contact = self.contacts.setdefault(dialed, Contact(dialed, hello.node))
            contact.dialing, contact.node = False, hello.node
        if peer.life != hello.life:
            self._new_life(peer, hello.life)
        peer.gone = False
        peer.links.append(link)
        peer.name, peer.role, peer.version = hello.name, hello.role, hello.version
        self.links[link], self.lives[link] = hello.node, hello.life
        if hello.address and peer.address != hello.address:
            self.contacts.pop(peer.address, None)
            peer.address = hello.address
            self.contacts.setdefault(hello.address, Contact(hello.address, hello.node)).node = hello.node
            self.book += 1
        return peer

    def on_link_down(self, link: int, now: float) -> Peer | None:
        node = self.links.pop(link, None)
        if node is None:
            return None
        peer = self.peers[node]
        self._dialling = None
        peer.links.remove(link)
        del self.lives[link]
        if not peer.links:
            contact = self.contacts.get(peer.address)
            if contact is not None and not contact.dialing:
                # A link that was good: ask at once whether the process still exists. One that was refused: back off.
                contact.dial_at = max(now + contact.backoff, peer.barred_until)
        return peer

    def former(self, node: NodeId, life: Life) -> list[int]:
        """The links with other lives of this node."""
        peer = self.peers.get(node)
        return [] if peer is None else [link for link in peer.links if self.lives[link] != life]

    def on_dial_failed(self, address: str, gone: bool, now: float) -> Peer | None:
        """The peer whose process this proves gone, if it does."""
        contact = self.contacts.get(address)
        if contact is None:
            return None
        self.back_off(contact, now)
        peer = self.peers.get(contact.node)
        if gone and peer is not None and peer.address == address and not peer.links and not peer.gone:
            peer.gone = True
            return peer
        return None

    def doubt_gone(self, node: NodeId) -> None:
        """Its process was gone when it was last asked, but another leader may have met its next life: ask again."""
        peer = self.peers.get(node)
        contact = None if peer is None else self.contacts.get(peer.address)
        if peer is not None and peer.gone and contact is not None and contact.node == node:
            peer.gone, self._dialling = False, None
            contact.dial_at = NEVER  # else another lives there: the same machine, with another rank

    def refuse(self, peer: Peer, why: str, now: float) -> list[int]:
        """It sent what no correct node sends. Its links, to be closed; this life gets none for a while.

        Each time for longer: it would send the same again, and every time a leader would be found and lost.
        """
        peer.refused, peer.why_refused = peer.refused + 1, why
        peer.barred_for = min(self.params.bar_limit, peer.barred_for * 2 or self.params.redial_limit)
        peer.barred_until = now + peer.barred_for
        contact = self.contacts.get(peer.address)
        if contact is not None:
            contact.backoff, contact.dial_at = self.params.redial_limit, peer.barred_until
        self._dialling = None
        links = list(peer.links)
        for link in links:
            self.on_link_down(link, now)
        return links

    def back_off(self, contact: Contact, now: float) -> None:
        self._dialling = None
        contact.dialing = False
        contact.backoff = min(self.params.redial_limit, contact.backoff * 2 or 0.25)
        contact.dial_at = now + contact.backoff

    def dial(self, now: float, wanted: set[NodeId] | None) -> None:
        """Dial who is not linked: everyone (``wanted`` None), or these and whoever lives at unknown addresses."""
        due = self.next_dial(wanted)
        if due is None or due > now:
            return
        self._dialling = None
        for contact in list(self.contacts.values()):
            if contact.dialing or contact.dial_at > now or not self._unlinked(contact):
                continue
            if wanted is not None and contact.node and contact.node not in wanted:
                continue
            contact.dialing = True
            self.out.do(Dial(contact.address))

    def next_dial(self, wanted: set[NodeId] | None) -> float | None:
        if self._dialling is not None and self._dialling[0] == wanted:
            return self._dialling[1]  # of 1,000 contacts nothing changes in most steps
        times = [
            c.dial_at
            for c in self.contacts.values()
            if not c.dialing and self._unlinked(c) and (wanted is None or not c.node or c.node in wanted)
        ]
        self._dialling = wanted, min(times, default=None)
        return self._dialling[1]

    def forget_contact(self, address: str) -> None:
        self._dialling = None
        self.contacts.pop(address, None)

    def _unlinked(self, contact: Contact) -> bool:
        peer = self.peers.get(contact.node)
        return peer is None or not peer.links

    def _peer(self, node: NodeId) -> Peer:
        peer = self.peers.get(node)
        if peer is None:
            peer = self.peers[node] = Peer(node)
        return peer

    def _new_life(self, peer: Peer, life: Life) -> None:
        peer.life, peer.heartbeat = life, None
        peer.heard = peer.acked = peer.since = NEVER
        peer.heard_seq = peer.incarnation = 0  # our own seq goes on: a life that comes back has heard the last one
        peer.sent.clear()
        peer.told = -1
        peer.barred_for, peer.barred_until = 0.0, NEVER

    # -- heartbeats -------------------------------------------------------------------------------------------------

    def on_heartbeat(self, peer: Peer, beat: Heartbeat, now: float) -> bool:
        """False for one that is older than what is known, or of another life."""
        if beat.life != peer.life or (beat.incarnation, beat.seq) <= (peer.incarnation, peer.heard_seq):
            return False
        if not self.alive(peer, now):
            peer.since = now
        peer.heartbeat, peer.heard_seq, peer.heard = beat, beat.seq, now
        peer.incarnation = beat.incarnation
        peer.gone = False
        contact = self.contacts.get(peer.address)
        if contact is not None:
            contact.backoff = 0.0
        while peer.sent and peer.sent[0][0] <= beat.echo:
            peer.acked = max(peer.acked, peer.sent.popleft()[1])
        if self.node in beat.suspects and now - self._refuted_at >= self.params.heartbeat:
            # The caller beats at once, so that the refutation arrives before the window is over. Once per heartbeat:
            # two that suspect each other would refute each other without end.
            self.incarnation += 1
            self._refuted_at = now
        for node, address in beat.peers:
            self.on_address(address, node)
        return True

    def number(self, peer: Peer, now: float) -> tuple[int, int]:
        """The seq and the echo of the next heartbeat to this peer."""
        peer.seq += 1
        peer.sent.append((peer.seq, now))
        return peer.seq, peer.heard_seq

    def addresses_for(self, peer: Peer) -> tuple[tuple[NodeId, str], ...]:
        """The address book, where this peer was not sent it as it stands."""
        if peer.told == self.book:
            return ()
        peer.told = self.book
        return tuple((p.node, p.address) for p in self.known() if p.address and not p.gone and p is not peer)

    # -- judgement --------------------------------------------------------------------------------------------------

    def late(self, lateness: float, now: float) -> None:
        """Our own loop ran late by this much: silence may be ours. Every window grows by it, for one window.

        For so long as a beat that left late, or came and was not read, may be the newest that a peer can echo.
        """
        if lateness > 0.25:
            self._lates.append((now + self.params.silent_after, lateness))

    def _slack(self, now: float) -> float:
        while self._lates and self._lates[0][0] <= now:
            self._lates.popleft()
        return max(lateness for _, lateness in self._lates) if self._lates else 0.0

    def alive(self, peer: Peer, now: float) -> bool:
        if peer.gone:
            return False
        window = self.params.silent_after + self._slack(now)
        return now - peer.heard < window and now - peer.acked < window

    def is_alive(self, node: NodeId, now: float) -> bool:
        peer = self.peers.get(node)
        return peer is not None and self.alive(peer, now)

    def why_not_alive(self, node: NodeId, now: float) -> str:
        """In words, with the times of both directions, for one of them may have failed alone; empty: it is alive."""
        peer = self.peers.get(node)
        if peer is None or peer.heard == NEVER:
            return "this life of it was not heard yet"
        if peer.gone:
            return "its process is gone"
        if self.alive(peer, now):
            return ""
        heard = f"heard {now - peer.heard:.1f} s ago"
        if peer.acked == NEVER:
            return f"{heard}, and it answered no beat of ours"
        return f"{heard}, and the last beat of ours that it answered was sent {now - peer.acked:.1f} s ago"

    def suspect(self, peer: Peer, now: float) -> bool:
        """Silent for three heartbeats, in either direction; who was never alive is not suspected, but unknown."""
        heard = min(peer.heard, peer.acked)
        return not peer.gone and heard > NEVER and now - heard >= self.params.suspect_after + self._slack(now)

    def silent_for(self, peer: Peer, now: float) -> float:
        return now - peer.heard

    def forgive(self, now: float) -> None:
        """After a suspend: nobody was silent, we were not there."""
        for peer in self.peers.values():
            if peer.heard > NEVER:
                peer.heard = peer.since = now
                peer.acked = max(peer.acked, now - self.params.suspect_after) if peer.acked > NEVER else peer.acked

    def known(self) -> list[Peer]:
        return [self.peers[node] for node in sorted(self.peers)]

    def unanswered(self, now: float) -> bool:
        """Whether somebody was asked who may still answer: it is being dialled, or linked and not heard both ways."""
        if any(peer.links and not self.alive(peer, now) for peer in self.peers.values()):
            return True
        return any(contact.dialing and self._unlinked(contact) for contact in self.contacts.values())

    def living(self, now: float) -> Iterator[Peer]:
        return (peer for peer in self.known() if self.alive(peer, now))

    def next_change(self, watched: Iterable[NodeId], now: float) -> float | None:
        """When the next of these falls silent, if it stays as it is."""
        silent, slack = self.params.silent_after, self._slack(now)
        until = min((until for until, lateness in self._lates if lateness == slack), default=now)
        times = [
            max(last + silent, min(last + silent + slack, until))
            for node in watched
            if (peer := self.peers.get(node)) is not None and self.alive(peer, now)
            for last in (min(peer.heard, peer.acked),)
        ]
        return min(times, default=None)
