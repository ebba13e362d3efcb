from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.client.sync import MeshClient
from tests.client.fake_server import FakeMesh


@pytest.fixture
def mesh() -> Iterator[FakeMesh]:
    # Not tmp_path: a socket's path has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="mesh-") as folder:
        fake = FakeMesh(Path(folder) / "socket")
        fake.start()
        yield fake
        fake.stop()


@pytest.fixture
def client(mesh: FakeMesh) -> Iterator[MeshClient]:
    with MeshClient(mesh.address) as client:
        yield client
