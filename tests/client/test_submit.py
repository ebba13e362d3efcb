"""Functions: their results, their errors, how they are batched and what is refused."""

from __future__ import annotations

import concurrent.futures
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mesh import (
    InvalidSpec,
    MeshClient,
    MeshError,
    MeshTimeout,
    QuotaExceeded,
    TaskCancelled,
    TaskFailed,
    TaskLost,
    TaskTimeout,
)
from mesh.blob.objects import Ref
from mesh.client.faults import task_error
from mesh.client.options import PYTHON
from mesh.core.lattice import Resources, Retries
from mesh.wire.client import TaskResult
from mesh.wire.work import decode_work
from tests.client.fake_server import FakeMesh


def add(a: int, b: int = 0) -> int:
    return a + b


def fail(text: str) -> None:
    raise KeyError(text)


def test_a_function_returns_its_value(client: MeshClient) -> None:
    assert client.submit(add, 3, b=4).result(10) == 7


def test_the_future_is_one_of_concurrent_futures(client: MeshClient) -> None:
    futures = [client.submit(add, n) for n in range(20)]
    done, not_done = concurrent.futures.wait(futures, timeout=10)
    assert not not_done
    assert sorted(f.result() for f in done) == list(range(20))
    assert {f.result() for f in concurrent.futures.as_completed(futures, 10)} == set(range(20))


def test_task_ids_name_the_job_and_count(client: MeshClient, mesh: FakeMesh) -> None:
    first, second = client.submit(add, 1), client.submit(add, 2)
    first.result(10), second.result(10)
    job, number = first.task_id.split(".")
    assert second.task_id == f"{job}.{int(number) + 1}"
    assert job[0] == "j"
    assert len(job) == 10
    assert set(job) <= set("0123456789abcdefghjkmnpqrstvwxyz")
    assert mesh.jobs[job].kind == "functions"


def test_one_job_for_all_submissions_of_a_client_and_priority(client: MeshClient, mesh: FakeMesh) -> None:
    for n in range(3):
        client.submit(add, n).result(10)
    client.submit(add, 1, priority=9).result(10)
    assert sorted(job.priority for job in mesh.jobs.values()) == [5, 9]


def test_what_a_call_asks_for_reaches_its_shape(client: MeshClient, mesh: FakeMesh) -> None:
    future = client.submit(
        add,
        1,
        resources=[{"cpus": 2, "memory": "4GiB", "gpu_memory": "12GiB", "labels": {"rack": "a"}}, {"cpus": 16}],
        retries={"max": 2, "backoff": "3s", "not_on": [ValueError]},
        timeout=90,
    )
    future.result(10)
    shape = mesh.tasks[future.task_id].shape
    assert shape.alternatives == (
        Resources(2000, 4 << 30, 1000, 12 << 30, "any", (("rack", "a"),)),
        Resources(16000),
    )
    assert shape.retries == Retries(2, 3000, not_on=("ValueError",))
    assert shape.timeout_ms == 90_000
    assert shape.python == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert shape.kind.endswith(":add")


def test_equal_options_share_one_shape(client: MeshClient, mesh: FakeMesh) -> None:
    futures = [client.submit(add, n, resources={"cpus": 2}, retries=1) for n in range(2)]
    concurrent.futures.wait(futures, 10)
    one, other = (mesh.tasks[f.task_id].shape for f in futures)
    assert one is other  # decoded from the same bytes


def test_a_failure_carries_the_traceback_and_the_exception(client: MeshClient) -> None:
    with pytest.raises(TaskFailed) as caught:
        client.submit(fail, "pear").result(10)
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.__cause__.args == ("pear",)
    assert "in fail" in caught.value.remote_traceback
    assert "KeyError: 'pear'" in str(caught.value)


def test_an_exception_that_cannot_be_read_here_says_so() -> None:
    error = task_error(TaskResult("j.1", "failed", result=b"not a pickle", code="Strange", message="what"))
    assert error.__cause__ is None
    assert "cannot be read here" in error.__notes__[0]


@pytest.mark.parametrize(("code", "kind"), [("timeout", TaskTimeout), ("lost", TaskLost), ("exit 3", TaskFailed)])
def test_how_a_task_ended_decides_the_error(code: str, kind: type[MeshError]) -> None:
    error = task_error(TaskResult("j.1", "failed", code=code, message="so it was", node="50-A"))
    assert type(error) is kind
    assert "j.1" in str(error)
    assert "50-A" in str(error)
    assert error.task == "j.1"


def test_a_result_that_cannot_be_read_here_is_no_failure_of_the_task(client: MeshClient, mesh: FakeMesh) -> None:
    mesh.holding = True
    future = client.submit(add, 1)
    mesh.until(lambda: future.task_id in mesh.tasks)
    with mesh._changed:
        mesh.ended[future.task_id] = TaskResult(future.task_id, "succeeded", b"\x80\x05cno_such_module\nThing\n.")
        mesh._changed.notify_all()
    with pytest.raises(MeshError, match=r"cannot be read here.*no_such_module") as caught:
        future.result(10)
    assert not isinstance(caught.value, TaskFailed)


def test_a_result_that_does_not_come_in_time(client: MeshClient, mesh: FakeMesh) -> None:
    mesh.holding = True
    future = client.submit(add, 1)
    with pytest.raises(MeshTimeout, match=r"0\.01 s.*goes on.*meshctl explain"):
        future.result(0.01)
    with pytest.raises(TimeoutError):
        future.exception(0.01)
    mesh.until(lambda: future.task_id in mesh.tasks)
    mesh.run_held()
    assert future.result(10) == 1


def test_cancelling_reaches_the_mesh(client: MeshClient, mesh: FakeMesh) -> None:
    mesh.holding = True
    future = client.submit(add, 1)
    mesh.until(lambda: future.task_id in mesh.tasks)
    assert future.cancel()
    assert future.cancelled()
    with pytest.raises(TaskCancelled, match=future.task_id):
        future.result(10)
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(10)
    mesh.until(lambda: future.task_id in mesh.ended)
    assert mesh.ended[future.task_id].state == "cancelled"


def test_closing_waits_until_what_was_cancelled_is(mesh: FakeMesh) -> None:
    mesh.holding = True
    with MeshClient(mesh.address) as client:
        futures = [client.submit(add, n) for n in range(40)]  # more than may be under way together
        mesh.until(lambda: all(future.task_id in mesh.tasks for future in futures))
        assert all(future.cancel() for future in futures)
    assert {future.task_id for future in futures} == set(mesh.ended)


def test_what_is_cancelled_before_it_left_is_never_sent(client: MeshClient, mesh: FakeMesh) -> None:
    mesh.shut.add("Submit")  # keeps the first batch under way while the others are added
    first = client.submit(add, 0)
    mesh.until(lambda: mesh.calls["Submit"] > 0)
    futures = [client.submit(add, n) for n in range(1, 5)]
    assert all(future.cancel() for future in futures)
    mesh.shut.clear()
    assert first.result(10) == 0
    assert client.submit(add, 9).result(10) == 9
    assert {future.task_id for future in futures}.isdisjoint(mesh.tasks)


def test_what_somebody_else_cancelled(client: MeshClient, mesh: FakeMesh) -> None:
    mesh.holding = True
    future = client.submit(add, 1)
    mesh.until(lambda: future.task_id in mesh.tasks)
    client.job(future.task_id.split(".")[0]).cancel()
    with pytest.raises(TaskCancelled, match="by request"):
        future.result(10)
    assert future.cancelled()


def test_cancelling_what_has_ended_changes_nothing(client: MeshClient, mesh: FakeMesh) -> None:
    future = client.submit(add, 1)
    assert future.result(10) == 1
    assert not future.cancel()
    assert future.result() == 1
    assert mesh.calls["Cancel"] == 0


def test_many_submissions_travel_in_few_calls(client: MeshClient, mesh: FakeMesh) -> None:
    futures = [client.submit(add, n) for n in range(3000)]
    assert [f.result(30) for f in futures] == list(range(3000))
    assert sum(mesh.batches) == 3000
    assert max(mesh.batches) <= 500
    assert len(mesh.batches) < 300  # alone, each would be a call
    assert mesh.calls["Watch"] == 1


def test_batches_are_bounded_in_bytes(client: MeshClient, mesh: FakeMesh) -> None:
    mesh.refuse("Submit", None, 2)  # so that all of them wait together
    futures = [client.submit(len, b"x" * 300_000) for _ in range(12)]
    assert [f.result(10) for f in futures] == [300_000] * 12
    assert max(mesh.batches) <= 4


def test_submitting_from_many_threads(client: MeshClient) -> None:
    results: list[int] = []

    def work(start: int) -> None:
        futures = [client.submit(add, n) for n in range(start, start + 100)]
        results.extend(f.result(30) for f in futures)

    threads = [threading.Thread(target=work, args=(100 * n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(results) == list(range(500))


def test_too_large_arguments_are_refused_by_size(client: MeshClient, mesh: FakeMesh) -> None:
    with pytest.raises(QuotaExceeded, match=r"2,000,\d{3} bytes.*at most 1,048,576.*client\.put"):
        client.submit(len, b"x" * 2_000_000)
    assert mesh.calls["Submit"] == 0


def test_every_wrong_option_is_named(client: MeshClient) -> None:
    with pytest.raises(InvalidSpec) as caught:
        client.submit(add, 1, resources={"cpu": 1, "memory": "4 apples", "device": "tpu"}, retries=-1, timeout=0)
    text = str(caught.value)
    for part in ("'cpu'", "4 apples", "tpu", "retries.max"):
        assert part in text
    with pytest.raises(InvalidSpec, match="priority is 11"):
        client.submit(add, 1, priority=11)
    with pytest.raises(InvalidSpec, match="timeout is 0"):
        client.submit(add, 1, timeout=0)


def test_what_a_call_requires_and_its_variables_travel_with_it(client: MeshClient, mesh: FakeMesh) -> None:
    env = {"requirements": ["scipy>=1.11  # a comment", "", "numpy"], "vars": {"MODE": "fast"}, "python": PYTHON}
    asked = ("scipy>=1.11\nnumpy", (("MODE", "fast"),))
    assert client.submit(add, 1, env=env).result(10) == 1
    assert client.submit(add, 2).result(10) == 2
    assert list(client.map(add, range(4), env=env)) == [0, 1, 2, 3]
    assert list(client.map(add, range(4), chunksize=4, env=env)) == [0, 1, 2, 3]
    works = [decode_work(task.payload) for task in mesh.tasks.values()]
    assert [(work.requirements, work.env) for work in works] == [asked, ("", ()), *[asked] * 5]


def test_everything_that_is_wrong_with_an_environment_is_named(client: MeshClient) -> None:
    env = {
        "require": [], "python": "2.7", "requirements": ["./here", "-r more.txt"],
        "vars": {"A-B": "x", "MESH_NODE": "y"},
    }  # fmt: skip
    with pytest.raises(InvalidSpec) as caught:
        client.submit(add, 1, env=env)
    for part in ("'require'", "'2.7'", "./here", "-r more.txt", "'A-B'", "MESH_NODE"):
        assert part in str(caught.value)
    with pytest.raises(InvalidSpec, match=rf"3.99, but what this Python {PYTHON} pickles"):
        client.submit(add, 1, env={"python": "3.99"})
    with pytest.raises(InvalidSpec, match="must be a list of texts"):
        client.submit(add, 1, env={"requirements": "scipy"})
    with pytest.raises(InvalidSpec, match="must be a mapping"):
        client.submit(add, 1, env=["scipy"])  # type: ignore[arg-type]


def test_waiting_in_a_callback_is_an_error_not_a_deadlock(client: MeshClient, mesh: FakeMesh) -> None:
    mesh.holding = True
    first, second = client.submit(add, 1), client.submit(add, 2)
    raised: concurrent.futures.Future[BaseException] = concurrent.futures.Future()

    def wait_for_the_other(_: object) -> None:
        try:
            second.result(10)
        except RuntimeError as error:
            raised.set_result(error)

    first.add_done_callback(wait_for_the_other)
    mesh.until(lambda: first.task_id in mesh.tasks)
    with mesh._changed:
        mesh._run(mesh.tasks[first.task_id])
        mesh._changed.notify_all()
    assert isinstance(raised.result(10), RuntimeError)
    mesh.until(lambda: second.task_id in mesh.tasks)
    mesh.run_held()
    assert second.result(10) == 2


def test_closing_waits_until_everything_is_acknowledged(mesh: FakeMesh) -> None:
    mesh.holding = True
    with MeshClient(mesh.address) as client:
        future = client.submit(add, 1)
    assert future.task_id in mesh.tasks
    with pytest.raises(MeshError, match="closed before this task ended"):
        future.result(0)
    with pytest.raises(MeshError, match="closed"):
        client.submit(add, 1)


SCRIPT = """
import sys
from mesh import MeshClient

OFFSET = 40

class Pair:
    def __init__(self, a, b):
        self.a, self.b = a, b

def total(pair):
    return OFFSET + pair.a + pair.b

with MeshClient(sys.argv[1]) as client:
    print(client.submit(total, Pair(1, 1)).result(20))
    OFFSET = 50
    print(client.submit(total, Pair(1, 1)).result(20))
    print(list(client.map(lambda pair: pair.b, [Pair(0, n) for n in range(3)])))
"""


def test_what_a_script_defines_itself_travels_by_value(mesh: FakeMesh, tmp_path: Path) -> None:
    """The fake executes in this process, which has no such ``__main__``."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, script, mesh.address], capture_output=True, text=True, timeout=60)
    assert done.stdout.split("\n")[:3] == ["42", "52", "[0, 1, 2]"], done.stderr


def test_the_payload_is_a_function(client: MeshClient, mesh: FakeMesh) -> None:
    future = client.submit(add, 1)
    future.result(10)
    work = decode_work(mesh.tasks[future.task_id].payload)
    assert work.kind == "function"
    assert not work.argv


def test_importing_the_package_stays_light() -> None:
    code = "import mesh, sys; print(sorted(m for m in sys.modules if m.startswith(('grpc', 'mesh.', 'asyncio'))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_runner_side_of_map_imports_no_grpc() -> None:
    code = "import mesh.client.chunks, sys; print([m for m in sys.modules if m.startswith('grpc')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_task_needs_the_objects_that_it_is_given(client: MeshClient, mesh: FakeMesh) -> None:
    """Once each, wherever they stand; not those inside of other arguments, which nobody replaces."""
    one, two, inner = (Ref(digit * 64, 1) for digit in "123")

    def first(*args: object, **kwargs: object) -> object:
        return len(args) + len(kwargs)

    future = client.submit(first, one, 7, [inner], one, named=two)
    assert future.result(10) == 5
    assert mesh.tasks[future.task_id].needs == (one.blob, two.blob)
    plain = client.submit(first, 7)
    assert plain.result(10) == 1
    assert mesh.tasks[plain.task_id].needs == ()
    assert list(client.map(first, [one, two])) == [1, 1]
    assert [task.needs for task in list(mesh.tasks.values())[-2:]] == [(one.blob,), (two.blob,)]


def test_more_objects_than_a_task_reads_are_refused(client: MeshClient) -> None:
    with pytest.raises(QuotaExceeded, match="1,001 objects"):
        client.submit(len, *(Ref("1" * 64, 1) for _ in range(1001)))
