"""Running a command: a child process with its output captured, its metrics parsed and its tree ended with it.

A command's metrics are stdout lines that are a JSON object with the metric's name and a number in it; the last value
of every number in such lines is kept. Whatever descends from a command is killed when the command itself has ended.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mesh.core.lattice import FAILED, SUCCEEDED
from mesh.task.api import Metrics, usable
from mesh.task.functions import Ended, clean
from mesh.task.logs import LogWriter
from mesh.task.processes import descendants, end_session, exit_words, send_signal

INTERPRETER = "${interpreter}"
READ_BYTES = 1 << 16
LINE_LIMIT = 1 << 16  # a longer line is output, never a metric
STDERR_KEPT = 4 << 10
PROGRESS_EVERY = 0.25


class MetricLines:
    """Finds the JSON lines in a stream of stdout."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._rest = b""
        self.values: Metrics = {}
        self.changed = False

    def feed(self, data: bytes) -> None:
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[:LINE_LIMIT]
        for line in lines:
            self._line(line)

    def end(self) -> None:
        self._line(self._rest)
        self._rest = b""

    def _line(self, line: bytes) -> None:
        line = line.strip()
        if not (line.startswith(b"{") and line.endswith(b"}")) or len(line) >= LINE_LIMIT:
            return
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            return  # looks like JSON and is not: output like any other
        numbers = {
            key: value for key, value in found.items() if isinstance(value, int | float) and not isinstance(value, bool)
        }
        if numbers and (not self._name or self._name in numbers):
            for key, value in numbers.items():
                self.values[key] = usable(value)
            self.changed = True


class Command:
    """One attempt's process."""

    def __init__(
        self, argv: Sequence[str], cwd: str, env: dict[str, str], metric: str, folder: Path, python: str
    ) -> None:
        self._argv = [python if item == INTERPRETER else item for item in argv]
        self._cwd, self._env = cwd, env
        self._log = LogWriter(folder)
        self._log_error = ""
        self.metrics = MetricLines(metric)
        self._stderr = b""

    @property
    def printed(self) -> bool:
        return self._log.used

    def run(self, control: int, on_control: Callable[[], int], on_progress: Callable[[Metrics], None]) -> Ended:
        """Run it to its end. ``on_control`` is called when ``control`` is readable and returns a signal or 0."""
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_read, False)
        os.set_blocking(wake_write, False)
        before = signal.signal(signal.SIGCHLD, _ignore)
        wakeup = signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        try:
            try:
                process = self._start()
            except OSError as error:
                return self._not_started(error)
            self._watch(process, wake_read, control, on_control, on_progress)
        finally:
            signal.set_wakeup_fd(wakeup)
            signal.signal(signal.SIGCHLD, before)
            os.close(wake_read)
            os.close(wake_write)
            self._log.close()
        self.metrics.end()
        return self._outcome(process.returncode)

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._argv,
            bufsize=0,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self._cwd,
            env=self._env,
            # No preexec_fn for a parent-death signal: that takes a fork instead of a vfork, 3.9 ms instead of 0.8.
            # If this runner dies, the zygote or meshd kills this process, and if all are gone the next meshd does.
            start_new_session=True,
        )

    def _not_started(self, error: OSError) -> Ended:
        program = self._argv[0]
        if isinstance(error, FileNotFoundError):
            path = self._env.get("PATH", "")
            message = (
                f"program {program!r} was not found on this node; looked in PATH={path}; install it or give its path"
            )
            return Ended(FAILED, "not_found", message)
        return Ended(FAILED, type(error).__name__, f"program {program!r} could not be started: {error.strerror}")

    def _watch(
        self,
        process: subprocess.Popen[bytes],
        wake: int,
        control: int,
        on_control: Callable[[], int],
        on_progress: Callable[[Metrics], None],
    ) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        streams = {process.stdout.fileno(): True, process.stderr.fileno(): False}  # fd -> whether it is stdout
        for fd in streams:
            os.set_blocking(fd, False)
        with process, selectors.DefaultSelector() as selector:
            for fd in (*streams, wake, control):
                selector.register(fd, selectors.EVENT_READ)
            told = 0.0
            try:
                while process.poll() is None:
                    due = max(0.0, told + PROGRESS_EVERY - time.monotonic()) if self.metrics.changed else None
                    for key, _ in selector.select(due):
                        if key.fd == wake:
                            os.read(wake, 64)
                        elif key.fd == control:
                            if number := on_control():
                                send_signal(descendants(os.getpid()), number)
                        elif self._read(key.fd, streams[key.fd]) == 0:
                            selector.unregister(key.fd)
                    if self.metrics.changed and time.monotonic() - told >= PROGRESS_EVERY:
                        self.metrics.changed = False
                        told = time.monotonic()
                        on_progress(self.metrics.values)
            finally:
                end_session(process)  # if it still runs, this runner is ending
            for fd, is_stdout in streams.items():
                while self._read(fd, is_stdout) > 0:
                    pass

    def _read(self, fd: int, is_stdout: bool) -> int:
        """How many bytes: 0 at the end, -1 where there are none now."""
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return -1
        try:
            self._log.write(data)
        except OSError as error:  # a full disk must not end hours of work whose result is elsewhere
            self._log_error = f"its output was not kept: {error.strerror}"
        if is_stdout:
            self.metrics.feed(data)
        elif data:
            self._stderr = (self._stderr + data)[-STDERR_KEPT:]
        return len(data)

    def _outcome(self, status: int) -> Ended:
        if status == 0:
            return Ended(SUCCEEDED, message=self._log_error)
        code, words = exit_words(status)
        stderr = clean(self._stderr.decode("utf-8", "replace"), STDERR_KEPT)
        last = " | ".join(line for line in stderr.splitlines()[-3:] if line.strip())
        message = f"the command ended with {words}" + (f"; last on stderr: {clean(last, 500)}" if last else "")
        message += self._log_error and f"; {self._log_error}"
        return Ended(FAILED, code, message, stderr)


def _ignore(number: int, frame: object) -> None:
    """SIGCHLD must have a handler for its wakeup to be written; a default or ignored one is not."""
