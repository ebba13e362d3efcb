"""One world from its seed to its end."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.sim import faults, invariants
from tests.sim.world import Plan, World, job_of


@dataclass(frozen=True)
class Result:
    seed: int
    violations: tuple[str, ...]
    steps: int
    seconds: float  # virtual
    trace: str


def build(seed: int, plan: Plan | None = None) -> World:
    """The world of this seed; sizes vary with it."""
    world = World(seed, plan)
    if plan is None:
        nodes = world.rng.choice((4, 4, 4, 5, 6))
        world = World(seed, replace(world.plan, nodes=nodes, tasks=world.rng.randint(30, 45)))
        world.plan = replace(world.plan, faults=world.rng.randint(3, 6))
    invariants.Watcher(world)
    return world


def play(world: World) -> Result:
    """Start, submit, break, mend, wait until it has settled and stays so."""
    try:
        _play(world)
    except AssertionError as error:
        world.violations.append(f"at {world.now:.3f}: assertion: {error}")
    return Result(world.seed, tuple(world.violations), world.steps, world.now, world.trace.hexdigest())


def _play(world: World) -> None:
    rng, plan = world.rng, world.plan
    for node in world.nodes.values():
        world.at(rng.uniform(0, 2), lambda n=node: world.start(n) if n.machine is None else None)  # type: ignore[misc]
    left, index = plan.tasks, 0
    while left:
        size = min(left, rng.randint(3, 15))
        job, tasks = job_of(index, size, rng)
        world.at(rng.uniform(0.5, plan.fault_time * 0.8), lambda j=job, t=tasks: world.submit(j, t))  # type: ignore[misc]
        if rng.random() < 0.25:
            when, target = rng.uniform(1, plan.fault_time), tasks[-1].id
            world.at(when, lambda t=target: t in world.acknowledged and world.cancel(t, [t]))  # type: ignore[misc]
        left, index = left - size, index + 1
    faults.plan_faults(world)
    world.run_until(plan.fault_time + 40.0)
    faults.calm(world)
    if not world.run_until(plan.limit, lambda: bool(world.violations) or not invariants.unsettled(world)):
        world.violations.append(f"never settled: {invariants.unsettled(world)}")
        return
    if world.violations:
        return
    world.run_until(world.now + 15.0)  # long enough for a lower id to ask for the leadership
    if not world.run_until(world.now + 60.0, lambda: bool(world.violations) or not invariants.unsettled(world)):
        world.violations.append(f"settled, then came apart: {invariants.unsettled(world)}")
        return
    if not world.violations:
        invariants.at_the_end(world)
