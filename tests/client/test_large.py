"""Results that come as blobs: to their user they are results like any other."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from mesh import AsyncMeshClient, BlobMissing, MeshClient, MeshError
from mesh.core.errors import NoLeader
from tests.client.fake_server import NODE, FakeMesh


def text(length: int) -> str:
    return "x" * length


def test_it_comes_back_equal(client: MeshClient, mesh: FakeMesh) -> None:
    assert client.submit(text, 3_000_000).result(10) == "x" * 3_000_000
    assert client.submit(text, 10).result(10) == "x" * 10
    assert mesh.calls["Get"] == 1


def test_its_arrays_are_ones_own(client: MeshClient) -> None:
    found = client.submit(np.arange, 100_000).result(10)
    found[0] = 7
    assert found.sum() == np.arange(100_000).sum() + 7


def test_map_keeps_the_order(client: MeshClient) -> None:
    lengths = [20_000, 1, 30_000, 2, 40_000]
    assert list(map(len, client.map(text, lengths))) == lengths
    assert [list(map(len, client.map(text, lengths, chunksize=2)))] == [lengths]


def test_it_can_be_awaited(mesh: FakeMesh) -> None:
    async def run() -> int:
        async with AsyncMeshClient(mesh.address) as client:
            return len(await client.submit(text, 20_000))

    assert asyncio.run(run()) == 20_000


def test_the_future_is_done_once_it_is_here(client: MeshClient, mesh: FakeMesh) -> None:
    done = threading.Event()
    mesh.refuse("Get", NoLeader("not now"), times=2)
    future = client.submit(text, 20_000)
    future.add_done_callback(lambda future: done.set() if len(future.result()) == 20_000 else None)
    assert done.wait(10)
    assert mesh.calls["Get"] == 3


def test_told_of_again_it_is_brought_once(client: MeshClient, mesh: FakeMesh) -> None:
    mesh.giving.clear()
    future = client.submit(text, 20_000)
    mesh.until(lambda: mesh.calls["Get"] == 1)
    mesh.break_watches()
    assert client.submit(text, 5).result(10) == "xxxxx", "which comes after it"
    mesh.giving.set()
    assert len(future.result(10)) == 20_000
    assert mesh.calls["Get"] == 1


def test_that_its_machines_are_away_is_said(client: MeshClient, mesh: FakeMesh) -> None:
    mesh.refuse("Get", BlobMissing("blob 0f0f cannot be fetched", "no node has it", "wait"))
    future = client.submit(text, 20_000)
    with pytest.raises(BlobMissing) as caught:
        future.result(10)
    assert caught.value.what == f"task {future.task_id} succeeded, and the machines that have its result are away"
    assert caught.value.why == f"it ran on {NODE}; blob 0f0f cannot be fetched"
    (blob,) = mesh.blobs
    assert blob in caught.value.hint


def test_what_was_cancelled_meanwhile_stays_cancelled(client: MeshClient, mesh: FakeMesh) -> None:
    mesh.shut.add("Get")
    future = client.submit(text, 20_000)
    mesh.until(lambda: mesh.calls["Get"] > 0)
    assert future.cancel()
    mesh.shut.clear()
    assert client.submit(text, 20_001).result(10) == "x" * 20_001
    assert future.cancelled()


def test_a_client_that_is_closed_waits_for_none(mesh: FakeMesh) -> None:
    mesh.shut.add("Get")
    with MeshClient(mesh.address) as client:
        future = client.submit(text, 20_000)
        mesh.until(lambda: mesh.calls["Get"] > 0)
    with pytest.raises(MeshError, match="closed before this task ended"):
        future.result(10)
