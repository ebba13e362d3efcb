"""One function at a time: submitted, run, its result synced and back. Goal: median 2 ms or less."""

from __future__ import annotations

import time

from bench.harness import daemon, median, publish, quantile
from bench.noop import noop
from mesh import MeshClient

WARM = 100
CALLS = 600


def call(client: MeshClient, i: int) -> float:
    began = time.perf_counter()
    client.submit(noop, i).result(timeout=30)
    return 1000 * (time.perf_counter() - began)


def main() -> None:
    with daemon("--slots", "2") as it, MeshClient(it.target) as client:
        for i in range(WARM):
            call(client, i)
        took = [call(client, i) for i in range(CALLS)]
    figures = {"median_ms": round(median(took), 3), "p99_ms": round(quantile(took, 0.99), 3)}
    publish("roundtrip", figures | {"calls": CALLS, "goal_median_ms": 2.0})


if __name__ == "__main__":
    main()
