"""``make demo-resume``: a training's machine is lost halfway, another goes on, and nothing of it can be seen.

The same training runs twice on three daemons, at the same time. One is left alone. The daemon that runs the other (the
leader, if it runs one of them) is killed with SIGKILL, and all that it runs with it; another goes on from the newest
checkpoint that was complete. Then the losses of all epochs, and the weights, must be the same to the last bit.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rich.console import Console

# Before gRPC is imported: it writes its own lines to stderr about nodes that are killed.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from mesh import MeshClient
from tools.demo_daemons import NAMES, ROOT, DemoFailed, Interrupts, Node, meshctl, play, program, start_mesh

T = TypeVar("T")

SWEEP = ROOT / "sweeps" / "resumable.yaml"
EPOCHS = 60  # as that file says
SHOWN_EVERY = 10  # epochs
BEGIN_WITHIN, KILL_WITHIN, END_WITHIN = 30.0, 60.0, 90.0  # seconds; about 5, 5 and 10 on two cores of their own
LOOK_EVERY = 0.1


class Training(NamedTuple):
    """One of the two."""

    client: MeshClient
    job: str
    names: dict[str, str]

    def task(self) -> dict[str, Any]:
        (task,) = self.client.job(self.job).tasks()
        if task["state"] in ("failed", "cancelled"):
            raise DemoFailed(f"the training {task['state']}: {task['error'] or task['reason']}")
        return task

    def runs_on(self, but: str = "") -> str:
        """The name of the node where it has begun, not that one; empty: it has not."""
        begun = [each["node"] for each in self.task()["attempts"] if each["state"] in ("running", "succeeded")]
        return next((self.names[node] for node in reversed(begun) if self.names[node] != but), "")


class Curve(NamedTuple):
    """What a training printed in the end: each epoch's loss to the last bit, and a digest of the weights."""

    losses: tuple[str, ...]
    weights: str

    @property
    def digest(self) -> str:
        return hashlib.sha256("\n".join((*self.losses, self.weights)).encode()).hexdigest()[:16]


def curve_of(printed: str) -> Curve:
    """Raises DemoFailed: it did not print all of it, or printed it twice."""
    lines = [line.split() for line in printed.splitlines()]
    losses = {int(line[1]): line[-1] for line in lines if line[:1] == ["epoch"]}
    weights = [line[1] for line in lines if line[:1] == ["weights"]]
    if sorted(losses) != list(range(EPOCHS)) or len(weights) != 1:
        raise DemoFailed(f"of {EPOCHS} epochs the training printed {len(losses)}, and {len(weights)} times its weights")
    return Curve(tuple(losses[epoch] for epoch in range(EPOCHS)), weights[0])


def difference(alone: Curve, interrupted: Curve) -> str:
    """Where they differ first; empty: nowhere."""
    for epoch, (one, other) in enumerate(zip(alone.losses, interrupted.losses, strict=True)):
        if one != other:
            return (
                f"the loss of epoch {epoch} is {float.fromhex(one)!r} in one and {float.fromhex(other)!r} in the other"
            )
    return "" if alone.weights == interrupted.weights else "the losses are the same, the weights are not"


def until(look: Callable[[], T], within: float, nodes: list[Node], what: str) -> T:
    deadline = time.monotonic() + within
    while not (found := look()):
        if time.monotonic() > deadline:
            raise DemoFailed(f"not within {within:.0f} s: {what}")
        for node in nodes:
            node.check()
        time.sleep(LOOK_EVERY)
    return found


def printed_by(task: str, env: dict[str, str]) -> str:
    command = [program("meshctl"), "logs", task]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, timeout=20, check=False)
    if done.returncode:
        raise DemoFailed(f"`meshctl logs {task}` exited with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def halfway(console: Console, training: Training, name: str, nodes: list[Node]) -> int:
    """Until half of the epochs are done and a checkpoint is complete; the last epoch that is known of."""
    shown = itertools.count(0, SHOWN_EVERY)
    following = next(shown)

    def reached() -> int | None:
        nonlocal following
        task = training.task()
        epoch, saved = task["metrics"].get("step", -1), task["checkpoints"]
        if task["state"] == "succeeded" or epoch == EPOCHS - 1:
            raise DemoFailed("the training had ended before its machine could be killed: it needs more epochs")
        if epoch >= following:
            complete = f", checkpoint of epoch {saved[0]['step']} complete" if saved else ""
            console.print(f"   {name}: epoch {epoch}, loss {task['metrics']['loss']:.4f}{complete}")
            following = next(number for number in shown if number > epoch)
        return epoch if saved and epoch >= EPOCHS // 2 else None

    return until(reached, KILL_WITHIN, nodes, "the training is halfway, and a checkpoint of it complete") or 0


def run(console: Console, home: Path, nodes: list[Node], interrupts: Interrupts) -> dict[str, Any]:
    started = time.monotonic()
    env, peers = start_mesh(console, home, nodes, interrupts)
    names, addresses = (
        {peer[one]: peer[other] for peer in peers} for one, other in (("id", "name"), ("name", "address"))
    )
    sweep = str(SWEEP.relative_to(ROOT))
    console.print(f"\n[bold]2.[/] meshctl submit {sweep}, twice: one is left alone")
    env["MESH_ADDRESS"] = addresses[NAMES[0]]
    jobs = [meshctl(env, "submit", sweep, watched=nodes)["job"] for _ in range(2)]
    with MeshClient(addresses[NAMES[0]]) as client:
        placed = [Training(client, job, names) for job in jobs]
        ran = [until(each.runs_on, BEGIN_WITHIN, nodes, "both trainings have begun") for each in placed]
        leader = next((peer["name"] for peer in client.peers() if peer["leader"]), "")
    if ran[0] == leader:  # the worse loss: the mesh needs another leader first
        jobs.reverse()
        ran.reverse()
    console.print(f"   {ran[0]} runs the one that is left alone, {ran[1]} the other")

    # Through the one that runs neither: the others may be lost, or busy.
    env["MESH_ADDRESS"] = addresses[next(name for name in NAMES if name not in ran)]
    with MeshClient(env["MESH_ADDRESS"]) as client:
        alone, interrupted = (Training(client, job, names) for job in jobs)
        killed_at = halfway(console, interrupted, ran[1], nodes)
        victim = next(node for node in nodes if node.name == ran[1])
        led = any(peer["leader"] and peer["name"] == victim.name for peer in client.peers())
        killed = time.monotonic()
        victim.kill()
        whom = f"{victim.name}, which led the mesh" if led else victim.name
        console.print(f"\n[bold]3.[/] [bold red]kill -9 {whom}[/], and all that it ran, at epoch {killed_at}")
        successor = until(partial(interrupted.runs_on, victim.name), END_WITHIN, nodes, "another node runs it")
        away = time.monotonic() - killed
        console.print(f"   {successor} was given it after {away:.1f} s")
        ended = []
        for training in (alone, interrupted):
            client.job(training.job).wait(timeout=END_WITHIN)
            ended.append(training.task())
    resumed = ended[1]["attempts"][-1]["resumed_from"]
    if resumed is None:
        raise DemoFailed(f"{successor} began from the first epoch: it found no checkpoint")
    again = killed_at - resumed["step"]
    console.print(f"   it went on after epoch {resumed['step']}; {again} epochs that were lost were trained again")

    curves = [curve_of(printed_by(task["id"], env)) for task in ended]
    console.print("\n[bold]4.[/] the losses of all epochs and the weights in the end, to the last bit")
    for name, curve in zip(("undisturbed", "interrupted"), curves, strict=True):
        last = float.fromhex(curve.losses[-1])
        console.print(f"   {name}: {curve.digest}, last loss {last!r}")
    if why := difference(*curves):
        raise DemoFailed(f"the interrupted training is not the undisturbed one: {why}")
    console.print("   [bold green]equal[/]")
    return {
        "leader_killed": led,
        "killed_at_epoch": killed_at,
        "ran": victim.name,
        "went_on": successor,
        "after_epoch": resumed["step"],
        "undisturbed": curves[0].digest,
        "interrupted": curves[1].digest,
        "equal": True,
        "seconds_until_granted": round(away, 1),
        "seconds": round(time.monotonic() - started, 1),
    }


def main() -> int:
    if missing := [name for name in ("torch", "sklearn") if importlib.util.find_spec(name) is None]:
        what = f"demo: it trains with torch, on data of scikit-learn; there is no {' and no '.join(missing)} here"
        print(f"{what}; {sys.executable} -m pip install -c constraints.txt '.[torch]' scikit-learn", file=sys.stderr)
        return 1
    return play(run)


if __name__ == "__main__":
    sys.exit(main())
