"""A runner: the process that executes attempts, one after another, for one slot of meshd.

Owns the attempt's environment, directories and capture. Must not know about gRPC, the ledger or other nodes; all it
hears comes in frames on its control socket, and the end of that socket is the end of meshd, hence its own.

It is a subreaper, so all that an attempt left descends from it; it is single-threaded where a zygote forked it. Where
it was spawned one more thread waits for the end of meshd, for the main thread may be busy in a function.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mesh.blob.objects import Ref, load
from mesh.core.errors import BlobMissing, MeshError, QuotaExceeded, error_named
from mesh.core.lattice import FAILED, RELEASED, SUCCEEDED
from mesh.core.work import COMMAND
from mesh.task import api, checkpoints, environments, rebirth
from mesh.task.commands import Command
from mesh.task.frames import READ_BYTES, FrameReader, Row, encode
from mesh.task.functions import Ended, Functions, Stopped, failed, succeeded
from mesh.task.node_store import NodeStore
from mesh.task.places import Place, attempt_folder, seal
from mesh.task.processes import (
    become_subreaper,
    descendants,
    end_children,
    flush_c_streams,
    has_children,
    kill_below,
    send_signal,
)

if TYPE_CHECKING:
    pass

DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
PARAMS_LIMIT = 100_000  # Linux takes 128 KiB in one environment string
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


class _MeshdGone(Exception):
    """The control socket has ended."""


class Runner:
    def __init__(self, control: socket.socket, lifeline: int = -1, unread: bytes = b"") -> None:
        self._control, self._lifeline = control, lifeline
        self._unread = unread  # of a process that this one goes on for
        self._frames = FrameReader()
        self._room = memoryview(bytearray(READ_BYTES))  # recv() would map and unmap as much for each frame
        self._queue: deque[tuple[Row, list[bytes]]] = deque()
        self._signals: dict[str, int] = {}  # attempts that are to stop, and the signal to stop them with
        self._lock = threading.Lock()  # a function may report from its threads
        self._functions = Functions()
        self._place: Place
        self._node = ""
        self._setting: dict[str, Any] = {}  # what it was set up with
        self._own = environments.own()
        self._home: Path | None = None  # the environment that this process is of; None: meshd's own
        self._base = {key: value for key, value in os.environ.items() if not _ours(key)}
        self._applied: dict[str, str] = {}
        self._current: api.Current | None = None  # the function that runs now
        self._in_function = False
        self._running = ""
        self._store = NodeStore(self._answered)
        self._fetched: tuple[dict[str, Any], bytes] | None = None  # the answer to the last "fetch" or "open"
        self._retires = False
        self._capture = -1

    def serve(self) -> None:
        """Run attempts until meshd closes the control socket or this runner must be replaced."""
        os.environ.clear()
        os.environ.update(self._base)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        signal.signal(signal.SIGINT, self._on_sigint)
        rebirth.take_signals()
        try:
            unread, self._unread = self._unread, b""
            self._take(unread)
            while not self._retires:
                self._receive(block=not self._queue)
                if self._queue:
                    self._run(*self._queue.popleft())
        except _MeshdGone:
            pass  # nothing to finish, nobody to tell

    def _receive(self, block: bool) -> None:
        """Read what meshd sent; between attempts without waiting, so that a stop comes before a beginning."""
        try:
            size = self._control.recv_into(self._room, 0, 0 if block else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except ConnectionResetError as error:
            raise _MeshdGone from error
        if not size:
            raise _MeshdGone
        self._take(bytes(self._room[:size]))

    def _take(self, data: bytes) -> None:
        for header, body in self._frames.feed(data):
            match header["op"]:
                case "begin":
                    blobs, at = [], 0
                    for size in header["sizes"]:
                        blobs.append(body[at : at + size])
                        at += size
                    self._queue.extend((Row(*row), blobs) for row in header["attempts"])
                case "stop":
                    held = {self._running, *(row.attempt for row, _ in self._queue)}
                    for attempt in held.intersection(header["attempts"]):
                        self._signals[attempt] = header["signal"]
                case "fetched" | "opened":
                    self._fetched = header, body
                case "setup":
                    self._setup(**header["setup"])

    def _send(self, header: object, body: bytes = b"") -> None:
        with self._lock:
            try:
                self._control.sendall(encode(header, body))
            except (BrokenPipeError, ConnectionResetError) as error:
                raise _MeshdGone from error

    def _setup(
        self,
        state: str,
        short: str,
        runner: str,
        node: str,
        name: str,
        task_socket: str,
        outputs: int = 0,
        home: str = "",
        own: list[Any] | None = None,
    ) -> None:
        """The last three are of a process that this one goes on for."""
        self._setting = {
            "state": state, "short": short, "runner": runner, "node": node, "name": name, "task_socket": task_socket,
        }  # fmt: skip
        if own is not None:
            self._own = environments.Own(own[0], tuple(own[1]))
            self._home = Path(home) if home else None
        self._place = Place(Path(state), Path(short), runner, outputs)
        self._place.prepare()
        self._open_capture()
        self._node = node
        self._base.setdefault("PYTHONUNBUFFERED", "1")  # or a Python program's output is seen only at its end
        self._base.update(
            MESH_NODE=node,
            MESH_NODE_NAME=name,
            MESH_RUNNER_ID=runner,
            MESH_TASK_SOCKET=task_socket,
            TMPDIR=self._place.tmp,
        )
        os.environ.update(self._base)
        if own is None:
            self._send(["ready", os.getpid()])

    def _open_capture(self) -> None:
        old, flags = self._capture, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._capture = os.open(self._place.capture, flags, 0o600)
        self._redirect()
        if old >= 0:
            os.close(old)

    def _redirect(self) -> None:
        os.dup2(self._capture, 1)
        os.dup2(self._capture, 2)

    # -- one attempt

    def _run(self, row: Row, blobs: list[bytes]) -> None:
        if row.attempt in self._signals:
            self._end(row, Ended(RELEASED, "skipped"), None, _now_ms(), 0)
            return
        self._running = row.attempt  # from here on it can be stopped
        try:
            cwd = self._store.shipped(self._place.state, row) if row.files else row.cwd
            home, unbuilt = self._built(blobs[row.requirements])
        except Stopped:
            self._end(row, Ended(RELEASED, "skipped"), None, _now_ms(), 0)
            return
        except (BlobMissing, QuotaExceeded, OSError) as error:
            # No failure of the task: another node may have room, or its holder be back when it is tried again.
            self._end(row, Ended(RELEASED, "refused", f"its files are not here: {error}"), None, _now_ms(), 0)
            return
        except MeshError as error:
            self._end(row, failed(error), None, _now_ms(), 0)
            return
        if unbuilt is not None:
            self._end(row, unbuilt, None, _now_ms(), 0)
            return
        if row.kind != COMMAND and home != self._home:
            self._go_on_as(home, row, blobs)
        if cwd and not os.path.isdir(cwd):
            # No failure of the task: another node may have it, and the leader asks this one again later.
            message = f"the working directory {cwd} does not exist on this node"
            self._end(row, Ended(RELEASED, "refused", message), None, _now_ms(), 0)
            return
        params = blobs[row.params]
        if len(params) > PARAMS_LIMIT:
            message = f"the parameters have {len(params)} bytes; at most {PARAMS_LIMIT} fit in a program's environment"
            self._end(row, Ended(FAILED, "params_too_large", message), None, _now_ms(), 0)
            return
        env = self._environment(row, params.decode(), home)
        started_ms, started = _now_ms(), time.perf_counter_ns()
        metrics: api.Metrics | None = None
        if row.kind == COMMAND:
            command = Command(
                row.argv,
                cwd or self._place.output,
                self._base | env,
                row.metric,
                attempt_folder(self._place.state, row.attempt),
                environments.python_of(home) if home is not None else self._own.python,
            )
            ended = command.run(
                self._control.fileno(),
                lambda: self._stop_of(row.attempt),
                lambda values: self._send(["progress", row.attempt, values]),
            )
            metrics = command.metrics.values or None
            if command.printed:
                ended = ended._replace(log=self._sealed(row.attempt))
        else:
            ended = self._call(row, blobs, env, cwd)
        micros = (time.perf_counter_ns() - started) // 1000
        self._place.after(row.attempt)
        if ended.large:
            ended = self._store.keep(row.attempt, ended)
        self._end(row, ended, metrics, started_ms, micros)

    def _end(self, row: Row, ended: Ended, metrics: api.Metrics | None, started_ms: int, micros: int) -> None:
        self._running = ""
        self._signals.pop(row.attempt, None)
        finished = started_ms + micros // 1000
        phase, code, message, detail, result, digest, blob, _, log = ended
        self._send(
            ["ended", row.attempt, phase, code, message, detail, metrics, started_ms, finished, micros, digest,
             self._retires, blob, log],
            result,
        )  # fmt: skip

    def _environment(self, row: Row, params: str, home: Path | None) -> dict[str, str]:
        env = {name: str(row.threads) for name in THREAD_VARIABLES if name not in self._base}
        env.update(row.env)
        if home is not None:
            env.update(environments.variables(home, env.get("PATH", self._base.get("PATH", ""))))
        env["MESH_TASK_ID"] = row.task
        env["MESH_JOB_ID"] = row.job
        env["MESH_ATTEMPT"] = row.attempt
        env["MESH_TASK_SECRET"] = row.secret
        env["MESH_PARAMS"] = params
        env["MESH_OUTPUT_DIR"] = self._place.output
        env["CUDA_VISIBLE_DEVICES"] = row.cuda
        return env

    def _stop_of(self, attempt: str) -> int:
        self._receive(block=False)
        return self._signals.pop(attempt, 0)

    def _built(self, requirements: bytes) -> tuple[Path | None, Ended | None]:
        """The environment with these, None for meshd's own; or how an attempt ends that cannot have it."""
        if not requirements:
            return None, None
        from mesh.task.environment_build import Environments, Unbuilt  # as with the store's files

        try:
            return Environments(self._place.state, self._own, self._base, self._pause).home(requirements.decode()), None
        except Unbuilt as error:
            return None, error.ended

    def _pause(self, seconds: float) -> None:
        """Raises Stopped where the attempt that runs is to end."""
        select.select([self._control], [], [], seconds)
        if self._stop_of(self._running):
            self._stop_now()

    def _go_on_as(self, home: Path | None, row: Row, blobs: list[bytes]) -> NoReturn:
        """Be a process of that environment, and do there what is to be done."""
        self._queue.appendleft((row, blobs))
        setup = self._setting | {"outputs": self._place.outputs - 1, "home": str(home or ""), "own": self._own}
        unread = rebirth.frames(setup, self._queue, self._signals) + self._frames.rest()
        python = environments.python_of(home) if home is not None else self._own.python
        rebirth.be(python, self._control.fileno(), self._lifeline, unread, self._base)

    def _call(self, row: Row, blobs: list[bytes], env: dict[str, str], cwd: str) -> Ended:
        self._apply(env)
        current = api.Current(row.task, row.attempt, self._node, env["MESH_PARAMS"], self._reporter(row.attempt))
        api.enter(current)
        pid = os.getpid()
        try:
            self._current = current
            self._in_function = True
            os.chdir(cwd or self._place.output)
            self._functions.enter(cwd)
            self._functions.limit_threads(os.environ.get("OMP_NUM_THREADS", ""))
            value = self._functions.prepare(
                row.kind,
                row.target,
                blobs[row.function],
                blobs[row.arguments],
                lambda ref: self._fetch(row.attempt, ref),
            )()
            self._in_function = False
            ended = succeeded(value)
        except _MeshdGone:
            raise
        except BaseException as error:  # noqa: BLE001  whatever a function raises is its outcome
            self._in_function = False
            ended = failed(error)
        ended = self._saved(ended)
        if os.getpid() != pid:
            os._exit(0)  # a child that the function forked and that returned into its parent's code
        self._current = None
        api.enter(None)
        if self._after_call(row.attempt, current):
            ended = ended._replace(log=self._sealed(row.attempt))
        return ended

    @staticmethod
    def _saved(ended: Ended) -> Ended:
        """Once its last checkpoint is written; a function that lost it has not succeeded."""
        try:
            checkpoints.finish()
        except Exception as error:  # noqa: BLE001  whatever it is, it is an outcome of the function
            if ended.phase == SUCCEEDED:
                return failed(error)
            os.write(2, f"{checkpoints.lost(error)}\n".encode())  # the function may have closed sys.stderr
        return ended

    def _fetch(self, attempt: str, ref: Ref) -> Any:
        """The object, from the node's store, where meshd sees that it is. It stays there until this attempt ends."""
        self._in_function = False  # a stop waits until its frame was read here
        value = load(ref.blob, self._store.read(attempt, ref.blob))
        self._receive(block=False)
        if self._signals.pop(attempt, 0):  # it came meanwhile
            self._stop_now()
        self._in_function = True
        return value

    def _stop_now(self) -> NoReturn:
        if self._current is not None:
            self._current.stop_asked = True
        raise Stopped("this attempt was asked to stop")

    def _answered(self, question: list[Any], attempt: str, blob: str) -> tuple[dict[str, Any], bytes]:
        """Wait for what meshd answers to this. Raises Stopped, or the error that it answers."""
        self._fetched = None
        self._send(question)
        while self._fetched is None or (self._fetched[0]["attempt"], self._fetched[0]["blob"]) != (attempt, blob):
            self._receive(block=True)  # an answer to an attempt that was stopped may come yet
            if self._signals.pop(attempt, 0):
                self._stop_now()
        header, body = self._fetched
        if header["error"]:
            raise error_named(header["error"], header["message"])
        return header, body

    def _after_call(self, attempt: str, current: api.Current) -> bool:
        """Whether it printed anything."""
        self._flush()
        printed = os.fstat(self._capture).st_size > 0
        if printed:
            self._place.keep_capture(attempt)
            self._open_capture()
        else:
            self._redirect()  # the function may have left other files there
        if (imported := self._functions.leave()) and self._home is None:  # what a zygote of meshd's own Python could
            self._send(["imported", imported])
        # Processes that it left may be a pool's idle workers or anything else; nothing of an attempt outlives it, and
        # what held them in this process must not meet their death in the next attempt. A stop may have cut anything.
        if current.stop_asked or (has_children() and descendants(os.getpid())):
            self._retires = True
        return printed

    def _sealed(self, attempt: str) -> str:
        try:
            return seal(self._place.state, attempt)
        except OSError as error:
            if error.errno not in DISK_ERRORS:
                raise
            return ""  # its log stays on this node alone; its result need not

    @staticmethod
    def _flush() -> None:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (AttributeError, OSError, ValueError):
                sys.stdout, sys.stderr = _stream(1), _stream(2)  # the function closed or replaced them
        flush_c_streams()

    def _reporter(self, attempt: str) -> Callable[[api.Metrics], None]:
        def send(metrics: api.Metrics) -> None:
            self._send(["progress", attempt, metrics])
            self._raise_if_stopped()

        return send

    def _raise_if_stopped(self) -> None:
        current = self._current
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and current is not None and current.stop_asked and not current.watched:
            raise Stopped("this attempt was asked to stop")

    def _apply(self, env: dict[str, str]) -> None:
        base = self._base
        for name in self._applied.keys() - env.keys():
            if name in base:
                os.environ[name] = base[name]
            else:
                os.environ.pop(name, None)
        for name, value in env.items():
            if self._applied.get(name) != value:
                os.environ[name] = value
        self._applied = env

    # -- signals

    def _on_sigterm(self, number: int, frame: object) -> None:
        """Meshd has written a stop; whether it is meant for what runs now, its frame says."""
        current = self._current
        if not self._in_function or current is None:
            return
        self._receive(block=False)
        if not self._signals.pop(current.attempt, 0):
            return
        current.stop_asked = True
        send_signal(descendants(os.getpid()), signal.SIGTERM)
        if not self._lock.locked():  # else a report is half sent; it raises when it is
            self._raise_if_stopped()

    def _on_sigint(self, number: int, frame: object) -> None:
        if self._in_function:
            raise KeyboardInterrupt


def _stream(fd: int) -> Any:
    return open(fd, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _ours(name: str) -> bool:
    """Meshd's own configuration, and its supervisor's socket, are no business of a task; where meshd is called, is."""
    return (name.startswith("MESH_") and name != "MESH_ADDRESS") or name in ("NOTIFY_SOCKET", "CUDA_VISIBLE_DEVICES")


def run(control: socket.socket, lifeline: int = -1, unread: bytes = b"") -> None:
    """Be a runner in this process until its end: at once where the disk takes nothing, and meshd starts another."""
    become_subreaper()
    sys.stdout, sys.stderr = _stream(1), _stream(2)
    try:
        Runner(control, lifeline, unread).serve()
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        end_children()
        sys.exit(f"meshd: a runner ends, for the state directory takes nothing: {error}")
    end_children()


def _end_with(lifeline: int) -> None:
    """In a thread of a spawned runner: meshd holds the other end of this pipe and never writes."""
    os.read(lifeline, 1)
    kill_below(os.getpid())
    os._exit(0)


def main(control: int, lifeline: int, handed_over: int = -1) -> None:
    """``python -m mesh.task runner CONTROL LIFELINE [HANDED_OVER]``: inherited descriptors, -1 for none."""
    os.set_inheritable(control, False)
    if lifeline >= 0:  # else a zygote started it
        os.set_inheritable(lifeline, False)
        threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    unread = rebirth.unread(handed_over) if handed_over >= 0 else b""
    run(socket.socket(fileno=control), lifeline, unread)
