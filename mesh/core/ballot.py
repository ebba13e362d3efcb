"""What the nodes said to one shape, and what of it held when a grant was decided.

The last 1,000 decisions and those of all open attempts are kept for those who ask why, and on 1,000 nodes each has
1,000 verdicts. So what a decision keeps is a snapshot that shares with the next one whatever did not change between
them: one page of :data:`PAGE` verdicts for each node that did, and a pointer for each page.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from mesh.core import needs, reasons
from mesh.core.held import Place
from mesh.core.ids import NodeId
from mesh.core.lattice import Shape
from mesh.core.reasons import Why

PAGE = 32  # the square root of 1,000: copying a page costs as much as copying the pointers to all

Verdict: TypeAlias = Place | Why
Page: TypeAlias = list[tuple[NodeId, Verdict] | None]


class Verdicts:
    """The last word of each node. A snapshot shares its pages until they are written to again."""

    __slots__ = ("_free", "_pages", "_shared", "_slots")

    def __init__(self) -> None:
        self._pages: list[Page] = []
        self._shared: list[bool] = []  # a snapshot has it: to be copied before it is written to
        self._slots: dict[NodeId, int] = {}
        self._free: list[int] = []

    def put(self, node: NodeId, verdict: Verdict) -> None:
        slot = self._slots.get(node)
        if slot is None:
            if not self._free:
                self._free.extend(range((len(self._pages) + 1) * PAGE - 1, len(self._pages) * PAGE - 1, -1))
                self._pages.append([None] * PAGE)
                self._shared.append(False)
            slot = self._slots[node] = self._free.pop()
        self._write(slot, (node, verdict))

    def drop(self, node: NodeId) -> None:
        slot = self._slots.pop(node, None)
        if slot is not None:
            self._write(slot, None)
            self._free.append(slot)

    def snapshot(self) -> tuple[Page, ...]:
        self._shared = [True] * len(self._pages)
        return tuple(self._pages)

    def _write(self, slot: int, entry: tuple[NodeId, Verdict] | None) -> None:
        number, place = divmod(slot, PAGE)
        if self._shared[number]:
            self._pages[number] = self._pages[number].copy()
            self._shared[number] = False
        self._pages[number][place] = entry


class Explanation(NamedTuple):
    """``choice``: the node, or empty. ``nodes``: id, whether it could ever run there, and why not now or not there."""

    choice: NodeId
    why: str
    nodes: tuple[tuple[NodeId, bool, str], ...]


class Ballot(NamedTuple):
    """What the nodes had said of this shape when a grant was decided. ``measured``: one knows how long it takes."""

    shape: Shape
    measured: bool
    pages: tuple[Page, ...]

    def verdicts(self) -> list[tuple[NodeId, Verdict]]:
        """By id."""
        return sorted((entry for page in self.pages for entry in page if entry is not None), key=lambda entry: entry[0])

    def explain(self, node: NodeId, place: Place, near: bool = False) -> Explanation:
        """Why ``node`` was chosen, and why every other one was not. ``near``: since it has what the task reads."""
        nodes = []
        why = self.why(place, near)
        for other, verdict in self.verdicts():
            reason = why if other == node else str(self._lost(verdict, place, near))
            nodes.append((other, isinstance(verdict, Place) or not verdict.never, reason))
        return Explanation(node, why, tuple(nodes))

    def why(self, place: Place, near: bool = False) -> str:
        need = needs.words(self.shape.alternatives[place.alternative])
        room = "its queue takes it" if place.queued else f"{need} free now"
        if near:
            return f"{room}; it has what the task reads"
        if not self.measured:
            return f"{room}; how long this kind of task takes is not measured yet"
        return f"{room}; done in an estimated {reasons.seconds(place.micros)}, and no node is sooner"

    def _lost(self, verdict: Verdict, to: Place, near: bool) -> Why:
        if isinstance(verdict, Why):
            return verdict
        if near and (verdict.late, verdict.alternative, verdict.micros) <= (to.late, to.alternative, to.micros):
            return Why(reasons.FARTHER)
        if verdict.late and not to.late:
            return Why(reasons.BEHIND)
        if verdict.alternative != to.alternative:
            return Why(reasons.OTHER, (needs.words(self.shape.alternatives[verdict.alternative]),))
        return Why(reasons.LATER, (verdict.micros, to.micros)) if verdict.micros > to.micros else Why(reasons.TIE)
