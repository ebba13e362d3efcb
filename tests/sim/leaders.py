"""Who leads: one per connected group, and nobody is disturbed by who comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.core import effects as do
from mesh.core import events as ev
from mesh.core.ids import NO_CLAIM, Claim, Life
from mesh.core.messages import Heartbeat, Message, YieldRequest

if TYPE_CHECKING:
    from mesh.core.machine import Machine
    from tests.sim.world import Host, World

UNITED = 20.0  # seconds without a disturbance after which a group has one leader
HAND_OVER = 3  # seconds of disunity in a row that are no hand-over under way
HEARD = 1.2  # seconds after which a leader was heard of, if need be by way of one that both hear
STEADY = 12.0  # seconds without a disturbance, to others, after which nobody leads beside the one leader of a group


class Leaders:
    def __init__(self, world: World) -> None:
        self.world, self.fail = world, world.violate
        # (life, life it heard) -> when a heartbeat arrived, and how long the hearer had slept by then
        self.heard: dict[tuple[Life, Life], tuple[float, float]] = {}
        self.following: dict[Life, tuple[Claim, float]] = {}  # whose claim each life follows, and since when
        self.losses: dict[Life, int] = {}  # of established leaderships
        self._disunited = 0
        world.after(1.0, self._look)

    def silence(self, host: Host, other: Host) -> float:
        """Seconds since this host, awake, last heard that one."""
        at, slept = self.heard.get((host.life, other.life), (0.0, 0.0))
        return self.world.now - at - (host.slept - slept)

    def before(self, host: Host, message: Message) -> None:
        if type(message) is Heartbeat:
            self.heard[host.life, message.life] = (self.world.now, host.slept)

    def on_send(self, host: Host, machine: Machine, effect: do.Send) -> None:
        if type(effect.message) is YieldRequest:
            self._on_yield_request(host, effect.message.claim)

    def _on_yield_request(self, host: Host, claim: Claim) -> None:
        """A returning lower id stays steady before it asks, longer each time that it lost the leadership."""
        followed, since = self.following.get(host.life, (NO_CLAIM, 0.0))
        params, waited = self.world.params, self.world.now - since
        steady = min(params.settle * 2.0 ** self.losses.get(host.life, 0), params.settle_limit)
        if (followed.leader, followed.life) != (claim.leader, claim.life):
            self.fail(f"{host.name} asks {claim.leader} for the leadership and follows {followed.leader}")
        elif host.node > claim.leader:
            self.fail(f"{host.name} asks the lower id {claim.leader} for the leadership")
        elif waited < steady * 0.99 - 0.5:  # its clock may be fast, and what it missed asleep is dealt with late
            self.fail(f"{host.name} asks for the leadership after {waited:.1f} s, steady is {steady} s")

    def on_resumed(self, host: Host, machine: Machine, event: ev.Resumed) -> None:
        """Somebody else may lead by now."""
        if event.gap > self.world.params.suspect_after and machine.leading and machine.election.claim.established:
            self.fail(f"{host.name} slept {event.gap:.1f} s and leads on as if nothing were")

    def on_changed(self, host: Host, machine: Machine) -> None:
        claim = machine.election.announced()
        followed, since = self.following.get(host.life, (NO_CLAIM, 0.0))
        led = followed.leader == host.node and followed.established
        if led and claim.leader != host.node:
            self.losses[host.life] = self.losses.get(host.life, 0) + 1
        same = (followed.leader, followed.life) == (claim.leader, claim.life)
        self.following[host.life] = (claim, since if same else self.world.now)
        self.world.note(f"{host.name} {'leads' if claim.leader == host.node else 'follows'} {claim.leader} {claim}")
        if claim.leader == host.node and claim.established and not led:
            self._on_taken(host)

    def _on_taken(self, host: Host) -> None:
        """Nobody who comes, or comes back, takes the leadership from one who leads."""
        if self.world.calm_beside(host) < STEADY:
            return
        group = group_of(self.world, host)
        if len({other.plan.ulid for other in group}) < len(group):
            return  # until one life of a copied state directory goes, its two leaderships are taken for one
        for other in group:
            machine = other.machine
            since = self.following.get(other.life, (NO_CLAIM, self.world.now))[1]
            if other is host or machine is None or self.world.now - since < HEARD:
                continue
            if any(self.world.net.is_cut(third, other) for third in group):
                continue  # who cannot reach the leader follows nobody, and says so first; then they find each other
            if machine.leading and machine.election.claim.established:
                self.fail(f"{host.name} takes the leadership while {other.name} leads its group, undisturbed")

    def _look(self) -> None:
        self.world.after(1.0, self._look)
        problems = []
        if self.world.calm_for > UNITED:
            for group in groups(self.world):
                if len({host.plan.ulid for host in group}) < len(group):
                    continue  # one life of a copied directory keeps the other out, until the leader hears of both
                problem = disunity(self.world, group)
                if problem:
                    problems.append(f"{sorted(host.name for host in group)} have been undisturbed: {problem}")
        self._disunited = self._disunited + 1 if problems else 0
        if self._disunited > HAND_OVER:
            self.fail(problems[0])


def groups(world: World) -> list[list[Host]]:
    """Those that reach each other, directly or by way of others, in both directions."""
    left = [host for host in world.hosts if host.up]
    found = []
    while left:
        group, frontier = [left[0]], [left.pop(0)]
        while frontier:
            host = frontier.pop()
            near = [other for other in left if not world.net.is_cut(host, other)]
            left = [other for other in left if other not in near]
            group += near
            frontier += near
        found.append(group)
    return found


def group_of(world: World, host: Host) -> list[Host]:
    return next(group for group in groups(world) if host in group)


def _waits_for_its_claim(host: Host) -> bool:
    """On a slow disk, which deposes nobody; for longer than 5 s it would not be eligible."""
    election = host.machine.election if host.machine is not None else None
    return election is not None and election.claiming and not election.journal_trouble and host.disk.slow > 1.0


def disunity(world: World, group: list[Host]) -> str:
    """Why this group is not united under one able leader; empty where it is."""
    able = [host for host in group if host.may_lead and host.disk.well_for() > 0]
    leading = [host for host in group if host.machine is not None and host.machine.leading]
    if not able:
        return ""
    if not leading and any(_waits_for_its_claim(host) for host in able):
        return ""
    if len(leading) != 1:
        return f"{len(leading)} lead: {[host.name for host in leading]}"
    machine = leading[0].machine
    assert machine is not None
    if not machine.election.claim.established:
        return f"{leading[0].name} leads provisionally"
    near = [host for host in group if not world.net.is_cut(host, leading[0])]
    quick = [host for host in near if host in able and host.disk.slow == 1.0 and world.now > host.disk.slow_until]
    if machine.election.journal_trouble and quick:
        return f"{leading[0].name} leads although {machine.election.journal_trouble}"
    for host in near:
        assert host.machine is not None
        if host.machine.election.announced() != machine.election.claim:
            return f"{host.name} follows {host.machine.election.announced()}, not {machine.election.claim}"
    return ""
