"""The client in asyncio: everything a user can ask of a mesh from Python.

The synchronous :class:`~mesh.client.sync.MeshClient` is this one, run in a thread of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, overload

from mesh.blob.objects import Ref, dump, load
from mesh.client import blobs, chunks
from mesh.client.address import Finder
from mesh.client.calls import CHUNK, Calls, Options, chunk_call, needs_of
from mesh.client.channel import PATIENCE, Channel
from mesh.client.environment import environment_of
from mesh.client.feed import Feed
from mesh.client.functions import dumps_beside
from mesh.client.futures import TaskFuture
from mesh.client.jobs import AsyncJob
from mesh.client.options import check_priority
from mesh.client.remote import RemoteFunction, decorate
from mesh.client.sweeps import submit_sweep

T = TypeVar("T")
P = ParamSpec("P")

FLUSH = 10.0  # seconds that closing waits for what was submitted to be acknowledged


class AsyncMeshClient:
    """A connection to a mesh. Use it in one event loop: ``async with AsyncMeshClient() as client``.

    ``address``: ``host:port`` or ``unix:PATH``; without it ``MESH_ADDRESS``, then the local daemon, then mDNS.
    ``mesh``: only a mesh of this name. ``patience``: seconds without any contact after which calls and futures fail;
    until then a changing leader or a daemon that is started again is waited for.

    Raises ``NoMeshFound`` where there is none, ``NoLeader`` where nobody leads for longer than the patience.
    """

    def __init__(self, address: str | None = None, *, mesh: str | None = None, patience: float = PATIENCE) -> None:
        self._channel = Channel(Finder(address, mesh), patience)
        self._calls = Calls()
        self._feeds: dict[int, Feed] = {}
        self._left: list[Feed] = []  # feeds that take no more, and are watched to their end

    async def __aenter__(self) -> AsyncMeshClient:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close(flush=kind is None)

    async def connect(self) -> None:
        """Find the mesh. Not necessary: the first call does it, too."""
        await self._channel.connect()

    async def close(self, flush: bool = True) -> None:
        """Wait (10 s at most) until what was submitted is acknowledged, then hang up. Unfinished futures fail."""
        try:
            feeds = [*self._feeds.values(), *self._left]
            if flush and feeds:
                async with asyncio.timeout(FLUSH):
                    await asyncio.gather(*(feed.flush() for feed in feeds))
        except TimeoutError:
            pass  # each future that was not acknowledged says so itself
        finally:
            await asyncio.gather(*(feed.close() for feed in (*self._feeds.values(), *self._left)))
            await self._channel.close()

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
        """Run ``function(*args, **kwargs)`` on some machine; ``await`` the future for its result.

        See :class:`~mesh.client.calls.Options` for the other parameters. Raises ``QuotaExceeded`` for arguments over
        1 MiB and ``InvalidSpec`` for wrong options.
        """
        options = Options(resources, priority, retries, timeout, env, on_lost, checkpoints)
        return self.submit_with(function, args, kwargs, options)

    def submit_with(
        self, function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any], options: Options
    ) -> TaskFuture[T]:
        """As :meth:`submit`, where the function has parameters of the same names as the options."""
        shape = self._calls.check(function, options)
        environment = environment_of(options.env)
        payload = self._calls.payload(self._calls.pickle(function), args, kwargs, environment)
        return self.feed(options.priority).add(shape, payload, needs_of(args, kwargs))

    async def map(
        self,
        function: Callable[..., T],
        *iterables: Iterable[Any],
        chunksize: int | str = 1,
        window: int = chunks.WINDOW,
        **options: Any,
    ) -> AsyncIterator[T]:
        """``function`` of each element, in order, lazily: at most ``window`` tasks are under way or unread.

        The function is pickled once. ``chunksize`` calls go into one task; ``"auto"`` finds a size by measuring; a
        call that fails then fails its chunk. Leaving the loop early cancels what has not ended. ``options`` are those
        of :meth:`submit`.
        """
        mapping = self.mapping(function, iterables, chunksize, window, Options(**options))
        try:
            for future in mapping:
                for value in mapping.values(await future):
                    yield value
        finally:
            mapping.close()

    def mapping(
        self,
        function: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        chunksize: int | str,
        window: int,
        options: Options,
    ) -> chunks.Mapping:
        """What :meth:`map` iterates; the synchronous client iterates the same."""
        shape = self._calls.check(function, options)
        environment = environment_of(options.env)
        pickled = self._calls.pickle(function)
        add = self.feed(options.priority).add

        def send_one(arguments: tuple[Any, ...]) -> TaskFuture[Any]:
            return add(shape, self._calls.payload(pickled, arguments, {}, environment), needs_of(arguments, {}))

        def send_chunk(calls: list[tuple[Any, ...]]) -> TaskFuture[Any]:
            return add(shape, self._calls.payload(CHUNK, *chunk_call(pickled, calls), environment))

        return chunks.Mapping(send_one, send_chunk, zip(*iterables, strict=False), chunksize, window)

    def feed(self, priority: int) -> Feed:
        """The job of this client's functions at this priority. Only in the client's loop where it is new."""
        feed = self._feeds.get(priority)
        if feed is not None and feed.moved:
            self._left.append(self._feeds.pop(priority))
            feed = None
        if feed is None:
            feed = self._feeds[check_priority(priority)] = Feed(self._channel, priority)
        return feed

    def has_feed(self, priority: int) -> bool:
        return priority in self._feeds and not self._feeds[priority].moved

    # -- files and jobs ----------------------------------------------------------------------------------------------

    async def submit_sweep(
        self,
        path: str | Path,
        *,
        name: str | None = None,
        priority: int | None = None,
        **overrides: Any,
    ) -> AsyncJob:
        """Submit a sweep file; ``overrides`` stand in for keys of the file, as ``meshctl submit --set`` does.

        Raises ``InvalidSpec`` with every problem of the file.
        """
        return await submit_sweep(self._channel, Path(path), name, priority, overrides)

    def job(self, job: str) -> AsyncJob:
        """A job that was submitted before, by whomever."""
        return AsyncJob(self._channel, job)

    async def jobs(self) -> list[dict[str, Any]]:
        return await self._channel.jobs()

    @overload
    def task(self, task: str, /) -> Coroutine[Any, Any, dict[str, Any]]: ...
    @overload
    def task(self, /, **options: Any) -> Callable[[Callable[P, T]], RemoteFunction[P, T]]: ...
    def task(self, task: str | None = None, /, **options: Any) -> Any:
        """With an id: what is known of that task. With options alone: a decorator, whose functions have ``submit``."""
        if task is None:
            return decorate(self, options)
        return self.known_task(task)

    async def known_task(self, task: str) -> dict[str, Any]:
        """What is known of a task, as ``meshctl task -o json`` prints it."""
        return await self._channel.task(task)

    async def explain(self, task: str) -> dict[str, Any]:
        """Why it runs where it runs, or what it waits for: every node's reason."""
        return await self._channel.explain(task)

    # -- machines ----------------------------------------------------------------------------------------------------

    async def peers(self) -> list[dict[str, Any]]:
        """The members, as ``meshctl peers -o json`` prints them."""
        return await self._channel.peers()

    async def resources(self) -> dict[str, Any]:
        """All that the living members offer together: nodes, slots, free_slots, devices by kind and their memory."""
        return total_of(await self._channel.peers())

    # -- objects -----------------------------------------------------------------------------------------------------

    async def put(self, value: Any, *, copies: int = 2) -> Ref:
        """Put an object into the mesh, on ``copies`` nodes if there are as many; what stands for it is returned.

        As an argument of a function (not inside of another one) a ref is replaced by the object, which each machine
        fetches once. An array that was put before, or is part of what was, does not travel again.

        Raises:
            QuotaExceeded: the node that was asked has no room for it.
        """
        segments = await asyncio.to_thread(dump, value, dumps_beside)
        done = await blobs.put(self._channel, lambda: segments, copies=copies)
        return Ref(done.blob, done.size)

    async def get(self, ref: Ref | Mapping[str, Any]) -> Any:
        """What ``put`` was given; or the state in a checkpoint, as ``job.best()["checkpoint"]`` names it.

        Raises ``BlobMissing`` where no node that can be reached has it.
        """
        blob = ref.blob if isinstance(ref, Ref) else str(ref["blob"])
        data = await blobs.get_bytes(self._channel, blob)
        return await asyncio.to_thread(load if isinstance(ref, Ref) else blobs.state_of, blob, data)


def total_of(peers: list[dict[str, Any]]) -> dict[str, Any]:
    alive = [peer for peer in peers if peer["state"] == "alive"]
    devices = [device for peer in alive for device in peer["devices"]]
    kinds = sorted({device["kind"] for device in devices})
    return {
        "nodes": len(alive),
        "slots": sum(peer["slots"] or 0 for peer in alive),
        "free_slots": sum(peer["free_slots"] or 0 for peer in alive),
        "devices": {kind: sum(device["kind"] == kind for device in devices) for kind in kinds},
        "device_memory_bytes": sum(device["memory_bytes"] for device in devices),
        "free_device_memory_bytes": sum(device["free_memory_bytes"] for device in devices),
    }
