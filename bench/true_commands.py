"""2,000 `true` commands with captured output, from one meshctl call to its end; the bare cost of them beside it."""

from __future__ import annotations

import subprocess
import time

from bench.harness import daemon, median, meshctl, publish

COMMANDS = 2000
RUNS = 3


def once() -> float:
    with daemon("--slots", "2") as it:
        meshctl(it.env, "submit", "--wait", "--", "true")
        began = time.perf_counter()
        job = meshctl(it.env, "submit", "--param", "i", *map(str, range(COMMANDS)), "--wait", "--", "true")
        seconds = time.perf_counter() - began
    if job["tasks"]["succeeded"] != COMMANDS:
        raise RuntimeError(f"not all succeeded: {job['tasks']}")
    return COMMANDS / seconds


def bare() -> float:
    """The same from one thread of Python, output captured, nothing else: what a single slot cannot beat."""
    began = time.perf_counter()
    for _ in range(COMMANDS // 4):
        subprocess.run(["true"], capture_output=True, check=True)
    return COMMANDS // 4 / (time.perf_counter() - began)


def main() -> None:
    rates = [once() for _ in range(RUNS)]
    figures = {"commands_per_second": round(median(rates)), "each_run": [round(r) for r in rates]}
    publish("true_commands", figures | {"commands": COMMANDS, "slots": 2, "bare_per_second": round(bare())})


if __name__ == "__main__":
    main()
