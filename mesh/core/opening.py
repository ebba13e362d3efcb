"""When a node could hold what it cannot hold now, from what is open there and how long that is known to take."""

from __future__ import annotations

from mesh.core.account import Account
from mesh.core.held import Held, KindHeld
from mesh.core.kept import Opening
from mesh.core.lattice import Resources
from mesh.core.needs import WHOLE, gpus_of, shares_of, usable


class _Free:
    """What is free on a node while its open attempts end, one after another. Less than nothing: tasks are queued."""

    def __init__(self, account: Account) -> None:
        totals = account.totals()
        self.account = account
        self.slots = account.slots - totals.count
        self.millicpus = account.millicpus - totals.millicpus
        self.memory = account.memory - totals.memory
        self.shares = dict(account.shares)
        self.gpu_memory: dict[str, int] = {}  # regained

    def release_kind(self, kind: KindHeld) -> None:
        self.slots += kind.count
        self.millicpus += kind.millicpus
        self.memory += kind.memory
        if kind.milligpus:
            for held in kind.held.values():
                self._release_cards(held)

    def release(self, held: Held) -> None:
        self.slots += 1
        self.millicpus += held.need.millicpus
        self.memory += held.need.memory
        self._release_cards(held)

    def _release_cards(self, held: Held) -> None:
        if held.devices:
            for device, share in zip(held.devices, shares_of(held.need), strict=True):
                self.shares[device] = min(WHOLE, self.shares.get(device, 0) + share)
                self.gpu_memory[device] = self.gpu_memory.get(device, 0) + held.need.gpu_memory

    def hold(self, need: Resources) -> tuple[str, ...] | None:
        """The cards for it, if it fits now."""
        if self.slots < 1 or self.millicpus < need.millicpus or self.memory < need.memory:
            return None
        return self.account.pick(need, self.shares, (), self.gpu_memory) if gpus_of(need) else ()

    def missing(self, need: Resources) -> int:
        return (
            1000 * max(0, 1 - self.slots)
            + 1000 * max(0, need.millicpus - self.millicpus) // max(1, need.millicpus)
            + 1000 * max(0, need.memory - self.memory) // max(1, need.memory)
        )

    def beside(self, need: Resources) -> tuple[int, int, int]:
        return self.slots - 1, self.millicpus - need.millicpus, self.memory - need.memory


def opening(account: Account, need: Resources, after: int, now: float) -> Opening:
    """When the node could hold the need if nothing else were granted there but what is spare beside it.

    ``after``: how many attempts had been entered when the node was first kept for the need.
    """
    free = _Free(account)
    missing = free.missing(need)
    ends: list[tuple[float, str, Held | KindHeld]] = []
    for name, kind in account.kinds.items():
        if kind.group is account.short:
            # All of it is over within about the allowance: one time for all is precise enough, and thousands stay one.
            ends.append((now + account.short.work / 1e6 / max(1, account.slots), name, kind))
        elif kind.group is account.long:
            span = account.speeds[name] / 1e6
            ends.extend((max(now, held.since + span), task, held) for task, held in kind.held.items())
    ends.sort(key=lambda entry: entry[:2])
    at = now
    devices = free.hold(need)
    for end, _name, held in ends:
        if devices is not None:
            break
        at = end
        if isinstance(held, KindHeld):
            free.release_kind(held)
        else:
            free.release(held)
        devices = free.hold(need)
    if devices is not None:
        return Opening(at, missing, devices, free.beside(need))
    # Nobody can say when. What was granted after the reservation may stay, and the need must go in beside it.
    free = _Free(account)
    for kind in account.kinds.values():
        if kind.group is account.short:
            free.release_kind(kind)
            continue
        for held in kind.held.values():
            if held.number <= after:
                free.release(held)
    devices = free.hold(need)
    if devices is None and gpus_of(need):
        assert account.bid is not None
        cards = sorted(device.id for device in account.bid.offer.devices if usable(need, device))
        devices = tuple(cards[: len(shares_of(need))])
    return Opening(None, missing, devices or (), free.beside(need))
