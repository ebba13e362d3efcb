"""What a task's process does about checkpoints, against a meshd that speaks the protocol of its socket."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mesh import task
from mesh.core.errors import BlobCorrupt, BlobMissing, Conflict, InvalidSpec, MeshError, QuotaExceeded
from mesh.task import checkpoints
from tests.task.fake_meshd import FakeMeshd, meshd

ROOT = Path(__file__).parent.parent.parent
checkpoint = task.checkpoint


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeMeshd]:
    with meshd(tmp_path / "store", monkeypatch) as one:
        yield one


@pytest.fixture
def restored() -> Iterator[Callable[[Callable[..., object]], None]]:
    """Sets the handler of SIGUSR1 for one test."""
    before = signal.getsignal(signal.SIGUSR1)

    def install(handler: Callable[..., object]) -> None:
        signal.signal(signal.SIGUSR1, handler)

    yield install
    signal.signal(signal.SIGUSR1, before)


def new_attempt() -> None:
    """As in another process: nothing is remembered of what was saved."""
    checkpoints.finish()


# -- states


def test_the_newest_state_comes_back(fake: FakeMeshd) -> None:
    assert checkpoint.load("none") == "none"
    checkpoint.save({"epoch": 3, "name": "a"}, step=3, metrics={"loss": 0.5, "bad": float("nan"), "ok": True})
    checkpoint.save({"epoch": 4, "name": "a"}, step=4)
    assert checkpoint.load() == {"epoch": 4, "name": "a"}
    assert [(one.step, one.metrics) for one in fake.saved] == [(3, {"loss": 0.5, "bad": None, "ok": 1}), (4, {})]


def test_a_step_that_is_not_said_follows_that_last_saved_or_loaded(fake: FakeMeshd) -> None:
    for step in (None, None, 7, None):
        checkpoint.save({}, step)
    new_attempt()
    checkpoint.save({})  # it has loaded nothing
    checkpoint.load()
    checkpoint.save({})
    new_attempt()
    assert [one.step for one in fake.saved] == [0, 1, 7, 8, 0, 9]


def test_saving_waits_for_the_copy_in_memory_and_the_next_for_the_write(fake: FakeMeshd) -> None:
    fake.answers.clear()
    state = {"items": [1]}
    checkpoint.save(state, step=1)
    assert checkpoint.writing
    task.report(loss=1)  # on a line of its own
    assert fake.reports == [{"loss": 1}]
    state["items"].append(2)
    second = threading.Thread(target=checkpoint.save, args=(state, 2))
    second.start()
    assert fake.saved == []  # both came this far without an answer; the second waits
    fake.answers.set()
    second.join()
    new_attempt()
    assert not checkpoint.writing
    assert [one.step for one in fake.saved] == [1, 2]
    assert len({one.blob for one in fake.saved}) == 2


def test_arrays_are_those_of_the_moment_they_were_saved_though_memory_is_used_again(fake: FakeMeshd) -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.zeros(3 << 18)  # several chunks
    for step in range(4):
        array[:] = step
        checkpoint.save({"array": array}, step)
        array[:] = -1
        assert (checkpoint.load()["array"] == step).all()


def test_what_is_wrong_is_said_at_once_and_all_of_it(fake: FakeMeshd) -> None:
    with pytest.raises(TypeError, match=r"step takes a whole number, not float; metrics\['loss'\] takes a number, not"):
        checkpoint.save({}, 0.5, {"loss": "low", "ok": 1})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="step is -1"):
        checkpoint.save({}, -1)
    with pytest.raises(TypeError, match=r"state\['odd'\] is a set"):
        checkpoint.save({"odd": {1}})
    assert fake.asked == []
    checkpoint.save({}, metrics={"loss": 1})
    assert checkpoint.load() == {}


def test_a_write_that_failed_is_told_by_the_next_call_and_then_it_goes_on(fake: FakeMeshd) -> None:
    fake.refused["save"] = "QuotaExceeded", "the disk is full; 3 bytes are free; make room"
    checkpoint.save({"step": 1})
    with pytest.raises(QuotaExceeded, match="make room"):
        checkpoint.save({"step": 2})
    checkpoint.save({"step": 3})
    with pytest.raises(QuotaExceeded):
        checkpoints.finish()
    fake.refused.clear()
    checkpoint.save({"step": 4})
    assert checkpoint.load() == {"step": 4}


def test_where_no_thread_can_be_started_for_it_one_thread_writes(
    fake: FakeMeshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(ThreadPoolExecutor, "submit", refuse)
    checkpoint.save({"texts": ["x" * (3 << 20)]})
    assert checkpoint.load() == {"texts": ["x" * (3 << 20)]}


def test_a_damaged_chunk_is_asked_for_once_more(fake: FakeMeshd) -> None:
    checkpoint.save({"text": "whole"})
    assert checkpoint.load() == {"text": "whole"}
    fake.damage(fake.manifest().chunks[0])
    assert checkpoint.load() == {"text": "whole"}
    fake.path(fake.manifest().chunks[0]).unlink()
    assert checkpoint.load() == {"text": "whole"}
    loads = [message["damaged"] for message in fake.asked if message["checkpoint"] == "load"]
    assert loads == ["", "", fake.saved[0].blob, "", fake.saved[0].blob]


def test_one_that_is_lost_is_no_checkpoint_that_never_was(fake: FakeMeshd) -> None:
    checkpoint.save({})
    assert checkpoint.load("none") == {}
    fake.damage(fake.manifest().chunks[0])
    fake.before_answer = lambda message: fake.saved.clear() or b""  # type: ignore[func-returns-value]
    with pytest.raises(BlobCorrupt):
        checkpoint.load("none")


def test_one_that_nobody_has_is_missing(fake: FakeMeshd) -> None:
    fake.refused["load"] = "BlobMissing", "no holder of it can be reached"
    with pytest.raises(BlobMissing, match="no holder"):
        checkpoint.load("none")


def test_stops_between_bytes_are_no_answers(fake: FakeMeshd) -> None:
    fake.before_answer = lambda message: b'{"stop":true}\n{"stop":true}\n'
    checkpoint.save({"text": "a" * 100_000})
    assert checkpoint.load() == {"text": "a" * 100_000}
    task.report(loss=1)
    assert task.should_stop()


def signal_main(number: int) -> None:
    ident = threading.main_thread().ident
    assert ident is not None
    signal.pthread_kill(ident, number)


def test_a_wait_that_was_interrupted_leaves_no_answer_to_the_next_request(
    fake: FakeMeshd, restored: Callable[[Callable[..., object]], None]
) -> None:
    checkpoint.save({"step": 1})
    checkpoint.load()
    over = threading.Event()

    def interrupt(message: dict[str, Any]) -> bytes:
        signal_main(signal.SIGUSR1)
        over.wait()
        return b""

    def handler(*_: object) -> None:
        raise KeyboardInterrupt

    restored(handler)
    fake.before_answer = interrupt
    with pytest.raises(KeyboardInterrupt):
        checkpoint.load()
    fake.before_answer = lambda message: b""
    over.set()
    checkpoint.save({"step": 2})
    assert checkpoint.load() == {"step": 2}


def test_the_handler_of_a_signal_may_save_during_a_save(
    fake: FakeMeshd, restored: Callable[[Callable[..., object]], None]
) -> None:
    def interrupt(message: dict[str, Any]) -> bytes:
        if message.get("step") == 1:
            signal_main(signal.SIGUSR1)
        return b""

    restored(lambda *_: checkpoint.save({}, 9))
    fake.before_answer = interrupt
    checkpoint.save({}, 1)
    checkpoint.save({}, 2)
    new_attempt()
    assert sorted(one.step for one in fake.saved) == [1, 2, 9]


# -- files


def test_a_directory_comes_back(fake: FakeMeshd, tmp_path: Path) -> None:
    source, target = tmp_path / "ckpt", tmp_path / "deep" / "again"
    (source / "empty").mkdir(parents=True)
    (source / "a.bin").write_bytes(b"a" * 3_000_000)
    (source / ".gitignore").write_text("a.bin\n")  # it says what is no source, not what is no checkpoint
    assert checkpoint.load_files(target) is False
    checkpoint.save_files(source, step=5, metrics={"loss": 1})
    (source / "a.bin").write_bytes(b"b")
    assert checkpoint.load_files(target) is True
    assert (target / "a.bin").read_bytes() == b"a" * 3_000_000
    assert (target / "empty").is_dir()
    checkpoint.save_files(source)
    assert [(one.step, one.metrics) for one in fake.saved] == [(5, {"loss": 1}), (6, {})]


def test_a_file_comes_back(fake: FakeMeshd, tmp_path: Path) -> None:
    for size in (0, 1, 1 << 20, (1 << 20) + 1):
        (tmp_path / "model").write_bytes(os.urandom(size))
        checkpoint.save_files(str(tmp_path / "model"))
        assert checkpoint.load_files(str(tmp_path / "again"), replace=True)
        assert (tmp_path / "again").read_bytes() == (tmp_path / "model").read_bytes()


@pytest.mark.parametrize("saved", ["file", "directory"])
@pytest.mark.parametrize("there", ["file", "directory", "link"])
def test_what_is_there_is_lost_only_on_demand(fake: FakeMeshd, tmp_path: Path, saved: str, there: str) -> None:
    source, place = tmp_path / "source", tmp_path / "target"
    if saved == "directory":
        source.mkdir()
        (source / "new").touch()
    else:
        source.write_text("new")
    (tmp_path / "mine").mkdir()
    if there == "file":
        place.write_text("old")
    else:
        real = place if there == "directory" else tmp_path / "mine" / "real"
        real.mkdir()
        (real / "old").touch()
        if there == "link":
            place.symlink_to(real)
    checkpoint.save_files(source)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(Conflict, match="replace=True"):
        checkpoint.load_files(place)
    assert sorted(tmp_path.rglob("*")) == before
    assert checkpoint.load_files(place, replace=True)
    assert place.is_dir() == (saved == "directory")
    assert [path.name for path in place.iterdir()] == ["new"] if place.is_dir() else place.read_text() == "new"
    assert [path for path in tmp_path.rglob(".*")] == []  # noqa: C416


def test_half_of_a_directory_is_never_there(fake: FakeMeshd, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for name in "abc":
        (source / name).write_bytes(name.encode() * 2_000_000)
    checkpoint.save_files(source)
    last = fake.manifest().chunks[-1]
    fake.damage(last)
    fake.before_answer = lambda message: fake.damage(last) or b""  # type: ignore[func-returns-value]
    with pytest.raises(BlobCorrupt):
        checkpoint.load_files(target)
    assert {path.name for path in tmp_path.iterdir()} == {"source", "store"}
    fake.before_answer = lambda message: b""
    assert checkpoint.load_files(target)  # asked for once more
    assert (target / "c").read_bytes() == b"c" * 2_000_000


def test_the_working_directory_is_not_replaced_under_the_program(
    fake: FakeMeshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    (tmp_path / "file").touch()
    checkpoint.save_files(tmp_path / "file")
    for path in (".", ".."):
        with pytest.raises(Conflict, match="working directory"):
            checkpoint.load_files(path, replace=True)


def test_files_that_cannot_be_saved_are_named(fake: FakeMeshd, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidSpec, match="pipe"):
        checkpoint.save_files(tmp_path)
    with pytest.raises(FileNotFoundError):
        checkpoint.save_files(tmp_path / "none")


def test_files_are_no_state(fake: FakeMeshd, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "file").write_text("x" * 100)
    for path in (tmp_path / "d", tmp_path / "d" / "file"):
        checkpoint.save_files(path)
        with pytest.raises(MeshError, match=r"holds no state; .*; load it the way it was saved") as raised:
            checkpoint.load()
        assert not raised.value.retryable
    assert not any(message.get("damaged") for message in fake.asked)


# -- processes


def test_outside_a_mesh_task_a_program_trains_as_if_there_were_none(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert checkpoint.load(7) == 7
    assert checkpoint.load_files(tmp_path / "none") is False
    checkpoint.save({"a": 1})
    checkpoint.save_files(tmp_path)
    assert capsys.readouterr().err == "mesh: outside a mesh task no checkpoint is kept\n"
    with pytest.raises(TypeError, match="is a set"):
        checkpoint.save({"a": {1}})  # what would fail in the mesh fails here
    assert checkpoint.load(7) == 7
    checkpoints.finish()


SAVES = "from mesh import task; task.checkpoint.save({'text': 'x' * (3 << 20)}, 5);"


@pytest.mark.parametrize(
    ("program", "status"),
    [
        (SAVES, 0),
        (SAVES + "import sys; sys.exit(3)", 3),
        (SAVES + "raise ValueError", 1),
        ("import os\nif os.fork(): os._exit(os.waitstatus_to_exitcode(os.wait()[1]))\n" + SAVES, 0),
        ("import multiprocessing, os\ndef main():\n  " + SAVES
         + "\nprocess = multiprocessing.get_context('fork').Process(target=main); process.start(); process.join()", 0),
    ],
)  # fmt: skip
def test_a_program_ends_once_its_last_one_is_written(fake: FakeMeshd, program: str, status: int) -> None:
    fake.answers.clear()
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", program], env=env, stderr=subprocess.PIPE) as process:
        while not any(message["checkpoint"] == "save" for message in fake.asked):
            assert process.poll() is None, process.communicate()
        fake.answers.set()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    assert [one.step for one in fake.saved] == [5]


def test_a_program_that_lost_its_last_one_fails_after_all_its_exit_functions(fake: FakeMeshd) -> None:
    fake.refused["save"] = "QuotaExceeded", "the disk is full"
    program = "import atexit; atexit.register(print, 'first');" + SAVES + "atexit.register(print, 'second', end='')"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout) == (1, "secondfirst\n")
    assert ran.stderr == "mesh: the last checkpoint was not saved: the disk is full\n"


def test_a_forked_process_has_a_line_of_its_own(fake: FakeMeshd) -> None:
    checkpoint.save({"from": "parent"}, 1)
    assert checkpoint.load() == {"from": "parent"}
    pid = os.fork()
    if pid == 0:
        try:
            state = checkpoint.load()
            checkpoint.save({"from": "child"}, 2)
            checkpoints.finish()
            os._exit(0 if state == {"from": "parent"} else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert checkpoint.load() == {"from": "child"}
