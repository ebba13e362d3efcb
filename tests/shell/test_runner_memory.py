"""The memory twin tells what the real runners tell."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mesh.core.effects import Assignment, BeginAttempts, StopAttempts
from mesh.core.events import AttemptsEnded, Event
from mesh.core.lattice import FAILED, RELEASED, SUCCEEDED, Outcome, Shape, Task
from mesh.core.work import Work
from mesh.shell.runner_memory import MemoryRunners
from mesh.shell.runners import RunnerOptions, Runners
from tests.shell.runner_harness import BOUND, function


def assignment(number: int) -> Assignment:
    return Assignment(f"1.{number}", Task(f"t{number}", "j", number, "", Shape(), str(number).encode()), (), 0, 1000)


def works() -> dict[bytes, Work]:
    """Defined inside, so that they travel by value."""

    def fails() -> None:
        raise ValueError("no")

    def hangs() -> None:
        time.sleep(1000)

    return {b"0": function(lambda: 1), b"1": function(fails), b"2": function(hangs)}


def script(assignment: Assignment) -> tuple[int, Outcome] | None:
    return {b"0": (SUCCEEDED, Outcome()), b"1": (FAILED, Outcome("ValueError", "no")), b"2": None}[
        assignment.task.payload
    ]


def make(kind: str, tmp_path: Path, emit: Callable[[Event], None]) -> Runners | MemoryRunners:
    if kind == "memory":
        return MemoryRunners(emit, script)
    return Runners(RunnerOptions(tmp_path / "s", "50-N"), emit, works().__getitem__, lambda: 1, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["memory", "real"])
async def test_twins_tell_the_same(kind: str, tmp_path: Path) -> None:
    told: asyncio.Queue[tuple[str, int, str, str]] = asyncio.Queue()

    def emit(event: Event) -> None:
        if isinstance(event, AttemptsEnded):
            for attempt, phase, outcome in event.attempts:
                told.put_nowait((attempt, phase, outcome.code, outcome.message))

    runners = make(kind, tmp_path, emit)
    runners.begin(BeginAttempts(0, (assignment(0), assignment(1), assignment(2))))
    assert told.empty(), "emitted from within a call"
    async with asyncio.timeout(BOUND):
        assert await told.get() == ("1.0", SUCCEEDED, "", "")
        assert await told.get() == ("1.1", FAILED, "ValueError", "no")
        runners.stop(StopAttempts(("1.2", "1.unknown"), "cancelled", "by hand"))
        assert await told.get() == ("1.2", RELEASED, "cancelled", "by hand")
        runners.begin(BeginAttempts(1, (assignment(2),)))
        await runners.close(0.1)
        assert await told.get() == ("1.2", RELEASED, "drained", "meshd is stopping")
        assert [piece async for piece in runners.tail("1.2")] == []
    assert told.empty()
    if isinstance(runners, MemoryRunners):
        runners.assert_empty()


async def test_the_memory_twin_runs_one_after_another_until_told() -> None:
    events: list[Event] = []
    runners = MemoryRunners(events.append)
    runners.begin(BeginAttempts(0, (assignment(1), assignment(2))))
    assert runners.running() == ["1.1"]
    with pytest.raises(AssertionError):
        runners.assert_empty()
    runners.printed["1.1"] = b"hello"
    tail = runners.tail("1.1")
    reading = asyncio.ensure_future(anext(aiter(tail)))
    runners.finish("1.1", SUCCEEDED, Outcome())
    assert await reading == b"hello"
    assert runners.running() == ["1.2"]
    with pytest.raises(KeyError):
        runners.finish("1.1", SUCCEEDED, Outcome())
    runners.finish("1.2", SUCCEEDED, Outcome())
    runners.assert_empty()
    await asyncio.sleep(0)
    assert [type(event).__name__ for event in events] == [
        "AttemptsBegan",
        "AttemptsEnded",
        "AttemptsBegan",
        "AttemptsEnded",
    ]
