"""``make demo``: three nodes on this machine find each other and run a hyper-parameter sweep.

It starts three daemons on loopback (their own state directories, a mesh name nobody else has, no ``--peer``: they meet
by mDNS), and does what a user would do, with the commands a user has. Whatever happens it stops what it started.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tools.demo_daemons import NAMES, ROOT, DemoFailed, Interrupts, Node, meshctl, play, start_mesh

SWEEP = ROOT / "sweeps" / "digits.yaml"
SWEEP_WITHIN = 240.0
GOOD = 0.95
LEAST_EACH = 2


def leader_line(peers: list[dict[str, Any]]) -> str:
    """Nodes that start together lead in the order they meet; the lowest id asks for it once it was steady for 10 s."""
    leader = next((peer for peer in peers if peer["leader"]), None)
    if leader is None:
        return "nobody leads at this moment"
    lowest = leader["id"] == min(peer["id"] for peer in peers)
    return f"{leader['name']} leads, {'the lowest id' if lowest else 'until the lowest id has settled'}"


def shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def who_ran(task: dict[str, Any], names: dict[str, str]) -> str:
    node: str = next(attempt["node"] for attempt in reversed(task["attempts"]) if attempt["state"] == "succeeded")
    return names.get(node, node)


def show_trials(
    console: Console, tasks: list[dict[str, Any]], metric: str, names: dict[str, str], best_task: str
) -> None:
    parameters = sorted({key for task in tasks for key in task["params"]})
    table = Table("", *parameters, metric, "node", title="trials", title_justify="left", box=box.SIMPLE)
    for task in sorted(tasks, key=lambda task: -task["metrics"][metric]):
        values = [shown(task["params"].get(key)) for key in parameters]
        mark = "[bold green]best[/]" if task["id"] == best_task else ""
        table.add_row(mark, *values, f"{task['metrics'][metric]:.4f}", who_ran(task, names))
    console.print(table)


def run(console: Console, home: Path, nodes: list[Node], interrupts: Interrupts) -> dict[str, Any]:
    started = time.monotonic()
    env, peers = start_mesh(console, home, nodes, interrupts)

    # Any node takes any call: this one asks a node that does not lead.
    follower = next(peer for peer in sorted(peers, key=lambda peer: peer["id"]) if not peer["leader"])
    env["MESH_ADDRESS"] = follower["address"]
    sweep = str(SWEEP.relative_to(ROOT))
    console.print(f"\n[bold]2.[/] meshctl submit {sweep} --wait   (through {follower['name']})")
    job = meshctl(env, "submit", sweep, "--wait", within=SWEEP_WITHIN, watched=nodes)
    tasks = meshctl(env, "tasks", "--job", job["id"])
    best = meshctl(env, "best", job["id"])
    metric, accuracy = best["metric"]["name"], best["metric"]["value"]
    unfinished = [task["id"] for task in tasks if task["state"] != "succeeded"]
    if unfinished:
        raise DemoFailed(f"{len(unfinished)} of {len(tasks)} trials did not succeed: {', '.join(unfinished)}")

    names = {peer["id"]: peer["name"] for peer in peers}
    console.print()
    show_trials(console, tasks, metric, names, best["task"])
    by_node = dict.fromkeys(NAMES, 0)
    for task in tasks:
        by_node[who_ran(task, names)] += 1
    chosen = ", ".join(f"{key}={shown(value)}" for key, value in sorted(best["params"].items()))
    console.print(f"\n[bold]3.[/] best {metric} [bold green]{accuracy:.4f}[/] with {chosen}")
    now = meshctl(env, "peers")
    console.print(f"   {leader_line(now)}")
    console.print("   trials: " + ", ".join(f"{name} ran {count}" for name, count in by_node.items()))
    if accuracy <= GOOD:
        raise DemoFailed(f"the best {metric} is {accuracy:.4f}, not above {GOOD}")
    if lazy := [name for name, count in by_node.items() if count < LEAST_EACH]:
        raise DemoFailed(f"{', '.join(lazy)} ran fewer than {LEAST_EACH} trials")
    seconds = round(time.monotonic() - started, 1)
    return {"accuracy": accuracy, "best": best["params"], "tasks_by_node": by_node, "seconds": seconds}


if __name__ == "__main__":
    sys.exit(play(run))
