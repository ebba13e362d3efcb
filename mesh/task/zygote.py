"""The zygote: forks runners in milliseconds, and is where everything that an attempt starts ends up. Linux only.

Started by exec on first demand, single-threaded, so that forking is safe, which in meshd with gRPC in it is not. As a
child subreaper it inherits all that outlived its runner, however it detached, and kills it. The end of its control
socket is the end of meshd: it kills every descendant and goes.

It imports ahead what recent functions imported, of a list of packages known to be slow to import and safe to fork
after; no card is ever touched here.

The socket keeps message boundaries. In: ``{"runner": ID, "preload": [module...]}`` with the runner's control
descriptor. Out: ``{"forked": ID, "pid": n}`` and ``{"died": ID, "status": n}``, with status as subprocess writes it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import socket
import sys

from mesh.task.functions import PRELOADABLE, can_limit_threads
from mesh.task.processes import become_subreaper, children, die_with_parent, end_children, send_signal
from mesh.task.runner import run

MESSAGE_BYTES = 1 << 16


class Zygote:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._runners: dict[int, str] = {}
        self._refused: set[int] = set()  # orphans that run as another user
        self._tried: set[str] = set()

    def serve(self) -> socket.socket | None:
        """Fork and reap until meshd is gone. Returns a control socket in a forked runner, None in the zygote."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        # Handlers, for an ignored signal would stay ignored in what runners execute. A supervisor that signals the
        # whole group must not cut short what meshd is draining: only the socket ends a zygote.
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, _ignore)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(wake_read, select.POLLIN)
        while True:
            ready = [fd for fd, _ in poll.poll()]
            if wake_read in ready:
                os.read(wake_read, MESSAGE_BYTES)
                self._reap()
            if self._control.fileno() in ready:
                try:
                    data, fds, _, _ = socket.recv_fds(self._control, MESSAGE_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
                except ConnectionResetError:
                    return None  # meshd ended before it read all that it was told
                if not data:
                    return None
                runner = self._fork(json.loads(data), fds[0])
                if runner is not None:
                    signal.set_wakeup_fd(-1)
                    os.close(wake_read)
                    os.close(wake_write)
                    self._control.close()
                    return runner

    def _fork(self, asked: dict[str, object], fd: int) -> socket.socket | None:
        preload = asked["preload"]
        assert isinstance(preload, list)
        self._preload(preload)
        zygote = os.getpid()
        pid = os.fork()
        if pid == 0:
            os.setsid()
            die_with_parent()
            if os.getppid() != zygote:
                os._exit(0)
            _reseed()
            return socket.socket(fileno=fd)
        os.close(fd)
        self._runners[pid] = str(asked["runner"])
        self._tell({"forked": asked["runner"], "pid": pid})
        return None

    def _preload(self, modules: list[str]) -> None:
        for name in sorted(PRELOADABLE.intersection(modules) - self._tried) if can_limit_threads() else ():
            self._tried.add(name)
            try:
                importlib.import_module(name)
            except Exception as error:  # noqa: BLE001  any package's code; a runner that needs it will say so itself
                print(f"the zygote could not import {name} ahead: {error!r}", file=sys.stderr, flush=True)
        gc.collect()
        gc.freeze()  # a collection in a runner then does not copy these pages

    def _reap(self) -> None:
        died = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid in self._runners:
                died.append((self._runners.pop(pid), os.waitstatus_to_exitcode(status)))
        # Children that are no runners were left by one that died; what they leave comes here in turn.
        orphans = set(children(os.getpid())) - self._runners.keys()
        self._refused &= orphans
        self._refused.update(send_signal(orphans - self._refused, signal.SIGKILL))
        for runner, code in died:
            self._tell({"died": runner, "status": code})

    def _tell(self, message: dict[str, object]) -> None:
        try:
            self._control.send(json.dumps(message).encode())
        except (BrokenPipeError, ConnectionResetError):
            return  # the next read finds the end of the socket and acts on it


def _reseed() -> None:
    """Draw a seed anew where a fresh process would. The standard library does so by itself, and torch's is fixed."""
    if (numpy_random := sys.modules.get("numpy.random")) is not None:
        numpy_random.seed()


def _ignore(number: int, frame: object) -> None:
    """Only the wakeup descriptor matters."""


def main(descriptor: int) -> None:
    """``python -m mesh.task zygote CONTROL``: an inherited descriptor."""
    control = socket.socket(fileno=descriptor)
    control.set_inheritable(False)
    become_subreaper()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    zygote, runner = os.getpid(), None
    try:
        runner = Zygote(control).serve()
    finally:
        if runner is None and os.getpid() == zygote:
            end_children()
    if runner is not None:
        run(runner)
