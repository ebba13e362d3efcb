"""The leader's side: workers' sessions, grants, and what is lost with a node.

What becomes of a task is ``tasks``'s decision; this module knows the nodes. Grants leave before they are synced (they
promise nothing); acknowledgements, acceptances and endings only once they are safe.

A leader passes through PULLING (it asks every eligible member for its journal), REBUILDING (it looks at each task that
is not settled, in slices) and OPEN (it grants everything, and may say that it does not know an id).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence

from mesh.core import owners
from mesh.core.account import Account
from mesh.core.checkpoints import of_task
from mesh.core.control import Control
from mesh.core.effects import Answer
from mesh.core.events import Asked, DeleteAsked, ForgetAsked, PinAsked, Submitted
from mesh.core.gathering import Gathering
from mesh.core.held import NOTHING
from mesh.core.identity import Me
from mesh.core.ids import NO_CLAIM, AttemptId, BlobId, Claim, JobId, Life, NodeId, TaskId, attempt_id, granter, job_of
from mesh.core.lattice import LOST, OFFERED, RELEASED, RUNNING, Attempt, Deleted, Outcome, Record, Resources, Task
from mesh.core.ledger import TaskState
from mesh.core.losses import Losses
from mesh.core.matching import Decision, Matching
from mesh.core.members import Members, Peer
from mesh.core.messages import Grant, Refused, Report, Spare
from mesh.core.outbox import Outbox
from mesh.core.owners import NOT_COUNTED
from mesh.core.params import Params
from mesh.core.puller import Puller
from mesh.core.ready import Loads
from mesh.core.session import Session, Talk
from mesh.core.spare import PINNED, SpareBlobs, pin_of
from mesh.core.tasks import Tasks

CLOSED, PULLING, REBUILDING, OPEN = "closed", "pulling", "rebuilding", "open"

PAST_DECISIONS = 1000
GRANTS_AT_ONCE = 500  # per step: 1,600 on 100 nodes took 58 ms, and no step may take longer than 20

DELETED = "its job was deleted"
REFUSED = "refused"  # RELEASED because that node cannot do such work at the moment


class Leader:
    def __init__(
        self,
        me: Me,
        params: Params,
        members: Members,
        puller: Puller,
        out: Outbox,
        holders: Callable[[BlobId], Collection[NodeId]] = lambda blob: (),
    ) -> None:
        """``holders``: who has a blob, as far as is known."""
        self.holders = holders
        self.me, self.params, self.members, self.puller, self.out = me, params, members, puller, out
        self.ledger = out.ledger
        self.phase = CLOSED
        self.claim: Claim = NO_CLAIM
        self.trouble = ""  # why nothing can be accepted: the journal
        self.tasks = Tasks(params, out, self._recall, self._confirmed)
        self.gathering = Gathering(params, members, puller, out)
        self.losses = Losses(params, members, out.ledger)
        self.control = Control(params, out, self.tasks, self._on_deleted, self.name)
        self.spare = SpareBlobs(params, out)
        self.loads = Loads()
        self.sessions: dict[NodeId, Session] = {}
        self.accounts: dict[NodeId, Account] = {}
        self._matching = Matching(params, self._near)  # of the accounts whose nodes have said all that they hold
        self.decisions: dict[AttemptId, Decision] = {}  # of open attempts: why they are where they are
        self.past: dict[TaskId, Decision] = {}  # of the last tasks that ended, for those who ask why afterwards
        self.progress: dict[AttemptId, bytes] = {}
        self._given: dict[
            AttemptId, tuple[Life, int]
        ] = {}  # open attempts that we granted -> life, and session with it
        self._minted = 0
        self._hold_until = 0.0  # grants nothing before: after a takeover, after a suspend
        self._until_declared = False  # or as soon as everybody who may run something has said what it runs
        self._talk = Talk()
        self._barred: set[NodeId] = set()  # whose accounts hold a bar, which is lifted after a while
        self._early: dict[NodeId, float] = {}  # who declared before the journals were read that tell of it, and when
        self._look_at = 0.0  # when it is next seen who is silent: once in a while, for that looks at every node
        self._rebuild: Iterator[TaskId] | None = None

    # -- opening and closing ----------------------------------------------------------------------------------------

    def open(self, claim: Claim, now: float, *, handed: NodeId = "") -> None:
        """Lead under this claim. An established leader pulls everybody's journal before it grants what it finds.

        ``handed``: the predecessor that flushed and yielded, so that its journal is enough. Else somebody may have
        granted what no journal knows, and what seems free is granted only after a moment in which workers declare.
        """
        self.gathering.open(claim, now, handed)
        first = self.phase == CLOSED
        was_provisional = not self.claim.established
        self.claim = self.tasks.claim = claim
        for node in self.sessions:
            self.losses.expect(node, now)
        self._clear_sessions()  # workers declare again to every claim
        self.loads = Loads()
        if first:
            self.tasks.open(claim)
            self.decisions.clear()
            self._given.clear()
            self.progress.clear()
            self.losses.clear()
        if first or (was_provisional and claim.established):
            self.phase, self._rebuild, self.tasks.everything = PULLING, None, False
            if claim.established:
                self.gathering.read_all(now)
                self._hold_until = now + (self.params.takeover_grace if self._known_others() and not handed else 0.0)
                self._until_declared = True
        self.tasks.dirty = True

    def close(self) -> None:
        self.phase, self.claim = CLOSED, NO_CLAIM
        self._clear_sessions()
        self._rebuild = None
        self.tasks.close()
        self.control.close()
        self.spare.close()

    def _clear_sessions(self) -> None:
        self.sessions.clear()
        self.accounts.clear()
        self._matching = Matching(self.params, self._near)
        self._talk.clear()
        self._early.clear()

    def on_heartbeat(self, peer: Peer, follows: Claim, why_not: str, now: float) -> None:
        """``why_not``: why it is not eligible."""
        if follows == self.claim and peer.role in ("auto", "worker") and peer.node not in self.sessions:
            self.out.send(peer.node, Refused(self.claim, alive=True))  # given up while it was out of sight: declare
        self.gathering.on_heartbeat(peer, follows == self.claim, why_not, now)

    def on_resumed(self, now: float) -> None:
        self._hold_until, self._until_declared = max(self._hold_until, now + self.params.resume_wait), False
        self.losses.on_resumed(now)

    def _known_others(self) -> bool:
        return bool(self.members.peers)

    # -- submissions and control ------------------------------------------------------------------------------------

    def on_submitted(self, event: Submitted, now: float) -> None:
        if self._refuses(event.call):
            return
        if not event.owner and any(task.shape.hold for task in event.tasks):
            text = "these tasks must not run twice, and their submission names no owner; upgrade the client"
            self.out.do(Answer(event.call, "MeshError", text))
            return
        problem = self.tasks.submit(event.job, event.tasks, now, event.owner)
        if problem:
            self.out.when_safe(Answer(event.call, "Conflict", problem))
        else:
            self._recognise({task.id for task in event.tasks}, now)
            self.out.when_safe(Answer(event.call, count=len(event.tasks)))

    def on_asked(self, event: Asked, now: float) -> None:
        if isinstance(event, DeleteAsked) and self.phase in (PULLING, REBUILDING):
            text = "nothing was deleted; the leader is still gathering journals, and may not know all of it; try again"
            self.out.do(Answer(event.call, "NoLeader", text))
        elif not self._refuses(event.call):
            self.control.on_asked(event, self.why_unknown(now), now)

    def on_forget(self, event: ForgetAsked, now: float) -> None:
        if self._refuses(event.call):
            return
        node = self.control.whom_to_forget(event, self.members, now)
        if node is not None:
            self.out.record(self.ledger.next_register(f"node/{node}", "forgotten", self.me.node, "1"))
            self._drop(node)
            self._lose_all(node, "its node was forgotten", now)
            self.out.when_safe(Answer(event.call, count=1))

    def on_pin(self, event: PinAsked) -> None:
        if self._refuses(event.call):
            return
        scope, value = pin_of(event.blob), "1" if event.pinned else ""
        if (self.ledger.value(scope, PINNED) or "") != value:
            if event.pinned and not self.holders(event.blob):
                text = f"no node that can be reached has blob {event.blob[:64]!r}; see `meshctl blobs`"
                self.out.do(Answer(event.call, "NotFound", text))
                return
            self.out.record(self.ledger.next_register(scope, PINNED, self.me.node, value))
        self.out.when_safe(Answer(event.call, count=1))

    def _refuses(self, call: int) -> bool:
        if self.phase != CLOSED and not self.trouble:
            return False
        why = self.trouble or "nobody leads here at the moment"
        self.out.do(Answer(call, "NoLeader", f"nothing was changed; {why}; try again"))
        return True

    def name(self, node: NodeId) -> str:
        peer = self.members.peers.get(node)
        return self.me.name if node == self.me.node else peer.name if peer is not None and peer.name else node

    def why_unknown(self, now: float) -> str:
        """Why an id that is not known here may exist all the same; empty: it does not."""
        if self.phase != OPEN:
            return "the leader is still gathering journals"
        away = self.gathering.unread(now)
        return f"members that might know it are away, or were not asked yet: {', '.join(away)}" if away else ""

    # -- reports ----------------------------------------------------------------------------------------------------

    def on_report(self, sender: NodeId, report: Report, now: float) -> None:
        if self.phase == CLOSED:
            return
        session = self._session(sender, report, now)
        acks: list[AttemptId] = []
        unknown: list[AttemptId] = []
        for attempt in report.attempts:
            if self.ledger.is_deleted(attempt.task):  # nothing of it is kept, by the worker neither
                if attempt.ended:
                    acks.append(attempt.id)
                    self._closed(attempt)
                elif session is not None and session.complete:
                    session.recall(attempt.id, DELETED)
                continue
            if not self._knows(attempt.task):
                unknown.append(attempt.id)
                if session is not None:
                    session.strangers[attempt.id] = attempt
                continue
            changed = self.out.record(attempt)
            if attempt.ended:
                acks.append(attempt.id)
                self._closed(attempt)
                if attempt.phase == RELEASED and attempt.outcome.code == REFUSED:
                    account = self.accounts.get(attempt.node)
                    if account is not None:
                        shape = self.tasks.spec(attempt.task).shape
                        account.bar(shape.cwd or shape, attempt.outcome.message, now)
                        self._barred.add(attempt.node)
                self.tasks.consider(attempt.task, now)
            elif session is not None and attempt.phase == RUNNING:
                self.accounts[sender].begun(attempt.task, now)
            if changed and not attempt.ended:
                self.tasks.consider(attempt.task, now)  # it may have been held lost, or be one of two
                if session is None:
                    self._find_place(attempt.task, now)  # it was given up while this was on its way
        under_way = self.ledger.open.get(sender, {})  # what a former leader granted too
        self.progress.update(entry for entry in report.progress if entry[0] in under_way)
        if session is not None:
            session.on_report(report)
            if report.bid is not None:
                self._bid(session, report, now)
            if session.declared_whole:
                self._reconcile_when_told(session, now)
            if acks or unknown:
                answer = session.answer(self.claim, tuple(acks), tuple(unknown))
                self.out.when_safe(lambda: self.out.send(sender, answer))
        self.tasks.dirty = True

    def _knows(self, task: TaskId) -> bool:
        state = self.ledger.known(task)
        return state is not None and state.spec is not None

    def _session(self, sender: NodeId, report: Report, now: float) -> Session | None:
        """The session of a worker that follows our claim; each declaration starts a new one."""
        if report.claim != self.claim:
            return None
        peer = self.members.peers.get(sender)
        if peer is not None and peer.life != report.life:
            return None  # a former life of it spoke
        session = self.sessions.get(sender)
        if session is not None and session.life == report.life and report.session <= session.number:
            return session if report.session == session.number else None
        if not report.declares:
            # What it holds is not known (we had given it up): it has to declare.
            self.out.send(sender, Refused(self.claim, alive=True))
            return None
        self._drop(sender)
        session = self.sessions[sender] = Session(sender, report.life, report.session, self._talk)
        self.accounts[sender] = Account(sender)
        self.losses.declared(sender)
        return session

    def _bid(self, session: Session, report: Report, now: float) -> None:
        assert report.bid is not None
        self.accounts[session.node].apply_bid(report.bid, session.uncounted())
        for what, why in report.cannot:
            self.accounts[session.node].bar(what, why, now)
            self._barred.add(session.node)

    def _reconcile_when_told(self, session: Session, now: float) -> None:
        """What it does not hold any more may have ended, and who granted it knows: that one's journal is read first.

        It stepped down a moment ago, say, and its own worker keeps nothing that it acknowledged itself.
        """
        since = self._early.setdefault(session.node, now)
        waits = self.claim.established and now - since < self.params.lost_after
        granters = {granter(a.id) for a in self._open_on(session.node) if a.id not in session.declared}
        if not waits or not any(self.gathering.may_tell(node, now) for node in sorted(granters)):
            del self._early[session.node]
            self._reconcile(session, now)

    def _reconcile(self, session: Session, now: float) -> None:
        """A declaration is complete: what the ledger believes to be open there, and is not, never will be."""
        declared = session.declared
        session.complete, session.declared_whole = True, False
        self._talk.speaking.add(session.node)
        self._matching.add(self.accounts[session.node])
        for attempt in self._open_on(session.node):
            if attempt.id not in declared and attempt.id not in session.open:
                given = self._given.get(attempt.id)
                # Of a grant that another leader made it is not known to which life; then it is held against nobody.
                arrived = attempt.phase != OFFERED or (given is not None and given[0] != session.life)
                if self._held(attempt.task):  # and if it followed somebody else meanwhile, it may have ended it there
                    arrived |= given != (session.life, session.number - 1)
                self._lose(attempt, "its process ended" if arrived else NOT_COUNTED, now)
        for attempt in declared.values():
            self._adopt(session, attempt, now)
        session.declared = {}

    def _held(self, task: TaskId) -> bool:
        """Whether that an attempt never began has to be certain."""
        spec = self.ledger.tasks[task].spec
        return spec is None or spec.shape.hold

    def _open_on(self, node: NodeId) -> list[Attempt]:
        found = sorted(self.ledger.open.get(node, {}).items())
        return [self.ledger.tasks[task].attempts[name] for name, task in found]

    def _adopt(self, session: Session, attempt: Attempt, now: float) -> None:
        """An attempt that another leader granted runs on, and counts against its node and its job."""
        if self.ledger.is_deleted(attempt.task) and not attempt.ended:
            session.recall(attempt.id, DELETED)
        state = self.ledger.known(attempt.task)
        if attempt.id in session.open or state is None or state.spec is None or state.attempts[attempt.id].ended:
            return
        session.open[attempt.id] = (attempt.task, NOTHING, (), 0)
        account = self.accounts[session.node]
        if not account.holds(attempt.task):  # two leaders may have granted it there
            account.hold(attempt.task, state.spec.job, state.spec.shape, None, (), now)
            self.loads.opened(state.spec.job, NOTHING)
        self.tasks.consider(attempt.task, now)  # it may be one of two

    def _closed(self, attempt: Attempt) -> None:
        """Give back what an open attempt held."""
        decision = self.decisions.pop(attempt.id, None)
        if decision is not None:
            self.past[attempt.task] = decision
            if len(self.past) > PAST_DECISIONS:
                del self.past[next(iter(self.past))]
        self.progress.pop(attempt.id, None)
        self._given.pop(attempt.id, None)
        session = self.sessions.get(attempt.node)
        if session is not None and session.open.pop(attempt.id, None) is not None:
            held = self.accounts[attempt.node].drop(attempt.task)
            if held is not None:
                self.loads.closed(held.job, held.need)

    # -- loss -------------------------------------------------------------------------------------------------------

    def on_gone(self, node: NodeId, now: float) -> None:
        """A node's process is known not to exist: nothing runs there any more."""
        if self.phase != CLOSED:
            self._drop(node)
            self._lose_all(node, "its process ended", now)

    def _drop(self, node: NodeId) -> None:
        self.sessions.pop(node, None)
        self._talk.forget(node)
        self._early.pop(node, None)
        self._matching.remove(node)
        account = self.accounts.pop(node, None)
        if account is not None:
            for kind in account.kinds.values():
                for held in kind.held.values():
                    self.loads.closed(held.job, held.need)

    def _lose_all(self, node: NodeId, why: str, now: float) -> None:
        for attempt in self._open_on(node):
            self._lose(attempt, why, now)

    def _lose(self, attempt: Attempt, code: str, now: float) -> None:
        self._closed(attempt)
        self.out.record(attempt._replace(phase=LOST, outcome=Outcome(code=code)))
        self.tasks.consider(attempt.task, now)

    def _recall(self, attempt: Attempt, reason: str) -> None:
        session = self.sessions.get(attempt.node)
        if session is not None:
            session.recall(attempt.id, reason)

    def _confirmed(self, attempt: Attempt) -> bool:
        session = self.sessions.get(attempt.node)
        return session is not None and attempt.id in session.open

    def on_records(self, records: Sequence[Record], now: float, journal: str) -> None:
        """Records that came by way of another journal, joined already."""
        if self.phase == CLOSED:
            return
        learnt = [record.id for record in records if isinstance(record, Task)]
        if learnt and self.gathering.reading(journal, now):
            self.tasks.learn(journal, learnt)
        self._recognise(set(learnt), now)
        doubted: set[NodeId] = set()
        for record in records:
            if isinstance(record, Deleted):
                self._on_deleted(record.job)
            if not isinstance(record, Attempt):
                continue
            session = self.sessions.get(record.node)
            if record.ended:
                self._closed(record)
            elif record.phase != LOST:
                self._find_place(record.task, now)
            elif session is not None and record.id in session.open:
                doubted.add(record.node)
        for node in sorted(doubted):
            # Another leader lost it out of sight, and here it runs: its node says so again, before it is granted again.
            self.out.send(node, Refused(self.claim, alive=True))
            self._hold_until, self._until_declared = max(self._hold_until, now + self.params.takeover_grace), False
        self.tasks.on_records(records, now)

    def _on_deleted(self, job: JobId) -> None:
        """What was declared of it, when it was not known here; what was known goes with :meth:`on_purged`."""
        for node in sorted(self.sessions):
            session = self.sessions[node]
            for name in [name for name, each in session.strangers.items() if job_of(each.task) == job]:
                if not session.strangers.pop(name).ended and session.complete:
                    session.recall(name, DELETED)

    def on_purged(self, tasks: Sequence[tuple[TaskId, TaskState]]) -> None:
        """Tasks of deleted jobs. What runs of them is stopped, and counts against its node until that says it ended."""
        for task, state in tasks:
            self.tasks.forget(task)
            self.past.pop(task, None)
            for attempt in state.tries:
                self.decisions.pop(attempt.id, None)
                self.progress.pop(attempt.id, None)
                self._given.pop(attempt.id, None)
                session = self.sessions.get(attempt.node)
                if not attempt.ended and session is not None and session.complete:
                    session.recall(attempt.id, DELETED)

    def _recognise(self, tasks: set[TaskId], now: float) -> None:
        """These tasks are known from now on, and workers may have declared attempts at them before."""
        for node in sorted(node for node, session in self.sessions.items() if session.strangers):
            session = self.sessions[node]
            for name in [name for name, attempt in session.strangers.items() if attempt.task in tasks]:
                attempt = session.strangers.pop(name)
                self.out.record(attempt)
                self._adopt(session, attempt, now)
                self.tasks.consider(attempt.task, now)

    # -- at the end of every step -----------------------------------------------------------------------------------

    def work(self, now: float) -> None:
        if self.phase != CLOSED:
            self._advance(now)
            for node in sorted(self._early):
                self._reconcile_when_told(self.sessions[node], now)
            self._watch(now)
            wake = self.tasks.ready.next_wake()
            if wake is not None and now >= wake:
                self.tasks.dirty = True
            if self.tasks.dirty and not self.trouble:
                if now < self._hold_until:
                    self._see_who_declared(now)
                if now >= self._hold_until:
                    self._match(now)
            for node in self._talk.due(self.params, now):
                self.sessions[node].send(self.claim, self.params, self.out, now)
        self.tasks.tell()

    def on_spare(self, node: NodeId, question: Spare) -> None:
        if question.claim == self.claim and self.phase != CLOSED:
            self.spare.ask(node, question)

    def _advance(self, now: float) -> None:
        self.control.advance()
        if self.spare.busy:
            # What members know that are away is kept on their side.
            self.spare.advance(self.claim, "" if self.phase == OPEN else "the leader is still gathering journals")
        for journal in [each for each in self.tasks.half_read if not self.gathering.reading(each, now)]:
            self.tasks.read(journal)
        self.tasks.advance(now)
        if self.phase == PULLING and (self.claim.established or not self._known_others()):
            if self.gathering.under_way(now):
                return
            self.phase, self._rebuild, self.tasks.everything = (
                REBUILDING,
                iter([*self.ledger.unsettled, *self.tasks.take_unshown()]),
                True,
            )
        if self.phase == REBUILDING and self._rebuild is not None:
            for _, task in zip(range(self.params.slice_records), self._rebuild, strict=False):
                self._find_place(task, now)
                self.tasks.consider(task, now)
            self.tasks.dirty = True
            if self._rebuild.__length_hint__() == 0:  # type: ignore[attr-defined]  # a list iterator has one
                self.phase, self._rebuild = OPEN, None

    def _see_who_declared(self, now: float) -> None:
        """Once everybody known who may run what no journal knows has said what it runs, a takeover waits no longer."""
        if not self._until_declared or self.phase != OPEN:
            return
        for peer in self.members.known():
            session = self.sessions.get(peer.node)
            if not peer.gone and peer.role not in ("leader", "observer") and (session is None or not session.complete):
                return
        self._hold_until = now

    def _find_place(self, task: TaskId, now: float) -> None:
        """Of open attempts found in a journal: their node declares them, or they are lost after ``lost_after``."""
        state = self.ledger.known(task)
        for attempt in state.open_attempts() if state is not None else ():
            session = self.sessions.get(attempt.node)
            if session is None:
                self.members.doubt_gone(attempt.node)
                self.losses.expect(attempt.node, now)
            elif session.complete and attempt.id not in session.open and attempt.id not in session.strangers:
                # It said what it holds, but this may have been granted since, by a leader beside us: it says so again.
                self._drop(attempt.node)
                self.losses.expect(attempt.node, now)
                self.out.send(attempt.node, Refused(self.claim, alive=True))

    def _watch(self, now: float) -> None:
        """Silent workers get nothing more; after ``lost_after`` what runs there is LOST."""
        for node in sorted(self.sessions) if now >= self._look_at else ():
            self._look_at = now + self.params.heartbeat / 2
            if node == self.me.node or self.members.is_alive(node, now):
                continue
            self._drop(node)
            self.losses.fell_silent(node, now)
        for node in sorted(self._barred):
            account = self.accounts.get(node)
            pardon = None if account is None else account.next_pardon()
            if account is None or pardon is None:
                self._barred.discard(node)
            elif now >= pardon:
                account.pardon(now)
                self.tasks.dirty = True
        for node, why in self.losses.due(now):
            self._lose_all(node, why, now)

    def deadline(self) -> float | None:
        if self.phase == CLOSED:
            return None
        wake = None if self.trouble else self.tasks.ready.next_wake()
        times = [None if wake is None else max(wake, self._hold_until), self.losses.deadline()]
        times.extend(self.accounts[node].next_pardon() for node in self._barred if node in self.accounts)
        times.append(self._talk.deadline(self.params))
        times.extend(since + self.params.lost_after for since in self._early.values())
        if self.tasks.dirty and not self.trouble:
            times.append(self._hold_until)
        if self._rebuild is not None or self.control.busy or self.tasks.busy or self.spare.busy:
            times.append(0.0)
        return min((time for time in times if time is not None), default=None)

    # -- granting ---------------------------------------------------------------------------------------------------

    def _match(self, now: float) -> None:
        self.tasks.dirty = False
        decisions = self._matching.match(self.tasks.ready, self.loads, now, GRANTS_AT_ONCE)
        for decision in decisions:
            self._grant(decision, now)
        if len(decisions) >= GRANTS_AT_ONCE:
            self.tasks.dirty = True  # there may be more: in the next step

    def _near(self, task: Task) -> Collection[NodeId]:
        """The nodes that have most of the blobs that it reads, its newest checkpoint among them."""
        state = self.ledger.tasks[task.id]
        resume = of_task(state.tries, task.shape.checkpoints)[:1] if state.tries else ()
        blobs = (*task.needs, *(checkpoint.blob for checkpoint in resume))
        if not blobs:
            return ()
        counts = Counter(node for blob in blobs for node in self.holders(blob))
        most = max(counts.values(), default=0)
        return [node for node, count in counts.items() if count == most]

    def _grant(self, decision: Decision, now: float) -> None:
        task = decision.task
        self._minted += 1
        name = attempt_id(self.claim, self._minted)
        state = self.ledger.tasks[task.id]
        run = state.run
        session = self.sessions[decision.node]
        attempt = Attempt(task.id, name, False, 0, OFFERED, run, decision.node)
        self.out.record(attempt)
        self.decisions[name] = decision
        self._given[name] = (session.life, session.number)
        priority = self.tasks.priority(task)[0]
        need: Resources = task.shape.alternatives[decision.alternative]
        resume = of_task(state.tries, task.shape.checkpoints)
        grant = Grant(name, run, task, priority, decision.devices, decision.alternative, resume)
        if not task.shape.hold:
            session.grant(grant, need)
            return
        session.reserve(grant, need)
        claim = self.claim

        def issue() -> None:
            still = self.claim == claim and self.sessions.get(decision.node) is session and session.wants(name)
            stands = still and owners.stands(self.ledger, self.me.node, attempt)
            if stands and not self.tasks.ready.is_paused(task.job):
                session.grant(grant, need)
            else:
                self._take_back(attempt, now)

        self.out.when_durable(issue)

    def _take_back(self, attempt: Attempt, now: float) -> None:
        """What was granted on paper alone, for things changed before it was on disk."""
        if self.phase != CLOSED:
            self._lose(attempt, NOT_COUNTED, now)
        else:
            self.out.record(attempt._replace(phase=LOST, outcome=Outcome(code=NOT_COUNTED)))

    # -- invariants -------------------------------------------------------------------------------------------------

    def check(self, *, whole: bool = False) -> None:
        if self.phase == CLOSED or not whole:
            return
        self.tasks.check()
        for node, session in self.sessions.items():
            for attempt, (task, *_rest) in session.open.items():
                state = self.ledger.known(task)
                known = None if state is None else state.attempts.get(attempt)
                assert known is None or not known.ended, f"{attempt} ended and is kept as open on {node}"
