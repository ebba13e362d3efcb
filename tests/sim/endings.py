"""When a world has settled, and what must be true then: nothing lost, everything answered, all agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.core.ids import TaskId
from mesh.core.ledger import BROKEN, CANCELLED, DONE, FINAL, Ledger, TaskState
from mesh.core.reasons import OWNED
from tests.sim.leaders import disunity
from tests.sim.plans import CLONE, fits

if TYPE_CHECKING:
    from mesh.core.machine import Machine
    from tests.sim.world import Host, World


def unsettled(world: World) -> str:
    """Why the world is not settled yet; empty once one node leads all and every acknowledged task has ended."""
    hosts = [host for host in world.hosts if not host.destroyed]
    for host in hosts:
        if host.machine is None and not host.exited:
            return f"{host.name} is down"
    running = [host for host in hosts if host.machine is not None]
    problem = disunity(world, running)
    if problem:
        return problem
    leader = leader_of(running)
    if leader.leader.phase != "open":
        return f"the leader is {leader.leader.phase}"
    identities = [host.node[3:] for host in running]
    if len(set(identities)) < len(identities):
        return f"two lives of one identity: {sorted(identities)}"
    for host in running:
        assert host.machine is not None
        left = [held.attempt.task for held in host.machine.worker.held.values()]
        left = [task for task in left if leader.ledger.is_deleted(task)]
        if left:
            return f"{host.name} holds attempts at {left}, and their job was deleted"
    if waiting := world.blobs.unsettled():
        return waiting
    for name, task in world.clients.tasks.items():
        if leader.ledger.is_deleted(name):
            continue
        if name not in world.clients.acknowledged:
            return f"{name} was never acknowledged"
        state = leader.ledger.known(name)
        if (state is None or state.spec is None) and not world.clients.survives(world.clients.held[name]):
            continue  # it was on the one disk alone that is lost, though who ran it may have kept the attempt
        if state is None or state.spec is None:
            return f"{name} was acknowledged and is not known to the leader"
        if task.shape.hold and state.state not in FINAL and (why := leader.leader.tasks.waits(name)):
            if why.code == OWNED and any(host.node[3:] == why.args[0][3:] for host in running):
                return f"{name} waits, though its owner runs: {why}"
            if not world.clients.forced:
                return f"{name} waits, and nobody had the time to force it: {why}"
            continue  # for a machine that does not return, or for what was lost: people force some of these
        if state.state not in FINAL and any(fits(host.plan, task.shape) for host in running):
            return f"{name} is {state.state}: {[(a.node, a.ended, a.phase) for a in state.attempts.values()]}"
    if world.clients.open:
        return f"{world.clients.open} clients wait"
    return ""


def leader_of(hosts: list[Host]) -> Machine:
    return next(host.machine for host in hosts if host.machine is not None and host.machine.leading)


def judge(world: World) -> None:
    """Nothing that was acknowledged or shown is lost, and everything has one answer."""
    running = [host for host in world.hosts if host.machine is not None]
    leader = leader_of(running)
    for host in running:
        assert host.machine is not None
        host.machine.check(whole=True)
        _rejoin(world, host)
        _agree(world, host, leader)
    for task in world.clients.acknowledged:
        state = leader.ledger.known(task)
        if state is not None:
            _judge_task(world, task, state)
    _judge_deleted(world, running, leader)
    lowest = min((host.machine for host in running if host.may_lead and host.machine), key=lambda m: m.me.node)
    steady = world.params.settle * 2.0**lowest.election.losses
    quick_for = lowest.now - lowest.election.lagged_at  # of its disk
    if leader is not lowest and min(world.calm_for, quick_for) > steady * 1.01 + 5.0:
        world.violate(
            f"{leader.me.node} still leads, {lowest.me.node} is lower; nothing happened in {world.calm_for} s"
        )


def _judge_deleted(world: World, running: list[Host], leader: Machine) -> None:
    """What was deleted is gone from all who know what the leader knows, whoever slept through it; nothing else is."""
    for job in sorted(leader.ledger.deleted - world.clients.deleting):
        world.violate(f"{job} is deleted and nobody asked for it")
    for job in world.clients.deleted:
        if not world.clients.is_deleted(job):
            continue
        if job not in leader.ledger.deleted:
            world.violate(f"{job} was deleted, and the leader does not know")
        for host in running:
            machine = host.machine
            assert machine is not None
            follows = host.node in leader.copies.standing()
            if (machine is leader or follows) and (job in machine.ledger.jobs or job not in machine.ledger.deleted):
                world.violate(f"{host.name} knows {job}, which was deleted")


def _judge_task(world: World, task: TaskId, state: TaskState) -> None:
    accepted = state.accepted()
    digests = {acceptance.digest for acceptance in (state.acceptances or {}).values()}
    for (shown, digest), promises in world.clients.shown.items():
        if shown == task and digest not in digests and world.clients.survives(promises):
            world.violate(f"{task} was shown with {digest}, and the leader knows of {digests} alone")
    if state.state == DONE:
        assert accepted is not None
        if accepted.attempt not in state.attempts:
            world.violate(f"{task} is accepted without an attempt")
        elif accepted.digest != state.attempts[accepted.attempt].outcome.digest:
            world.violate(f"{task} accepted another result than its attempt's")
    elif state.state == CANCELLED:
        if task not in world.clients.cancelled:
            world.violate(f"{task} is cancelled and nobody asked for it")
    elif state.state == BROKEN:
        # Of another node's attempt nobody is believed, not even who had its identity.
        disks = [host.disk for host in world.hosts if host.machine is not None and host.plan.ulid < CLONE]
        # Who held a success forgets it once a leader has it; where that was on the one disk that was lost, it is gone.
        if not world.ruined and any(("success", task) in disk.known for disk in disks):
            world.violate(f"{task} is failed, and a success of it is on a disk")
        if not world.runners.failed.get(task) and state.ended is not None and state.ended.code != "lost":
            world.violate(f"{task} is failed, and never failed anywhere")
    cancelled = world.clients.survives(world.clients.cancelled.get(task, []))
    if cancelled and task not in world.clients.retried and state.state not in (CANCELLED, DONE):
        world.violate(f"{task} was cancelled, acknowledged, and is {state.state}")


def _agree(world: World, host: Host, leader: Machine) -> None:
    """Whatever a member that may lead accepted, the leader knows: in a connected group there is one answer."""
    assert host.machine is not None
    if not host.may_lead:
        return
    for name, state in host.machine.ledger.tasks.items():
        if leader.ledger.is_deleted(name):
            continue
        ours = leader.ledger.known(name)
        saved = [checkpoint for attempt in state.tries for checkpoint in attempt.saved]
        here = [checkpoint for attempt in (ours.tries if ours else ()) for checkpoint in attempt.saved]
        if saved and (not here or max(here) < max(saved)):
            world.violate(f"{host.name} knows of {max(saved)} of {name}, and the leader does not")
        for attempt, acceptance in (state.acceptances or {}).items():
            known = (ours.acceptances or {}).get(attempt) if ours is not None else None
            if known is None or known.claim.key < acceptance.claim.key:
                world.violate(f"{host.name} accepted {attempt} of {name}, and the leader does not know")


def _rejoin(world: World, host: Host) -> None:
    """A restart would find what the machine knows, and maybe attempts that it forgot once a leader had them."""
    assert host.machine is not None
    rejoined = Ledger()
    for record in host.disk.records:
        rejoined.join(record)
    rejoined.check(whole=True)
    assert rejoined.deleted == host.machine.ledger.deleted, f"{host.name}: its journal has other tombstones"
    while rejoined.dying:
        rejoined.purge(100)
    if host.machine.out.durable:
        for name, state in host.machine.ledger.tasks.items():
            found = rejoined.tasks.get(name)
            same = found is not None and found.acceptances == state.acceptances and found.ended == state.ended
            if not same or found is None or not state.attempts.items() <= found.attempts.items():
                world.violate(f"{host.name} knows {name} as {state.state}, its journal says otherwise")
