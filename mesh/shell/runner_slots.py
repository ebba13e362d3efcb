"""What :mod:`mesh.shell.runners` knows of each attempt, runner process and slot, and the frames it sends of them."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import Any

from mesh.core.effects import Assignment
from mesh.core.lattice import USUAL
from mesh.core.work import COMMAND, Work
from mesh.shell.runner_processes import Channel
from mesh.task.frames import Row, encode
from mesh.task.places import Place
from mesh.task.processes import exit_words


class Live:
    """An attempt from BeginAttempts to its end."""

    __slots__ = (
        "announced", "assignment", "began_ms", "cuda", "id", "metrics", "secret", "sent", "slot", "stopping", "timers",
        "work",
    )  # fmt: skip

    def __init__(self, assignment: Assignment, work: Work, slot: Slot, secret: str) -> None:
        self.id = assignment.attempt
        self.assignment, self.work, self.slot, self.secret = assignment, work, slot, secret
        self.cuda = ",".join(device[5:] for device in assignment.devices if device.startswith("cuda:"))
        self.began_ms = 0
        self.sent = False
        self.announced = False
        self.metrics: dict[str, Any] | None = None
        self.stopping: tuple[int, str, str] | None = None  # phase, code and message that it will end with
        self.timers: list[asyncio.TimerHandle] = []

    @property
    def is_command(self) -> bool:
        return self.work.kind == COMMAND


class RunnerProcess:
    """A runner process, as long as it may still answer."""

    def __init__(self, id: str, channel: Channel, place: Place) -> None:
        self.id, self.channel, self.place = id, channel, place
        self.ready = False
        self.leaving = False  # it takes no more, and begins nothing that it has
        self.killed = False
        self.dead = False
        self.cuda: str | None = None  # what its functions may see; a process cannot change it


class Slot:
    def __init__(self) -> None:
        self.queue: deque[Live] = deque()
        self.sent = 0  # so many of the queue's first are at the runner; the first of them is the one that runs
        self.runner: RunnerProcess | None = None
        self.idle: asyncio.TimerHandle | None = None

    def running(self) -> Live | None:
        """What the runner is executing, as far as is known here."""
        runner = self.runner
        if not self.sent or runner is None or not runner.ready or (runner.leaving and not runner.killed):
            return None
        return self.queue[0]


def dumps(metrics: dict[str, Any]) -> bytes:
    return json.dumps(metrics, separators=(",", ":")).encode()


def begin_frame(lives: list[Live]) -> bytes:
    blobs: dict[bytes, int] = {}  # a function mapped over many arguments travels once
    rows = []
    for live in lives:
        work, task = live.work, live.assignment.task
        rows.append(
            Row(
                live.id,
                task.id,
                task.job,
                live.secret,
                work.kind,
                work.argv,
                work.target,
                blobs.setdefault(work.function, len(blobs)),
                blobs.setdefault(work.arguments, len(blobs)),
                work.cwd,
                _environment(live),
                blobs.setdefault(work.params, len(blobs)),
                work.metric,
                live.cuda,
                max(1, live.assignment.millicpus // 1000),
                blobs.setdefault(work.requirements.encode(), len(blobs)),
                work.files,
            )
        )
    return encode({"op": "begin", "attempts": rows, "sizes": [len(blob) for blob in blobs]}, b"".join(blobs))


def _environment(live: Live) -> tuple[tuple[str, str], ...]:
    every = live.assignment.task.shape.checkpoints.every_ms
    return live.work.env if every == USUAL.every_ms else (*live.work.env, ("MESH_CHECKPOINT_EVERY", f"{every / 1000}"))


def stop_frame(lives: list[Live], number: int) -> bytes:
    return encode({"op": "stop", "attempts": [live.id for live in lives], "signal": number})


def crash_words(status: int, ready: bool) -> tuple[str, str]:
    code, words = exit_words(status)
    if not ready:
        return "runner_failed", f"no runner could be started; it ended with {words}; see this node's log"
    if status >= 0:
        return code, f"the process that ran it ended with {words}; the task or a library called exit"
    return code, f"the process that ran it was ended by {words}"
