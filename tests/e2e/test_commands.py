"""Every command of meshctl against real daemons: what it prints, what it changes, its exit code."""

from __future__ import annotations

import csv
import io
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.mesh import Daemon, Mesh, until
from tests.e2e.work import Gated

pytestmark = pytest.mark.e2e


@pytest.fixture
def gated(tmp_path: Path) -> Gated:
    return Gated(tmp_path)


def submit(mesh: Mesh, at: Daemon, *command: str, options: tuple[str, ...] = ()) -> str:
    return str(mesh.ctl("submit", *options, "--", *command, at=at)["job"])


def write(directory: Path, **document: Any) -> str:
    """A sweep file of one parameter, unless it says otherwise."""
    path = directory / "file.yaml"
    base = {"method": "grid", "parameters": {"x": {"values": [1]}}, "command": ["true"]}
    path.write_text(json.dumps(base | document))
    return str(path)


def task_of(mesh: Mesh, at: Daemon, job: str) -> dict[str, Any]:
    [task] = mesh.ctl("tasks", "--job", job, at=at)
    return dict(task)


# -- output ------------------------------------------------------------------------------------------------------------


def test_logs_while_it_runs_and_after(mesh: Mesh, tmp_path: Path) -> None:
    """From the node that runs it, asked at another one."""
    a = mesh.start("a", "--rank", "10", "--role", "leader")
    b = mesh.start("b", peers=[a])
    c = mesh.start("c", "--role", "observer", peers=[a])
    mesh.met(a, b, c)
    gate = tmp_path / "gate"
    script = f"echo first; echo problem >&2; while [ ! -e {gate} ]; do sleep 0.1; done; printf 'last, without an end'"
    task = submit(mesh, c, "sh", "-c", script) + ".0"
    until(lambda: mesh.run("logs", task, at=c, json_too=False).stdout == "first\nproblem\n", what="its first lines")
    following = mesh.begin("logs", "-f", task, at=c)
    assert following.stdout is not None
    assert following.stdout.readline() == "first\n"
    assert following.stdout.readline() == "problem\n"
    assert following.poll() is None
    gate.touch()
    rest, errors = following.communicate(timeout=20)
    assert (rest, errors, following.returncode) == ("last, without an end", "", 0)
    assert mesh.run("logs", task, at=a, json_too=False).stdout == "first\nproblem\nlast, without an end"


def test_logs_of_nothing(mesh: Mesh) -> None:
    a = mesh.start("a")
    done = mesh.run("logs", "nonsense.0", at=a, json_too=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("meshctl: there is no task or node nonsense.0")


# -- ending ------------------------------------------------------------------------------------------------------------


def test_cancel_ends_the_whole_tree(mesh: Mesh) -> None:
    a = mesh.start("a")
    tree = "sh -c 'sleep 1000 & setsid sleep 1001 & trap \"\" TERM; sleep 1002; sleep 1003' & sleep 1004"
    job = submit(mesh, a, "sh", "-c", tree)

    def sleeping() -> list[int]:
        return [pid for pid, words in mesh.survivors().items() if words.startswith("sleep 100")]

    until(lambda: len(sleeping()) == 4)
    assert mesh.ctl("cancel", job, at=a) == {"id": job, "tasks": 1}
    until(lambda: not sleeping(), within=10, what="the tree is gone")
    assert mesh.ctl("wait", job, at=a, code=1)["state"] == "cancelled"
    task = until(lambda: found if (found := task_of(mesh, a, job))["attempts"][0]["state"] == "released" else None)
    assert task["state"] == "cancelled"
    assert mesh.ctl("cancel", job, at=a)["tasks"] == 0
    assert mesh.ctl("submit", "--wait", "--", "true", at=a)["state"] == "succeeded"  # its slot is free again


def test_limits_of_time_and_memory(mesh: Mesh, tmp_path: Path) -> None:
    a = mesh.start("a", slots=2)
    options = {"timeout": "1s", "retries": {"max": 0}}
    late = mesh.ctl(
        "submit", write(tmp_path, command=["sh", "-c", "setsid sleep 1000 & sleep 1001"], mesh=options), at=a
    )
    eat = "x = []\nwhile True: x.append(bytearray(1 << 20)); x[-1][::4096] = b'1' * 256"
    options = {"resources": {"memory": "100MiB"}, "retries": {"max": 0}}
    python = ["${interpreter}", "-c", eat]
    large = mesh.ctl("submit", write(tmp_path, command=python, mesh=options), at=a)
    for job, code in ((late["job"], "timeout"), (large["job"], "memory")):
        assert mesh.ctl("wait", job, "--timeout", "15", at=a, code=1)["state"] == "failed"
        task = task_of(mesh, a, job)
        assert task["attempts"][0]["reason"].startswith(f"{code}: ")
        assert task["error"].startswith(f"{code}: ")
    assert "1 s" in task_of(mesh, a, late["job"])["error"]
    assert "100 MiB" in task_of(mesh, a, large["job"])["error"]
    until(lambda: not any("sleep 100" in words for words in mesh.survivors().values()))


def test_wait(mesh: Mesh, tmp_path: Path) -> None:
    a = mesh.start("a", slots=2)
    good, bad = submit(mesh, a, "true"), write(tmp_path, command=["sh", "-c", "exit 3"], mesh={"retries": {"max": 0}})
    assert mesh.ctl("wait", good, at=a)["state"] == "succeeded"
    assert mesh.ctl("submit", bad, "--wait", at=a, code=1)["tasks"]["failed"] == 1
    slow = submit(mesh, a, "sleep", "1000")
    done = mesh.run("wait", slow, "--timeout", "0.5", at=a, json_too=False)
    assert done.returncode == 124
    assert f"job {slow} did not end within 0.5 s; it goes on" in done.stderr
    assert mesh.run("wait", "nonsense", at=a).returncode == 1
    waiting = mesh.begin("wait", slow, at=a)
    assert waiting.stderr is not None
    waiting.stderr.readline()  # it has said what it waits for
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait(10) == 130
    assert f"job {slow} goes on; `meshctl wait {slow}` waits again" in waiting.stderr.read()
    assert mesh.ctl("job", slow, at=a)["state"] == "running"


# -- control -----------------------------------------------------------------------------------------------------------


def test_pause_and_resume(mesh: Mesh, gated: Gated) -> None:
    """What runs runs on; nothing more begins until it is resumed."""
    a = mesh.start("a")
    job = mesh.ctl("submit", gated.sweep(3), at=a)["job"]
    gated.until_began(1)
    # What was sent ahead for a short wait is given back when what runs turns out to take long.
    until(lambda: not [t for t in mesh.tasks(job, a) for x in t["attempts"] if x["state"] == "offered"])
    mesh.ctl("pause", job, at=a)
    assert mesh.ctl("job", job, at=a)["state"] == "paused"
    gated.open()
    until(lambda: mesh.ctl("job", job, at=a)["tasks"]["succeeded"] == 1)
    assert mesh.ctl("submit", "--wait", "--", "true", at=a)["state"] == "succeeded"  # the slot was free for others
    assert len(gated.began()) == 1
    pending = mesh.ctl("tasks", "--job", job, "--state", "pending", at=a)[0]["id"]
    assert "paused" in mesh.ctl("explain", pending, at=a)["why"]
    a.kill()  # a pause is kept
    a.start()
    assert mesh.ctl("job", job, at=a)["state"] == "paused"
    mesh.ctl("resume", job, at=a)
    assert mesh.until_state(job, "succeeded", at=a)["tasks"]["succeeded"] == 3


def test_priority(mesh: Mesh, tmp_path: Path) -> None:
    """Higher first, then the order of submission; what waits can be moved, a job and a single task."""
    a = mesh.start("a")
    order, gate = tmp_path / "order", tmp_path / "gate"
    blocker = submit(mesh, a, "sh", "-c", f"while [ ! -e {gate} ]; do sleep 0.1; done")
    until(lambda: mesh.ctl("job", blocker, at=a)["tasks"]["running"] == 1)

    def add(name: str, *options: str) -> str:
        return submit(mesh, a, "sh", "-c", f"echo {name} >> {order}", options=options)

    add("plain")
    add("high", "--priority", "8")
    raised, lowered = add("raised"), add("lowered", "--priority", "9")
    mesh.ctl("priority", raised, "10", at=a)
    mesh.ctl("priority", f"{lowered}.0", "1", at=a)
    assert task_of(mesh, a, raised)["priority"] == 10
    assert task_of(mesh, a, lowered)["priority"] == 1
    until(lambda: not [t for t in mesh.tasks("", a) for x in t["attempts"] if x["state"] == "offered"])
    gate.touch()
    mesh.ctl("wait", lowered, at=a)
    assert order.read_text().split() == ["raised", "high", "plain", "lowered"]


def test_retry_of_what_failed(mesh: Mesh, tmp_path: Path) -> None:
    a = mesh.start("a", slots=2)
    mended = tmp_path / "mended"
    command = ["sh", "-c", f'[ "$1" = --x=1 ] || [ -e {mended} ]', "sh", "${args}"]
    parameters = {"x": {"values": [1, 2]}}
    file = write(tmp_path, command=command, parameters=parameters, mesh={"retries": {"max": 1, "backoff": "100ms"}})
    job = mesh.ctl("submit", file, "--wait", at=a, code=1)
    assert (job["tasks"]["succeeded"], job["tasks"]["failed"]) == (1, 1)
    [failed] = mesh.ctl("tasks", "--job", job["id"], "--state", "failed", at=a)
    assert [attempt["state"] for attempt in failed["attempts"]] == ["failed", "failed"]
    mended.touch()
    assert mesh.ctl("retry", job["id"], at=a)["tasks"] == 1
    assert mesh.ctl("wait", job["id"], at=a)["state"] == "succeeded"
    assert mesh.ctl("retry", job["id"], at=a)["tasks"] == 0
    assert len(mesh.ctl("task", failed["id"], at=a)["attempts"]) == 3


# -- why ---------------------------------------------------------------------------------------------------------------


def test_explain(mesh: Mesh, tmp_path: Path, gated: Gated) -> None:
    """For each way to wait, each node's true reason."""
    a = mesh.start("a", "--rank", "10", "--memory", "2GiB", "--label", "room=east")
    b = mesh.start("b", "--memory", "1GiB", "--max-priority", "4", peers=[a])
    c = mesh.start("c", "--role", "observer", peers=[a])
    mesh.met(a, b, c)

    def why(options: dict[str, Any]) -> dict[str, tuple[bool, str]]:
        job = mesh.ctl("submit", write(tmp_path, mesh=options), at=c)["job"]
        found = mesh.ctl("explain", f"{job}.0", at=c)
        assert found["task"] == f"{job}.0"
        assert found["choice"] == ""
        mesh.ctl("cancel", job, at=a)
        return {node["id"]: (node["feasible"], node["why"]) for node in found["nodes"]}

    too_large = why({"priority": 4, "resources": {"memory": "3GiB"}})
    assert too_large[a.id] == (False, "its 2 GiB of memory cannot hold 3 GiB")
    assert too_large[b.id] == (False, "its 1 GiB of memory cannot hold 3 GiB")
    assert why({"priority": 4, "resources": {"gpus": 1}})[a.id] == (False, "needs 1 GPU, offers none")
    labels = why({"priority": 4, "resources": {"labels": {"room": "west"}}})
    assert labels[a.id] == labels[b.id] == (False, "label room=west missing")

    mesh.ctl("submit", gated.sweep(1), at=a)
    gated.until_began(1)
    busy = why({})
    assert busy[a.id][1] == "busy: its slot is taken"
    assert busy[b.id] == (False, "max priority 4, task has 5")
    gated.open()
    done = submit(mesh, a, "true")
    mesh.ctl("wait", done, at=a)
    found = mesh.ctl("explain", f"{done}.0", at=b)
    assert found["choice"] == a.id
    assert "succeeded" in found["why"]
    text = mesh.run("explain", f"{done}.0", at=b, json_too=False).stdout
    assert "max priority 4, task has 5" in text


# -- results -----------------------------------------------------------------------------------------------------------


def test_results_and_best(mesh: Mesh, gated: Gated) -> None:
    a = mesh.start("a", slots=2)
    gated.open()
    job = mesh.ctl("submit", gated.sweep(3), "--wait", at=a)["id"]
    best = mesh.ctl("best", job, at=a)
    assert best == {
        "task": f"{job}.2", "params": {"x": 2}, "metric": {"name": "score", "value": 2}, "checkpoint": None,
    }  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(mesh.run("results", job, "--csv", at=a, json_too=False).stdout)))
    assert rows == [
        {"task": f"{job}.{x}", "state": "succeeded", "node": a.id, "x": str(x), "score": str(x)} for x in range(3)
    ]
    assert [row["params"] for row in mesh.ctl("results", job, at=a)] == [{"x": 0}, {"x": 1}, {"x": 2}]
    [shown] = mesh.ctl("jobs", at=a)
    assert (shown["id"], shown["name"], shown["kind"], shown["state"]) == (job, "gated", "sweep", "succeeded")
    assert shown["best"]["metric"] == {"name": "score", "value": 2}
    other = submit(mesh, a, "true")
    mesh.ctl("wait", other, at=a)
    assert mesh.run("best", other, at=a, json_too=False).stderr.startswith(f"meshctl: job {other} has no best task")


def test_command_metrics_and_environment(mesh: Mesh, tmp_path: Path) -> None:
    """What a program that knows nothing of the mesh gets and gives."""
    a = mesh.start("a")
    script = (
        'echo "{\\"loss\\": 0.5}"; echo "{\\"loss\\": 0.25, \\"note\\": \\"x\\"}"; echo "{broken";'
        'echo "$MESH_TASK_ID $MESH_JOB_ID $MESH_ATTEMPT $MESH_NODE";'
        'touch "$MESH_OUTPUT_DIR/f"; [ -S "$MESH_TASK_SOCKET" ]'
    )
    metric = {"name": "loss", "goal": "minimize"}
    job = mesh.ctl("submit", write(tmp_path, command=["sh", "-c", script], metric=metric), "--wait", at=a)["id"]
    task = task_of(mesh, a, job)
    assert task["metrics"] == {"loss": 0.25}
    [attempt] = task["attempts"]
    assert f"{task['id']} {job} {attempt['id']} {a.id}\n" in mesh.run("logs", task["id"], at=a).stdout
    assert attempt["started_at"] <= attempt["finished_at"]
    assert attempt["started_at"].endswith("Z")


# -- submitting --------------------------------------------------------------------------------------------------------


def test_any_node_takes_any_call(mesh: Mesh, gated: Gated) -> None:
    a, b, c = mesh.start_all("a", "b", "c")
    job = mesh.ctl("submit", gated.sweep(3), at=c)
    assert job["durable_on"][0] == a.id, "the leader"
    assert set(job["durable_on"][1:]) & {b.id, c.id}, "and a successor, since two are alive"
    gated.until_began(3)
    gated.open()
    for at in (b, c):
        assert mesh.ctl("wait", job["job"], at=at)["state"] == "succeeded"
        assert mesh.ctl("job", job["job"], at=at)["tasks"]["succeeded"] == 3
    # Also by TCP, as from another machine, and by the SDK's own way of naming addresses.
    assert len(mesh.ctl("tasks", "--job", job["job"], "--address", b.address)) == 3
    assert {status["leading"] for status in (b.status(), c.status())} == {False}


def test_invalid_file_lists_everything(mesh: Mesh, tmp_path: Path) -> None:
    """Without a mesh, too. Every error has its place, and none hides another."""
    file = tmp_path / "bad.yaml"
    file.write_text(
        "method: gird\n"
        "progam: train.py\n"
        "parameters:\n"
        "  lr: {min: 1, max: 0.1}\n"
        "  width: {vlaues: [1, 2]}\n"
        "early_terminate: {type: hyperband}\n"
        "mesh:\n"
        "  priority: 11\n"
        "  retries: {max: -1}\n"
        "  resources: {memory: lots}\n"
    )
    done = mesh.run("submit", str(file), json_too=False)
    assert (done.returncode, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    for place in ("1:9:", "2:1:", "4:", "5:", "6:1:", "8:13:", "9:", "10:"):
        assert any(line.startswith(f"{file}:{place}") for line in lines), (place, lines)
    assert "did you mean 'grid'?" in done.stderr
    assert "not built yet" in done.stderr
    assert mesh.run("submit", "nothing.yaml", json_too=False).returncode == 2
    dry = mesh.ctl("submit", "--param", "lr", "0.1", "0.2", "--param", "n", "1", "2", "3", "--dry-run", "--", "true")
    assert (dry["tasks"], set(dry["params"]), dry["estimate_seconds"]) == (6, {"lr", "n"}, None)


def test_ctrl_c_during_submit_and_wait(mesh: Mesh) -> None:
    a = mesh.start("a")
    waiting = mesh.begin("submit", "--wait", "--", "sleep", "1000", at=a)
    assert waiting.stdout is not None
    job = waiting.stdout.readline().split(":")[0]
    until(lambda: mesh.ctl("job", job, at=a)["tasks"]["running"] == 1)
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait(10) == 130
    assert mesh.ctl("job", job, at=a)["state"] == "running"
    assert mesh.ctl("cancel", job, at=a)["tasks"] == 1


def test_what_is_not_built_is_refused_by_name(mesh: Mesh, tmp_path: Path) -> None:
    for command in (["top"], ["models", "list"], ["submit", write(tmp_path, method="bayes")]):
        done = mesh.run(*command, json_too=False)
        assert done.returncode == 2
        assert "not built yet" in done.stderr


def test_output_that_nobody_reads(mesh: Mesh) -> None:
    a = mesh.start("a")
    task = submit(mesh, a, "sh", "-c", "yes | head -c 3000000") + ".0"
    mesh.ctl("wait", task.partition(".")[0], at=a)
    reading = mesh.begin("logs", task, at=a)
    assert reading.stdout is not None
    assert reading.stdout.read(4) == "y\ny\n"
    reading.stdout.close()
    assert reading.wait(10) == 1
    assert reading.stderr is not None
    assert "Traceback" not in reading.stderr.read()
