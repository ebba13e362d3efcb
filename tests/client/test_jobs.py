"""Sweep files from Python, job handles, what a client asks of the machines, executors and decorators."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mesh import AsyncMeshClient, InvalidSpec, MeshClient, MeshTimeout, NotFound, TaskCancelled
from mesh.core.errors import Conflict
from mesh.core.work import Work
from tests.client.fake_server import NODE, FakeMesh

SWEEP = """\
program: train.py
method: grid
metric: {name: loss, goal: minimize}
parameters:
  lr: {values: [0.1, 0.01, 0.001]}
  depth: {values: [1, 2]}
"""


def square(n: int) -> int:
    return n * n


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text("print('hi')\n")
    file = tmp_path / "sweep.yaml"
    file.write_text(SWEEP)
    return file


def loss(work: Work) -> tuple[str, dict[str, float]]:
    import json

    params = json.loads(work.params)
    return "succeeded", {"loss": params["lr"] * params["depth"]}


def test_a_sweep_from_python(client: MeshClient, mesh: FakeMesh, sweep: Path) -> None:
    mesh.command = loss
    job = client.submit_sweep(sweep, priority=7)
    assert job.count == 6
    assert job.durable_on == (NODE,)
    assert job.wait(10)["state"] == "succeeded"
    assert job.best()["params"] == {"lr": 0.001, "depth": 1}
    rows = job.results()
    assert [row["params"]["depth"] for row in rows] == [1, 2, 1, 2, 1, 2]
    assert {row["node"] for row in rows} == {NODE}
    assert rows[0]["metrics"] == {"loss": 0.1}
    assert mesh.jobs[job.id].priority == 7
    assert len(job.tasks("succeeded")) == 6
    assert [document["id"] for document in client.jobs()] == [job.id]


def test_overrides_stand_in_for_keys(client: MeshClient, mesh: FakeMesh, sweep: Path) -> None:
    job = client.submit_sweep(sweep, name="short", run_cap=2, **{"parameters.depth.values": [9]})
    assert job.count == 2
    assert {row["params"]["depth"] for row in job.results()} == {9}
    assert job.status()["name"] == "short"


def test_a_program_that_is_not_there_is_found_before_anything_is_sent(
    client: MeshClient, mesh: FakeMesh, sweep: Path
) -> None:
    (sweep.parent / "train.py").unlink()
    with pytest.raises(InvalidSpec) as caught:
        client.submit_sweep(sweep)
    (problem,) = caught.value.problems
    assert (problem.line, problem.column) == (1, 10)
    assert "train.py" in problem.text
    assert mesh.calls["Submit"] == 0


def test_a_file_that_is_not_there_or_no_text(client: MeshClient, tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match=r"none\.yaml cannot be read: No such file"):
        client.submit_sweep(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"method: grid\nname: caf\xe9\n")
    with pytest.raises(InvalidSpec) as caught:
        client.submit_sweep(tmp_path / "latin.yaml")
    assert caught.value.problems[0].line == 2


def test_a_large_sweep_travels_in_slices(client: MeshClient, mesh: FakeMesh, sweep: Path) -> None:
    job = client.submit_sweep(sweep, **{"parameters.depth.values": list(range(500))})
    assert job.count == 1500
    assert mesh.batches == [500, 500, 500]
    assert job.wait(10)["tasks"]["succeeded"] == 1500


def test_waiting_ends_with_the_time(client: MeshClient, mesh: FakeMesh, sweep: Path) -> None:
    mesh.holding = True
    job = client.submit_sweep(sweep)
    with pytest.raises(MeshTimeout, match=rf"{job.id} did not end within 0.05 s.*goes on.*meshctl wait"):
        job.wait(0.05)
    assert job.cancel() == 6
    assert job.wait(10)["state"] == "cancelled"


def test_waiting_outlives_a_broken_stream(client: MeshClient, mesh: FakeMesh, sweep: Path) -> None:
    mesh.holding = True
    job = client.submit_sweep(sweep)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = pool.submit(job.wait, 20)
        mesh.until(lambda: mesh.calls["Watch"] == 1)
        mesh.break_watches()
        mesh.until(lambda: mesh.calls["Watch"] == 2)
        mesh.run_held()
        assert waiting.result(20)["state"] == "succeeded"


def test_pause_resume_retry_priority(client: MeshClient, mesh: FakeMesh, sweep: Path) -> None:
    mesh.holding = True
    job = client.submit_sweep(sweep)
    job.pause()
    assert job.status()["state"] == "paused"
    job.resume()
    assert job.status()["state"] == "running"
    job.set_priority(9)
    assert mesh.priorities == {job.id: 9}
    mesh.command = lambda work: ("failed", {})
    mesh.run_held()
    assert job.wait(10)["state"] == "failed"
    mesh.command = loss
    assert job.retry() == 6
    assert job.wait(10)["state"] == "succeeded"
    assert job.retry(force=True) == 0
    assert mesh.forced == [False, True]


def test_delete(client: MeshClient, mesh: FakeMesh, sweep: Path) -> None:
    mesh.holding = True
    job = client.submit_sweep(sweep)
    with pytest.raises(Conflict, match="have not ended"):
        job.delete()
    mesh.run_held()
    job.wait(10)
    assert job.delete() == 6
    with pytest.raises(NotFound):
        job.status()


def test_a_job_without_a_best_says_why(client: MeshClient, sweep: Path) -> None:
    with pytest.raises(NotFound, match="no task that succeeded has reported"):
        client.submit_sweep(sweep).best()


def test_machines(client: MeshClient) -> None:
    assert [peer["name"] for peer in client.peers()] == ["anvil", "mac"]
    assert client.resources() == {
        "nodes": 1,
        "slots": 4,
        "free_slots": 3,
        "devices": {"cuda": 1},
        "device_memory_bytes": 34359738368,
        "free_device_memory_bytes": 30064771072,
    }


def test_explain_and_task(client: MeshClient, mesh: FakeMesh) -> None:
    mesh.explanation = {"choice": NODE, "why": "it is free", "nodes": []}
    future = client.submit(square, 3)
    future.result(10)
    assert client.explain(future.task_id)["why"] == "it is free"
    assert client.task(future.task_id)["state"] == "succeeded"


def test_an_executor(client: MeshClient, mesh: FakeMesh) -> None:
    with client.executor(cpus=2, retries=0) as executor:
        futures = [executor.submit(square, n) for n in range(5)]
        assert list(executor.map(square, range(10), chunksize=3)) == [n * n for n in range(10)]
        assert list(executor.map(square, range(3))) == [0, 1, 4]
    assert [f.result(0) for f in futures] == [0, 1, 4, 9, 16]  # leaving the with has waited
    assert mesh.tasks[futures[0].task_id].shape.alternatives[0].millicpus == 2000
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(square, 1)
    assert client.submit(square, 2).result(10) == 4


def test_an_executor_cancels_what_waits(client: MeshClient, mesh: FakeMesh) -> None:
    mesh.holding = True
    executor = client.executor()
    future = executor.submit(square, 1)
    executor.shutdown(cancel_futures=True)
    assert future.cancelled()


def test_a_decorated_function(client: MeshClient, mesh: FakeMesh) -> None:
    @client.task(gpus=1, gpu_memory="12GiB", retries=2)
    def cube(n: int, timeout: int = 0) -> int:
        return n**3 + timeout

    assert cube(2) == 8
    future = cube.submit(3, timeout=1)  # the function's own parameter, not the option
    assert future.result(10) == 28
    shape = mesh.tasks[future.task_id].shape
    assert shape.alternatives[0].milligpus == 1000
    assert shape.retries.max == 2
    assert list(cube.map([1, 2])) == [1, 8]

    def twice(n: int) -> int:
        return cube(n) * 2

    assert client.submit(twice, 2).result(10) == 16


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"gpu": 1}, "there is no option 'gpu'"),
        ({"gpus": 1, "resources": {}}, "write one of them"),
        ({"device": "cpu", "gpus": 1}, "cpu has no GPU"),
        ({"gpu_memory": "1GiB", "gpus": 0}, "asks for a GPU"),
        ({"gpus": 1.5}, "share of one GPU"),
        ({"retries": {"most": 3}}, "'most'"),
        ({"resources": {"labels": "x"}}, "labels"),
    ],
)
def test_wrong_options_of_a_decorator(client: MeshClient, options: dict[str, Any], error: str) -> None:
    with pytest.raises(InvalidSpec, match=error):
        client.task(**options)(square).submit(1)


def test_decorated_functions_require_what_their_decorator_says(client: MeshClient) -> None:
    with pytest.raises(InvalidSpec, match=r"env.requirements: '\./here' is a path"):
        client.task(env={"requirements": ["./here"]})(square).submit(1)


async def test_the_client_in_asyncio(mesh: FakeMesh, sweep: Path) -> None:
    async with AsyncMeshClient(mesh.address) as client:
        assert await client.submit(square, 3) == 9
        assert await asyncio.gather(*(client.submit(square, n) for n in range(5))) == [0, 1, 4, 9, 16]
        assert [value async for value in client.map(square, range(10), chunksize=3)] == [n * n for n in range(10)]
        mesh.command = loss
        job = await client.submit_sweep(sweep)
        assert (await job.wait(10))["state"] == "succeeded"
        assert (await job.best())["metric"] == {"name": "loss", "value": 0.001}
        assert len(await client.peers()) == 2
        assert (await client.task(f"{job.id}.0"))["state"] == "succeeded"


async def test_awaiting_and_cancelling_in_asyncio(mesh: FakeMesh) -> None:
    mesh.holding = True
    async with AsyncMeshClient(mesh.address) as client:
        future = client.submit(square, 3)
        with pytest.raises(RuntimeError, match="await the future instead"):
            future.result(1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(asyncio.ensure_future(_awaited(future))), 0.05)
        assert not future.cancelled()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_awaited(future), 0.05)
        assert future.cancelled()  # whose await is cancelled is cancelled
        with pytest.raises(TaskCancelled):
            await future


async def _awaited(future: Any) -> Any:
    return await future


def test_two_clients_share_a_process(mesh: FakeMesh) -> None:
    with MeshClient(mesh.address) as one, MeshClient(mesh.address) as other:
        futures = [client.submit(square, n) for n in range(20) for client in (one, other)]
        assert sum(f.result(10) for f in futures) == 2 * sum(n * n for n in range(20))


def test_a_closed_client_says_so(mesh: FakeMesh) -> None:
    client = MeshClient(mesh.address)
    client.close()
    client.close()
    calls: list[Callable[[], Any]] = [client.peers, lambda: client.submit(square, 1), client.jobs]
    for call in calls:
        with pytest.raises(Exception, match="closed"):
            call()


def test_what_must_not_run_twice_names_its_owner_the_same_in_every_repeat(client: MeshClient, mesh: FakeMesh) -> None:
    """The leader of before the first slice: two leaders that are sent the same one agree."""
    mesh.refuse("SubmitEach", None, times=2)
    assert client.submit(abs, -1).result(10) == 1
    assert mesh.owners == [""]
    assert client.submit(abs, -2, on_lost="hold").result(10) == 2
    assert client.submit(abs, -3, on_lost="hold").result(10) == 3
    assert mesh.owners == ["", NODE, NODE]
    assert mesh.calls["Peers"] == 1


def test_after_a_change_of_leader_what_must_not_run_twice_goes_into_a_new_job(
    client: MeshClient, mesh: FakeMesh
) -> None:
    """Who is named leads no more, by the answer: it may be gone for good."""
    for _ in range(2):
        mesh.durable_on = ["50-ANOTHER"]
        assert client.submit(abs, -2, on_lost="hold").result(10) == 2
    assert len(mesh.jobs) == 2


def test_an_unknown_choice_of_what_to_do_with_the_lost_is_refused(client: MeshClient) -> None:
    with pytest.raises(InvalidSpec, match="on_lost is 'wait'; it must be 'retry' or 'hold'"):
        client.submit(abs, -1, on_lost="wait")
