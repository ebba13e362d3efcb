"""Carries out a plan: begins and ends each fault when its time comes, and writes down what really happened."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.netlab import plan
from tests.netlab.lab import Lab
from tests.netlab.plan import Fault
from tests.netlab.timeline import Span, Timeline

LOOK_EVERY = 0.05


class Injector:
    """``say`` is told what happens, one line each."""

    def __init__(self, net: Lab, timeline: Timeline, say: Callable[[str], None]) -> None:
        self.net, self.timeline, self.say = net, timeline, say
        self.active: dict[Fault, Span] = {}

    def run(self, faults: list[Fault], meanwhile: Callable[[], object]) -> None:
        """``meanwhile`` is called again and again; what it raises ends the run."""
        began = time.monotonic()
        waiting = list(faults)
        ends: list[tuple[float, Fault]] = []
        while waiting or ends:
            now = time.monotonic() - began
            if ends and ends[0][0] <= now:
                self.end(ends.pop(0)[1])
            elif waiting and waiting[0].at <= now and self.may_begin(waiting[0]):
                fault = waiting.pop(0)
                self.begin(fault)
                ends = sorted([*ends, (time.monotonic() - began + fault.seconds, fault)])
            else:
                meanwhile()
                time.sleep(LOOK_EVERY)

    def may_begin(self, fault: Fault) -> bool:
        """One fault of a kind at a time; where the last one took longer than planned, the next one waits for it."""
        of_network = fault.kind in plan.NETWORK_FAULTS
        return all((other.kind in plan.NETWORK_FAULTS) is not of_network for other in self.active)

    def begin(self, fault: Fault) -> None:
        net, names, others = self.net, fault.names, fault.others
        dead = silent = ""
        apart = ("", "")
        match fault.kind:
            case plan.KILL | plan.POWER_OFF | plan.DRAIN | plan.READ_ONLY:  # this one dies at its end
                dead = names
            case plan.PAUSE | plan.FULL | plan.STUCK | plan.LOSS | plan.NARROW:
                silent = names
            case plan.SKEW:
                pass  # it excuses nothing
            case _:
                apart = (names, others)
        # Before it begins, so that nothing happens outside the time that is written down.
        self.active[fault] = self.timeline.begin(str(fault), dead=dead, silent=silent, apart=apart)
        self.say(f"{fault} for {fault.seconds:.1f} s")
        match fault.kind:
            case plan.KILL:
                net.kill(names)
            case plan.POWER_OFF:
                net.power_off(names)
            case plan.DRAIN:
                net.terminate(names)
            case plan.PAUSE:
                net.pause(names)
            case plan.FULL:
                net.disks[names].fill()
            case plan.STUCK:
                net.disks[names].stall()
            case plan.READ_ONLY:
                net.disks[names].break_()
            case plan.SKEW:
                net.skew(names, fault.much)
            case plan.LOSS:
                net.lose(names, fault.much)
            case plan.NARROW:
                net.limit(names, f"{fault.much:g}mbit")
            case plan.ONE_WAY:
                net.one_way(names, others)
            case plan.ISOLATE | plan.SPLIT | plan.BRIDGE:
                net.split(names, others)

    def end(self, fault: Fault) -> None:
        net, names = self.net, fault.names
        match fault.kind:
            case plan.KILL | plan.POWER_OFF:
                net.restart(names)
            case plan.DRAIN:
                code = net.ended(names)
                if code:
                    self.say(f"{names} drained with exit code {code}")
                net.restart(names)
            case plan.PAUSE:
                net.resume(names)
            case plan.FULL:
                net.disks[names].empty()
                net.restart(*net.down.intersection(names))
            case plan.STUCK:
                net.disks[names].go_on()
            case plan.READ_ONLY:
                net.kill(names)
                net.disks[names].mend()
                net.restart(names)
            case plan.SKEW:
                net.skew(names, 0)
            case plan.NARROW:
                net.unlimit(names)
            case _:
                net.mend()
        self.timeline.end(self.active.pop(fault))
        self.say(f"{fault} is over")
