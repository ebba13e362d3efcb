"""What a checkpoint costs: ``python -m bench.checkpoints [MIB]``, of a state of 1 GiB by default. Needs torch.

*Stall*: for how long ``task.checkpoint.save`` stops a training, as a task of a real daemon measures it itself, beside a
plain copy of the same tensors in memory: into new memory (``clone``), and into memory that is there. All tensors change
before each save, the order within a turn changes too, and the write of a save is over before the next turn begins; it
is told apart, since a training that saves more often waits for it. The first of each, which need memory that the
system must hand out, are no turn. Goal: a median ratio of 1.5 at most, to either.

*Again*: a task saves a state, which is copied to another node; then one in a hundred of its tensors changes, and it
saves again. Counted is by how much stores grow and what moves between nodes. There are three, so that there is a wrong
one to copy to. Goal: at most 2 % of the state, each.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before gRPC is imported: what it says of daemons that end is no news.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from bench.harness import Daemon, daemon, median, meshctl, publish
from mesh import MeshClient
from mesh.core.errors import NotFound
from mesh.core.ids import job_of

MIB = 1024
TENSORS, TURNS = 64, 7  # of the stall
PARTS = 100  # tensors, of which one changes
GOAL_RATIO, GOAL_SHARE = 1.5, 0.02
WITHIN = 240.0
LOOK_EVERY = 0.1


def saving(size: int, tensors: int, turns: int) -> dict[str, Any]:
    """In a task: seconds that each took, turn by turn."""
    import time

    import torch

    from mesh import task

    model = [torch.rand(size // tensors // 4) for _ in range(tensors)]
    there = [tensor.clone() for tensor in model]

    def copy() -> None:
        for one, other in zip(there, model, strict=True):
            one.copy_(other)

    def took(what: Callable[[], object]) -> float:
        began = time.perf_counter()
        what()
        return time.perf_counter() - began

    def save() -> None:
        task.checkpoint.save({"model": model})

    def written() -> None:
        while task.checkpoint.writing:
            time.sleep(0.002)

    ways: dict[str, Callable[[], object]] = {
        "clone": lambda: [tensor.clone() for tensor in model],  # freed once it was timed
        "copy": copy,
        "save": save,
    }
    first_clone = took(ways["clone"])
    first, first_write = took(save), took(written)
    found: list[dict[str, float]] = []
    for turn in range(turns):
        for tensor in model:
            tensor.add_(1)
        names = list(ways)
        each = {}
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            each[name] = took(ways[name])
            if name == "save":
                each["write"] = took(written)
        found.append(each)
    firsts = {"first": first, "first_write": first_write, "first_clone": first_clone}
    return firsts | {"turns": found, "threads": torch.get_num_threads()}


def stall(size: int, tensors: int = TENSORS, turns: int = TURNS) -> dict[str, Any]:
    with daemon("--slots", "1") as it, MeshClient(it.target) as client:
        load = os.getloadavg()[0]
        found = client.submit(saving, size, tensors, turns, checkpoints={"keep": 1, "copies": 1}).result(WITHIN)
    each = found["turns"]
    return {
        "bytes": size,
        "tensors": tensors,
        "turns": turns,
        "threads": found["threads"],
        "load_before": round(load, 1),
        "clone_seconds": round(median([turn["clone"] for turn in each]), 3),
        "copy_seconds": round(median([turn["copy"] for turn in each]), 3),
        "stall_seconds": round(median([turn["save"] for turn in each]), 3),
        "ratio": round(median([turn["save"] / turn["clone"] for turn in each]), 3),
        "ratio_to_copy": round(median([turn["save"] / turn["copy"] for turn in each]), 3),
        "goal_ratio": GOAL_RATIO,
        "first_stall_seconds": round(found["first"], 3),
        "first_clone_seconds": round(found["first_clone"], 3),
        "write_seconds": round(median([turn["write"] for turn in each]), 2),
        "first_write_seconds": round(found["first_write"], 2),
        "each_turn": [{name: round(seconds, 3) for name, seconds in turn.items()} for turn in each],
    }


def changing(size: int, parts: int, gate: str) -> int:
    """In a task: saves, waits until there is a file of that name, changes some, saves again; the bytes that changed."""
    import os
    import time

    import torch

    from mesh import task

    model = [torch.rand(size // parts // 4) for _ in range(parts)]
    task.checkpoint.save({"model": model, "step": 0}, step=0)
    while not os.path.exists(gate):
        time.sleep(0.05)
    changed = range(0, parts, 100)
    for number in changed:
        model[number].add_(1)
    task.checkpoint.save({"model": model, "step": 1}, step=1)
    return len(changed) * (size // parts // 4) * 4


def again(size: int, parts: int = PARTS) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(daemon("--slots", "1", "--rank", "10"))
        others = ("--slots", "1", "--peer", first.address)
        nodes = [first, *(stack.enter_context(daemon(*others, mesh_of=first)) for _ in range(2))]
        gate = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mesh-bench-"))) / "go"
        client = stack.enter_context(MeshClient(first.target))
        until(lambda: sum(peer["state"] == "alive" for peer in client.peers()) == len(nodes), "three nodes have met")
        load = os.getloadavg()[0]
        future = client.submit(changing, size, parts, str(gate), checkpoints={"copies": 2})
        one = until(lambda: complete(client, future.task_id, 0), "the first checkpoint is complete")
        before = [standing(node) for node in nodes]
        began = time.perf_counter()
        gate.touch()
        two = until(lambda: complete(client, future.task_id, 1), "the second checkpoint is complete")
        seconds = time.perf_counter() - began
        changed = future.result(WITHIN)
        after = [standing(node) for node in nodes]
    grown = {
        late["id"]: {name: late[name] - soon[name] for name in late if name != "id"}
        for soon, late in zip(before, after, strict=True)
    }
    here = grown[two["node"]]
    elsewhere = [each for node, each in grown.items() if node != two["node"]]
    stored, files = (sum(each[name] for each in elsewhere) for name in ("blob_bytes", "files"))
    moved = sum(each["blob_bytes_received"] for each in grown.values())
    return {
        "bytes": one["size"],
        "changed": round(changed / one["size"], 5),
        "stored_there": round(stored / one["size"], 5),
        "files_there": round(files / one["size"], 5),
        "stored_here": round(here["blob_bytes"] / one["size"], 5),
        "moved": round(moved / one["size"], 5),
        "goal_share": GOAL_SHARE,
        "nodes_that_grew": sum(each["blob_bytes"] > 0 for each in grown.values()),
        "seconds_until_complete": round(seconds, 2),
        "load_before": round(load, 1),
    }


def complete(client: MeshClient, task: str, step: int) -> dict[str, Any] | None:
    """The checkpoint of that step, once enough nodes have it; and the node that saved it."""
    try:
        (document,) = client.job(job_of(task)).tasks()
    except NotFound:
        return None  # it is on its way there
    found = next((each for each in document["checkpoints"] if each["step"] == step), None)
    return None if found is None else found | {"node": document["attempts"][-1]["node"]}


def standing(node: Daemon) -> dict[str, Any]:
    """Bytes in its store, as it says and as its files are, and what was moved."""
    status = meshctl(node.env, "status")
    files = sum(path.stat().st_size for path in node.state.glob("**/chunks/*/*"))
    return {name: status[name] for name in ("id", "blob_bytes", "blob_bytes_received")} | {"files": files}


def until(look: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + WITHIN
    while not (found := look()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {WITHIN:g} s: {what}")
        time.sleep(LOOK_EVERY)
    return found


def main() -> None:
    size = int(sys.argv[1] if len(sys.argv) > 1 else MIB) << 20
    publish("checkpoints", {"what": "stall"} | stall(size))
    publish("checkpoints", {"what": "again"} | again(size))


if __name__ == "__main__":
    main()
