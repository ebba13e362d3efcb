"""Directories that are shipped with a sweep (``files:``) to daemons that have none of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.mesh import Mesh

PROGRAM = """\
import json, os, sys
import helper
x = int(sys.argv[1].partition("=")[2])
print(json.dumps({"score": helper.double(x)}))
print("in", os.getcwd(), sorted(set(os.listdir()) - {"__pycache__"}))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "home/project"
    (folder / "data").mkdir(parents=True)
    (folder / "train.py").write_text(PROGRAM)
    (folder / "helper.py").write_text("def double(x):\n    return 2 * x\n")
    (folder / "data/large.bin").write_bytes(b"x" * 1000)
    (folder / ".gitignore").write_text("*.log\n")
    (folder / ".meshignore").write_text("data/\n")
    (folder / "old.log").write_text("old")
    return folder


def sweep(folder: Path, files: str = ".", **options: Any) -> str:
    document = {
        "program": "train.py",
        "method": "grid",
        "metric": {"name": "score", "goal": "maximize"},
        "parameters": {"x": {"values": [1, 2, 3, 4]}},
        "mesh": {"files": files} | options,
    }
    path = folder / "sweep.yaml"
    path.write_text(json.dumps(document))
    return str(path)


def test_every_node_runs_what_was_shipped_though_the_original_is_gone(mesh: Mesh, project: Path) -> None:
    a, b = mesh.start_all("a", "b")
    file = sweep(project)
    job = mesh.ctl("submit", file, at=a)["job"]
    project.rename(project.with_name("elsewhere"))
    done = mesh.until_state(job, "succeeded", "failed", at=b, within=60)
    assert done["tasks"]["succeeded"] == 4, mesh.tasks(job, a)
    assert done["best"]["metric"]["value"] == 8
    printed = mesh.run("logs", f"{job}.0", at=a, json_too=False).stdout
    assert "['.gitignore', '.meshignore', 'helper.py', 'sweep.yaml', 'train.py']" in printed
    assert str(project) not in printed


def test_what_changed_is_shipped_anew_and_the_first_job_keeps_its_own(mesh: Mesh, project: Path) -> None:
    a = mesh.start("a")
    first = mesh.ctl("submit", sweep(project), "--wait", at=a)
    (project / "helper.py").write_text("def double(x):\n    return 20 * x\n")
    second = mesh.ctl("submit", sweep(project), "--wait", at=a)
    assert [each["best"]["metric"]["value"] for each in (first, second)] == [8, 80]
    again = mesh.ctl("submit", sweep(project), "--wait", at=a)
    assert again["best"]["metric"]["value"] == 80
    assert len(list((a.state / "code").iterdir())) == 2


def test_a_directory_above_is_shipped_and_the_program_runs_in_its_own(mesh: Mesh, project: Path) -> None:
    a = mesh.start("a")
    done = mesh.ctl("submit", sweep(project, files=".."), "--wait", at=a)
    assert done["best"]["metric"]["value"] == 8
    assert "/project [" in mesh.run("logs", f"{done['id']}.0", at=a, json_too=False).stdout


def test_what_is_shipped_cannot_be_written_to(mesh: Mesh, project: Path) -> None:
    a = mesh.start("a")
    (project / "run.sh").write_text("true")
    (project / "run.sh").chmod(0o755)
    mesh.ctl("submit", sweep(project), "--wait", at=a)
    (shipped,) = (a.state / "code").iterdir()
    modes = {path.name: path.stat().st_mode & 0o777 for path in shipped.iterdir() if path.is_file()}
    assert modes["run.sh"] == 0o555
    assert {mode & 0o222 for mode in modes.values()} == {0}


def test_what_is_wrong_with_the_files_is_said_before_anything_is_submitted(mesh: Mesh, project: Path) -> None:
    a = mesh.start("a")

    def refused(**options: Any) -> tuple[int, str]:
        done = mesh.run("submit", sweep(project, **options), at=a)
        return done.returncode, done.stderr

    code, said = refused(files="absent")
    assert (code, "absent is no directory; nothing was submitted" in said) == (2, True)
    code, said = refused(files="data")
    assert (code, "does not hold" in said) == (2, True)
    (project / "escape").symlink_to("/etc")
    code, said = refused()
    assert (code, "escape" in said) == (2, True)
    (project / "escape").unlink()
    with (project / "huge.bin").open("wb") as file:
        file.truncate(101_000_000)
    code, said = refused()
    assert (code, "101 MB" in said, "huge.bin (101 MB)" in said, "--yes" in said) == (1, True, True, True)
    assert mesh.ctl("jobs", at=a) == []
    (project / ".meshignore").write_text("data/\nhuge.bin\n")
    assert mesh.ctl("submit", sweep(project), "--wait", at=a)["state"] == "succeeded"
