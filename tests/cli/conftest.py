from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mesh.cli.meshctl import main
from tests.client.conftest import mesh  # noqa: F401 - a fixture
from tests.client.fake_server import FakeMesh

SWEEP = """\
program: train.py
method: grid
name: small
metric: {name: loss, goal: minimize}
parameters:
  lr: {values: [0.1, 0.01]}
  model: {parameters: {depth: {values: [1, 2]}}}
"""


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Meshctl:
    """Runs the command in this process, against the fake mesh."""

    def __init__(self, fake: FakeMesh, capsys: pytest.CaptureFixture[str]) -> None:
        self.fake, self._capsys = fake, capsys

    def __call__(self, *arguments: str) -> Ran:
        self._capsys.readouterr()
        try:
            code = main(["--address", self.fake.address, *arguments])
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        return Ran(code, *self._capsys.readouterr())


@pytest.fixture
def meshctl(mesh: FakeMesh, capsys: pytest.CaptureFixture[str]) -> Meshctl:  # noqa: F811
    return Meshctl(mesh, capsys)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text("")
    file = tmp_path / "sweep.yaml"
    file.write_text(SWEEP)
    return file
