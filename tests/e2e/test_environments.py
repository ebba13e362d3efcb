"""Sweeps and functions that require a package which no machine has installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mesh.core.errors import TaskFailed
from tests.e2e.mesh import Mesh
from tests.wheels import requirements, wheel

PROGRAM = """\
import json, sys
import doubling
from mesh import task
x = int(sys.argv[1].partition("=")[2])
assert task.params["x"] == x
print(json.dumps({"score": doubling.of(x)}))
"""


def double(x: int) -> int:
    import doubling  # type: ignore[import-not-found]

    return doubling.of(x)  # type: ignore[no-any-return]


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    wheel(tmp_path / "wheels", "doubling", "1.0", "def of(x):\n    return 2 * x\n")
    return tmp_path / "wheels"


def sweep(folder: Path, required: str) -> str:
    folder.mkdir()
    (folder / "train.py").write_text(PROGRAM)
    (folder / "requirements.txt").write_text(required)
    document = {
        "program": "train.py",
        "method": "grid",
        "metric": {"name": "score", "goal": "maximize"},
        "parameters": {"x": {"values": [1, 2, 3]}},
        "mesh": {"files": ".", "env": {"requirements": "requirements.txt"}},
    }
    (folder / "sweep.yaml").write_text(json.dumps(document))
    return str(folder / "sweep.yaml")


def test_a_sweep_and_a_function_use_what_only_their_environment_has(mesh: Mesh, wheels: Path, tmp_path: Path) -> None:
    a, _ = mesh.start_all("a", "b")
    required = requirements(wheels, "doubling==1.0  # which nobody has")
    done = mesh.ctl("submit", sweep(tmp_path / "project", required), "--wait", at=a, within=60)
    assert (done["state"], done["best"]["metric"]["value"]) == ("succeeded", 6)
    env = {"requirements": requirements(wheels, "doubling==1.0").splitlines()}
    client = mesh.client(a)
    assert list(client.map(double, range(4), env=env)) == [0, 2, 4, 6]
    with pytest.raises(TaskFailed, match="No module named 'doubling'"):
        client.submit(double, 3).result(20)
    for daemon in mesh.daemons:
        assert len(list((daemon.state / "envs").glob("*.log"))) <= 1, "sweep and function share one"


def test_why_a_requirement_cannot_be_had_stands_beside_the_task(mesh: Mesh, wheels: Path, tmp_path: Path) -> None:
    a = mesh.start("a")
    file = sweep(tmp_path / "project", requirements(wheels, "doubling==2.0"))
    done = mesh.ctl("submit", file, "--wait", at=a, code=1, within=60)
    shown = mesh.run("task", f"{done['id']}.0", at=a, json_too=False).stdout
    assert "environment: its requirements could not be installed" in shown
    assert "No matching distribution found for doubling==2.0" in shown
    (log,) = (a.state / "envs").glob("*.log")
    assert str(log) in shown
    (tmp_path / "project/requirements.txt").unlink()
    refused = mesh.run("submit", file, at=a)
    assert refused.returncode == 2
    assert "requirements.txt cannot be read: No such file" in refused.stderr
