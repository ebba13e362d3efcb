"""The ``mesh`` fixture: daemons of one test, whose logs are shown where it fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.mesh import Mesh, mesh_of

SHOWN = 60  # lines of each daemon's log


@pytest.fixture
def mesh(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Mesh]:
    with mesh_of(tmp_path) as made:
        request.node.stash[MESH] = made
        yield made
        # Whatever a test provokes, no daemon may break on it.
        broken = {name: said for name, said in made.logs() if "Traceback" in said or "is a defect" in said}
        assert not broken, "\n".join(broken.values())


MESH = pytest.StashKey[Mesh]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> object:
    report = yield
    if report.when == "call" and report.failed and MESH in item.stash:
        for name, said in item.stash[MESH].logs():
            report.sections.append((f"log of {name}", "\n".join(said.splitlines()[-SHOWN:])))
    return report
