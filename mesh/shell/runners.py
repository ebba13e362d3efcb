"""Runs attempts on this machine: one runner process per slot, started on demand.

Owns which attempt runs on which runner, what an ending means, and the limits of time and memory. Must not know what
the ledger makes of an outcome. Everything runs on meshd's loop; nothing is emitted from within a call.

- Before the first attempt there is no child process; idle runners leave after a minute, then the zygote.
- A crash fails the attempt that was running; those of its slot that were sent and had not begun are RELEASED.
- A function's runner is replaced after it was stopped, and where the next function is granted other devices.
- AttemptsBegan is emitted for what has run for 10 ms; what ends sooner is only in AttemptsEnded, with its times.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from mesh.blob.manifest import parse
from mesh.core.effects import BeginAttempts, StopAttempts
from mesh.core.events import Event
from mesh.core.ids import AttemptId
from mesh.core.lattice import FAILED, RELEASED, SUCCEEDED, Outcome
from mesh.core.reasons import size
from mesh.core.work import Work
from mesh.shell.runner_checkpoints import Checkpoints, Store
from mesh.shell.runner_events import Teller
from mesh.shell.runner_limits import Limits
from mesh.shell.runner_logs import Logs
from mesh.shell.runner_objects import Objects
from mesh.shell.runner_processes import (
    KILL_AFTER,
    Channel,
    Launcher,
    SpawnLauncher,
    ZygoteLauncher,
    kill_marked,
)
from mesh.shell.runner_results import Results
from mesh.shell.runner_slots import Live, RunnerProcess, Slot, begin_frame, crash_words, dumps, stop_frame
from mesh.shell.runner_tasks import TaskServer
from mesh.task.frames import encode
from mesh.task.functions import unkept
from mesh.task.logs import LogReader
from mesh.task.places import Place, attempt_folder, short_directory, sweep
from mesh.task.processes import LINUX, exit_words, send_signal

SIGTERM, SIGKILL = 15, 9
_CLOSING = ("drained", "meshd is stopping")
RESUMED_LATER = ("drained", "paused")  # why attempts stop that go on from a checkpoint somewhere
SAVE_GRACE = 30.0  # seconds that those have to save one more: 10 GB at 0.4 GB/s


@dataclass(frozen=True)
class RunnerOptions:
    state_dir: Path
    node: str
    name: str = ""
    mode: str = ""  # zygote or spawn; empty: MESH_RUNNER, else zygote on Linux and spawn elsewhere
    idle: float = 60.0  # seconds without an attempt after which a runner leaves, and then the zygote
    grace: float = 2.0  # seconds from SIGTERM to SIGKILL
    poll: float = 0.25  # seconds between looks at memory and captured output; metrics are batched for as long

    def chosen_mode(self) -> str:
        mode = self.mode or os.environ.get("MESH_RUNNER", "") or ("zygote" if LINUX else "spawn")
        if mode not in ("zygote", "spawn"):
            raise ValueError(f"runner mode {mode!r} is unknown; MESH_RUNNER is zygote or spawn")
        if mode == "zygote" and not LINUX:
            raise ValueError(f"a zygote needs Linux and this is {sys.platform}; set MESH_RUNNER=spawn or leave it out")
        return mode


class Runners:
    """The port that carries out BeginAttempts and StopAttempts. Construct and use it on the loop.

    ``emit`` takes events, in the loop, never from within a call; ``decode`` reads a task's payload; ``store`` has the
    objects that functions are given by reference, and takes checkpoints. The caller holds the state directory: two of
    these on one would kill each other's tasks.

    Raises:
        ValueError: the mode is unknown, or not for this system.
        OSError: the directories or the tasks' socket cannot be made.
    """

    def __init__(
        self,
        options: RunnerOptions,
        emit: Callable[[Event], None],
        decode: Callable[[bytes], Work],
        now_ms: Callable[[], int],
        store: Store,
    ) -> None:
        self._options, self._decode, self._now_ms = options, decode, now_ms
        self._loop = asyncio.get_running_loop()
        self._slots: dict[int, Slot] = {}
        self._by_runner: dict[str, Slot] = {}
        self._live: dict[AttemptId, Live] = {}
        self._state = options.state_dir.absolute()
        self._short = short_directory(self._state)
        socket_path = self._short / "tasks.sock"
        marker = f"MESH_TASK_SOCKET={socket_path}"
        kill_marked(marker)
        sweep(self._state, self._short)
        self._server = TaskServer(socket_path, self)
        launcher = ZygoteLauncher if options.chosen_mode() == "zygote" else SpawnLauncher
        self._launcher: Launcher = launcher(self._on_died, marker)
        self._life = f"{now_ms():x}"
        self._key = secrets.token_bytes(32)
        self._numbers = itertools.count(1)
        self._preload: set[str] = set()
        self._teller = Teller(emit, self._running, options.poll)
        self._limits = Limits(self._running, self._launcher.pid, self._exceed, options.poll)
        self._resting: asyncio.TimerHandle | None = None
        self._discards: set[asyncio.Future[None]] = set()
        self._sealing: set[asyncio.Task[None]] = set()
        self._objects = Objects(store)
        self._checkpoints = Checkpoints(store, emit, now_ms)
        self._results = Results(store)
        self._logs = Logs(store, self._state)
        self._none_live = asyncio.Event()
        self._closing: asyncio.Task[None] | None = None

    # -- the port

    def begin(self, effect: BeginAttempts) -> None:
        """Run these, one after another, after what this slot already has."""
        slot = self._slots.setdefault(effect.slot, Slot())
        if slot.idle is not None:
            slot.idle.cancel()
            slot.idle = None
        for assignment in effect.assignments:
            if self._closing is not None:
                self._teller.ended(assignment.attempt, RELEASED, Outcome(*_CLOSING))
                continue
            try:
                work = self._decode(assignment.task.payload)
            except Exception as error:  # noqa: BLE001  any codec's; it is reported, and the others still run
                message = f"this node cannot read the task; {error}; it was submitted by another version"
                self._teller.ended(assignment.attempt, FAILED, Outcome(type(error).__name__, message))
                continue
            live = Live(assignment, work, slot, self._secret(assignment.attempt))
            self._live[live.id] = live
            slot.queue.append(live)
        self._feed(slot)

    def stop(self, effect: StopAttempts) -> None:
        """End these: SIGTERM to the tree, SIGKILL after the grace. Those that ended meanwhile are left as they are."""
        self._stop(effect.attempts, (RELEASED, effect.code, effect.reason), self._options.grace)

    async def tail(self, attempt: AttemptId, follow: bool = True) -> AsyncIterator[bytes]:
        """What the attempt printed, in pieces; with ``follow``, until it has ended. Empty where nothing is kept."""
        reader = LogReader(attempt_folder(self._state, attempt))
        while True:
            live = self._live.get(attempt)
            capture = None
            if live is not None and not live.is_command and live is live.slot.running() and live.slot.runner:
                capture = live.slot.runner.place.capture
            if data := reader.read(capture):
                yield data
            elif live is None or not follow:
                return
            else:
                await asyncio.sleep(0.1)  # files cannot be waited for portably; people do not see a tenth of a second

    async def close(self, grace: float) -> None:
        """Stop all attempts, killing them after ``grace`` seconds, and end every child process.

        Their AttemptsEnded are emitted before this returns. Calling it again with less grace hurries it.
        """
        self._stop(tuple(self._live), (RELEASED, *_CLOSING), grace)
        for live in self._running():
            live.timers.append(self._loop.call_later(grace, self._force, live))
        if self._closing is None:
            self._closing = self._loop.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        while self._live:
            self._none_live.clear()
            await self._none_live.wait()
        for slot in self._slots.values():
            if slot.idle is not None:
                slot.idle.cancel()
            if slot.runner is not None:
                self._leave(slot.runner)
        await self._objects.close()
        await asyncio.gather(*self._sealing)
        await self._results.close()
        await self._logs.close()
        await self._checkpoints.close()
        await self._launcher.close()
        await self._server.close()
        if self._resting is not None:
            self._resting.cancel()
        self._limits.close()
        await asyncio.gather(*self._discards)
        await asyncio.sleep(0)  # what was scheduled to be emitted comes before this
        self._teller.close()
        if self._short != self._state:
            shutil.rmtree(self._short)

    # -- what tasks ask at their socket

    def _secret(self, attempt: AttemptId) -> str:
        # Drawn once and derived from then on: asking the kernel lets go of the interpreter, which the journal's thread
        # takes, just when a runner could be told to begin (0.07 ms).
        return blake2b(attempt.encode(), key=self._key, digest_size=16).hexdigest()

    def secret_of(self, attempt: AttemptId) -> str | None:
        live = self._live.get(attempt)
        return live.secret if live is not None and live is live.slot.running() else None

    def stop_asked(self, attempt: AttemptId) -> bool:
        live = self._live.get(attempt)
        return live is not None and live.stopping is not None

    def reported(self, attempt: AttemptId, metrics: dict[str, Any]) -> None:
        live = self._live.get(attempt)
        if live is None or not metrics:
            return
        live.metrics = (live.metrics or {}) | metrics
        self._teller.progressed(attempt)

    async def checkpoint(self, attempt: str, message: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        live = self._live.get(attempt)
        if live is None or live is not live.slot.running():
            raise ValueError("this attempt has ended")
        return await self._checkpoints.answer(live, message, body)

    # -- runners

    def _start_runner(self, slot: Slot) -> None:
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        name = f"{self._life}-{next(self._numbers)}"
        ours, theirs = socket.socketpair()
        runner = RunnerProcess(
            name,
            Channel(ours, lambda frames: self._on_frames(slot, runner, frames)),
            Place(self._state, self._short, name),
        )
        slot.runner, slot.sent = runner, 0
        self._by_runner[name] = slot
        self._launcher.start(name, theirs, sorted(self._preload))
        setup = {
            "state": str(self._state),
            "short": str(self._short),
            "runner": name,
            "node": self._options.node,
            "name": self._options.name,
            "task_socket": str(self._server.path),
        }
        runner.channel.send(encode({"op": "setup", "setup": setup}))

    def _feed(self, slot: Slot) -> None:
        """Give the slot's runner all that it may have."""
        if not slot.queue:
            self._idle(slot)
            return
        if slot.runner is None:
            self._start_runner(slot)
        runner = slot.runner
        assert runner is not None
        if runner.leaving:
            return  # _on_died goes on
        batch = []
        for live in itertools.islice(slot.queue, slot.sent, None):
            if not live.is_command:
                if runner.cuda not in (None, live.cuda):
                    break
                runner.cuda = live.cuda
            live.sent = True
            batch.append(live)
        if batch:
            first = slot.sent == 0
            slot.sent += len(batch)
            runner.channel.send(begin_frame(batch))
            if first and runner.ready:
                self._on_running(slot)
        elif slot.sent == 0:
            self._leave(runner)  # the first one needs a process that sees other devices

    def _leave(self, runner: RunnerProcess) -> None:
        """Ask the runner to go, which has nothing to do; kill it if it does not."""
        runner.leaving = True
        runner.channel.finish()
        self._loop.call_later(KILL_AFTER, self._kill, runner)

    def _kill(self, runner: RunnerProcess) -> None:
        if runner.id in self._by_runner:
            runner.leaving = runner.killed = True
            self._launcher.kill(runner.id)

    def _idle(self, slot: Slot) -> None:
        if slot.runner is not None and not slot.runner.leaving and slot.idle is None:
            slot.idle = self._loop.call_later(self._options.idle, self._leave, slot.runner)

    def _on_frames(self, slot: Slot, runner: RunnerProcess, frames: Iterator[tuple[Any, bytes]]) -> None:
        before = slot.running()
        for header, body in frames:
            match header[0]:
                case "ended":
                    self._on_ended(slot, runner, header, body)
                case "progress":
                    self.reported(header[1], header[2])
                case "fetch":
                    self._objects.ask(header[1], header[2], header[3], runner.channel)
                case "open":
                    self._results.ask(header[1], runner.channel)
                case "ready":
                    runner.ready = True
                case "imported":
                    self._preload.update(header[1])
        if runner.leaving or runner.dead:
            return  # _on_died goes on
        if slot.running() is not before:
            self._on_running(slot)
        if slot.sent == 0:
            self._feed(slot)
        if not self._live:
            self._teller.tell_ended()  # nothing runs; while anything does, endings gather for a turn of the loop

    def _on_ended(self, slot: Slot, runner: RunnerProcess, header: list[Any], result: bytes) -> None:
        _, attempt, phase, code, message, detail, metrics, started_ms, finished_ms, micros, digest, retires = header[
            :12
        ]
        blob, log = header[12:]
        live = slot.queue.popleft()
        assert live.id == attempt, f"runner {runner.id} ended {attempt} where {live.id} ran"
        slot.sent -= 1
        if retires:
            runner.leaving = True
            self._loop.call_later(KILL_AFTER, self._kill, runner)
        if metrics:
            live.metrics = (live.metrics or {}) | metrics
        if live.stopping is not None:
            phase, code, message = live.stopping
            result, digest, blob = b"", "", ""
        told = dumps(live.metrics) if live.metrics else b""
        manifest, result = (result, b"") if blob else (b"", result)
        outcome = Outcome(code, message, detail, result, digest, told, started_ms, finished_ms, micros, blob, log)
        if log:
            self._logs.add(attempt, log)
        if blob:
            self._results.keep(live.id, manifest, lambda error: self._tell_result(live, outcome, manifest, error))
        self._forget(live)
        if not blob:
            self._tell_ended(live, phase, outcome)

    def _tell_result(self, live: Live, outcome: Outcome, manifest: bytes, error: Exception | None) -> None:
        """Its result is on as many nodes as it should be; or this one could not take it."""
        phase = SUCCEEDED
        if error is not None:
            phase, code, message, *_ = unkept(error, parse(manifest, outcome.blob).size)
            outcome = outcome._replace(code=code, message=message, digest="", blob="")
        self._tell_ended(live, phase, outcome)

    def _tell_ended(self, live: Live, phase: int, outcome: Outcome) -> None:
        """Once its checkpoints are complete, unless nobody goes on from them or meshd has no time for it."""
        hurry = outcome.code == "recalled" or self._closing is not None
        self._checkpoints.ended(live.id, lambda: self._teller.ended(live.id, phase, outcome), hurry=hurry)

    def _on_died(self, name: str, status: int) -> None:
        slot = self._by_runner.pop(name)
        runner = slot.runner
        assert runner is not None
        runner.dead = True
        runner.channel.close()  # which reads what it still wrote
        head = slot.running()
        slot.runner = None
        sent, slot.sent = slot.sent, 0
        crashed = not runner.leaving
        running = head if crashed or runner.killed else None
        runner.place.salvage(running.id if running is not None else "")
        discard = self._loop.run_in_executor(None, runner.place.discard)
        self._discards.add(discard)
        discard.add_done_callback(self._discards.discard)
        for number, live in enumerate(list(itertools.islice(slot.queue, sent))):
            if live.stopping is not None:
                self._drop(live, *live.stopping, ran=live is running)
            elif number == 0 and crashed:
                self._drop(live, FAILED, *crash_words(status, runner.ready), ran=live is running)
            elif crashed or (number == 0 and runner.killed and runner.ready):
                why = f"the runner ended with {exit_words(status)[1]} before this attempt was done"
                self._drop(live, RELEASED, "runner_died", why)
            else:
                live.sent = False
        if slot.idle is not None:
            slot.idle.cancel()
            slot.idle = None
        self._feed(slot)
        if not self._by_runner and self._resting is None:
            self._resting = self._loop.call_later(self._options.idle, self._launcher.rest)

    # -- the attempt that runs

    def _on_running(self, slot: Slot) -> None:
        """Another attempt runs on this slot now, or none."""
        live = slot.running()
        if live is None:
            return
        live.began_ms = self._now_ms()
        self._teller.began()
        self._limits.began()
        if live.stopping is not None:
            self._press(live, self._options.grace)
        elif timeout := live.assignment.task.shape.timeout_ms:
            live.timers.append(self._loop.call_later(timeout / 1000, self._expire, live))

    def _stop(self, attempts: tuple[AttemptId, ...], how: tuple[int, str, str], grace: float) -> None:
        asked: dict[int, list[Live]] = {}
        for attempt in attempts:
            live = self._live.get(attempt)
            if live is None or live.stopping is not None:
                continue
            live.stopping = how
            if live.sent:
                asked.setdefault(id(live.slot), []).append(live)
            else:
                self._drop(live, *how)
        for lives in asked.values():
            slot = lives[0].slot
            assert slot.runner is not None
            slot.runner.channel.send(stop_frame(lives, SIGTERM))
            if (running := slot.running()) in lives:
                to_save = how[1] in RESUMED_LATER and self._checkpoints.used(running.id)
                self._press(running, max(grace, SAVE_GRACE) if to_save else grace)

    def _press(self, live: Live, grace: float) -> None:
        """The runner has been sent a stop of what it runs; see that it is obeyed."""
        runner = live.slot.runner
        assert runner is not None
        self._server.stop(live.id)
        if not live.is_command and (pid := self._launcher.pid(runner.id)):
            send_signal([pid], SIGTERM)  # it reads the frame and learns whether it is meant
        live.timers.append(self._loop.call_later(grace, self._force, live))

    def _force(self, live: Live) -> None:
        if live.slot.runner is None or live is not live.slot.running():
            return
        if live.is_command:
            live.slot.runner.channel.send(stop_frame([live], SIGKILL))
            live.timers.append(self._loop.call_later(KILL_AFTER, self._kill, live.slot.runner))
        else:
            self._kill(live.slot.runner)

    def _expire(self, live: Live) -> None:
        seconds = live.assignment.task.shape.timeout_ms / 1000
        message = f"it ran longer than its timeout of {seconds:g} s; raise the timeout or do less in one task"
        self._stop((live.id,), (FAILED, "timeout", message), self._options.grace)

    def _exceed(self, live: Live, used: int) -> None:
        allowed = live.assignment.memory
        message = f"it used {size(used)} of memory and was allowed {size(allowed)}; ask for more with resources.memory"
        self._stop((live.id,), (FAILED, "memory", message), 0.0)

    def _running(self) -> Iterator[Live]:
        for slot in self._slots.values():
            if (live := slot.running()) is not None:
                yield live

    # -- endings

    def _drop(self, live: Live, phase: int, code: str, message: str, *, ran: bool = False) -> None:
        """End an attempt that no runner will answer for. ``ran``: it may have printed something."""
        live.slot.queue.remove(live)
        self._forget(live)
        now = self._now_ms()
        metrics = dumps(live.metrics) if live.metrics else b""
        began = live.began_ms or now
        outcome = Outcome(code, message, "", b"", "", metrics, began, now, (now - began) * 1000)
        if ran:
            sealing = self._loop.create_task(self._seal(live, phase, outcome))
            self._sealing.add(sealing)
            sealing.add_done_callback(self._sealing.discard)
        else:
            self._tell_ended(live, phase, outcome)

    async def _seal(self, live: Live, phase: int, outcome: Outcome) -> None:
        self._tell_ended(live, phase, outcome._replace(log=await self._logs.seal(live.id)))

    def _forget(self, live: Live) -> None:
        del self._live[live.id]
        self._objects.ended(live.id)
        self._results.ended(live.id)
        for timer in live.timers:
            timer.cancel()
        if not self._live:
            self._none_live.set()
