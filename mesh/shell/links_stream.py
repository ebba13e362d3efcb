"""One gRPC stream of either side: frames in, a bounded queue of frames out; and the channel and server options.

Owns what gRPC raises and how it is told apart. It must not know what a frame means.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import grpc
import grpc.aio

# Slices are counted in records, 2,000 of them with 16 KiB of result each: 32 MiB, and room for as much again.
MAX_MESSAGE = 64 * 1024 * 1024
# A larger one is read, so that its sender can be told by name and counted. Beyond this gRPC itself ends the stream: it
# tells the sender why, and to this side it looks like any other end.
MAX_READ = 2 * MAX_MESSAGE
MAX_FRAMES = 1000
MAX_QUEUED = 8 * 1024 * 1024  # bytes; one frame larger than this is still sent when nothing else waits
CONNECT_TIMEOUT = 1.0
LINGER = 1.0  # the one told why the stream ends closes it; this is how long it may take

# What a read or a write raises when the stream is over, whichever side ended it and however.
STREAM_ERRORS = (grpc.aio.AioRpcError, grpc.aio.BaseError, asyncio.InvalidStateError)

# Closed connections are noticed by the kernel at once and silence by heartbeats within seconds: pings only free
# what a vanished machine left open. Without the last two options a peer that pings is sent away.
_PINGS = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
)
SERVER_OPTIONS = (
    ("grpc.so_reuseport", 0),  # else two daemons share a port and each gets half of the connections
    ("grpc.max_receive_message_length", MAX_READ),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    *_PINGS,
)
CHANNEL_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # a redial must not inherit the back-off of the dial before it
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", MAX_READ),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    *_PINGS,
)


def as_is(data: bytes) -> bytes:
    """The (de)serializer of every method: decoding happens once, where a bad frame can be answered for."""
    return data


class Call(Protocol):
    """What a client's call and a server's context have in common."""

    async def read(self) -> object: ...

    async def write(self, message: bytes) -> None: ...


class Stream:
    """Frames go out in the order of :meth:`put`, all that are queued in one go; :meth:`run` drives both directions."""

    def __init__(self, call: Call, finish_writing: Callable[[], Awaitable[None]] | None = None) -> None:
        """``finish_writing`` half-closes; only the side that opened the stream can."""
        self._call = call
        self._finish_writing = finish_writing
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._ending = False
        self._wake = asyncio.Event()
        self._pumping: asyncio.Task[None] | None = None

    def full(self, frame: bytes) -> bool:
        too_much = len(self._frames) >= MAX_FRAMES or self._bytes + len(frame) > MAX_QUEUED
        return too_much and bool(self._frames)

    def drop_oldest(self) -> None:
        self._bytes -= len(self._frames.popleft())

    def put(self, frame: bytes) -> None:
        if not self._ending:
            self._frames.append(frame)
            self._bytes += len(frame)
            self._wake.set()

    def end(self, *last: bytes) -> None:
        """What is queued is forgotten; ``last`` goes out, and :meth:`run` returns."""
        self._frames.clear()
        self._frames.extend(last)
        self._ending = True
        self._wake.set()
        if self._pumping is not None:  # the other side may not be reading
            asyncio.get_running_loop().call_later(LINGER, self._pumping.cancel)

    async def read(self) -> bytes | None:
        """The next frame; None at the end, whatever ended it."""
        try:
            frame = await self._call.read()
        except STREAM_ERRORS:
            return None
        return frame if isinstance(frame, bytes) else None

    async def run(self, take: Callable[[bytes], bool]) -> None:
        """Until either side ends it, or ``take`` returns False."""
        reader = asyncio.ensure_future(self._read_all(take))
        pump = self._pumping = asyncio.ensure_future(self._pump())
        try:
            await asyncio.wait({reader, pump}, return_when=asyncio.FIRST_COMPLETED)
            if self._ending and self._finish_writing is not None and not reader.done():
                await asyncio.wait({reader}, timeout=LINGER)
        finally:
            ended = [task for task in (reader, pump) if task.done() and not task.cancelled()]
            reader.cancel()
            pump.cancel()
            await asyncio.wait({reader, pump})
        for task in ended:
            task.result()  # a defect in `take` must not pass for a lost link

    async def _read_all(self, take: Callable[[bytes], bool]) -> None:
        while (frame := await self.read()) is not None and take(frame):
            pass

    async def _pump(self) -> None:
        try:
            while True:
                while self._frames:
                    frame = self._frames.popleft()
                    self._bytes -= len(frame)
                    await self._call.write(frame)
                if self._ending:
                    if self._finish_writing is not None:
                        await self._finish_writing()
                    return
                self._wake.clear()
                await self._wake.wait()
        except STREAM_ERRORS:
            return  # the reader sees the end too, and tells it once


def open_stream(channel: grpc.aio.Channel, method: str) -> tuple[Call, Stream]:
    """A two-way stream of raw frames. Nothing is known yet of whether anybody answers."""
    call: Any = channel.stream_stream(method, request_serializer=as_is, response_deserializer=as_is)(None)
    return call, Stream(call, call.done_writing)


def parse_address(address: str) -> tuple[str, int]:
    """``host:port`` or ``[v6]:port``; ValueError otherwise."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{address!r} is not HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


async def reach(address: str) -> str:
    """A gRPC target of the first IP address that accepts a connection.

    gRPC itself does not tell a refusal from silence, and a refusal says that no process listens there. Raises
    ConnectionRefusedError where every address refused, TimeoutError and OSError otherwise.
    """
    host, port = parse_address(address)
    loop = asyncio.get_running_loop()
    refused, last = True, OSError(f"{host} has no address")
    async with asyncio.timeout(CONNECT_TIMEOUT):
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except socket.gaierror:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for family, kind, proto, _, where in found:
            with socket.socket(family, kind, proto) as sock:
                sock.setblocking(False)
                try:
                    await loop.sock_connect(sock, where)
                    # On one machine a closed port can be drawn as the source port too, and TCP then meets itself.
                    if sock.getsockname() == sock.getpeername():
                        raise ConnectionRefusedError(f"{address} is closed")
                except ConnectionRefusedError as error:
                    last = error
                except OSError as error:
                    refused, last = False, error
                else:
                    ip = str(where[0]).replace("%", "%25")
                    return f"ipv6:[{ip}]:{port}" if family == socket.AF_INET6 else f"ipv4:{ip}:{port}"
    if refused and isinstance(last, ConnectionRefusedError):
        raise last
    raise OSError(f"{address}: {last}")
