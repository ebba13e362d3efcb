"""Many nodes, simulated: messages per heartbeat interval, and the leader's own time per task.

Real machines (``mesh.core``) in the simulator's world, without faults; 5 % of the nodes may lead. Three start, and the
others join the mesh that they are: while nobody leads everyone links with everyone, which a thousand do at a bad time
only. The leader's time is that of its steps and deadlines alone. Goals: messages grow linearly with the nodes; the
leader's time per task is at most 1.2 times that with 10 nodes.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from typing import Any

from bench.harness import publish
from mesh.core import effects as fx
from mesh.core.lattice import Retries, Shape
from mesh.core.ledger import DONE
from mesh.core.machine import Machine
from mesh.core.messages import Heartbeat
from tests.sim.plans import HostPlan, Plan, job_of
from tests.sim.world import Host, World

SIZES = (10, 100, 1000)
TASKS = 20_000
FIRST, APART = 3, 0.01  # how many start at once, and how far apart the others join, in virtual seconds
SETTLED, MEET, REST = 10.0, 30.0, 5.0  # virtual seconds: of the first, of the others, of all
GOAL = 1.2


class Timed:
    """The time that a machine takes from now on, in seconds."""

    def __init__(self, machine: Machine) -> None:
        self.seconds = 0.0
        # In place: the links of the simulator's network belong to this very object.
        machine.step = self._timed(machine.step)  # type: ignore[method-assign]
        machine.deadline = self._timed(machine.deadline)  # type: ignore[method-assign]

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            began = time.perf_counter()
            try:
                return method(*arguments)
            finally:
                self.seconds += time.perf_counter() - began

        return timed


def measure(nodes: int) -> dict[str, Any]:
    able = max(FIRST, nodes // 20)
    hosts = tuple(
        HostPlan(n, role="auto" if n < able else "worker", joins_at=n * APART + (0.0 if n < FIRST else SETTLED))
        for n in range(nodes)
    )
    kinds = (job_of("t", 1, seconds=0.05),)
    world = World(1, Plan(hosts, kinds, discovery=False))
    world.most_steps = sys.maxsize
    world.runners.kinds["bench"] = kinds[0].behaviour
    beats = [0]

    def count(host: Host, _event: object, effects: list[fx.Effect]) -> None:
        beats[0] += sum(isinstance(effect, fx.Send) and isinstance(effect.message, Heartbeat) for effect in effects)

    world.after_step.append(count)
    for host in world.hosts:
        world.at(host.plan.joins_at, world.start, host)
        if host.index:
            world.at(host.plan.joins_at + 0.001, meet, world, host)
    if not world.run_until(SETTLED + nodes * APART + MEET, lambda: united(world), every=0.2):
        raise RuntimeError(f"{nodes} nodes have not met within {MEET:g} s of the last")
    world.run_until(world.now + REST)
    beats[0], since = 0, world.now
    world.run_until(since + REST)
    per_interval = beats[0] * world.params.heartbeat / REST
    (leader,) = world.leaders()
    assert leader.machine is not None
    timed = Timed(leader.machine)
    world.run_until(world.now + REST)
    resting = timed.seconds / REST
    job = job_of("bench", TASKS, Shape(kind="bench", retries=Retries(max=3)))
    gc.collect()
    gc.disable()  # as in the daemon (mesh.node.garbage)
    timed.seconds, since = 0.0, world.now
    world.clients.submit(job.job, job.tasks)
    done = world.run_until(world.now + 3600.0, lambda: finished(leader), every=0.2)
    gc.enable()
    if not done:
        raise RuntimeError(f"{nodes} nodes did not finish {TASKS} tasks")
    virtual = world.now - since
    return {
        "messages_per_interval": round(per_interval, 1),
        "leader_rest_share": round(resting, 5),  # of a core, while nothing is to do
        "leader_us_per_task": round(1e6 * (timed.seconds - resting * virtual) / TASKS, 1),
        "virtual_seconds": round(virtual, 1),
    }


def meet(world: World, host: Host) -> None:
    from mesh.core.events import AddressFound

    world.feed(host, AddressFound(world.hosts[0].address))


def united(world: World) -> bool:
    claims = {host.machine.election.announced() for host in world.hosts if host.machine is not None}
    leaders = world.leaders()
    return (
        len(claims) == 1
        and len(leaders) == 1
        and all(host.machine is not None for host in world.hosts)
        and leaders[0].machine is not None
        and len(leaders[0].machine.leader.sessions) == len(world.hosts)
    )


def finished(leader: Host) -> bool:
    assert leader.machine is not None
    job = leader.machine.ledger.jobs.get("bench")
    return job is not None and job.counts[DONE] == TASKS


def main() -> None:
    sizes = tuple(int(size) for size in sys.argv[1:]) or SIZES
    found = {size: measure(size) for size in sizes}
    first, last = found[sizes[0]], found[sizes[-1]]
    per_node = [found[size]["messages_per_interval"] / size for size in sizes]
    publish(
        "nodes",
        {
            "nodes": {str(size): figures for size, figures in found.items()},
            "messages_per_node": [round(value, 2) for value in per_node],
            "time_per_task_ratio": round(last["leader_us_per_task"] / first["leader_us_per_task"], 2),
            "goal_ratio": GOAL,
            "tasks": TASKS,
        },
    )


if __name__ == "__main__":
    main()
