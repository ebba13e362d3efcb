"""A runner goes on as a process of another Python: by exec, so its pid, its parent and its socket stay what they are.

What meshd had sent, and this process had read and not done yet, is handed over as the frames that it came in, with the
attempt that needs the other Python first. Meshd notices nothing.
"""

from __future__ import annotations

import itertools
import os
import signal
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import mesh
from mesh.task.frames import Row, encode

SIGNALS = {signal.SIGTERM, signal.SIGINT}


def frames(setup: dict[str, Any], queue: Iterable[tuple[Row, list[bytes]]], stops: Mapping[str, int]) -> bytes:
    """What a runner must read to stand where this one does."""
    found = [encode({"op": "setup", "setup": setup})]
    for _, group in itertools.groupby(queue, key=lambda item: id(item[1])):
        items = list(group)
        blobs = items[0][1]
        header = {"op": "begin", "attempts": [row for row, _ in items], "sizes": [len(blob) for blob in blobs]}
        found.append(encode(header, b"".join(blobs)))
    found += [encode({"op": "stop", "attempts": [attempt], "signal": number}) for attempt, number in stops.items()]
    return b"".join(found)


def be(python: str, control: int, lifeline: int, unread: bytes, env: dict[str, str]) -> NoReturn:
    """``lifeline``: -1 where there is none. Raises OSError: there is no such Python, or the disk is full."""
    file = tempfile.TemporaryFile(dir=env["TMPDIR"])  # noqa: SIM115  it outlives this program
    file.write(unread)
    file.flush()
    file.seek(0)
    for fd in (control, lifeline, file.fileno()):
        if fd >= 0:
            os.set_inheritable(fd, True)
    # Until the other program has its handlers, a stop would kill it. What is blocked stays so, and comes then.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    os.chdir(Path(mesh.__file__).parent.parent)  # where `-m` looks first: this installation
    arguments = [python, "-m", "mesh.task", "runner", str(control), str(lifeline), str(file.fileno())]
    os.execve(python, arguments, env)


def unread(fd: int) -> bytes:
    """What :func:`be` handed over."""
    with open(fd, "rb") as file:
        return file.read()


def take_signals() -> None:
    """Once there are handlers."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
