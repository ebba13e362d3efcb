"""The real process: signals, pipes, terminals, and the order in which a mesh is looked for."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mesh.lan.local import LocalDaemon, register
from tests.client.fake_server import NODE, FakeMesh

COMMAND = [sys.executable, "-m", "mesh.cli.meshctl"]


def run(mesh: FakeMesh | None, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    known = {**os.environ, **environ}
    if mesh is not None:
        known["MESH_ADDRESS"] = mesh.address
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, env=known)


def test_interrupted_while_waiting(mesh: FakeMesh, sweep: Path) -> None:
    mesh.holding = True
    waiting = subprocess.Popen(
        [*COMMAND, "--address", mesh.address, "submit", str(sweep), "--wait"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    mesh.until(lambda: mesh.calls["Watch"] == 1, 30)
    waiting.send_signal(signal.SIGINT)
    _, error = waiting.communicate(timeout=30)
    (job,) = mesh.jobs
    assert waiting.returncode == 130
    assert error.splitlines()[-1] == (
        f"meshctl: interrupted; job {job} goes on; `meshctl wait {job}` waits again, `meshctl cancel {job}` stops it"
    )


def test_a_reader_that_leaves_is_no_error(mesh: FakeMesh, sweep: Path) -> None:
    assert run(mesh, "submit", str(sweep), "--set", f"parameters.lr.values={list(range(900))}").returncode == 0
    line = f"{sys.executable} -m mesh.cli.meshctl tasks | head -1"
    done = subprocess.run(
        line, shell=True, capture_output=True, text=True, timeout=60, env={**os.environ, "MESH_ADDRESS": mesh.address}
    )
    assert done.stdout.startswith("TASK")
    assert done.stderr == ""


def test_several_local_daemons(mesh: FakeMesh, tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path), "MESH_ADDRESS": ""}
    one = register(LocalDaemon("50-A", "anvil", "lab", os.getpid(), "", str(mesh.socket)), "a", environ)
    assert run(None, "status", **environ).returncode == 0
    other = register(LocalDaemon("50-B", "bellows", "forge", os.getpid(), "", "/other"), "b", environ)
    done = run(None, "status", **environ)
    assert done.returncode == 2
    for part in ("anvil", "bellows", str(mesh.socket), "/other", "--address"):
        assert part in done.stderr
    assert run(None, "status", "--mesh", "lab", **environ).returncode == 0
    one.close()
    other.close()


@pytest.mark.parametrize("no_color", ["", "1"])
def test_on_a_terminal(mesh: FakeMesh, sweep: Path, no_color: str) -> None:
    screen, terminal = pty.openpty()
    environ = {**os.environ, "TERM": "xterm-256color", "NO_COLOR": no_color, "COLUMNS": "200"}
    waiting = subprocess.Popen(
        [*COMMAND, "--address", mesh.address, "submit", str(sweep), "--wait"],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=environ,
    )
    listing = subprocess.Popen(
        [*COMMAND, "--address", mesh.address, "peers"], stdout=terminal, stderr=terminal, env=environ
    )
    os.close(terminal)
    written = b""
    while chunk := _read(screen):
        written += chunk
    os.close(screen)
    assert (waiting.wait(30), listing.wait(30)) == (0, 0)
    assert b"4/4" in written  # the bar's count
    assert b"anvil" in written
    assert (b"\x1b[32m" in written) is (not no_color)  # alive is green


def test_a_narrow_terminal_leaves_ids_whole(mesh: FakeMesh) -> None:
    screen, terminal = pty.openpty()
    environ = {**os.environ, "TERM": "xterm-256color", "NO_COLOR": "1", "COLUMNS": "40", "MESH_ADDRESS": mesh.address}
    listing = subprocess.Popen([*COMMAND, "peers"], stdout=terminal, stderr=terminal, env=environ)
    os.close(terminal)
    written = b""
    while chunk := _read(screen):
        written += chunk
    os.close(screen)
    assert listing.wait(30) == 0
    assert NODE.encode() in written
    assert b"127.0.0.1:7433" in written


def _read(screen: int) -> bytes:
    try:
        return os.read(screen, 65536)
    except OSError:  # EIO: the other end is closed
        return b""


def test_asking_before_a_very_large_submission(mesh: FakeMesh, sweep: Path) -> None:
    for answer, code, tasks in ((b"n\n", 1, 0), (b"y\n", 0, 1800)):
        screen, terminal = pty.openpty()
        os.write(screen, answer)
        asking = subprocess.Popen(
            [*COMMAND, "submit", str(sweep), "--set", f"parameters.lr.values={list(range(900))}"],
            stdin=terminal,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "MESH_ADDRESS": mesh.address},
        )
        _, error = asking.communicate(timeout=30)
        os.close(screen)
        os.close(terminal)
        assert asking.returncode == code
        assert b"Submit 1,800 tasks? [y/N]" in error
        assert len(mesh.tasks) == tasks
