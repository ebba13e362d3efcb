"""A function's checkpoints in a real runner, which outlives it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from mesh.core.lattice import FAILED, RELEASED, SUCCEEDED
from mesh.core.work import Work
from tests.shell.runner_harness import Harness, function
from tests.task.fake_meshd import FakeMeshd, meshd


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeMeshd]:
    with meshd(tmp_path / "store", monkeypatch) as one:
        one.secret = None
        yield one


@pytest.fixture
async def h(tmp_path: Path) -> AsyncIterator[Harness]:
    harness = Harness(tmp_path / "s")
    yield harness
    await harness.close()


def saving(fake: FakeMeshd, error: str = "") -> Work:
    def save() -> int:  # here, so that it is pickled by value
        import os

        from mesh import task

        task.checkpoint.save({"attempt": task.attempt})
        if error:
            raise ValueError(error)
        return os.getpid()

    return function(save, env=environment(fake))


def environment(fake: FakeMeshd) -> tuple[tuple[str, str], ...]:
    return (("MESH_TASK_SOCKET", str(fake.socket)),)


async def test_a_function_ends_once_its_last_one_is_written_and_the_next_knows_nothing_of_it(
    fake: FakeMeshd, h: Harness
) -> None:
    pids = [await h.value(saving(fake)) for _ in range(2)]
    assert pids[0] == pids[1]
    assert [one.step for one in fake.saved] == [0, 0]
    assert len({one.blob for one in fake.saved}) == 2
    assert (await h.run(saving(fake, "broken")))[0] == FAILED
    assert len(fake.saved) == 3


async def test_a_function_that_lost_its_last_one_has_not_succeeded(fake: FakeMeshd, h: Harness) -> None:
    fake.refused["save"] = "QuotaExceeded", "the disk is full"
    phase, outcome = await h.run(saving(fake))
    assert (phase, outcome.code, outcome.message) == (FAILED, "mesh.core.errors.QuotaExceeded", "the disk is full")
    attempt = h.begin(saving(fake, "broken"))[0]
    phase, outcome = await h.end_of(attempt)
    assert (phase, outcome.code, outcome.message) == (FAILED, "ValueError", "broken")
    assert await h.printed(attempt) == b"mesh: the last checkpoint was not saved: the disk is full\n"
    fake.refused.clear()
    assert (await h.run(saving(fake)))[0] == SUCCEEDED


async def test_a_function_that_is_stopped_finishes_it_first(fake: FakeMeshd, h: Harness) -> None:
    def forever() -> None:
        import time

        from mesh import task

        task.checkpoint.save({"text": "x" * (4 << 20)}, 3)
        print("ready", flush=True)
        time.sleep(1000)

    fake.answers.clear()
    attempt = h.begin(function(forever, env=environment(fake)))[0]
    await h.line(attempt)
    h.stop(attempt)
    fake.answers.set()
    assert (await h.end_of(attempt))[0] == RELEASED
    assert [one.step for one in fake.saved] == [3]
