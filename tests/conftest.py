"""What all tests share: the options of this suite, and Hypothesis without a clock."""

from __future__ import annotations

import pytest
from hypothesis import settings

# A loaded machine is not a failed law; and the same commit passes or fails the same everywhere.
settings.register_profile("mesh", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("mesh")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite-golden", action="store_true", help="write golden transcripts anew instead of comparing")
