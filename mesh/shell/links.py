"""Links: how this node's messages reach others, on one TCP port.

Owns the gRPC server (other services are registered on it), outgoing connections, the exchange of Hello, and queues
that are bounded. It must not know what a message means or when to dial: the machine says so, and hears about it by
LinkUp, LinkDown, LinkRefused, DialFailed, Received and MessageUnreadable.

A *link* is one ``Peer.Link`` stream. Two nodes may hold one in each direction; the newest is used. Reports and Orders
go over ``Work.Serve``, a stream that the worker opens when it has the first Report to send, so that bulk work never
stands before a heartbeat in a queue. Work streams live only as long as a link with the same life of the same node.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from mesh.core.events import DialFailed, Event, LinkDown, LinkRefused, LinkUp, MessageUnreadable, Received
from mesh.core.ids import Life, NodeId
from mesh.core.messages import Hello, Message, Orders, Report
from mesh.shell.links_stream import (
    CHANNEL_OPTIONS,
    MAX_MESSAGE,
    SERVER_OPTIONS,
    STREAM_ERRORS,
    Stream,
    as_is,
    open_stream,
    reach,
)
from mesh.v1.peer_pb2 import PeerFrame
from mesh.v1.work_pb2 import OrdersFrame, ReportFrame
from mesh.wire.errors import WireError
from mesh.wire.peer import LinkMessage, Refusal, decode_peer, encode_peer
from mesh.wire.work import decode_orders, decode_report, encode_orders, encode_report, opening

log = logging.getLogger("mesh")

HELLO_TIMEOUT = 3.0
UNREADABLE = (WireError, DecodeError)

T = TypeVar("T")
Peer: TypeAlias = tuple[NodeId, Life]
Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
Handlers: TypeAlias = "grpc.GenericRpcHandler[bytes, bytes]"


class PortInUse(OSError):
    """Another process listens there."""


class _Link:
    def __init__(self, number: int, hello: Hello, stream: Stream, channel: grpc.aio.Channel | None) -> None:
        self.number, self.hello, self.stream, self.channel = number, hello, stream, channel

    @property
    def peer(self) -> Peer:
        return self.hello.node, self.hello.life


class Links:
    """``emit`` takes events, in the loop; ``hello`` is asked for each time this node introduces itself."""

    def __init__(
        self, emit: Callable[[Event], None], hello: Callable[[], Hello], hello_timeout: float = HELLO_TIMEOUT
    ) -> None:
        self._emit, self._hello, self._hello_timeout = emit, hello, hello_timeout
        self._numbers = itertools.count(1)
        self._links: dict[int, _Link] = {}
        self._nodes: dict[NodeId, list[_Link]] = {}  # newest last
        self._reports: dict[Peer, Stream] = {}  # streams that we opened
        self._orders: dict[Peer, Stream] = {}  # streams that others opened
        self._dialling: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: grpc.aio.Server | None = None
        self.strangers = 0  # streams that began with what is no Hello, or no work
        self.dropped = 0  # messages that went nowhere: no link, a full queue, or too large

    def bind(self, host: str, port: int, socket_path: Path | None, handlers: Sequence[Handlers]) -> int:
        """Takes the port (0: any free one) and returns it. Nothing is served before :meth:`start`.

        Raises PortInUse, and OSError where the address is not this machine's.
        """
        bracketed = f"[{host}]" if ":" in host else host
        server = grpc.aio.server(options=SERVER_OPTIONS)
        server.add_generic_rpc_handlers((*self._handlers(), *handlers))
        try:
            _try_bind(host, port)  # gRPC says neither what went wrong nor, for a name of two addresses, that one failed
            port = server.add_insecure_port(f"{bracketed}:{port}")
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUse(error.errno, f"port {port} of {host} is in use") from error
            raise
        except RuntimeError as error:
            raise PortInUse(errno.EADDRINUSE, f"port {port} of {host} is in use") from error
        if socket_path is not None:
            mask = os.umask(0o177)  # a socket that was open to others for an instant was open
            try:
                server.add_insecure_port(f"unix:{socket_path}")
            except RuntimeError as error:
                raise OSError(errno.EIO, f"the Unix socket {socket_path} cannot be made") from error
            finally:
                os.umask(mask)
        self._server = server
        return port

    async def start(self) -> None:
        assert self._server is not None, "bind first"
        await self._server.start()

    async def close(self) -> None:
        """Ends every link without a word: a closed connection is noticed at once."""
        for task in list(self._tasks):
            task.cancel()
        if self._server is not None:
            await self._server.stop(None)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # What the machine wants.

    def dial(self, address: str) -> None:
        if address not in self._dialling:  # else the dial under way will tell
            self._dialling.add(address)
            self._spawn(self._dial(address))

    def send(self, to: NodeId, message: Message) -> None:
        links = self._nodes.get(to)
        if not links:
            self.dropped += 1
        elif isinstance(message, Report):
            self._send_work(links[-1], self._report_stream(links[-1]), encode_report(message).SerializeToString())
        elif isinstance(message, Orders):
            self._send_work(links[-1], self._orders.get(links[-1].peer), encode_orders(message).SerializeToString())
        else:
            stream, frame = links[-1].stream, _frame(message)
            if self._fits(frame, to):
                while stream.full(frame):
                    stream.drop_oldest()
                    self.dropped += 1
                stream.put(frame)

    def hangup(self, link: int, reason: str, code: str) -> None:
        found = self._links.get(link)
        if found is not None:
            found.stream.end(_frame(Refusal(code, reason)))
            self._down(found)

    # Links.

    async def _dial(self, address: str) -> None:
        channel: grpc.aio.Channel | None = None
        try:
            try:
                channel = grpc.aio.insecure_channel(await reach(address), options=CHANNEL_OPTIONS)
                call, stream = open_stream(channel, "/mesh.v1.Peer/Link")
                async with asyncio.timeout(self._hello_timeout):
                    await call.write(_frame(self._hello()))
                    first = await stream.read()
                answer = _message(first) if first is not None else None
            except ConnectionRefusedError:
                self._emit(DialFailed(address, True))
                return
            except UNREADABLE as error:
                self.strangers += 1
                self._emit(LinkRefused(address, f"what answers at {address} is no node: {error}", "invalid"))
                return
            except (OSError, TimeoutError, ValueError, *STREAM_ERRORS) as error:
                log.debug("cannot link to %s: %s", address, error, extra={"event": "dial_failed"})
                self._emit(DialFailed(address, False))
                return
            finally:
                self._dialling.discard(address)
            if isinstance(answer, Refusal):
                self._emit(LinkRefused(address, answer.reason, answer.code))
            elif not isinstance(answer, Hello):
                self._emit(DialFailed(address, False))
            elif reason := _no_common_protocol(answer, self._hello()):
                self._emit(LinkRefused(address, reason, "protocol"))
            else:
                await self._live(_Link(next(self._numbers), answer, stream, channel), address, dialed=address)
        finally:
            if channel is not None:
                await channel.close(None)

    async def _accept(self, _: AsyncIterator[bytes], context: Context) -> None:
        stream = Stream(context)
        try:
            async with asyncio.timeout(self._hello_timeout):
                frame = await stream.read()
            hello = _message(frame) if frame is not None else None
        except (TimeoutError, *UNREADABLE) as error:
            await self._turn_away(context, f"the first message on a link is a Hello; {error or 'none came'}")
            return
        if not isinstance(hello, Hello):
            if frame is not None:  # else the other side hung up
                await self._turn_away(context, "the first message on a link is a Hello, and this was another one")
            return
        ours = self._hello()
        if reason := _no_common_protocol(hello, ours):
            self._emit(LinkRefused(hello.address, reason, "protocol"))
            await context.write(_frame(Refusal("protocol", reason)))
            return
        # Queued and not written: the link must be known here before the other side can open its work stream.
        stream.put(_frame(ours))
        await self._live(_Link(next(self._numbers), hello, stream, None), hello.address)

    async def _live(self, link: _Link, address: str, dialed: str = "") -> None:
        node = link.hello.node

        def take(frame: bytes) -> bool:
            if link.number not in self._links:
                return True  # hung up; the stream is read only until the other side has noticed
            try:
                message = _message(frame)
            except UNREADABLE as error:
                self._refuse(link.peer, f"no message; {error}")
                return True  # until the other side has read why
            if isinstance(message, Refusal):
                if message.code:
                    self._emit(LinkRefused(address, message.reason, message.code))
                return False
            if message is not None and not isinstance(message, Hello):
                self._emit(Received(node, message))
            return True

        self._links[link.number] = link
        self._nodes.setdefault(node, []).append(link)
        self._emit(LinkUp(link.number, link.hello, dialed))
        try:
            await link.stream.run(take)
        finally:
            self._down(link)

    async def _turn_away(self, context: Context, why: str) -> None:
        self.strangers += 1
        log.warning("%s opened a link that is none: %s", context.peer(), why, extra={"event": "link_invalid"})
        try:
            await context.write(_frame(Refusal("invalid", why)))
        except STREAM_ERRORS as error:  # it does not wait for an answer
            log.debug("%s was not told: %s", context.peer(), error, extra={"event": "link_invalid"})

    def _refuse(self, peer: Peer, what: str) -> None:
        """It sent what cannot be read, on a link or on a work stream: no link with this life of it stays."""
        links = [link for link in self._nodes.get(peer[0], ()) if link.peer == peer]
        if links:  # else a stream that outlived its link
            self._emit(MessageUnreadable(peer[0], what))
        for link in links:
            self.hangup(link.number, f"{peer[0]} sent {what}", "invalid")

    def _down(self, link: _Link) -> None:
        if self._links.pop(link.number, None) is None:
            return
        links = self._nodes[link.hello.node]
        links.remove(link)
        if not links:
            del self._nodes[link.hello.node]
        if all(other.peer != link.peer for other in links):
            for streams in (self._reports, self._orders):
                if (stream := streams.pop(link.peer, None)) is not None:
                    stream.end()
        self._emit(LinkDown(link.number))

    # Work.

    def _send_work(self, link: _Link, stream: Stream | None, frame: bytes) -> None:
        if stream is None:
            self.dropped += 1  # the worker has not opened its stream yet; the machine repeats orders
        elif self._fits(frame, link.hello.node):
            if stream.full(frame):
                # A report that is lost in the middle would be missed; after a new link everything is declared again.
                self.dropped += 1
                log.warning("%s does not keep up; linking anew", link.hello.node, extra={"event": "work_overflow"})
                for other in [other for other in self._nodes[link.hello.node] if other.peer == link.peer]:
                    self.hangup(other.number, "work piled up", "")
            else:
                stream.put(frame)

    def _report_stream(self, link: _Link) -> Stream | None:
        stream = self._reports.get(link.peer)
        if stream is None:
            # A connection that exists is known to work; the address in a Hello may not be reachable from here.
            dialled = [other for other in self._nodes[link.hello.node] if other.peer == link.peer and other.channel]
            own = None if dialled else grpc.aio.insecure_channel(link.hello.address, options=CHANNEL_OPTIONS)
            channel = own or dialled[-1].channel
            assert channel is not None
            hello = self._hello()
            _, stream = open_stream(channel, "/mesh.v1.Work/Serve")
            self._reports[link.peer] = stream
            stream.put(opening(hello.node, hello.life).SerializeToString())
            self._spawn(self._report(link.peer, stream, own))
        return stream

    async def _report(self, peer: Peer, stream: Stream, own: grpc.aio.Channel | None) -> None:
        def take(frame: bytes) -> bool:
            return self._take_work(peer, lambda: decode_orders(_checked(OrdersFrame.FromString, frame)))

        try:
            await stream.run(take)
        finally:
            if self._reports.get(peer) is stream:
                del self._reports[peer]  # the next report opens another
            if own is not None:
                await own.close(None)

    async def _serve(self, _: AsyncIterator[bytes], context: Context) -> None:
        stream = Stream(context)
        try:
            async with asyncio.timeout(self._hello_timeout):
                first = ReportFrame.FromString(await stream.read() or b"")
        except (TimeoutError, *UNREADABLE) as error:
            self.strangers += 1
            log.warning("%s sent what is no work: %s", context.peer(), error, extra={"event": "frame_invalid"})
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"this is no work: {error}")
        peer = (first.node, first.life)
        if all(link.peer != peer for link in self._nodes.get(first.node, ())):
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "open a link first, by Peer.Link")
        if (older := self._orders.get(peer)) is not None:
            older.end()
        self._orders[peer] = stream

        def take(frame: bytes) -> bool:
            return self._take_work(peer, lambda: decode_report(_checked(ReportFrame.FromString, frame)))

        try:
            await stream.run(take)
        finally:
            if self._orders.get(peer) is stream:
                del self._orders[peer]

    def _take_work(self, peer: Peer, decode: Callable[[], Message | None]) -> bool:
        try:
            message = decode()
        except UNREADABLE as error:
            self._refuse(peer, f"no work; {error}")
            return False
        if message is not None:
            self._emit(Received(peer[0], message))
        return True

    def _fits(self, frame: bytes, to: NodeId) -> bool:
        if len(frame) <= MAX_MESSAGE:
            return True
        self.dropped += 1
        log.error("a message of %d bytes to %s is too large", len(frame), to, extra={"event": "message_too_large"})
        return False

    def _handlers(self) -> tuple[Handlers, ...]:
        def service(name: str, method: str, behaviour: Any) -> Handlers:
            handler = grpc.stream_stream_rpc_method_handler(behaviour, as_is, as_is)
            return grpc.method_handlers_generic_handler(name, {method: handler})

        return service("mesh.v1.Peer", "Link", self._accept), service("mesh.v1.Work", "Serve", self._serve)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _frame(message: LinkMessage) -> bytes:
    return encode_peer(message).SerializeToString()


def _message(frame: bytes) -> LinkMessage | None:
    return decode_peer(_checked(PeerFrame.FromString, frame))


def _checked(parse: Callable[[bytes], T], frame: bytes) -> T:
    if len(frame) > MAX_MESSAGE:
        raise WireError(f"it has {len(frame)} bytes", f"the limit is {MAX_MESSAGE}")
    return parse(frame)


def _no_common_protocol(theirs: Hello, ours: Hello) -> str:
    """Empty where there is one: both sides then speak the highest."""
    if set(theirs.protocols) & set(ours.protocols):
        return ""

    def speaks(hello: Hello) -> str:
        versions = ", ".join(map(str, hello.protocols)) or "none"
        return f"{hello.name} (version {hello.version}) speaks protocol {versions}"

    return f"{speaks(theirs)}; {speaks(ours)}; install the same version on both"


def _try_bind(host: str, port: int) -> None:
    for family, kind, proto, _, where in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        with socket.socket(family, kind, proto) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(where)
