"""What must hold in every world, after every step and once it is quiet."""

from __future__ import annotations

from mesh.core.ids import NodeId
from mesh.core.ledger import DONE, FINAL, Ledger
from mesh.core.messages import Orders
from tests.sim.world import Node, World

WHOLE_EVERY = 100  # steps between checks of everything


class Watcher:
    """Watches a world; whatever is wrong is added to ``world.violations``."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.granted: dict[str, NodeId] = {}
        world.after_step.append(self.after_step)
        world.on_orders.append(self.on_orders)

    def after_step(self, world: World, node: Node) -> None:
        machine = node.machine
        assert machine is not None
        machine.check(whole=world.steps % WHOLE_EVERY == 0)
        worker = machine.worker
        bid = worker.bid()
        if bid is None:
            return
        # Known and short kinds may queue up to the allowance; an unknown one once; long ones never. Two leaders may
        # each have filled it, before and after a change: their grants are counted per claim.
        per_claim: dict[str, int] = {}
        for name, entry in worker.held.items():
            if not entry.attempt.ended:
                claim = name.rsplit(".", 1)[0]
                per_claim[claim] = per_claim.get(claim, 0) + 1
        for claim, count in per_claim.items():
            limit = node.slots + 1 + self.short_allowance(node)
            if count > limit:
                self.fail(f"{node.id} holds {count} attempts of claim {claim}, its bids allow {limit}")

    @staticmethod
    def short_allowance(node: Node) -> int:
        """Tasks of 2 ms and 20 ms that fit 50 ms of queue per slot."""
        assert node.machine is not None
        speeds = [s for s in node.machine.worker._speeds.values() if s <= 50_000]
        return int(50_000 / max(1.0, min(speeds)) * node.slots) + 1 if speeds else 0

    def on_orders(self, world: World, source: NodeId, target: NodeId, orders: Orders) -> None:
        for grant in orders.grants:
            before = self.granted.setdefault(grant.attempt, target)
            if before != target:
                self.fail(f"{grant.attempt} was granted to {before} and to {target}")

    def fail(self, text: str) -> None:
        raise AssertionError(text)


def unsettled(world: World) -> str:
    """Why the world is not settled yet; empty once one node leads all and every acknowledged task has ended."""
    leaders = world.leaders()
    if len(leaders) != 1:
        return f"{len(leaders)} lead: {[n.id[-3:] for n in leaders]}"
    leader = leaders[0].machine
    assert leader is not None
    if not leader.election.claim.established:
        return f"{leader.me.node} leads provisionally"
    for node in world.nodes.values():
        if node.machine is None:
            return f"{node.id} is down"
        if node.machine.election.announced() != leader.election.claim:
            return f"{node.id} follows {node.machine.election.announced()}, not {leader.election.claim}"
    if leader.leader.phase != "open":
        return f"the leader is {leader.leader.phase}"
    for task in world.acknowledged:
        state = leader.ledger.tasks.get(task)
        if state is None or state.spec is None:
            return f"{task} was acknowledged and is not known to the leader"
        if state.state not in FINAL:
            return f"{task} is {state.state}: {[(a.node[-3:], a.ended, a.phase) for a in state.attempts.values()]}"
    if world.open_calls:
        return "a client waits"
    return ""


def at_the_end(world: World) -> None:
    """Nothing that was acknowledged or shown is lost, and everything has one answer."""
    leader = world.leaders()[0].machine
    assert leader is not None
    for node in world.nodes.values():
        assert node.machine is not None
        node.machine.check(whole=True)
    for task in world.acknowledged:
        state = leader.ledger.tasks[task]
        accepted = state.accepted()
        if state.state == DONE:
            if accepted is None or accepted.attempt not in state.attempts:
                world.violations.append(f"{task} is accepted without an attempt")
            elif accepted.digest != state.attempts[accepted.attempt].outcome.digest:
                world.violations.append(f"{task} accepted another result than its attempt's")
            elif not _may_double(world) and len(world.shown.get(task, {accepted.digest})) > 1:
                world.violations.append(f"{task} showed several results without a partition")
        elif task in world.shown and task not in world.cancelled:
            world.violations.append(f"{task} was shown as succeeded and is {state.state}")
        if state.state == DONE and state.acceptances and len(state.acceptances) > 1 and not _may_double(world):
            world.violations.append(f"{task} has {len(state.acceptances)} acceptances without a partition")
    for node in world.nodes.values():
        rejoined = Ledger()
        for record in node.disk:
            rejoined.join(record)
        rejoined.check(whole=True)


def _may_double(world: World) -> bool:
    """Two leaders may accept without seeing each other: in a partition, or across a crash that the other outlived."""
    return world.partitioned or any(node.life > 1 for node in world.nodes.values()) or world.slept
