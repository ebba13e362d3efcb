"""What tests of runners share: begin attempts, await their ends, all bounded."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import psutil

from mesh.blob.files import ChunkFiles
from mesh.blob.manifest import name, parse
from mesh.core.effects import Assignment, BeginAttempts, StopAttempts
from mesh.core.errors import MeshError
from mesh.core.events import AttemptsBegan, AttemptsEnded, AttemptsProgressed, Event
from mesh.core.lattice import USUAL, Checkpoint, Checkpointing, Outcome, Shape, Task
from mesh.core.work import CALL, COMMAND, FUNCTION, Work
from mesh.shell.runners import RunnerOptions, Runners

BOUND = 30.0  # a machine that runs everything else too is slow; nothing here waits for as long unless it is broken


def command(*argv: str, **fields: Any) -> Work:
    return Work(COMMAND, argv=argv, **fields)


def shell(script: str, **fields: Any) -> Work:
    return command("sh", "-c", script, **fields)


def function(call: Callable[..., Any], *args: Any, **fields: Any) -> Work:
    return Work(FUNCTION, function=cloudpickle.dumps(call), arguments=cloudpickle.dumps((args, {})), **fields)


def call(target: str, arguments: bytes = b"{}", **fields: Any) -> Work:
    return Work(CALL, target=target, arguments=arguments, **fields)


@dataclass
class Leased:
    of: Harness

    def release(self) -> None:
        self.of.writers -= 1


class Whole:
    """A blob that the node has."""

    def __init__(self, manifest: bytes, directory: str) -> None:
        self.manifest, self.directory = manifest, directory
        self.holds = 0

    def release(self) -> None:
        self.holds -= 1


class Harness:
    """Runners, and the store that they ask."""

    def __init__(self, state: Path, mode: str = "", **options: Any) -> None:
        self.state = state
        self.ended: dict[str, tuple[int, Outcome]] = {}
        self.order: list[str] = []
        self.began: dict[str, int] = {}
        self.progress: list[tuple[str, bytes]] = []
        self.events: list[Event] = []
        self._changed = asyncio.Condition()
        self._inside = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._number = 0
        self.objects: dict[str, Any] = {}
        self.files = ChunkFiles(state / "blobs")
        self.directory = self.files.directory
        self.writers = 0
        self.spread_to: list[tuple[str, int, str]] = []  # blobs that began to be copied, to how many, like which
        self.copied = asyncio.Event()  # copies are made from now on
        self.copied.set()
        self.opens = asyncio.Event()  # who wants to write may from now on
        self.opens.set()
        self.waiting = 0  # who want to, and may not yet
        self.refuses: MeshError | None = None  # why nothing is taken
        self.refused = 0  # and how often that was said
        self.runners = Runners(
            RunnerOptions(state, "50-NODE", "here", mode, **options),
            self._emit,
            pickle.loads,
            lambda: time.time_ns() // 1_000_000,
            self,
        )

    async def hold(self, blob: str, damaged: bool) -> Any:
        """What :attr:`objects` has of that name; and of its name with ``!`` where it was found damaged."""
        held = self.objects.get(f"{blob}!", self.objects[blob]) if damaged else self.objects[blob]
        if isinstance(held, Exception):
            raise held
        if isinstance(held, Whole):
            held.holds += 1
        return held

    async def writing(self) -> Leased:
        self.waiting += 1
        await self._notify()
        await self.opens.wait()
        self.waiting -= 1
        await self._notify()
        self.writers += 1
        return Leased(self)

    async def commit(self, manifest: bytes) -> tuple[str, int]:
        if self.refuses is not None:
            self.refused += 1
            await self._notify()
            raise self.refuses
        blob = name(manifest)
        what = parse(manifest, blob)
        for chunk in what.chunks:
            self.files.read(chunk)
        self.objects[blob] = Whole(manifest, str(self.directory))
        return blob, what.size

    async def spread(self, blob: str, copies: int, like: str) -> str:
        self.spread_to.append((blob, copies, like))
        await self._notify()
        await self.copied.wait()
        return ""

    def _emit(self, event: Event) -> None:
        assert not self._inside, "emitted from within a call"
        self.events.append(event)
        match event:
            case AttemptsEnded(attempts):
                for attempt, phase, outcome in attempts:
                    assert attempt not in self.ended, f"{attempt} ended twice"
                    self.ended[attempt] = (phase, outcome)
                    self.order.append(attempt)
            case AttemptsBegan(attempts):
                self.began.update(attempts)
            case AttemptsProgressed(attempts):
                self.progress.extend(attempts)
        task = asyncio.get_running_loop().create_task(self._notify())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def begin(
        self,
        *works: Work,
        slot: int = 0,
        devices: tuple[str, ...] = (),
        memory: int = 0,
        timeout_ms: int = 0,
        millicpus: int = 1000,
        checkpoints: Checkpointing = USUAL,
        resume: tuple[Checkpoint, ...] = (),
    ) -> list[str]:
        assignments = []
        for work in works:
            self._number += 1
            attempt = f"1.50-NODE.LIFE.{self._number}"
            shape = Shape(timeout_ms=timeout_ms, checkpoints=checkpoints)
            task = Task(f"task-{self._number}", "job-1", self._number, "", shape, pickle.dumps(work))
            assignments.append(Assignment(attempt, task, devices, memory, millicpus, 1, resume))
        self._inside = True
        self.runners.begin(BeginAttempts(slot, tuple(assignments)))
        self._inside = False
        return [assignment.attempt for assignment in assignments]

    def stop(self, *attempts: str, code: str = "cancelled") -> None:
        self._inside = True
        self.runners.stop(StopAttempts(attempts, code, f"{code} by a test"))
        self._inside = False

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait for an event that makes it true."""
        async with asyncio.timeout(BOUND), self._changed:
            await self._changed.wait_for(true)

    async def end_of(self, attempt: str) -> tuple[int, Outcome]:
        await self.until(lambda: attempt in self.ended)
        return self.ended[attempt]

    async def ends_of(self, attempts: Iterable[str]) -> list[tuple[int, Outcome]]:
        return [await self.end_of(attempt) for attempt in attempts]

    async def run(self, work: Work, **options: Any) -> tuple[int, Outcome]:
        return await self.end_of(self.begin(work, **options)[0])

    async def value(self, work: Work, **options: Any) -> Any:
        """The result of a function that must succeed."""
        phase, outcome = await self.run(work, **options)
        assert phase == 2, outcome
        return pickle.loads(outcome.result)

    def read(self, blob: str) -> bytearray:
        """What is in a blob that was taken."""
        data = bytearray()
        for chunk in parse(self.objects[blob].manifest, blob).chunks:
            data += self.files.read(chunk)
        return data

    async def printed(self, attempt: str) -> bytes:
        """Everything, once it has ended."""
        async with asyncio.timeout(BOUND):
            return b"".join([piece async for piece in self.runners.tail(attempt)])

    async def line(self, attempt: str) -> str:
        """The first whole line that a running attempt prints."""
        data = b""
        async with asyncio.timeout(BOUND):
            async for piece in self.runners.tail(attempt):
                data += piece
                if b"\n" in data:
                    return data.split(b"\n")[0].decode()
        raise AssertionError(f"{attempt} ended having printed {data!r}: {self.ended.get(attempt)}")

    async def close(self, grace: float = 1.0) -> None:
        async with asyncio.timeout(BOUND):
            await self.runners.close(grace)


async def until_gone(pids: Iterable[int]) -> None:
    """Until none of these is a live process; looks again and again, for nobody reports the end of a stranger."""
    async with asyncio.timeout(BOUND):
        for pid in pids:
            while alive(pid):  # noqa: ASYNC110  nobody reports it
                await asyncio.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
