"""What a world consists of, drawn from its seed: hosts, jobs, and how many faults of which kinds."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from mesh.core.lattice import Job, Resources, Retries, Shape, Task
from mesh.core.messages import Device, Offer

GIB = 1 << 30
CLONE = 1_000  # ulids from here on were made with --new-id


@dataclass(frozen=True)
class HostPlan:
    ulid: int
    role: str = "auto"
    rank: int = 50
    offer: Offer = Offer(2, 2000, 8 * GIB, 8 * GIB)  # noqa: RUF009 - a tuple, never changed
    dirs: tuple[str, ...] = ("/data",)
    joins_at: float = 0.0
    drift: float = 0.002  # its clock's rate is wrong by up to this much


@dataclass(frozen=True)
class Behaviour:
    """What tasks of one kind do. ``code`` is that of their failures."""

    seconds: float
    bad: float = 0.0
    code: str = "ValueError"


@dataclass(frozen=True)
class JobPlan:
    job: Job
    tasks: tuple[Task, ...]
    behaviour: Behaviour
    at: float = 1.0


@dataclass(frozen=True)
class Plan:
    hosts: tuple[HostPlan, ...]
    jobs: tuple[JobPlan, ...] = ()
    faults: int = 4
    fault_time: float = 40.0  # in which they begin
    settle: float = 10.0
    slice_records: int = 2000
    max_lost: int = 3
    latency: tuple[float, float] = (0.0002, 0.003)
    ordered: bool = True
    discovery: bool = True
    deletes: bool = False  # people delete jobs that have ended
    compacts: bool = False  # journals are written anew at every start, however little is of no use in them
    saves: bool = False  # tasks save checkpoints, and go on from them
    slack: float = 300.0  # virtual seconds to settle after the faults, beside the work that there is

    @property
    def limit(self) -> float:
        """Virtual seconds after the faults by which it must have settled: one slot may have to do all, every try."""
        return self.slack + sum(
            1.2 * job.behaviour.seconds * (task.shape.retries.max + 1) for job in self.jobs for task in job.tasks
        )


def hosts_of(count: int) -> tuple[HostPlan, ...]:
    """Alike, all of role auto: for worlds that a test writes by hand."""
    return tuple(HostPlan(index) for index in range(count))


def job_of(name: str, tasks: int, shape: Shape | None = None, seconds: float = 0.3, **job: int) -> JobPlan:
    shape = shape or Shape(kind=f"kind-{name}", retries=Retries(max=3, backoff_ms=100))
    spec = Job(name, f"digest-{name}", name, **job)
    made = tuple(Task(f"{name}.{n}", name, n, f"digest-{name}.{n}", shape, b"payload") for n in range(tasks))
    return JobPlan(spec, made, Behaviour(seconds))


def fits(host: HostPlan, shape: Shape) -> bool:
    """Whether tasks of this shape can run there: the plain truth, by which the machines are judged."""
    if host.role not in ("auto", "worker") or (shape.cwd and shape.cwd not in host.dirs):
        return False
    offer = host.offer
    return any(
        need.millicpus <= offer.millicpus
        and need.memory <= offer.memory
        and set(need.labels) <= set(offer.labels)
        and sum(device.memory >= need.gpu_memory for device in offer.devices) * 1000 >= need.milligpus
        for need in shape.alternatives
    )


def plan_of(seed: int) -> Plan:
    """The default world of a seed: at least 4 hosts, 30 tasks and 3 faults."""
    rng = random.Random(f"plan/{seed}")
    hosts = _hosts(rng)
    jobs = _jobs(rng, hosts)
    return Plan(
        hosts,
        _hold_some(random.Random(f"hold/{seed}"), jobs),
        faults=rng.randint(3, 6),
        settle=rng.choice((2.0, 2.0, 10.0)),
        slice_records=rng.choice((3, 2000, 2000)),
        max_lost=rng.choice((1, 3, 3)),
        latency=rng.choice(((0.0002, 0.003), (0.0002, 0.003), (0.005, 0.04))),
        ordered=rng.random() < 0.6,
        deletes=rng.random() < 0.5,
        compacts=rng.random() < 0.3,
        saves=seed % 4 == 2 and seed > 170,  # not drawn, so that all other worlds are as they were without
    )


def _hosts(rng: random.Random) -> tuple[HostPlan, ...]:
    others = rng.choices(("auto", "worker", "leader", "observer"), (6, 3, 1, 1), k=rng.choice((2, 2, 3, 4)))
    roles = ["auto", "auto", *others]
    rng.shuffle(roles)
    hosts = []
    for index, role in enumerate(roles):
        slots = rng.choice((1, 2, 2, 3))
        cards = tuple(Device(f"cuda:{n}", "cuda", "RTX", 16 * GIB, 16 * GIB) for n in range(rng.choice((0, 0, 1, 2))))
        offer = Offer(
            slots, slots * rng.choice((1000, 1000, 2000)), 16 * GIB, 16 * GIB, cards,
            (("site", rng.choice("ab")),) if rng.random() < 0.6 else (),
        )  # fmt: skip
        hosts.append(
            HostPlan(
                index,
                role,
                rng.choice((50, 50, 50, 50, 10, 90)),
                offer,
                ("/data",) if rng.random() < 0.7 else (),
                rng.uniform(0, 2) if rng.random() < 0.8 or index < 2 else rng.uniform(5, 40),
            )
        )
    return tuple(hosts)


def _jobs(rng: random.Random, hosts: tuple[HostPlan, ...]) -> tuple[JobPlan, ...]:
    left, jobs = rng.randint(30, 42), []
    while left > 0:
        size = min(left, rng.randint(3, 15))
        left -= size
        name = f"job{len(jobs)}"
        seconds = rng.choice((0.002, 0.02, 0.3, 1.0, 3.0, 12.0 if size < 8 else 3.0, 40.0 if size < 5 else 1.0))
        behaviour = Behaviour(seconds, rng.choice((0.0, 0.05, 0.05, 0.4)), rng.choice(("ValueError", "exit 3")))
        shape = Shape(
            (_need(rng),),
            kind=name,
            cwd=rng.choice(("", "", "", "", "", "/data")),
            retries=Retries(rng.choice((0, 2, 4)), 100, 2000, 5000, rng.choice(((), (), ("exit 3",)))),
        )
        if rng.random() < 0.1:
            shape = shape._replace(alternatives=(*shape.alternatives, Resources(2000)))
        plan = job_of(name, size, shape, priority=rng.randint(1, 10), max_parallel=rng.choice((0, 0, 0, 2)))
        jobs.append(replace(plan, behaviour=behaviour, at=rng.uniform(0.5, 32.0)))
    return tuple(jobs)


def _hold_some(rng: random.Random, jobs: tuple[JobPlan, ...]) -> tuple[JobPlan, ...]:
    """Some of them must not run twice. Drawn apart, so that all else is as it was without."""
    made = []
    for job in jobs:
        if rng.random() < 0.3:
            tasks = tuple(task._replace(shape=task.shape._replace(hold=True)) for task in job.tasks)
            shape = tasks[0].shape  # one object, as the wire decodes it
            job = replace(job, tasks=tuple(task._replace(shape=shape) for task in tasks))
        made.append(job)
    return tuple(made)


def _need(rng: random.Random) -> Resources:
    kind = rng.random()
    if kind < 0.65:
        return Resources()
    if kind < 0.75:
        return Resources(2000)
    if kind < 0.85:
        return Resources(500, milligpus=rng.choice((500, 1000, 1000, 2000)), gpu_memory=4 * GIB)
    if kind < 0.95:
        return Resources(labels=(("site", rng.choice("ab")),))
    return Resources(labels=(("site", "nowhere"),))  # fits nothing, ever
