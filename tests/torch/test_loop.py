"""A loop that is interrupted and resumed does what one does that never was, to the last bit."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mesh import task
from mesh.core.errors import MeshError
from mesh.task import api, checkpoints
from mesh.torch import resumable
from tests.task.fake_meshd import FakeMeshd, meshd

STEPS = 6


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeMeshd]:
    with meshd(tmp_path / "store", monkeypatch) as one:
        yield one


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> api.Current:
    """The attempt of this process, which can be asked to stop."""
    current = api.Current("j.1", "j.1.1", "node", "{}", lambda metrics: None)
    monkeypatch.setattr(api, "_entered", current)
    return current


class Training:
    """Draws from every generator there is, and keeps something of every kind."""

    def __init__(self, kind: str) -> None:
        for seed in (torch.manual_seed, random.seed, np.random.seed):
            seed(7)
        self.model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 1))
        parameters = self.model.parameters()
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.SGD(parameters, lr=0.001, momentum=0.9)
            if kind == "sgd"
            else torch.optim.Adam(parameters, lr=0.01)
        )
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, STEPS)
        self.seen: dict[str, Any] = {"losses": []}
        inputs = torch.randn(12, 8)
        self.data = DataLoader(TensorDataset(inputs, inputs.sum(1, keepdim=True)), batch_size=5, shuffle=True)

    def run(self, stop_after: int | None = None) -> list[float]:
        """``stop_after``: the step in which this attempt is asked to stop."""
        for step in resumable(
            STEPS, model=self.model, optimizer=self.optimizer, scheduler=self.scheduler, seen=self.seen
        ):
            for inputs, wanted in self.data:
                noise = torch.full((), random.random() + np.random.rand())
                loss = nn.functional.mse_loss(self.model(inputs * noise), wanted)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                self.seen["losses"].append(loss.item())
            self.scheduler.step()
            api.current().stop_asked = step == stop_after
        return list(self.seen["losses"])


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_interrupted_at_any_step_it_computes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops: api.Current, kind: str
) -> None:
    with meshd(tmp_path / "whole", monkeypatch):
        whole = Training(kind)
        losses = whole.run()
    assert len(losses) == 3 * STEPS
    assert np.isfinite(losses).all()

    for first in range(STEPS):
        with meshd(tmp_path / f"store-{first}", monkeypatch) as fake:
            for stop_after in (first, min(first + 2, STEPS - 1), None):
                training = Training(kind)
                if stop_after is None or (fake.newest() and stop_after <= fake.newest().step):  # type: ignore[union-attr]
                    assert training.run() == losses
                else:
                    with pytest.raises(SystemExit) as ended:
                        training.run(stop_after)
                    assert ended.value.code == 143
                checkpoints.finish()
            for one, other in zip(training.model.parameters(), whole.model.parameters(), strict=True):
                assert torch.equal(one, other)
            newest = fake.newest()
            assert newest is not None
            assert newest.step == STEPS - 1


def test_it_saves_as_often_as_the_job_says_and_after_the_last_step(
    fake: FakeMeshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}
    for _ in resumable(5, seen=seen):
        pass
    checkpoints.finish()
    assert [one.step for one in fake.saved] == [4]  # a minute has not passed
    monkeypatch.setenv("MESH_CHECKPOINT_EVERY", "0")
    for step in resumable(8, seen=seen):
        checkpoints.current().settle()
        seen["step"] = step
    checkpoints.finish()
    assert [one.step for one in fake.saved] == [4, 5, 6, 7]
    assert list(resumable(8, seen=seen)) == []
    assert seen == {"step": 7}


def test_training_does_not_wait_for_a_write_unless_it_is_the_last(
    fake: FakeMeshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESH_CHECKPOINT_EVERY", "0")
    fake.answers.clear()
    for step in resumable(5, seen={}):
        if step == 4:
            fake.answers.set()
    checkpoints.finish()
    steps = [one.step for one in fake.saved]
    assert (steps[0], steps[-1]) == (0, 4)


def test_what_it_reports_stands_in_the_next_checkpoint(fake: FakeMeshd) -> None:
    for step in (loop := resumable(2, seen={})):
        loop.report(loss=torch.tensor(step / 2))
    checkpoints.finish()
    assert fake.reports == [{"step": 0, "loss": 0.0}, {"step": 1, "loss": 0.5}]
    assert [(one.step, one.metrics) for one in fake.saved] == [(1, {"loss": 0.5})]


def test_outside_a_mesh_task_it_is_a_plain_loop(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(resumable(3, model=nn.Linear(1, 1))) == [0, 1, 2]
    assert list(resumable(0)) == []
    checkpoints.finish()
    assert capsys.readouterr().err.count("no checkpoint is kept") == 1


def test_what_it_cannot_keep_is_named(fake: FakeMeshd) -> None:
    with pytest.raises(TypeError, match=r"cannot keep all of this: data is a list, lr is a float; give"):
        resumable(3, data=[], lr=0.1, model=nn.Linear(1, 1))


def test_a_checkpoint_of_another_program_is_not_mixed_in(fake: FakeMeshd) -> None:
    task.checkpoint.save({"model": 1})
    with pytest.raises(MeshError, match=r"not saved by resumable; load it with task\.checkpoint\.load"):
        list(resumable(3, seen={}))
    list_of = resumable(3, one={}, two={})
    task.checkpoint.save({"format": "computemesh loop 1", "done": 1, "objects": {"one": {}}, "random": {}})
    with pytest.raises(MeshError, match="it keeps one, and not one, two"):
        list(list_of)


def test_a_loop_that_breaks_or_fails_saves_no_half_step(fake: FakeMeshd) -> None:
    for _ in resumable(3, seen={}):
        break
    with pytest.raises(ZeroDivisionError):
        [1 / step for step in resumable(3, seen={})]
    checkpoints.finish()
    assert fake.saved == []
