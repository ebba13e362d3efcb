"""What must hold at every moment in every world, judged from outside, by what truly happened.

Here is the dispatch; the rules stand in ``grants`` (what is granted, begun, lost), ``promises`` (what is said waits for
the disk, results have one answer) and ``leaders`` (who leads).

Allowances, each because of what the design says:

- Grants do not wait for a disk, so an attempt may be unknown to a leader that crashed and came back, or to the next
  one; a task may then run twice at a time. Under one claim, and where its node said what it holds, it may not.
- Successors do not hold the ledger live yet. So a task that a leader acknowledged may be unknown while it is down, and
  two leaders may each accept a result where the second could not have known of the first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.core import effects as do
from mesh.core import events as ev
from mesh.core.valid import first_fault
from tests.sim.grants import Grants
from tests.sim.leaders import Leaders
from tests.sim.promises import Promises

if TYPE_CHECKING:
    from tests.sim.world import Host, World

WHOLE_EVERY = 100  # steps between checks of everything


class Watcher:
    """Watches a world; whatever is wrong is added to ``world.violations``."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.leaders = Leaders(world)
        self.grants = Grants(world, self.leaders)
        self.promises = Promises(world)
        world.before_step.append(self.before)
        world.after_step.append(self.after)

    def before(self, host: Host, event: ev.Event) -> None:
        if type(event) is ev.Received:
            self.grants.before(host, event.message)
            self.leaders.before(host, event.message)

    def after(self, host: Host, event: ev.Event, effects: list[do.Effect]) -> None:
        machine = host.machine
        if machine is None:
            return
        try:
            machine.check(whole=self.world.steps % WHOLE_EVERY == 0)
        except AssertionError as error:
            self.world.violate(f"{host.name}: {error}")
        self.grants.after(host, machine, event)
        if type(event) is ev.Resumed:
            self.leaders.on_resumed(host, machine, event)
        for effect in effects:
            match effect:
                case do.Send():
                    self.grants.on_send(host, machine, effect)
                    self.promises.on_send(host, machine, effect)
                    self.leaders.on_send(host, machine, effect)
                case do.Persist():
                    if wrong := first_fault(effect.records):  # no peer would take it from here
                        self.world.violate(f"{host.name} records what it would refuse of others: {wrong}")
                    self.grants.on_persist(host, machine, effect)
                    self.promises.on_persist(host, machine, effect)
                case do.BeginAttempts():
                    self.grants.on_begin(host, effect)
                case do.TasksChanged():
                    self.promises.on_shown(host, machine, effect)
                case do.LeaderChanged():
                    self.leaders.on_changed(host, machine)
                case do.Notice(event="peer_refused" | "hello_refused"):
                    self.world.violate(f"{host.name} refuses what a correct machine said: {dict(effect.fields)}")
                case do.Drained():
                    self.grants.on_drained(host, machine)
