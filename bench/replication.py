"""What a live copy costs: no-op functions with one leader alone, and with one successor beside it, side by side.

The successor runs nothing (role leader), and shares this machine's cores with the leader, its runners and the client;
between machines it would not. The two are measured in turns, so that both see the same machine.
"""

from __future__ import annotations

import time

from bench.harness import daemon, median, publish, wait_for
from bench.noop import noop
from mesh import MeshClient

TASKS = 5_000
WARM = 500
TURNS = 5


def rate(client: MeshClient) -> float:
    began = time.perf_counter()
    for future in [client.submit(noop, i) for i in range(TASKS)]:
        future.result(timeout=120)
    return TASKS / (time.perf_counter() - began)


def trips(client: MeshClient, calls: int = 200) -> float:
    took = []
    for i in range(calls):
        began = time.perf_counter()
        client.submit(noop, i).result(timeout=30)
        took.append(1000 * (time.perf_counter() - began))
    return median(took)


def main() -> None:
    with (
        daemon("--slots", "2", "--rank", "10") as alone,
        daemon("--slots", "2", "--rank", "10") as led,
        daemon("--role", "leader", "--rank", "90", "--peer", led.address, mesh_of=led) as successor,
        MeshClient(alone.target) as without,
        MeshClient(led.target) as with_copy,
    ):

        def copied() -> bool:
            return any((peer["copy"] or {}).get("counts") for peer in with_copy.peers())

        wait_for(copied, successor.process, successor.state / "none")
        for client in (without, with_copy):
            for future in [client.submit(noop, i) for i in range(WARM)]:
                future.result(timeout=60)
        rates = [(rate(without), rate(with_copy)) for _ in range(TURNS)]
        took = [(trips(without), trips(with_copy)) for _ in range(TURNS)]
    figures = {
        "tasks": TASKS,
        "turns": TURNS,
        "alone_tasks_per_second": round(median([one for one, _ in rates])),
        "copied_tasks_per_second": round(median([two for _, two in rates])),
        "ratio": round(median([two / one for one, two in rates]), 3),
        "alone_roundtrip_ms": round(median([one for one, _ in took]), 3),
        "copied_roundtrip_ms": round(median([two for _, two in took]), 3),
        "each_turn": [[round(one), round(two)] for one, two in rates],
    }
    publish("replication", figures)


if __name__ == "__main__":
    main()
