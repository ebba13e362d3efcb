"""torch.distributed.checkpoint on a node's store: several real processes with gloo save, any number loads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import DefaultLoadPlanner
from torch.distributed.checkpoint.planner import LoadPlan

from mesh import task
from mesh.core.errors import BlobCorrupt, Conflict, MeshError
from mesh.task import checkpoints
from mesh.torch import CheckpointReader, CheckpointWriter, index
from tests.task.fake_meshd import FakeMeshd, meshd
from tests.torch.sharded import SHAPE, tensors

ROOT = Path(__file__).parent.parent.parent
# In one process there is nobody to talk to.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is:UserWarning")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeMeshd]:
    with meshd(tmp_path / "store", monkeypatch) as one:
        yield one


def together(action: str, count: int, file: Path, dimension: int) -> None:
    arguments = [sys.executable, "-m", "tests.torch.shards_child", action]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [*arguments, str(rank), str(count), str(file), str(dimension)],
            env=env,
            cwd=ROOT,
            stderr=subprocess.PIPE,
        )
        for rank in range(count)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=100)
            assert process.returncode == 0, errors.decode()
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_two_processes_save_and_others_load(fake: FakeMeshd, tmp_path: Path) -> None:
    together("save", 2, tmp_path / "save", 0)
    assert [(one.step, one.metrics) for one in fake.saved] == [(7, {"loss": 0.25})]
    full = tensors()
    state: dict[str, Any] = {
        "model": {"sharded": torch.zeros(SHAPE), "all": torch.zeros_like(full["all"])},
        "optimizer": {"lr": 0.0, "betas": ()},
    }
    dcp.load(state, storage_reader=CheckpointReader())
    assert torch.equal(state["model"]["sharded"], full["sharded"])
    assert torch.equal(state["model"]["all"], full["all"])
    assert state["optimizer"] == {"lr": 0.5, "betas": (0.9, 0.99)}
    together("load", 2, tmp_path / "load", 1)  # across the shards that were saved


def save(state: dict[str, Any], step: int | None = None) -> None:
    dcp.save(state, storage_writer=CheckpointWriter(step))


def load(state: dict[str, Any]) -> dict[str, Any]:
    dcp.load(state, storage_reader=CheckpointReader())
    return state


def test_one_process_saves_every_shape_and_dtype(fake: FakeMeshd) -> None:
    full = {
        "scalar": torch.tensor(3),
        "empty": torch.empty(0, 4),
        "turned": torch.arange(12.0).view(3, 4).t(),
        "bool": torch.tensor([True, False]),
        "bf16": torch.randn(3).bfloat16(),
        "complex": torch.randn(2, dtype=torch.complex64),
        "conj": torch.randn(2, dtype=torch.complex64).conj(),
        "large": torch.randn(3, 1 << 19),
    }
    save(dict(full))
    loaded = load({name: torch.zeros_like(value) for name, value in full.items()})
    for name, value in full.items():
        assert torch.equal(loaded[name], value), name
    assert CheckpointReader().step == 0


def test_a_shard_that_did_not_change_is_not_stored_again(fake: FakeMeshd) -> None:
    frozen = torch.randn(1 << 20)
    for step in range(2):
        save({"frozen": frozen, "step": torch.tensor(step)}, step)
    chunks = [set(fake.manifest(number).chunks) for number in (0, 1)]
    assert (len(chunks[0]), len(chunks[0] & chunks[1])) == (6, 5)


def test_no_pickle_is_stored_and_what_needs_one_is_named(fake: FakeMeshd) -> None:
    save({"value": {"lr": 0.1, "name": "x"}, "tensor": torch.zeros(2)})
    data = b"".join(fake.files.read(chunk) for chunk in fake.manifest().chunks)
    assert b"PK\x03\x04" not in data
    with pytest.raises(BaseException, match="odd cannot be saved: it is neither a tensor nor a plain value") as raised:
        save({"odd": Path("x")})
    assert type(raised.value).__name__ == "CheckpointException"
    with pytest.raises(BaseException, match=r"(?s)odd cannot be saved: .*state is a set"):
        save({"odd": {1, 2}})
    assert len(fake.saved) == 1


def test_steps_and_errors_are_those_of_checkpoints(fake: FakeMeshd) -> None:
    with pytest.raises(ValueError, match="step is -1"):
        CheckpointWriter(-1)
    with pytest.raises(MeshError, match="has no id"):
        dcp.save({}, checkpoint_id="here", storage_writer=CheckpointWriter())
    task.checkpoint.save({}, 4)
    with pytest.raises(MeshError, match="holds no shards"):
        CheckpointReader()
    save({"a": torch.zeros(1)}, 5)
    with pytest.raises(MeshError, match="holds no state"):
        task.checkpoint.load()
    CheckpointReader()
    task.checkpoint.save({})
    checkpoints.finish()
    assert [one.step for one in fake.saved] == [4, 5, 6]


def test_a_damaged_chunk_is_asked_for_once_more(fake: FakeMeshd) -> None:
    full = torch.randn(1 << 19)
    save({"full": full})
    index_chunk, first, last = fake.manifest().chunks
    for damaged in (index_chunk, first, last):
        assert torch.equal(load({"full": torch.zeros(1 << 19)})["full"], full)
        fake.damage(damaged)
    fake.before_answer = lambda message: fake.damage(last) or b""  # type: ignore[func-returns-value]
    with pytest.raises(BaseException, match="is damaged") as raised:
        load({"full": torch.zeros(1 << 19)})
    assert "BlobCorrupt" in str(raised.value)


def test_processes_that_opened_different_checkpoints_do_not_mix_them(fake: FakeMeshd) -> None:
    save({"a": torch.zeros(1)})
    early = CheckpointReader()
    save({"a": torch.ones(1)})
    late = CheckpointReader()
    (plan,) = early.prepare_global_plan([LoadPlan([])])
    early.read_data(plan, DefaultLoadPlanner())
    with pytest.raises(Conflict, match="make new readers"):
        late.read_data(plan, DefaultLoadPlanner())


def test_outside_a_mesh_task_nothing_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    save({"a": torch.zeros(1), "b": 1})
    assert CheckpointReader().step is None
    checkpoints.finish()
    assert capsys.readouterr().err.count("no checkpoint is kept") == 1


def test_an_index_that_contradicts_itself_is_corrupt(fake: FakeMeshd) -> None:
    save({"a": torch.zeros(3), "b": 1})
    blob = b"".join(fake.files.read(chunk) for chunk in fake.manifest().chunks)

    def read(data: bytes) -> object:
        def into(offset: int, buffer: memoryview) -> None:
            buffer[:] = data[offset : offset + len(buffer)]

        return index.read(len(data), into)

    assert read(blob)
    with pytest.raises(BlobCorrupt):
        read(blob + b"x")
    for wrong, right in (
        (b"float32", b"float64"),
        (b"float32", b"float16"),
        (b"float32", b"save_32"),
        (b'"tensors":[["a"', b'"tensors":[["c"'),
        (b"[3]", b"[4]"),
        (b'"stored"', b'"stared"'),
        (b'"planner":{"d"', b'"planner":{"x"'),
    ):
        assert wrong in blob
        with pytest.raises(BlobCorrupt):
            read(blob.replace(wrong, right))
