"""Memory and processor time of a node with nothing to do, children included. Goals: 60 MB, under 1 % of a core."""

from __future__ import annotations

import time

from bench.harness import cpu_seconds, daemon, memory, publish, tree

SETTLE = 6.0  # seconds: announced by mDNS, its leadership established (3 s), detectors run
WINDOW = 30.0


def main() -> None:
    # With mDNS, as users run it.
    with daemon(mdns=True) as it:
        time.sleep(SETTLE)
        busy, began = cpu_seconds(it.process.pid), time.perf_counter()
        time.sleep(WINDOW)
        share = (cpu_seconds(it.process.pid) - busy) / (time.perf_counter() - began)
        figures = {
            "pss_mb": round(memory(it.process.pid) / 1e6, 1),
            "cpu_percent_of_a_core": round(100 * share, 2),
            # Other Python processes of this machine share libraries with it and so lower its share: the bound above.
            "rss_mb": round(sum(process.memory_info().rss for process in tree(it.process.pid)) / 1e6, 1),
            "processes": len(tree(it.process.pid)),
            "window_seconds": WINDOW,
            "goal_pss_mb": 60,
            "goal_cpu_percent": 1.0,
        }
    publish("resting", figures)


if __name__ == "__main__":
    main()
