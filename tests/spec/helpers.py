"""What the tests of sweep files share."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Any

import pytest

from mesh.core.errors import InvalidSpec
from mesh.core.lattice import Job, Task
from mesh.core.work import Work
from mesh.spec.expand import expand
from mesh.spec.sweep import Sweep, parse

PATH = "/data/team/sweep.yaml"


def read(text: str, *overrides: str) -> Sweep:
    return parse(textwrap.dedent(text), PATH, overrides)


def problems(text: str, *overrides: str) -> list[str]:
    """Every problem as ``line:column: text``."""
    with pytest.raises(InvalidSpec) as caught:
        read(text, *overrides)
    return [str(problem) for problem in caught.value.problems]


def warnings(sweep: Sweep) -> list[str]:
    return [str(warning) for warning in sweep.warnings]


class Payloads:
    """Stands for the codec: a payload is a number, and ``works`` holds what it means."""

    def __init__(self) -> None:
        self.works: list[Work] = []

    def encode(self, work: Work) -> bytes:
        self.works.append(work)
        return str(len(self.works) - 1).encode()


def run(sweep: Sweep, **changes: Any) -> tuple[Job, list[Task], list[Work]]:
    payloads = Payloads()
    settings: dict[str, Any] = {"job_id": "JOB", "submitted_ms": 5, "envvars": {}} | changes
    job, tasks = expand(sweep, encode=payloads.encode, **settings)
    return job, list(tasks), payloads.works


def argv(text: str, **changes: Any) -> list[tuple[str, ...]]:
    return [work.argv for work in run(read(text), **changes)[2]]


def has(found: Iterable[str], *parts: str) -> bool:
    """Whether one of the texts holds all the parts."""
    return any(all(part in text for part in parts) for text in found)
