"""Clients: they call whatever node they find, again until it is answered, at times twice, and remember the answers.

What was acknowledged and shown here is what a person may rely on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from mesh.core import effects as do
from mesh.core import events as ev
from mesh.core.ids import JobId, NodeId, TaskId, job_of
from mesh.core.lattice import Job, Task
from mesh.core.ledger import DONE

if TYPE_CHECKING:
    from tests.sim.world import Host, World

PATIENCE = 3.0
CAUGHT_UP = 8.0  # seconds without a disturbance after which a leader has successors that count
JOINED = 3.0  # seconds after two met for the first time, by when one follows the other and copies it
Holders: TypeAlias = tuple[float, tuple[NodeId, ...]]  # when, and on whose disks something was
HOPS = 2  # of forwarding, as mesh.shell.server


class Request:
    """``done`` is called once with the first final answer and the host that gave it."""

    def __init__(self, build: Callable[[int], ev.Event], done: Callable[[do.Answer, Host], None]) -> None:
        self.build, self.done = build, done
        self.answered = False
        self.tries = 0


class Call:
    def __init__(self, request: Request) -> None:
        self.request = request
        self.tasks: tuple[TaskId, ...] = ()  # that it submits
        self.position = 0  # of the journal, when the machine had taken the call


class Clients:
    def __init__(self, world: World) -> None:
        self.world = world
        self.jobs: dict[JobId, Job] = {}
        self.tasks: dict[TaskId, Task] = {}  # submitted
        self.acknowledged: dict[TaskId, set[str]] = {}  # and the lives that did
        self.held: dict[TaskId, list[Holders]] = {}  # where each acknowledgement said that it is
        self.cancelled: dict[TaskId, list[Holders]] = {}  # and the same of each cancellation that was acknowledged
        self.forced = False
        self.retried: set[TaskId] = set()
        self.owners: dict[JobId, NodeId] = {}  # whom its client named, with the first slice of hold tasks
        self.paused: list[JobId] = []
        self.deleting: set[JobId] = set()  # somebody asked to delete them
        self.deleted: dict[JobId, list[Holders]] = {}  # and was told that they are, and where that is
        self.submitted: dict[str, set[JobId]] = {}  # to each life
        self.shown: dict[tuple[TaskId, str], list[Holders]] = {}  # digests of accepted results that clients were told
        self.open = 0
        self._calls: dict[tuple[int, int], Call] = {}
        self._numbers = 0
        self._leader: Host | None = None  # that answered last

    # -- what they ask ----------------------------------------------------------------------------------------------

    def submit(self, job: Job, tasks: Sequence[Task]) -> None:
        """In a few slices, which may overtake each other; now and then the whole of it twice."""
        rng = self.world.rng
        self.jobs[job.id] = job
        self.tasks.update((task.id, task) for task in tasks)
        size = rng.choice((len(tasks), len(tasks), 4))
        slices = [tuple(tasks[at : at + size]) for at in range(0, len(tasks), size)]
        rng.shuffle(slices)
        for part in slices:
            for _ in range(2 if rng.random() < 0.2 else 1):
                self.ask(lambda call, part=part: self._submission(call, job, part), self._submitted(part))  # type: ignore[misc]

    def _submission(self, call: int, job: Job, part: tuple[Task, ...]) -> ev.Submitted:
        return ev.Submitted(call, job, part, self.owners.get(job.id, "") if part[0].shape.hold else "")

    def _submitted(self, part: tuple[Task, ...]) -> Callable[[do.Answer, Host], None]:
        def done(answer: do.Answer, host: Host) -> None:
            job = part[0].job
            if answer.error == "Conflict" and job in self.deleting:
                return
            if answer.error:
                self.world.violate(f"submission of {part[0].id} was refused: {answer.error} {answer.message}")
            if self.is_deleted(job) and self.world.calmed and host in self.world.leaders():
                self.world.violate(f"{host.name} takes {job} again, which was deleted")
            for task in part:
                self.acknowledged.setdefault(task.id, set()).add(host.life)
                self.held.setdefault(task.id, []).append((self.world.now, answer.durable_on))

        return done

    def survives(self, promises: list[Holders]) -> bool:
        """Whether one of these was made of what is not lost with the disks that it was on."""
        return any(self.world.survives(nodes, since) for since, nodes in promises)

    def ask_again(self) -> None:
        """A submission repeated is the same submission, and the same id with other contents is refused."""
        for task in list(self.tasks.values())[::10]:
            if not self.survives(self.held.get(task.id, [])):
                continue
            job = self.jobs[task.job]
            self.ask(lambda call, job=job, task=task: self._submission(call, job, (task,)), self._submitted((task,)))  # type: ignore[misc]
            other = task._replace(digest="other")
            self.ask(lambda call, job=job, other=other: self._submission(call, job, (other,)), self._refused)  # type: ignore[misc]

    def _refused(self, answer: do.Answer, host: Host) -> None:
        if answer.error != "Conflict":
            self.world.violate(f"{host.name} took a known id with other contents: {answer}")

    def cancel(self, target: JobId | TaskId, tasks: Sequence[TaskId]) -> None:
        for task in tasks:
            self.cancelled.setdefault(task, [])

        def done(answer: do.Answer, host: Host) -> None:
            self._known(answer, host, tasks)
            for task in tasks if not answer.error and answer.count == len(tasks) else ():
                self.cancelled[task].append((self.world.now, answer.durable_on))

        self.ask(lambda call: ev.CancelAsked(call, target), done)

    def delete(self, job: JobId, tasks: Sequence[TaskId], tries: int = 6) -> None:
        """Again a little later where it has not ended yet."""
        self.deleting.add(job)

        def done(answer: do.Answer, host: Host) -> None:
            if not answer.error:
                self.deleted.setdefault(job, []).append((self.world.now, answer.durable_on))
                if ("deleted", job) not in host.disk.known:
                    self.world.violate(f"{host.name} says that {job} is deleted before that is on its disk")
            elif answer.error == "Conflict" and tries:
                self.world.after(5.0, self.delete, job, tasks, tries - 1)
            elif answer.error != "Conflict":
                self._known(answer, host, tasks)

        self.ask(lambda call: ev.DeleteAsked(call, job), done)

    def is_deleted(self, job: JobId) -> bool:
        """Whether it must be, for good: that was acknowledged, and not all is lost that was acknowledged so."""
        return self.survives(self.deleted.get(job, []))

    def retry(self, target: JobId | TaskId, tasks: Sequence[TaskId]) -> None:
        self.retried.update(tasks)
        self.ask(lambda call: ev.RetryAsked(call, target), lambda a, h: self._known(a, h, tasks))

    def force_some(self) -> None:
        """People see what waits for a machine that may never return, and run a part of it all the same."""
        (leader, *_) = self.world.leaders() or (None,)
        if leader is None:
            self.world.after(1.0, self.force_some)
            return
        self.forced = True
        assert leader.machine is not None
        for name, task in self.tasks.items():
            state = leader.machine.ledger.tasks.get(name)
            waits = task.shape.hold and state is not None and leader.machine.leader.tasks.waits(name)
            if waits and self.world.rng.random() < 0.5:
                self.retried.add(name)
                self.ask(lambda call, name=name: ev.RetryAsked(call, name, True), lambda a, h: None)  # type: ignore[misc]

    def prioritise(self, target: JobId | TaskId, tasks: Sequence[TaskId], priority: int) -> None:
        self.ask(lambda call: ev.PriorityAsked(call, target, priority), lambda a, h: self._known(a, h, tasks))

    def pause(self, job: JobId, tasks: Sequence[TaskId], seconds: float) -> None:
        """And resume it: a person who pauses a job wants it finished some time."""

        def paused(answer: do.Answer, host: Host) -> None:
            self._known(answer, host, tasks)
            self.paused.append(job)
            self.world.after(seconds, self._resume, job)

        self.ask(lambda call: ev.PauseAsked(call, job, True), paused)

    def _resume(self, job: JobId) -> None:
        self.ask(lambda call: ev.PauseAsked(call, job, False), lambda a, h: self._known(a, h, ()))

    def resume_all(self) -> None:
        """Where one leader paused and another, who did not know, resumed, either may win: people look again."""
        for job in self.paused:
            self._resume(job)

    def forget(self, node: NodeId) -> None:
        """A person says that it was destroyed, as soon as there is a leader that knows it."""

        def done(answer: do.Answer, host: Host) -> None:
            if answer.error == "Conflict" and "it is alive" in answer.message:  # not silent for long enough yet
                self.world.after(5.0, self.forget, node)
            elif answer.error not in ("", "NotFound"):
                self.world.violate(f"{host.name} does not forget {node}: {answer.message}")

        self.ask(lambda call: ev.ForgetAsked(call, node), done)

    def _known(self, answer: do.Answer, host: Host, tasks: Sequence[TaskId]) -> None:
        """A leader may deny what it never heard of, but not what a member that it knows has acknowledged."""
        if answer.error == "NotFound":
            assert host.machine is not None
            known = {peer.life for peer in host.machine.members.peers.values()} | {host.life}
            for task in tasks:
                if job_of(task) in self.deleting:
                    continue
                if self.acknowledged.get(task, set()) & known and self.survives(self.held[task]):
                    self.world.violate(f"{host.name} denies {task}: {answer.message}")

    # -- how they ask -----------------------------------------------------------------------------------------------

    def ask(self, build: Callable[[int], ev.Event], done: Callable[[do.Answer, Host], None]) -> None:
        self.open += 1
        self._try(Request(build, done))

    def _try(self, request: Request) -> None:
        if request.answered:
            return
        request.tries += 1
        rng = self.world.rng
        up = [host for host in self.world.hosts if host.machine is not None]
        if up:
            host = self._leader if self._leader in up and rng.random() < 0.6 else rng.choice(up)
            self.world.after(rng.uniform(0.0002, 0.002), self._enter, request, host, 0)
        self.world.after(PATIENCE, self._again, request, request.tries)

    def _again(self, request: Request, tries: int) -> None:
        if request.tries == tries:
            self._try(request)

    def _enter(self, request: Request, host: Host, hops: int) -> None:
        machine = host.machine
        if machine is None and host.power:  # the connection is refused
            self.world.after(0.2, self._try, request)
        if machine is None or host.asleep_since is not None:
            return
        if not machine.leading and hops < HOPS:
            address = machine.leader_address()
            other = next((h for h in self.world.hosts if h.address == address), None)
            if other is not None and other is not host:
                if not self.world.net.is_cut(host, other):
                    self.world.after(0.001, self._enter, request, other, hops + 1)
                return
        self._numbers += 1
        number = self._numbers
        call = self._calls[host.index, number] = Call(request)
        event = request.build(number)
        if type(event) is ev.Submitted and event.tasks[0].shape.hold and not event.owner:
            # mesh.client.channel asks who leads before it sends the first slice; it may be another one by now.
            self.owners[event.job.id] = host.node if machine.leading or not self._leader else self._leader.node
            event = request.build(number)
        if type(event) is ev.Submitted:
            self.submitted.setdefault(host.life, set()).add(event.job.id)
            call.tasks = tuple(task.id for task in event.tasks)
        self.world.feed(host, event)
        call.position = machine.out.position

    def answered(self, host: Host, answer: do.Answer) -> None:
        call = self._calls.pop((host.index, answer.call), None)
        if call is None:
            return
        if answer.error == "NoLeader":
            self.world.after(0.5, self._try, call.request)
            return
        if not answer.error:
            assert host.machine is not None
            missing = [task for task in call.tasks if not host.disk.has_task(task)]
            if missing or len(host.disk.records) < call.position:
                self.world.violate(f"{host.name} acknowledged call {answer.call} before it was on its disk")
            self._check_copies(host, answer, call.tasks)
        if not call.request.answered:
            call.request.answered = True
            self.open -= 1
            if not answer.error:
                self._leader = host
            call.request.done(answer, host)

    def _check_copies(self, host: Host, answer: do.Answer, tasks: Sequence[TaskId]) -> None:
        """What an answer says of the disks is so, and where it can be on two it is."""
        for other in self.world.hosts:
            if other.node in answer.durable_on and other.plan.ulid not in self.world.copied:
                missing = [task for task in tasks if not other.disk.has_task(task)]
                if missing:
                    self.world.violate(f"{host.name} says that {missing[0]} is durable on {other.name}: it is not")
        self._check_two(host, f"call {answer.call}", answer.durable_on)

    def _check_two(self, host: Host, what: str, durable_on: tuple[NodeId, ...]) -> None:
        if len(durable_on) < 2 and self.world.calm_for > CAUGHT_UP:
            others = (h for h in self.world.hosts if h is not host and not self.world.net.is_cut(host, h))
            able = [h.name for h in others if h.may_lead and _able(h) and _acquainted(host, h)]
            if able:
                self.world.violate(f"{host.name} answers {what} with one copy, and {able} are there for another")

    def lost(self, host: Host) -> None:
        """Its process is gone: who waited for it tries elsewhere."""
        for key in [key for key in self._calls if key[0] == host.index]:
            self.world.after(0.2, self._try, self._calls.pop(key).request)

    def told(self, host: Host, tasks: Sequence[TaskId]) -> None:
        assert host.machine is not None
        for task in tasks:
            state = host.machine.ledger.known(task)
            if state is None:  # in the same step it was deleted
                continue
            accepted = state.accepted()
            if (
                state.state == DONE
                and accepted is not None
                and ("acceptance", task, accepted.attempt) in host.disk.known
            ):
                fact = ("acceptance", task, accepted.attempt)
                holders = tuple(h.node for h in self.world.hosts if fact in h.disk.known)
                self.shown.setdefault((task, accepted.digest), []).append((self.world.now, holders))
                self._check_two(host, f"what became of {task}", holders)


def _acquainted(one: Host, other: Host) -> bool:
    """Whether either met the other a while ago: who was cut off from its start may not have been found yet.

    Of a copied state directory, whether both have: who is linked with one life of it refuses the other.
    """
    met = []
    for host, other_host in ((one, other), (other, one)):
        peer = None if host.machine is None else host.machine.members.peers.get(other_host.node)
        met.append(
            peer is not None and peer.life == other_host.life and host.local(one.disk.world.now) - peer.met > JOINED
        )
    copied = one.disk.world.copied & {one.plan.ulid, other.plan.ulid}
    return all(met) if copied else any(met)


def _able(host: Host) -> bool:
    """Whether it can be a successor, and has been for long enough to know everything."""
    machine = host.machine
    disk = host.disk
    well = disk.well_for() > CAUGHT_UP and disk.slow == 1.0 and disk.world.now - disk.slow_until > CAUGHT_UP
    return host.up and machine is not None and well and not machine.election.draining
