"""``make demo-resume`` shows what it says, leaves nothing behind, and would say so where the two trainings differ."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.mesh import mesh_of
from tools.demo_daemons import ROOT, DemoFailed
from tools.demo_resume import EPOCHS, Curve, curve_of, difference

PRINTED = "".join(f"epoch {epoch} loss 0.5 {(0.5).hex()}\n" for epoch in range(EPOCHS)) + "weights 1234\n"


@pytest.mark.e2e
@pytest.mark.timeout(240)
def test_another_machine_goes_on_and_the_curve_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    with mesh_of(tmp_path) as mesh:  # for its environment, by which every process of it is found
        done = subprocess.run(
            [sys.executable, "-m", "tools.demo_resume"], cwd=ROOT, env=mesh.env, capture_output=True, text=True,
            timeout=220, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert mesh.survivors() == {}
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["equal"]
    assert found["undisturbed"] == found["interrupted"]
    assert found["ran"] != found["went_on"]
    assert EPOCHS // 2 <= found["killed_at_epoch"] < EPOCHS
    assert 0 <= found["after_epoch"] <= found["killed_at_epoch"] + 1  # a checkpoint may be known before a report


def test_one_bit_is_a_difference() -> None:
    alone = curve_of(PRINTED)
    assert difference(alone, curve_of(PRINTED)) == ""
    other = curve_of(PRINTED.replace(f"epoch 3 loss 0.5 {(0.5).hex()}", "epoch 3 loss 0.5 0x1.0000000000001p-1"))
    assert difference(alone, other) == "the loss of epoch 3 is 0.5 in one and 0.5000000000000001 in the other"
    assert other.digest != alone.digest


def test_other_weights_are_a_difference() -> None:
    alone = curve_of(PRINTED)
    other = Curve(alone.losses, "1235")
    assert difference(alone, other) == "the losses are the same, the weights are not"
    assert other.digest != alone.digest


@pytest.mark.parametrize("gone", ["epoch 3 ", "weights"])
def test_what_did_not_print_all_is_no_curve(gone: str) -> None:
    with pytest.raises(DemoFailed, match="printed"):
        curve_of("\n".join(line for line in PRINTED.splitlines() if not line.startswith(gone)))
