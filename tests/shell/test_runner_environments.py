"""Work that requires packages: built once, found by every kind of work, stopped and failing in words."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from mesh.core.lattice import FAILED, RELEASED, SUCCEEDED
from mesh.core.work import Work
from mesh.task.environments import WHOLE
from mesh.task.processes import LINUX
from tests.shell.runner_harness import BOUND, Harness, call, command, function, shell
from tests.wheels import requirements, wheel

MODES = ("zygote", "spawn") if LINUX else ("spawn",)
SOURCE = "VALUE = {value!r}\ndef main():\n    print('script', VALUE)\n"


@pytest.fixture
async def h(tmp_path: Path) -> AsyncIterator[Harness]:
    harness = Harness(tmp_path / "s")
    yield harness
    await harness.close()


@pytest.fixture
def one(tmp_path: Path) -> str:
    wheel(tmp_path / "wheels", "onlyhere", "1.0", SOURCE.format(value="first"), script="say-it")
    return requirements(tmp_path / "wheels", "onlyhere==1.0")


def value() -> object:
    import onlyhere  # type: ignore[import-not-found]

    return onlyhere.VALUE, sys.prefix, os.getpid()


@pytest.mark.parametrize("mode", MODES)
async def test_functions_calls_and_commands_find_what_they_require_and_others_do_not(
    mode: str, one: str, tmp_path: Path
) -> None:
    h = Harness(tmp_path / "s", mode)
    got, prefix, pid = await h.value(function(value, requirements=one))
    assert (got, Path(prefix).parent) == ("first", h.state / "envs")
    assert (await h.value(function(value, requirements=one)))[2] == pid, "a warm runner of an environment is kept"
    assert await h.value(call("os:getpid", requirements=one)) == pid
    [attempt] = h.begin(
        command("${interpreter}", "-c", "import onlyhere, mesh; print(onlyhere.VALUE)", requirements=one),
    )
    assert (await h.end_of(attempt))[0] == SUCCEEDED
    assert await h.printed(attempt) == b"first\n"
    [attempt] = h.begin(shell("say-it; echo $VIRTUAL_ENV", requirements=one))
    assert await h.printed(attempt) == f"script first\n{prefix}\n".encode()
    phase, outcome = await h.run(function(value))
    assert (phase, outcome.code) == (FAILED, "ModuleNotFoundError")
    [attempt] = h.begin(command("${interpreter}", "-c", "import sys; print(sys.prefix)"))
    assert (await h.printed(attempt)).decode().strip() == sys.prefix
    await h.close()


async def test_a_batch_goes_on_in_order_through_one_environment_and_another(
    h: Harness, one: str, tmp_path: Path
) -> None:
    wheel(tmp_path / "wheels", "onlyhere", "2.0", SOURCE.format(value="second"))
    two = requirements(tmp_path / "wheels", "onlyhere==2.0")
    works: list[Work] = []
    for number in range(4):
        works += [function(value, requirements=one), function(value, requirements=two), function(lambda n: n, number)]
    attempts = h.begin(*works)
    ended = await h.ends_of(attempts)
    assert [phase for phase, _ in ended] == [SUCCEEDED] * 12
    assert h.order == attempts
    assert len([path for path in (h.state / "envs").iterdir() if path.is_dir()]) == 2


async def test_what_is_required_goes_before_what_meshd_has(h: Harness, tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "psutil", "99.0", "VERSION = 'of the task'\n")
    required = requirements(tmp_path / "wheels", "psutil")

    def found() -> object:
        import cloudpickle
        import psutil

        return psutil.VERSION, cloudpickle.__name__  # type: ignore[attr-defined]

    assert await h.value(function(found, requirements=required)) == ("of the task", "cloudpickle")


UV = """#!/bin/sh
echo "$1" >> {calls}
if [ "$1" = venv ]; then shift $(($# - 1)); exec {python} -m venv --without-pip "$1"; fi
[ "$1 $2 $3 $5" = "pip install --python -r" ] || exit 1
exec {python} -m pip --python "$4" install -r "$6"
"""


def on_path(folder: Path, program: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    (folder / program).write_text(text)
    (folder / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


async def test_slots_that_need_the_same_build_it_once_and_with_uv_where_there_is_one(
    one: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = tmp_path / "calls"
    on_path(tmp_path / "bin", "uv", UV.format(calls=calls, python=sys.executable), monkeypatch)
    h = Harness(tmp_path / "s")
    attempts = [h.begin(function(value, requirements=one), slot=slot)[0] for slot in range(3)]
    assert [phase for phase, _ in await h.ends_of(attempts)] == [SUCCEEDED] * 3
    assert calls.read_text().split() == ["venv", "pip"]
    (log,) = (h.state / "envs").glob("*.log")
    (whole,) = (h.state / "envs").glob(f"*/{WHOLE}")
    assert log.stem == whole.parent.name
    await h.close()


async def test_a_half_built_environment_is_built_anew(h: Harness, one: str) -> None:
    assert (await h.run(shell("say-it", requirements=one)))[0] == SUCCEEDED
    (whole,) = (h.state / "envs").glob(f"*/{WHOLE}")
    whole.unlink()  # as a power cut leaves it
    (whole.parent / "bin/say-it").unlink()
    assert (await h.run(shell("say-it", requirements=one)))[0] == SUCCEEDED
    whole.parent.joinpath("bin/python").unlink()
    whole.parent.joinpath("bin/python").symlink_to("/gone")
    assert (await h.value(function(value, requirements=one)))[0] == "first"


@pytest.mark.parametrize("kind", ["command", "function"])
async def test_what_cannot_be_installed_fails_the_task_with_the_reason(h: Harness, kind: str, tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    required = requirements(tmp_path / "wheels", "no-such-thing==1.0")
    work = shell("true") if kind == "command" else function(lambda: 7)
    phase, outcome = await h.run(work._replace(requirements=required))
    assert (phase, outcome.code) == (FAILED, "environment")
    assert "no-such-thing==1.0" in outcome.message
    (log,) = (h.state / "envs").glob("*.log")
    assert str(log) in outcome.message
    assert "No matching distribution" in outcome.detail
    assert await h.value(function(lambda: 7)) == 7
    assert [path for path in (h.state / "envs").iterdir() if path.is_dir()] == []


async def test_what_breaks_runners_is_found_by_the_build(h: Harness, tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "cloudpickle", "99.0", "raise ImportError('this one is broken')\n")
    phase, outcome = await h.run(function(value, requirements=requirements(tmp_path / "wheels", "cloudpickle")))
    assert (phase, outcome.code) == (FAILED, "environment")
    assert "no runner works with what it requires" in outcome.message
    assert "this one is broken" in outcome.message


@pytest.fixture
def endless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A uv whose first build does not end; the next one says that the disk is full."""
    began = tmp_path / "began"
    text = (
        f"#!/bin/sh\n[ $1 = venv ] || exit 1\n[ -e {began} ] && echo No space left on device && exit 1\n"
        f"echo $$ > {began}.new && mv {began}.new {began} && exec sleep 1000\n"
    )
    on_path(tmp_path / "bin", "uv", text, monkeypatch)
    return began


async def begun(file: Path) -> int:
    async with asyncio.timeout(BOUND):
        while not file.exists():  # noqa: ASYNC110, ASYNC240  a file cannot be waited for
            await asyncio.sleep(0.02)
    return int(file.read_text())  # noqa: ASYNC240


@pytest.mark.parametrize("kind", ["command", "function"])
async def test_a_stop_ends_a_build_and_who_waits_for_it_builds(tmp_path: Path, endless: Path, kind: str) -> None:
    h = Harness(tmp_path / "s")
    work = (shell("true") if kind == "command" else function(lambda: 7))._replace(requirements="onlyhere")
    [first] = h.begin(work)
    builder = await begun(endless)
    [second] = h.begin(work, slot=1)
    [third] = h.begin(work, slot=2)
    h.stop(third)
    assert (await h.end_of(third))[1].code == "cancelled", "who waits can be stopped"
    h.stop(first)
    phase, outcome = await h.end_of(first)
    assert (phase, outcome.code) == (RELEASED, "cancelled")
    phase, outcome = await h.end_of(second)
    assert (phase, outcome.code) == (RELEASED, "refused"), "a full disk is no failure of the task"
    assert outcome.message.startswith("its environment cannot be built here: ")
    assert "No space left" in outcome.message
    with pytest.raises(ProcessLookupError):
        os.kill(builder, 0)
    assert [path for path in (tmp_path / "s/envs").iterdir() if path.is_dir()] == []
    await h.close()


def scripted(steps: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A uv that makes environments of nothing, and installs as ``steps`` say."""
    make = f'mkdir -p "$HOME_OF/bin" && ln -s {sys.executable} "$HOME_OF/bin/python"'
    text = f"#!/bin/sh\nfor HOME_OF; do :; done\n[ $1 = venv ] && {{ {make}; exit; }}\n{steps}\n"
    on_path(tmp_path / "bin", "uv", text, monkeypatch)


async def test_who_waited_for_a_build_that_failed_fails_as_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go = tmp_path / "began", tmp_path / "go"
    scripted(
        f"echo $$ >> {began}; while [ ! -e {go} ]; do sleep 0.05; done; echo no such thing; exit 1",
        tmp_path,
        monkeypatch,
    )
    h = Harness(tmp_path / "s")
    attempts = [h.begin(shell("true", requirements="onlyhere"), slot=slot)[0] for slot in range(3)]

    def waiting() -> int:
        return sum(
            any(file.path.endswith(".lock") for file in process.open_files())
            for process in psutil.Process().children(recursive=True)
        )

    async with asyncio.timeout(BOUND):
        while not began.exists() or waiting() < 3:  # noqa: ASYNC110  nobody tells who waits
            await asyncio.sleep(0.02)
    go.touch()
    ended = await h.ends_of(attempts)
    assert {(phase, outcome.code) for phase, outcome in ended} == {(FAILED, "environment")}
    assert len({outcome.message for _, outcome in ended}) == 1
    assert len(began.read_text().split()) == 1, "it was tried once"
    assert (await h.run(shell("true", requirements="onlyhere")))[0] == FAILED
    assert len(began.read_text().split()) == 2, "a retry tries again"
    await h.close()


async def test_a_disk_that_is_full_while_it_installs_is_no_failure_of_the_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted("echo 'OSError: [Errno 28] No space left on device'; exit 1", tmp_path, monkeypatch)
    h = Harness(tmp_path / "s")
    phase, outcome = await h.run(shell("true", requirements="onlyhere"))
    assert (phase, outcome.code) == (RELEASED, "refused")
    await h.close()


async def test_a_timeout_ends_a_build(tmp_path: Path, endless: Path) -> None:
    h = Harness(tmp_path / "s")
    phase, outcome = await h.run(shell("true", requirements="onlyhere"), timeout_ms=500)
    assert (phase, outcome.code) == (FAILED, "timeout")
    await h.close()
