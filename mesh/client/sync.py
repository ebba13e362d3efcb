"""The client for ordinary code: :class:`~mesh.client.aio.AsyncMeshClient` in a thread, each call waited for.

All clients of a process share one loop thread: gRPC's asyncio side serves several loops badly, and ten clients need
not cost ten threads.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, overload

from mesh.blob.objects import Ref
from mesh.client import chunks
from mesh.client.aio import AsyncMeshClient
from mesh.client.calls import Options
from mesh.client.channel import PATIENCE
from mesh.client.executor import MeshExecutor
from mesh.client.futures import TaskFuture
from mesh.client.jobs import Job
from mesh.client.remote import RemoteFunction, decorate
from mesh.core.errors import MeshError

T = TypeVar("T")
P = ParamSpec("P")

LEAVE = 2.0  # seconds that the end of the process waits for the loop thread


class MeshClient:
    """A connection to a mesh, usable from any thread: ``with MeshClient() as client``.

    ``address``: ``host:port`` or ``unix:PATH``; without it ``MESH_ADDRESS``, then the local daemon, then mDNS.
    ``mesh``: only a mesh of this name. ``patience``: seconds without any contact after which calls and futures fail;
    until then a changing leader or a daemon that is started again is waited for.

    Raises ``NoMeshFound`` where there is none.
    """

    def __init__(self, address: str | None = None, *, mesh: str | None = None, patience: float = PATIENCE) -> None:
        self._loop = _shared_loop()
        self._pid = os.getpid()
        self._closed = False
        self._core: AsyncMeshClient = self._run(_make(address, mesh, patience))

    def __enter__(self) -> MeshClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(flush=kind is None)

    def close(self, flush: bool = True) -> None:
        """Wait (10 s at most) until what was submitted is acknowledged, then hang up. Unfinished futures fail."""
        if not self._closed:
            self._run(self._core.close(flush))
            self._closed = True

    # -- functions ---------------------------------------------------------------------------------------------------

    def submit(
        self,
        function: Callable[..., T],
        /,
        *args: Any,
        resources: Any = None,
        priority: int = 5,
        retries: int | Mapping[str, Any] = 0,
        timeout: float | str | None = None,
        env: Mapping[str, Any] | None = None,
        on_lost: str = "retry",
        checkpoints: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> TaskFuture[T]:
        """Run ``function(*args, **kwargs)`` on some machine; returns at once with the future of its result.

        See :class:`~mesh.client.calls.Options` for the other parameters. Raises ``QuotaExceeded`` for arguments over
        1 MiB and ``InvalidSpec`` for wrong options.
        """
        options = Options(resources, priority, retries, timeout, env, on_lost, checkpoints)
        return self.submit_with(function, args, kwargs, options)

    def submit_with(
        self, function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any], options: Options
    ) -> TaskFuture[T]:
        """As :meth:`submit`, where the function has parameters of the same names as the options."""
        self._open_feed(options.priority)
        return self._core.submit_with(function, args, kwargs, options)

    def map(
        self,
        function: Callable[..., T],
        *iterables: Iterable[Any],
        chunksize: int | str = 1,
        window: int = chunks.WINDOW,
        **options: Any,
    ) -> Iterator[T]:
        """``function`` of each element, in order, lazily: at most ``window`` tasks are under way or unread.

        The function is pickled once. ``chunksize`` calls go into one task; ``"auto"`` finds a size by measuring; a
        call that fails then fails its chunk. Leaving the loop early cancels what has not ended. ``options`` are those
        of :meth:`submit`.
        """
        chosen = Options(**options)
        self._open_feed(chosen.priority)
        mapping = self._core.mapping(function, iterables, chunksize, window, chosen)
        return self._iterate(mapping)

    @staticmethod
    def _iterate(mapping: chunks.Mapping) -> Iterator[Any]:
        try:
            for future in mapping:
                yield from mapping.values(future.result())
        finally:
            mapping.close()

    def executor(self, **options: Any) -> MeshExecutor:
        """A ``concurrent.futures.Executor`` whose calls all have these options: those of :meth:`submit`, or
        ``cpus``, ``gpus``, ``memory``, ``gpu_memory``, ``device`` and ``labels`` directly."""
        return MeshExecutor(self, options)

    # -- files and jobs ----------------------------------------------------------------------------------------------

    def submit_sweep(
        self,
        path: str | Path,
        *,
        name: str | None = None,
        priority: int | None = None,
        **overrides: Any,
    ) -> Job:
        """Submit a sweep file; ``overrides`` stand in for keys of the file, as ``meshctl submit --set`` does.

        Raises ``InvalidSpec`` with every problem of the file.
        """
        job = self._run(self._core.submit_sweep(path, name=name, priority=priority, **overrides))
        return Job(job, self._run)

    def job(self, job: str) -> Job:
        """A job that was submitted before, by whomever."""
        return Job(self._core.job(job), self._run)

    def jobs(self) -> list[dict[str, Any]]:
        return self._run(self._core.jobs())  # type: ignore[no-any-return]

    @overload
    def task(self, task: str, /) -> dict[str, Any]: ...
    @overload
    def task(self, /, **options: Any) -> Callable[[Callable[P, T]], RemoteFunction[P, T]]: ...
    def task(self, task: str | None = None, /, **options: Any) -> Any:
        """With an id: what is known of that task. With options alone: a decorator, whose functions have ``submit``."""
        if task is None:
            return decorate(self, options)
        return self._run(self._core.known_task(task))

    def explain(self, task: str) -> dict[str, Any]:
        """Why it runs where it runs, or what it waits for: every node's reason."""
        return self._run(self._core.explain(task))  # type: ignore[no-any-return]

    # -- machines ----------------------------------------------------------------------------------------------------

    def peers(self) -> list[dict[str, Any]]:
        """The members, as ``meshctl peers -o json`` prints them."""
        return self._run(self._core.peers())  # type: ignore[no-any-return]

    def resources(self) -> dict[str, Any]:
        """All that the living members offer together: nodes, slots, free_slots, devices by kind and their memory."""
        return self._run(self._core.resources())  # type: ignore[no-any-return]

    # -- objects -----------------------------------------------------------------------------------------------------

    def put(self, value: Any, *, copies: int = 2) -> Ref:
        """Put an object into the mesh, on ``copies`` nodes if there are as many; what stands for it is returned.

        As an argument of a function (not inside of another one) a ref is replaced by the object, which each machine
        fetches once. An array that was put before, or is part of what was, does not travel again.

        Raises:
            QuotaExceeded: the node that was asked has no room for it.
        """
        return self._run(self._core.put(value, copies=copies))  # type: ignore[no-any-return]

    def get(self, ref: Ref | Mapping[str, Any]) -> Any:
        """What ``put`` was given; or the state in a checkpoint, as ``job.best()["checkpoint"]`` names it.

        Raises ``BlobMissing`` where no node that can be reached has it.
        """
        return self._run(self._core.get(ref))

    # -- within ------------------------------------------------------------------------------------------------------

    def _open_feed(self, priority: int) -> None:
        if not self._core.has_feed(priority):
            self._run(_opened(self._core, priority))

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        if self._closed or self._pid != os.getpid():
            work.close()
            why = "it was closed" if self._closed else "this process was forked from the one that made it"
            raise MeshError("this client cannot be used", why, "make another one")
        if threading.get_ident() == _loop_thread:
            work.close()
            raise RuntimeError("callbacks of futures run in the client's thread; call the client from another one")
        waiting = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return waiting.result()
        except BaseException:
            waiting.cancel()  # of use where the waiting was interrupted; otherwise it has ended
            raise


async def _make(address: str | None, mesh: str | None, patience: float) -> AsyncMeshClient:
    client = AsyncMeshClient(address, mesh=mesh, patience=patience)
    await client.connect()
    return client


async def _opened(core: AsyncMeshClient, priority: int) -> None:
    core.feed(priority)


# -- the loop thread ---------------------------------------------------------------------------------------------------

_loop: asyncio.AbstractEventLoop | None = None
_loop_thread = 0
_loop_pid = 0
_starting = threading.Lock()


def _shared_loop() -> asyncio.AbstractEventLoop:
    global _loop, _loop_thread, _loop_pid
    with _starting:
        if _loop is None or _loop_pid != os.getpid():  # a forked child has no threads but its own
            loop = asyncio.new_event_loop()
            ready: concurrent.futures.Future[int] = concurrent.futures.Future()

            def serve() -> None:
                asyncio.set_event_loop(loop)
                loop.call_soon(lambda: ready.set_result(threading.get_ident()))
                loop.run_forever()

            thread = threading.Thread(target=serve, name="mesh-client", daemon=True)
            thread.start()
            _loop, _loop_thread, _loop_pid = loop, ready.result(), os.getpid()
            atexit.register(_leave, loop, thread)
        return _loop


def _leave(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    """Before the interpreter goes: a daemon thread inside gRPC at that moment would abort the process."""
    if _loop_pid == os.getpid():
        loop.call_soon_threadsafe(loop.stop)
        thread.join(LEAVE)
