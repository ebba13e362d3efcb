"""The SDK against real daemons. Functions travel by value: they import what they need themselves."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from mesh.client import options as options_of_calls
from mesh.core.errors import InvalidSpec, MeshTimeout, TaskCancelled, TaskFailed, TaskTimeout
from tests.e2e.mesh import Mesh, alive, until

pytestmark = pytest.mark.e2e


def square(x: int) -> int:
    return x * x


def fails(x: int) -> None:
    def within() -> None:
        raise ValueError(f"{x} is not welcome")

    print("about to fail")
    within()


def waits(path: str, name: str = "") -> str:
    """Say that it began, wait for the gate."""
    import os
    import time
    from pathlib import Path

    directory = Path(path)
    (directory / f".{name}").write_text(str(os.getpid()))
    (directory / f".{name}").rename(directory / f"began-{name}-{os.environ['MESH_ATTEMPT']}")
    while not (directory / "open").exists():
        time.sleep(0.05)
    return name


def began(directory: Path, name: str = "") -> list[int]:
    return [int(path.read_text()) for path in sorted(directory.glob(f"began-{name}*"))]


def reports(path: str) -> dict[str, Any]:
    import time
    from pathlib import Path

    from mesh import task

    task.report(step=1, loss=0.5)
    task.report(step=2, loss=0.25, odd=float("nan"))
    while not (Path(path) / "open").exists():
        time.sleep(0.05)
    task.report(step=3)
    return {"id": task.id, "attempt": task.attempt, "node": task.node, "params": task.params}


def test_submit_and_map(mesh: Mesh) -> None:
    _, b = mesh.start_all("a", "b")
    client = mesh.client(b)  # not the leader
    assert client.submit(square, 7).result(timeout=20) == 49
    assert list(client.map(square, range(200), chunksize="auto")) == [x * x for x in range(200)]
    assert sorted(client.map(pow, [2, 3], [3, 2])) == [8, 9]
    assert client.resources()["slots"] == 2

    @client.task(retries=0)
    def shout(text: str) -> str:
        return text.upper()

    assert shout.submit("hello").result(timeout=20) == "HELLO"
    with client.executor(cpus=1) as executor:
        assert executor.submit(square, 3).result(timeout=20) == 9


def test_exception(mesh: Mesh) -> None:
    a = mesh.start("a")
    client = mesh.client(a)
    future = client.submit(fails, 3, retries=0)
    error = future.exception(timeout=20)
    assert isinstance(error, TaskFailed)
    assert isinstance(error.__cause__, ValueError)
    assert error.__cause__.args == ("3 is not welcome",)
    assert error.task == future.task_id
    assert "in within" in error.remote_traceback
    assert error.remote_traceback.rstrip().endswith("ValueError: 3 is not welcome")
    assert a.id in str(error)
    document = mesh.ctl("task", future.task_id, at=a)
    assert document["state"] == "failed"
    assert document["error"].startswith("ValueError: 3 is not welcome")
    assert mesh.run("logs", future.task_id, at=a).stdout == "about to fail\n"
    with pytest.raises(InvalidSpec, match="priority"):
        client.submit(square, 1, priority=11)


def test_retries_and_what_no_retry_helps(mesh: Mesh) -> None:
    a = mesh.start("a")
    client = mesh.client(a)
    again = client.submit(fails, 1, retries={"max": 2, "backoff": "100ms"})
    never = client.submit(fails, 2, retries={"max": 2, "not_on": [ValueError]})
    assert isinstance(again.exception(timeout=20), TaskFailed)
    assert isinstance(never.exception(timeout=20), TaskFailed)
    assert len(mesh.ctl("task", again.task_id, at=a)["attempts"]) == 3
    attempts = mesh.ctl("task", never.task_id, at=a)["attempts"]
    assert len([each for each in attempts if each["state"] == "failed"]) == 1, "it may have been queued and taken back"


def test_cancel_and_timeout(mesh: Mesh, tmp_path: Path) -> None:
    a = mesh.start("a", slots=2)
    client = mesh.client(a)
    one = client.submit(waits, str(tmp_path), "one")
    late = client.submit(waits, str(tmp_path), "late", timeout="500ms", retries=0)
    with pytest.raises(MeshTimeout):
        one.result(timeout=0.2)
    [pid] = until(lambda: began(tmp_path, "one"))
    assert one.cancel()
    with pytest.raises(TaskCancelled):
        one.result()
    until(lambda: not alive(pid), what="the cancelled function's process has ended")
    assert isinstance(late.exception(timeout=20), TaskTimeout)
    assert mesh.ctl("task", one.task_id, at=a)["state"] == "cancelled"
    assert client.submit(square, 2).result(timeout=20) == 4


def test_reports_and_params(mesh: Mesh, tmp_path: Path) -> None:
    """Metrics show while the task runs; params are the sweep's, for a program that asks."""
    a, b = mesh.start_all("a", "b")
    client = mesh.client(a)
    future = client.submit(reports, str(tmp_path))
    until(lambda: mesh.ctl("task", future.task_id, at=b)["metrics"] == {"step": 2, "loss": 0.25, "odd": None})
    (tmp_path / "open").touch()
    seen = future.result(timeout=20)
    document = mesh.ctl("task", future.task_id, at=b)
    [attempt] = document["attempts"]
    assert seen == {"id": future.task_id, "attempt": attempt["id"], "node": attempt["node"], "params": {}}
    assert document["metrics"]["step"] == 3

    program = tmp_path / "program.py"
    program.write_text("from mesh import task\ntask.report(score=task.params['lr'] * 2)\n")
    sweep = {
        "program": "program.py", "method": "grid", "metric": {"name": "score", "goal": "maximize"},
        "parameters": {"lr": {"values": [0.5, 1.5]}},
    }  # fmt: skip
    (tmp_path / "sweep.yaml").write_text(json.dumps(sweep))
    job = client.submit_sweep(tmp_path / "sweep.yaml")
    assert job.wait(timeout=30)["state"] == "succeeded"
    assert job.best()["metric"] == {"name": "score", "value": 3.0}
    assert [(row["params"], row["metrics"]) for row in job.results()] == [
        ({"lr": 0.5}, {"score": 1.0}), ({"lr": 1.5}, {"score": 3.0}),
    ]  # fmt: skip


def test_client_survives_its_daemon(mesh: Mesh, tmp_path: Path) -> None:
    """The only node is killed and started again: what was submitted before, meanwhile and after is answered."""
    a = mesh.start("a", slots=2)
    client = mesh.client(a)
    done = client.submit(square, 3)
    assert done.result(timeout=20) == 9
    before = client.submit(waits, str(tmp_path), "before")
    until(lambda: began(tmp_path, "before"))
    a.kill()
    meanwhile = client.submit(square, 5)
    a.start()
    (tmp_path / "open").touch()
    assert meanwhile.result(timeout=20) == 25
    assert before.result(timeout=20) == "before"
    assert len(began(tmp_path, "before")) == 2  # it died with its daemon, and was run again
    assert client.submit(square, 6).result(timeout=20) == 36


def test_client_survives_another_leader(mesh: Mesh, tmp_path: Path) -> None:
    """Its node stays, the leader is killed and comes back: every future resolves, once."""
    a, b, c = mesh.start_all("a", "b", "c")
    client = mesh.client(b)
    futures = [client.submit(waits, str(tmp_path), str(number)) for number in range(6)]
    until(lambda: len(began(tmp_path)) == 3)
    a.kill()
    until(lambda: b.status()["leader"] == c.status()["leader"] in (b.id, c.id))
    after = [client.submit(square, x) for x in range(20)]  # a new leader takes them, and has its own slots busy
    a.start()
    (tmp_path / "open").touch()
    start = time.monotonic()
    assert [future.result(timeout=20) for future in after] == [x * x for x in range(20)]
    assert [future.result(timeout=20) for future in futures] == [str(number) for number in range(6)]
    print(f"all resolved {time.monotonic() - start:.2f} s after the leader was started again")
    assert len(began(tmp_path)) == 7  # only what ran on the killed node ran twice


def test_other_python_version(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickled code goes only where the minor version matches, and the reason is told; commands go anywhere."""
    a = mesh.start("a")
    monkeypatch.setattr(options_of_calls, "PYTHON", "3.9")
    future = mesh.client(a).submit(square, 3)
    until(lambda: future.acknowledged)
    found = mesh.ctl("explain", future.task_id, at=a)
    [node] = found["nodes"]
    assert (node["id"], node["feasible"]) == (a.id, False)
    assert node["why"].endswith("only (task needs 3.9)")
    assert mesh.ctl("submit", "--wait", "--", "true", at=a)["state"] == "succeeded"
    assert future.cancel()
