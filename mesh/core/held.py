"""What a node holds of open attempts, one by one and in sums, and the room for one more."""

from __future__ import annotations

from typing import NamedTuple

from mesh.core.ids import JobId, TaskId
from mesh.core.lattice import Resources
from mesh.core.needs import gpus_of

NOTHING = Resources(millicpus=0)


class Held(NamedTuple):
    """An open attempt on a node. ``need`` is NOTHING where another leader granted it: the bid counts it anyway."""

    job: JobId
    kind: str
    need: Resources
    devices: tuple[str, ...]
    since: float  # it began, or was granted where no beginning was told
    number: int  # counts what was entered into the account of its node


class Place(NamedTuple):
    """Room on a node, for one alternative. ``micros`` is the estimated time to completion."""

    alternative: int
    queued: bool
    late: bool  # queued behind tasks of unknown duration: any other room is better
    micros: int
    devices: tuple[str, ...]


class Sums:
    """What some of the open attempts take together; ``work`` in microseconds, for those of measured duration."""

    __slots__ = ("count", "memory", "millicpus", "milligpus", "work")

    def __init__(self) -> None:
        self.count = self.millicpus = self.memory = self.milligpus = self.work = 0

    def add(self, other: Sums, sign: int = 1) -> None:
        self.count += sign * other.count
        self.millicpus += sign * other.millicpus
        self.memory += sign * other.memory
        self.milligpus += sign * other.milligpus
        self.work += sign * other.work


class KindHeld(Sums):
    """The open attempts of one kind. ``group`` is the sum that they are part of, by how long the kind takes."""

    __slots__ = ("group", "held", "micros")

    def __init__(self, group: Sums, micros: int) -> None:
        super().__init__()
        self.group, self.micros = group, micros
        self.held: dict[TaskId, Held] = {}

    def count_in(self, need: Resources, sign: int) -> None:
        milligpus, work = sign * gpus_of(need), sign * self.micros
        for sums in (self, self.group):
            sums.count += sign
            sums.millicpus += sign * need.millicpus
            sums.memory += sign * need.memory
            sums.milligpus += milligpus
            sums.work += work
