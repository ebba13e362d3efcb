"""``python -m bench [NAME...]``: each benchmark in a process of its own, so that none warms another's imports."""

from __future__ import annotations

import subprocess
import sys

BENCHES = (
    "pieces",
    "start_to_first_task",
    "resting",
    "roundtrip",
    "noop_functions",
    "true_commands",
    "queued",
    "failover",
    "replication",
    "catchup",
    "nodes",
    "blobs",
    "bulk",
    "swarm",
    "breaks",
    "checkpoints",
)
WITHIN = 600.0


def main() -> int:
    chosen = sys.argv[1:] or BENCHES
    if unknown := [name for name in chosen if name not in BENCHES]:
        print(f"bench: no {', '.join(unknown)}; there are {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    failed = []
    for name in chosen:
        print(f"bench: {name}", file=sys.stderr, flush=True)
        try:
            code = subprocess.run([sys.executable, "-m", f"bench.{name}"], timeout=WITHIN, check=False).returncode
        except subprocess.TimeoutExpired:
            code = 124
        if code:
            failed.append(f"{name} ({code})")
    if failed:
        print(f"bench: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
