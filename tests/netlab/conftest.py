"""The ``lab`` fixture, and the ``mesh`` of the end-to-end tests; the daemons end before their network does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import mesh, pytest_runtest_makereport
from tests.netlab.lab import Lab, NoLab, made

__all__ = ["lab", "mesh", "pytest_runtest_makereport"]


@pytest.fixture
def lab() -> Iterator[Lab]:
    try:
        with made() as found:
            yield found
    except NoLab as why:
        pytest.skip(str(why))
