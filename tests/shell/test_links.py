"""Links over real gRPC on loopback: what the machine is told, and that nothing piles up."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from mesh.core.events import DialFailed, Event, LinkDown, LinkRefused, LinkUp, MessageUnreadable, Received
from mesh.core.ids import NO_CLAIM
from mesh.core.lattice import NO_OUTCOME, Attempt, Register
from mesh.core.messages import PROTOCOL, Cursor, Hello, Message, Orders, Pull, Pulled, Report, Yield
from mesh.shell.links import Links, PortInUse
from mesh.shell.links_stream import MAX_FRAMES, MAX_MESSAGE, Stream
from mesh.v1.peer_pb2 import PeerFrame
from mesh.v1.work_pb2 import ReportFrame
from mesh.wire.peer import Refusal, decode_peer, encode_peer
from mesh.wire.work import opening

PATIENCE = 10.0


class Node:
    """Links, and all they told, in order."""

    def __init__(self, name: str, protocols: tuple[int, ...] = (PROTOCOL,), life: str = "1", timeout: float = 3.0):
        self.name, self.protocols, self.life = name, protocols, life
        self.events: list[Event] = []
        self.more = asyncio.Event()
        self.links = Links(self.emit, self.hello, timeout)
        self.address = ""

    def hello(self) -> Hello:
        mesh = ("test", ("mesh-1",), False)
        return Hello(self.protocols, *mesh, self.name, self.life, self.name, self.address, "auto", "0.1", 0)

    def emit(self, event: Event) -> None:
        self.events.append(event)
        self.more.set()

    async def start(self, port: int = 0) -> Node:
        self.address = f"127.0.0.1:{self.links.bind('127.0.0.1', port, None, ())}"
        await self.links.start()
        return self

    async def until(self, true: Callable[[Event], bool]) -> Any:
        async with asyncio.timeout(PATIENCE):
            while not (found := [event for event in self.events if true(event)]):
                self.more.clear()
                await self.more.wait()
        return found[0]

    async def sees(self, kind: type) -> Any:
        return await self.until(lambda event: isinstance(event, kind))

    def count(self, kind: type) -> int:
        return sum(isinstance(event, kind) for event in self.events)

    async def hears(self, message: Message) -> Received:
        found: Received = await self.until(lambda event: isinstance(event, Received) and event.message == message)
        return found


@pytest.fixture
async def nodes() -> AsyncIterator[Callable[..., Any]]:
    made: list[Node] = []

    async def make(name: str, **options: Any) -> Node:
        made.append(Node(name, **options))
        return await made[-1].start()

    yield make
    for node in made:
        await node.links.close()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.001)


async def joined(nodes: Callable[..., Any]) -> tuple[Node, Node]:
    """The first dialled the second."""
    one, two = await nodes("50-A"), await nodes("50-B")
    one.links.dial(two.address)
    await asyncio.gather(one.sees(LinkUp), two.sees(LinkUp))
    return one, two


def report(applied: int = 1, padding: int = 0) -> Report:
    attempt = Attempt("t1", "a1", True, 0, 2, 1, "50-A", NO_OUTCOME._replace(result=b"x" * padding))
    return Report(NO_CLAIM, "1", applied, (attempt,), (), None, 0)


ORDERS = Orders(NO_CLAIM, 7, (), (("a1", "why"),), ("a2",), ())


async def test_both_sides_learn_who_the_other_is(nodes: Callable[..., Any]) -> None:
    one, two = await joined(nodes)
    up = await one.sees(LinkUp)
    assert (up.hello, up.dialed) == (two.hello(), two.address)
    up = await two.sees(LinkUp)
    assert (up.hello, up.dialed) == (one.hello(), "")


async def test_messages_arrive_in_order_in_both_directions(nodes: Callable[..., Any]) -> None:
    one, two = await joined(nodes)
    for number in range(50):
        one.links.send("50-B", Pull(number, (Cursor("j", number, ""),)))
        two.links.send("50-A", Pull(-number, (Cursor("j", number, ""),)))
    await asyncio.gather(one.hears(Pull(-49, (Cursor("j", 49, ""),))), two.hears(Pull(49, (Cursor("j", 49, ""),))))
    assert [e.message.session for e in two.events if isinstance(e, Received)] == list(range(50))
    assert {e.sender for e in two.events if isinstance(e, Received)} == {"50-A"}


async def test_no_common_protocol_refuses_the_link_on_both_sides(nodes: Callable[..., Any]) -> None:
    one, two = await nodes("50-A", protocols=(99, 98)), await nodes("50-B")
    one.links.dial(two.address)
    refused, there = await asyncio.gather(one.sees(LinkRefused), two.sees(LinkRefused))
    assert refused.code == there.code == "protocol"
    assert (refused.address, there.address) == (two.address, one.address)
    assert "protocol 99, 98" in refused.reason
    assert one.count(LinkUp) == two.count(LinkUp) == 0


async def test_one_common_protocol_is_enough(nodes: Callable[..., Any]) -> None:
    one, two = await nodes("50-A", protocols=(99, PROTOCOL)), await nodes("50-B")
    one.links.dial(two.address)
    await asyncio.gather(one.sees(LinkUp), two.sees(LinkUp))


@pytest.mark.parametrize("dialler_hangs_up", [True, False])
async def test_hangup_tells_the_other_side_why(nodes: Callable[..., Any], dialler_hangs_up: bool) -> None:
    one, two = await joined(nodes)
    ends, hears = (one, two) if dialler_hangs_up else (two, one)
    up = await ends.sees(LinkUp)
    ends.links.hangup(up.link, "another mesh", "foreign")
    refused = await hears.sees(LinkRefused)
    assert (refused.code, refused.reason, refused.address) == ("foreign", "another mesh", ends.address)
    await asyncio.gather(ends.sees(LinkDown), hears.sees(LinkDown))
    assert hears.events.index(refused) < hears.events.index(await hears.sees(LinkDown))
    assert ends.count(LinkDown) == hears.count(LinkDown) == 1
    assert ends.count(LinkRefused) == 0


async def test_hangup_in_answer_to_link_up_is_heard(nodes: Callable[..., Any]) -> None:
    one, two = await nodes("50-A"), await nodes("50-B")
    emit = two.emit

    def refuse(event: Event) -> None:
        emit(event)
        if isinstance(event, LinkUp):
            two.links.hangup(event.link, "copied", "duplicate")

    two.links._emit = refuse
    one.links.dial(two.address)
    assert (await one.sees(LinkRefused)).code == "duplicate"


async def test_plain_hangup_is_no_refusal(nodes: Callable[..., Any]) -> None:
    one, two = await joined(nodes)
    two.links.hangup((await two.sees(LinkUp)).link, "", "")
    await one.sees(LinkDown)
    assert one.count(LinkRefused) == 0


async def test_closed_port_is_gone(nodes: Callable[..., Any]) -> None:
    one = await nodes("50-A")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    one.links.dial(f"127.0.0.1:{port}")
    assert await one.sees(DialFailed) == DialFailed(f"127.0.0.1:{port}", gone=True)


async def test_silent_port_is_not_gone(nodes: Callable[..., Any]) -> None:
    one = await nodes("50-A", timeout=0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        one.links.dial(address)
        assert await one.sees(DialFailed) == DialFailed(address, gone=False)


async def test_gone_only_if_every_address_refuses(nodes: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    one = await nodes("50-A")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    def resolve(*_: object, **__: object) -> list[Any]:
        hosts = ["255.255.255.255", "127.0.0.1"]  # the first cannot be connected to at all
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (host, port)) for host in hosts]

    monkeypatch.setattr("mesh.shell.links_stream.socket.getaddrinfo", resolve)
    one.links.dial(f"two-addresses:{port}")
    assert not (await one.sees(DialFailed)).gone


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:0", "127.0.0.1:http", "name.invalid:7433"])
async def test_address_that_is_none_fails(nodes: Callable[..., Any], address: str) -> None:
    one = await nodes("50-A")
    one.links.dial(address)
    assert await one.sees(DialFailed) == DialFailed(address, gone=False)


async def test_repeated_dial_makes_one_link(nodes: Callable[..., Any]) -> None:
    one, two = await nodes("50-A"), await nodes("50-B")
    for _ in range(5):
        one.links.dial(two.address)
    await one.sees(LinkUp)
    one.links.send("50-B", Pull(1, ()))
    await two.hears(Pull(1, ()))
    assert one.count(LinkUp) == two.count(LinkUp) == 1


async def test_death_is_noticed_at_once_and_the_address_works_again(nodes: Callable[..., Any]) -> None:
    one, two = await joined(nodes)
    port = int(two.address.rpartition(":")[2])
    await two.links.close()
    async with asyncio.timeout(1.0):
        await one.sees(LinkDown)
    one.links.dial(two.address)
    assert (await one.sees(DialFailed)).gone
    again = Node("50-B", life="2")
    await again.start(port)
    one.links.dial(two.address)
    await one.until(lambda event: isinstance(event, LinkUp) and event.hello.life == "2")
    await again.links.close()


async def test_newest_link_is_used_and_the_older_one_after_it(nodes: Callable[..., Any]) -> None:
    one, two = await joined(nodes)
    two.links.dial(one.address)
    second = await two.until(lambda event: isinstance(event, LinkUp) and event.dialed != "")
    await one.until(lambda event: isinstance(event, LinkUp) and event.dialed == "")
    older, newer = one.links._nodes["50-B"]
    one.links.send("50-B", Pull(1, ()))
    assert (len(older.stream._frames), len(newer.stream._frames)) == (0, 1)
    await two.hears(Pull(1, ()))
    two.links.hangup(second.link, "", "")
    await one.sees(LinkDown)
    one.links.send("50-B", Pull(2, ()))
    await two.hears(Pull(2, ()))


async def test_message_without_a_link_is_dropped(nodes: Callable[..., Any]) -> None:
    one = await nodes("50-A")
    one.links.send("50-X", Pull(1, ()))
    assert one.links.dropped == 1


@pytest.mark.parametrize("worker_dialled", [True, False])
async def test_reports_and_orders_use_the_stream_that_the_worker_opens(
    nodes: Callable[..., Any], worker_dialled: bool
) -> None:
    one, two = await joined(nodes)
    worker, leader = (one, two) if worker_dialled else (two, one)
    leader.links.send(worker.name, ORDERS)
    assert leader.links.dropped == 1  # the worker has not opened it yet
    worker.links.send(leader.name, report())
    assert (await leader.hears(report())).sender == worker.name
    leader.links.send(worker.name, ORDERS)
    assert (await worker.hears(ORDERS)).sender == leader.name


async def test_work_goes_on_over_a_new_link(nodes: Callable[..., Any]) -> None:
    one, two = await joined(nodes)
    one.links.send("50-B", report(1))
    await two.hears(report(1))
    one.links.hangup((await one.sees(LinkUp)).link, "", "")
    await two.sees(LinkDown)
    one.links.dial(two.address)
    await one.until(lambda event: isinstance(event, LinkUp) and event.link != 1)
    one.links.send("50-B", report(2))
    await two.hears(report(2))
    two.links.send("50-A", ORDERS)
    await one.hears(ORDERS)


async def test_work_stream_that_broke_alone_is_opened_again(nodes: Callable[..., Any]) -> None:
    one, two = await joined(nodes)
    one.links.send("50-B", report(1))
    await two.hears(report(1))
    two.links._orders["50-A", "1"].end()
    await until(lambda: not one.links._reports)
    one.links.send("50-B", report(2))
    await two.hears(report(2))
    assert one.count(LinkDown) == 0


async def test_work_stream_lives_as_long_as_a_link(nodes: Callable[..., Any]) -> None:
    one, two = await joined(nodes)
    two.links.dial(one.address)
    second = await two.until(lambda event: isinstance(event, LinkUp) and event.dialed != "")
    one.links.send("50-B", report())
    await two.hears(report())
    stream = two.links._orders["50-A", "1"]
    two.links.hangup(second.link, "", "")
    await one.sees(LinkDown)
    assert not stream._ending
    two.links.hangup((await two.sees(LinkUp)).link, "another mesh", "foreign")
    assert stream._ending
    await until(lambda: not two.links._orders and not one.links._reports)


async def test_work_without_a_link_is_refused(nodes: Callable[..., Any]) -> None:
    node = await nodes("50-A")
    async with grpc.aio.insecure_channel(node.address) as channel:
        call = channel.stream_stream("/mesh.v1.Work/Serve")()
        await call.write(opening("50-X", "1").SerializeToString())
        async with asyncio.timeout(PATIENCE):
            assert await call.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert not node.links._orders


@pytest.mark.parametrize("frame", [b"\xff\xff\xff", b""])
async def test_what_is_no_hello_makes_no_link(nodes: Callable[..., Any], frame: bytes) -> None:
    node = await nodes("50-A")
    async with grpc.aio.insecure_channel(node.address) as channel:
        call = channel.stream_stream("/mesh.v1.Peer/Link")()
        await call.write(frame)
        refusal = decode_peer(PeerFrame.FromString(await call.read()))
        assert await call.read() is grpc.aio.EOF
    assert isinstance(refusal, Refusal)
    assert refusal.code == "invalid"
    assert refusal.reason.startswith("the first message on a link is a Hello")
    assert node.links.strangers == 1
    assert node.events == []


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b"\xff\xff\xff", "50-B sent no message; "),
        (PeerFrame(pulled={"session": 1, "records": b"\xff"}).SerializeToString(), "a batch of records cannot be read"),
        (b"\x12" + b"\xff\xff\xff\x20" + b"x" * (1 << 26), f"the limit is {MAX_MESSAGE}"),
    ],
    ids=["no frame", "no records", "too large"],
)
async def test_what_is_no_message_is_refused_and_ends_the_link(nodes: Callable[..., Any], bad: bytes, why: str) -> None:
    node = await nodes("50-A")
    async with grpc.aio.insecure_channel(node.address) as channel:
        call = channel.stream_stream("/mesh.v1.Peer/Link")()
        await call.write(encode_peer(node.hello()._replace(node="50-B")).SerializeToString())
        await node.sees(LinkUp)
        assert decode_peer(PeerFrame.FromString(await call.read())) == node.hello()
        await call.write(bad)
        refusal = decode_peer(PeerFrame.FromString(await call.read()))
        assert isinstance(refusal, Refusal)
        assert refusal.code == "invalid"
        assert why in refusal.reason
        assert await call.read() is grpc.aio.EOF
        await node.sees(LinkDown)
    (told,) = [event for event in node.events if isinstance(event, MessageUnreadable)]
    assert told.sender == "50-B"
    assert why.removeprefix("50-B sent ") in told.reason
    assert node.count(MessageUnreadable) == node.count(LinkDown) == 1
    assert node.count(Received) == 0


async def test_large_frames_pass_and_too_large_ones_cost_no_link(nodes: Callable[..., Any]) -> None:
    one, two = await joined(nodes)

    def pulled(size: int) -> Pulled:
        return Pulled(1, Cursor("j", 1, ""), True, (Register("s", "f", 1, "n", "x" * size),))

    one.links.send("50-B", pulled(65 * 1024 * 1024))
    assert one.links.dropped == 1
    one.links.send("50-B", pulled(20 * 1024 * 1024))
    await two.hears(pulled(20 * 1024 * 1024))
    assert one.count(LinkDown) == 0


@pytest.fixture
async def deaf() -> AsyncIterator[str]:
    """The address of a node that says hello and then reads nothing."""
    hello = Hello((PROTOCOL,), "test", ("m",), False, "50-D", "1", "d", "127.0.0.1:1", "auto", "0.1", 0)
    over = asyncio.Event()

    async def link(_: object, context: Any) -> None:
        await context.read()
        await context.write(encode_peer(hello).SerializeToString())
        await over.wait()

    async def serve(_: object, context: Any) -> None:
        await over.wait()

    server = grpc.aio.server()
    for service, method, behaviour in (("Peer", "Link", link), ("Work", "Serve", serve)):
        handlers = {method: grpc.stream_stream_rpc_method_handler(behaviour)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(f"mesh.v1.{service}", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    over.set()
    await server.stop(None)


async def test_queue_to_a_deaf_peer_is_bounded(nodes: Callable[..., Any], deaf: str) -> None:
    one = await nodes("50-A")
    one.links.dial(deaf)
    await one.sees(LinkUp)
    for number in range(3 * MAX_FRAMES):
        one.links.send("50-D", Yield(NO_CLAIM, f"{number}" + "x" * 1000))
    assert one.links.dropped >= 2 * MAX_FRAMES - 1
    stream = one.links._nodes["50-D"][-1].stream
    assert PeerFrame.FromString(stream._frames[-1]).yielded.reason.startswith(f"{3 * MAX_FRAMES - 1}")


async def test_work_that_piles_up_ends_the_link(nodes: Callable[..., Any], deaf: str) -> None:
    one = await nodes("50-A")
    one.links.dial(deaf)
    await one.sees(LinkUp)
    for number in range(12):  # 8 MiB wait at most
        one.links.send("50-D", report(number, padding=1024 * 1024))
    await one.sees(LinkDown)


async def test_stream_counts_bytes_too() -> None:
    class Stuck:
        async def read(self) -> object:
            return await asyncio.Event().wait()

        async def write(self, message: bytes) -> None:
            await asyncio.Event().wait()

    stream = Stream(Stuck())
    assert not stream.full(b"x" * 32 * 1024 * 1024)  # alone, even a huge one goes
    stream.put(b"x" * 7 * 1024 * 1024)
    assert not stream.full(b"x" * 1024 * 1024)
    assert stream.full(b"x" * 1024 * 1024 + b"x")
    stream.put(b"y")
    stream.drop_oldest()
    assert not stream.full(b"x" * 7 * 1024 * 1024)


@pytest.mark.parametrize("who", ["worker", "leader"])
async def test_what_is_no_work_ends_the_link_too(nodes: Callable[..., Any], who: str) -> None:
    one, two = await joined(nodes)
    one.links.send("50-B", report())
    await two.hears(report())
    bad, refuses = (one, two) if who == "worker" else (two, one)
    stream = one.links._reports["50-B", "1"] if bad is one else two.links._orders["50-A", "1"]
    stream.put(b"\xff\xff\xff")
    refused = await bad.sees(LinkRefused)
    assert (refused.code, refused.address) == ("invalid", refuses.address)
    assert refused.reason.startswith(f"{bad.name} sent no work; ")
    assert (await refuses.sees(MessageUnreadable)).sender == bad.name
    await asyncio.gather(one.sees(LinkDown), two.sees(LinkDown))
    assert not one.links._orders
    assert refuses.count(MessageUnreadable) == 1


async def test_what_answers_a_dial_with_no_message_is_refused(nodes: Callable[..., Any]) -> None:
    async def link(_: object, context: Any) -> None:
        await context.read()
        await context.write(b"\xff\xff\xff")

    server = grpc.aio.server()
    handlers = {"Link": grpc.stream_stream_rpc_method_handler(link)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("mesh.v1.Peer", handlers),))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    one = await nodes("50-A")
    one.links.dial(address)
    refused = await one.sees(LinkRefused)
    assert (refused.address, refused.code) == (address, "invalid")
    assert refused.reason.startswith(f"what answers at {address} is no node: ")
    assert (one.count(LinkUp), one.count(DialFailed), one.links.strangers) == (0, 0, 1)
    await server.stop(None)


async def test_port_in_use_is_told(nodes: Callable[..., Any]) -> None:
    one = await nodes("50-A")
    with pytest.raises(PortInUse, match="in use"):
        Node("50-B").links.bind("127.0.0.1", int(one.address.rpartition(":")[2]), None, ())


async def test_foreign_address_is_not_a_port_in_use() -> None:
    with pytest.raises(OSError, match="assign") as raised:
        Node("50-B").links.bind("192.0.2.1", 0, None, ())
    assert not isinstance(raised.value, PortInUse)


async def test_unix_socket_is_for_its_owner_only(tmp_path: Path) -> None:
    node = Node("50-A")
    node.links.bind("127.0.0.1", 0, tmp_path / "s", ())
    assert stat.S_IMODE(os.stat(tmp_path / "s").st_mode) == 0o600
    await node.links.start()
    await node.links.close()


async def test_work_frame_of_nothing_is_passed_over(nodes: Callable[..., Any]) -> None:
    one, two = await joined(nodes)
    one.links.send("50-B", report())
    await two.hears(report())
    one.links._reports["50-B", "1"].put(ReportFrame().SerializeToString())
    one.links.send("50-B", report(2))
    await two.hears(report(2))
    assert two.count(LinkDown) == 0
