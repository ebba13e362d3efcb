"""The state directory and the runtime directory. Liveness is tried with real processes."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.lan import local
from mesh.lan.local import LocalDaemon, UnsafeDirectory, local_daemons, runtime_directory
from mesh.node.state import IDENTITY, LOCK, READY, SOCKET_LIMIT, ULID_TEXT, State, StateError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Shorter than pytest's own, which on macOS leaves no room for a socket."""
    with tempfile.TemporaryDirectory(prefix="m", dir="/tmp") as path:
        yield Path(path)


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    return {"XDG_RUNTIME_DIR": str(runtime)}


@pytest.fixture
def states() -> Iterator[list[State]]:
    opened: list[State] = []
    yield opened
    for state in opened:
        state.close()


def listing(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.iterdir()) if file.name != LOCK}


# --- the state directory ---


def test_the_directory_is_made_for_its_owner_alone(tmp_path: Path, environ: dict[str, str]) -> None:
    path = tmp_path / "a" / "b"
    State.open(path, environ=environ).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in path.iterdir())


def test_the_identity_stays_and_each_start_is_another_life(tmp_path: Path, environ: dict[str, str]) -> None:
    first = State.open(tmp_path / "s", environ=environ)
    first.close()
    second = State.open(tmp_path / "s", environ=environ)
    second.close()
    assert first.ulid == second.ulid
    assert ULID_TEXT.fullmatch(first.ulid)
    assert first.life != second.life
    assert len(first.life) == 8


def test_a_new_id_is_drawn_and_the_old_one_kept(tmp_path: Path, environ: dict[str, str]) -> None:
    path = tmp_path / "s"
    drawn = []
    for new_id in (False, True, True):
        state = State.open(path, new_id=new_id, environ=environ)
        state.journal.touch()
        drawn.append(state.ulid)
        state.close()
    assert len(set(drawn)) == 3
    kept = [json.loads((path / f"{IDENTITY}.old-{number}").read_text())["ulid"] for number in (1, 2)]
    assert kept == drawn[:2]
    assert state.journal.exists()


def test_two_processes_cannot_hold_one_directory(tmp_path: Path, environ: dict[str, str], states: list[State]) -> None:
    states.append(State.open(tmp_path / "s", environ=environ))
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from mesh.core.errors import MeshError\n"
        "from mesh.node.state import State\n"
        "try:\n"
        "    State.open(Path(sys.argv[1]))\n"
        "except MeshError as error:\n"
        "    print(error)\n"
        "    sys.exit(error.exit_code)\n"
    )
    before = listing(tmp_path / "s")
    second = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "s")],
        cwd=ROOT, env={**os.environ, **environ}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert second.returncode == 73, second.stderr
    assert f"(pid {os.getpid()})" in second.stdout
    assert "--state-dir" in second.stdout
    assert listing(tmp_path / "s") == before


def test_a_directory_given_free_can_be_taken_again(tmp_path: Path, environ: dict[str, str]) -> None:
    state = State.open(tmp_path / "s", environ=environ)
    state.close()
    state.close()
    State.open(tmp_path / "s", environ=environ).close()


def test_a_failed_start_gives_the_directory_free(tmp_path: Path, environ: dict[str, str]) -> None:
    path = tmp_path / "s"
    State.open(path, environ=environ).close()
    whole = (path / IDENTITY).read_bytes()
    (path / IDENTITY).write_bytes(b"")
    with pytest.raises(StateError):
        State.open(path, environ=environ)
    (path / IDENTITY).write_bytes(whole)
    State.open(path, environ=environ).close()


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "damaged"),
        (b"\x00\xff" * 20, "damaged"),
        (b"[]", "damaged"),
        (b'{"version": 1}', "damaged"),
        (b'{"version": 1, "ulid": 5}', "damaged"),
        (b'{"version": 1, "ulid": "01M84RBZX257RX0MDWRRSNDHD"}', "damaged"),  # one short
        (b'{"version": 1, "ulid": "01M84RBZX257RX0MDWRRSNDHDU"}', "damaged"),  # no U in Crockford's alphabet
        (b'{"version": 1, "ulid": "81M84RBZX257RX0MDWRRSNDHDW"}', "damaged"),  # over 128 bits
        (b'{"ulid": "01M84RBZX257RX0MDWRRSNDHDW"}', "damaged"),
        (b'{"version": 2, "name": "x"}', "newer meshd"),
    ],
)
def test_a_damaged_identity_is_an_error_and_stays_as_it_is(
    tmp_path: Path, environ: dict[str, str], body: bytes, why: str
) -> None:
    path = tmp_path / "s"
    State.open(path, environ=environ).close()
    (path / IDENTITY).write_bytes(body)
    before = listing(path)
    with pytest.raises(StateError, match=why) as raised:
        State.open(path, environ=environ)
    assert raised.value.exit_code == 73
    assert "--new-id" in str(raised.value)
    assert listing(path) == before
    # And what it advises helps.
    State.open(path, new_id=True, environ=environ).close()
    assert (path / f"{IDENTITY}.old-1").read_bytes() == body


def test_a_directory_that_cannot_be_made(tmp_path: Path, environ: dict[str, str]) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "s"):
        with pytest.raises(StateError, match="cannot write to the state directory") as raised:
            State.open(path, environ=environ)
        assert raised.value.exit_code == 73
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="uses Linux's sysfs, where not even root can write")
def test_a_directory_that_cannot_be_written(environ: dict[str, str]) -> None:
    with pytest.raises(StateError, match=r"cannot write|belongs to user") as raised:
        State.open(Path("/sys/kernel"), environ=environ)
    assert raised.value.exit_code == 73


def test_a_directory_that_others_may_write_to_is_refused(tmp_path: Path, environ: dict[str, str]) -> None:
    path = tmp_path / "s"
    path.mkdir()
    path.chmod(0o777)
    with pytest.raises(StateError, match="mode 0777") as raised:
        State.open(path, environ=environ)
    assert raised.value.exit_code == 73
    assert list(path.iterdir()) == []


def test_what_a_killed_life_left_is_cleared(tmp_path: Path, environ: dict[str, str], states: list[State]) -> None:
    path = tmp_path / "s"
    State.open(path, environ=environ).close()
    (path / READY).write_text("{}")
    (path / "meshd.sock").touch()
    states.append(State.open(path, environ=environ))
    assert not (path / READY).exists()
    assert not states[0].socket.exists()


# --- the Unix socket ---


def bound(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def test_the_socket_is_in_the_state_directory(tmp_path: Path, environ: dict[str, str], states: list[State]) -> None:
    states.append(State.open(tmp_path / "s", environ=environ))
    assert states[0].socket == tmp_path / "s" / "meshd.sock"


def test_a_socket_path_that_is_too_long_has_a_short_one(
    tmp_path: Path, environ: dict[str, str], states: list[State]
) -> None:
    states.extend(State.open(tmp_path / (letter * 100), environ=environ) for letter in "xy")
    for state in states:
        assert len(os.fsencode(state.socket)) <= SOCKET_LIMIT
        assert stat.S_IMODE(state.socket.parent.stat().st_mode) == 0o700
        bound(state.socket)  # the kernel agrees
    assert states[0].socket != states[1].socket
    first = states[0].socket
    states.pop(0).close()
    assert not first.exists()


def test_the_longest_path_that_fits_is_used(tmp_path: Path, environ: dict[str, str], states: list[State]) -> None:
    room = SOCKET_LIMIT - len(os.fsencode(tmp_path / "" / "meshd.sock")) - 1
    states.append(State.open(tmp_path / ("x" * room), environ=environ))
    assert len(os.fsencode(states[0].socket)) == SOCKET_LIMIT
    bound(states[0].socket)


def test_a_long_runtime_directory_has_a_shorter_one(tmp_path: Path, states: list[State]) -> None:
    runtime = tmp_path / ("r" * 100)
    runtime.mkdir()
    states.append(State.open(tmp_path / ("x" * 100), environ={"XDG_RUNTIME_DIR": str(runtime)}))
    assert states[0].socket.parent == runtime_directory({})
    bound(states[0].socket)


def test_a_directory_that_others_may_enter_does_not_hold_the_socket(
    tmp_path: Path, environ: dict[str, str], states: list[State]
) -> None:
    path = tmp_path / "s"
    path.mkdir(mode=0o755)
    states.append(State.open(path, environ=environ))
    assert states[0].socket.parent == runtime_directory(environ)


# --- being found ---


def publish(state: State, name: str = "a", mesh: str = "lab") -> None:
    state.publish(id=f"50-{state.ulid}", name=name, mesh=mesh, address="127.0.0.1:7001")


def test_ready_is_written_and_withdrawn(tmp_path: Path, environ: dict[str, str]) -> None:
    state = State.open(tmp_path / "s", environ=environ)
    assert not (state.path / READY).exists()
    assert local_daemons(environ) == []
    publish(state)
    assert json.loads((state.path / READY).read_text()) == {
        "id": f"50-{state.ulid}",
        "name": "a",
        "pid": os.getpid(),
        "address": "127.0.0.1:7001",
        "socket": str(state.path / "meshd.sock"),
    }
    assert local_daemons(environ) == [
        LocalDaemon(f"50-{state.ulid}", "a", "lab", os.getpid(), "127.0.0.1:7001", str(state.path / "meshd.sock"))
    ]
    state.close()
    assert local_daemons(environ) == []
    assert not (state.path / READY).exists()
    assert list(runtime_directory(environ).iterdir()) == []


def test_several_are_listed_in_order(tmp_path: Path, environ: dict[str, str], states: list[State]) -> None:
    for number, (mesh, name) in enumerate([("lab", "b"), ("home", "z"), ("lab", "a")]):
        states.append(State.open(tmp_path / str(number), environ=environ))
        publish(states[-1], name, mesh)
    assert [(daemon.mesh, daemon.name) for daemon in local_daemons(environ)] == [
        ("home", "z"),
        ("lab", "a"),
        ("lab", "b"),
    ]


DAEMON = """
import sys
from pathlib import Path
from mesh.node.state import State
state = State.open(Path(sys.argv[1]))
state.publish(id="50-" + state.ulid, name="killed", mesh="lab", address="127.0.0.1:7001")
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_killed_daemon_is_not_listed_and_its_entry_is_cleaned(
    tmp_path: Path, environ: dict[str, str], states: list[State]
) -> None:
    daemon = subprocess.Popen(
        [sys.executable, "-c", DAEMON, str(tmp_path / "killed")],
        cwd=ROOT, env={**os.environ, **environ}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with daemon:
        assert daemon.stdout is not None
        assert select.select([daemon.stdout], [], [], 60)[0]
        assert daemon.stdout.readline() == b"ready\n"
        assert [(found.name, found.pid) for found in local_daemons(environ)] == [("killed", daemon.pid)]
        daemon.send_signal(signal.SIGKILL)
        daemon.wait(60)
    left = list(runtime_directory(environ).iterdir())
    assert len(left) == 1
    # A pid that lives, but is somebody else's now, changes nothing.
    left[0].write_text(left[0].read_text().replace(str(daemon.pid), str(os.getpid())))
    assert local_daemons(environ) == []
    states.append(State.open(tmp_path / "other", environ=environ))
    publish(states[0], "alive")
    assert not left[0].exists()
    assert [found.name for found in local_daemons(environ)] == ["alive"]
    # And its directory can be used again.
    states.append(State.open(tmp_path / "killed", environ=environ))


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"id": "x"}', b"\xff\xfe", b'{"pid": "1"}'])
def test_what_is_no_entry_is_passed_over(
    tmp_path: Path, environ: dict[str, str], states: list[State], body: bytes
) -> None:
    states.append(State.open(tmp_path / "s", environ=environ))
    publish(states[0])
    (runtime_directory(environ) / "1-strange.json").write_bytes(body)
    (runtime_directory(environ) / "2-link.json").symlink_to(tmp_path / "nowhere")
    assert len(local_daemons(environ)) == 1


def test_without_a_runtime_directory_there_is_one_per_user(tmp_path: Path) -> None:
    own = Path(f"/tmp/meshd-{os.getuid()}")
    assert runtime_directory({}) == own
    assert runtime_directory({"XDG_RUNTIME_DIR": ""}) == own
    assert runtime_directory({"XDG_RUNTIME_DIR": "relative"}) == own
    assert runtime_directory({"XDG_RUNTIME_DIR": str(tmp_path / "gone")}) == own
    assert runtime_directory({"XDG_RUNTIME_DIR": str(tmp_path)}) == tmp_path / "meshd"


def test_no_directory_means_no_daemons(environ: dict[str, str]) -> None:
    assert local_daemons(environ) == []


def open_to_others(path: Path) -> None:
    path.mkdir()
    path.chmod(0o770)


def a_link(path: Path) -> None:
    (path.parent / "elsewhere").mkdir(mode=0o700)
    path.symlink_to(path.parent / "elsewhere")


def a_file(path: Path) -> None:
    path.touch()


@pytest.mark.parametrize(
    ("plant", "why"), [(open_to_others, "mode 0770"), (a_link, "not a directory"), (a_file, "not a directory|exists")]
)
def test_a_planted_runtime_directory_is_refused(
    tmp_path: Path, environ: dict[str, str], states: list[State], plant, why: str
) -> None:
    plant(runtime_directory(environ))
    states.append(State.open(tmp_path / "s", environ=environ))
    with pytest.raises(UnsafeDirectory, match=why) as raised:
        publish(states[0])
    assert raised.value.exit_code == 73
    with pytest.raises(UnsafeDirectory, match=why):
        local_daemons(environ)


def test_a_directory_of_another_user_is_refused(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    runtime_directory(environ).mkdir(mode=0o700)
    monkeypatch.setattr(local.os, "getuid", lambda: os.geteuid() + 1)
    with pytest.raises(UnsafeDirectory, match="belongs to user"):
        local_daemons(environ)


def test_a_copied_directory_is_the_same_node_in_another_life(
    tmp_path: Path, environ: dict[str, str], states: list[State]
) -> None:
    State.open(tmp_path / "s", environ=environ).close()
    shutil.copytree(tmp_path / "s", tmp_path / "copy")
    states.append(State.open(tmp_path / "s", environ=environ))
    states.append(State.open(tmp_path / "copy", environ=environ))
    assert states[0].ulid == states[1].ulid
    assert states[0].life != states[1].life
    assert states[0].socket != states[1].socket
