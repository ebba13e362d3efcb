"""Nothing survives meshd: a process that uses Runners is killed with SIGKILL, for real."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from mesh.task.processes import LINUX
from tests.shell.runner_harness import BOUND, Harness, function, until_gone

ROOT = Path(__file__).parent.parent.parent
MODES = ("zygote", "spawn") if LINUX else ("spawn",)


async def start(state: Path, mode: str) -> tuple[asyncio.subprocess.Process, list[int]]:
    victim = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.shell.runner_victim", str(state), mode, cwd=ROOT, stdout=subprocess.PIPE
    )
    assert victim.stdout is not None
    async with asyncio.timeout(BOUND):
        line = await victim.stdout.readline()
    return victim, [int(word) for word in line.split()]


@pytest.mark.parametrize("mode", MODES)
async def test_sigkill_of_meshd_ends_every_descendant(tmp_path: Path, mode: str) -> None:
    victim, (shell, detached, runner, function_runner, child) = await start(tmp_path / "s", mode)
    below = {process.pid for process in psutil.Process(victim.pid).children(recursive=True)}
    assert {shell, detached, runner, function_runner, child} <= below
    assert len(below) >= 6  # and the sleep of the command itself
    victim.kill()
    await victim.wait()
    if not LINUX:
        below.discard(detached)  # where there is no subreaper, a task that detaches its own session may survive
    await until_gone(below)


@pytest.mark.skipif(not LINUX, reason="finds what is left by /proc")
async def test_what_survived_a_kill_of_all_at_once_ends_when_meshd_comes_back(tmp_path: Path) -> None:
    victim, (shell, detached, runner, *_) = await start(tmp_path / "s", "zygote")
    zygote = psutil.Process(runner).ppid()
    for pid in (zygote, runner, victim.pid):  # a stopped zygote cannot do its work before it dies
        os.kill(pid, signal.SIGSTOP)
    for pid in (zygote, runner, victim.pid):
        os.kill(pid, signal.SIGKILL)
    await victim.wait()
    assert psutil.pid_exists(detached)
    h = Harness(tmp_path / "s")
    await until_gone([shell, detached])
    assert await h.value(function(lambda: 1)) == 1
    await h.close()
