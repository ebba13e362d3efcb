"""Without a lab its tests are skipped with the reason, or fail with it where ``MESH_NETLAB=required``; and the ``mesh``
of the end-to-end tests, which shows its daemons' logs where a test fails."""

from __future__ import annotations

import os

import pytest

from tests.e2e.conftest import mesh, pytest_runtest_makereport
from tests.netlab.lab import why_no_lab

__all__ = ["mesh", "pytest_runtest_makereport"]


@pytest.fixture(autouse=True)
def needs_a_lab(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("netlab") and (why := why_no_lab()):
        if os.environ.get("MESH_NETLAB") == "required":
            pytest.fail(f"MESH_NETLAB=required, but there is no lab: {why}")
        pytest.skip(why)
