"""Checkpoints of the attempts that run here: taken into the store, copied, told of, and given to who goes on from one.

A task opens it, writes the chunks itself, into the store's files, and says what they make up. From then on the node has
it; it is *complete*, and told of, once as many nodes have it as its task asks for, or as there are. An attempt's end
waits for that, since whoever goes on from there needs it.

Owns what is under way. It must not know how copies are made, nor which checkpoints are kept.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from mesh.core.errors import BlobMissing, MeshError
from mesh.core.events import AttemptResumed, AttemptSaved, Event
from mesh.core.ids import AttemptId, BlobId
from mesh.core.lattice import Checkpoint
from mesh.core.valid import METRICS_BYTES
from mesh.shell.runner_objects import Held, Holder
from mesh.shell.runner_slots import Live, dumps

log = logging.getLogger("mesh")

SETTLE = 600.0  # seconds that an end waits for copies: 60 GiB at 1 Gbit/s


class Lease(Protocol):
    def release(self) -> None: ...


class Store(Holder, Protocol):
    """The node's blobs, as checkpoints need them. All raise MeshError."""

    @property
    def directory(self) -> Path:
        """Of the chunk files, for those who write there."""

    async def writing(self) -> Lease:
        """No chunk file goes until it is released."""

    async def commit(self, manifest: bytes) -> tuple[BlobId, int]:
        """Its chunks were written and settled: the blob is here. Its id and its bytes."""

    async def spread(self, blob: BlobId, copies: int, like: BlobId) -> str:
        """Returns once so many nodes have it, or all that can; why not more, or nothing."""


class _Saved(NamedTuple):
    checkpoint: Checkpoint
    held: Held


class Saves:
    """Of one attempt."""

    def __init__(self, live: Live) -> None:
        self.live = live
        # Under which its processes write chunks of the next one. While anybody writes no file goes, so a lease for all
        # the time of an attempt would have the store grow beyond its quota.
        self.leases: list[Lease] = []
        self.number = 0
        self.last: BlobId = ""  # what is saved next is much the same
        self.own: dict[BlobId, Checkpoint] = {}  # the newest last
        self.waiting: _Saved | None = None  # to be copied: the newest, for it makes those before it useless
        self.copying: asyncio.Task[None] | None = None
        self.held: list[Held] = []  # that it was given
        self.over = False
        self.tell: Callable[[], None] | None = None  # that it has ended, once this is so for checkpoints too
        self.late: asyncio.TimerHandle | None = None

    def release(self) -> None:
        leases, self.leases = self.leases, []
        for lease in leases:
            lease.release()


class Checkpoints:
    """In the loop. ``emit`` takes events, never from within a call."""

    def __init__(self, store: Store, emit: Callable[[Event], None], now_ms: Callable[[], int]) -> None:
        self._store, self._emit, self._now_ms = store, emit, now_ms
        self._loop = asyncio.get_running_loop()
        self._saves: dict[AttemptId, Saves] = {}

    def used(self, attempt: AttemptId) -> bool:
        """Whether it saves or goes on from checkpoints: then it is given time to save once more."""
        return attempt in self._saves

    async def answer(self, live: Live, message: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        """What a task asked at its socket. Raises MeshError, ValueError: the message makes no sense."""
        saves = self._saves.setdefault(live.id, Saves(live))
        match message["checkpoint"]:
            case "open":
                saves.leases.append(await self._store.writing())
                if saves.over:
                    saves.release()
                return {"directory": str(self._store.directory)}, b""
            case "save":
                await self._save(saves, message.get("step"), message.get("metrics"), body)
                return {}, b""
            case "load":
                return await self._load(saves, str(message.get("damaged") or ""))
        raise ValueError(f"this meshd can open, save and load checkpoints, not {message['checkpoint']!r:.80}")

    async def _save(self, saves: Saves, step: object, metrics: object, manifest: bytes) -> None:
        if not saves.leases or saves.over:
            raise ValueError("a checkpoint is opened before it is saved, and saved before its attempt has ended")
        if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < 1 << 62:
            raise ValueError(f"the step of a checkpoint is a whole number from 0, not {step!r:.80}")
        if not isinstance(metrics, dict):
            raise ValueError("the metrics of a checkpoint are names and numbers")
        told = dumps(metrics) if metrics else b""
        if len(told) > METRICS_BYTES:
            raise ValueError(f"the metrics of a checkpoint have {len(told)} bytes; at most {METRICS_BYTES} are kept")
        leases, saves.leases = saves.leases, []  # who opens from now on writes the next one
        try:
            blob, size = await self._store.commit(manifest)
            held = await self._store.hold(blob, damaged=False)
        finally:
            for lease in leases:
                lease.release()
        saves.number += 1
        run = saves.live.assignment.run
        checkpoint = Checkpoint(run, step, saves.live.id, saves.number, blob, size, told, self._now_ms())
        saves.own.pop(blob, None)
        saves.own[blob] = checkpoint
        if saves.waiting is not None:
            saves.waiting.held.release()
        saves.waiting = _Saved(checkpoint, held)
        if saves.copying is None:
            saves.copying = self._loop.create_task(self._copy(saves))

    async def _copy(self, saves: Saves) -> None:
        """One after another; what came meanwhile, but for the last, is not copied at all."""
        copies = saves.live.assignment.task.shape.checkpoints.copies
        try:
            while (saved := saves.waiting) is not None:
                saves.waiting = None
                try:
                    why = await self._store.spread(saved.checkpoint.blob, copies, saves.last)
                except MeshError as error:
                    log.warning("a checkpoint was not copied: %s", error, extra={"event": "checkpoint_not_copied"})
                else:
                    if why:
                        log.debug("checkpoint %s: %s", saved.checkpoint.blob[:12], why, extra={"event": "few_copies"})
                    saves.last = saved.checkpoint.blob
                    self._emit(AttemptSaved(saved.checkpoint))
                finally:
                    saved.held.release()
        finally:
            saves.copying = None

    async def _load(self, saves: Saves, damaged: BlobId) -> tuple[dict[str, Any], bytes]:
        """The newest that can be had: of this attempt, else of those before it."""
        known = sorted((*saves.own.values(), *saves.live.assignment.resume), reverse=True)
        missing: list[str] = []
        for checkpoint in known:
            try:
                held = await self._store.hold(checkpoint.blob, damaged=checkpoint.blob == damaged)
            except BlobMissing as error:
                log.warning("checkpoint of step %d: %s", checkpoint.step, error, extra={"event": "checkpoint_missing"})
                missing.append(f"step {checkpoint.step}: {error}")
                continue
            if saves.over:
                held.release()
                raise MeshError("this attempt has ended")
            saves.held.append(held)
            if checkpoint.attempt != saves.live.id:
                self._emit(AttemptResumed(saves.live.id, checkpoint.blob))
            about = {"blob": checkpoint.blob, "step": checkpoint.step, "attempt": checkpoint.attempt}
            return about | {"directory": held.directory}, held.manifest
        if missing:
            what = f"none of the {len(missing)} checkpoints of this task can be had"
            raise BlobMissing(what, "; ".join(missing), "start the machines that hold them, and retry the task")
        return {"blob": "", "step": 0, "attempt": "", "directory": str(self._store.directory)}, b""

    def ended(self, attempt: AttemptId, tell: Callable[[], None], *, hurry: bool) -> None:
        """Its process is gone. ``tell`` is called once its checkpoints are complete; at once with ``hurry``."""
        saves = self._saves.get(attempt)
        if saves is None:
            tell()
            return
        saves.over = True
        saves.release()
        for held in saves.held:
            held.release()
        saves.tell = tell
        if hurry or saves.copying is None:
            self._settled(saves)
        else:
            saves.copying.add_done_callback(lambda _: self._settled(saves))
            saves.late = self._loop.call_later(SETTLE, self._late, saves)

    def _late(self, saves: Saves) -> None:
        what = "an attempt has ended, and its last checkpoint is not on enough nodes yet"
        log.warning(what, extra={"event": "checkpoint_late"})
        self._settled(saves)

    def _settled(self, saves: Saves) -> None:
        if saves.tell is None:
            return
        tell, saves.tell = saves.tell, None
        del self._saves[saves.live.id]
        if saves.late is not None:
            saves.late.cancel()
        if saves.copying is not None:
            saves.copying.cancel()
        if saves.waiting is not None:
            saves.waiting.held.release()
            saves.waiting = None
        tell()

    async def close(self) -> None:
        """What waits to be told is told now."""
        copying = [saves.copying for saves in self._saves.values() if saves.copying is not None]
        for saves in list(self._saves.values()):
            self._settled(saves)
        for each in copying:
            each.cancel()
        await asyncio.gather(*copying, return_exceptions=True)
