"""A ``concurrent.futures.Executor`` over the mesh, for code that takes one."""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from mesh.client.chunks import run_chunk
from mesh.client.remote import options_of

if TYPE_CHECKING:
    from mesh.client.futures import TaskFuture
    from mesh.client.sync import MeshClient

T = TypeVar("T")


class MeshExecutor(concurrent.futures.Executor):
    """Leaving its ``with`` waits for what was submitted; the client stays open."""

    def __init__(self, client: MeshClient, options: dict[str, Any]) -> None:
        self._client = client
        self._options = options_of(options)
        self._lock = threading.Lock()
        self._futures: set[concurrent.futures.Future[Any]] = set()
        self._shut = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> TaskFuture[T]:
        with self._lock:
            if self._shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
        # Outside the lock: submitting may wait for the client's thread, which takes the lock to forget a future.
        future = self._client.submit_with(fn, args, kwargs, self._options)
        with self._lock:
            self._futures.add(future)
        future.add_done_callback(self._forget)
        return future

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        **how: Any,
    ) -> Iterator[T]:
        """As the standard library's. ``chunksize`` calls go into one task."""
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if chunksize == 1:
            return super().map(fn, *iterables, timeout=timeout, **how)
        run: Callable[[list[tuple[Any, ...]]], tuple[list[T], float]] = functools.partial(run_chunk, fn)
        done = super().map(run, _batched(zip(*iterables, strict=False), chunksize), timeout=timeout, **how)
        return itertools.chain.from_iterable(values for values, _ in done)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        with self._lock:
            self._shut = True
            futures = list(self._futures)
        if cancel_futures:
            for future in futures:
                future.cancel()
        if wait:
            concurrent.futures.wait(futures)

    def _forget(self, future: concurrent.futures.Future[Any]) -> None:
        with self._lock:
            self._futures.discard(future)


def _batched(items: Iterable[tuple[Any, ...]], size: int) -> Iterator[list[tuple[Any, ...]]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
