"""What each command asks, prints and exits with."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest

from mesh.cli import meshctl as program
from mesh.cli.parser import NOT_BUILT
from mesh.client import channel as channels
from mesh.core.errors import Conflict, MeshError, NoLeader, QuotaExceeded
from mesh.core.work import Work
from mesh.wire.work import decode_work
from tests.cli.conftest import Meshctl
from tests.client.fake_server import NODE, PEERS


def loss(work: Work) -> tuple[str, dict[str, float]]:
    params = json.loads(work.params)
    if params["lr"] == 0.01 and params["model"]["depth"] == 2:
        return "failed", {}
    return "succeeded", {"loss": params["lr"] * params["model"]["depth"]}


@pytest.fixture
def job(meshctl: Meshctl, sweep: Path) -> str:
    """A sweep of four tasks, the last of which failed."""
    meshctl.fake.command = loss
    return str(meshctl("submit", str(sweep), "-o", "json").json["job"])


def test_peers(meshctl: Meshctl) -> None:
    assert meshctl("peers", "-o", "json").json == PEERS
    ran = meshctl("peers")
    assert ran.code == 0
    assert [line.split("  ")[0] for line in ran.out.splitlines()] == ["NAME", "anvil", "mac"]
    header, anvil, mac = ran.out.splitlines()
    for name, leader, other in (
        ("ID", NODE, PEERS[1]["id"]),
        ("ROLE", "auto", "worker"),
        ("LEADS", "leader", ""),
        ("STATE", "alive", "island"),
        ("FREE", "3/4", "8/8"),
        ("DEVICES", "RTX 5090 28 GiB of 32 GiB free", ""),
        ("OFFERS", "work", "unheard for 12 s"),
    ):
        place = header.index(name)
        assert anvil[place:].startswith(leader)
        assert mac[place:].startswith(other or " ")


def test_peers_says_how_far_a_copy_is(meshctl: Meshctl, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = {"counts": False, "share": 0.4286, "records": 12_000, "of": 28_000}
    monkeypatch.setitem(PEERS[1], "copy", copy)
    header, _, mac = meshctl("peers").out.splitlines()
    assert mac[header.index("COPY") :].startswith("catching up: 43%, 12,000 of 28,000 records  ")
    copy["counts"] = True
    header, _, mac = meshctl("peers").out.splitlines()
    assert mac[header.index("COPY") :].startswith("yes  ")


def test_submit_a_file(meshctl: Meshctl, sweep: Path) -> None:
    ran = meshctl("submit", str(sweep), "--name", "night", "--priority", "8", "-o", "json")
    assert ran.code == 0
    assert ran.json == {"job": ran.json["job"], "tasks": 4, "durable_on": [NODE]}
    job = meshctl.fake.jobs[ran.json["job"]]
    assert (job.name, job.priority, job.kind) == ("night", 8, "sweep")
    text = meshctl("submit", str(sweep)).out
    assert text.endswith(f": 4 tasks submitted, durable on 1 node ({NODE})\n")


def test_set_changes_the_file(meshctl: Meshctl, sweep: Path) -> None:
    assert meshctl("submit", str(sweep), "--set", "run_cap=1", "-o", "json").json["tasks"] == 1
    ran = meshctl("submit", str(sweep), "--set", "run_cap=none")
    assert ran.code == 2
    assert "run_cap" in ran.err


def test_submit_a_grid_over_a_command(meshctl: Meshctl) -> None:
    ran = meshctl(
        *["submit", "--param", "lr", "0.1", "-1", "--param", "seed", "1", "2", "3", "--gpus", "2", "-o", "json"],
        *("--base-config", '{"epochs": 3}', "--", "python", "train.py", "--", "-x"),
    )
    assert ran.json["tasks"] == 6
    task = meshctl.fake.tasks[f"{ran.json['job']}.5"]
    work = decode_work(task.payload)
    assert work.argv == ("python", "train.py", "--", "-x", "--epochs=3", "--lr=-1", "--seed=3")
    assert work.cwd == str(Path.cwd())
    assert task.shape.alternatives[0].milligpus == 2000


def test_a_grid_over_a_command_can_be_compared(meshctl: Meshctl) -> None:
    grid = ("submit", "--param", "lr", "1", "2", "-o", "json")
    ran = meshctl(*grid, "--metric", "val acc", "--goal", "maximize", "--", "echo")
    job = meshctl.fake.jobs[ran.json["job"]]
    assert (job.metric, job.maximize) == ("val acc", True)
    assert decode_work(meshctl.fake.tasks[f"{job.id}.0"].payload).metric == "val acc"
    ran = meshctl(*grid, "--goal", "maximize", "--", "echo")
    assert ran.code == 2
    assert "--goal needs the --metric" in ran.err


def test_dry_run_needs_no_mesh(meshctl: Meshctl, sweep: Path) -> None:
    meshctl.fake.stop()
    ran = meshctl("submit", str(sweep), "--dry-run", "-o", "json")
    assert ran.code == 0
    assert ran.json["tasks"] == 4
    assert ran.json["estimate_seconds"] is None
    assert ran.json["params"]["lr"]["values"] == [0.1, 0.01]
    assert meshctl("submit", str(sweep), "--dry-run").out == (
        "4 tasks would be submitted\n\nPARAMETER    VALUES\nlr           0.1, 0.01\nmodel.depth  1, 2\n"
    )


def test_every_problem_of_a_file_with_its_place(meshctl: Meshctl, tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text("program: gone.py\nmethod: grind\nparameters:\n  lr: {values: []}\n  x: {value: 1e-5}\n")
    ran = meshctl("submit", str(file))
    assert ran.code == 2
    assert ran.out == ""
    lines = ran.err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"{file}:1:10: the program 'gone.py' does not exist")
    assert lines[1].startswith(f"{file}:2:9: unknown method 'grind'")
    assert lines[2].startswith(f"{file}:4:16: parameters.lr.values is empty")
    assert meshctl.fake.calls["Submit"] == 0


def test_warnings_of_a_file_go_to_stderr(meshctl: Meshctl, sweep: Path) -> None:
    sweep.write_text(sweep.read_text().replace("0.01]", "1e-5]"))
    ran = meshctl("submit", str(sweep), "--dry-run", "-o", "json")
    assert ran.json["params"]["lr"]["values"] == [0.1, 1e-5]
    assert ran.err.startswith(f"{sweep}:6:22: warning: 1e-5 ")


def test_a_missing_program_is_a_problem_of_the_file(meshctl: Meshctl, sweep: Path) -> None:
    (sweep.parent / "train.py").unlink()
    ran = meshctl("submit", str(sweep), "--dry-run")
    assert ran.code == 2
    assert ran.err == f"{sweep}:1:10: the program 'train.py' does not exist in {sweep.parent}\n"


def test_problems_of_a_command_line(meshctl: Meshctl) -> None:
    ran = meshctl("submit", "--base-config", "[1]", "--param", "lr", "1", "--", "echo", "${program}")
    assert ran.code == 2
    assert sorted(ran.err.splitlines()) == [
        "meshctl: ${program} needs a sweep file; write the program itself",
        "meshctl: --base-config must be a JSON object",
    ]


def test_wait_shows_progress_in_lines_and_the_best(meshctl: Meshctl, job: str) -> None:
    ran = meshctl("wait", job)
    assert ran.code == 1  # a task failed
    lines = ran.out.splitlines()
    assert lines[0] == f"{job} failed: 3 succeeded, 1 failed"  # how long it took is not how long this waited
    assert lines[1] == f"best loss=0.01 of task {job}.2: lr=0.01 model.depth=1"
    assert f"{job} failed: 4 of 4 ended (3 succeeded, 1 failed)" in ran.err
    assert f"1 task failed; `meshctl tasks --job {job}` says why" in ran.err


def test_submit_and_wait(meshctl: Meshctl, sweep: Path) -> None:
    ran = meshctl("submit", str(sweep), "--wait", "-o", "json")
    assert ran.code == 0
    first, second = (json.loads(line) for line in ran.out.splitlines())
    assert first["tasks"] == 4
    assert second["id"] == first["job"]
    assert second["state"] == "succeeded"
    assert second["tasks"] == {"pending": 0, "running": 0, "succeeded": 4, "failed": 0, "cancelled": 0}
    meshctl.fake.command = loss
    ran = meshctl("submit", str(sweep), "--wait")
    assert ran.code == 1
    assert re.search(r"^j\w+ failed after \d+\.\d s: ", ran.out, re.MULTILINE)


def test_wait_times_out(meshctl: Meshctl, sweep: Path) -> None:
    meshctl.fake.holding = True
    job = meshctl("submit", str(sweep), "-o", "json").json["job"]
    ran = meshctl("wait", job, "--timeout", "0.05")
    assert ran.code == 124
    assert f"meshctl: job {job} did not end within 0.05 s; it goes on; `meshctl wait {job}` waits again" in ran.err


def test_jobs_and_job(meshctl: Meshctl, job: str) -> None:
    (found,) = meshctl("jobs", "-o", "json").json
    assert found == meshctl("job", job, "-o", "json").json
    assert found["best"]["metric"] == {"name": "loss", "value": 0.01}
    assert meshctl("jobs").out == (
        "JOB         NAME   KIND   STATE   ENDED  FAILED  BEST\n"
        f"{job}  small  sweep  failed  4/4    1       loss=0.01 ({job}.2)\n"
    )
    assert meshctl("job", job).out == (
        f"job    {job}\nname   small\nkind   sweep\nstate  failed\ntasks  3 succeeded, 1 failed\n"
        f"best   loss=0.01 ({job}.2)\nwith   lr=0.01 model.depth=1\n"
    )


def test_nothing_to_list(meshctl: Meshctl) -> None:
    assert meshctl("jobs").out == "no jobs\n"
    assert meshctl("jobs", "-o", "json").json == []
    assert meshctl("tasks").out == "no tasks\n"


def test_tasks_and_task(meshctl: Meshctl, job: str) -> None:
    assert len(meshctl("tasks", "--job", job, "-o", "json").json) == 4
    (failed,) = meshctl("tasks", "--job", job, "--state", "failed", "-o", "json").json
    assert failed["params"] == {"lr": 0.01, "model": {"depth": 2}}
    lines = meshctl("tasks", "--job", job).out.splitlines()
    assert lines[0].split() == ["TASK", "STATE", "PRIO", "NODE", "TRIES", "PARAMS", "METRICS", "WHY"]
    assert lines[4].split("  ")[-1].strip() == "exit 1:"
    text = meshctl("task", failed["id"]).out
    assert "params    lr=0.01 model.depth=2\n" in text
    assert "error\n  exit 1:" in text
    assert "ATTEMPT" in text
    assert "  step 7  " in text, "what the attempt went on from"
    assert f"{'0f' * 32}  7     3 MiB  loss=0.5" in text
    assert meshctl("task", failed["id"], "-o", "json").json == failed


def test_best(meshctl: Meshctl, job: str) -> None:
    assert meshctl("best", job, "-o", "json").json == {
        "task": f"{job}.2",
        "params": {"lr": 0.01, "model": {"depth": 1}},
        "metric": {"name": "loss", "value": 0.01},
        "checkpoint": None,
    }
    assert (
        meshctl("best", job).out
        == f"loss           0.01\ntask           {job}.2\n  lr           0.01\n  model.depth  1\n"
    )


def test_results(meshctl: Meshctl, job: str) -> None:
    rows = list(csv.DictReader(io.StringIO(meshctl("results", job, "--csv").out)))
    assert [row["lr"] for row in rows] == ["0.1", "0.1", "0.01", "0.01"]
    assert [row["model.depth"] for row in rows] == ["1", "2", "1", "2"]
    assert [row["loss"] for row in rows] == ["0.1", "0.2", "0.01", ""]
    assert rows[3]["state"] == "failed"
    assert meshctl("results", job).out.splitlines()[0].split() == ["TASK", "STATE", "NODE", "LR", "MODEL.DEPTH", "LOSS"]
    (first, *_) = meshctl("results", job, "-o", "json").json
    assert first["metrics"] == {"loss": 0.1}
    assert meshctl("results", "j0").code == 1


def test_a_metric_that_is_named_as_a_parameter_keeps_its_column(meshctl: Meshctl, sweep: Path) -> None:
    meshctl.fake.command = lambda work: ("succeeded", {"lr": 7})
    job = meshctl("submit", str(sweep), "-o", "json").json["job"]
    row = next(csv.DictReader(io.StringIO(meshctl("results", job, "--csv").out)))
    assert (row["lr"], row["metric.lr"]) == ("0.1", "7")


def test_changing_jobs_and_tasks(meshctl: Meshctl, sweep: Path) -> None:
    fake = meshctl.fake
    fake.holding = True
    job = meshctl("submit", str(sweep), "-o", "json").json["job"]
    assert meshctl("pause", job).out == f"paused {job}\n"
    assert meshctl("job", job, "-o", "json").json["state"] == "paused"
    assert meshctl("resume", job).out == f"resumed {job}\n"
    assert meshctl("priority", f"{job}.1", "9").out == f"priority of {job}.1 is 9 now\n"
    assert fake.priorities == {f"{job}.1": 9}
    assert meshctl("cancel", f"{job}.0").out == f"cancelled 1 task of {job}.0\n"
    fake.command = lambda work: ("failed", {})
    fake.run_held()
    assert meshctl("retry", job, "-o", "json").json == {"id": job, "tasks": 3}
    assert meshctl("priority", job, "11").code == 2


def test_delete(meshctl: Meshctl, sweep: Path) -> None:
    meshctl.fake.holding = True
    job = meshctl("submit", str(sweep), "-o", "json").json["job"]
    refused = meshctl("delete", job)
    assert (refused.code, refused.out) == (1, "")
    assert "have not ended" in refused.err
    meshctl.fake.run_held()
    ran = meshctl("delete", job, "--checkpoints")
    assert ran.code == 2
    assert ran.err.startswith("meshctl: 'delete --checkpoints' is not built yet; ")
    assert meshctl("delete", job).out == f"deleted {job} with 4 tasks\n"
    assert meshctl("job", job).code == 1
    other = meshctl("submit", str(sweep), "-o", "json").json["job"]
    assert meshctl("delete", other, "-o", "json").json == {"id": other, "tasks": 4}


def test_what_there_is_nothing_to_do_for_is_said(meshctl: Meshctl, sweep: Path) -> None:
    job = meshctl("submit", str(sweep), "-o", "json").json["job"]
    assert meshctl("cancel", job).out == f"nothing was cancelled: all of {job} had ended\n"
    assert meshctl("retry", job).out == f"nothing is run once more: nothing of {job} has failed or was cancelled\n"
    assert meshctl("retry", job, "-o", "json").json == {"id": job, "tasks": 0}
    assert meshctl("retry", job, "--force").code == 0
    assert meshctl.fake.forced == [False, False, True]


@pytest.mark.parametrize("arguments", [("job", ""), ("cancel", " "), ("tasks", "--job", ""), ("logs", "")])
def test_an_empty_id_is_wrong_usage_and_never_means_all(meshctl: Meshctl, arguments: tuple[str, ...]) -> None:
    ran = meshctl(*arguments)
    assert ran.code == 2
    assert "an id is missing: it is empty" in ran.err


def test_negative_numbers_are_values(meshctl: Meshctl) -> None:
    ran = meshctl("submit", "--param", "lr", "-0.1", "-1e-5", "--dry-run", "-o", "json", "--", "train")
    assert ran.json["params"]["lr"]["values"] == [-0.1, -1e-5]
    assert "unrecognized arguments: -x" in meshctl("submit", "--param", "lr", "1", "-x", "--", "train").err


def test_values_are_shown_as_programs_have_them(meshctl: Meshctl, sweep: Path) -> None:
    change = "parameters.lr={values: [true, false, null, '', []]}"
    assert 'lr           true, false, null, "", []\n' in meshctl("submit", str(sweep), "--set", change, "--dry-run").out
    job = meshctl("submit", str(sweep), "--set", change, "-o", "json").json["job"]
    assert " lr=true model.depth=1" in meshctl("tasks", "--job", job).out
    assert " lr=null " in meshctl("tasks", "--job", job).out
    assert re.search(r"^TASK +STATE +NODE +LR +MODEL.DEPTH\n.* +true +1$", meshctl("results", job).out, re.MULTILINE)


def test_no_jobs_while_members_are_away_is_no_news_of_them(meshctl: Meshctl) -> None:
    ran = meshctl("jobs")
    assert ran.out == "no jobs\n"
    assert ran.err == "meshctl: members that might know of jobs are away: mac\n"


def test_a_mesh_is_checked_at_an_address(meshctl: Meshctl) -> None:
    meshctl.fake.documents["Status"] = {"mesh": "lab"}
    assert meshctl("--mesh", "lab", "peers").code == 0
    ran = meshctl("--mesh", "home", "peers")
    assert (ran.code, ran.out) == (69, "")
    assert "is of mesh 'lab', not of 'home'; leave out --mesh, or --address" in ran.err


def test_explain(meshctl: Meshctl, job: str) -> None:
    meshctl.fake.explanation = {
        "choice": "",
        "why": "no node has a free GPU",
        "nodes": [{"id": NODE, "feasible": False, "why": "cuda:0 has 2 GiB free of 12 GiB"}],
    }
    assert meshctl("explain", f"{job}.1").out == (
        f"{job}.1: waits; no node has a free GPU\n\n"
        "NODE                           FEASIBLE  WHY\n"
        f"{NODE}  no        cuda:0 has 2 GiB free of 12 GiB\n"
    )
    assert meshctl("explain", f"{job}.1", "-o", "json").json["task"] == f"{job}.1"


def test_logs(meshctl: Meshctl, job: str) -> None:
    meshctl.fake.output = [b"epoch 1\n", b"epoch 2\n"]
    assert meshctl("logs", "-f", f"{job}.0").out == "epoch 1\nepoch 2\n"


def test_logs_go_on_where_they_were_when_their_stream_breaks(meshctl: Meshctl, job: str) -> None:
    meshctl.fake.output, meshctl.fake.break_logs_at = [b"epoch 1\n", b"epoch 2\n"], 10
    assert meshctl("logs", "-f", f"{job}.0").out == "epoch 1\nepoch 2\n"
    assert meshctl.fake.log_requests == [("", 0), ("newest", 10)]


def test_logs_of_a_node_are_refused_by_name(meshctl: Meshctl) -> None:
    ran = meshctl("logs", NODE)
    assert ran.code == 2
    assert "logs of nodes are not built yet" in ran.err


def test_status_and_version(meshctl: Meshctl) -> None:
    assert meshctl("status", "-o", "json").json["leader"] == NODE
    assert f"leader   {NODE}\n" in meshctl("status").out
    tasks = {"pending": 0, "running": 2, "succeeded": 1}
    meshctl.fake.documents["Status"] = {"leader": NODE, "leading": False, "jobs": 1, "tasks": tasks}
    assert "tasks in own journal  2 running, 1 succeeded\n" in meshctl("status").out
    meshctl.fake.documents["Status"] |= {"leading": True}
    assert "jobs     1\n" in meshctl("status").out
    meshctl.fake.stop()
    assert meshctl("version").out.startswith("meshctl 0.")
    assert set(meshctl("-o", "json", "version").json) == {"version", "protocol", "python"}


@pytest.mark.parametrize("command", sorted(NOT_BUILT))
def test_commands_of_the_contract_that_are_not_built(meshctl: Meshctl, command: str) -> None:
    ran = meshctl(command, "anything", "--at-all")
    assert ran.code == 2
    assert ran.err.startswith(f"meshctl: '{command}' is not built yet; ")


@pytest.mark.parametrize("arguments", [("results", "j1", "--parquet")])
def test_options_of_the_contract_that_are_not_built(meshctl: Meshctl, arguments: tuple[str, ...]) -> None:
    ran = meshctl(*arguments)
    assert ran.code == 2
    assert "is not built yet" in ran.err


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((), "COMMAND"),
        (("fly",), "invalid choice: 'fly'"),
        (("submit",), "needs a FILE, or a command after --"),
        (("submit", "a.yaml", "--", "true"), "not both"),
        (("submit", "a.yaml", "--gpus", "1"), "--gpus belongs to a command"),
        (("submit", "--set", "a=1", "--", "true"), "--set changes the values of a FILE"),
        (("submit", "--param", "lr", "--", "true"), "--param lr has no values"),
        (("jobs", "--", "true"), "belongs to submit"),
        (("job",), "JOB"),
        (("wait", "j1", "--timeout", "soon"), "not a number of seconds"),
        (("tasks", "--state", "lost"), "invalid choice: 'lost'"),
        (("jobs", "-o", "yaml"), "invalid choice: 'yaml'"),
    ],
)
def test_wrong_usage(meshctl: Meshctl, arguments: tuple[str, ...], error: str) -> None:
    ran = meshctl(*arguments)
    assert ran.code == 2
    assert error in ran.err
    assert ran.err.startswith("meshctl: ")
    assert ran.err.count("\n") == 1
    assert ran.out == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NoLeader("nobody leads", "it was killed", "wait"), 75),
        (Conflict("the same id with other contents"), 1),
        (QuotaExceeded("too large"), 1),
        (MeshError("something else"), 1),
    ],
)
def test_errors_decide_the_exit_code(
    meshctl: Meshctl, monkeypatch: pytest.MonkeyPatch, error: MeshError, code: int
) -> None:
    monkeypatch.setattr(program, "ANSWER_PATIENCE", 0.1)
    meshctl.fake.refuse("Peers", error, 100)
    ran = meshctl("peers")
    assert ran.code == code
    assert ran.err == f"meshctl: {error}\n"
    assert ran.out == ""


def test_unknown_things_say_where_to_look(meshctl: Meshctl) -> None:
    ran = meshctl("job", "j0")
    assert (ran.code, ran.err) == (1, "meshctl: there is no job j0; `meshctl jobs` lists them\n")


def test_no_mesh(meshctl: Meshctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "FIRST_CONTACT", 0.1)
    meshctl.fake.stop()
    ran = meshctl("peers")
    assert ran.code == 69
    assert ran.err.startswith(f"meshctl: no node answers at {meshctl.fake.address}; ")
    assert meshctl("peers", "--address", "nonsense").code == 2


def test_what_machines_say_cannot_write_over_the_terminal(meshctl: Meshctl) -> None:
    meshctl.fake.documents["Peers"] = [{**PEERS[0], "name": "\x1b[2Jevil\r\n"}]
    assert "\x1b" not in meshctl("peers").out
    assert len(meshctl("peers").out.splitlines()) == 2


def test_a_very_large_submission_asks_only_at_a_terminal(meshctl: Meshctl, sweep: Path) -> None:
    ran = meshctl("submit", str(sweep), "--set", f"parameters.lr.values={list(range(800))}", "-o", "json")
    assert ran.json["tasks"] == 1600
