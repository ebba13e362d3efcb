"""The leader's account of one worker: what it offers, what it holds, and what room that leaves.

There are two kinds of room. *Run* room is what a task can begin in at once: free slots, cores, memory and GPUs, as
the worker's last bid says, less the grants that this bid does not count yet. *Queue* room is what may wait there so
that a worker does not idle for a round trip between two tasks: as much as the bid's allowance, by the measured
duration of what is open there; one task behind its own kind while the duration is unknown; nothing behind what runs
for long. A queued task needs no free cores now, but must fit the machine.

Non-goals: which task goes first and which node is better (:mod:`mesh.core.matching`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from mesh.core import needs, reasons
from mesh.core.changes import Changes
from mesh.core.held import NOTHING, Held, KindHeld, Place, Sums
from mesh.core.ids import JobId, NodeId, TaskId
from mesh.core.kept import Kept
from mesh.core.lattice import Resources, Shape
from mesh.core.messages import Bid, Device, Offer
from mesh.core.needs import WHOLE, Suit, gpus_of, shares_of
from mesh.core.reasons import Why

REMEMBERED = 1024  # shapes whose hard constraints an account has checked and remembers
BARRED_FOR = 30.0  # seconds that a node is believed that it cannot serve something: directories and packages appear


class Account:
    """One worker.

    Open attempts are kept by task id, so that telling one twice does no harm. ``changes`` hears of whatever changes
    the room, or what the node is asked for at all.
    """

    def __init__(self, node: NodeId, bid: Bid | None = None) -> None:
        self.node = node
        self.bid: Bid | None = None
        self.changes = Changes()
        self._barred = ""
        self.speeds: dict[str, int] = {}  # kind -> microseconds
        self.measured: set[str] = set()  # kinds whose speed changed since the last matching
        self.kept: Kept | None = None  # since the last matching
        self.entered = 0  # attempts so far
        self.version = 0  # changes with whatever changes the room
        self.free_slots = self.free_millicpus = self.free_memory = 0
        self.shares: dict[str, int] = {}  # device id -> free thousandths
        # What the open attempts that the leader knows of use in turn: the offer, less what strangers and owners use.
        self.slots = self.millicpus = self.memory = self.milligpus = 0
        self.short, self.long, self.unknown = Sums(), Sums(), Sums()
        self.kinds: dict[str, KindHeld] = {}
        self._kind_of: dict[TaskId, KindHeld] = {}
        self._promised: dict[str, tuple[int, int]] = {}  # device id -> thousandths and bytes, to open attempts
        self._bars: dict[str | Shape, tuple[str, float]] = {}  # and until when
        self._allowance = 0
        self._suits: dict[tuple[int, int], tuple[Shape, Suit]] = {}
        self._terms: tuple[object, ...] = ()
        self._busy_slots = Why(reasons.NO_BID)
        if bid is not None:
            self.apply_bid(bid)

    @property
    def barred(self) -> str:
        """The caller's to set: why nothing is granted there for the time being."""
        return self._barred

    @barred.setter
    def barred(self, why: str) -> None:
        self._barred = why
        self._touch()

    def __len__(self) -> int:
        """Open attempts."""
        return len(self._kind_of)

    def apply_bid(self, bid: Bid, uncounted: Iterable[tuple[Resources, tuple[str, ...]]] = ()) -> None:
        """The worker's own count is what holds.

        ``uncounted``: needs and devices of the open grants that the worker had not applied when it wrote this bid.
        Drop the attempts that the same report ends before calling this.
        """
        offer = bid.offer
        self._agree(offer)
        self._busy_slots = Why(reasons.BUSY_SLOTS, (offer.slots,))
        self.bid = bid
        self._touch()
        slots, millicpus, memory, shares = bid.free_slots, bid.free_millicpus, bid.free_memory, dict(bid.devices)
        totals, counted = self.totals(), self.totals()
        for need, devices in uncounted:
            slots -= 1
            millicpus -= need.millicpus
            memory -= need.memory
            counted.count -= 1
            counted.millicpus -= need.millicpus
            counted.memory -= need.memory
            counted.milligpus -= gpus_of(need)
            if devices:
                for device, share in zip(devices, shares_of(need), strict=True):
                    shares[device] = shares.get(device, 0) - share
        # What waits in the worker's queue is missing in its bid, and what began a moment ago in what it measured.
        self.free_slots = min(slots, offer.slots - totals.count)
        self.free_millicpus = min(millicpus, offer.millicpus - totals.millicpus)
        self.free_memory = min(memory, offer.memory - totals.memory)
        self.shares = {
            device: min(share, WHOLE - self._promised.get(device, (0, 0))[0]) for device, share in shares.items()
        }
        self.slots = min(offer.slots, max(0, counted.count) + max(0, bid.free_slots))
        self.millicpus = min(offer.millicpus, max(0, counted.millicpus) + max(0, bid.free_millicpus))
        self.memory = min(offer.memory, max(0, counted.memory) + max(0, bid.free_memory))
        free = sum(max(0, share) for _device, share in bid.devices)
        self.milligpus = min(WHOLE * len(bid.devices), max(0, counted.milligpus) + free)
        for kind, micros in bid.speeds:
            if self.speeds.get(kind) != max(1, micros):
                self.speeds[kind] = max(1, micros)
                self.measured.add(kind)
        if bid.speeds or self._allowance != bid.allowance_ms * 1000:
            self._allowance = bid.allowance_ms * 1000
            self._regroup()

    def hold(
        self, task: TaskId, job: JobId, shape: Shape, alternative: int | None, devices: tuple[str, ...], now: float
    ) -> None:
        """Enters an open attempt that no matching here has granted: one that a worker declares, or that is sent
        again. ``alternative`` is None where it is not known."""
        need = NOTHING if alternative is None else shape.alternatives[alternative]
        self._enter(task, job, shape.kind, need, devices, now)

    def holds(self, task: TaskId) -> bool:
        return task in self._kind_of

    def begun(self, task: TaskId, now: float) -> None:
        kind = self._kind_of.get(task)
        if kind is not None:
            kind.held[task] = kind.held[task]._replace(since=now)

    def drop(self, task: TaskId) -> Held | None:
        """Takes out an attempt that is open no more. Run room comes back with the next bid, queue room at once."""
        kind = self._kind_of.pop(task, None)
        if kind is None:
            return None
        held = kind.held.pop(task)
        kind.count_in(held.need, -1)
        if held.devices:
            self._promise(held, -1)
        if not kind.held:
            del self.kinds[held.kind]
        self._touch()
        return held

    def take(self, task: TaskId, job: JobId, shape: Shape, place: Place, now: float) -> None:
        """Enters a grant at ``place`` and uses up its room."""
        need = shape.alternatives[place.alternative]
        if not place.queued:
            self.free_slots -= 1
            self.free_millicpus -= need.millicpus
            self.free_memory -= need.memory
            if place.devices:
                for device, share in zip(place.devices, shares_of(need), strict=True):
                    self.shares[device] -= share
            if self.kept is not None and self.kept.outlasted_by(self.speeds.get(shape.kind), now):
                self.kept.use(need)
        self._enter(task, job, shape.kind, need, place.devices, now)

    def keep(self, kept: Kept | None) -> None:
        """Keep a part of it free, in the place of what was kept until now."""
        if self.kept is not kept:
            self.kept = kept
            self._touch()

    def bar(self, what: str | Shape, why: str, now: float) -> None:
        """The node said that it cannot serve this directory, this kind, or this very shape. Believed for a while."""
        self._bars[what] = (why, now + BARRED_FOR)
        self._suits.clear()
        self._touch()

    def pardon(self, now: float) -> None:
        """Lifts the bars that were believed for long enough."""
        over = [what for what, (_why, until) in self._bars.items() if until <= now]
        if over:
            for what in over:
                del self._bars[what]
            self._suits.clear()
            self._touch()

    def next_pardon(self) -> float | None:
        return min((until for _why, until in self._bars.values()), default=None)

    def suits(self, shape: Shape, priority: int) -> Suit:
        """The hard constraints, those that no waiting changes."""
        key = (id(shape), priority)  # the tasks of a class share the object; hashing a shape costs as much as all else
        known = self._suits.get(key)
        if known is not None and known[0] is shape:
            return known[1]
        if self.bid is None:
            return Suit((), Why(reasons.NO_BID))
        if len(self._suits) >= REMEMBERED:
            self._suits.clear()
        suit = needs.suit(shape, priority, self.bid.offer)
        for what in (shape, shape.cwd, shape.kind) if self._bars and suit.why is None else ():
            if what in self._bars:
                suit = Suit((), Why(reasons.CANNOT, (self._bars[what][0],)))
                break
        self._suits[key] = (shape, suit)
        return suit

    def away(self) -> Why | None:
        """Why nothing is granted there for the time being, however much is free."""
        if self.bid is None:
            return Why(reasons.NO_BID)
        if self.barred:
            return Why(reasons.BARRED, (self.barred,))
        return Why(reasons.UNWILLING, (self.bid.offer.unwilling,)) if self.bid.offer.unwilling else None

    def shut(self, allowance_tasks: int) -> Why | None:
        """Why nothing at all can be granted there now; None: something may."""
        away = self.away()
        if away is not None or self.free_slots > 0:
            return away
        queued = len(self._kind_of) - self.slots
        if queued < allowance_tasks:
            if self.unknown.count and queued <= 0:
                return None
            lanes = self.slots - self.long.count - self.unknown.count
            if lanes > 0 and self._queued_work(lanes, 1) <= lanes * self._allowance:
                return None
            if lanes <= 0:
                return self._busy_slots
        return Why(reasons.QUEUE_FULL, (self.short.work,))

    def place(
        self,
        shape: Shape,
        alternatives: tuple[int, ...],
        guess: int,
        allowance_tasks: int,
        now: float,
        is_holder: bool = False,
    ) -> Place | Why:
        """The best room for a task of this shape, or why there is none now.

        ``alternatives`` are those that suit; ``guess`` is the duration where this node has not measured the kind;
        ``is_holder``: what is kept here is kept for this task's class.
        """
        kind = shape.kind
        micros = self.speeds.get(kind)
        kept = None if is_holder else self.kept
        outlasts = kept is not None and kept.outlasted_by(micros, now)
        late: Place | None = None
        whys: list[Why] = []
        for index in alternatives:
            need = shape.alternatives[index]
            gpus = gpus_of(need)
            busy = self._busy(need)
            if busy is None and kept is not None and outlasts and not kept.spares(need):
                busy = kept.why()
            if busy is None:
                devices: tuple[str, ...] | None = ()
                if gpus:
                    avoid = kept.devices if kept is not None and outlasts else ()
                    devices = self.pick(need, self.shares, avoid)
                if devices is not None:
                    return Place(index, False, False, guess if micros is None else micros, devices)
                busy = self._busy_gpus(need)
            # What waits in its queue would begin before the holder; and of what must not run twice nobody could tell
            # whether it had begun, if the node is lost.
            if kept is not None or shape.hold:
                whys.append(busy)
                continue
            wait = self._queue(need, gpus, kind, micros, allowance_tasks)
            if wait is None:
                whys.append(busy)
                continue
            if isinstance(wait, Why):
                whys.append(wait)
                continue
            devices = self.pick(need, None) if gpus else ()
            if devices is None:
                whys.append(busy)
            elif micros is not None:
                return Place(index, True, False, wait + micros, devices)
            elif late is None:
                late = Place(index, True, True, wait + 2 * guess, devices)
        return late if late is not None else reasons.of_alternatives(whys)

    def flows(self, shape: Shape, alternatives: tuple[int, ...]) -> bool:
        """Whether a task of this shape gets in here within the allowance, when what is queued has run."""
        micros = self.speeds.get(shape.kind)
        if micros is None or micros > self._allowance or shape.hold:
            return False
        return any(self._lanes(need, gpus_of(need)) > 0 for need in map(shape.alternatives.__getitem__, alternatives))

    def pick(
        self,
        need: Resources,
        shares: Mapping[str, int] | None,
        avoid: Collection[str] = (),
        regained: Mapping[str, int] | None = None,
    ) -> tuple[str, ...] | None:
        """The cards with most free memory that satisfy, whole ones first; None: too few do.

        ``shares``: free thousandths, None where they do not matter; ``regained``: bytes to add to what is free.
        """
        assert self.bid is not None
        free: list[tuple[int, str]] = []
        for device in self.bid.offer.devices:
            if device.id in self.shares and device.id not in avoid and needs.usable(need, device):
                memory = self._free_gpu_memory(device) + (regained.get(device.id, 0) if regained else 0)
                if memory >= need.gpu_memory:
                    free.append((-memory, device.id))
        free.sort()
        chosen: list[str] = []
        for share in shares_of(need):
            for _memory, device_id in free:
                if device_id not in chosen and (shares is None or shares[device_id] >= share):
                    chosen.append(device_id)
                    break
            else:
                return None
        return tuple(chosen)

    def totals(self) -> Sums:
        """Of all open attempts."""
        sums = Sums()
        for group in (self.short, self.long, self.unknown):
            sums.add(group)
        return sums

    def _touch(self) -> None:
        self.version += 1
        self.changes.touch(self.node)

    def _agree(self, offer: Offer) -> None:
        # Free memory changes with every bid; what the hard constraints read does not.
        terms = (
            offer.slots, offer.millicpus, offer.memory, offer.labels, offer.profile, offer.python, offer.min_priority,
            offer.max_priority, tuple((device.id, device.kind, device.memory) for device in offer.devices),
        )  # fmt: skip
        if terms != self._terms:
            self._terms = terms
            self._suits.clear()

    def _enter(
        self, task: TaskId, job: JobId, name: str, need: Resources, devices: tuple[str, ...], now: float
    ) -> None:  # fmt: skip
        if task in self._kind_of:
            self.drop(task)
        kind = self.kinds.get(name)
        if kind is None:
            micros = self.speeds.get(name)
            kind = self.kinds[name] = KindHeld(self._group(micros), micros or 0)
        self.entered += 1
        held = kind.held[task] = Held(job, name, need, devices, now, self.entered)
        self._kind_of[task] = kind
        kind.count_in(need, 1)
        if devices:
            self._promise(held, 1)
        self._touch()

    def _promise(self, held: Held, sign: int) -> None:
        for device, share in zip(held.devices, shares_of(held.need), strict=True):
            thousandths, memory = self._promised.get(device, (0, 0))
            self._promised[device] = (thousandths + sign * share, memory + sign * held.need.gpu_memory)

    def _group(self, micros: int | None) -> Sums:
        if micros is None:
            return self.unknown
        return self.short if micros <= self._allowance else self.long

    def _regroup(self) -> None:
        for name, kind in self.kinds.items():
            micros = self.speeds.get(name)
            kind.group.add(kind, -1)
            kind.group, kind.micros = self._group(micros), micros or 0
            kind.work = kind.count * kind.micros
            kind.group.add(kind)

    def _busy(self, need: Resources) -> Why | None:
        if self.free_slots <= 0:
            return self._busy_slots
        assert self.bid is not None
        if need.millicpus > self.free_millicpus and need.millicpus:
            return Why(reasons.BUSY_CORES, (need.millicpus, self.free_millicpus, self.bid.offer.millicpus))
        if need.memory > self.free_memory and need.memory:
            return Why(reasons.BUSY_MEMORY, (need.memory, self.free_memory, self.bid.offer.memory))
        return None

    def _busy_gpus(self, need: Resources) -> Why:
        assert self.bid is not None
        least = min(WHOLE, gpus_of(need))
        free = sum(
            self.shares.get(device.id, 0) >= least and self._free_gpu_memory(device) >= need.gpu_memory
            for device in self.bid.offer.devices
            if needs.usable(need, device)
        )
        return Why(reasons.BUSY_GPUS, (gpus_of(need), need.gpu_memory, need.device, free))

    def _free_gpu_memory(self, device: Device) -> int:
        # What was granted a moment ago is not measured yet.
        return min(device.free_memory, device.memory - self._promised.get(device.id, (0, 0))[1])

    def _lanes(self, need: Resources, gpus: int) -> int:
        """How many tasks with this need run at a time beside what runs for long, or for who knows how long."""
        long, unknown = self.long, self.unknown
        lanes = self.slots - long.count - unknown.count
        if need.millicpus:
            lanes = min(lanes, (self.millicpus - long.millicpus - unknown.millicpus) // need.millicpus)
        if need.memory:
            lanes = min(lanes, (self.memory - long.memory - unknown.memory) // need.memory)
        if gpus:
            lanes = min(lanes, (self.milligpus - long.milligpus - unknown.milligpus) // gpus)
        return lanes

    def _queued_work(self, lanes: int, micros: int) -> int:
        """Microseconds of short work beyond what runs, if one task more of this duration came."""
        count = self.short.count + 1
        return (self.short.work + micros) * (count - lanes) // count if count > lanes else 0

    def _queue(self, need: Resources, gpus: int, kind: str, micros: int | None, most: int) -> int | Why | None:
        """Microseconds that a task would wait in the queue; or that the queue is full; None: it may not queue."""
        queued = len(self._kind_of) - self.slots
        if micros is None:
            own = self.kinds.get(kind)
            # Work on cards mostly runs for long, and a card chosen now may not be the one that is free first.
            if gpus or own is None or queued > 0 or not self._alike(own, need):
                return None
            totals = self.totals()
            return None if totals.millicpus > self.millicpus or totals.memory > self.memory else 0
        if micros > self._allowance:
            return None
        lanes = self._lanes(need, gpus)
        if lanes <= 0:
            return None
        if queued >= most or self._queued_work(lanes, micros) > lanes * self._allowance:
            return Why(reasons.QUEUE_FULL, (self.short.work,))
        return self.short.work // lanes

    @staticmethod
    def _alike(own: KindHeld, need: Resources) -> bool:
        # The end of one of them must leave room for this one.
        return need.millicpus * own.count <= own.millicpus and need.memory * own.count <= own.memory
