"""Small builders for tests of ready tasks and matching."""

from __future__ import annotations

from mesh.core.account import Account
from mesh.core.lattice import Resources, Shape, Task
from mesh.core.matching import Decision, Matching
from mesh.core.messages import Bid, Device, Offer
from mesh.core.params import Params
from mesh.core.ready import Loads, Ready

GIB = 1 << 30


def offer(
    slots: int = 4, cores: int = 4, memory: int = 16 * GIB, devices: tuple[Device, ...] = (), **more: object
) -> Offer:
    return Offer(slots, cores * 1000, memory, memory, devices, **more)  # type: ignore[arg-type]


def bid(what: Offer | None = None, allowance_ms: int = 50, **speeds: int) -> Bid:
    """Everything is free."""
    what = offer() if what is None else what
    devices = tuple((device.id, 1000) for device in what.devices)
    return Bid(what, what.slots, what.millicpus, what.free_memory, devices, allowance_ms, tuple(sorted(speeds.items())))


def accounts(**bids: Bid) -> dict[str, Account]:
    return {node: Account(node, each) for node, each in bids.items()}


def gpu(number: int, memory: int = 24 * GIB, free: int | None = None, kind: str = "cuda") -> Device:
    return Device(f"{kind}:{number}", kind, "card", memory, memory if free is None else free)


def need(cores: float = 1, memory: int = 0, gpus: float = 0, **more: object) -> Resources:
    return Resources(int(cores * 1000), memory, int(gpus * 1000), **more)  # type: ignore[arg-type]


def shape(*alternatives: Resources, kind: str = "k", **more: str) -> Shape:
    return Shape(alternatives or (need(),), kind=kind, **more)  # type: ignore[arg-type]


def tasks(job: str, count: int, what: Shape | None = None, start: int = 0) -> list[Task]:
    what = shape() if what is None else what
    return [Task(f"{job}-{index:05}", job, index, "", what, b"") for index in range(start, start + count)]


def match(
    ready: Ready, loads: Loads, nodes: dict[str, Account], params: Params, now: float, limit: int = 0
) -> list[Decision]:
    """One round that remembers nothing of any before it."""
    fresh = Matching(params)
    for account in nodes.values():
        fresh.add(account)
    return fresh.match(ready, loads, now, limit)
