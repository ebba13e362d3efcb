"""How long nobody grants: the leader killed, asked to leave, and its cable pulled out. Goals: 0.5 s; 100 ms; 3 s.

Three daemons on loopback run tasks of 5 ms all the time. Measured is what their clients see. *Killed*: from the SIGKILL
to the begin of the first attempt that the next leader granted. *Planned*: the longest time, around the hand-over, in
which no attempt began anywhere; beside it the longest such time in the second before, for machines are noisy. *Cable
out*: as *killed*, but on three hosts in network namespaces, and no connection is closed; needs root.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.harness import Daemon, daemon, median, meshctl, publish, wait_for
from mesh import MeshClient
from tests.e2e.mesh import mesh_of
from tests.netlab.lab import lab, why_no_lab

RUNS = 5
TASKS = 2400
AHEAD = 2.0  # seconds of work before the leader goes


def work(i: int) -> tuple[float, int]:
    """When it began, by the wall clock that all processes here share."""
    import time

    began = time.time()
    time.sleep(0.005)
    return began, i


def leads(it: Daemon) -> bool:
    with MeshClient(it.target) as client:
        return sum(peer["state"] == "alive" for peer in client.peers()) == 3


def run(how: str) -> dict[str, float]:
    with (
        daemon("--slots", "1", "--rank", "10", "--grace", "5") as first,
        daemon("--slots", "1", "--rank", "20", "--peer", first.address, mesh_of=first) as second,
        daemon("--slots", "1", "--rank", "30", "--peer", first.address, mesh_of=first) as third,
        MeshClient(second.target) as client,
    ):
        wait_for(lambda: leads(first), first.process, first.state / "none")
        futures = [client.submit(work, i) for i in range(TASKS)]
        futures[len(futures) // 20].result(timeout=60)
        time.sleep(AHEAD)
        gone = time.time()
        first.process.send_signal(signal.SIGKILL if how == "killed" else signal.SIGTERM)
        began = sorted(future.result(timeout=120)[0] for future in futures)
        if how == "planned":
            return {"gap": longest(began, gone - 0.5, gone + 2.0), "gap_before": longest(began, gone - 1.5, gone - 0.5)}
        return first_grant(list(meshctl(third.env, "tasks")), gone)


def pull_the_cable() -> dict[str, float]:
    with (
        tempfile.TemporaryDirectory(prefix="mesh-bench-") as directory,
        mesh_of(Path(directory)) as mesh,
        lab(3, mesh) as net,
    ):
        leader, second, third = net.up(slots=1)
        client = mesh.client(second)
        futures = [client.submit(work, i) for i in range(TASKS)]
        futures[len(futures) // 20].result(timeout=60)
        time.sleep(AHEAD)
        gone = time.time()
        net.unplug(leader.name)
        # What runs on the far side is given up after lost_after only; the first grant does not wait for that.
        futures[-1].result(timeout=120)
        return first_grant(mesh.ctl("tasks", at=third, within=60), gone)


def first_grant(tasks: list[dict[str, Any]], gone: float) -> dict[str, float]:
    """Seconds from ``gone`` until the first attempt began that a later leader granted."""
    attempts = [attempt for task in tasks for attempt in task["attempts"] if attempt["started_at"]]
    old = min(attempt["term"] for attempt in attempts)
    granted = (began_at(attempt) for attempt in attempts if attempt["term"] > old and began_at(attempt) > gone)
    return {"first_grant": min(granted) - gone}


def longest(began: list[float], since: float, until: float) -> float:
    near = [at for at in began if since <= at <= until]
    return max(later - at for at, later in pairwise(near))


def began_at(attempt: dict[str, Any]) -> float:
    return datetime.fromisoformat(attempt["started_at"]).timestamp()


def main() -> None:
    tell("killed", 0.5, [run("killed") for _ in range(RUNS)])
    tell("planned", 0.1, [run("planned") for _ in range(RUNS)])
    if why := why_no_lab():
        print(f"bench: failover: the cable stays in: {why}", file=sys.stderr)
        return
    tell("cable out", 3.0, [pull_the_cable() for _ in range(RUNS)])


def tell(how: str, goal: float, runs: list[dict[str, float]]) -> None:
    figures: dict[str, Any] = {"how": how, "runs": len(runs), "goal_seconds": goal}
    for name in runs[0]:
        each = [round(found[name], 4) for found in runs]
        figures |= {f"{name}_seconds": median(each), f"{name}_each": each}
    publish("failover", figures)


if __name__ == "__main__":
    main()
