"""What goes wrong in a world, and how it ends. Every fault ends by itself, or in :func:`calm`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.sim.world import Host, World

DURATIONS = (0.5, 1.5, 3.0, 8.0, 20.0, 36.0)


class Faults:
    def __init__(self, world: World) -> None:
        self.world, self.rng = world, world.rng

    def plan(self) -> None:
        """Schedule as many as the plan says, each in the fault time."""
        kinds = [kind for kind, weight in KINDS for _ in range(weight)]
        for _ in range(self.world.plan.faults):
            self.world.at(self.rng.uniform(2.0, self.world.plan.fault_time), self.strike, self.rng.choice(kinds))

    def strike(self, kind: Callable[[Faults], None]) -> None:
        kind(self)

    def _some(self) -> Host:
        return self.rng.choice(self.world.hosts)

    def _leader(self) -> Host:
        leaders = self.world.leaders()
        return self.rng.choice(leaders) if leaders and self.rng.random() < 0.7 else self._some()

    def _lasts(self) -> float:
        return self.rng.choice(DURATIONS)

    # -- hosts ------------------------------------------------------------------------------------------------------

    def down(self, host: Host, seconds: float, power: bool = True) -> None:
        if host.machine is not None:
            self.world.crash(host, power)
            self.world.after(seconds, self.world.start, host)

    def crash(self) -> None:
        self.down(self._leader(), self._lasts())

    def lose_power(self) -> None:
        self.down(self._leader(), self._lasts(), power=False)

    def crash_unsynced(self) -> None:
        """At the very moment when a leader has just said something that is not on its disk."""
        host, lasts = self._leader(), self._lasts()
        deadline = self.world.now + 5.0

        def watch(stepped: Host, _event: object, effects: list[object]) -> None:
            if self.world.now > deadline:
                self.world.after_step.remove(watch)
            elif stepped is host and any(type(e).__name__ == "Persist" for e in effects):
                self.world.after_step.remove(watch)
                self.down(host, lasts)

        self.world.after_step.append(watch)

    def restart_apart(self) -> None:
        """It comes back where it reaches nobody."""
        host = self._leader()
        self.cut({host.index}, set(range(len(self.world.hosts))) - {host.index}, self.rng.choice((8.0, 20.0)))
        self.world.after(1.0, self.down, host, 0.5)

    def flap(self) -> None:
        host = self._some()
        for turn in range(4):
            self.world.after(turn * 3.0, self.down, host, 1.0)

    def sleep(self) -> None:
        self.world.sleep(self._leader(), self.rng.choice((*DURATIONS, 90.0, 240.0)), frozen=False)

    def freeze(self) -> None:
        self.world.sleep(self._leader(), self._lasts(), frozen=True)

    def drain(self) -> None:
        host = self._leader()
        self.world.drain(host, self.rng.choice((0.5, 5.0, 15.0)))
        self.world.after(self.rng.uniform(20.0, 30.0), self.world.start, host)

    def destroy(self) -> None:
        """A machine is lost with its disk: one of a world's, whichever it is."""
        host = self._leader()
        if host.machine is not None and not self.world.ruined and not self.world.copied:
            self.world.crash(host, power=False)
            host.destroyed = True
            self.world.ruin(host)

    def restore(self) -> None:
        """A disk dies, and a backup of a while ago takes its place."""
        host, lasts = self._leader(), self._lasts()
        rows, since = len(host.disk.rows), self.rng.uniform(1.0, 20.0)

        def strike() -> None:
            if host.machine is not None and not self.world.ruined and not self.world.copied:
                self.world.crash(host)
                host.disk.rewind(rows)
                self.world.ruin(host)
                self.world.after(lasts, self.world.start, host)

        self.world.after(since, strike)

    def double(self) -> None:
        """Somebody copies a state directory, and starts the copy."""
        original = self._leader()
        if original.machine is None or any(host.exited for host in self.world.hosts):
            return
        self.copy(original)

    def copy(self, original: Host) -> None:
        self.world.disturb(f"a copy of {original.name} is started")
        self.world.copied.add(original.plan.ulid)
        copy = type(original)(self.world, len(self.world.hosts), replace(original.plan, joins_at=0.0))
        copy.disk.copy_of(original.disk)
        copy.lives = 100  # the names of lives stay distinct
        self.world.hosts.append(copy)
        self.world.start(copy)

    # -- network ----------------------------------------------------------------------------------------------------

    def cut(self, one: set[int], other: set[int], seconds: float, both: bool = True) -> None:
        ways = [(a, b) for a in sorted(one) for b in sorted(other)]
        if both:
            ways += [(b, a) for a, b in ways]
        self.world.disturb(f"cut {sorted(one)} {'<->' if both else '->'} {sorted(other)} for {seconds:.1f} s")
        cut = self.world.net.cut(ways)
        self.world.after(seconds, self.heal, cut)

    def heal(self, ways: list[tuple[int, int]]) -> None:
        self.world.disturb("a cut heals")
        self.world.net.heal(ways)

    def split(self) -> None:
        every = range(len(self.world.hosts))
        one = set(self.rng.sample(every, self.rng.randint(1, len(every) - 1)))
        self.cut(one, set(every) - one, self._lasts())

    def isolate(self) -> None:
        host = self._leader()
        self.cut({host.index}, set(range(len(self.world.hosts))) - {host.index}, self._lasts())

    def one_way(self) -> None:
        host = self._leader()
        other = self.rng.choice([h for h in self.world.hosts if h is not host])
        self.cut({host.index}, {other.index}, self._lasts(), both=False)

    def one_way_all(self) -> None:
        """It hears everybody and nobody hears it, or the other way round."""
        one = {self._leader().index}
        rest = set(range(len(self.world.hosts))) - one
        self.cut(*((one, rest) if self.rng.random() < 0.5 else (rest, one)), self._lasts(), both=False)

    def bridge(self) -> None:
        """Two sides that do not see each other, and a node that both see."""
        every = list(range(len(self.world.hosts)))
        self.rng.shuffle(every)
        middle = self.rng.randint(1, len(every) - 2)
        self.cut(set(every[:middle]), set(every[middle + 1 :]), self._lasts())

    def blink(self) -> None:
        host = self._leader()
        for turn in range(5):
            rest = set(range(len(self.world.hosts))) - {host.index}
            self.world.after(turn * 4.0, self.cut, {host.index}, rest, 2.0)

    def noise(self) -> None:
        lasts = self._lasts()
        self.world.disturb(f"messages are lost, doubled and late for {lasts:.1f} s")
        self.world.net.noise = self.rng.choice((0.05, 0.2, 0.5))
        self.world.after(lasts, self.quiet)

    def quiet(self) -> None:
        self.world.disturb("messages arrive again")
        self.world.net.noise = 0.0

    def resets(self) -> None:
        if not self.world.net.resets:
            self.world.disturb("connections break at random")
            self.world.net.reset_some(self._lasts())

    # -- disks ------------------------------------------------------------------------------------------------------

    def stuck_disk(self) -> None:
        host, lasts = self._leader(), self._lasts()
        self.world.disturb(f"the disk of {host.name} is stuck for {lasts:.1f} s", host)
        host.disk.stuck_until = max(host.disk.stuck_until, self.world.now + lasts)
        self.world.after(lasts, self.world.disturb, f"the disk of {host.name} works again", host)

    def failing_disk(self) -> None:
        host, lasts = self._leader(), self._lasts()
        self.world.disturb(f"the disk of {host.name} fails for {lasts:.1f} s", host)
        host.disk.failing_until = max(host.disk.failing_until, self.world.now + lasts)
        self.world.after(lasts + 0.5, self.world.disturb, f"the disk of {host.name} works again", host)

    def slow_disk(self) -> None:
        host, lasts = self._leader(), self._lasts()
        self.world.note(f"the disk of {host.name} is slow for {lasts:.1f} s")
        host.disk.slow = 100.0
        self.world.after(lasts, self.fast_disk, host)

    def fast_disk(self, host: Host) -> None:
        host.disk.slow = 1.0

    # -- the end ----------------------------------------------------------------------------------------------------

    def over(self) -> bool:
        """Whether nothing is wrong at the moment, but for machines that were destroyed."""
        world = self.world
        if world.net.cuts or world.net.noise or world.net.resets:
            return False
        return all(
            (host.up or host.destroyed) and host.disk.well_for() > 0 and host.disk.slow == 1.0 for host in world.hosts
        )

    def calm(self) -> None:
        """Faults stop: everybody who was not destroyed runs, and everybody reaches everybody."""
        world = self.world
        world.disturb("calm")
        world.calmed = True
        world.net.noise = world.net.resets = 0.0
        if world.net.cuts:
            world.net.heal(list(world.net.cuts.elements()))
        for host in world.hosts:
            host.disk.stuck_until = host.disk.failing_until = 0.0
            host.disk.slow = 1.0
            world.new_id(host)
            world.start(host)
            world.wake(host)
        for host in (host for host in world.hosts if host.destroyed):
            world.clients.forget(host.node)


KINDS: tuple[tuple[Callable[[Faults], None], int], ...] = (
    (Faults.crash, 3),
    (Faults.lose_power, 2),
    (Faults.crash_unsynced, 2),
    (Faults.restart_apart, 1),
    (Faults.flap, 1),
    (Faults.sleep, 2),
    (Faults.freeze, 2),
    (Faults.drain, 2),
    (Faults.destroy, 2),
    (Faults.restore, 1),
    (Faults.double, 1),
    (Faults.split, 3),
    (Faults.isolate, 2),
    (Faults.one_way, 2),
    (Faults.one_way_all, 1),
    (Faults.bridge, 2),
    (Faults.blink, 1),
    (Faults.noise, 3),
    (Faults.resets, 1),
    (Faults.stuck_disk, 2),
    (Faults.failing_disk, 2),
    (Faults.slow_disk, 1),
)
