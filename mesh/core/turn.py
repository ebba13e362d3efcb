"""One shape and priority: the nodes that have room for it, best first, kept from one matching to the next.

At the start of a round the nodes that changed since the last one are asked again (:meth:`Turn.ask`). Within a round
room only shrinks, so whoever was granted something is asked again when it comes to the top. A round so costs
O(log nodes) for each grant and each change, however many nodes there are.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection
from typing import TypeAlias

from mesh.core.account import Account
from mesh.core.ballot import Ballot, Verdict, Verdicts
from mesh.core.held import Place
from mesh.core.ids import NodeId
from mesh.core.lattice import Shape
from mesh.core.params import Params
from mesh.core.ready import ClassKey
from mesh.core.reasons import Why

GUESS_MICROS = 1_000_000  # of a kind that no node has measured

DETOUR = 1.5  # times as long as on the best node, where what it reads need not travel

_Entry: TypeAlias = tuple[bool, int, int, NodeId]  # late, alternative, micros: what is less is better


class Candidate:
    """A node that is there and could hold the shape when it is empty. ``place``: what room it has, None: none now."""

    __slots__ = ("account", "alternatives", "place", "version")

    def __init__(self, account: Account, alternatives: tuple[int, ...]) -> None:
        self.account, self.alternatives = account, alternatives
        self.version = -1  # of the account, when it was asked
        self.place: Place | None = None

    def entry(self) -> _Entry | None:
        place = self.place
        return None if place is None else (place.late, place.alternative, place.micros, self.account.node)


def _micros(candidate: Candidate) -> int:
    assert candidate.place is not None
    return candidate.place.micros


class Turn:
    """``seen`` is the count of changes up to which its nodes were asked; ``flows`` the node that last had a flow."""

    __slots__ = (
        "_heap", "_most", "_verdicts", "candidates", "flows", "guess", "keeps", "priority", "round", "seen", "shape",
    )  # fmt: skip

    def __init__(self, shape: Shape, priority: int, params: Params) -> None:
        self.shape, self.priority = shape, priority
        self.guess: int | None = None  # microseconds on a node that has not measured the kind; None: none has
        self.seen = 0
        self.round = 0  # in which it was last used
        self.keeps = False  # a node is kept in this round for a class of this shape and priority
        self.flows: NodeId = ""
        self.candidates: dict[NodeId, Candidate] = {}
        self._most = params.allowance_tasks
        self._verdicts = Verdicts()
        self._heap: list[_Entry] = []  # an entry that is not its candidate's any more is passed over

    def ballot(self) -> Ballot:
        """As it stands now."""
        return Ballot(self.shape, self.guess is not None, self._verdicts.snapshot())

    def ask(
        self, account: Account, away: Why | None, full: Why | None, now: float, holder: ClassKey | None = None
    ) -> None:
        """Hear a node that came or changed: ``away`` and ``full`` say why it takes nothing, whatever the shape is.

        ``holder``: what is kept there for this class is free for it.
        """
        node = account.node
        suit = account.suits(self.shape, self.priority)
        why = suit.why or away
        if why is not None:
            self.candidates.pop(node, None)
            self._verdicts.put(node, why)
            return
        candidate = self.candidates.get(node)
        if candidate is None or candidate.account is not account:
            candidate = self.candidates[node] = Candidate(account, suit.alternatives)
        elif candidate.version == account.version and full is None:
            return
        candidate.alternatives = suit.alternatives
        if full is not None:
            candidate.place, candidate.version = None, account.version
            self._verdicts.put(node, full)
            return
        own = holder is not None and account.kept is not None and account.kept.holder == holder
        before = candidate.entry()
        entry = self._ask(candidate, now, own)
        if entry is not None and entry != before:
            heapq.heappush(self._heap, entry)

    def drop(self, node: NodeId) -> None:
        self.candidates.pop(node, None)
        self._verdicts.drop(node)

    def suppose(self, guess: int | None, now: float) -> None:
        """Nodes that have not measured the kind are believed to take this long."""
        if guess == self.guess:
            return
        self.guess = guess
        kind = self.shape.kind
        for candidate in self.candidates.values():
            if candidate.place is not None and kind not in candidate.account.speeds:
                entry = self._ask(candidate, now)
                if entry is not None:
                    heapq.heappush(self._heap, entry)

    def tidy(self) -> None:
        if len(self._heap) > 2 * len(self.candidates) + 64:
            self._heap = [entry for each in self.candidates.values() if (entry := each.entry()) is not None]
            heapq.heapify(self._heap)

    def best(self, now: float) -> Candidate | None:
        heap = self._heap
        while heap:
            candidate = self.candidates.get(heap[0][3])
            if candidate is None or candidate.entry() != heap[0]:
                heapq.heappop(heap)
            elif candidate.version == candidate.account.version:
                return candidate
            else:
                self.again(candidate, now)
        return None

    def nearer(self, best: Candidate, near: Collection[NodeId], now: float) -> Candidate:
        """One of these where it can begin now and is not done much later than on the best; else the best."""
        place = best.place
        if place is None or not near or best.account.node in near:
            return best
        found = best
        for node in sorted(near):
            candidate = self.candidates.get(node)
            if candidate is None:
                continue
            if candidate.version != candidate.account.version:
                self._ask_again(candidate, now)
            here = candidate.place
            if here is None or here.queued or here.late > place.late or here.alternative > place.alternative:
                continue
            if here.micros <= place.micros * DETOUR and (found is best or here.micros < _micros(found)):
                found = candidate
        return found

    def again(self, candidate: Candidate, now: float) -> bool:
        """Ask a node again, after its room changed. False: it has none for this shape any more."""
        if self._heap and self._heap[0] == candidate.entry():
            heapq.heappop(self._heap)
        return self._ask_again(candidate, now)

    def _ask_again(self, candidate: Candidate, now: float) -> bool:
        entry = self._ask(candidate, now)
        if entry is not None:
            heapq.heappush(self._heap, entry)
        return entry is not None

    def _ask(self, candidate: Candidate, now: float, own: bool = False) -> _Entry | None:
        account = candidate.account
        guess = GUESS_MICROS if self.guess is None else self.guess
        verdict: Verdict = account.place(self.shape, candidate.alternatives, guess, self._most, now, own)
        candidate.version = account.version
        candidate.place = verdict if isinstance(verdict, Place) else None
        self._verdicts.put(account.node, verdict)
        return candidate.entry()
