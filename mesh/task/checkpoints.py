"""``task.checkpoint``: what a task saves so that the next attempt can go on from it, on whatever machine.

Owns the snapshot that is being written and the step that comes next. Must not know sockets, nor what is in a blob.

One thread writes at a time, and lives as long as its write. What is being written when the task ends is finished
first: a runner calls :func:`finish`, and in other processes it is called when the interpreter ends. There it must run
while threads can still be started, which the standard library's own pools see to in the same way, by
``threading._register_atexit``; ``atexit`` comes after that.
"""

from __future__ import annotations

import atexit
import operator
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mesh.core.errors import BlobCorrupt, MeshError
from mesh.task.api import Metrics, number
from mesh.task.line import from_environment

if TYPE_CHECKING:
    from mesh.blob.files import ChunkFiles
    from mesh.blob.states import Snapshot
    from mesh.task.store import Reading, Store

STEPS = 1 << 63


class Checkpoint:
    """All that a program needs of it; from any thread and any process of the task.

    Outside a mesh task a program runs as if there never was a checkpoint: whoever tries a script by hand wants to see
    it train, and a checkpoint of an earlier try would only confuse. So ``load`` returns the default; what is saved is
    looked at, for mistakes should show before the mesh is used, and dropped, which stderr says once.
    """

    def save(self, state: object, step: int | None = None, metrics: dict[str, Any] | None = None) -> None:
        """Save a state: nested dicts, lists and tuples of tensors, arrays and plain values, ``state_dict()`` included.

        Returns as soon as it is copied in memory; it is written meanwhile, after the one before it. ``step``: of
        several checkpoints the one of the highest counts; None is the one after that last saved or loaded, or 0.
        ``metrics``: numbers that belong to it.

        Raises:
            TypeError: the state holds values that cannot be saved, each is named; or step or metrics are no numbers.
            ValueError: the step is negative.
            MeshError: the one before could not be written, this one is not saved; or meshd cannot be reached.
        """
        attempt = current()
        with attempt.lock:
            step, numbers = attempt.checked(step, metrics)
            attempt.settle()
            attempt.save(state, step, numbers)

    def load(self, default: Any = None) -> Any:
        """The newest complete state, wherever it was saved, its tensors on the CPU; ``default`` where there is none.

        Raises:
            BlobMissing: there is one, and no machine that holds it can be reached.
            MeshError: what was saved last is no state.
        """
        from mesh.blob.states import restore

        def use(reading: Reading) -> Any:
            try:
                return restore(reading.size, reading.read)
            except BlobCorrupt as error:
                if reading.damaged:
                    raise
                what = f"the checkpoint of step {reading.found.step} holds no state"
                raise MeshError(what, error.why, "load it the way it was saved, as files or shards") from error

        attempt = current()
        with attempt.lock:
            attempt.settle()
            loaded = None if attempt.store is None else attempt.store.load(use)
            if loaded is None:
                return default
            attempt.next = loaded[0].step + 1
            return loaded[1]

    def save_files(
        self, path: str | os.PathLike[str], step: int | None = None, metrics: dict[str, Any] | None = None
    ) -> None:
        """Save a file, or a directory with all that is in it, for programs that write their own checkpoints.

        Returns when it is read and written to this node's store, for the program may write over its files then.

        Raises:
            InvalidSpec: the directory holds what cannot be saved: devices, links out of it; names all of it.
            Conflict: a file changed while it was read.
            As of :meth:`save` otherwise.
        """
        from mesh.blob.files import write_blob
        from mesh.blob.trees import File, scan

        attempt = current()
        with attempt.lock:
            step, numbers = attempt.checked(step, metrics)
            attempt.settle()
            source = scan(Path(path), ignore=False) if os.path.isdir(path) else File(Path(path))
            if attempt.store is None:
                attempt.tell()
            else:
                attempt.store.keep(write_blob(attempt.store.writing(), source.segments()), step, numbers)
            attempt.next = step + 1

    def load_files(self, path: str | os.PathLike[str], *, replace: bool = False) -> bool:
        """Write the newest complete checkpoint to ``path``, as the file or directory that it was; False: there is none.

        The name is taken when all is written. What is there already is lost only if ``replace`` says so; an empty
        directory may be there.

        Raises:
            Conflict: something is there; nothing was changed.
            QuotaExceeded: the disk is full.
            BlobMissing: as of :meth:`load`.
        """
        from mesh.task.landing import land

        attempt = current()
        with attempt.lock:
            attempt.settle()
            if attempt.store is None:
                return False
            loaded = attempt.store.load(lambda reading: land(reading.size, reading.read, Path(path), replace))
            if loaded is None:
                return False
            attempt.next = loaded[0].step + 1
            return True

    @property
    def writing(self) -> bool:
        """Whether the last one is still being written here: another would have to wait for it."""
        thread = current().thread
        return thread is not None and thread.is_alive()


class Attempt:
    """What one process knows of the checkpoints of its attempt. Guarded by ``lock``."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a signal may come during a save, and its handler save too
        self.store: Store | None = None  # none outside a mesh task
        self.next = 0  # the step of a checkpoint that does not say
        self.thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._spare: Snapshot | None = None
        self._told = False
        line = from_environment(patience=None)  # of its own: reports do not wait until a checkpoint is written
        if line is not None:
            from mesh.task.store import Store

            self.store = Store(line)

    def checked(self, step: int | None, metrics: dict[str, Any] | None) -> tuple[int, Metrics]:
        """Raises TypeError or ValueError, with all that is wrong."""
        wrong: list[str] = []
        kind: type[Exception] = ValueError
        if step is None:
            step = self.next
        try:
            step = operator.index(step)
            if not 0 <= step < STEPS:
                wrong.append(f"step is {step}, which is not from 0 to 2**63 - 1")
        except TypeError:
            wrong.append(f"step takes a whole number, not {type(step).__name__}")
            kind = TypeError
        numbers: Metrics = {}
        for name, value in (metrics or {}).items():
            try:
                if type(name) is not str:
                    raise TypeError(f"a name, not {type(name).__name__}")
                numbers[name] = number(value)
            except TypeError as error:
                wrong.append(f"metrics[{name!r}] takes {error}")
                kind = TypeError
            except ValueError as error:  # an array of several
                wrong.append(f"metrics[{name!r}] takes a number: {error}")
        if wrong:
            raise kind("; ".join(wrong))
        return step, numbers

    def settle(self) -> None:
        """Wait until what is being written is; raises why it could not be."""
        while (thread := self.thread) is not None:
            thread.join()
            if self.thread is thread:  # else a signal's handler has saved meanwhile
                self.thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def save(self, state: object, step: int, metrics: Metrics) -> None:
        from mesh.blob.states import snapshot

        spare, self._spare = self._spare, None
        taken = snapshot(state, spare)
        self.settle()
        self._spare = taken
        if self.store is None:
            self.tell()
        else:
            # Not a daemon: where no callback is called at the end, the interpreter waits for it.
            self.thread = threading.Thread(target=self._write, args=(self.store, taken, step, metrics))
            self.thread.start()
        self.next = step + 1

    def _write(self, store: Store, taken: Snapshot, step: int, metrics: Metrics) -> None:
        try:
            store.keep(_written(store.writing(), taken), step, metrics)
        except Exception as error:  # noqa: BLE001  the next call raises it
            self._error = error

    def tell(self) -> None:
        if not self._told:
            self._told = True
            print("mesh: outside a mesh task no checkpoint is kept", file=sys.stderr, flush=True)


def _written(files: ChunkFiles, taken: Snapshot) -> bytes:
    from mesh.blob.files import write_blob
    from mesh.blob.manifest import cut, manifest_of

    try:
        return write_blob(files, taken.segments())
    except RuntimeError:
        # No thread can be started: Python 3.12.0 and 3.12.1 refuse it as soon as the interpreter ends, and any
        # system does where its user has too many.
        chunks = [files.put(piece) for piece in cut(taken.segments())]
        for chunk in chunks:
            files.settle([chunk])
        return manifest_of(chunks).encode()


_attempts: dict[tuple[int, str], Attempt] = {}
_registered = False


def current() -> Attempt:
    """That of this process: one that a function forked has its own."""
    global _registered
    key = os.getpid(), os.environ.get("MESH_ATTEMPT", "")
    attempt = _attempts.get(key)
    if attempt is None:
        if not _registered:
            # Pools end in a callback of their own; this one, registered later, is called before it.
            import concurrent.futures.thread  # noqa: F401

            threading._register_atexit(_at_exit)  # type: ignore[attr-defined]
            _registered = True
        attempt = _attempts.setdefault(key, Attempt())
    return attempt


def finish() -> None:
    """Wait until all is written that this process has saved, and forget the attempt.

    Raises:
        Exception: what was saved last could not be written.
    """
    pid = os.getpid()
    for key in [key for key in _attempts if key[0] == pid]:
        attempt = _attempts.pop(key)
        with attempt.lock:
            try:
                attempt.settle()
            finally:
                if attempt.store is not None:
                    attempt.store.close()


def lost(error: Exception) -> str:
    return f"mesh: the last checkpoint was not saved: {error}"


def _at_exit() -> None:
    try:
        finish()
    except Exception as error:  # noqa: BLE001  nobody is left to raise it to
        print(lost(error), file=sys.stderr, flush=True)
        atexit.register(_fail)  # the last registered is the first called


def _fail() -> None:
    """End with status 1, after all other exit functions: a program that lost its last checkpoint has not succeeded."""
    atexit.unregister(_fail)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(1)


checkpoint = Checkpoint()
