"""Matching: which ready task goes to which node now, and why.

A round looks at the heads of the resource classes in order (:mod:`mesh.core.ready`) and gives each the room with the
lowest estimated completion; ties go to the lower id. Room only shrinks within a round, so each class keeps its nodes
in a heap of estimates that are looked at again when they come to the top: a grant costs O(log nodes).

What is decided is decided with its reasons, which become words only when somebody asks (:meth:`Decision.explain`);
:func:`explain` answers for a task that waits, by the same steps.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

from mesh.core import needs, reasons
from mesh.core.account import Account
from mesh.core.held import Place
from mesh.core.ids import NodeId
from mesh.core.kept import Kept, Opening
from mesh.core.lattice import Shape, Task
from mesh.core.messages import Bid
from mesh.core.opening import opening
from mesh.core.params import Params
from mesh.core.ready import ClassKey, Loads, Rank, Ready, ResourceClass
from mesh.core.reasons import Why

SEARCHES = 8  # for nodes to keep, per round: each looks at all of them; the next classes find theirs a round later
GUESS_MICROS = 1_000_000  # of a kind that no node has measured

Verdict: TypeAlias = Place | Why
Shut: TypeAlias = tuple[Why, Bid | None]  # a node that takes nothing now, with its bid


class Explanation(NamedTuple):
    """``choice``: the node, or empty. ``nodes``: id, whether it could ever run there, and why not now or not there."""

    choice: NodeId
    why: str
    nodes: tuple[tuple[NodeId, bool, str], ...]


class Ballot:
    """What one class was told by the nodes in one round: the verdicts of each, and after how many grants."""

    __slots__ = ("grants", "measured", "priority", "shape", "shut", "verdicts")

    def __init__(self, shape: Shape, priority: int, measured: bool, shut: Mapping[NodeId, Shut]) -> None:
        self.shape, self.priority, self.measured, self.shut = shape, priority, measured, shut
        self.grants = 0
        self.verdicts: dict[NodeId, list[tuple[int, Verdict]]] = {}

    def at(self, grant: int) -> dict[NodeId, Verdict]:
        """What held when this grant was decided."""
        verdicts: dict[NodeId, Verdict] = {}
        for node, (why, bid) in self.shut.items():
            verdicts[node] = (needs.suit(self.shape, self.priority, bid.offer).why if bid is not None else None) or why
        for node, history in self.verdicts.items():
            verdicts[node] = next(verdict for number, verdict in reversed(history) if number <= grant)
        return verdicts

    def explain(self, node: NodeId, place: Place, grant: int) -> Explanation:
        """Why ``node`` was chosen, and why every other one was not."""
        nodes = []
        why = self.why(place)
        for other, verdict in sorted(self.at(grant).items()):
            reason = why if other == node else str(self._lost(verdict, place))
            nodes.append((other, isinstance(verdict, Place) or not verdict.never, reason))
        return Explanation(node, why, tuple(nodes))

    def why(self, place: Place) -> str:
        need = needs.words(self.shape.alternatives[place.alternative])
        room = "its queue takes it" if place.queued else f"{need} free now"
        if not self.measured:
            return f"{room}; how long this kind of task takes is not measured yet"
        return f"{room}; done in an estimated {reasons.seconds(place.micros)}, and no node is sooner"

    def _lost(self, verdict: Verdict, to: Place) -> Why:
        if isinstance(verdict, Why):
            return verdict
        if verdict.late and not to.late:
            return Why(reasons.BEHIND)
        if verdict.alternative != to.alternative:
            return Why(reasons.OTHER, (needs.words(self.shape.alternatives[verdict.alternative]),))
        return Why(reasons.LATER, (verdict.micros, to.micros)) if verdict.micros > to.micros else Why(reasons.TIE)


class Decision(NamedTuple):
    """A grant to be made. It is entered already: the task has left the ready ones, the node's account and the job's
    load count it. Who cannot carry it out drops it from both and pushes the task again."""

    task: Task
    node: NodeId
    alternative: int
    devices: tuple[str, ...]
    place: Place
    ballot: Ballot
    number: int

    @property
    def why(self) -> str:
        return self.ballot.why(self.place)

    def explain(self) -> Explanation:
        """The choice and every node's reason, as they were when it was made."""
        return self.ballot.explain(self.node, self.place, self.number)


class _Candidate:
    __slots__ = ("account", "alternatives", "history", "place", "version")

    def __init__(self, account: Account, alternatives: tuple[int, ...], place: Place) -> None:
        self.account, self.alternatives, self.place, self.version = account, alternatives, place, account.version
        self.history: list[tuple[int, Verdict]] = [(0, place)]


_Entry: TypeAlias = tuple[bool, int, int, NodeId, _Candidate]


class _Turn:
    """One shape and priority in one round: the nodes that have room for it, best first."""

    __slots__ = ("ballot", "guess", "heap", "keeps", "now", "params", "shape")

    def __init__(
        self, shape: Shape, priority: int, accounts: Iterable[Account], shut: Mapping[NodeId, Shut],
        guess: int | None, params: Params, now: float, holder: ClassKey | None = None,
    ) -> None:  # fmt: skip
        self.shape, self.params, self.now = shape, params, now
        self.guess = GUESS_MICROS if guess is None else guess
        self.ballot = Ballot(shape, priority, guess is not None, shut)
        self.keeps = False  # a node is kept for a class of this shape and priority
        self.heap: list[_Entry] = []
        most = params.allowance_tasks
        for account in accounts:
            suit = account.suits(shape, priority)
            verdict: Verdict
            if suit.why is not None:
                verdict = suit.why
            else:
                own = holder is not None and account.kept is not None and account.kept.holder == holder
                verdict = account.place(shape, suit.alternatives, self.guess, most, now, own)
            if isinstance(verdict, Why):
                self.ballot.verdicts[account.node] = [(0, verdict)]
                continue
            candidate = _Candidate(account, suit.alternatives, verdict)
            self.ballot.verdicts[account.node] = candidate.history
            self.heap.append((verdict.late, verdict.alternative, verdict.micros, account.node, candidate))
        heapq.heapify(self.heap)

    def best(self) -> _Candidate | None:
        heap = self.heap
        while heap:
            candidate = heap[0][4]
            if candidate.version == candidate.account.version:
                return candidate
            self.again(candidate)
        return None

    def again(self, candidate: _Candidate) -> bool:
        """Ask the node at the top again, after its room changed. False: it has none for this class any more."""
        account = candidate.account
        candidate.version = account.version
        verdict = account.place(
            self.shape, candidate.alternatives, self.guess, self.params.allowance_tasks, self.now
        )  # fmt: skip
        candidate.history.append((self.ballot.grants, verdict))
        if isinstance(verdict, Why):
            heapq.heappop(self.heap)
            return False
        candidate.place = verdict
        heapq.heapreplace(
            self.heap, (verdict.late, verdict.alternative, verdict.micros, account.node, candidate)
        )  # fmt: skip
        return True


def match(
    ready: Ready, loads: Loads, accounts: Mapping[NodeId, Account], params: Params, now: float, limit: int = 0
) -> list[Decision]:
    """One round: grants until nothing ready fits or ``limit`` (by default ``slice_records``) is reached.

    As many decisions as the limit: there may be more, ask again. Each is entered in ``ready``, ``loads`` and
    ``accounts``.
    """
    ready.wake(now)
    heads = ready.heads(loads)
    if not heads:
        return []
    return _Round(ready, loads, accounts, params, now).run(heads, limit or params.slice_records)


class _Round:
    def __init__(
        self, ready: Ready, loads: Loads, accounts: Mapping[NodeId, Account], params: Params, now: float
    ) -> None:
        self.ready, self.loads, self.params, self.now = ready, loads, params, now
        self.accounts = [accounts[node] for node in sorted(accounts)]
        self.shut: dict[NodeId, Shut] = {}
        self.open: dict[NodeId, Account] = {}
        for account in self.accounts:
            account.pardon(now)
            why = account.shut(params.allowance_tasks)
            if why is None:
                self.open[account.node] = account
            else:
                self.shut[account.node] = (why, account.bid)
        self.turns: dict[tuple[Shape, int], _Turn] = {}
        self.turn_of: dict[ResourceClass, _Turn] = {}
        self.guesses: dict[str, int | None] = {}
        self.kept_before: dict[ClassKey, tuple[Account, Kept]] = {}
        self.searches = SEARCHES
        self.unkept: dict[NodeId, Account] = {}

    def run(self, heads: list[tuple[Rank, ResourceClass]], limit: int) -> list[Decision]:
        decisions: list[Decision] = []
        if not self.open:
            return decisions
        self._release_kept()
        ready, loads, now = self.ready, self.loads, self.now
        heapq.heapify(heads)
        while heads and self.open and len(decisions) < limit:
            rank, cls = heads[0]
            job = cls.job
            if loads.weight(job) != rank[1]:  # another class of its job was granted: its turn may be later
                heapq.heapreplace(heads, (ready.rank(cls, loads), cls))
                continue
            most = ready.limit_of(job)
            if most and loads.count(job) >= most:
                heapq.heappop(heads)
                continue
            turn = self.turn_of.get(cls) or self._turn(cls)
            candidate = turn.best()
            if candidate is None:
                heapq.heappop(heads)
                if heads:
                    self._keep(cls, turn)
                continue
            place, account, ballot = candidate.place, candidate.account, turn.ballot
            task = ready.pop(cls)
            shape = cls.shape
            account.take(task.id, job, shape, place, now)
            loads.opened(job, shape.alternatives[place.alternative])
            decisions.append(
                Decision(task, account.node, place.alternative, place.devices, place, ballot, ballot.grants)
            )
            ballot.grants += 1
            if not turn.again(candidate):
                full = account.shut(self.params.allowance_tasks)
                if full is not None and self.open.pop(account.node, None) is not None:
                    self.shut[account.node] = (full, account.bid)
            if cls.live:
                heapq.heapreplace(heads, (ready.rank(cls, loads), cls))
            else:
                heapq.heappop(heads)
        self._restore_kept(heads)
        return decisions

    def _turn(self, cls: ResourceClass) -> _Turn:
        key = (cls.shape, cls.priority)
        turn = self.turns.get(key)
        if turn is None:
            guess = self._guess(cls.shape.kind)
            turn = self.turns[key] = _Turn(
                cls.shape, cls.priority, self.open.values(), self.shut, guess, self.params, self.now
            )
        self.turn_of[cls] = turn
        return turn

    def _guess(self, kind: str) -> int | None:
        """Nodes that have not measured a kind are believed to be as fast as the fastest, and so get measured."""
        if kind not in self.guesses:
            self.guesses[kind] = fastest(self.accounts, kind)
        return self.guesses[kind]

    # -- reservations --------------------------------------------------------------------------------------------------

    def _release_kept(self) -> None:
        self.unkept = {account.node: account for account in self.accounts if account.away() is None}
        for account in self.accounts:
            if account.kept is not None:
                self.kept_before[account.kept.holder] = (account, account.kept)
                account.keep(None)

    def _keep(self, cls: ResourceClass, turn: _Turn) -> None:
        """The class is blocked: keep the node for it that can hold it soonest, the same one as before if it can.

        Classes of equal shape and priority wait for the same room; the first of them keeps it for all.
        """
        key = cls.key
        before = self.kept_before.pop(key, None)
        if turn.keeps:
            return
        turn.keeps = True
        best: tuple[tuple[bool, float, NodeId, int], Account, int, Opening] | None = None
        if before is not None and before[0].node in self.unkept:
            account, kept = before
            if kept.alternative in account.suits(cls.shape, cls.priority).alternatives:
                found = opening(account, kept.need, kept.after, self.now)
                account.keep(Kept(key, kept.alternative, kept.after, found))
                del self.unkept[account.node]
                return
        if not self.searches:
            return
        for account in self.unkept.values():
            suit = account.suits(cls.shape, cls.priority)
            if suit.why is not None:
                continue
            if account.flows(cls.shape, suit.alternatives):
                return  # it gets in within the allowance, without keeping anybody out
            for index in suit.alternatives:
                found = opening(account, cls.shape.alternatives[index], account.entered, self.now)
                soon = float(found.missing) if found.starts is None else found.starts
                order = (found.starts is None, soon, account.node, index)
                if best is None or order < best[0]:
                    best = (order, account, index, found)
        if best is not None:
            self.searches -= 1
            _order, account, index, found = best
            account.keep(Kept(key, index, account.entered, found))
            del self.unkept[account.node]

    def _restore_kept(self, heads: Iterable[tuple[Rank, ResourceClass]]) -> None:
        """Classes whose turn did not come in this round lose nothing."""
        if not self.kept_before:
            return
        for _rank, cls in heads:
            before = self.kept_before.get(cls.key)
            if before is not None and before[0].kept is None:
                before[0].keep(before[1])


def fastest(accounts: Iterable[Account], kind: str) -> int | None:
    """Microseconds on the node that does it fastest; None: nobody has measured it."""
    return min((account.speeds[kind] for account in accounts if kind in account.speeds), default=None)


def explain(
    task: Task, priority: int, own: bool, ready: Ready, loads: Loads, accounts: Mapping[NodeId, Account],
    params: Params, now: float,
) -> Explanation:  # fmt: skip
    """Where a task that waits would go now, or why nowhere. ``own``: the priority is its own, as it was pushed."""
    shut: dict[NodeId, Shut] = {}
    there: list[Account] = []
    for node in sorted(accounts):
        account = accounts[node]
        away = account.away()
        if away is None:
            there.append(account)
        else:
            shut[node] = (away, account.bid)
    holder = ClassKey(task.job, task.shape, priority, own)
    guess = fastest(there, task.shape.kind)
    turn = _Turn(task.shape, priority, there, shut, guess, params, now, holder)
    candidate = turn.best()
    waits = _waits(task, ready, loads, now)
    if candidate is not None and not waits:
        return turn.ballot.explain(candidate.account.node, candidate.place, 0)
    nodes = []
    for node, verdict in sorted(turn.ballot.at(0).items()):
        if isinstance(verdict, Place):
            nodes.append((node, True, turn.ballot.why(verdict)))
        else:
            nodes.append((node, not verdict.never, str(verdict)))
    if not waits:
        kept = [account.node for account in there if account.kept is not None and account.kept.holder == holder]
        if not nodes:
            waits = "no node bids"
        elif not any(possible for _node, possible, _why in nodes):
            waits = "no node can run it"
        else:
            waits = "every node that can run it is busy or away"
            waits += f"; {kept[0]} is kept free for it" if kept else ""
    return Explanation("", waits, tuple(nodes))


def _waits(task: Task, ready: Ready, loads: Loads, now: float) -> str:
    """What keeps it from being granted on any node."""
    at = ready.waits_until(task.id)
    if ready.is_paused(task.job):
        return "its job is paused"
    if at is not None and at > now:
        return f"it failed and is tried again in {reasons.seconds(int((at - now) * 1e6))}"
    most = ready.limit_of(task.job)
    if most and loads.count(task.job) >= most:
        return f"{loads.count(task.job)} tasks of its job run or wait on nodes, and max_parallel is {most}"
    return ""
