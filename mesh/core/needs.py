"""What a task needs and whether a machine could hold it: the hard constraints, which no waiting changes."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from mesh.core import reasons
from mesh.core.lattice import Resources, Shape
from mesh.core.messages import Device, Offer
from mesh.core.reasons import Why

WHOLE = 1000  # thousandths of a GPU


class Suit(NamedTuple):
    """The alternatives of a shape that a machine can hold when it is empty; ``why`` where there is none."""

    alternatives: tuple[int, ...]
    why: Why | None


def gpus_of(need: Resources) -> int:
    """Thousandths of GPUs that it takes. Who asks for a kind of card or for its memory alone gets a whole one."""
    if need.milligpus or need.device == "cpu":
        return need.milligpus
    return WHOLE if need.gpu_memory or need.device != "any" else 0


@lru_cache(maxsize=1024)
def shares_of(need: Resources) -> tuple[int, ...]:
    """How it takes them: whole cards, exclusively, then the rest as a share of one more."""
    whole, rest = divmod(gpus_of(need), WHOLE)
    return (WHOLE,) * whole + ((rest,) if rest else ())


def words(need: Resources) -> str:
    return reasons.need(need.millicpus, need.memory, gpus_of(need), need.gpu_memory, need.device)


def usable(need: Resources, device: Device) -> bool:
    """Whether the card is of the right kind and, when nobody uses it, has the memory."""
    return device.memory >= need.gpu_memory and need.device in ("any", device.kind)


def lacks(need: Resources, offer: Offer) -> Why | None:
    """Why the machine could not hold this even when it is empty."""
    if gpus_of(need):
        if need.device == "cpu":
            return Why(reasons.CONTRADICTION, (need.milligpus,))
        have = sum(usable(need, device) for device in offer.devices)
        if have < len(shares_of(need)):
            return Why(reasons.GPUS, (gpus_of(need), need.gpu_memory, need.device, have))
    if need.millicpus > offer.millicpus:
        return Why(reasons.CORES, (need.millicpus, offer.millicpus))
    if need.memory > offer.memory:
        return Why(reasons.MEMORY, (need.memory, offer.memory))
    for label in need.labels:
        if label not in offer.labels:
            return Why(reasons.LABEL, label)
    if need.profile and need.profile != offer.profile:
        return Why(reasons.PROFILE, (need.profile, offer.profile))
    return None


def suit(shape: Shape, priority: int, offer: Offer) -> Suit:
    """Which alternatives the machine could hold when it is empty."""
    why: Why | None = None
    if offer.slots <= 0:
        why = Why(reasons.NO_SLOTS)
    elif priority < offer.min_priority:
        why = Why(reasons.MIN_PRIORITY, (offer.min_priority, priority))
    elif priority > offer.max_priority:
        why = Why(reasons.MAX_PRIORITY, (offer.max_priority, priority))
    elif shape.python and shape.python != offer.python:
        why = Why(reasons.PYTHON, (shape.python, offer.python))
    if why is not None:
        return Suit((), why)
    lacking = [lacks(need, offer) for need in shape.alternatives]
    alternatives = tuple(index for index, why in enumerate(lacking) if why is None)
    if alternatives:
        return Suit(alternatives, None)
    return Suit((), reasons.of_alternatives([why for why in lacking if why is not None]))
