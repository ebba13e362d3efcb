"""One client of a chaos run, a process on a host of the lab: submits, and writes down what it was told.

Its record is JSON lines, each on disk before the next thing is done: ``acknowledged`` (ids of tasks), ``shown`` (a
task's end, with the attempt and the nonce of its result), ``gave_up`` (what it was told instead). Each attempt writes
a file of its own, too: a line when it begins and one when it ends. So what the mesh says is held against what was
said and done, by two parties who do not know of each other.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any, TextIO

from mesh.client.futures import TaskFuture
from mesh.client.sync import MeshClient
from mesh.core.errors import MeshError, TaskError

PATIENCE = 600.0  # seconds: longer than any fault
LONG_SHARE, LONG, SHORT = 0.02, (5.0, 20.0), (0.01, 0.5)  # seconds a task takes
RETRIES = {"max": 8, "backoff": "200ms", "factor": 1.5, "max_delay": "5s"}  # where a machine's disk is full it fails
LOOK_EVERY = 0.02
SWEEP = 20  # tasks of one file
ASK_EVERY = 2.0  # seconds between two looks with meshctl


def work(directory: str, seconds: float) -> dict[str, Any]:
    """What a task does, as a function. It travels by value: nothing of this module is there when it runs."""
    import json
    import os
    import secrets
    import select
    import time

    from mesh import task

    nonce = secrets.randbits(48)
    with open(os.path.join(directory, task.attempt), "x") as file:
        file.write(json.dumps({"task": task.id, "node": task.node, "began": time.monotonic()}) + "\n")
        file.flush()
        try:
            select.select(
                [], [], [], seconds
            )  # libfaketime breaks time.sleep where it leaves the monotonic clock alone
        except BaseException as stopped:
            file.write(json.dumps({"stopped": repr(stopped), "at": time.monotonic()}) + "\n")
            raise
        file.write(json.dumps({"ended": time.monotonic(), "nonce": nonce}) + "\n")
    return {"attempt": task.attempt, "nonce": nonce}


# The same as a program.
PROGRAM = """\
import json, os, random, select, sys, time
seconds = float(sys.argv[1].partition("=")[2])
nonce = random.SystemRandom().getrandbits(48)
with open(os.path.join(os.environ["ATTEMPTS"], os.environ["MESH_ATTEMPT"]), "x") as file:
    began = {"task": os.environ["MESH_TASK_ID"], "node": os.environ["MESH_NODE"], "began": time.monotonic()}
    file.write(json.dumps(began) + "\\n")
    file.flush()
    select.select([], [], [], seconds)
    file.write(json.dumps({"ended": time.monotonic(), "nonce": nonce}) + "\\n")
print(json.dumps({"nonce": nonce}))
"""


class Record:
    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("a")

    def write(self, **what: Any) -> None:
        self._file.write(json.dumps({"at": time.monotonic()} | what) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


class Load:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.random = Random(args.seed)
        self.record = Record(args.record)
        self.left: int = args.tasks
        self.pause = args.span / max(1, args.tasks)  # mean, between two tasks
        self.end = time.monotonic() + args.within

    def seconds(self) -> float:
        return round(self.random.uniform(*(LONG if self.random.random() < LONG_SHARE else SHORT)), 3)

    # With the SDK.

    def functions(self) -> None:
        with MeshClient(self.args.address, patience=PATIENCE) as client:
            waiting: dict[str, TaskFuture[Any]] = {}
            unacknowledged: dict[str, TaskFuture[Any]] = {}
            next_at = time.monotonic()
            while (self.left or waiting) and time.monotonic() < self.end:
                if self.left and time.monotonic() >= next_at:
                    burst = min(self.left, self.random.choice((1, 1, 2, 5, 20)))
                    for _ in range(burst):
                        future = client.submit(work, self.args.attempts, self.seconds(), retries=RETRIES)
                        waiting[future.task_id] = unacknowledged[future.task_id] = future
                    self.left -= burst
                    next_at += burst * self.pause
                told = [task for task, future in unacknowledged.items() if future.acknowledged]
                if told:
                    self.record.write(acknowledged=told)
                for task in told:
                    del unacknowledged[task]
                for task in [task for task, future in waiting.items() if future.done()]:
                    self.ended(task, waiting.pop(task))
                time.sleep(LOOK_EVERY)
            if waiting:
                self.record.write(waiting=list(waiting))

    def ended(self, task: str, future: TaskFuture[Any]) -> None:
        try:
            self.record.write(shown=task, state="succeeded", **future.result(0))
        except TaskError as error:
            self.record.write(shown=task, state="failed", why=str(error))
        except MeshError as error:
            self.record.write(gave_up=task, why=str(error))

    # With meshctl.

    def sweeps(self) -> None:
        (self.args.attempts.parent / "program.py").write_text(PROGRAM)
        open_jobs: dict[str, set[str]] = {}
        next_at = ask_at = time.monotonic()
        number = 0
        while (self.left or open_jobs) and time.monotonic() < self.end:
            now = time.monotonic()
            if self.left and now >= next_at:
                count = min(self.left, SWEEP)
                number += 1
                next_at = now + count * self.pause
                if (found := self.meshctl("submit", str(self.sweep(number, count)))) is not None:
                    self.left -= count
                    tasks = [f"{found['job']}.{index}" for index in range(found["tasks"])]
                    self.record.write(acknowledged=tasks, durable_on=found["durable_on"])
                    open_jobs[found["job"]] = set(tasks)
            elif open_jobs and now >= ask_at:
                ask_at = now + ASK_EVERY
                self.ask(open_jobs)
            time.sleep(LOOK_EVERY)
        if open_jobs:
            self.record.write(waiting=sorted(task for left in open_jobs.values() for task in left))

    def sweep(self, number: int, count: int) -> Path:
        path: Path = self.args.record.with_suffix(f".{number}.yaml")
        document = {
            "command": [sys.executable, "-I", "-S", str(self.args.attempts.parent / "program.py"), "${args}"],
            "method": "grid",
            "parameters": {"seconds": {"values": [self.seconds() + index * 1e-6 for index in range(count)]}},
            "mesh": {"retries": RETRIES, "env": {"vars": {"ATTEMPTS": str(self.args.attempts)}}},
        }
        path.write_text(json.dumps(document))
        return path

    def ask(self, open_jobs: dict[str, set[str]]) -> None:
        for job, left in list(open_jobs.items()):
            for task in self.meshctl("tasks", "--job", job) or ():
                if task["id"] in left and task["state"] in ("succeeded", "failed", "cancelled"):
                    left.discard(task["id"])
                    attempt = next((attempt["id"] for attempt in task["attempts"] if attempt["accepted"]), "")
                    nonce = task["metrics"].get("nonce")
                    self.record.write(
                        shown=task["id"], state=task["state"], attempt=attempt, nonce=nonce, why=task["error"]
                    )
            if not left:
                del open_jobs[job]

    def meshctl(self, *arguments: str) -> Any:
        """What it prints; None where it failed, which is written down."""
        command = [str(Path(sys.executable).parent / "meshctl"), "-o", "json", *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
            env=os.environ | {"MESH_ADDRESS": self.args.address},
        )  # fmt: skip
        if done.returncode:
            self.record.write(gave_up=" ".join(arguments), why=f"{done.returncode}: {done.stderr.strip()}")
            return None
        return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("functions", "sweeps"))
    parser.add_argument("--address", required=True)
    parser.add_argument("--tasks", type=int, required=True)
    parser.add_argument("--seed", required=True)
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--attempts", type=Path, required=True, help="the directory of the attempts' files")
    parser.add_argument("--span", type=float, required=True, help="seconds over which the tasks are submitted")
    parser.add_argument("--within", type=float, required=True, help="seconds after which it ends all the same")
    load = Load(parser.parse_args())
    load.functions() if load.args.kind == "functions" else load.sweeps()


if __name__ == "__main__":
    main()
