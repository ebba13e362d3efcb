"""Replication by pulling: each side asks for the other's journal after the cursor it last saw.

A leader pulls every eligible member before it grants. Its successors keep pulling *live*: the pull that follows the
last slice waits at the leader until there is more. Slices are asked for one by one, each once the one before is on our
disk, so that a Pull says what is durable here, and neither side ever holds more than one slice.

Every Pull carries our cursors of other journals too: what we have from there is not sent again, so that a new leader
reads of each journal only what is new to it.

As CouchDB's replicator does; the cursors of all journals make it an anti-entropy session with version vectors, as
Bayou's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from mesh.core.ids import Life, NodeId
from mesh.core.lattice import Record
from mesh.core.members import Members
from mesh.core.messages import NO_CURSOR, Cursor, Pull, Pulled
from mesh.core.outbox import Outbox
from mesh.core.params import Params

TRIES = 3
TOLD = 64  # cursors in one Pull, the last to have moved: about 4 KiB. What others would save, is sent again.
FRESH = 2.0  # seconds that a live copy may lag behind what its leader had synced, and still counts as caught up


class Session:
    """``live``: it goes on after the end, whose pulls then wait at the other side."""

    __slots__ = ("after", "asked_at", "id", "life", "live", "reached", "records", "started", "tries", "under_way")

    def __init__(self, number: int, life: Life, live: bool, now: float) -> None:
        self.id, self.life, self.live, self.asked_at, self.started = number, life, live, now, now
        self.after = NO_CURSOR  # that the pull under way asked for what follows
        self.tries, self.records = 0, 0
        self.reached = False  # the end, once
        self.under_way = True  # a pull is; else a slice is being written


class Puller:
    """``own`` is how far each life of our own journal reached, this one's last; ``cursors`` what it holds of others'.

    ``absorb`` is called with each slice's records and the cursor after it, and joins them.
    """

    def __init__(
        self,
        params: Params,
        members: Members,
        out: Outbox,
        own: Iterable[Cursor],
        cursors: Iterable[Cursor],
        absorb: Callable[[tuple[Record, ...], Cursor, float], None],
    ) -> None:
        self.params, self.members, self.out, self.absorb = params, members, out, absorb
        *self._former, self._present = tuple(own) or (NO_CURSOR,)  # what others pulled from us they need not send back
        self.sessions: dict[NodeId, Session] = {}
        self.cursors = {cursor.journal: cursor for cursor in cursors}
        self._on_disk = dict(self.cursors)  # what of that is; the last to have moved stands last
        self.journals: dict[NodeId, str] = {}  # whose journal is which
        self.complete: dict[NodeId, float] = {}  # when the last complete pull of this node began
        self.leader: NodeId = ""  # whom we follow, or followed last; empty: we led since, or never followed
        self._marks: deque[tuple[float, int]] = deque()  # what the leader had synced when; only what we lack
        self._numbers = 0

    def pull(self, node: NodeId, now: float) -> None:
        """Fetch what that node has beyond our cursors. Repeating it while one is under way changes nothing."""
        if node != self.out.node and node not in self.sessions:
            self._begin(node, False, now)

    def follow(self, leader: NodeId, recruited: bool, now: float) -> None:
        """Follow this leader (empty: lead), and keep its journal pulled live where it recruited us for that."""
        if leader != self.leader:
            self._end_live(self.leader)
            self.leader = leader
            self._marks.clear()
        session = self.sessions.get(leader)
        if not recruited:
            self._end_live(leader)
        elif leader and (session is None or not session.live):
            self._begin(leader, True, now)

    def on_leader_position(self, position: int, now: float) -> None:
        """What our leader's heartbeat says to be on its disk."""
        self._marks.append((now, position))

    def caught_up(self, now: float) -> bool:
        """Whether all is known here that our leader, as long as we heard it, had synced until a moment ago."""
        if not self.leader:
            return True
        session = self.sessions.get(self.leader)
        if session is None or not session.live or not session.reached:
            return False
        position = self.cursor(self.leader).position
        while self._marks and self._marks[0][1] <= position:
            self._marks.popleft()
        return not self._marks or now - self._marks[0][0] < FRESH

    def busy(self) -> list[NodeId]:
        """Who was asked and has not told everything yet."""
        return sorted(node for node, session in self.sessions.items() if not session.reached)

    def contradicts(self, cursor: Cursor) -> str:
        """Why no other node's journal can have this point, for what is known of it; empty: it can."""
        if cursor.journal and cursor.journal == self._present.journal:  # a former one may go on: a copied directory's
            return f"journal {cursor.journal} is this node's own"
        known = self.cursors.get(cursor.journal, NO_CURSOR)
        if known.position == cursor.position and known.digest and cursor.digest and known.digest != cursor.digest:
            return (
                f"journal {cursor.journal} had other records up to {cursor.position} than it has now; "
                "was its machine put back together with its memory? start meshd there again"
            )
        return ""

    def on_pulled(self, sender: NodeId, pulled: Pulled, now: float) -> None:
        session = self.sessions.get(sender)
        if session is None or pulled.session != session.id or session.life != self._life(sender):
            return
        cursor = pulled.cursor
        if not session.under_way or (
            session.after.journal == cursor.journal and cursor.position < session.after.position
        ):
            return  # a repeat of an earlier slice
        assert isinstance(pulled.records, tuple), "they were decoded on their way in"
        self.journals[sender] = cursor.journal
        self.absorb(pulled.records, cursor, now)
        session.records += len(pulled.records)
        session.tries, session.under_way = 0, False
        if self.cursors.get(cursor.journal, NO_CURSOR).position <= cursor.position:  # else it was read anew
            self.cursors[cursor.journal] = cursor
        if pulled.end:
            self._on_end(sender, session)
        self.out.when_durable(lambda: self._on_durable(sender, session, cursor, now))

    def _on_durable(self, sender: NodeId, session: Session, cursor: Cursor, now: float) -> None:
        known = self._on_disk.pop(cursor.journal, cursor)
        self._on_disk[cursor.journal] = known if known.position > cursor.position else cursor
        self._ask(sender, session, now)

    def tick(self, now: float) -> None:
        for node in sorted(self.sessions):
            session = self.sessions[node]
            if not self.members.is_alive(node, now) and now - session.asked_at >= self.params.resend_after:
                if not session.live:
                    del self.sessions[node]
            elif session.life != self._life(node):
                self._begin(node, session.live, now)
            elif session.under_way and now - session.asked_at >= self._patience(session):
                self._ask_again(node, session, now)

    def deadline(self, now: float) -> float | None:
        times = (
            s.asked_at + wait for s in self.sessions.values() if s.under_way
            for wait in (self.params.resend_after, self._patience(s))
        )  # fmt: skip
        return min((time for time in times if time > now), default=None)

    def _patience(self, session: Session) -> float:
        """A pull that waits is repeated, for the leader may not have heard what it says is durable here."""
        return self.params.resend_after if session.live else self.params.pull_timeout

    def _ask_again(self, node: NodeId, session: Session, now: float) -> None:
        session.tries += 1
        if session.tries >= TRIES and not session.live:
            del self.sessions[node]
            self.out.note("warning", "pull_failed", node=node, reason="no answer")
        else:
            self._ask(node, session, now)

    def _on_end(self, sender: NodeId, session: Session) -> None:
        if not session.reached:
            self.complete[sender] = session.started
            if session.records:
                self.out.note("info", "pulled", node=sender, records=session.records)
        session.reached = True
        if not session.live:
            del self.sessions[sender]

    def _end_live(self, node: NodeId) -> None:
        session = self.sessions.get(node)
        if session is not None and session.live:
            del self.sessions[node]

    def _begin(self, node: NodeId, live: bool, now: float) -> None:
        self._numbers += 1
        session = self.sessions[node] = Session(self._numbers, self._life(node), live, now)
        self._ask(node, session, now)

    def _ask(self, node: NodeId, session: Session, now: float) -> None:
        if self.sessions.get(node) is not session:
            return
        session.asked_at, session.under_way = now, True
        session.after = own = self._on_disk.get(self.journals.get(node, ""), NO_CURSOR)  # who serves us counts on it
        others = [cursor for cursor in self._on_disk.values() if cursor != own][-TOLD:]
        present = self._present._replace(position=self.out.synced, digest="")
        cursors = tuple(sorted(cursor for cursor in (*self._former, present, own, *others) if cursor.journal))
        self.out.send(node, Pull(session.id, cursors, session.live and session.reached))

    def _life(self, node: NodeId) -> Life:
        peer = self.members.peers.get(node)
        return "" if peer is None else peer.life

    def cursor(self, node: NodeId) -> Cursor:
        """Of that node's own journal; none where it was not pulled since we started."""
        return self.cursors.get(self.journals.get(node, ""), NO_CURSOR)
