"""One body for both ways of starting runners: real processes, real signals, no mocks."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import select
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from blake3 import blake3

from mesh.blob.files import ChunkFiles, write_blob
from mesh.blob.manifest import name
from mesh.blob.objects import Ref, dump
from mesh.blob.trees import scan
from mesh.core.errors import BlobMissing
from mesh.core.events import AttemptsEnded
from mesh.core.lattice import FAILED, RELEASED, SUCCEEDED
from mesh.core.work import Work
from mesh.task.logs import CAP_BYTES, HEAD_BYTES
from mesh.task.places import short_directory
from mesh.task.processes import LINUX
from tests.shell.runner_harness import BOUND, Harness, alive, call, command, function, shell, until_gone

MODES = ("zygote", "spawn") if LINUX else ("spawn",)


@pytest.fixture(params=MODES)
async def h(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Harness]:
    harness = Harness(tmp_path / "s", request.param)
    yield harness
    await harness.close()


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # meshd's own would go before what is granted
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # it makes C's stdout unbuffered too


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


# -- functions


async def test_a_function_returns_its_value_and_digest(h: Harness) -> None:
    phase, outcome = await h.run(function(lambda a, b: {"sum": a + b}, 3, 4))
    assert phase == SUCCEEDED
    assert pickle.loads(outcome.result) == {"sum": 7}
    assert outcome.digest == blake3(outcome.result).hexdigest()
    assert 0 < outcome.started_ms <= outcome.finished_ms
    assert outcome.micros >= 0


async def test_a_call_imports_from_its_directory_and_takes_json(h: Harness, tmp_path: Path) -> None:
    (tmp_path / "steps.py").write_text("import os\ndef rank(symbol):\n    return [symbol, os.getcwd()]\n")
    work = call("steps:rank", b'{"symbol": "AAPL"}', cwd=str(tmp_path))
    assert await h.value(work) == ["AAPL", str(tmp_path)]


async def test_an_edited_module_is_imported_anew_and_another_directory_has_its_own(h: Harness, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        (folder / "steps.py").write_text(f"def where():\n    return {folder.name!r}\n")
    assert await h.value(call("steps:where", cwd=str(one))) == "one"
    assert await h.value(call("steps:where", cwd=str(two))) == "two"
    (two / "steps.py").write_text("def where():\n    return 'edited, and longer'\n")
    assert await h.value(call("steps:where", cwd=str(two))) == "edited, and longer"


async def test_a_call_that_does_not_exist_fails_by_name(h: Harness) -> None:
    phase, outcome = await h.run(call("no_such_module_here:f"))
    assert (phase, outcome.code) == (FAILED, "ModuleNotFoundError")
    phase, outcome = await h.run(call("json:no_such_function"))
    assert (phase, outcome.code) == (FAILED, "AttributeError")
    phase, outcome = await h.run(call("json"))
    assert (phase, outcome.code) == (FAILED, "ValueError")
    assert "module:function" in outcome.message


async def test_an_exception_carries_its_name_place_and_itself(h: Harness) -> None:
    def broken() -> None:
        raise ValueError("no such symbol")

    phase, outcome = await h.run(function(broken))
    assert (phase, outcome.code, outcome.message) == (FAILED, "ValueError", "no such symbol")
    assert "test_runners.py" in outcome.detail
    assert "in broken" in outcome.detail
    assert "mesh/task" not in outcome.detail
    error = pickle.loads(outcome.result)
    assert isinstance(error, ValueError)


async def test_an_exception_of_the_users_own_is_qualified_even_if_it_does_not_pickle(h: Harness) -> None:
    def broken() -> None:
        class Odd(Exception):
            def __init__(self, a: int, b: int) -> None:
                super().__init__(f"{a} {b}")

        raise Odd(1, 2)

    phase, outcome = await h.run(function(broken))
    assert phase == FAILED
    assert outcome.code.endswith("Odd")
    assert "." in outcome.code
    assert (outcome.message, outcome.result) == ("1 2", b"")


async def test_a_result_that_does_not_pickle_is_reported(h: Harness) -> None:
    def generator() -> object:
        return (n for n in range(3))

    phase, outcome = await h.run(function(generator))
    assert (phase, outcome.code) == (FAILED, "PickleError")
    assert "<generator object" in outcome.message


async def test_sys_exit_and_keyboard_interrupt_do_not_end_the_runner(h: Harness) -> None:
    def leave() -> None:
        sys.exit(3)

    def interrupted() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    pid = await h.value(function(os.getpid))
    ends = [await h.run(function(leave)), await h.run(function(interrupted))]
    assert [(phase, outcome.code) for phase, outcome in ends] == [(FAILED, "exit 3"), (FAILED, "KeyboardInterrupt")]
    assert await h.value(function(os.getpid)) == pid


async def test_a_runner_is_kept_for_the_next_function_and_slots_have_their_own(h: Harness) -> None:
    first, second = await h.value(function(os.getpid)), await h.value(function(os.getpid))
    other = await h.value(function(os.getpid), slot=1)
    assert first == second != other


async def test_a_child_that_a_function_forks_and_that_returns_is_not_taken_for_it(h: Harness) -> None:
    def forks() -> int:
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
        return pid

    assert await h.value(function(forks)) > 0
    assert await h.value(function(lambda: 1)) == 1


async def test_processes_that_a_function_leaves_end_with_it(h: Harness) -> None:
    def leaves() -> tuple[int, int]:
        import subprocess

        child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        return os.getpid(), child.pid

    runner, child = await h.value(function(leaves))
    await until_gone([child])
    assert await h.value(function(os.getpid)) != runner


async def test_many_functions_in_a_batch_keep_their_order_and_share_one_function(h: Harness) -> None:
    attempts = h.begin(*(function(abs, -n) for n in range(300)))
    ends = await h.ends_of(attempts)
    assert [pickle.loads(outcome.result) for _, outcome in ends] == list(range(300))
    assert h.order == attempts


async def test_ends_that_lie_there_together_are_told_together(h: Harness, tmp_path: Path) -> None:
    def tell(path: str) -> None:
        with open(path, "w") as pipe:
            pipe.write("done")

    assert await h.value(function(abs, -1)) == 1  # there is a runner from now on
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)
    told, seen = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), len(h.events)
    attempts = h.begin(*(function(abs, -n) for n in range(50)), function(tell, pipe))
    assert select.select([told], [], [], BOUND)[0]  # the loop stands still until all have run
    os.close(told)
    await h.ends_of(attempts)
    assert sum(isinstance(event, AttemptsEnded) for event in h.events[seen:]) <= 3


async def test_an_unreadable_task_fails_and_the_next_one_runs(h: Harness) -> None:
    from mesh.core.effects import Assignment, BeginAttempts
    from mesh.core.lattice import Shape, Task

    bad = Assignment("1.bad", Task("t", "j", 0, "", Shape(), b"not a pickle"), (), 0, 1000)
    h.runners.begin(BeginAttempts(0, (bad,)))
    phase, outcome = await h.end_of("1.bad")
    assert (phase, outcome.code) == (FAILED, "UnpicklingError")
    assert await h.value(function(lambda: 5)) == 5


# -- crashes


async def test_a_crash_fails_what_ran_releases_what_waited_and_the_slot_goes_on(h: Harness) -> None:
    attempts = h.begin(
        function(lambda: "before"), function(lambda: os.kill(os.getpid(), signal.SIGSEGV)), function(lambda: "after")
    )
    (first, _), (second, crash), (third, released) = await h.ends_of(attempts)
    assert (first, second, third) == (SUCCEEDED, FAILED, RELEASED)
    assert (crash.code, released.code) == ("signal 11", "runner_died")
    assert "SIGSEGV" in crash.message
    assert await h.value(function(lambda: 1)) == 1


async def test_os_exit_says_with_what_and_keeps_what_was_printed_and_left(h: Harness) -> None:
    def leave() -> None:
        print("last words", flush=True)
        Path(os.environ["MESH_OUTPUT_DIR"], "half.txt").write_text("half")
        os._exit(7)

    attempt = h.begin(function(leave))[0]
    phase, outcome = await h.end_of(attempt)
    assert (phase, outcome.code) == (FAILED, "exit 7")
    assert await h.printed(attempt) == b"last words\n"
    assert (h.state / "attempts" / attempt / "output" / "half.txt").read_text() == "half"


async def test_an_idle_runner_that_is_killed_is_replaced(h: Harness) -> None:
    pid = await h.value(function(os.getpid))
    os.kill(pid, signal.SIGKILL)
    await until_gone([pid])
    phase, outcome = await h.run(function(os.getpid))
    if phase != SUCCEEDED:  # it was begun before its runner's death was known
        assert outcome.code == "signal 9"
    assert await h.value(function(os.getpid)) != pid


# -- commands


async def test_a_command_succeeds_in_its_output_directory(h: Harness) -> None:
    attempt = h.begin(shell('echo "$PWD"; [ "$PWD" = "$MESH_OUTPUT_DIR" ]'))[0]
    phase, outcome = await h.end_of(attempt)
    assert (phase, outcome.code, outcome.result) == (SUCCEEDED, "", b"")
    assert (await h.printed(attempt)).decode().startswith(str(h.state / "outputs"))


async def test_a_failed_command_says_how_and_shows_stderr(h: Harness, tmp_path: Path) -> None:
    phase, outcome = await h.run(shell("echo out; echo no data >&2; exit 3", cwd=str(tmp_path)))
    assert (phase, outcome.code) == (FAILED, "exit 3")
    assert "no data" in outcome.message
    assert outcome.detail == "no data\n"
    phase, outcome = await h.run(shell("kill -9 $$"))
    assert (phase, outcome.code) == (FAILED, "signal 9")


async def test_a_missing_program_or_directory_is_named(h: Harness) -> None:
    phase, outcome = await h.run(command("no-such-program-here"))
    assert (phase, outcome.code) == (FAILED, "not_found")
    assert "'no-such-program-here'" in outcome.message
    phase, outcome = await h.run(command("true", cwd="/no/such/directory"))
    assert (phase, outcome.code) == (RELEASED, "refused")
    assert "/no/such/directory" in outcome.message


async def test_interpreter_is_this_python(h: Harness) -> None:
    attempt = h.begin(command("${interpreter}", "-c", "import sys; print(sys.executable)"))[0]
    assert (await h.printed(attempt)).decode().strip() == sys.executable


async def test_the_last_values_of_metric_lines_are_kept_and_told_meanwhile(h: Harness, tmp_path: Path) -> None:
    go = tmp_path / "go"
    os.mkfifo(go)
    script = (
        'echo \'{"loss": 2, "step": 1, "note": "x"}\'; echo \'{"other": 9}\'; echo \'{"loss": \'; '
        'echo \'{"loss": 7}\' >&2; read line < "$0"; printf \'{"loss": 0.5, "best": NaN}\''
    )
    attempt = h.begin(command("sh", "-c", script, str(go), metric="loss"))[0]
    await h.until(lambda: bool(h.progress))
    assert h.progress[0] == (attempt, b'{"loss":2,"step":1}')
    await asyncio.to_thread(go.write_text, "\n")
    _, outcome = await h.end_of(attempt)
    assert json.loads(outcome.metrics) == {"loss": 0.5, "step": 1, "best": None}


async def test_a_daemon_that_a_command_leaves_ends_with_it(h: Harness) -> None:
    attempt = h.begin(shell("setsid sleep 1000 & echo $!"))[0]
    assert (await h.end_of(attempt))[0] == SUCCEEDED
    if LINUX:
        await until_gone([int(await h.printed(attempt))])


async def test_a_runner_killed_in_a_command_takes_the_tree_along(h: Harness) -> None:
    attempt = h.begin(shell("sleep 1000 & echo $PPID $!; wait"))[0]
    runner, sleeper = map(int, (await h.line(attempt)).split())
    os.kill(runner, signal.SIGKILL)
    phase, outcome = await h.end_of(attempt)
    assert (phase, outcome.code) == (FAILED, "signal 9")
    if LINUX:
        await until_gone([sleeper])


# -- surroundings


async def test_the_environment_of_an_attempt(h: Harness) -> None:
    names = ["MESH_TASK_ID", "MESH_JOB_ID", "MESH_ATTEMPT", "MESH_NODE", "MESH_PARAMS"]
    names += ["CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "EXTRA"]
    params, env = b'{"lr":0.1}', (("EXTRA", "yes"),)
    expected = ["job-1", "50-NODE", '{"lr":0.1}', "1,3", "2", "yes"]

    def show() -> list[str | None]:
        return [os.environ.get(name) for name in names]

    options = {"devices": ("cuda:1", "cuda:3"), "millicpus": 2500}
    got = await h.value(function(show, params=params, env=env), **options)
    assert [got[1], *got[3:]] == expected
    assert got[0] == "task-1"
    assert got[2] == h.order[-1]
    script = "import os, sys, json; print(json.dumps([os.environ.get(name) for name in sys.argv[1].split()]))"
    attempt = h.begin(command(sys.executable, "-c", script, " ".join(names), params=params, env=env), **options)[0]
    got = json.loads(await h.printed(attempt))
    assert [got[1], *got[3:]] == expected
    assert got[2] == attempt
    # And nothing of it stays for the next one, which was granted no card.
    assert (await h.value(function(show)))[-3:] == ["", "1", None]


async def test_what_configures_meshd_is_not_for_tasks_but_where_it_is_called_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESH_SLOTS", "9")
    monkeypatch.setenv("MESH_ADDRESS", "unix:/here")
    h = Harness(tmp_path / "s")

    def show() -> list[str | None]:
        return [os.environ.get(name) for name in ("MESH_SLOTS", "MESH_ADDRESS")]

    assert await h.value(function(show)) == [None, "unix:/here"]
    await h.close()


async def test_a_function_that_may_see_other_cards_gets_another_process(h: Harness) -> None:
    first, second, third = h.begin(function(os.getpid), function(os.getpid), devices=("cuda:0",)) + h.begin(
        function(os.getpid), devices=("cuda:1",)
    )
    pids = [pickle.loads(outcome.result) for _, outcome in await h.ends_of([first, second, third])]
    assert pids[0] == pids[1] != pids[2]


async def test_output_directories_are_kept_where_something_is_in_them(h: Harness) -> None:
    def leave(name: str) -> str:
        folder = os.environ["MESH_OUTPUT_DIR"]
        if name:
            Path(folder, name).write_text(name)
        Path(os.environ["TMPDIR"], "scratch").mkdir()
        assert os.listdir(folder) == ([name] if name else [])
        return folder

    empty, kept, other = [await h.value(function(leave, name)) for name in ("", "model", "")]
    assert empty == kept != other
    assert (h.state / "attempts" / h.order[1] / "output").samefile(kept)
    assert (h.state / "attempts" / h.order[1] / "output" / "model").read_text() == "model"
    assert not (h.state / "attempts" / h.order[0]).exists()


async def test_a_task_may_remove_its_directories(h: Harness) -> None:
    def remove() -> None:
        os.rmdir(os.environ["MESH_OUTPUT_DIR"])
        os.rmdir(os.environ["TMPDIR"])

    await h.value(function(remove))
    assert await h.value(function(lambda: os.path.isdir(os.environ["TMPDIR"]) and os.path.isdir(os.getcwd())))


async def test_task_api_in_functions_and_programs(h: Harness) -> None:
    def inside() -> object:
        from mesh import task

        for step in range(3):
            task.report(step=step, loss=1 / (step + 1))
        return task.params["lr"], task.id, task.attempt, task.node, task.should_stop()

    attempt = h.begin(function(inside, params=b'{"lr":0.1}'))[0]
    _, outcome = await h.end_of(attempt)
    assert pickle.loads(outcome.result) == (0.1, "task-1", attempt, "50-NODE", False)
    assert json.loads(outcome.metrics) == {"step": 2, "loss": 1 / 3}
    program = (
        "from mesh import task; task.report(step=1, loss=float('nan'));"
        "print(task.params['lr'], task.id, task.attempt, task.should_stop())"
    )
    attempt = h.begin(command(sys.executable, "-c", program, params=b'{"lr":0.1}'))[0]
    _, outcome = await h.end_of(attempt)
    assert (await h.printed(attempt)).decode() == f"0.1 task-2 {attempt} False\n"
    assert json.loads(outcome.metrics) == {"step": 1, "loss": None}


async def test_the_tasks_socket_wants_the_secret_of_a_running_attempt(h: Harness) -> None:
    def wrong() -> str:
        import subprocess

        env = dict(os.environ, MESH_TASK_SECRET="0" * 33)
        program = "from mesh import task; task.report(loss=1)"
        return subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True).stderr

    assert "secret is not its own" in await h.value(function(wrong))
    assert not h.progress


async def test_secrets_differ_by_attempt_and_by_life(h: Harness, tmp_path: Path) -> None:
    other = Harness(tmp_path / "other")
    assert len({of._secret(attempt) for of in (h.runners, other.runners) for attempt in ("1.A.L.1", "1.A.L.2")}) == 4
    await other.runners.close(0)


async def test_the_last_ending_is_told_in_the_turn_that_read_it_and_others_gather(h: Harness) -> None:
    told: list[int] = []
    original = h.runners._on_frames

    def on_frames(*arguments: object) -> None:
        before = len(h.ended)
        original(*arguments)  # type: ignore[arg-type]
        told.append(len(h.ended) - before)

    h.runners._on_frames = on_frames  # type: ignore[method-assign]
    await h.end_of(h.begin(function(int))[0])
    assert sum(told) == 1
    slow = h.begin(function(time.sleep, 60), slot=1)[0]
    await h.end_of(h.begin(function(int))[0])
    assert sum(told) == 1  # it waited for what else the turn might bring
    h.stop(slow)
    await h.end_of(slow)


# -- output


async def test_what_functions_print_is_theirs_also_from_c_and_children(h: Harness) -> None:
    def talk(name: str) -> None:
        import ctypes
        import subprocess

        print(name)
        sys.stderr.write("err\n")
        subprocess.run(["echo", "child"], check=True)
        ctypes.CDLL(None).puts(b"from C")

    attempts = h.begin(function(talk, "one"), function(lambda: None), function(talk, "two"))
    await h.ends_of(attempts)
    one, none, two = [await h.printed(attempt) for attempt in attempts]
    assert sorted(one.splitlines()) == [b"child", b"err", b"from C", b"one"]
    assert sorted(two.splitlines()) == [b"child", b"err", b"from C", b"two"]
    assert none == b""
    assert not (h.state / "attempts" / attempts[1]).exists()


async def test_output_is_tailed_while_it_runs(h: Harness, tmp_path: Path) -> None:
    go = tmp_path / "go"
    os.mkfifo(go)

    def talk(path: str) -> None:
        print("first", flush=True)
        Path(path).read_text()
        print("second")

    for work in (function(talk, str(go)), shell(f"echo first; cat {go}; echo second")):
        attempt = h.begin(work)[0]
        assert await h.line(attempt) == "first"
        assert attempt not in h.ended
        await asyncio.to_thread(go.write_text, "")
        assert await h.printed(attempt) == b"first\nsecond\n"


async def test_captured_output_is_capped_keeping_head_and_tail(h: Harness) -> None:
    def flood() -> None:
        print("the head")
        for _ in range(40):
            sys.stdout.write("x" * (1 << 20))
        print("\nthe tail")

    program = "print('the head')\nfor _ in range(40): print('x' * (1 << 20), end='')\nprint()\nprint('the tail')"
    for work in (function(flood), command(sys.executable, "-c", program)):
        attempt = h.begin(work)[0]
        assert (await h.end_of(attempt))[0] == SUCCEEDED
        text = await h.printed(attempt)
        assert text.startswith(b"the head\n")
        assert text.endswith(b"\nthe tail\n")
        assert text.count(b"bytes dropped ...]\n") == 1
        assert HEAD_BYTES + (7 << 20) < len(text) <= CAP_BYTES + 100
        dropped = int(text.split(b"\n[... ")[1].split()[0])
        assert dropped + len(text) == pytest.approx((40 << 20) + 19, abs=50)


@pytest.mark.skipif(not LINUX, reason="needs holes in files")
async def test_a_flood_does_not_fill_the_disk_while_it_runs(tmp_path: Path) -> None:
    def flood() -> None:
        for _ in range(40):
            sys.stdout.write("x" * (1 << 20))
        sys.stdout.flush()
        __import__("time").sleep(1000)

    h = Harness(tmp_path / "s", poll=0.05)
    attempt = h.begin(function(flood))[0]

    def capped() -> bool:
        stats = [path.stat() for path in (h.state / "captures").glob("*")]
        return any(stat.st_size == 40 << 20 and stat.st_blocks * 512 <= CAP_BYTES + (1 << 17) for stat in stats)

    async with asyncio.timeout(BOUND):
        while not capped():  # noqa: ASYNC110  nobody reports it
            await asyncio.sleep(0.02)
    h.stop(attempt)
    await h.end_of(attempt)
    assert len(await h.printed(attempt)) <= CAP_BYTES + 100
    await h.close()


# -- stopping and limits


async def test_cancelling_a_command_kills_its_tree(h: Harness) -> None:
    attempt = h.begin(shell("(setsid sleep 1000 & echo $!); sleep 1000"))[0]
    detached = int(await h.line(attempt))
    h.stop(attempt)
    phase, outcome = await h.end_of(attempt)
    assert (phase, outcome.code, outcome.message) == (RELEASED, "cancelled", "cancelled by a test")
    if LINUX:
        await until_gone([detached])


async def test_a_command_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    h = Harness(tmp_path / "s", grace=0.1)
    attempt = h.begin(shell("trap '' TERM; echo ready; while :; do sleep 0.05; done"))[0]
    await h.line(attempt)
    h.stop(attempt, code="drained")
    phase, outcome = await h.end_of(attempt)
    assert (phase, outcome.code) == (RELEASED, "drained")
    await h.close()


async def test_a_command_may_finish_when_it_is_asked_to_stop(h: Harness) -> None:
    program = (
        "from mesh import task\nimport time\ntask.should_stop(); print('ready', flush=True)\n"
        "while not task.should_stop(): time.sleep(0.01)\nprint('saved')"
    )
    attempt = h.begin(command(sys.executable, "-c", program))[0]
    await h.line(attempt)
    h.stop(attempt)
    assert (await h.end_of(attempt))[0] == RELEASED
    assert await h.printed(attempt) == b"ready\nsaved\n"


async def test_cancelling_a_function_runs_its_finally_and_replaces_its_runner(h: Harness) -> None:
    def loop() -> None:
        import time

        print(os.getpid(), flush=True)
        try:
            time.sleep(1000)
        finally:
            print("cleaned")

    attempt, waiting = h.begin(function(loop), function(os.getpid))
    pid = int(await h.line(attempt))
    h.stop(attempt)
    phase, outcome = await h.end_of(attempt)
    assert (phase, outcome.code) == (RELEASED, "cancelled")
    assert (await h.printed(attempt)).endswith(b"cleaned\n")
    phase, outcome = await h.end_of(waiting)
    assert phase == SUCCEEDED
    assert pickle.loads(outcome.result) != pid


async def test_a_function_that_looks_at_should_stop_ends_by_itself(h: Harness) -> None:
    def loop() -> None:
        import time

        from mesh import task

        task.should_stop()
        print("ready", flush=True)
        while not task.should_stop():
            time.sleep(0.01)
        print("saved")

    attempt = h.begin(function(loop))[0]
    await h.line(attempt)
    h.stop(attempt)
    assert (await h.end_of(attempt))[0] == RELEASED
    assert await h.printed(attempt) == b"ready\nsaved\n"


async def test_a_function_that_does_not_listen_is_killed_with_its_children(tmp_path: Path) -> None:
    def deaf() -> None:
        import subprocess
        import time

        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"], start_new_session=True)
        print(child.pid, flush=True)
        time.sleep(1000)

    h = Harness(tmp_path / "s", grace=0.1)
    attempt, waiting = h.begin(function(deaf), function(lambda: 1))
    child = int(await h.line(attempt))
    h.stop(attempt)
    assert (await h.end_of(attempt))[0] == RELEASED
    await until_gone([child])
    assert (await h.end_of(waiting))[0] == SUCCEEDED
    await h.close()


async def test_what_has_not_begun_is_skipped_and_nothing_else_is_disturbed(h: Harness, tmp_path: Path) -> None:
    go, mark = tmp_path / "go", tmp_path / "mark"
    os.mkfifo(go)

    def wait(path: str) -> int:
        print("ready", flush=True)
        Path(path).read_text()
        return os.getpid()

    first, skipped, last = h.begin(function(wait, str(go)), shell(f"touch {mark}"), function(os.getpid))
    await h.line(first)
    h.stop(skipped, code="recalled")
    await asyncio.to_thread(go.write_text, "")
    ends = await h.ends_of([first, skipped, last])
    assert [phase for phase, _ in ends] == [SUCCEEDED, RELEASED, SUCCEEDED]
    assert ends[1][1].code == "recalled"
    assert ends[0][1].result == ends[2][1].result  # the same process
    assert not mark.exists()


async def test_stopping_what_has_ended_or_is_unknown_changes_nothing(h: Harness) -> None:
    attempt = h.begin(function(lambda: 1))[0]
    await h.end_of(attempt)
    h.stop(attempt, "1.never")
    assert await h.value(function(lambda: 2)) == 2
    assert h.ended[attempt][0] == SUCCEEDED


@pytest.mark.parametrize("work", [shell("sleep 1000"), function(lambda: __import__("time").sleep(1000))])
async def test_a_timeout_ends_the_attempt(h: Harness, work: Work) -> None:
    phase, outcome = await h.run(work, timeout_ms=100)
    assert (phase, outcome.code) == (FAILED, "timeout")
    assert "0.1 s" in outcome.message
    assert await h.value(function(lambda: 1)) == 1


async def test_a_timeout_counts_from_its_own_beginning(h: Harness) -> None:
    def nap() -> None:
        import time

        time.sleep(0.3)

    assert {phase for phase, _ in await h.ends_of(h.begin(*[function(nap)] * 4, timeout_ms=1000))} == {SUCCEEDED}


async def test_a_tree_that_uses_too_much_memory_ends(tmp_path: Path) -> None:
    grandchild = "import time; x = bytearray(b'x' * (200 << 20)); time.sleep(1000)"
    program = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {grandchild!r}])"

    def hog() -> None:
        import time

        kept = bytearray(b"x" * (200 << 20))
        time.sleep(1000)
        del kept

    h = Harness(tmp_path / "s", poll=0.05)
    for work in (command(sys.executable, "-c", program), function(hog)):
        phase, outcome = await h.run(work, memory=100 << 20)
        assert (phase, outcome.code) == (FAILED, "memory")
        assert "allowed 100 MiB" in outcome.message
    assert (await h.run(function(lambda: 1), memory=400 << 20))[0] == SUCCEEDED
    await h.close()


# -- life


async def test_nothing_runs_before_the_first_attempt_nor_after_a_while_without_one(
    tmp_path: Path,
) -> None:
    before = {child.pid for child in children()}
    h = Harness(tmp_path / "s", idle=0.05)
    assert {child.pid for child in children()} == before
    runner = await h.value(function(os.getpid))
    started = {child.pid for child in children()} - before
    assert runner in started
    await until_gone(started)
    assert await h.value(function(os.getpid)) != runner
    await h.close()


async def test_a_long_attempt_is_announced_and_a_short_one_is_not(h: Harness) -> None:
    await h.value(function(lambda: 1))
    short, long = h.begin(function(lambda: 1), shell("echo here; sleep 1000"))
    await h.until(lambda: long in h.began)
    assert short not in h.began or short in h.ended
    h.stop(long)
    _, outcome = await h.end_of(long)
    assert outcome.started_ms <= outcome.finished_ms


async def test_closing_stops_everything(tmp_path: Path) -> None:
    for mode in MODES:
        h = Harness(tmp_path / mode, mode)
        running, waiting = h.begin(shell("echo $PPID; sleep 1000"), shell("sleep 1000"))
        other = h.begin(function(lambda: __import__("time").sleep(1000)), slot=1)[0]
        pid = int(await h.line(running))
        await h.close()
        assert {h.ended[attempt][0] for attempt in (running, waiting, other)} == {RELEASED}
        assert not alive(pid)
        assert not list((tmp_path / mode / "captures").iterdir())


async def test_closing_again_hurries_and_what_is_begun_then_is_released(tmp_path: Path) -> None:
    h = Harness(tmp_path / "s")
    attempt = h.begin(shell("trap '' TERM; echo ready; while :; do sleep 0.05; done"))[0]
    await h.line(attempt)
    closing = asyncio.ensure_future(h.close(1000.0))
    await asyncio.sleep(0)
    late = h.begin(command("true"))[0]
    await h.close(0.0)
    await closing
    assert {(phase, outcome.code) for phase, outcome in h.ended.values()} == {(RELEASED, "drained")}
    assert set(h.ended) == {attempt, late}


async def test_a_batch_larger_than_any_buffer_arrives(h: Harness) -> None:
    params = [bytes(60_000 + n).replace(b"\0", b" ") + b"{}" for n in range(100)]
    attempts = h.begin(*(function(lambda: len(os.environ["MESH_PARAMS"]), params=text) for text in params))
    assert [pickle.loads(o.result) for _, o in await h.ends_of(attempts)] == [len(text) for text in params]
    phase, outcome = await h.run(function(abs, 1, params=b"x" * 200_000))
    assert (phase, outcome.code) == (FAILED, "params_too_large")


async def test_the_death_of_the_zygote_is_survived(tmp_path: Path) -> None:
    if not LINUX:
        pytest.skip("there is no zygote here")

    def loop() -> None:
        print(os.getpid(), flush=True)
        while True:
            pass

    h = Harness(tmp_path / "s", "zygote")
    attempt = h.begin(shell("(setsid sleep 1000 & echo $! $PPID); wait; sleep 1000"))[0]
    detached, runner = map(int, (await h.line(attempt)).split())
    busy = h.begin(function(loop), slot=1)[0]
    looping = int(await h.line(busy))
    zygote = psutil.Process(runner).ppid()
    os.kill(zygote, signal.SIGKILL)
    for ended in (attempt, busy):
        phase, outcome = await h.end_of(ended)
        assert (phase, outcome.code) == (FAILED, "signal 9")
    await until_gone([detached, runner, looping])
    assert await h.value(function(lambda: 1)) == 1
    await h.close()


async def test_a_long_state_path_still_has_a_socket_and_leaves_nothing_elsewhere(tmp_path: Path) -> None:
    h = Harness(tmp_path / ("long" * 30))

    def inside() -> str:
        from mesh import task

        task.report(loss=1)
        return os.environ["TMPDIR"]

    tmp = await h.value(function(inside))
    assert len(tmp) < 75
    assert not tmp.startswith(str(tmp_path))
    await h.close()
    assert not Path(tmp).parent.parent.parent.exists()


def test_what_a_killed_meshd_left_elsewhere_goes_with_its_state_directory(tmp_path: Path) -> None:
    gone, kept = tmp_path / ("gone" * 30), tmp_path / ("kept" * 30)
    folders = [short_directory(state) for state in (gone, kept)]
    assert folders[0] != folders[1] == short_directory(kept)
    gone.rmdir()
    short_directory(kept)
    assert [folder.exists() for folder in folders] == [False, True]
    shutil.rmtree(folders[1])


async def test_unknown_kinds_of_runner_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESH_RUNNER", "thread")
    with pytest.raises(ValueError, match="zygote or spawn"):
        Harness(tmp_path / "s")


@pytest.mark.skipif(not LINUX, reason="there is no zygote here")
async def test_a_zygote_imports_ahead_what_functions_imported(tmp_path: Path) -> None:
    def loaded() -> bool:
        return "numpy" in sys.modules

    def use() -> None:
        import numpy as np

        assert np.ones(3).sum() == 3

    def threads() -> list[int]:
        import threadpoolctl

        return [int(os.environ["OMP_NUM_THREADS"]), *{pool["num_threads"] for pool in threadpoolctl.threadpool_info()}]

    h = Harness(tmp_path / "s", "zygote")
    assert not await h.value(function(loaded))
    await h.value(function(use))
    assert await h.value(function(loaded), slot=1)
    assert await h.value(function(threads), slot=3, millicpus=2000) == [2, 2]
    assert await h.value(function(threads), slot=3) == [1, 1]
    await h.close()


async def test_stops_at_any_moment_end_each_attempt_once_and_spare_the_others(h: Harness, tmp_path: Path) -> None:
    """Stops race with beginnings and ends; whatever wins, nothing that was not stopped is lost or blamed."""

    def work(n: int) -> int:
        return n

    attempts: dict[str, bool] = {}  # whether a stop was asked
    for n in range(150):
        works = (function(work, n), command("true") if n % 5 == 0 else function(work, -n), function(work, n))
        new = h.begin(*works, slot=n % 2)
        attempts |= dict.fromkeys(new, False)
        if n % 3:
            victim = new[n % 3]
            attempts[victim] = True
            for _ in range(n % 7):
                await asyncio.sleep(0)
            h.stop(victim)
    await h.ends_of(attempts)
    for attempt, stopped in attempts.items():
        phase, outcome = h.ended[attempt]
        allowed = {(SUCCEEDED, ""), (RELEASED, "runner_died")} | ({(RELEASED, "cancelled")} if stopped else set())
        assert (phase, outcome.code) in allowed, outcome
    released = sum(phase == RELEASED for phase, _ in h.ended.values())
    assert released <= sum(attempts.values()) + 5  # next to none is released that was not asked to stop
    assert await h.value(function(work, 7)) == 7


async def test_random_numbers_differ_between_runners(h: Harness) -> None:
    def draw() -> float:
        import random

        return random.random()

    assert await h.value(function(draw)) != await h.value(function(draw), slot=1)


# -- objects given by reference


class Kept:
    """An object in chunk files, and whether it is still held."""

    def __init__(self, directory: Path, value: object) -> None:
        segments = dump(value, lambda it, leave_out: pickle.dumps(it, 5, buffer_callback=leave_out))
        self.manifest = write_blob(ChunkFiles(directory), segments)
        self.directory, self.released = str(directory), 0
        self.ref = Ref(name(self.manifest), 1)

    def release(self) -> None:
        self.released += 1


async def test_a_ref_is_replaced_by_its_object_which_stays_until_the_attempt_ends(h: Harness, tmp_path: Path) -> None:
    kept = Kept(tmp_path / "blobs", {"w": bytes(3_000_000)})
    h.objects[kept.ref.blob] = kept
    got = await h.value(function(lambda a, ref, b: (len(a["w"]), type(ref).__name__, b), kept.ref, [kept.ref], "plain"))
    assert got == (3_000_000, "list", "plain")
    assert kept.released == 1


async def test_why_an_object_is_missing_is_the_tasks_error(h: Harness) -> None:
    h.objects["0f" * 32] = BlobMissing("it cannot be fetched", "no node has it", "put it again")
    phase, outcome = await h.run(function(lambda value: value, Ref("0f" * 32, 1)))
    assert (phase, outcome.code) == (FAILED, "mesh.core.errors.BlobMissing")
    assert outcome.message == "it cannot be fetched; no node has it; put it again"
    assert await h.value(function(lambda: 7)) == 7


async def test_a_damaged_object_is_never_handed_out(h: Harness, tmp_path: Path) -> None:
    kept = Kept(tmp_path / "blobs", b"x" * 100)
    (file,) = [path for path in (tmp_path / "blobs/chunks").rglob("*") if path.is_file()]
    file.write_bytes(file.read_bytes()[:-1] + b"y")
    h.objects[kept.ref.blob] = kept
    phase, outcome = await h.run(function(lambda value: value, kept.ref))
    assert (phase, outcome.code) == (FAILED, "mesh.core.errors.BlobCorrupt")
    assert kept.released == 2
    h.objects[f"{kept.ref.blob}!"] = Kept(tmp_path / "mended", b"x" * 100)
    assert await h.value(function(lambda value: value, kept.ref)) == b"x" * 100


class Shipped(Kept):
    """A directory in chunk files."""

    def __init__(self, directory: Path, source: Path) -> None:
        self.manifest = write_blob(ChunkFiles(directory), scan(source, ignore=False).segments())
        self.directory, self.released = str(directory), 0
        self.ref = Ref(name(self.manifest), 1)


async def test_work_runs_in_the_directory_that_was_shipped_with_it(h: Harness, tmp_path: Path) -> None:
    (tmp_path / "project/deep").mkdir(parents=True)
    (tmp_path / "project/deep/secret.py").write_text("def tell():\n    return 'told'\n")
    shipped = Shipped(tmp_path / "blobs", tmp_path / "project")
    h.objects[shipped.ref.blob] = shipped
    files = {"files": shipped.ref.blob, "cwd": "deep"}
    [attempt] = h.begin(Work("command", ("cat", "secret.py"), **files))
    assert (await h.end_of(attempt))[0] == SUCCEEDED
    assert b"told" in await h.printed(attempt)
    assert await h.value(Work("call", target="secret:tell", **files)) == "told"
    assert await h.value(function(os.getcwd, **files)) == str(h.state / "code" / shipped.ref.blob / "deep")
    assert shipped.released == 1, "it is unpacked once"


@pytest.mark.parametrize("kind", ["command", "function"])
async def test_where_files_are_missing_the_task_is_given_back_with_the_reason(h: Harness, kind: str) -> None:
    h.objects["0f" * 32] = BlobMissing("it cannot be fetched", "no node has it", "put it again")
    work = shell("true") if kind == "command" else function(lambda: 7)
    phase, outcome = await h.run(work._replace(files="0f" * 32))
    assert (phase, outcome.code) == (RELEASED, "refused")
    assert outcome.message == "its files are not here: it cannot be fetched; no node has it; put it again"


async def test_a_late_answer_to_one_that_was_stopped_is_not_the_next_ones(h: Harness, tmp_path: Path) -> None:
    wrong, right = Kept(tmp_path / "blobs", "wrong"), Kept(tmp_path / "blobs", "right")
    asked = asyncio.Event()

    async def hold(blob: str, damaged: bool) -> object:
        if blob == wrong.ref.blob:
            asked.set()
            return wrong
        return right

    h.hold = hold  # type: ignore[method-assign, assignment]
    first, second = h.begin(function(lambda value: value, wrong.ref), function(lambda value: value, right.ref))
    await asyncio.wait_for(asked.wait(), BOUND)
    h.stop(first)
    await h.end_of(first)
    phase, outcome = await h.end_of(second)
    assert (phase, pickle.loads(outcome.result)) == (SUCCEEDED, "right")


async def test_a_defect_in_the_store_is_the_tasks_error_and_no_endless_wait(h: Harness) -> None:
    h.objects["0f" * 32] = ValueError("no blob")
    phase, outcome = await h.run(function(lambda value: value, Ref("0f" * 32, 1)))
    assert (phase, outcome.message) == (FAILED, "no blob")


async def test_who_waits_for_its_files_can_be_stopped(h: Harness) -> None:
    asked = asyncio.Event()

    async def hold(blob: str, damaged: bool) -> object:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    h.hold = hold  # type: ignore[method-assign, assignment]
    first, second = h.begin(shell("true")._replace(files="0f" * 32), shell("true"))
    await asyncio.wait_for(asked.wait(), BOUND)
    h.stop(first)
    phase, outcome = await h.end_of(first)
    assert (phase, outcome.code) == (RELEASED, "cancelled")
    assert (await h.end_of(second))[0] == SUCCEEDED


async def test_who_waits_for_an_object_can_be_stopped(h: Harness) -> None:
    waiting, asked = asyncio.Event(), asyncio.Event()

    async def hold(blob: str, damaged: bool) -> object:
        asked.set()
        await waiting.wait()
        raise BlobMissing("too late")

    h.hold = hold  # type: ignore[method-assign, assignment]
    [attempt] = h.begin(function(lambda value: value, Ref("0f" * 32, 1)))
    await asyncio.wait_for(asked.wait(), BOUND)
    h.stop(attempt)
    phase, outcome = await h.end_of(attempt)
    assert (phase, outcome.code) == (RELEASED, "cancelled")
    waiting.set()
    assert await h.value(function(lambda: 7)) == 7
