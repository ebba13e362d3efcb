"""The future of one task: a ``concurrent.futures.Future`` that can also be awaited.

Owns how an outcome becomes a value or an exception. Knows nothing of how tasks travel: whoever submitted it settles
it and is told when it is cancelled. A result is unpickled by the first thread that asks for it, so that ten thousand
results a second cost the loop nothing but their bytes.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import pickle
import threading
from collections.abc import Callable, Generator
from typing import Any, Generic, NamedTuple, TypeVar

from mesh.blob.objects import load
from mesh.client.faults import task_error
from mesh.core.errors import MeshError, MeshTimeout, TaskCancelled
from mesh.core.ids import BlobId
from mesh.wire.client import TaskResult

T = TypeVar("T")

_UNREAD: Any = object()


class Large(NamedTuple):
    """A result that came as a blob."""

    blob: BlobId
    data: bytearray


class CancelledTask(TaskCancelled, concurrent.futures.CancelledError):
    """What a cancelled future raises: the mesh's error, which code written for ``concurrent.futures`` knows too."""


class TaskFuture(concurrent.futures.Future[T], Generic[T]):
    """The result to come of one task. ``task_id`` is the id that ``meshctl task`` and ``explain`` take.

    ``result()`` raises :class:`~mesh.core.errors.TaskFailed` (its ``__cause__`` is the exception that the function
    raised, where it can be unpickled here), ``TaskLost``, ``TaskTimeout`` or ``TaskCancelled``; ``MeshTimeout`` (also a
    ``TimeoutError``) where the task did not end within ``timeout`` seconds; ``NoMeshFound`` where no node answered for
    as long as the client's patience. Callbacks run in the client's thread and must not wait for other futures.
    """

    def __init__(self, task_id: str, loop_thread: int, on_cancel: Callable[[TaskFuture[Any]], None]) -> None:
        super().__init__()
        self.task_id = task_id
        self.acknowledged = False  # the mesh has it, durably; set by the feed
        self._loop_thread = loop_thread
        self._on_cancel = on_cancel
        self._value: Any = _UNREAD
        self._why_cancelled = ""

    def __repr__(self) -> str:
        state = "cancelled" if self.cancelled() else "done" if self.done() else "waiting"
        return f"<TaskFuture {self.task_id} {state}>"

    # -- for whoever waits -------------------------------------------------------------------------------------------

    def result(self, timeout: float | None = None) -> T:
        self._refuse_to_wait_for_itself(timeout)
        try:
            encoded: Any = super().result(timeout)
        except concurrent.futures.CancelledError as error:
            raise self._cancellation() from error
        except TimeoutError:
            if self.done():  # it is the task's own error, not the end of our waiting
                raise
            raise self._too_late(timeout) from None
        return self._read(encoded)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._refuse_to_wait_for_itself(timeout)
        try:
            return super().exception(timeout)
        except concurrent.futures.CancelledError as error:
            raise self._cancellation() from error
        except TimeoutError:
            raise self._too_late(timeout) from None

    def cancel(self) -> bool:
        """Cancel here at once and in the mesh as soon as it can be told. False where it has already ended."""
        if not super().cancel():
            return False
        if self.set_running_or_notify_cancel():  # never: it says False for a cancelled future, and wakes who waits
            raise AssertionError("a cancelled future cannot run")
        self._on_cancel(self)
        return True

    def __await__(self) -> Generator[Any, None, T]:
        """Cancelling the awaiting coroutine cancels the task; ``asyncio.shield`` prevents that."""
        if not self.done():
            loop = asyncio.get_running_loop()
            waiter: asyncio.Future[None] = loop.create_future()

            def wake() -> None:
                if not waiter.done():
                    waiter.set_result(None)

            def wake_there(_: concurrent.futures.Future[T]) -> None:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(wake)

            self.add_done_callback(wake_there)
            try:
                yield from waiter
            except asyncio.CancelledError:
                self.cancel()
                raise
        return self.result(0)

    # -- for whoever settles, in the client's thread -----------------------------------------------------------------

    def settle(self, outcome: TaskResult, large: Large | None = None) -> None:
        """The task ended. Nothing happens where the caller cancelled it first. ``large``: what its blob holds."""
        try:
            if outcome.state == "succeeded":
                self.set_result(large or outcome.result)  # type: ignore[arg-type]  # read by result()
            elif outcome.state == "cancelled":
                self._why_cancelled = outcome.message
                if super().cancel():
                    self.set_running_or_notify_cancel()
            else:
                self.set_exception(task_error(outcome))
        except concurrent.futures.InvalidStateError:
            if not self.cancelled():
                raise

    def fail(self, error: MeshError) -> None:
        """It will not be known how the task ended, or it never reached the mesh."""
        try:
            self.set_exception(error)
        except concurrent.futures.InvalidStateError:
            if not self.cancelled():
                raise

    # -- within ------------------------------------------------------------------------------------------------------

    def _read(self, encoded: bytes | Large) -> T:
        if self._value is not _UNREAD:
            return self._value  # type: ignore[no-any-return]
        try:
            value = load(*encoded) if isinstance(encoded, Large) else pickle.loads(encoded)
        except Exception as error:  # unpickling runs whatever code the value brings
            raise MeshError(
                f"the result of task {self.task_id} cannot be read here",
                f"{type(error).__name__}: {error}",
                "make the classes it consists of importable on this machine, or return plain data",
            ) from error
        # Two threads may both have read it; both return the object that was stored first.
        if self._value is _UNREAD:
            self._value = value
        return self._value  # type: ignore[no-any-return]

    def _cancellation(self) -> CancelledTask:
        return CancelledTask(f"task {self.task_id} was cancelled", self._why_cancelled, task=self.task_id)

    def _too_late(self, timeout: float | None) -> MeshTimeout:
        return MeshTimeout(
            f"task {self.task_id} did not end within {timeout:g} s" if timeout is not None else "timed out",
            "it goes on",
            f"`meshctl explain {self.task_id}` says what it waits for",
        )

    def _refuse_to_wait_for_itself(self, timeout: float | None) -> None:
        if threading.get_ident() == self._loop_thread and not self.done() and timeout != 0:
            raise RuntimeError(
                "this thread brings the results, so waiting here for one would never end; await the future instead, "
                "or wait in another thread"
            )
