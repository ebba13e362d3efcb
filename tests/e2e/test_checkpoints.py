"""Training that goes on elsewhere: its machine is killed or drained, its job paused; the next attempt has all of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mesh.client.futures import TaskFuture
from tests.e2e.mesh import Daemon, Mesh, until


def training(directory: Path) -> Callable[[int], list[tuple[int, float]]]:
    """A function that notes every step it makes, and waits at each until the test lets it go on."""

    def train(steps: int) -> list[tuple[int, float]]:
        import os
        import time

        import numpy as np

        from mesh import task

        state = task.checkpoint.load(default={"weights": np.zeros(1000), "losses": []})
        for step in range(len(state["losses"]), steps):
            while not os.path.exists(f"{directory}/go-{step}"):
                time.sleep(0.01)
                if task.should_stop():
                    return []
            state["weights"] = state["weights"] + step
            state["losses"].append((step, float(state["weights"].sum())))
            task.checkpoint.save(state, step=step, metrics={"loss": -step})
            with open(f"{directory}/steps", "a") as file:
                file.write(f"{step} {task.node}\n")
        return list(state["losses"])

    return train


class Training:
    """One task over real daemons, step by step."""

    def __init__(self, mesh: Mesh, directory: Path) -> None:
        self.mesh, self.directory = mesh, directory
        directory.mkdir()
        self.future: TaskFuture[list[tuple[int, float]]]

    def begin(self, at: Daemon, steps: int, **options: Any) -> None:
        self.future = self.mesh.client(at).submit(training(self.directory), steps, **options)

    def let(self, *steps: int) -> None:
        for step in steps:
            (self.directory / f"go-{step}").touch()

    def made(self) -> list[tuple[int, str]]:
        """Steps, and the node that made each, in the order in which they were made."""
        path = self.directory / "steps"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(line.split()[0]), line.split()[1]) for line in lines]

    def document(self, at: Daemon) -> dict[str, Any]:
        found: dict[str, Any] = self.mesh.ctl("task", self.future.task_id, at=at)
        return found

    def until_saved(self, step: int, at: Daemon) -> dict[str, Any]:
        """Until this step's checkpoint is complete, and its leader knows."""

        def saved() -> dict[str, Any] | None:
            checkpoints = self.document(at)["checkpoints"]
            return checkpoints[0] if checkpoints and checkpoints[0]["step"] >= step else None

        found = until(saved, what=f"the checkpoint of step {step} is complete")
        assert found is not None
        return found

    def check(self, steps: int) -> None:
        total, expected = 0.0, []
        for step in range(steps):
            total += step * 1000
            expected.append((step, total))
        assert self.future.result(timeout=30) == expected


def apart(mesh: Mesh) -> list[Daemon]:
    """One that leads and answers, and two that work."""
    first = mesh.start("a", "--role", "leader", "--rank", "10")
    others = [mesh.start(name, peers=[first]) for name in ("b", "c")]
    mesh.met(first, *others, leader=first)
    return [first, *others]


@pytest.fixture
def train(mesh: Mesh, tmp_path: Path) -> Training:
    return Training(mesh, tmp_path / "training")


def test_the_machine_is_killed_and_another_goes_on_from_the_same_step(mesh: Mesh, train: Training) -> None:
    a, b, c = apart(mesh)
    train.begin(a, 4)
    train.let(0, 1)
    saved = train.until_saved(1, a)
    assert (saved["metrics"], saved["step"]) == ({"loss": -1}, 1)
    victim = next(daemon for daemon in (b, c) if daemon.id == train.made()[0][1])
    (blob,) = [row for row in mesh.ctl("blobs", at=a) if row["id"] == saved["blob"]]
    assert len(blob["nodes"]) == 2
    victim.kill()
    train.let(2, 3)
    train.check(4)
    steps, nodes = zip(*train.made(), strict=True)
    assert steps == (0, 1, 2, 3), "no step is made twice"
    assert len(set(nodes[:2])) == len(set(nodes[2:])) == 1
    assert nodes[0] != nodes[3]
    first, second = train.document(a)["attempts"]
    assert first["resumed_from"] is None
    assert second["resumed_from"]["step"] == 1
    assert second["resumed_from"]["attempt"] == first["id"]


def test_a_drain_lets_it_save_and_another_goes_on(mesh: Mesh, train: Training) -> None:
    a, b, c = apart(mesh)
    train.begin(a, 3)
    train.let(0)
    train.until_saved(0, a)
    ran = next(daemon for daemon in (b, c) if daemon.id == train.made()[0][1])
    assert ran.stop() == 0
    train.let(1, 2)
    train.check(3)
    assert [step for step, _ in train.made()] == [0, 1, 2]


def test_a_pause_stops_it_and_it_goes_on_when_resumed(mesh: Mesh, train: Training) -> None:
    a = mesh.start("a")
    train.begin(a, 3)
    train.let(0)
    assert train.until_saved(0, a)["step"] == 0, "there is no other node: one copy is complete"
    job = train.document(a)["job"]
    mesh.ctl("pause", job, at=a)
    until(lambda: train.document(a)["attempts"][0]["state"] == "released", what="it has stopped")
    assert train.document(a)["attempts"][0]["reason"] == "paused: its job was paused"
    train.let(1, 2)
    mesh.ctl("resume", job, at=a)
    train.check(3)
    assert [step for step, _ in train.made()] == [0, 1, 2]


def test_only_the_newest_and_the_best_are_kept(mesh: Mesh, train: Training) -> None:
    a = mesh.start("a")
    train.begin(a, 5, checkpoints={"keep": 2, "metric": "loss", "goal": "maximize"})
    for step in range(5):
        train.let(step)
        train.until_saved(step, a)
    train.check(5)
    checkpoints = train.document(a)["checkpoints"]
    assert [each["step"] for each in checkpoints] == [4, 3, 0]
    state = mesh.client(a).get(checkpoints[2])
    assert (state["losses"], state["weights"].shape) == ([(0, 0.0)], (1000,))


def test_a_program_saves_its_files(mesh: Mesh, tmp_path: Path) -> None:
    """It fails once; the second attempt finds what the first one wrote."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "program.py").write_text(
        """import os, pathlib, sys
from mesh import task
if task.checkpoint.load_files("work"):
    print(pathlib.Path("work/model.txt").read_text())
else:
    os.makedirs("own")
    pathlib.Path("own/model.txt").write_text("of " + task.node)
    task.checkpoint.save_files("own", step=3)
    sys.exit("it broke")
"""
    )
    path = project / "sweep.yaml"
    path.write_text(
        '{"command": ["${interpreter}", "program.py"], "method": "grid", "parameters": '
        '{"x": {"values": [1]}}, "mesh": {"files": ".", "retries": {"max": 1, "backoff": "10ms"}}}'
    )
    a = mesh.start("a")
    job = mesh.ctl("submit", str(path), "--yes", at=a)["job"]
    mesh.until_state(job, "succeeded", at=a)
    (task,) = mesh.tasks(job, a)
    assert mesh.run("logs", task["id"], at=a).stdout.strip().endswith(f"of {a.id}")
    assert [attempt["state"] for attempt in task["attempts"]] == ["failed", "succeeded"]
    assert task["attempts"][1]["resumed_from"]["step"] == 3
