"""The in-task API: the attempt that this process belongs to, and its line to meshd.

A program started by a command finds its attempt in the environment and talks to meshd's Unix socket with the secret
of that attempt. In a runner the attempt is entered directly and reports go the way the result goes, so that they
cannot arrive after it; a process that a function forked falls back to the socket.
"""

from __future__ import annotations

import json
import math
import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from mesh.task.line import Line, from_environment

Metrics: TypeAlias = dict[str, int | float | None]


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
        line = from_environment()
        _from_environment = (
            Current(
                get("MESH_TASK_ID", ""),
                get("MESH_ATTEMPT", ""),
                get("MESH_NODE", ""),
                get("MESH_PARAMS", "{}"),
                _print if line is None else partial(_tell, line),
            ),
            line,
        )
    return _from_environment


def _tell(line: Line, metrics: Metrics) -> None:
    line.ask({"report": metrics})  # answered once meshd has it


def _print(metrics: Metrics) -> None:
    print(json.dumps(metrics), flush=True)


def number(value: Any) -> int | float | None:
    """A number of any library as one of Python's, or None where no float can hold it.

    Raises:
        TypeError: it is no number.
    """
    item = getattr(value, "item", None)  # numpy and torch scalars
    if item is not None:
        value = item()
    if not isinstance(value, int | float):
        raise TypeError(f"a number, not {type(value).__name__}")
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
    current().send({name: _reported(name, value) for name, value in metrics.items()})


def _reported(name: str, value: Any) -> int | float | None:
    try:
        return number(value)
    except TypeError as error:
        raise TypeError(f"task.report({name}=...) takes {error}") from None


def should_stop() -> bool:
    """Whether this attempt was asked to stop (cancelled, timed out, paused, drained): finish up.

    For it is killed in 2 s; in 30 s where it uses checkpoints and goes on from one later (paused, drained).

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
