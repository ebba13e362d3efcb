"""One node's mind: events in, effects out. No I/O, no clock, no randomness.

The caller's duty: read the clock once per event, call :meth:`Machine.step`, carry out the effects in the order given,
and send ``Ticked`` when :meth:`Machine.deadline` has come. The same events at the same times give byte-identical
effects, which is what the simulator and every failing seed rely on.

This module owns how the parts meet: ``members`` (who is there), ``door`` (who is let in), ``election`` (who grants),
``puller`` (journals of others), ``leader`` (tasks, while this node leads), ``worker`` (attempts, if it works),
``holder`` (this node's blobs) and ``holdings`` (everybody's, while it leads). Each decides for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from mesh.core import identity, owners, valid
from mesh.core.carrier import Carrier
from mesh.core.copies import Copies
from mesh.core.door import Door
from mesh.core.effects import Drained, Effect, ServePull
from mesh.core.election import Election
from mesh.core.events import (
    AddressFound,
    AttemptResumed,
    AttemptSaved,
    AttemptsBegan,
    AttemptsEnded,
    AttemptsProgressed,
    BlobsChanged,
    BlobsDoubted,
    BlobSettled,
    BlobSought,
    CancelAsked,
    CopyRefused,
    DeleteAsked,
    DialFailed,
    DrainAsked,
    Event,
    ForgetAsked,
    JournalFailed,
    JournalSynced,
    LinkDown,
    LinkRefused,
    LinkUp,
    Measured,
    MessageUnreadable,
    PauseAsked,
    PinAsked,
    PriorityAsked,
    Received,
    Resumed,
    RetryAsked,
    Submitted,
    SuccessorSynced,
    Ticked,
)
from mesh.core.holder import Holder
from mesh.core.holdings import Holdings
from mesh.core.identity import Me
from mesh.core.ids import NO_CLAIM, BlobId, Claim, NodeId
from mesh.core.lattice import Lived, Mesh, Record
from mesh.core.leader import Leader
from mesh.core.ledger import Ledger
from mesh.core.members import Members, Peer
from mesh.core.messages import (
    Copy,
    CopyFailed,
    Cursor,
    Found,
    Heartbeat,
    Hello,
    Holds,
    HoldsSeen,
    Message,
    Orders,
    Pull,
    Pulled,
    Refused,
    Report,
    Seek,
    Spare,
    Spared,
)
from mesh.core.outbox import Outbox
from mesh.core.params import Params
from mesh.core.puller import Puller
from mesh.core.worker import Worker


class Machine:
    """``records`` is the journal as synced, ``own`` how far its lives reached, ``cursors`` what it has of others'.

    A journal has an id for each life of its node, because an id stands for one history without a break: who restores a
    backup begins another one.
    """

    def __init__(
        self, me: Me, params: Params, records: Iterable[Record], now: float, own: Iterable[Cursor] = (),
        cursors: Iterable[Cursor] = (),
    ) -> None:  # fmt: skip
        self.me, self.params, self.started = me, params, now
        self.ledger = Ledger()
        position = 0
        for record in records:
            position += 1
            self.ledger.join(record)
        while self.ledger.dying:
            self.ledger.purge(params.slice_records)
        self.out = Outbox(me.node, self.ledger, position)
        cursors = tuple(cursors)
        self.members = Members(me.node, me.address, params, self.out)
        self.copies = Copies(params, self.members, self.out)
        self.puller = Puller(params, self.members, self.out, own, cursors, self._absorb)
        self.carrier = Carrier(params, self.members, self.out, self.puller)
        self.election = Election(me, params, self.members, self.out, self.copies, self.puller.caught_up)
        self.door = Door(me, self.members, self.out, lambda: self.election.leading)
        self.worker = Worker(me, params, self.out)
        self.leader = Leader(me, params, self.members, self.puller, self.out, self._holders)
        self.holder = Holder(me.life, params, self.out)
        self.holdings = Holdings(me.node, me.address, me.role, params, self.members, self.out)
        self._wanted: set[NodeId] | None = None  # whom to dial, as of the last step; None: everyone
        self._claim: Claim = NO_CLAIM  # what worker and leader were last told
        self._leading = False
        self._next_beat = now
        self._unsynced_since: float | None = None
        self._drain_until: float | None = None
        self._drained = False
        self._whole = 0
        self._boot = True
        self.now = now  # of the last step

    # -- the three calls --------------------------------------------------------------------------------------------

    def step(self, event: Event, now: float) -> list[Effect]:
        """Take one event at monotonic time ``now`` (seconds, never decreasing) and say what is to be done."""
        if self._boot:
            self._boot = False
            self._begin(now)
        _HANDLERS[type(event)](self, event, now)
        self._settle(now)
        effects = self.out.flush()
        if self._unsynced_since is None and not self.out.durable:
            self._unsynced_since = now
        return effects

    def deadline(self) -> float | None:
        """When the driver must send ``Ticked``, in monotonic seconds; a time in the past means at once."""
        if self._boot:
            return self.started
        now = self.now
        times = [
            None if self.copies.holds_tongue(now) else self._next_beat,
            self.election.deadline(now),
            self.puller.deadline(now),
            self.worker.deadline(),
            self.leader.deadline(),
            self.holder.deadline(),
            now if self.ledger.dying else None,
            self.copies.deadline(now),
            self.members.next_dial(self._wanted),
            self._drain_until,
            None if self._unsynced_since is None else self._unsynced_since + self.params.slow_sync,
        ]
        return min(time for time in times if time is not None)

    def check(self, *, whole: bool = False) -> None:
        """Assert the invariants of what changed since the last call; with ``whole``, all of them."""
        self.ledger.check(whole=whole)
        self.worker.check()
        self.leader.check(whole=whole)

    # -- what the shell reads ---------------------------------------------------------------------------------------

    def hello(self, now: float) -> Hello:
        return identity.hello(self.me, self.ledger, now - self.started)

    @property
    def leading(self) -> bool:
        return self.election.leading

    def leader_address(self) -> str:
        """Where calls go: our own address while we lead; empty while nobody does, as far as we know."""
        if self.election.leading:
            return self.me.address
        peer = self.members.peers.get(self.election.announced().leader)
        return "" if peer is None else peer.address

    # -- events -----------------------------------------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        if not self.ledger.meshes:
            self.out.record(Mesh(self.me.new_mesh_id, False))
        lived = self.ledger.lives.get(self.me.node)
        self.out.record(Lived(self.me.node, 1 if lived is None else lived.number + 1, self.me.life))
        for (scope, field), register in sorted(self.ledger.registers.items()):
            node = scope[5:]
            known = field == "address" and not identity.same_machine(node, self.me.node)
            if known and not self.ledger.forgotten(node):
                self.members.on_address(register.value, scope[5:])
        for field, value in self.me.settings:
            if self.ledger.value("mesh", field) != value:
                self.out.record(self.ledger.next_register("mesh", field, self.me.node, value))
        self.worker.restore(
            attempt
            for name in sorted(self.ledger.unsettled)
            for attempt in sorted(self.ledger.tasks[name].tries, key=lambda attempt: attempt.id)
            if attempt.ended and identity.same_machine(attempt.node, self.me.node)
            and not self.ledger.tasks[name].accepts
        )  # fmt: skip
        self.election.start(now)

    def _on_ticked(self, event: Ticked, now: float) -> None:
        due = min(self._next_beat, now)
        self.members.late(now - due, now)

    def _on_resumed(self, event: Resumed, now: float) -> None:
        if event.gap > self.params.suspect_after:
            self.members.forgive(now)
            self.election.on_resumed(now)
            self.leader.on_resumed(now)
            self.out.note("warning", "resumed", gap=round(event.gap, 1))

    def _on_address(self, event: AddressFound, now: float) -> None:
        self.members.on_address(event.address, event.node)

    def _on_link_up(self, event: LinkUp, now: float) -> None:
        peer = self.door.on_link_up(event, self.hello(now), now)
        if peer is None:
            return
        self._beat_to(peer, now)
        if self.election.announced().leader == peer.node:
            self.worker.on_claim(self._claim)
            self.holder.on_claim(self._claim)

    def _on_link_down(self, event: LinkDown, now: float) -> None:
        self.members.on_link_down(event.link, now)

    def _on_dial_failed(self, event: DialFailed, now: float) -> None:
        peer = self.members.on_dial_failed(event.address, event.gone, now)
        if peer is not None:
            self.election.urgent = True
            if self._leading:
                self.leader.on_gone(peer.node, now)
                self.holdings.on_gone(peer.node)

    def _on_received(self, event: Received, now: float) -> None:
        """A message is taken whole or refused whole, before any record of it is joined."""
        sender, message = event.sender, event.message
        peer = self.members.peers.get(sender)
        if peer is not None and now < peer.barred_until:
            return  # it was under way when the link was closed
        wrong = valid.message_fault(sender, message) or self._contradiction(sender, message)
        if wrong:
            self.door.bar(sender, wrong, now)
        else:
            self._deliver(sender, message, now)

    def _on_unreadable(self, event: MessageUnreadable, now: float) -> None:
        self.door.bar(event.sender, event.reason, now)

    def _contradiction(self, sender: NodeId, message: Message) -> str:
        """What is wrong with a message for what this node alone knows; empty: nothing."""
        if isinstance(message, Pulled) and message.session:
            return self.puller.contradicts(message.cursor)
        if isinstance(message, Report) and (session := self.leader.sessions.get(sender)) is not None:
            for attempt in message.attempts:
                granted = session.open.get(attempt.id)
                if granted is not None and granted[0] != attempt.task:
                    return f"attempt {attempt.id} was granted for task {granted[0]}, not for {attempt.task}"
        return ""

    def _deliver(self, sender: NodeId, message: Message, now: float) -> None:
        match message:
            case Report():
                self.leader.on_report(sender, message, now)
            case Orders():
                self.worker.on_orders(sender, message, self.election.leader_alive(now), now)
            case Heartbeat():
                peer, incarnation = self.members.peers.get(sender), self.members.incarnation
                if peer is not None and self.members.on_heartbeat(peer, message, now):
                    self.election.urgent |= self.members.incarnation != incarnation
                    self.election.on_heartbeat(peer, message, now)
                    if peer.node == self.election.announced().leader:
                        self.puller.on_leader_position(message.position, now)
                    if self._leading:
                        self.leader.on_heartbeat(peer, message.claim, message.why_not, now)
                        self.holdings.on_heartbeat(peer.node, message.claim, now)
                    self.carrier.on_heartbeat(peer, message, self._follows(now), now)
                    if message.echo == 0:  # it has not heard us yet: alive needs both directions
                        self._beat_to(peer, now)
            case Pull():
                serve = ServePull(sender, message.session, message.cursors, message.wait)
                if self.election.journal_trouble or message.wait:
                    self.out.do(serve)  # what is on disk; where writing fails the leader asks again once it works
                else:
                    self.out.when_durable(serve)  # all that is known here now: we may have led a moment ago
            case Pulled(session=0):
                if self._claim.established and self._claim.leader == sender and not self._leading:
                    assert isinstance(message.records, tuple), "they were decoded on their way in"
                    owners.renounce(self.out, message.records, sender)
            case Pulled():
                self.puller.on_pulled(sender, message, now)
            case Holds():
                self.holdings.on_holds(sender, message, now)
            case Seek():
                self.holdings.on_seek(sender, message, now)
            case CopyFailed():
                self.holdings.on_copy_failed(sender, message, now)
            case Spare():
                self.leader.on_spare(sender, message)
            case HoldsSeen() | Found() | Copy() | Spared():
                self.holder.on_message(message, now)
            case Refused() if message.highest == self._claim and sender == self._claim.leader:
                self.worker.on_refused()
            case _:
                self.election.on_message(sender, message, now)

    def _on_synced(self, event: JournalSynced, now: float) -> None:
        self.out.on_synced(event.position)
        if self._unsynced_since is not None and now - self._unsynced_since >= self.params.long_sync:
            self.election.lagged_at = now
        self._unsynced_since = None if self.out.synced >= self.out.position else now
        if self.election.journal_trouble.startswith(_SLOW):
            self.election.journal_trouble = ""

    def _on_journal_failed(self, event: JournalFailed, now: float) -> None:
        self.election.journal_trouble = event.reason and f"its journal cannot be written: {event.reason}"
        self.leader.trouble = self.election.journal_trouble
        if event.reason:
            self.out.note("error", "journal_failed", reason=event.reason)

    def _on_successor_synced(self, event: SuccessorSynced, now: float) -> None:
        self.copies.on_copied(event.node, event.position, now)

    def _on_measured(self, event: Measured, now: float) -> None:
        self.worker.on_offer(event.offer)

    def _on_drain(self, event: DrainAsked, now: float) -> None:
        self._drain_until = now + event.grace
        self.election.draining = True
        self.worker.on_drain(now)

    # -- after each event -------------------------------------------------------------------------------------------

    def _settle(self, now: float) -> None:
        """Let every part react until nothing is left to say to ourselves."""
        self.now = now
        if self._unsynced_since is not None and now - self._unsynced_since >= self.params.slow_sync:
            self._unsynced_since = now
            self.election.journal_trouble = (
                self.election.journal_trouble or f"{_SLOW} for {self.params.slow_sync:.0f} s"
            )
        self.election.tick(now)
        self._follow(now)
        self.puller.tick(now)
        self._tell_parts(now)
        if self._claim.established and not self._leading and self.ledger.owned:
            owners.hand_over(self.out, self._claim.leader)  # in the step in which we follow: who pulls us then has it
        if self.ledger.dying:
            self._purge()
        for _ in range(8):
            self.copies.work(now)
            self.leader.work(now)
            self.worker.flush(now)
            if not self.out.local:
                break
            self._hear_ourselves(now)
            self._tell_parts(now)
        self.holder.flush(now)
        self._hear_ourselves(now)  # of blobs alone, which gives leader and worker nothing to do
        self.leader.tasks.show()
        if self._drain_until is not None:
            self._drain(now)
        self._wanted = self._whom_to_dial(now)
        self.members.dial(now, self._wanted)
        if (self.election.urgent or now >= self._next_beat) and not self.copies.holds_tongue(now):
            self._beat(now)

    def _hear_ourselves(self, now: float) -> None:
        while self.out.local:
            self._deliver(self.me.node, self.out.local.popleft(), now)

    def _tell_parts(self, now: float) -> None:
        """Role changes, told in one place: the leader's part opens or closes, the worker follows."""
        claim = self.election.announced()
        if claim != self._claim or self.election.leading != self._leading:
            same_lead = self._claim.leader == claim.leader and self._claim.life == claim.life
            renamed = same_lead and self._leading == self.election.leading and claim != NO_CLAIM
            self._claim, self._leading = claim, self.election.leading
            if self._leading:
                self.copies.open(now)
                self.leader.open(claim, now, handed=self.election.handed)
                self.holdings.open(claim)
            else:
                self.copies.close()
                self.leader.close()
                self.holdings.close()
            if not renamed:
                self.out.note(
                    "info", "leader", leader=claim.leader, term=claim.term, established=int(claim.established)
                )
            self.worker.on_claim(claim)
            self.holder.on_claim(claim)

    def _follow(self, now: float) -> None:
        """Keep the leader's journal pulled live where it recruited us, also while it hands over to us."""
        claim = self.election.announced()
        if self.election.leading:
            self.puller.follow("", False, now)
        elif claim != NO_CLAIM:
            peer = self.members.peers.get(claim.leader)
            beat = None if peer is None else peer.heartbeat
            recruited = beat is not None and beat.claim == claim and self.me.node in beat.successors
            self.puller.follow(claim.leader, recruited, now)

    def _holders(self, blob: BlobId) -> Collection[NodeId]:
        return self.holdings.holders.get(blob, ())

    def _follows(self, now: float) -> bool:
        return not self._leading and self.election.leader_alive(now)

    def _absorb(self, records: tuple[Record, ...], cursor: Cursor, now: float) -> None:
        changed = self.out.absorb(records, cursor)
        if self._leading:
            self.leader.on_records(changed, now, cursor.journal)

    def _purge(self) -> None:
        gone = self.ledger.purge(max(1, self.params.slice_records // 4))  # a task has a few records
        if self._leading:
            self.leader.on_purged(gone)

    def _drain(self, now: float) -> None:
        assert self._drain_until is not None
        if now >= self._drain_until:
            self.worker.stop_all("drained", "its node is leaving")
            over = now >= self._drain_until + self.params.suspect_after
            self._drain_until = max(self._drain_until, now + 0.1) if not over else self._drain_until
        else:
            over = False
        settled = (
            self.worker.idle and self.out.durable and not self.copies.handing_over
            and (not self.worker.unreported or self._claim == NO_CLAIM)
        )  # fmt: skip
        if (settled or over) and not self._drained:
            self._drained = True
            self.out.do(Drained())

    # -- heartbeats -------------------------------------------------------------------------------------------------

    def _whom_to_dial(self, now: float) -> set[NodeId] | None:
        """Everyone, unless there is a leader that we hear, or met just now."""
        leader = self.election.at_hand(now)
        if leader is None:
            return None
        return {leader.node, *(leader.heartbeat.successors if leader.heartbeat else ())}

    def _beat(self, now: float) -> None:
        self._next_beat = now + self.params.heartbeat
        self.copies.recruit(now)
        self.election.urgent = False
        if not self.ledger.mature():
            for peer in self.members.living(now):
                if now - peer.since >= self.params.mature_after:
                    self.out.record(Mesh(self.ledger.mesh_ids()[0], True))
                    break
        wanted = self._wanted
        mine = wanted is not None and self.me.node in wanted
        common = self._heartbeat(now)
        for peer in self.members.known():
            if peer.links and (wanted is None or mine or peer.node in wanted or self._owes_beat(peer, now)):
                self._beat_to(peer, now, common)

    def _owes_beat(self, peer: Peer, now: float) -> bool:
        """Who has no leader learns whom we follow; a leader we do not follow, that we hear it: so leaders meet.

        Who said so lately: of 1,000 that met while nobody led each would owe each other one for good.
        """
        beat = peer.heartbeat
        if beat is None or self._leading or self.members.silent_for(peer, now) >= self.params.silent_after:
            return False
        return beat.claim == NO_CLAIM or beat.claim.leader == peer.node != self._claim.leader

    def _heartbeat(self, now: float) -> Heartbeat:
        election = self.election
        why_not = election.why_not_eligible()
        suspects = tuple(p.node for p in self.members.known() if p.links and self.members.suspect(p, now))
        successors = self.copies.recruits if self._leading else ()
        return Heartbeat(
            0, 0, self.me.life, self.members.incarnation, not why_not, why_not, election.announced(),
            election.heard_leader(now), election.leads(now), election.followed, suspects, election.sightings(now), (),
            self.me.name, self.me.role, self.me.address, self.out.synced, successors, self.puller.caught_up(now),
            self.carrier.carried,
        )  # fmt: skip

    def _beat_to(self, peer: Peer, now: float, common: Heartbeat | None = None) -> None:
        seq, echo = self.members.number(peer, now)
        beat = common or self._heartbeat(now)
        self.out.send(peer.node, beat._replace(seq=seq, echo=echo, peers=self.members.addresses_for(peer)))


_SLOW = "its journal did not sync"

_HANDLERS: dict[type, Callable[[Machine, Any, float], None]] = {
    Ticked: Machine._on_ticked,
    Resumed: Machine._on_resumed,
    AddressFound: Machine._on_address,
    LinkUp: Machine._on_link_up,
    LinkRefused: lambda m, e, now: m.door.on_refused(e, now),
    LinkDown: Machine._on_link_down,
    DialFailed: Machine._on_dial_failed,
    Received: Machine._on_received,
    MessageUnreadable: Machine._on_unreadable,
    JournalSynced: Machine._on_synced,
    JournalFailed: Machine._on_journal_failed,
    SuccessorSynced: Machine._on_successor_synced,
    Measured: Machine._on_measured,
    AttemptsBegan: lambda m, e, now: m.worker.on_began(e.attempts, now),
    AttemptsEnded: lambda m, e, now: m.worker.on_ended(e.attempts, now),
    AttemptsProgressed: lambda m, e, now: m.worker.on_progress(e.attempts, now),
    AttemptSaved: lambda m, e, now: m.worker.on_saved(e.checkpoint, now),
    AttemptResumed: lambda m, e, now: m.worker.on_resumed(e.attempt, e.blob, now),
    Submitted: lambda m, e, now: m.leader.on_submitted(e, now),
    CancelAsked: lambda m, e, now: m.leader.on_asked(e, now),
    PauseAsked: lambda m, e, now: m.leader.on_asked(e, now),
    PriorityAsked: lambda m, e, now: m.leader.on_asked(e, now),
    RetryAsked: lambda m, e, now: m.leader.on_asked(e, now),
    ForgetAsked: lambda m, e, now: m.leader.on_forget(e, now),
    PinAsked: lambda m, e, now: m.leader.on_pin(e),
    DeleteAsked: lambda m, e, now: m.leader.on_asked(e, now),
    DrainAsked: Machine._on_drain,
    BlobsChanged: lambda m, e, now: m.holder.on_changed(e),
    BlobSought: lambda m, e, now: m.holder.on_sought(e),
    BlobSettled: lambda m, e, now: m.holder.on_settled(e.blob),
    CopyRefused: lambda m, e, now: m.holder.on_refused_copy(e.blob, e.reason),
    BlobsDoubted: lambda m, e, now: m.holder.on_doubted(e.blobs),
}
