"""One world from its seed to its end."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from tests.sim.endings import judge, unsettled
from tests.sim.faults import Faults
from tests.sim.invariants import Watcher
from tests.sim.plans import JobPlan, Plan, plan_of
from tests.sim.world import World


@dataclass(frozen=True)
class Result:
    seed: int
    violations: tuple[str, ...]
    steps: int
    seconds: float  # virtual
    trace: str


def build(seed: int, plan: Plan | None = None) -> World:
    """The world of this seed, watched."""
    world = World(seed, plan or plan_of(seed))
    Watcher(world)
    return world


def play(world: World) -> Result:
    """Start, submit, break, mend, wait until it has settled and stays so. The first violation ends it."""
    try:
        _play(world)
    except AssertionError as error:
        world.violate(f"assertion: {error}")
    return Result(world.seed, tuple(world.violations), world.steps, world.now, world.trace())


def _play(world: World) -> None:
    plan, faults = world.plan, Faults(world)
    for host in world.hosts:
        world.at(host.plan.joins_at, world.start, host)
    meddled = 0.0  # the last time
    for job in plan.jobs:
        world.at(job.at, world.clients.submit, job.job, job.tasks)
        meddled = max(meddled, _meddle(world, job))
    _exchange(world)
    faults.plan()
    if plan.deletes:
        for job in plan.jobs:
            _delete(world, job)
    wrong = lambda: bool(world.violations)  # noqa: E731
    world.run_until(plan.fault_time + 20.0, wrong)  # by then the last of a series has struck
    world.run_until(plan.fault_time + 45.0, lambda: wrong() or (world.now >= meddled and faults.over()))
    if wrong():
        return
    faults.calm()
    for seconds in (60.0, 70.0) if plan.saves else ():
        world.after(seconds, world.blobs.doubt)
    world.after(30.0, world.clients.resume_all)
    world.after(50.0, world.clients.force_some)
    lowest = min((host for host in world.hosts if host.may_lead), key=lambda host: host.node)
    if not world.run_until(world.now + plan.limit, lambda: wrong() or not unsettled(world)):
        world.violate(f"never settled: {unsettled(world)}")
        return
    # Long enough for a lower id to ask for the leadership, and for what was thought over to come apart.
    losses = lowest.machine.election.losses if lowest.machine is not None else 0
    steady = plan.settle * 2.0**losses
    if world.run_until(world.now + min(steady, 30.0) + 8.0, wrong):
        return
    world.clients.ask_again()
    if not world.run_until(world.now + 60.0, lambda: wrong() or not unsettled(world)):
        world.violate(f"settled, then came apart: {unsettled(world)}")
        return
    if not wrong():
        _restart_one(world)
    if not wrong():
        judge(world)


def _exchange(world: World) -> None:
    """A few blobs are put, and fetched elsewhere. Drawn apart, so that all else is as it was without."""
    rng = Random(f"blobs/{world.seed}")
    for _ in range(4):
        world.at(rng.uniform(0.5, 45.0), world.blobs.put, rng.choice(world.hosts))
        world.at(rng.uniform(5.0, 60.0), world.blobs.fetch, rng.choice(world.hosts))


def _restart_one(world: World) -> None:
    """Neither the end nor the return of one that follows disturbs a working group."""
    (leader,) = world.leaders()
    followers = [host for host in world.hosts if host.machine is not None and host is not leader]
    host = world.rng.choice(followers)
    assert leader.machine is not None
    claim = leader.machine.election.claim
    world.crash(host)
    world.run_until(world.now + 0.5)
    world.start(host)
    world.run_until(world.now + min(1.8, world.plan.settle - 0.2))  # before a lower id may ask for the leadership
    leaders = world.leaders()
    yielded = len(leaders) == 1 and leaders[0].node < leader.node and leaders[0] is not host  # it had settled by now
    if not yielded and (leaders != [leader] or leader.machine.election.claim != claim):
        world.violate(f"{host.name} was started again, and {leader.name} no longer leads under {claim}")
    elif not world.run_until(world.now + 60.0, lambda: bool(world.violations) or not unsettled(world)):
        world.violate(f"{host.name} was started again, and then: {unsettled(world)}")


def _delete(world: World, job: JobPlan) -> None:
    """Half of them, some as soon as they may have ended, some in the midst of what goes wrong; a few while they run."""
    rng, clients, tasks = world.rng, world.clients, [task.id for task in job.tasks]
    when, what = job.at + rng.uniform(2.0, 45.0), rng.random()
    if what < 0.2:
        world.at(when, clients.cancel, job.job.id, tasks)
        world.at(when + rng.uniform(0.0, 3.0), clients.delete, job.job.id, tasks)
    elif what < 0.5:
        world.at(when, clients.delete, job.job.id, tasks)


def _meddle(world: World, job: JobPlan) -> float:
    """What people do to their jobs, and when they have done it."""
    rng, clients, tasks = world.rng, world.clients, [task.id for task in job.tasks]
    when = job.at + rng.uniform(0.5, 25.0)
    what = rng.random()
    if what < 0.15:
        world.at(when, clients.cancel, tasks[-1], tasks[-1:])
    elif what < 0.22:
        world.at(when, clients.cancel, job.job.id, tasks)
        when += rng.uniform(1.0, 20.0)
        world.at(when, clients.retry, job.job.id, tasks)
    elif what < 0.32:
        world.at(when, clients.pause, job.job.id, tasks, rng.uniform(1.0, 30.0))
    elif what < 0.42:
        target = rng.choice((job.job.id, tasks[0]))
        world.at(when, clients.prioritise, target, tasks[:1] if target == tasks[0] else tasks, rng.randint(1, 10))
    elif what < 0.5:
        world.at(when, clients.retry, tasks[0], tasks[:1])
    elif what < 0.6:
        world.at(when, clients.submit, job.job, job.tasks)  # the whole of it again
    return when
