"""Whether control waits while 1 GiB of chunks moves between two nodes: round trips of functions, beside it and not.

Two daemons on loopback with real stores. The first leads and is asked for all of a blob by the second; a client of the
second sends functions one at a time meanwhile, whose submission, grant, report and result pass between the two. Goal:
p99 within 50 ms, above which the blob plane would have to be a process of its own. Also: bytes per second from disk to
disk, and how much memory the two take beyond what they had.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
import time
from pathlib import Path

from bench.harness import Daemon, daemon, median, memory, meshctl, publish, quantile, wait_for
from bench.swarm import _fetch
from mesh import MeshClient

SIZE = 1 << 30
BEFORE = 10.0  # seconds


def nothing() -> None:
    """What is asked for."""


def round_trips(client: MeshClient, until: threading.Event) -> list[float]:
    """Milliseconds of each."""
    found = []
    while not until.is_set():
        began = time.perf_counter()
        client.submit(nothing).result(timeout=60)
        found.append(1000 * (time.perf_counter() - began))
    return found


def for_seconds(seconds: float) -> threading.Event:
    over = threading.Event()
    threading.Timer(seconds, over.set).start()
    return over


class Peak(threading.Thread):
    """The most memory that a process and its runners have, looked at ten times a second."""

    def __init__(self, it: Daemon) -> None:
        super().__init__(daemon=True)
        self._it, self.over = it, threading.Event()
        self.before = self.most = memory(it.process.pid)

    def run(self) -> None:
        while not self.over.wait(0.1):
            self.most = max(self.most, memory(self._it.process.pid))

    @property
    def grown(self) -> float:
        return round((self.most - self.before) / 2**20, 1)


def main() -> None:
    with (
        daemon("--slots", "1", "--rank", "10", "--role", "leader") as first,
        daemon("--slots", "1", "--peer", first.address, mesh_of=first) as second,
        MeshClient(second.target) as client,
        tempfile.TemporaryDirectory(prefix="mesh-bench-") as directory,
    ):
        wait_for(lambda: len([p for p in client.peers() if p["bid"]]) == 1, second.process, second.state / "none")
        file = Path(directory) / "blob"
        with file.open("wb") as out:
            for _ in range(SIZE >> 20):
                out.write(os.urandom(1 << 20))
        blob = meshctl(first.env, "put", str(file), "--copies", "1")["id"]
        round_trips(client, for_seconds(1.0))
        before = round_trips(client, for_seconds(BEFORE))
        peaks = [Peak(first), Peak(second)]
        for peak in peaks:
            peak.start()
        over, during = threading.Event(), list[float]()
        asking = threading.Thread(target=lambda: during.extend(round_trips(client, over)))
        asking.start()
        seconds = asyncio.run(_fetch(blob, [second.target]))
        over.set()
        asking.join()
        for peak in peaks:
            peak.over.set()
    publish(
        "bulk",
        {
            "bytes": SIZE,
            "seconds": round(seconds, 2),
            "mb_per_second": round(SIZE / seconds / 1e6),
            "before_median_ms": round(median(before), 2),
            "before_p99_ms": round(quantile(before, 0.99), 2),
            "during_median_ms": round(median(during), 2),
            "during_p99_ms": round(quantile(during, 0.99), 2),
            "during_longest_ms": round(max(during), 1),
            "during_calls": len(during),
            "goal_p99_ms": 50,
            "sender_grew_mib": peaks[0].grown,
            "receiver_grew_mib": peaks[1].grown,
        },
    )


if __name__ == "__main__":
    main()
