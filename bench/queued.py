"""100,000 queued tasks: what each costs in memory, and how long submitting them takes.

The daemon's role is leader, so that nothing runs. One meshctl call submits them: reading, expanding, sending and the
synced answer are all in the time.
"""

from __future__ import annotations

import time

from bench.harness import daemon, median, memory, meshctl, publish

ROWS, COLUMNS = 400, 250
SETTLE = 3.0  # seconds, for the garbage of the submission to go
RUNS = 3


def once() -> tuple[float, float]:
    """Bytes per task and seconds."""
    with daemon("--role", "leader") as it:
        meshctl(it.env, "submit", "--param", "i", "0", "--", "true")
        time.sleep(SETTLE)
        before, began = memory(it.process.pid), time.perf_counter()
        grid = ["--param", "i", *map(str, range(ROWS)), "--param", "j", *map(str, range(COLUMNS))]
        job = meshctl(it.env, "submit", *grid, "--yes", "--", "true")
        seconds = time.perf_counter() - began
        if job["tasks"] != ROWS * COLUMNS:
            raise RuntimeError(f"not all were taken: {job}")
        time.sleep(SETTLE)
        return (memory(it.process.pid) - before) / job["tasks"], seconds


def main() -> None:
    runs = [once() for _ in range(RUNS)]
    figures = {
        "tasks": ROWS * COLUMNS,
        "bytes_per_task": round(median([size for size, _ in runs])),
        "submit_seconds": round(median([seconds for _, seconds in runs]), 2),
        "runs": RUNS,
    }
    publish("queued", figures)


if __name__ == "__main__":
    main()
