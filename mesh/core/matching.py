"""Matching: which ready task goes to which node now, and why.

A round looks at the heads of the resource classes in order (:mod:`mesh.core.ready`) and gives each the room with the
lowest estimated completion; ties go to the lower id. What the nodes said is kept between rounds, so that a round asks
those that changed (:mod:`mesh.core.turn`): on 1,000 nodes most rounds follow the end of one task, on one of them.

What is decided is decided with its reasons, which become words only when somebody asks (:meth:`Decision.explain`);
:func:`explain` answers for a task that waits, by the same steps.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

from mesh.core import reasons
from mesh.core.account import Account
from mesh.core.ballot import Ballot, Explanation
from mesh.core.changes import Changes, Fastest
from mesh.core.held import Place
from mesh.core.ids import NodeId
from mesh.core.kept import Kept, Opening
from mesh.core.lattice import Shape, Task
from mesh.core.opening import opening
from mesh.core.params import Params
from mesh.core.ready import ClassKey, Loads, Rank, Ready, ResourceClass
from mesh.core.reasons import Why
from mesh.core.turn import Turn

SEARCHES = 8  # for nodes to keep, per round: each looks at all of them; the next classes find theirs a round later
TURNS = 128  # shapes and priorities whose candidates are remembered: about 250 bytes for each node


class Decision(NamedTuple):
    """A grant to be made. It is entered already: the task has left the ready ones, the node's account and the job's
    load count it. Who cannot carry it out drops it from both and pushes the task again."""

    task: Task
    node: NodeId
    alternative: int
    devices: tuple[str, ...]
    place: Place
    ballot: Ballot
    near: bool = False  # it was chosen since it has what the task reads

    @property
    def why(self) -> str:
        return self.ballot.why(self.place, self.near)

    def explain(self) -> Explanation:
        """The choice and every node's reason, as they were when it was made."""
        return self.ballot.explain(self.node, self.place, self.near)


class Matching:
    """The accounts that may be granted something, and what is known of them from one round to the next.

    Its caller's duty: to :meth:`add` an account once it says all that its node holds, and to :meth:`remove` it.
    """

    def __init__(self, params: Params, near: Callable[[Task], Collection[NodeId]] = lambda task: ()) -> None:
        """``near``: the nodes that have most of what a task reads; none: it reads nothing, or nobody has any."""
        self.params, self.near = params, near
        self.accounts: dict[NodeId, Account] = {}
        self.changes = Changes()
        self.there: dict[NodeId, Account] = {}  # those that are not away
        self.open: dict[NodeId, Account] = {}  # those of them that take something of some shape
        self._shut: dict[NodeId, tuple[Why | None, Why | None]] = {}  # the others: why away, why full
        self._kept: set[NodeId] = set()
        self._barred: set[NodeId] = set()
        self._fastest: dict[str, Fastest] = {}
        self._turns: dict[tuple[Shape, int], Turn] = {}  # the last to be used stands last
        self._seen = self.round = 0

    def add(self, account: Account) -> None:
        self.remove(account.node)
        self.accounts[account.node] = account
        account.changes = self.changes
        account.measured.update(account.speeds)
        self.changes.touch(account.node)

    def remove(self, node: NodeId) -> None:
        account = self.accounts.pop(node, None)
        if account is None:
            return
        account.changes = Changes()
        for kind in account.speeds:
            if kind in self._fastest:
                self._fastest[kind].tell(node, None)
        self.changes.touch(node)

    def match(self, ready: Ready, loads: Loads, now: float, limit: int = 0) -> list[Decision]:
        """One round: grants until nothing ready fits or ``limit`` (by default ``slice_records``) is reached.

        As many decisions as the limit: there may be more, ask again. Each is entered in ``ready``, ``loads`` and the
        accounts.
        """
        ready.wake(now)
        heads = ready.heads(loads)
        if not heads:
            return []
        self._catch_up(now)
        if not self.open:
            return []
        self.round += 1
        decisions = _Round(self, ready, loads, now).run(heads, limit or self.params.slice_records)
        while len(self._turns) > TURNS:
            del self._turns[next(iter(self._turns))]
        return decisions

    def turn(self, shape: Shape, priority: int, now: float) -> Turn:
        """At its first use in a round it hears the nodes that changed since its last one."""
        key = (shape, priority)
        turn = self._turns.pop(key, None)
        if turn is None:
            turn = Turn(shape, priority, self.params)
        self._turns[key] = turn
        if turn.round == self.round:
            return turn
        fastest = self._fastest.get(shape.kind)
        turn.suppose(None if fastest is None else fastest.least(), now)
        changed, turn.seen = self.changes.since(turn.seen), self.changes.count
        for node in changed:
            account = self.accounts.get(node)
            if account is None:
                turn.drop(node)
            else:
                turn.ask(account, *self._shut.get(node, (None, None)), now)
        turn.tidy()
        turn.round, turn.keeps = self.round, False
        return turn

    def fill(self, account: Account) -> None:
        """A grant may have taken its last room."""
        full = account.shut(self.params.allowance_tasks)
        if full is not None and self.open.pop(account.node, None) is not None:
            self._shut[account.node] = (None, full)

    def release(self) -> dict[ClassKey, tuple[Account, Kept]]:
        """What was kept until now, for whom. All of it is free again."""
        before: dict[ClassKey, tuple[Account, Kept]] = {}
        for node in sorted(self._kept):
            account = self.accounts[node]
            if account.kept is not None:
                before[account.kept.holder] = (account, account.kept)
                account.keep(None)
        self._kept.clear()
        return before

    def _catch_up(self, now: float) -> None:
        for node in sorted(self._barred):
            if node in self.accounts:
                self.accounts[node].pardon(now)
        for node in self.changes.since(self._seen):
            for nodes in (self.there, self.open, self._shut):
                nodes.pop(node, None)
            self._kept.discard(node)
            self._barred.discard(node)
            account = self.accounts.get(node)
            if account is not None:
                self._look(account, now)
        self._seen = self.changes.count

    def _look(self, account: Account, now: float) -> None:
        node = account.node
        account.pardon(now)
        for kind in account.measured:
            self._fastest.setdefault(kind, Fastest()).tell(node, account.speeds[kind])
        account.measured.clear()
        away = account.away()
        full = account.shut(self.params.allowance_tasks) if away is None else None
        if away is None:
            self.there[node] = account
        if away is None and full is None:
            self.open[node] = account
        else:
            self._shut[node] = (away, full)
        if account.kept is not None:
            self._kept.add(node)
        if account.next_pardon() is not None:
            self._barred.add(node)


class _Round:
    def __init__(self, matching: Matching, ready: Ready, loads: Loads, now: float) -> None:
        self.matching, self.ready, self.loads, self.now = matching, ready, loads, now
        self.turn_of: dict[ResourceClass, Turn] = {}
        self.searches = SEARCHES
        self.kept_before = matching.release()
        self.kept: set[NodeId] = set()

    def run(self, heads: list[tuple[Rank, ResourceClass]], limit: int) -> list[Decision]:
        decisions: list[Decision] = []
        ready, loads, now, matching = self.ready, self.loads, self.now, self.matching
        heapq.heapify(heads)
        while heads and matching.open and len(decisions) < limit:
            rank, cls = heads[0]
            job = cls.job
            if loads.weight(job) != rank[1]:  # another class of its job was granted: its turn may be later
                heapq.heapreplace(heads, (ready.rank(cls, loads), cls))
                continue
            most = ready.limit_of(job)
            if most and loads.count(job) >= most:
                heapq.heappop(heads)
                continue
            turn = self.turn_of.get(cls)
            if turn is None:
                turn = self.turn_of[cls] = matching.turn(cls.shape, cls.priority, now)
            candidate = turn.best(now)
            if candidate is None or candidate.place is None:
                heapq.heappop(heads)
                if heads:
                    self._keep(cls, turn)
                continue
            task, shape = ready.pop(cls), cls.shape
            first, candidate = candidate, turn.nearer(candidate, matching.near(task), now)
            place, account = candidate.place, candidate.account
            assert place is not None, "who is chosen has room"
            near = candidate is not first
            decisions.append(Decision(task, account.node, place.alternative, place.devices, place, turn.ballot(), near))
            account.take(task.id, job, shape, place, now)
            loads.opened(job, shape.alternatives[place.alternative])
            if not turn.again(candidate, now):
                matching.fill(account)
            if cls.live:
                heapq.heapreplace(heads, (ready.rank(cls, loads), cls))
            else:
                heapq.heappop(heads)
        self._restore_kept(heads)
        return decisions

    # -- reservations --------------------------------------------------------------------------------------------------

    def _keep(self, cls: ResourceClass, turn: Turn) -> None:
        """The class is blocked: keep the node for it that can hold it soonest, the same one as before if it can.

        Classes of equal shape and priority wait for the same room; the first of them keeps it for all.
        """
        key = cls.key
        before = self.kept_before.pop(key, None)
        if turn.keeps:
            return
        turn.keeps = True
        if before is not None:
            account, kept = before
            candidate = turn.candidates.get(account.node)
            if candidate is not None and account.node not in self.kept and kept.alternative in candidate.alternatives:
                self._hold(
                    account, Kept(key, kept.alternative, kept.after, opening(account, kept.need, kept.after, self.now))
                )
                return
        if not self.searches or self._flows(cls, turn):
            return
        best: tuple[tuple[bool, float, NodeId, int], Account, int, Opening] | None = None
        for candidate in turn.candidates.values():
            account = candidate.account
            if account.node in self.kept:
                continue
            for index in candidate.alternatives:
                found = opening(account, cls.shape.alternatives[index], account.entered, self.now)
                soon = float(found.missing) if found.starts is None else found.starts
                order = (found.starts is None, soon, account.node, index)
                if best is None or order < best[0]:
                    best = (order, account, index, found)
        if best is not None:
            self.searches -= 1
            _order, account, index, found = best
            self._hold(account, Kept(key, index, account.entered, found))

    def _flows(self, cls: ResourceClass, turn: Turn) -> bool:
        """Whether it gets in somewhere within the allowance, without keeping anybody out."""
        last = turn.candidates.get(turn.flows)
        for candidate in (*(() if last is None else (last,)), *turn.candidates.values()):
            account = candidate.account
            if account.node not in self.kept and account.flows(cls.shape, candidate.alternatives):
                turn.flows = account.node
                return True
        return False

    def _hold(self, account: Account, kept: Kept) -> None:
        account.keep(kept)
        self.kept.add(account.node)

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
    holder = ClassKey(task.job, task.shape, priority, own)
    there = [accounts[node] for node in sorted(accounts) if accounts[node].away() is None]
    turn = Turn(task.shape, priority, params)
    turn.suppose(fastest(there, task.shape.kind), now)
    for account in accounts.values():
        turn.ask(account, account.away(), None, now, holder)
    candidate, ballot = turn.best(now), turn.ballot()
    waits = _waits(task, ready, loads, now)
    if candidate is not None and candidate.place is not None and not waits:
        return ballot.explain(candidate.account.node, candidate.place)
    nodes = []
    for node, verdict in ballot.verdicts():
        if isinstance(verdict, Place):
            nodes.append((node, True, ballot.why(verdict)))
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
