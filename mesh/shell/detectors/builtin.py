"""The built-in detectors, in the order in which they are asked."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from typing import Any

from mesh.shell.detectors.accelerators import cuda, mps
from mesh.shell.detectors.processor import cores, cpu, memory


def labels() -> dict[str, Any]:
    """What tasks commonly choose by."""
    return {"labels": {"os": sys.platform, "arch": platform.machine() or "unknown"}}


BUILTIN: tuple[tuple[str, Callable[[], dict[str, Any]]], ...] = (
    ("cpu", cpu),
    ("cores", cores),
    ("memory", memory),
    ("cuda", cuda),
    ("mps", mps),
    ("labels", labels),
)
