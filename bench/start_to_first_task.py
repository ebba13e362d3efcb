"""From starting meshd on an empty state directory to the result of a first function. Goal: 1.0 s or less."""

from __future__ import annotations

import time

from bench.harness import daemon, median, publish
from bench.noop import noop
from mesh import MeshClient

RUNS = 7


def once() -> tuple[float, float]:
    """Seconds until the daemon says where it listens, and until the first result."""
    with daemon("--slots", "1") as it:
        ready = time.perf_counter() - it.started
        with MeshClient(it.target) as client:
            client.submit(noop, 1).result(timeout=30)
            return ready, time.perf_counter() - it.started


def main() -> None:
    runs = [once() for _ in range(RUNS)]
    first = [seconds for _, seconds in runs]
    figures = {"seconds": round(median(first), 3), "worst": round(max(first), 3), "runs": RUNS, "goal_seconds": 1.0}
    publish("start_to_first_task", figures | {"ready_seconds": round(median([ready for ready, _ in runs]), 3)})


if __name__ == "__main__":
    main()
