"""Serving: what a node gives of the blobs it has, complete or not.

Owns how many chunks are read ahead of what gRPC took, and the limit of the node's sending. It must not know what is
fetched here, except that somebody says so by :meth:`Serving.gaining` and :meth:`Serving.gained`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from typing import Any, TypeAlias, TypeVar

import grpc
import grpc.aio

from mesh.core.errors import BlobCorrupt, BlobMissing
from mesh.core.exchange import members
from mesh.core.ids import BlobId
from mesh.shell.transfer_store import Store, Traffic
from mesh.wire.blob import SERVICE, decode_name, decode_numbers, encode_bitmap, encode_numbers
from mesh.wire.errors import WireError

log = logging.getLogger("mesh")

READ_AHEAD = 3  # chunks of one stream
MOST_AHEAD = 32  # of all streams together, and one of each stream
MOST_ASKED = 1024  # chunks that a fetcher may ask for on one stream before it is given them
GAINS_EVERY = 0.1  # seconds
BURST = 0.05  # seconds of sending at full rate after a rest

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
T = TypeVar("T")
Handlers: TypeAlias = "grpc.GenericRpcHandler[bytes, bytes]"


class Bucket:
    """A token bucket as a time at which the next byte is due: who takes later waits for those before."""

    def __init__(self, rate: float) -> None:
        """``rate``: bytes per second; 0: no limit."""
        self.rate = rate
        self._due = 0.0

    def take(self, size: int, now: float) -> float:
        """Seconds to wait before these bytes are sent."""
        if not self.rate:
            return 0.0
        start = max(self._due, now - BURST)
        self._due = start + size / self.rate
        return max(0.0, start - now)


class Serving:
    def __init__(self, store: Store, pool: Executor, traffic: Traffic, limit: float) -> None:
        self._store, self._pool, self._traffic = store, pool, traffic
        self._bucket = Bucket(limit)
        self._ahead = 0
        self._fetched: Counter[BlobId] = Counter()
        self._listeners: dict[BlobId, set[asyncio.Event]] = {}
        self._running: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        """Ends the streams that are open; the server must take no new ones."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def handlers(self) -> Handlers:
        methods: dict[str, Any] = {
            "Manifest": grpc.unary_unary_rpc_method_handler(self._manifest),
            "Have": grpc.unary_stream_rpc_method_handler(self._have),
            "Chunks": grpc.stream_stream_rpc_method_handler(self._chunks),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    @contextmanager
    def gaining(self, blob: BlobId) -> Iterator[None]:
        """It is being fetched here: who asked what is here is told what is gained, and when that ends."""
        self._fetched[blob] += 1
        try:
            yield
        finally:
            self._fetched[blob] -= 1
            if not self._fetched[blob]:
                del self._fetched[blob]
            self.gained(blob)

    def gained(self, blob: BlobId) -> None:
        for event in self._listeners.get(blob, ()):
            event.set()

    async def _manifest(self, request: bytes, context: Context) -> bytes:
        _, manifest = await self._known(request, context)
        return manifest

    async def _have(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        blob, _ = await self._known(request, context)
        changed = asyncio.Event()
        self._listeners.setdefault(blob, set()).add(changed)
        try:
            with self._open():
                told = await self._thread(self._store.have, blob)
                yield encode_bitmap(told)
                while blob in self._fetched:
                    await changed.wait()
                    if blob in self._fetched:
                        await asyncio.sleep(GAINS_EVERY)
                    changed.clear()
                    new = await self._thread(self._store.have, blob) & ~told
                    if new:
                        told |= new
                        yield encode_numbers(members(new))
        finally:
            self._listeners[blob].discard(changed)
            if not self._listeners[blob]:
                del self._listeners[blob]

    async def _known(self, request: bytes, context: Context) -> tuple[BlobId, bytes]:
        try:
            blob = decode_name(request)
        except WireError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        manifest = await self._thread(self._store.manifest, blob)
        if manifest is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"nothing of blob {blob[:12]} is here")
        return blob, manifest

    async def _chunks(self, _: AsyncIterator[bytes], context: Context) -> None:
        try:
            first = await context.read()
            blob = decode_name(first if isinstance(first, bytes) else b"")
            async with self._held(blob):
                with self._open():
                    await self._give(blob, context)
        except WireError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except BlobMissing as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, str(error))

    async def _give(self, blob: BlobId, context: Context) -> None:
        loop = asyncio.get_running_loop()
        asked: deque[int] = deque()
        ahead: deque[asyncio.Future[bytes]] = deque()
        more = asyncio.Event()
        listening = asyncio.ensure_future(_listen(context, asked, more))
        try:
            while True:
                while asked and (not ahead or (len(ahead) < READ_AHEAD and self._ahead < MOST_AHEAD)):
                    ahead.append(loop.run_in_executor(self._pool, self._read, blob, asked.popleft()))
                    self._ahead += 1
                if ahead:
                    data = await ahead[0]
                    wait = self._bucket.take(len(data), loop.time())
                    if wait:
                        await asyncio.sleep(wait)
                    await context.write(data)
                    self._traffic.sent += len(data)
                    ahead.popleft()
                    self._ahead -= 1
                elif listening.done():
                    listening.result()
                    return
                else:
                    more.clear()
                    await more.wait()
        finally:
            self._ahead -= len(ahead)
            listening.cancel()

    def _thread(self, work: Callable[[BlobId], T], blob: BlobId) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._pool, work, blob)

    def _read(self, blob: BlobId, index: int) -> bytes:
        try:
            return self._store.read(blob, index)
        except BlobMissing:
            return b""
        except BlobCorrupt as error:
            log.warning("a chunk is not given: %s", error, extra={"event": "blob_corrupt"})
            return b""

    @asynccontextmanager
    async def _held(self, blob: BlobId) -> AsyncIterator[None]:
        held: AbstractContextManager[object] = self._store.reading(blob)
        entering = self._pool.submit(held.__enter__)
        try:
            await asyncio.wrap_future(entering)
            yield
        finally:  # whether or not anybody waited until it was entered
            self._pool.submit(_leave, entering, held)

    @contextmanager
    def _open(self) -> Iterator[None]:
        task = asyncio.current_task()
        assert task is not None, "gRPC runs every handler in a task"
        self._running.add(task)
        try:
            yield
        finally:
            self._running.discard(task)


def _leave(entering: Future[object], held: AbstractContextManager[object]) -> None:
    if not entering.cancelled() and entering.exception() is None:
        held.__exit__(None, None, None)


async def _listen(context: Context, asked: deque[int], more: asyncio.Event) -> None:
    """Until the fetcher has no more to ask."""
    try:
        while isinstance(frame := await context.read(), bytes):
            numbers = decode_numbers(frame)
            if len(asked) + len(numbers) > MOST_ASKED:
                raise WireError(f"more than {MOST_ASKED} chunks were asked for at once", "a fetcher asks for a few")
            asked.extend(numbers)
            more.set()
    finally:
        more.set()
