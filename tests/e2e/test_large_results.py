"""Results that are too large for a record, over real daemons."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mesh.blob.objects import Ref
from mesh.core.errors import TaskFailed
from tests.e2e.mesh import Mesh, until


def noise() -> Callable[[int], bytes]:
    def made(size: int) -> bytes:
        import os

        return os.urandom(size)

    return made


def measured() -> Callable[[int], tuple[str, Any]]:
    """An array, and the digest that it should have."""

    def made(size: int) -> tuple[str, Any]:
        import hashlib

        import numpy

        array = numpy.random.default_rng().bytes(size)
        return hashlib.sha256(array).hexdigest(), numpy.frombuffer(array, "u1")

    return made


def test_twenty_mib_come_back_equal_and_outlive_the_machine_that_made_them(mesh: Mesh) -> None:
    a = mesh.start("a", "--rank", "10")
    b = mesh.start("b", "--label", "is=b", peers=[a])
    mesh.met(a, b, leader=a)
    future = mesh.client(b).submit(measured(), 20 << 20, resources={"labels": {"is": "b"}})
    digest, array = future.result(60)  # from b itself: what a has of it then is a copy
    assert (array.nbytes, hashlib.sha256(array).hexdigest()) == (20 << 20, digest)
    blob = mesh.ctl("task", future.task_id, at=a)["result_digest"]
    b.kill()
    assert np.array_equal(mesh.client(a).get(Ref(blob, 0))[1], array)


def test_results_that_share_a_large_array_store_it_once(mesh: Mesh) -> None:
    a = mesh.start("a")
    mesh.met(a)

    def with_number(number: int) -> tuple[int, Any]:
        import numpy

        return number, numpy.arange(2_000_000.0)

    found = list(mesh.client(a).map(with_number, range(10)))
    assert [number for number, _ in found] == list(range(10))
    assert all(np.array_equal(array, np.arange(2_000_000.0)) for _, array in found)
    until(lambda: len(mesh.ctl("blobs", at=a)) == 10, what="all ten are blobs")
    assert 16_000_000 <= a.status()["blob_bytes"] < 16_100_000


def test_one_that_does_not_fit_the_store_fails_and_says_what_to_do(mesh: Mesh) -> None:
    a = mesh.start("a", "--store", "2MiB")
    mesh.met(a)
    with pytest.raises(TaskFailed, match="does not fit in the store") as caught:
        mesh.client(a).submit(noise(), 3 << 20).result(30)
    assert "meshd --store" in str(caught.value)
    assert len(mesh.client(a).submit(noise(), 1 << 20).result(30)) == 1 << 20
