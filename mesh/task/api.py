"""The in-task API: the attempt that this process belongs to, and its line to meshd.

A program started by a command finds its attempt in the environment and talks to meshd's Unix socket with the secret
of that attempt. In a runner the attempt is entered directly and reports go the way the result goes, so that they
cannot arrive after it; a process that a function forked falls back to the socket.

The socket speaks JSON lines. First ``{"attempt", "secret"}``; then each ``{"report": {...}}`` is answered by
``{"ok": true}`` or ``{"error": "..."}``, and ``{"stop": CODE}`` may come at any time.
"""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

from mesh.core.errors import MeshError

Metrics: TypeAlias = dict[str, int | float | None]

ANSWER_TIMEOUT = 30.0  # meshd answers in under a millisecond; a suspended machine or a debugger may hold it up


class Current:
    """The attempt that runs in this process. All fields are empty outside a mesh task."""

    def __init__(self, id: str, attempt: str, node: str, params: str, send: Callable[[Metrics], None]) -> None:
        self.id, self.attempt, self.node = id, attempt, node
        self.pid = os.getpid()
        self.send = send
        self.stop_asked = False
        self.watched = False  # should_stop was called: the task ends by itself when asked
        self._params_text = params
        self._params: dict[str, Any] | None = None

    @property
    def params(self) -> dict[str, Any]:
        if self._params is None:
            self._params = json.loads(self._params_text)
        return self._params


class Line:
    """This process's connection to meshd, made when first needed."""

    def __init__(self, path: str, attempt: str, secret: str) -> None:
        self._path, self._attempt, self._secret = path, attempt, secret
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._rest = b""
        self.stop_asked = False

    def send(self, metrics: Metrics) -> None:
        """Report, and return once meshd has it."""
        with self._lock:
            connection = self._connected()
            connection.sendall(json.dumps({"report": metrics}).encode() + b"\n")
            self._answer(connection)

    def poll(self) -> None:
        """Read what meshd sent by itself."""
        with self._lock:
            connection = self._connected()
            connection.setblocking(False)
            try:
                while data := connection.recv(4096):
                    self._take(data)
            except BlockingIOError:
                pass  # all is read
            finally:
                connection.settimeout(ANSWER_TIMEOUT)

    def _connected(self) -> socket.socket:
        if self._socket is None:
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(ANSWER_TIMEOUT)
            try:
                connection.connect(self._path)
                connection.sendall(json.dumps({"attempt": self._attempt, "secret": self._secret}).encode() + b"\n")
                self._answer(connection)
            except OSError as error:
                connection.close()
                raise MeshError("this task cannot reach its meshd", f"{self._path}: {error}") from error
            except MeshError:
                connection.close()
                raise
            self._socket = connection
        return self._socket

    def _answer(self, connection: socket.socket) -> None:
        while True:
            try:
                data = connection.recv(4096)
            except TimeoutError as error:
                raise MeshError("meshd did not answer this task", f"waited {ANSWER_TIMEOUT:.0f} s") from error
            if not data:
                raise MeshError("meshd closed the line of this task", "it stopped, or this attempt has ended")
            for message in self._take(data):
                if "error" in message:
                    raise MeshError("meshd refused this task's report", message["error"])
                if message.get("ok"):
                    return

    def _take(self, data: bytes) -> list[dict[str, Any]]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        messages = [json.loads(line) for line in lines]
        if any("stop" in message for message in messages):
            self.stop_asked = True
        return messages


_entered: Current | None = None
_from_environment: tuple[Current, Line | None] | None = None


def enter(current: Current | None) -> None:
    """For the runner: the attempt that runs from now on in this process."""
    global _entered
    _entered = current


def current() -> Current:
    return _current()[0]


def _current() -> tuple[Current, Line | None]:
    global _from_environment
    pid = os.getpid()
    if _entered is not None and _entered.pid == pid:
        return _entered, None
    if _from_environment is None or _from_environment[0].pid != pid:  # a forked process needs a line of its own
        get = os.environ.get
        line = None
        if path := get("MESH_TASK_SOCKET"):
            line = Line(path, get("MESH_ATTEMPT", ""), get("MESH_TASK_SECRET", ""))
        _from_environment = (
            Current(
                get("MESH_TASK_ID", ""),
                get("MESH_ATTEMPT", ""),
                get("MESH_NODE", ""),
                get("MESH_PARAMS", "{}"),
                line.send if line else _print,
            ),
            line,
        )
    return _from_environment


def _print(metrics: Metrics) -> None:
    print(json.dumps(metrics), flush=True)


def _number(name: str, value: Any) -> int | float | None:
    item = getattr(value, "item", None)  # numpy and torch scalars
    if item is not None:
        value = item()
    if not isinstance(value, int | float):
        raise TypeError(f"task.report({name}=...) takes a number, not {type(value).__name__}")
    return usable(int(value) if isinstance(value, bool) else value)


def usable(value: int | float | None) -> int | float | None:
    """The number, or None where no float can hold it: JSON has no NaN, and null says that there is no usable value."""
    try:
        return value if value is not None and math.isfinite(value) else None
    except OverflowError:  # an int of more than 308 digits
        return None


def report(**metrics: Any) -> None:
    """Tell the mesh how it goes. Values are numbers; the last of each name is kept, NaN and infinity as null.

    Raises:
        TypeError: a value is not a number.
        MeshError: meshd cannot be reached, or the attempt has ended.
    """
    current().send({name: _number(name, value) for name, value in metrics.items()})


def should_stop() -> bool:
    """Whether this attempt was asked to stop (cancelled, timed out, drained): finish up, for it is killed in 2 s.

    In a program started by a command the first call also takes over SIGTERM, if it still has its default action and
    this is the main thread; before that, SIGTERM ends the program at once.
    """
    now, line = _current()
    if not now.watched:
        now.watched = True
        in_main = threading.current_thread() is threading.main_thread()
        if line is not None and in_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _on_sigterm)
    if line is not None and not now.stop_asked:
        line.poll()
        now.stop_asked |= line.stop_asked
    return now.stop_asked


def _on_sigterm(number: int, frame: object) -> None:
    current().stop_asked = True


class _Checkpoint:
    """Refused by name until checkpoints are built."""

    def save(self, state: object, *, step: int = 0, metrics: dict[str, float] | None = None) -> NoReturn:
        _not_built("task.checkpoint.save")

    def load(self, default: object = None) -> NoReturn:
        _not_built("task.checkpoint.load")


def _not_built(name: str) -> NoReturn:
    raise MeshError(f"{name} is not built yet", "", "write to MESH_OUTPUT_DIR for now; it stays on this node")


checkpoint = _Checkpoint()
