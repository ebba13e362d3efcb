from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mesh import task
from mesh.core.errors import MeshError
from mesh.task import api

ROOT = Path(__file__).parent.parent.parent


def test_outside_a_mesh_task_a_program_runs_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert (task.params, task.id, task.attempt, task.node) == ({}, "", "", "")
    assert task.should_stop() is False
    task.report(step=1, loss=float("inf"))
    assert capsys.readouterr().out == '{"step": 1, "loss": null}\n'


def test_a_report_takes_numbers_of_any_library_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    numpy = pytest.importorskip("numpy")
    task.report(loss=numpy.float32(0.5), ok=True)
    assert capsys.readouterr().out == '{"loss": 0.5, "ok": 1}\n'
    with pytest.raises(TypeError, match="loss"):
        task.report(loss="low")
    assert not capsys.readouterr().out


def test_names_that_do_not_exist_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="parms"):
        _ = task.parms


def test_a_meshd_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MESH_TASK_SOCKET", str(tmp_path / "gone"))
    monkeypatch.setattr(api, "_from_environment", None)
    with pytest.raises(MeshError, match="cannot reach its meshd"):
        task.report(loss=1)


def test_a_program_pays_little_for_the_import() -> None:
    program = (
        "import sys; from mesh import task;"
        "print([m for m in ('grpc', 'google', 'cloudpickle', 'blake3', 'numpy', 'torch') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout == "[]\n"


def test_a_runner_imports_neither_grpc_nor_protobuf_nor_psutil() -> None:
    program = (
        "import sys; from mesh.task import zygote;"
        "print([m for m in ('grpc', 'google', 'psutil', 'asyncio', 'numpy', 'torch') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout == "[]\n"
