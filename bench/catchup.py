"""A node that is new beside a long history: ``python -m bench.catchup [TASKS]``, a million finished tasks by default.

Two daemons on loopback. The first is started on a journal of so many finished tasks, written through the journal's own
code; the second is new, and reads all of it. Meanwhile a client sends no-op functions one at a time, for the time that
each takes, and another keeps a few under way. Then the first is killed, and the second grants.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from bench.harness import Daemon, daemon, median, meshctl, publish, quantile
from mesh import MeshClient
from mesh.core.ids import Claim, attempt_id, granter, node_id
from mesh.core.lattice import OFFERED, SUCCEEDED, Acceptance, Attempt, Job, Outcome, Record, Shape, Task
from mesh.core.work import Work
from mesh.shell.journal import Journal
from mesh.wire.work import encode_work

TASKS = 1_000_000
SUBMITTED = 500  # tasks written together, as a client submits them; then what became of them
UNDER_WAY = 8
BEFORE = 10.0  # seconds of dispatch before the second node comes
WITHIN = 400.0  # of reading everything, by either
HOLDER = node_id(50, "01AAAAAAAAAAAAAAAAAAAAAAAA")  # ran them all, and is no member any more


def history(tasks: int) -> Iterator[list[Record]]:
    """What a leader records of tasks that succeed at once: four records each."""
    claim, shape, job = Claim(True, 1, HOLDER, "aaaaaaaa"), Shape(kind="train.py"), "jhistory"
    yield [Job(job, "d" * 32, "history", size=tasks)]
    for first in range(0, tasks, SUBMITTED):
        numbers = range(first, min(first + SUBMITTED, tasks))
        names = [(f"{job}.{n}", attempt_id(claim, n), f"{n:032x}") for n in numbers]
        yield [
            Task(task, job, n, digest, shape, _payload(n)) for n, (task, _, digest) in zip(numbers, names, strict=True)
        ]
        ended: list[Record] = []
        for n, (task, attempt, digest) in zip(numbers, names, strict=True):
            at = 1_700_000_000_000 + n
            outcome = Outcome(result=b"r" * 16, digest=digest * 2, started_ms=at, finished_ms=at, micros=1000)
            ended += (
                Attempt(task, attempt, False, 0, OFFERED, 1, HOLDER),
                Attempt(task, attempt, True, 0, SUCCEEDED, 1, HOLDER, outcome),
                Acceptance(task, attempt, claim, digest * 2),
            )
        yield ended


def _payload(n: int) -> bytes:
    params = b'{"learning_rate": 0.001, "batch_size": 64, "seed": %d}' % n
    return encode_work(Work("command", ("python", "train.py", "--seed", str(n)), cwd="/home/me/work", params=params))


def write(tasks: int, state: Path) -> int:
    """Records written."""
    state.mkdir(mode=0o700)
    journal = Journal.open(state / "journal.sqlite")
    journal.start(lambda *_: None, lambda _: None, lambda _: None)
    gc.freeze()
    position = 0
    for records in history(tasks):
        position += len(records)
        journal.append(position, records)
        while position - journal.position > 100_000:
            time.sleep(0.01)
    journal.close()
    return position


def noop(x: int) -> tuple[str, float]:
    """Which attempt, and when it began by the wall clock that all processes here share."""
    return os.environ["MESH_ATTEMPT"], time.time()


class Load:
    """Asks one function at a time (``trips``: when it was asked, and seconds), and beside it keeps a few under way."""

    def __init__(self, target: str) -> None:
        self.trips: list[tuple[float, float]] = []
        self.results: list[tuple[str, float]] = []
        self.done: list[float] = []
        self._target, self._stop = target, threading.Event()
        self._threads = [threading.Thread(target=run) for run in (self._probe, self._press)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _probe(self) -> None:
        with MeshClient(self._target) as client:
            while not self._stop.is_set():
                began = time.perf_counter()
                self.results.append(client.submit(noop, 0).result(timeout=60))
                self.trips.append((began, time.perf_counter() - began))

    def _press(self) -> None:
        with MeshClient(self._target) as client:
            under_way = [client.submit(noop, n) for n in range(UNDER_WAY)]
            while not self._stop.is_set():
                self.results.append(under_way.pop(0).result(timeout=60))
                self.done.append(time.perf_counter())
                under_way.append(client.submit(noop, 0))

    def figures(self, name: str, since: float, until: float) -> dict[str, float]:
        took = [1000 * seconds for began, seconds in self.trips if since <= began < until]
        done = len(took) + sum(since <= at < until for at in self.done)
        return {
            f"{name}_tasks_per_second": round(done / (until - since)),
            f"{name}_roundtrip_median_ms": round(median(took), 3),
            f"{name}_roundtrip_p99_ms": round(quantile(took, 0.99), 3),
            f"{name}_roundtrip_longest_ms": round(max(took), 1),
        }


def resident(it: Daemon) -> int:
    """MiB of the daemon alone, without its runners."""
    pages = int(Path(f"/proc/{it.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


def vitals(name: str, it: Daemon) -> dict[str, float]:
    status = meshctl(it.env, "status")
    return {f"{name}_slowest_step_ms": round(1000 * status["slowest_step"], 1), f"{name}_resident_mib": resident(it)}


def caught_up(client: MeshClient) -> bool:
    return any((peer["copy"] or {}).get("counts") for peer in client.peers())


def until_caught_up(client: MeshClient) -> float:
    began = time.perf_counter()
    while not caught_up(client):
        if time.perf_counter() - began > WITHIN:
            raise RuntimeError(f"not caught up within {WITHIN:.0f} s: {client.peers()}")
        time.sleep(0.2)
    return time.perf_counter()


def run(tasks: int) -> dict[str, Any]:
    figures: dict[str, Any] = {"tasks": tasks}
    began = time.perf_counter()
    written = [0]

    def prepare(state: Path) -> None:
        written[0] = write(tasks, state)
        figures["write_seconds"] = round(time.perf_counter() - began, 1)

    start = partial(daemon, "--slots", "1", within=WITHIN)
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(start("--rank", "10", prepare=prepare))
        ready = time.perf_counter()
        with MeshClient(first.target) as client:
            client.submit(noop, 0).result(timeout=WITHIN)
        records = written[0]
        figures |= {"records": records, "start_seconds": round(ready - first.started, 2)}
        figures["first_task_seconds"] = round(time.perf_counter() - first.started, 2)
        figures["start_records_per_second"] = round(records / (ready - first.started))
        with Load(first.target) as load, MeshClient(first.target) as client:
            since = time.perf_counter()
            time.sleep(BEFORE)
            figures |= load.figures("before", since, time.perf_counter())
            figures |= vitals("first_before", first)
            second = stack.enter_context(start("--rank", "20", "--peer", first.address, mesh_of=first))
            joined = time.perf_counter()
            done = until_caught_up(client)
            figures |= {"catch_up_seconds": round(done - joined, 2)}
            figures["catch_up_records_per_second"] = round(records / (done - joined))
            figures |= load.figures("during", joined, done)
        figures |= vitals("first", first) | vitals("second", second)
        heir = str(meshctl(second.env, "status")["id"])
        with Load(second.target) as load:
            time.sleep(3.0)
            gone = time.time()
            first.process.send_signal(signal.SIGKILL)
            time.sleep(5.0)
        granted = [at for attempt, at in load.results if granter(attempt) == heir]
        figures["killed_to_first_grant_seconds"] = round(min(granted) - gone, 3)
        figures |= {f"heir_{name}": value for name, value in vitals("after", second).items()}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.catchup")
    parser.add_argument("tasks", type=int, nargs="?", default=TASKS)
    publish("catchup", run(parser.parse_args().tasks))


if __name__ == "__main__":
    main()
