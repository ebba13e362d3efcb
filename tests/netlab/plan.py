"""Which faults there will be, from a seed alone: the same seed and size give the same plan.

Two tracks run side by side, each with one fault at a time: one of the network, one of daemons and disks. So a leader
dies while half of the mesh cannot see the other half, and still at most two machines are away at a time for their own
reasons. Nothing that is on a disk is ever destroyed.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple

KILL, POWER_OFF, DRAIN, PAUSE, SKEW = "kill", "power off", "drain", "pause", "clock off"
FULL, STUCK, READ_ONLY = "disk full", "disk stuck", "disk read-only"
ISOLATE, SPLIT, BRIDGE, ONE_WAY, LOSS, NARROW = "isolate", "split", "bridge", "one way", "loss", "narrow cable"

DAEMON_FAULTS = {KILL: 4, PAUSE: 3, DRAIN: 2, FULL: 2, STUCK: 1, READ_ONLY: 1, POWER_OFF: 1, SKEW: 1}
NETWORK_FAULTS = {ISOLATE: 3, SPLIT: 3, ONE_WAY: 2, LOSS: 2, BRIDGE: 1, NARROW: 1}
NETWORK_SHARE = 0.4
NEED_EXT4 = frozenset({STUCK, READ_ONLY})

SHORT, TYPICAL = (0.5, 3.0), (3.0, 9.0)  # seconds: around the 2.2 that silence is believed after, and well beyond
GAP = (0.5, 4.0)  # seconds between two of one track
LONG = (33.0, 36.0)  # seconds: beyond lost_after, so that work is given up and refuted
LONG_EVERY = 12  # faults of the network


class Fault(NamedTuple):
    """``names``: the hosts it happens to; of two groups or ends, the first, and ``others`` the second.

    ``much``: the share of packets that are lost, the Mbit/s that pass, the seconds that the clock is off.
    """

    at: float  # seconds after the beginning
    seconds: float
    kind: str
    names: str
    others: str = ""
    much: float = 0.0

    def __str__(self) -> str:
        against = f"|{self.others}" if self.others else ""
        return f"{self.kind} {self.names}{against}"


def plan(seed: int, count: int, hosts: str, without: frozenset[str] = frozenset()) -> list[Fault]:
    """In order of time; ``without`` the kinds that this machine cannot have."""
    random = Random(f"{seed} {count} {hosts}")
    network = round(count * NETWORK_SHARE)
    daemons = {kind: weight for kind, weight in DAEMON_FAULTS.items() if kind not in without}
    return sorted([*_track(random, network, NETWORK_FAULTS, hosts), *_track(random, count - network, daemons, hosts)])


def _track(random: Random, count: int, kinds: dict[str, int], hosts: str) -> list[Fault]:
    faults, at = [], 1.0
    for number in range(count):
        (kind,) = random.choices(list(kinds), list(kinds.values()))
        seconds = random.uniform(*random.choice((SHORT, TYPICAL, TYPICAL)))
        if kinds is NETWORK_FAULTS and number % LONG_EVERY == LONG_EVERY - 1:
            kind, seconds = ISOLATE, random.uniform(*LONG)
        faults.append(_fault(random, round(at, 2), round(seconds, 2), kind, hosts))
        at += seconds + random.uniform(*GAP)
    return faults


def _fault(random: Random, at: float, seconds: float, kind: str, hosts: str) -> Fault:
    mixed = random.sample(hosts, len(hosts))
    if kind == KILL:
        return Fault(at, seconds, kind, "".join(mixed[: 2 if len(hosts) > 3 and random.random() < 0.2 else 1]))
    if kind == LOSS:
        return Fault(at, seconds, kind, "".join(mixed[: random.randint(1, 2)]), much=random.choice((0.1, 0.3, 0.6)))
    if kind == NARROW:
        return Fault(at, seconds, kind, mixed[0], much=random.choice((1, 4, 16)))
    if kind == SKEW:
        return Fault(at, seconds, kind, mixed[0], much=random.choice((-86400, -60, 3600)))
    if kind == ISOLATE:
        rest = "".join(sorted(mixed[1:]))
        return Fault(at, seconds, kind, mixed[0], rest)
    if kind == ONE_WAY:
        return Fault(at, seconds, kind, mixed[0], "".join(sorted(mixed[1 : random.choice((2, len(hosts)))])))
    if kind in (SPLIT, BRIDGE):
        seen = mixed[1:] if kind == BRIDGE else mixed
        half = random.randint(1, max(1, len(seen) // 2))
        return Fault(at, seconds, kind, "".join(sorted(seen[:half])), "".join(sorted(seen[half:])))
    return Fault(at, seconds, kind, mixed[0])
