"""The example sweep that ships: it parses without a warning, and its script trains."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mesh.spec.expand import count
from mesh.spec.sweep import parse
from tests.spec.helpers import run

FILE = Path(__file__).parents[2] / "sweeps" / "digits.yaml"


def test_the_example_is_twelve_trials_on_one_core_each() -> None:
    sweep = parse(FILE.read_text(), str(FILE))
    assert (count(sweep), sweep.warnings, sweep.metric, sweep.maximize) == (12, (), "accuracy", True)
    _, tasks, works = run(sweep)
    assert tasks[0].shape.alternatives[0].millicpus == 1000
    assert len({work.params for work in works}) == 12


def test_its_script_prints_the_metric_of_every_epoch_and_learns() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    sweep = parse(FILE.read_text(), str(FILE), ["parameters.epochs.value=6"])
    work = run(sweep)[2][0]
    argv = [sys.executable if item == "${interpreter}" else item for item in work.argv]
    output = subprocess.run(argv, cwd=work.cwd, capture_output=True, text=True, check=True, timeout=100).stdout
    lines = [json.loads(line) for line in output.splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all(set(line) == {"epoch", "loss", "accuracy"} for line in lines)
    assert lines[-1]["accuracy"] > 0.9 > lines[0]["accuracy"]
