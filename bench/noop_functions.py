"""No-op functions through one journaled leader with two runners. Goal: 5,000 tasks/s or more.

A task here is its own ledger record with a synced result. Chunked calls (many in one task) are another line.
"""

from __future__ import annotations

import time

from bench.harness import daemon, median, publish
from bench.noop import noop
from mesh import MeshClient

TASKS = 10_000
WARM = 200
RUNS = 5


def submitted(client: MeshClient) -> None:
    futures = [client.submit(noop, i) for i in range(TASKS)]
    if sum(future.result(timeout=120) for future in futures) != TASKS * (TASKS - 1) // 2:
        raise RuntimeError("results are not those of the calls")


def mapped(client: MeshClient, chunksize: int) -> None:
    if list(client.map(noop, range(TASKS), chunksize=chunksize)) != list(range(TASKS)):
        raise RuntimeError("results are not those of the calls")


def rate(client: MeshClient, chunksize: int) -> float:
    began = time.perf_counter()
    if chunksize:
        mapped(client, chunksize)
    else:
        submitted(client)
    return TASKS / (time.perf_counter() - began)


def main() -> None:
    for name, chunksize, goal in (("submit", 0, 5000), ("map", 1, 5000), ("chunked", 100, None)):
        # A fresh daemon each: what ran before must not help or hinder.
        with daemon("--slots", "2") as it, MeshClient(it.target) as client:
            for future in [client.submit(noop, i) for i in range(WARM)]:
                future.result(timeout=60)
            rates = [rate(client, chunksize) for _ in range(RUNS)]
        figures = {"how": name, "calls_per_task": max(1, chunksize), "calls": TASKS, "runs": RUNS}
        unit = "calls_per_second" if chunksize > 1 else "tasks_per_second"
        figures |= {unit: round(median(rates)), "each_run": [round(r) for r in rates]}
        publish("noop_functions", figures | ({"goal_tasks_per_second": goal} if goal else {}))


if __name__ == "__main__":
    main()
