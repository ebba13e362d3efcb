"""One holder, as a fetcher asks it: what it has, and a stream of its chunks.

The stream owns a connection and a thread: gRPC's synchronous client moves more than the asynchronous one, and the event
loop neither waits for a chunk nor copies it. It must not know what a chunk should be, nor what to ask for.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Executor, Future, wait
from typing import Any, NamedTuple

import grpc
import grpc.aio

from mesh.core.ids import BlobId
from mesh.wire.blob import SERVICE, decode_bitmap, decode_numbers, encode_name, encode_numbers
from mesh.wire.errors import WireError

CONNECT_WITHIN_MS = 3000
MOST_BYTES = 2 * 1024 * 1024  # a chunk has one MiB at most; a liar cannot fill the memory

BULK_CHANNEL = (
    ("grpc.use_local_subchannel_pool", 1),  # control messages go by another connection, and do not queue behind chunks
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.min_reconnect_backoff_ms", CONNECT_WITHIN_MS),  # how long one attempt to connect may take
    ("grpc.max_receive_message_length", MOST_BYTES),
)

ASKING_CHANNEL = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),  # a manifest has 36 bytes per chunk
)


class Came(NamedTuple):
    """A chunk arrived, at this time (none of it: the holder has it no more); ``kept``: its writing ended so."""

    number: int
    size: int
    at: float
    kept: bool = False
    error: BaseException | None = None


class Source:
    """``came`` gets what happened, in order, and ``ended`` why there is no more of it, both in the event loop.

    From the receiving thread a chunk goes straight to the pool: each change of threads costs as much as its digest. The
    loop hears of a chunk when it is written, or when it looks (:meth:`deliver`).
    """

    def __init__(
        self,
        blob: BlobId,
        address: str,
        pool: Executor,
        write: Callable[[int, bytes], None],
        came: Callable[[list[Came]], None],
        ended: Callable[[str], None],
    ) -> None:
        self._address, self._pool, self._write = address, pool, write
        self._on_came, self._on_ended = came, ended
        self._loop = asyncio.get_running_loop()
        self._frames: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._frames.put(encode_name(blob))
        self._expected: deque[int] = deque()
        self._came: deque[Came] = deque()
        self._woken = False
        self._call: Any = None
        self._closed = False
        self._over = asyncio.Event()
        threading.Thread(target=self._run, name=f"blob from {address}", daemon=True).start()

    def ask(self, numbers: Iterable[int]) -> None:
        listed = tuple(numbers)
        self._expected.extend(listed)
        self._frames.put(encode_numbers(listed))

    def deliver(self) -> None:
        """Tell now what happened until now."""
        self._woken = False  # before it is looked: what comes after this look wakes the loop again
        found = []
        while self._came:
            found.append(self._came.popleft())
        if found:
            self._on_came(found)

    async def close(self) -> None:
        """Returns when nothing can arrive or be written any more."""
        self._closed = True
        if self._call is not None:
            self._call.cancel()
        await self._over.wait()

    def _run(self) -> None:
        why, writing = "a defect, see the log", deque[Future[None]]()
        try:
            why = self._receive(writing)
        finally:
            wait(writing)
            self._loop.call_soon_threadsafe(self._end, why)

    def _receive(self, writing: deque[Future[None]]) -> str:
        """Until the stream ends; says why it did."""
        with grpc.insecure_channel(self._address, options=BULK_CHANNEL) as channel:
            method: Any = channel.stream_stream(f"/{SERVICE}/Chunks", _as_is, _as_is)
            self._call = method(iter(self._frames.get, None))
            if self._closed:
                self._call.cancel()
            try:
                for data in self._call:
                    if not self._expected:
                        return "it sent what nobody asked for"
                    came = Came(self._expected.popleft(), len(data), self._loop.time())
                    self._came.append(came)
                    if not data:
                        self._tell()
                        continue
                    while writing and writing[0].done():
                        writing.popleft()
                    writing.append(self._pool.submit(self._keep, came, data))
            except grpc.RpcError as error:
                return _reason(error)
            finally:
                self._call.cancel()
                self._frames.put(None)
        return "it ended the stream"

    def _keep(self, came: Came, data: bytes) -> None:
        error: BaseException | None = None
        try:
            self._write(came.number, data)
        except Exception as caught:  # noqa: BLE001 - whoever asked for it judges it
            error = caught
        self._came.append(came._replace(kept=True, error=error))
        self._tell()

    def _tell(self) -> None:
        if not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self.deliver)

    def _end(self, why: str) -> None:
        self.deliver()
        self._over.set()
        self._on_ended(why)


class Unanswered(Exception):
    """A holder could not be asked. ``str()``: why, in one line."""


class Asking:
    """What a holder says of one blob: its manifest, and which chunks it has."""

    def __init__(self, blob: BlobId, address: str, within: float) -> None:
        """``within``: seconds for an answer."""
        self._blob, self._within = blob, within
        self._channel = grpc.aio.insecure_channel(address, options=ASKING_CHANNEL)

    async def __aenter__(self) -> Asking:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close(None)

    async def manifest(self, within: float) -> bytes:
        """``within``: seconds that it may take to come, once the holder is reached. Raises Unanswered."""
        method: Any = self._channel.unary_unary(f"/{SERVICE}/Manifest", _as_is, _as_is)
        try:
            async with asyncio.timeout(self._within):
                await self._channel.channel_ready()
            found: bytes = await method(encode_name(self._blob), timeout=within)
        except TimeoutError:
            raise Unanswered(f"not reached within {self._within:g} s") from None
        except grpc.aio.AioRpcError as error:
            raise Unanswered(_reason(error)) from None
        return found

    async def have(self) -> AsyncIterator[int]:
        """The chunks it has, then those it gains, until it gains no more. Raises Unanswered."""
        method: Any = self._channel.unary_stream(f"/{SERVICE}/Have", _as_is, _as_is)
        call = method(encode_name(self._blob))
        try:
            async with asyncio.timeout(self._within):
                frame = await call.read()
            if isinstance(frame, bytes):
                yield decode_bitmap(frame)
            while isinstance(frame := await call.read(), bytes):
                yield sum(1 << number for number in decode_numbers(frame))
        except TimeoutError:
            raise Unanswered(f"no answer within {self._within:g} s") from None
        except (grpc.aio.AioRpcError, WireError) as error:
            raise Unanswered(_reason(error) if isinstance(error, grpc.aio.AioRpcError) else str(error)) from None
        finally:
            call.cancel()


def _as_is(data: bytes) -> bytes:
    return data


def _reason(error: Any) -> str:
    """Of a call that failed, in one line."""
    code = error.code()
    details = str(error.details() or "").splitlines()
    return f"{code.name.lower().replace('_', ' ')}: {details[0][:200]}" if details else str(code.name.lower())
