"""A runner that goes on as a process of another Python, watched from its control socket."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from mesh.core.lattice import RELEASED, SUCCEEDED
from mesh.task.frames import FrameReader, Row, encode

ROOT = Path(__file__).resolve().parents[2]
BOUND = 60.0
SITE = sysconfig.get_path("purelib", "venv", {"base": ""}).lstrip("/")

# An environment of nothing: its Python is this one, which tells when it becomes a runner and waits to be let. No shell
# does that, for some forget which signals were blocked.
UV = f"""#!/bin/sh
[ "$1" = venv ] || exit 0
for home; do :; done
mkdir -p "$home/bin" "$home/{SITE}"
cat > "$home/bin/python" <<'END'
#!{sys.executable} -ISs
import os, sys, time
if sys.argv[1:3] == ["-m", "mesh.task"]:
    open("FOLDER/became", "w").close()
    while not os.path.exists("FOLDER/go"):
        time.sleep(0.05)
os.execv("{sys.executable}", ["{sys.executable}", *sys.argv[1:]])
END
chmod +x "$home/bin/python"
"""


class Peer:
    """Meshd's end of a runner."""

    def __init__(self, folder: Path) -> None:
        (folder / "bin").mkdir()
        (folder / "bin/uv").write_text(UV.replace("FOLDER", str(folder)))
        (folder / "bin/uv").chmod(0o755)
        self.state = folder / "s"
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(BOUND)
        lifeline, self._lifeline = os.pipe()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mesh.task", "runner", str(theirs.fileno()), str(lifeline)],
                cwd=ROOT,
                pass_fds=[theirs.fileno(), lifeline],
                env=os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"},
            )
        os.close(lifeline)
        self._frames = FrameReader()
        self._read: list[tuple[list[Any], bytes]] = []
        self.heads: list[str] = []
        short = {"state": str(self.state), "short": str(self.state), "runner": "r", "node": "n", "name": "n"}
        self.send(encode({"op": "setup", "setup": short | {"task_socket": ""}}))

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def ended(self) -> tuple[list[Any], Any]:
        """The next ending, and what was returned."""
        while True:
            while self._read:
                header, body = self._read.pop(0)
                self.heads.append(header[0])
                if header[0] == "ended":
                    return header, pickle.loads(body) if body else None
            data = self._socket.recv(1 << 16)
            assert data, "the runner ended"
            self._read += self._frames.feed(data)

    def close(self) -> None:
        self._socket.close()
        os.close(self._lifeline)
        assert self.process.wait(BOUND) == 0


def begin(attempts: dict[str, bytes], call: Callable[[], object]) -> bytes:
    """Functions by attempt, with what they require."""
    blobs = [cloudpickle.dumps(call), b"", b"{}", *attempts.values()]
    rows = [
        Row(attempt, "t", "j", "s", "function", (), "", 0, 1, "", (), 2, "", "", 1, 3 + number)
        for number, attempt in enumerate(attempts)
    ]
    return encode({"op": "begin", "attempts": rows, "sizes": [len(blob) for blob in blobs]}, b"".join(blobs))


def stop(attempt: str) -> bytes:
    return encode({"op": "stop", "attempts": [attempt], "signal": signal.SIGTERM})


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    made = Peer(tmp_path)
    yield made
    made.close()


def leave_something() -> tuple[int, str, str]:
    import numpy  # noqa: F401  which a runner of meshd's own Python tells of

    output = os.environ["MESH_OUTPUT_DIR"]
    open(f"{output}/left", "x").close()
    return os.getpid(), output, os.environ.get("VIRTUAL_ENV", "")


def test_what_meshd_had_sent_goes_along(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        peer.send(begin({"own": b""}, leave_something))
        late = begin({"late": b"x"}, leave_something)
        some = begin({"first": b"x", "stopped": b"x", "back": b""}, leave_something)
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    header, own = peer.ended()
    assert (header[1], header[2]) == ("own", SUCCEEDED)
    peer.send(some + stop("stopped") + late[:100])
    header, first = peer.ended()
    assert (header[1], header[2]) == ("first", SUCCEEDED), header
    header, _ = peer.ended()
    assert header[1:4] == ["stopped", RELEASED, "skipped"]
    header, back = peer.ended()
    assert (header[1], header[2]) == ("back", SUCCEEDED)
    peer.send(late[100:])
    header, last = peer.ended()
    assert (header[1], header[2]) == ("late", SUCCEEDED)
    assert {value[0] for value in (own, first, back, last)} == {peer.process.pid}
    assert len({value[1] for value in (own, first, back, last)}) == 4, "each had an output directory of its own"
    assert [bool(value[2]) for value in (own, first, back, last)] == [False, True, False, True]
    # Ready once; and of what was imported only meshd's own Python tells, in both of its lives.
    assert [head for head in peer.heads if head != "ended"] == ["ready", "imported", "imported"]


def test_a_stop_that_comes_while_it_becomes_another_ends_the_attempt_alone(peer: Peer, tmp_path: Path) -> None:
    peer.send(begin({"first": b"x", "second": b"x"}, os.getpid))
    end = time.monotonic() + BOUND
    while not (tmp_path / "became").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    peer.send(stop("first"))
    os.kill(peer.process.pid, signal.SIGTERM)
    (tmp_path / "go").touch()
    header, _ = peer.ended()
    assert header[1:4] == ["first", RELEASED, "skipped"]
    header, pid = peer.ended()
    assert (header[1], header[2], pid) == ("second", SUCCEEDED, peer.process.pid)
