"""The worker's side: what it offers, what it was granted, what it runs, and what it keeps until a leader has it.

A finished attempt is journaled here first and reported when it is durable (to ourselves at once: one journal holds
both records, in one transaction). It is kept until a leader acknowledges it; on every new claim, and every new link to
the leader, everything held is declared, which is how running work survives a leader.

Must not know: who else works, why it was granted what it was granted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from mesh.core.checkpoints import kept
from mesh.core.effects import Assignment, BeginAttempts, StopAttempts
from mesh.core.identity import Me
from mesh.core.ids import NO_CLAIM, AttemptId, BlobId, Claim, NodeId, granter
from mesh.core.lattice import FAILED, OFFERED, RELEASED, RUNNING, SUCCEEDED, Attempt, Checkpoint, Outcome, Resources
from mesh.core.messages import PAUSED, Bid, Grant, Offer, Orders, Refused, Report
from mesh.core.needs import WHOLE, shares_of
from mesh.core.outbox import Outbox
from mesh.core.params import Params
from mesh.core.valid import outcome_fault

BATCH_MICROS = 10_000  # of tiny tasks handed to one runner in one go: about 30 times the cost of asking again
BATCH_TASKS = 64
STUCK_AFTER = 0.5  # seconds that what is queued waits behind what turns out to run for long; then it may go elsewhere
REFRESH = 5  # times resend_after: a report at rest every 5 s costs a leader of 1,000 workers 200 a second
REMEMBERED = 256  # attempts that one leader granted and another acknowledged: what ran when leaders changed
SPEED_CHANGE = 1.2  # a measured speed is sent again when it moved by this factor


class Held:
    """An attempt that this node knows: queued (``slot`` None), running, or ended and not yet acknowledged."""

    __slots__ = ("attempt", "grant", "resources", "since", "slot", "stopping")

    def __init__(self, attempt: Attempt, grant: Grant | None) -> None:
        self.attempt, self.grant = attempt, grant
        self.resources = Resources(millicpus=0)
        if grant is not None:
            self.resources = grant.task.shape.alternatives[grant.alternative]
        self.slot: int | None = None
        self.since: float | None = None  # when it was seen to run
        self.stopping = False


def _devices(held: Held) -> list[tuple[str, int]]:
    """The cards it was granted, and the thousandths of each."""
    if held.grant is None or not held.grant.devices:
        return []
    return list(zip(held.grant.devices, shares_of(held.resources), strict=True))


class Worker:
    def __init__(self, me: Me, params: Params, out: Outbox) -> None:
        self.me, self.params, self.out = me, params, out
        self.offer: Offer | None = None
        self.claim: Claim = NO_CLAIM  # whose orders are obeyed
        self.session = self.applied = 0  # declarations so far; orders of this session, up to which all were applied
        self.held: dict[AttemptId, Held] = {}
        self.queue: deque[AttemptId] = deque()
        self._queued_at = 0.0  # when the first of them came
        self.busy: dict[int, list[AttemptId]] = {}  # slot -> attempts handed to its runner and not ended
        self.draining = False
        self.round_trip = 0.0
        self._speeds: dict[str, float] = {}
        self._sent_speeds: dict[str, float] = {}
        self._unacknowledged: dict[AttemptId, float] = {}  # ended -> when last reported; oldest first
        self._unknown: dict[AttemptId, float] = {}  # ended, but the leader does not know their task; -> when it said so
        # Ended, granted by one leader and acknowledged by another, by that one's id: the first may not have heard.
        self._elsewhere: dict[AttemptId, tuple[Attempt, NodeId]] = {}
        self._ended: list[Attempt] = []  # to report now
        self._began: list[AttemptId] = []  # to report within a heartbeat
        self._progress: dict[AttemptId, bytes] = {}
        self._declare = False
        self._declared_at: float | None = None  # while no orders have answered the last declaration
        self._patience = 0.0  # and for how long it is waited for
        self._bid_due = False
        self._soft_at: float | None = None  # when what is not urgent is reported
        self._refresh_at = 0.0  # when the bid is told again although nothing changed: the last one may be lost

    # -- what happens -----------------------------------------------------------------------------------------------

    def restore(self, attempts: Iterable[Attempt]) -> None:
        """Ended attempts of former lives that no leader is known to have."""
        for attempt in attempts:
            self.held[attempt.id] = Held(attempt, None)
            self._unacknowledged[attempt.id] = 0.0

    def on_offer(self, offer: Offer) -> None:
        self.offer = offer
        self._bid_due = True

    def on_claim(self, claim: Claim) -> None:
        """Follow this claim from now on (NO_CLAIM: nobody), or declare again to the same one."""
        self.claim = claim
        self._declare = claim != NO_CLAIM
        self._declared_at, self._patience = None, self.params.resend_after

    def on_refused(self) -> None:
        """The leader has no session with us: it lost us out of sight, and we did not notice."""
        self._declare |= self._declared_at is None  # else a declaration is under way

    def on_orders(self, sender: NodeId, orders: Orders, leader_alive: bool, now: float) -> None:
        if orders.claim != self.claim:
            if orders.claim.key < self.claim.key:
                self.out.send(sender, Refused(self.claim, leader_alive))
            return
        for attempt in orders.acks:
            self._forget(attempt)
        for attempt in orders.unknown:
            if self._unacknowledged.pop(attempt, None) is not None:
                self._unknown[attempt] = now
        if orders.session != self.session:
            return  # of a session that is over
        if orders.seq == 0:
            return
        self._declared_at, self._patience = None, self.params.resend_after
        self._bid_due = True
        if orders.seq != self.applied + 1:
            return  # a repeat, or one before it was lost: the leader repeats until all are applied
        self.applied = orders.seq
        for grant in orders.grants:
            self._take(grant, now)
        if orders.recalls:
            self._recall(orders.recalls, now)
        self._begin()

    def on_began(self, attempts: tuple[tuple[AttemptId, int], ...], now: float) -> None:
        for name, started in attempts:
            held = self.held.get(name)
            if held is not None and not held.attempt.ended and held.attempt.phase == OFFERED:
                held.attempt = held.attempt._replace(phase=RUNNING, outcome=Outcome(started_ms=started))
                held.since = now
                self._began.append(name)
                self._soon(now)

    def on_progress(self, attempts: tuple[tuple[AttemptId, bytes], ...], now: float) -> None:
        for name, metrics in attempts:
            if name in self.held:
                self._progress[name] = metrics
                self._soon(now)

    def on_saved(self, checkpoint: Checkpoint, now: float) -> None:
        held = self.held.get(checkpoint.attempt)
        if held is None or held.attempt.ended or held.grant is None:
            return
        saved = kept((*held.attempt.saved, checkpoint), held.grant.task.shape.checkpoints)
        self._renew(held, held.attempt._replace(saved=saved), now)

    def on_resumed(self, attempt: AttemptId, blob: BlobId, now: float) -> None:
        held = self.held.get(attempt)
        if held is not None and not held.attempt.ended and held.attempt.resumed != blob:
            self._renew(held, held.attempt._replace(resumed=blob), now)

    def _renew(self, held: Held, attempt: Attempt, now: float) -> None:
        held.attempt = attempt._replace(round=attempt.round + 1)
        self._began.append(attempt.id)
        self._soft_at = now  # at once: until its leader knows, it is nobody's
        if self.draining:
            self._stop_resumable()

    def _stop_resumable(self) -> None:
        """What goes on elsewhere from its checkpoint need not use up the time that others have to finish."""
        for name in sorted(name for names in self.busy.values() for name in names):
            held = self.held[name]
            if held.attempt.saved and not held.stopping:
                held.stopping = True
                self.out.do(StopAttempts((name,), "drained", "its node is leaving"))

    def on_ended(self, attempts: tuple[tuple[AttemptId, int, Outcome], ...], now: float) -> None:
        for name, phase, outcome in attempts:
            held = self.held.get(name)
            if held is None or held.attempt.ended:
                continue
            if held.slot is not None:
                self.busy[held.slot].remove(name)
                if not self.busy[held.slot]:
                    del self.busy[held.slot]
            if phase == SUCCEEDED and outcome.micros and held.grant is not None:
                self._measure(held.grant.task.shape.kind, outcome.micros)
            self._end(held, phase, outcome, now)
        self._begin()

    def on_drain(self, now: float) -> None:
        self.draining = True
        for name in list(self.queue):
            self._end(self.held[name], RELEASED, Outcome(code="drained", message="its node is draining"), now)
        self.queue.clear()
        self._stop_resumable()
        self._bid_due = True

    def stop_all(self, code: str, reason: str) -> None:
        running = tuple(sorted(name for names in self.busy.values() for name in names))
        if running:
            self.out.do(StopAttempts(running, code, reason))

    @property
    def idle(self) -> bool:
        return not self.busy and not self.queue

    @property
    def unreported(self) -> int:
        return len(self._unacknowledged) + len(self._unknown)

    # -- orders -----------------------------------------------------------------------------------------------------

    def _take(self, grant: Grant, now: float) -> None:
        if grant.attempt in self.held:
            return
        attempt = Attempt(grant.task.id, grant.attempt, False, 0, OFFERED, grant.run, self.me.node)
        held = self.held[grant.attempt] = Held(attempt, grant)
        if self.draining or self.offer is None:
            self._end(held, RELEASED, Outcome(code="drained", message="its node is draining"), now)
            return
        if not self.queue:
            self._queued_at = now
        self.queue.append(grant.attempt)

    def _recall(self, recalls: tuple[tuple[AttemptId, str], ...], now: float) -> None:
        queued = set(self.queue)
        for name, reason in recalls:
            held = self.held.get(name)
            if held is None or held.attempt.ended or held.stopping:
                continue
            if name in queued:
                queued.discard(name)
                self.queue.remove(name)
                self._end(held, RELEASED, Outcome(code="recalled", message=reason), now)
            else:
                held.stopping = True
                code, text = (PAUSED, "its job was paused") if reason == PAUSED else ("recalled", reason)
                self.out.do(StopAttempts((name,), code, text))

    def _begin(self) -> None:
        """Hand what is queued to free slots, in order; tiny tasks of one kind in batches."""
        if self.offer is None or not self.queue:
            return
        free = [slot for slot in range(self.offer.slots) if slot not in self.busy]
        for position, slot in enumerate(free):
            if not self.queue or not self._fits(self.held[self.queue[0]]):
                return
            share = -(-len(self.queue) // (len(free) - position))
            names = self._batch(share)
            assignments = []
            for name in names:
                held = self.held[name]
                assert held.grant is not None
                held.slot = slot
                assignments.append(
                    Assignment(
                        name,
                        held.grant.task,
                        held.grant.devices,
                        held.resources.memory,
                        held.resources.millicpus,
                        held.grant.run,
                        held.grant.resume,
                    )
                )
            self.busy[slot] = names
            self.out.do(BeginAttempts(slot, tuple(assignments)))
            self._bid_due = True

    def _batch(self, share: int) -> list[AttemptId]:
        first = self.held[self.queue[0]]
        assert first.grant is not None
        shape, devices = first.grant.task.shape, first.grant.devices
        micros = self._speeds.get(shape.kind)
        count = 1
        if micros is not None and not shape.timeout_ms and not first.resources.memory and not devices:
            count = max(1, min(BATCH_TASKS, share, int(BATCH_MICROS / max(micros, 1.0))))
        names = [self.queue.popleft()]
        while len(names) < count and self.queue:
            grant = self.held[self.queue[0]].grant
            if grant is None or grant.task.shape != shape or grant.devices:
                break
            if grant.alternative != first.grant.alternative:
                break  # the slot counts what its first one needs
            names.append(self.queue.popleft())
        return names

    def _fits(self, held: Held) -> bool:
        """Whether it can begin beside what runs. Alone anything granted can: the leader checked the totals."""
        if self.offer is None or not self.busy:
            return self.offer is not None
        running = [self.held[names[0]] for names in self.busy.values()]
        if sum(h.resources.millicpus for h in running) + held.resources.millicpus > self.offer.millicpus:
            return False
        if sum(h.resources.memory for h in running) + held.resources.memory > self.offer.memory:
            return False
        free = self._shares(running)
        return all(free.get(device, 0) >= share for device, share in _devices(held))

    def _shares(self, running: list[Held]) -> dict[str, int]:
        """Free thousandths of each card."""
        free = {device.id: WHOLE for device in self.offer.devices} if self.offer is not None else {}
        for held in running:
            for device, share in _devices(held):
                if device in free:
                    free[device] -= share
        return free

    def _stuck_at(self) -> float | None:
        """When what is queued has waited long enough behind what runs now; None: it moves on, or nothing is queued."""
        if not self.queue or not self.busy:
            return None
        since = [self.held[names[0]].since for names in self.busy.values()]
        return None if None in since else max(self._queued_at, *(at for at in since if at is not None)) + STUCK_AFTER

    def _give_back(self, now: float) -> None:
        """What was queued for a short wait and did not get one: another node may have room, or get it sooner."""
        at = self._stuck_at()
        if at is None or now < at:
            return
        for names in self.busy.values():
            held = self.held[names[0]]
            if held.grant is not None and held.since is not None:
                kind = held.grant.task.shape.kind  # it takes at least this long, so that nothing is queued behind it
                self._speeds[kind] = max(self._speeds.get(kind, 0.0), (now - held.since) * 1e6)
        for name in self.queue:
            self._end(self.held[name], RELEASED, Outcome(code="queued", message="what runs there takes long"), now)
        self.queue.clear()

    # -- results ----------------------------------------------------------------------------------------------------

    def _end(self, held: Held, phase: int, outcome: Outcome, now: float) -> None:
        attempt = held.attempt._replace(ended=True, phase=phase, outcome=outcome)
        if wrong := outcome_fault(attempt.id, True, outcome):  # no leader would take it from this node
            message = f"{wrong}; return less, or write it to a file"
            attempt = attempt._replace(phase=FAILED, outcome=Outcome("too_large", message))
        held.attempt, held.slot = attempt, None
        self.out.record(attempt)
        self._ended.append(attempt)
        self._unacknowledged[attempt.id] = now
        self._progress.pop(attempt.id, None)
        self._bid_due = True

    def _forget(self, name: AttemptId) -> None:
        held = self.held.get(name)
        if held is None or not held.attempt.ended:
            return
        del self.held[name]
        if granter(name) != self.claim.leader:
            self._elsewhere[name] = held.attempt, self.claim.leader
            if len(self._elsewhere) > REMEMBERED:
                del self._elsewhere[next(iter(self._elsewhere))]
        self._unacknowledged.pop(name, None)
        self._unknown.pop(name, None)

    def _measure(self, kind: str, micros: int) -> None:
        known = self._speeds.get(kind)
        self._speeds[kind] = float(micros) if known is None else known + (micros - known) / 4

    # -- reporting --------------------------------------------------------------------------------------------------

    def _soon(self, now: float) -> None:
        if self._soft_at is None:
            self._soft_at = now + self.params.heartbeat / 5

    def deadline(self) -> float | None:
        if self.claim == NO_CLAIM or self.offer is None or not self.me.works:
            return None  # nobody to report to
        times = [at for at in (self._soft_at, self._stuck_at()) if at is not None]
        times.append(self._refresh_at if self._declared_at is None else self._declared_at + self._patience)
        for waiting, patience in ((self._unacknowledged, 2), (self._unknown, 10)):
            if waiting:
                times.append(next(iter(waiting.values())) + self.params.resend_after * patience)
        return min(times, default=None)

    def flush(self, now: float) -> None:
        """End of a step: report what is due. Ended attempts go at once, the rest with them or a little later."""
        if self.claim == NO_CLAIM or self.offer is None or not self.me.works:
            if not self.me.works:
                self._declare = False
            return
        if self._declare or (self._declared_at is not None and now >= self._declared_at + self._patience):
            self._declare_all(now)
            return
        self._resend(now)
        self._give_back(now)
        soft = self._soft_at is not None and now >= self._soft_at
        if self._declared_at is None and now >= self._refresh_at:
            self._sent_speeds.clear()
            self._bid_due = True
            # The report of a checkpoint may be lost, and nothing else of a running attempt is worth repeating.
            self._began += [
                name for names in self.busy.values() for name in names
                if self.held[name].attempt.saved or self.held[name].attempt.resumed
            ]  # fmt: skip
        if self._ended or self._bid_due or soft:
            told = [self.held[name].attempt for name in dict.fromkeys(self._began) if name in self.held]
            self._report(self._ended + [attempt for attempt in told if not attempt.ended], 0, now)

    def _report(self, attempts: list[Attempt], declares: int, now: float, slices: int = 0) -> None:
        self._refresh_at = now + REFRESH * self.params.resend_after
        ended, self._ended = bool(self._ended) or declares > 0, []
        self._began, self._soft_at, self._bid_due = [], None, False
        progress, self._progress = tuple(self._progress.items()), {}
        report = Report(
            self.claim, self.me.life, self.applied, tuple(attempts), progress, self.bid(), declares, (), self.session,
            slices,
        )  # fmt: skip
        leader = self.claim.leader
        if ended and leader != self.me.node:
            # Of declarations that waited for a slow disk only the last one is of use.
            self.out.when_durable(
                lambda: self.out.send(leader, report) if report.session == self.session or not declares else None
            )
        else:
            self.out.send(leader, report)

    def _declare_all(self, now: float) -> None:
        self._declare = False
        self._declared_at, self._patience = now, min(self._patience * 2, 16 * self.params.resend_after)
        self.session, self.applied = self.session + 1, 0
        self._sent_speeds.clear()
        for name, (attempt, leader) in list(self._elsewhere.items()):
            if leader != self.claim.leader:  # an island's, say: who leads now may take it for running, or for lost
                self.held[name] = Held(attempt, None)
                self._unacknowledged[name] = now
                del self._elsewhere[name]
        for name in (*self._unknown, *self._unacknowledged):
            self._unacknowledged[name] = now
        self._unknown.clear()
        everything = []
        for held in self.held.values():
            if not held.attempt.ended:
                held.attempt = held.attempt._replace(round=held.attempt.round + 1)  # refutes LOST
            everything.append(held.attempt)
        size = self.params.slice_records
        slices = [everything[at : at + size] for at in range(0, len(everything), size)] or [[]]
        for left, part in zip(range(len(slices), 0, -1), slices, strict=True):
            self._report(part, left, now, len(slices))

    def _resend(self, now: float) -> None:
        for waiting, patience in ((self._unacknowledged, 2), (self._unknown, 10)):
            limit = self.params.slice_records
            while waiting and limit:
                name, sent = next(iter(waiting.items()))
                if now - sent < self.params.resend_after * patience:
                    break
                del waiting[name]
                self._unacknowledged[name] = now
                self._ended.append(self.held[name].attempt)
                limit -= 1

    def bid(self) -> Bid | None:
        if self.offer is None:
            return None
        offer = self.offer if not self.draining else self.offer._replace(unwilling="draining")
        running = [self.held[names[0]] for names in self.busy.values()]
        shares = self._shares(running)
        speeds = []
        for kind, micros in self._speeds.items():
            sent = self._sent_speeds.get(kind)
            if sent is None or not sent / SPEED_CHANGE <= micros <= sent * SPEED_CHANGE:
                self._sent_speeds[kind] = micros
                speeds.append((kind, max(1, int(micros))))
        allowance = max(self.params.allowance, 2 * self.round_trip)
        return Bid(
            offer,
            max(0, offer.slots - len(self.busy)),
            offer.millicpus - sum(h.resources.millicpus for h in running),
            offer.free_memory,
            tuple(sorted(shares.items())),
            int(allowance * 1000),
            tuple(speeds),
        )

    def check(self) -> None:
        if self.offer is not None:
            assert len(self.busy) <= max(self.offer.slots, 1), f"{len(self.busy)} slots run, {self.offer.slots} exist"
        queued = set(self.queue)
        assert len(queued) == len(self.queue), "an attempt is queued twice"
        for name in queued:
            assert self.held[name].slot is None, f"{name} is queued and runs"
            assert not self.held[name].attempt.ended, f"{name} is queued and ended"
        for slot, names in self.busy.items():
            for name in names:
                assert self.held[name].slot == slot, f"{name} runs in slot {slot} and does not know"
