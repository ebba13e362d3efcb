"""Who grants work: the lowest eligible id, without a quorum.

Leadership is an optimisation, never a safety mechanism: two leaders may exist on the two sides of a partition and
nothing breaks, because the ledger joins and every order carries its claim. That is what lets two machines survive the
loss of either.

The rules, in the order in which the code below has them:

* A node starts leading at once, alone and *provisionally*; its claim is established when all that answer follow
  nobody, or after 3 s without an incumbent. A provisional leader that finds an established one follows it.
* Otherwise a node claims only when the incumbent yields to it, or when, to it and to every member alive to it, the
  incumbent is gone or silent and no lower eligible id is alive. Who is not caught up stands behind who is.
* Leaders that *meet* (alive to each other, or both to a member, which relays) are judged by the lower id of the two:
  the established one stays, then the one that leads more, then the one that the other last followed, then the lower
  id. Who stays re-claims above both; the other steps down and defers to it.
* A lower id that returns follows first, pulls, settles, then asks the incumbent to yield.

A claim is used only once it is synced.
"""

from __future__ import annotations

from collections.abc import Callable

from mesh.core import owners
from mesh.core.copies import Copies
from mesh.core.effects import LeaderChanged
from mesh.core.identity import Me
from mesh.core.ids import NO_CLAIM, Claim, NodeId
from mesh.core.lattice import Claimed
from mesh.core.members import NEVER, Members, Peer
from mesh.core.messages import Heartbeat, Message, Refused, Relayed, Sighting, Verdict, Yield, YieldRequest
from mesh.core.outbox import Outbox
from mesh.core.params import Params

LEADING, FOLLOWING, ALONE = "leading", "following", "alone"


class Election:
    """One node's part in it. ``caught_up(now)`` says whether this node knows what its last leader knew."""

    def __init__(
        self, me: Me, params: Params, members: Members, out: Outbox, copies: Copies,
        caught_up: Callable[[float], bool],
    ) -> None:  # fmt: skip
        self.me, self.params, self.members, self.out = me, params, members, out
        self.copies, self.caught_up = copies, caught_up
        self.role = ALONE
        self.claim: Claim = NO_CLAIM  # the one made or followed; when ALONE the last of these
        self.since = 0.0  # of the role
        self.highest_term = out.ledger.claim.term
        self.followed: NodeId = ""  # whom we followed before we led
        self.defer: NodeId = ""  # who was judged to stay, or asked for the leadership: we wait for its claim
        self.defer_until = 0.0
        self.losses = 0
        self.draining = False
        self.journal_trouble = ""
        self.lagged_at = NEVER  # when its journal last took long to sync
        self.asked_at = 0.0
        self.urgent = False  # something changed that others should hear now, not at the next heartbeat
        self.handed: NodeId = ""  # who yielded to our last claim: all that it granted and learnt is in its journal
        self._pending: Claim | None = None  # made, not yet synced
        self._held = False  # an established leadership, until it is lost
        self._quiet_until = 0.0  # claims nothing before: it was asleep a moment ago
        self._stale: dict[NodeId, Heartbeat | None] = {}  # what peers had said before we slept: no answers

    # -- what others ask --------------------------------------------------------------------------------------------

    @property
    def leading(self) -> bool:
        return self.role == LEADING

    def why_not_eligible(self) -> str:
        if not self.me.may_lead:
            return f"its role is {self.me.role}"
        if self.draining:
            return "it is draining"
        return self.journal_trouble

    @property
    def claiming(self) -> bool:
        """It made a claim that is not on disk yet."""
        return self._pending is not None

    def leader_alive(self, now: float) -> bool:
        """Whether the claim we hold is followed by its leader's own heartbeats, as we hear them."""
        if self.role == LEADING:
            return True
        peer = self.members.peers.get(self.claim.leader)
        return (
            self.role == FOLLOWING and peer is not None and self._leads(peer) is not None
            and peer.life == self.claim.life and self.members.alive(peer, now)
        )  # fmt: skip

    def at_hand(self, now: float) -> Peer | None:
        """The leader that is followed and heard, or one that was met just now and may yet answer.

        Of 1,000 nodes each would otherwise link with all others as it hears of them, a moment before it follows.
        """
        if self.role == FOLLOWING and self.leader_alive(now):
            return self.members.peers[self.claim.leader]
        if self.role == LEADING and self.claim.established:
            return None
        met = (self.members.peers[node] for node in self.members.links.values())
        return next(
            (peer for peer in met if now - peer.met < self.params.silent_after and self._established(peer)), None
        )

    def _established(self, peer: Peer) -> bool:
        claim = self._leads(peer)
        return claim is not None and claim.established

    def heard_leader(self, now: float) -> bool:
        return self.role != ALONE and self.leader_alive(now)

    def announced(self) -> Claim:
        return NO_CLAIM if self.role == ALONE else self.claim

    def leads(self, now: float) -> int:
        """Members that follow this node, itself included; 0 where it does not lead."""
        if self.role != LEADING:
            return 0
        return 1 + sum(1 for p in self.members.living(now) if p.heartbeat and p.heartbeat.claim.leader == self.me.node)

    def sightings(self, now: float) -> tuple[Sighting, ...]:
        """Every leader heard directly, for those who cannot hear it."""
        found = []
        for peer in self.members.living(now):
            claim = self._leads(peer)
            if claim is not None and peer.heartbeat is not None:
                found.append(Sighting(claim, peer.address, peer.heartbeat.leads, peer.heartbeat.followed))
        return tuple(found)

    # -- starting ---------------------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        if not self.why_not_eligible():
            self._claim(False, now)

    def on_resumed(self, now: float) -> None:
        """After a suspend a leader's claim is provisional again, and who followed takes no silence for an absence.

        Somebody else may lead by now; what was said before we slept, or queued up meanwhile, is no news of that.
        """
        if self.role == LEADING:
            self.claim = self.claim._replace(established=False)  # and one that is: the time asleep does not count
            self._stale = {peer.node: peer.heartbeat for peer in self.members.known()}
            self.since = now
            self.urgent = True
        self._quiet_until = now + self.params.resume_wait

    # -- events -----------------------------------------------------------------------------------------------------

    def on_heartbeat(self, peer: Peer, beat: Heartbeat, now: float) -> None:
        self._heard_term(beat.claim.term)
        for sighting in beat.seen:
            self._heard_term(sighting.claim.term)
            self.members.on_address(sighting.address, sighting.claim.leader)
        claim = self._leads(peer)
        if self.role == LEADING:
            if claim is not None and self.members.alive(peer, now):
                self._meet(peer.node, claim, beat.leads, beat.followed, "", now)
            for sighting in beat.seen if self.members.alive(peer, now) else ():  # else it cannot relay
                other = sighting.claim.leader
                if self.role == LEADING and other != self.me.node and not self.members.is_alive(other, now):
                    self._meet(other, sighting.claim, sighting.leads, sighting.followed, peer.node, now)
            return
        if self.role == FOLLOWING and peer.node == self.claim.leader:
            if claim is None:  # it stepped down: whoever it follows or defers to will be heard of
                self._alone(now, claiming=self._pending)  # which we are, if it yielded to us a moment ago
            elif claim.life == self.claim.life and claim.term >= self.claim.term:
                self._follow(claim, now)
            return
        if claim is None or not self.members.alive(peer, now) or self.leader_alive(now):
            return
        if claim.key >= self.claim.key:
            self._follow(claim, now)
        elif not self.defer or self.defer == peer.node:
            self.out.send(peer.node, Refused(self.claim, alive=False))

    def on_message(self, sender: NodeId, message: Message, now: float) -> None:
        match message:
            case Verdict():
                self._on_verdict(message, now)
            case YieldRequest():
                self._on_yield_request(sender, message, now)
            case Yield():
                self._on_yield(message, now)
            case Refused():
                self._on_refused(message, now)
            case Relayed():
                self._on_relayed(message, now)

    def _on_verdict(self, verdict: Verdict, now: float) -> None:
        self._heard_term(verdict.above)
        if self.role != LEADING:
            return
        if verdict.stays == self.me.node:
            if self.claim.term <= verdict.above:
                self._claim(verdict.established or self.claim.established, now)
        elif verdict.yields == self.me.node:
            self._step_down(verdict.stays, "two leaders met", now)

    def _on_refused(self, refused: Refused, now: float) -> None:
        self._heard_term(refused.highest.term)
        if (
            self.role == LEADING
            and not refused.alive
            and refused.highest.key > self.claim.key
            and self.claim.established
        ):
            self._claim(True, now)

    def _on_yield_request(self, sender: NodeId, request: YieldRequest, now: float) -> None:
        peer = self.members.peers.get(sender)
        if self.role != LEADING or not self.claim.established or request.claim != self.claim or peer is None:
            return
        beat = peer.heartbeat
        able = beat is not None and beat.eligible and beat.caught_up
        if able and sender < self.me.node and self.members.alive(peer, now):
            self.yield_to(sender, "a lower id returned", now)

    def _on_yield(self, message: Yield, now: float) -> None:
        self._heard_term(message.claim.term)
        if self.role != LEADING and not self.why_not_eligible() and self.claim.key <= message.claim.key:
            self._claim(True, now, handed=message.claim.leader)

    def _on_relayed(self, relayed: Relayed, now: float) -> None:
        if relayed.target == self.me.node:
            self.on_message(relayed.source, relayed.message, now)
        else:
            self.out.send(relayed.target, relayed)

    # -- leaving the leadership -------------------------------------------------------------------------------------

    def yield_to(self, node: NodeId, reason: str, now: float) -> None:
        """Stop granting, flush here and there, hand over. Who asked must claim within ``yield_timeout``."""
        owners.hand_over(self.out, node)
        self.copies.hand_over(node, Yield(self.claim, reason), now)
        self._step_down(node, reason, now)
        self.defer_until = now + self.params.yield_timeout

    def abdicate(self, reason: str, now: float) -> None:
        """Lead no more (drain, slow disk): the next in line takes over, if any is alive."""
        if self.role != LEADING:
            return
        heirs = self.copies.heirs(now)
        if heirs and self.journal_trouble:
            # No flush may ever come: the heir hears that nobody leads, and that it is the next.
            self._step_down(heirs[0], reason, now)
        elif heirs:
            self.yield_to(heirs[0], reason, now)

    # -- time -------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        if self.role == LEADING:
            why = self.why_not_eligible()
            if why:
                self.abdicate(why, now)
            elif not self.claim.established and self._pending is None:
                self._establish(now)
            return
        if self._pending is not None:
            return
        eligible = not self.why_not_eligible()
        if self.leader_alive(now):
            if eligible:
                self._settle(now)
            return
        if self.role == FOLLOWING:
            reason = self.members.why_not_alive(self.claim.leader, now) or "it leads no more"
            self.out.note("info", "leader_lost", node=self.claim.leader, reason=reason, term=self.claim.term)
            self._alone(now)
        if eligible and self._may_claim(now):
            self._claim(self.claim.established, now)  # after a part in none but provisional ones: provisionally

    def deadline(self, now: float) -> float | None:
        if self.role == LEADING:
            waiting = self.claim.established or self._pending is not None or self.why_not_eligible()
            soon, late = self.since + self.params.takeover_grace, self.since + self.params.provisional
            return None if waiting else soon if now < soon else late
        until = max(self.defer_until, self._quiet_until)
        if until > now:
            return until
        return self.members.next_change([self.claim.leader], now)

    def _establish(self, now: float) -> None:
        answering = [p for p in self.members.living(now) if p.heartbeat is not self._stale.get(p.node)]
        if any(self._follows_another(peer, now) for peer in answering):
            self.since = now  # there is an incumbent; it has to be found, not overtaken
            return
        # The first that answers may be the one that knows least: others that were asked may answer too, for a moment.
        soon = now - self.since >= self.params.takeover_grace or not self.members.unanswered(now)
        rival = any(peer.node < self.me.node and self._leads(peer) is not None for peer in answering)
        if (answering and not rival and soon) or now - self.since >= self.params.provisional:
            self._claim(True, now)

    def _follows_another(self, peer: Peer, now: float) -> bool:
        beat = peer.heartbeat
        if beat is None:
            return False
        incumbent = any(s.claim.established and s.claim.leader != self.me.node for s in beat.seen)
        follows = beat.leader_heard and beat.claim.established and beat.claim.leader != self.me.node
        return incumbent or follows

    def _may_claim(self, now: float) -> bool:
        if now < self._quiet_until or (self.defer and self._defers(now)):
            return False
        behind = not self.caught_up(now)
        for peer in self.members.living(now):
            beat = peer.heartbeat
            if beat is None:
                continue
            if beat.leader_heard and beat.claim != NO_CLAIM:
                return False  # somebody alive hears a leader: it is to be found, not replaced
            if beat.eligible and (not beat.caught_up, peer.node) < (behind, self.me.node):
                return False  # the lower id will, among those that know what the last leader knew
        return True

    def _defers(self, now: float) -> bool:
        if now < self.defer_until:
            return True
        self.defer, self.defer_until = "", 0.0
        return False

    def _settle(self, now: float) -> None:
        leader = self.claim.leader
        if self.role != FOLLOWING or self.me.node > leader or not self.claim.established:
            return
        steady = min(self.params.settle_limit, self.params.settle * 2.0**self.losses)
        if (
            now - max(self.since, self.lagged_at) < steady
            or now - self.asked_at < self.params.yield_timeout
            or not self.caught_up(now)
        ):
            return
        if any(p.node < self.me.node and p.heartbeat and p.heartbeat.eligible for p in self.members.living(now)):
            return
        self.asked_at = now
        self.out.send(leader, YieldRequest(self.claim))

    # -- transitions ------------------------------------------------------------------------------------------------

    def _meet(self, other: NodeId, claim: Claim, leads: int, followed: NodeId, relay: NodeId, now: float) -> None:
        if claim.established and not self.claim.established:
            self._step_down(other, "an established leader was found", now)
            if not relay and claim.key > self.claim.key:
                self._follow(claim, now)
            return
        if claim.established != self.claim.established or other < self.me.node:
            return  # the provisional one follows by itself; between equals the lower id judges
        mine, theirs = self.leads(now), leads
        if mine != theirs:
            stay = mine > theirs
        elif (followed == self.me.node) != (self.followed == other):
            stay = followed == self.me.node
        else:
            stay = True
        above = max(self.claim.term, claim.term)
        if stay:
            if self.claim.key < claim.key and self._pending is None:
                self._claim(self.claim.established, now)
            verdict = Verdict(self.me.node, other, above, self.claim.established)
        else:
            verdict = Verdict(other, self.me.node, above, claim.established)
        if relay:
            self.out.send(relay, Relayed(self.me.node, other, verdict))
        else:
            self.out.send(other, verdict)
        if not stay:
            self._step_down(other, "two leaders met", now)

    def _claim(self, established: bool, now: float, *, handed: NodeId = "") -> None:
        self.handed = handed
        self._heard_term(
            max(self.claim.term, self.out.ledger.claim.term)
        )  # a journal we pulled may know of a higher one
        claim = Claim(established, self.highest_term + 1, self.me.node, self.me.life)
        self.highest_term = claim.term
        self._pending = claim
        self.out.record(Claimed(claim))

        def use() -> None:
            if self._pending is claim:
                self._lead(claim, now)

        self.out.when_durable(use)

    def _lead(self, claim: Claim, now: float) -> None:
        self._pending = None
        if self.role != LEADING:
            self.followed = self.claim.leader if self.claim.leader != self.me.node else self.followed
            self.since = now
        self.role, self.claim, self._held = LEADING, claim, self._held or claim.established
        self.defer, self.defer_until = "", 0.0
        self._changed(self.me.address)

    def _follow(self, claim: Claim, now: float) -> None:
        if self.role == FOLLOWING and self.claim == claim:
            return
        if self.role != FOLLOWING or self.claim.leader != claim.leader or self.claim.life != claim.life:
            self.since = now
        self.role, self.claim, self._pending = FOLLOWING, claim, None
        self.defer, self.defer_until = "", 0.0
        self.out.record(Claimed(claim))
        peer = self.members.peers.get(claim.leader)
        self._changed(peer.address if peer else "")

    def _alone(self, now: float, claiming: Claim | None = None) -> None:
        self.role, self.since, self._pending = ALONE, now, claiming
        self._changed("")

    def _step_down(self, defer: NodeId, reason: str, now: float) -> None:
        if self.role == LEADING and self._held:  # also where a suspend made its claim provisional since
            self.losses += 1
        self._held = False
        self.out.note("info", "stepped_down", to=defer, reason=reason, term=self.claim.term)
        self._alone(now)
        # Bounded: if two deferred to each other for as long as the other lives, nobody would lead again.
        self.defer, self.defer_until = defer, now + self.params.provisional

    def _changed(self, address: str) -> None:
        self.urgent = True
        self.out.do(LeaderChanged(self.announced(), address))

    def _leads(self, peer: Peer) -> Claim | None:
        """The claim this peer makes for itself, by its last heartbeat."""
        beat = peer.heartbeat
        if beat is None or beat.claim.leader != peer.node or beat.claim.life != beat.life:
            return None
        return beat.claim

    def _heard_term(self, term: int) -> None:
        self.highest_term = max(self.highest_term, term)
