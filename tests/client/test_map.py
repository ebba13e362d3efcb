"""``map``: order, laziness, chunks."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import pytest

from mesh import MeshClient, TaskFailed
from mesh.client.chunks import AUTO_LIMIT, Mapping, run_chunk
from tests.client.fake_server import FakeMesh


def square(n: int) -> int:
    return n * n


def divide(a: int, b: int) -> float:
    return a / b


@pytest.mark.parametrize("chunksize", [1, 7, "auto"])
def test_results_come_in_order(client: MeshClient, chunksize: int | str) -> None:
    assert list(client.map(square, range(500), chunksize=chunksize)) == [n * n for n in range(500)]


def test_results_come_in_order_when_tasks_end_out_of_order(client: MeshClient, mesh: FakeMesh) -> None:
    mesh.holding = True
    results = client.map(square, range(10))
    taking = itertools.islice(results, 10)
    got: list[int] = []
    thread = threading.Thread(target=lambda: got.extend(taking))
    thread.start()
    mesh.until(lambda: len(mesh.tasks) == 10)
    with mesh._changed:
        for task in reversed(list(mesh.tasks.values())):
            mesh._run(task)
        mesh._changed.notify_all()
    thread.join(10)
    assert got == [n * n for n in range(10)]


def test_several_iterables_end_with_the_shortest(client: MeshClient) -> None:
    assert list(client.map(divide, [1, 4, 9], [1, 2])) == [1.0, 2.0]


def test_chunks_put_many_calls_into_one_task(client: MeshClient, mesh: FakeMesh) -> None:
    assert list(client.map(square, range(100), chunksize=10)) == [n * n for n in range(100)]
    assert len(mesh.tasks) == 10


def test_auto_finds_larger_chunks_for_quick_calls(client: MeshClient, mesh: FakeMesh) -> None:
    assert sum(client.map(square, range(5000), chunksize="auto")) == sum(n * n for n in range(5000))
    assert len(mesh.tasks) < 200


def test_an_endless_iterable_is_read_only_a_window_ahead(client: MeshClient) -> None:
    taken = itertools.count()
    read: list[int] = []
    results = client.map(square, (read.append(n) or n for n in taken), window=20)
    assert list(itertools.islice(results, 5)) == [0, 1, 4, 9, 16]
    results.close()  # type: ignore[attr-defined]  # it is a generator
    assert len(read) <= 40


def test_leaving_early_cancels_the_rest(client: MeshClient, mesh: FakeMesh) -> None:
    mesh.holding = True
    results = client.map(square, range(50), window=10)
    errors: list[Exception] = []

    def take() -> None:
        try:
            next(results)
        except Exception as error:  # noqa: BLE001 - none is expected
            errors.append(error)

    thread = threading.Thread(target=take)
    thread.start()
    mesh.until(lambda: len(mesh.tasks) == 10)
    first = next(iter(mesh.tasks.values()))
    with mesh._changed:
        mesh._run(first)
        mesh._changed.notify_all()
    thread.join(10)
    results.close()  # type: ignore[attr-defined]
    mesh.until(lambda: sum(result.state == "cancelled" for result in mesh.ended.values()) == 9)
    assert not errors


def test_a_failure_comes_at_its_place(client: MeshClient) -> None:
    results = client.map(divide, [1, 1, 1], [1, 0, 1])
    assert next(results) == 1.0
    with pytest.raises(TaskFailed) as caught:
        next(results)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("wrong", [{"chunksize": 0}, {"chunksize": "many"}, {"window": 0}])
def test_wrong_sizes(client: MeshClient, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        list(client.map(square, [1], **wrong))


def test_chunks_grow_at_most_twofold_and_shrink_at_once() -> None:
    mapping = Mapping(lambda call: None, lambda calls: None, [], "auto")  # type: ignore[arg-type,return-value]
    sizes = []
    for _ in range(12):
        mapping.values(([None] * mapping._size, 0.0))
        sizes.append(mapping._size)
    assert sizes[:4] == [2, 4, 8, 16]
    assert sizes[-1] == AUTO_LIMIT
    mapping.values(([None] * 1000, 10.0))  # 10 ms each: 25 ms hold two
    assert mapping._size == 2


def test_a_chunk_measures_itself() -> None:
    values, seconds = run_chunk(square, [(2,), (3,)])
    assert values == [4, 9]
    assert 0 <= seconds < 5
