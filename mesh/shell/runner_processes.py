"""Starting and ending runner processes, and the channel to one.

Two launchers of one shape: :class:`ZygoteLauncher` (Linux) and :class:`SpawnLauncher` (anywhere). Neither knows what
an attempt is.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import psutil

import mesh
from mesh.task.frames import READ_BYTES, FrameReader
from mesh.task.processes import LINUX, kill_tree, send_signal

KILL_AFTER = 2.0  # a process that was asked to go is given this long
_MESSAGE_BYTES = 1 << 16
_ROOM = memoryview(bytearray(READ_BYTES))  # of all channels: recv() would map and unmap as much for each read


class Launcher(Protocol):
    """``on_died(runner, status)`` is called once for each started runner, with status as subprocess writes it."""

    def start(self, runner: str, control: socket.socket, preload: list[str]) -> None: ...
    def pid(self, runner: str) -> int: ...
    def kill(self, runner: str) -> None: ...
    def rest(self) -> None: ...
    async def close(self) -> None: ...


class Channel:
    """Frames to and from one runner, on the loop."""

    def __init__(self, connection: socket.socket, on_frames: Callable[[Iterator[tuple[Any, bytes]]], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = connection
        self._on_frames = on_frames
        self._frames = FrameReader()
        self._unsent: deque[memoryview] = deque()
        connection.setblocking(False)
        self._loop.add_reader(connection, self._read)

    def send(self, data: bytes) -> None:
        waits = bool(self._unsent)
        self._unsent.append(memoryview(data))
        if not waits:
            self._write()
            if self._unsent:
                self._loop.add_writer(self._socket, self._on_writable)

    def _on_writable(self) -> None:
        self._write()
        if not self._unsent:
            self._loop.remove_writer(self._socket)

    def _write(self) -> None:
        try:
            while self._unsent:
                data = self._unsent[0]
                sent = self._socket.send(data)
                if sent < len(data):
                    self._unsent[0] = data[sent:]
                    return
                self._unsent.popleft()
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError):
            self._unsent.clear()  # it died: whoever started it hears so

    def _read(self) -> bool:
        try:
            size = self._socket.recv_into(_ROOM)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            size = 0
        if size:
            self._on_frames(self._frames.feed(bytes(_ROOM[:size])))
        else:
            self._loop.remove_reader(self._socket)  # its death is reported by its parent
        return bool(size)

    def close(self) -> None:
        """Read what is left, then close."""
        while self._socket.fileno() >= 0 and self._read():
            pass
        self.hang_up()

    def hang_up(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()

    def finish(self) -> None:
        """Let the runner see the end of what we send; it may still write."""
        with contextlib.suppress(OSError):  # it is gone already
            self._socket.shutdown(socket.SHUT_WR)


def _execute(arguments: list[str], fds: tuple[int, ...]) -> subprocess.Popen[bytes]:
    # `-m` looks in the working directory: this installation, whatever else PYTHONPATH holds. A session of its own, so
    # that Ctrl-C in meshd's terminal is meshd's to handle.
    return subprocess.Popen(
        [sys.executable, "-m", "mesh.task", *arguments, *map(str, fds)],
        cwd=Path(mesh.__file__).parent.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=fds,
        start_new_session=True,
    )


def _when_dead(process: subprocess.Popen[bytes], callback: Callable[[int], None]) -> None:
    """Call back in this loop with the status. A thread per process: portable, and it costs nothing while it waits."""
    loop = asyncio.get_running_loop()

    def wait() -> None:
        status = process.wait()
        with contextlib.suppress(RuntimeError):  # the loop was closed
            loop.call_soon_threadsafe(callback, status)

    threading.Thread(target=wait, name=f"wait-{process.pid}", daemon=True).start()


class SpawnLauncher:
    """Each runner is a child of meshd, started by exec. One that sees the end of its lifeline kills its tree."""

    def __init__(self, on_died: Callable[[str, int], None], marker: str) -> None:
        self._on_died = on_died
        self._marker = marker
        self._runners: dict[str, tuple[subprocess.Popen[bytes], int]] = {}
        self._none_left = asyncio.Event()

    def start(self, runner: str, control: socket.socket, preload: list[str]) -> None:
        """``preload`` is a zygote's matter."""
        lifeline, ours = os.pipe()
        process = _execute(["runner"], (control.fileno(), lifeline))
        os.close(lifeline)
        control.close()
        self._runners[runner] = (process, ours)
        _when_dead(process, lambda status: self._died(runner, status))

    def _died(self, runner: str, status: int) -> None:
        _, ours = self._runners.pop(runner)
        os.close(ours)
        if status:
            kill_marked(f"MESH_RUNNER_ID={runner}")  # what it started cannot be found as its descendants now
        if not self._runners:
            self._none_left.set()
        self._on_died(runner, status)

    def pid(self, runner: str) -> int:
        return self._runners[runner][0].pid

    def kill(self, runner: str) -> None:
        if runner in self._runners:
            kill_tree(self.pid(runner))

    def rest(self) -> None:
        """Nothing waits here for a next runner."""

    async def close(self) -> None:
        for runner in list(self._runners):
            self.kill(runner)
        self._none_left.clear()
        while self._runners:
            await self._none_left.wait()


class ZygoteLauncher:
    """Runners are forked by a zygote, which is started by exec on demand."""

    def __init__(self, on_died: Callable[[str, int], None], marker: str) -> None:
        self._on_died = on_died
        self._marker = marker
        self._zygote: _Zygote | None = None
        self._leaving: set[_Zygote] = set()

    def start(self, runner: str, control: socket.socket, preload: list[str]) -> None:
        if self._zygote is None:
            self._zygote = _Zygote(self._on_died, self._gone)
        self._zygote.fork(runner, control, preload)

    def _gone(self, zygote: _Zygote) -> None:
        self._leaving.discard(zygote)
        if zygote is self._zygote:  # it was killed, and its runners with it by their parent-death signal
            self._zygote = None
            kill_marked(self._marker)

    def pid(self, runner: str) -> int:
        return self._zygote.pids.get(runner, 0) if self._zygote else 0

    def kill(self, runner: str) -> None:
        if self._zygote is not None:
            self._zygote.kill(runner)

    def rest(self) -> None:
        """There are no runners, and have been none for a while."""
        if self._zygote is not None:
            zygote, self._zygote = self._zygote, None
            self._leaving.add(zygote)
            zygote.leave()

    async def close(self) -> None:
        self.rest()
        for zygote in list(self._leaving):
            await zygote.gone.wait()


class _Zygote:
    def __init__(self, on_died: Callable[[str, int], None], on_gone: Callable[[_Zygote], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_died, self._on_gone = on_died, on_gone
        self.gone = asyncio.Event()
        self.pids: dict[str, int] = {}  # 0: not forked yet
        self._unwanted: set[str] = set()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        process = _execute(["zygote"], (theirs.fileno(),))
        theirs.close()
        self._control.setblocking(False)
        self._loop.add_reader(self._control, self._read)
        _when_dead(process, self._died)

    def fork(self, runner: str, control: socket.socket, preload: list[str]) -> None:
        self.pids[runner] = 0
        message = json.dumps({"runner": runner, "preload": preload}).encode()
        try:
            socket.send_fds(self._control, [message], [control.fileno()])
        except (BrokenPipeError, ConnectionResetError):
            pass  # it is dead, and _died comes
        finally:
            control.close()

    def kill(self, runner: str) -> None:
        if pid := self.pids.get(runner, 0):
            send_signal([pid], signal.SIGKILL)  # the zygote sees to all that was below it
        elif runner in self.pids:
            self._unwanted.add(runner)

    def leave(self) -> None:
        self._loop.remove_reader(self._control)
        self._control.close()

    def _read(self) -> None:
        while True:
            try:
                data = self._control.recv(_MESSAGE_BYTES)
            except BlockingIOError:
                return
            except ConnectionResetError:
                data = b""
            if not data:
                self._loop.remove_reader(self._control)
                return
            message = json.loads(data)
            if "forked" in message:
                runner = message["forked"]
                self.pids[runner] = message["pid"]
                if runner in self._unwanted:
                    self.kill(runner)
            else:
                self._end(message["died"], message["status"])

    def _end(self, runner: str, status: int) -> None:
        self.pids.pop(runner)
        self._unwanted.discard(runner)
        self._on_died(runner, status)

    def _died(self, status: int) -> None:
        if self._control.fileno() >= 0:
            self._read()
            if self._control.fileno() >= 0:
                self.leave()
        self._on_gone(self)
        for runner in list(self.pids):
            self._end(runner, -signal.SIGKILL)
        self.gone.set()


def kill_marked(marker: str) -> None:
    """SIGKILL every process whose environment holds ``marker`` (NAME=value). Linux only: a second net for what cannot

    be found as a descendant any more, because its ancestors were killed too.
    """
    if not LINUX:
        return
    wanted = marker.encode()
    for process in psutil.process_iter():
        try:
            environment = Path(f"/proc/{process.pid}/environ").read_bytes()
        except OSError:
            continue  # gone, or another user's: then none of ours
        if wanted in environment.split(b"\0") and process.pid != os.getpid():
            send_signal([process.pid], signal.SIGKILL)
