"""What goes wrong in a world, and when: drawn from its seed before it starts."""

from __future__ import annotations

from tests.sim.world import Node, World


def plan_faults(world: World) -> None:
    """Schedule the plan's faults over its fault time; each ends by itself before :func:`calm`."""
    rng, names = world.rng, list(world.nodes)
    kinds = ("crash", "crash", "pause", "split", "isolate", "one_way", "noise", "stuck_disk", "flap", "leader_crash")
    for _ in range(world.plan.faults):
        kind = rng.choice(kinds)
        when = rng.uniform(2.0, world.plan.fault_time)
        lasts = rng.choice((0.5, 1.5, 3.0, 8.0, 20.0, 36.0))
        node = world.nodes[rng.choice(names)]
        match kind:
            case "crash":
                _crash(world, node, when, lasts)
            case "leader_crash":
                world.at(when, lambda t=when, d=lasts: _crash_leader(world, t, d))  # type: ignore[misc]
            case "pause":
                world.at(when, lambda n=node, d=lasts: world.pause(n, d))  # type: ignore[misc]
            case "split":
                group = set(rng.sample(names, rng.randint(1, len(names) - 1)))
                world.at(when, lambda g=group: world.partition([g, set(names) - g]))  # type: ignore[misc]
                world.at(when + lasts, world.heal)
            case "isolate":
                world.at(when, lambda n=node: world.partition([{n.id}, set(names) - {n.id}]))  # type: ignore[misc]
                world.at(when + lasts, world.heal)
            case "one_way":
                other = rng.choice([n for n in names if n != node.id])
                world.at(when, lambda n=node, o=other: world.cut_way(n.id, o))  # type: ignore[misc]
                world.at(when + lasts, world.heal)
            case "noise":
                world.at(when, lambda: setattr(world, "noise", 0.15))
                world.at(when + lasts, lambda: setattr(world, "noise", 0.0))
            case "stuck_disk":
                world.at(when, lambda n=node, w=when, d=lasts: _stick(world, n, w + d))  # type: ignore[misc]
            case "flap":
                for turn in range(4):
                    _crash(world, node, when + turn * 3.0, 1.0)


def calm(world: World) -> None:
    """Faults stop: everybody runs, everybody reaches everybody."""
    world.noise = 0.0
    if world.cut:
        world.heal()
    for node in world.nodes.values():
        node.disk_stuck_until = 0.0
        if node.machine is None:
            world.start(node)


def _crash(world: World, node: Node, when: float, lasts: float) -> None:
    world.at(when, lambda: world.crash(node))
    world.at(when + lasts, lambda: world.start(node) if node.machine is None else None)


def _crash_leader(world: World, when: float, lasts: float) -> None:
    leaders = world.leaders()
    if leaders:
        _crash(world, leaders[0], when, lasts)


def _stick(world: World, node: Node, until: float) -> None:
    world.note(f"the disk of {node.id} is stuck until {until:.1f}")
    node.disk_stuck_until = until
