"""A zygote on its own, spoken to as meshd does."""

from __future__ import annotations

import json
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import cloudpickle
import pytest

from mesh.task.frames import READ_BYTES, FrameReader, Row, encode
from mesh.task.processes import LINUX

pytestmark = pytest.mark.skipif(not LINUX, reason="a zygote needs Linux")

ROOT = Path(__file__).parent.parent.parent
BOUND = 30.0
# As after a preload of something that imports numpy.random; scikit-learn does, and takes seconds.
PROGRAM = "import sys, numpy.random; from mesh.task import zygote; zygote.main(int(sys.argv[1]))"


def drawn_by_a_runner(zygote: socket.socket, state: Path, name: str) -> list[float]:
    def draw() -> list[float]:
        import random

        import numpy as np

        return [random.random(), float(np.random.random())]

    ours, theirs = socket.socketpair()
    ours.settimeout(BOUND)
    with ours:
        with theirs:
            socket.send_fds(zygote, [json.dumps({"runner": name, "preload": []}).encode()], [theirs.fileno()])
        setup = {"state": str(state), "short": str(state), "runner": name, "node": "n", "name": "n", "task_socket": ""}
        ours.sendall(encode({"op": "setup", "setup": setup}))
        row = Row("1.1", "t", "j", "s", "function", (), "", 0, 1, "", (), 2, "", "", 1, 1)
        blobs = [cloudpickle.dumps(draw), b"", b"{}"]
        begin = {"op": "begin", "attempts": [row], "sizes": [len(blob) for blob in blobs]}
        ours.sendall(encode(begin, b"".join(blobs)))
        reader = FrameReader()
        while data := ours.recv(READ_BYTES):
            for header, body in reader.feed(data):
                if header[0] == "ended":
                    assert header[2] == 2, header
                    return pickle.loads(body)  # type: ignore[no-any-return]
    raise AssertionError("the runner ended without an answer")


def test_an_end_with_unread_messages_is_an_end_all_the_same() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(BOUND)
    runner, its = socket.socketpair()
    runner.settimeout(BOUND)
    with ours, runner:
        with theirs:
            command = [sys.executable, "-m", "mesh.task", "zygote", str(theirs.fileno())]
            zygote = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()])
        with its:
            socket.send_fds(ours, [json.dumps({"runner": "one", "preload": []}).encode()], [its.fileno()])
        ours.recv(READ_BYTES, socket.MSG_PEEK)  # it was told of the fork, and it stays unread
        ours.close()
        assert zygote.wait(BOUND) == 0
        assert runner.recv(1) == b""  # and the runner is gone


def test_runners_of_one_zygote_draw_different_numbers(tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(BOUND)
    with ours:
        with theirs:
            command = [sys.executable, "-c", PROGRAM, str(theirs.fileno())]
            zygote = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()])
        one, two = drawn_by_a_runner(ours, tmp_path, "one"), drawn_by_a_runner(ours, tmp_path, "two")
        assert one[0] != two[0]
        assert one[1] != two[1]
        told = [json.loads(ours.recv(READ_BYTES)) for _ in range(4)]
        pids = {message["forked"]: message["pid"] for message in told if "forked" in message}
        assert pids.keys() == {"one", "two"}
        assert {message["died"]: message["status"] for message in told if "died" in message} == {"one": 0, "two": 0}
    assert zygote.wait(BOUND) == 0  # the end of its socket is the end of it
    for pid in pids.values():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
