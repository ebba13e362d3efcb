"""1 GiB over a connection that is cut 20 times at random points: what is moved in all, beside the size.

Goal: at most 1.05. Counted is what passed towards the fetcher, frames and all, at full speed and at 100 MB/s; both ends
are in one process, and a relay between them is what cuts. The seed of the points is printed.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from bench.harness import publish
from mesh.blob.manifest import CHUNK_BYTES
from tests.shell.test_transfer import Link, Node, known

SIZE, CUTS, UNLIKE = 1 << 30, 20, 64
SEED = 4


async def broken(limit: float) -> dict[str, Any]:
    holder, fetcher = await Node("50-holder", limit=limit).start(), await Node("50-node").start()
    chunks = [number.to_bytes(4, "big") * (CHUNK_BYTES // 4) for number in range(UNLIKE)]
    blob = holder.store.put([chunks[number % UNLIKE] for number in range(SIZE // CHUNK_BYTES)])
    link, points = await Link(holder).start(), random.Random(SEED)
    left = sorted(points.uniform(0.02, 0.98) for _ in range(CUTS))

    def progress(here: int, size: int) -> None:
        while left and here >= left[0] * size:
            del left[0]
            link.cut()

    began = time.perf_counter()
    await fetcher.transfer.fetch(blob, known(link), progress)
    seconds = time.perf_counter() - began
    found = {
        "seconds": round(seconds, 1),
        "cuts": CUTS - len(left),
        "passed": round(link.passed / SIZE, 4),
        "received": round(fetcher.transfer.traffic.received / SIZE, 4),
    }
    await link.close()
    await fetcher.close()
    await holder.close()
    return found


def main() -> None:
    figures = {"full_speed": asyncio.run(broken(0.0)), "at_100_mb_per_second": asyncio.run(broken(100e6))}
    publish("breaks", {"bytes": SIZE, "seed": SEED, "goal": 1.05, **figures})


if __name__ == "__main__":
    main()
