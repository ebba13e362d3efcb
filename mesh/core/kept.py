"""Reservations: what is kept free on a node for a blocked class, so that small tasks do not starve a large one.

A class that ranks before others and fits nowhere now has the node that can hold it soonest kept for it. Others may
use that node for what leaves this intact: what is over before the holder can start, by measured durations, or what
fits beside the holder. So neither does the large task starve, nor does the node idle more than it must.
"""

from __future__ import annotations

from typing import NamedTuple

from mesh.core import needs, reasons
from mesh.core.lattice import Resources
from mesh.core.ready import ClassKey
from mesh.core.reasons import Why


class Opening(NamedTuple):
    """When a node could hold a need. ``starts`` None: nobody can say, since not all durations are measured."""

    starts: float | None
    missing: int  # where nobody can say: thousandths of the need that are missing now
    devices: tuple[str, ...]
    spare: tuple[int, int, int]  # slots, millicpus and memory beside the need at that time


class Kept:
    """A part of a node that is kept for ``holder``, who can begin at ``starts`` at the earliest (None: unknown).

    ``after`` counts the attempts entered there before it was kept. What is ``spare`` others may use for any time.
    """

    __slots__ = ("after", "alternative", "devices", "holder", "memory", "millicpus", "need", "slots", "starts")

    def __init__(self, holder: ClassKey, alternative: int, after: int, opening: Opening) -> None:
        self.holder, self.alternative, self.after = holder, alternative, after
        self.need = holder.shape.alternatives[alternative]
        self.starts, self.devices = opening.starts, opening.devices
        self.slots, self.millicpus, self.memory = opening.spare

    def outlasted_by(self, micros: int | None, now: float) -> bool:
        """Whether a task of this duration may still run when the holder could start."""
        return self.starts is None or micros is None or now + micros / 1e6 > self.starts

    def spares(self, need: Resources) -> bool:
        return self.slots >= 1 and self.millicpus >= need.millicpus and self.memory >= need.memory

    def use(self, need: Resources) -> None:
        self.slots -= 1
        self.millicpus -= need.millicpus
        self.memory -= need.memory

    def why(self) -> Why:
        return Why(reasons.KEPT, (self.holder.job, needs.words(self.need)))
