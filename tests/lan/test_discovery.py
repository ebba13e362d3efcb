"""Real multicast on the loopback interface, each test in a mesh of its own name."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from ulid import ULID
from zeroconf import IPVersion, Zeroconf
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from mesh.lan.announcement import SERVICE
from mesh.lan.discovery import find
from tests.lan.recorder import Recorder, new_node


class Place:
    """Makes recorders, and closes them however a test ends."""

    def __init__(self) -> None:
        self.mesh = f"test-{ULID()}"
        self.recorders: list[Recorder] = []

    async def browser(self, mesh: str = "") -> Recorder:
        recorder = Recorder(mesh or self.mesh)
        self.recorders.append(recorder)
        await recorder.lan.start()
        return recorder

    async def daemon(self, port: int, *, node: str = "", life: str = "00000001", mesh: str = "") -> Recorder:
        recorder = await self.browser(mesh)
        await recorder.lan.announce(node or new_node(), life, port)
        return recorder


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    here = Place()
    yield here
    await asyncio.gather(*(recorder.lan.close() for recorder in here.recorders))


@pytest.fixture
async def stranger() -> AsyncIterator[AsyncZeroconf]:
    """Somebody else who speaks mDNS, and says what he likes."""
    zeroconf = AsyncZeroconf(interfaces=["127.0.0.1"], ip_version=IPVersion.V4Only)
    yield zeroconf
    await zeroconf.async_close()


def found(recorder: Recorder) -> set[str]:
    return {address for address, _ in recorder.of("found")}


async def test_three_daemons_find_each_other_and_not_themselves(place: Place) -> None:
    daemons = [await place.daemon(7001 + n, life=f"{n:08x}") for n in range(3)]
    everybody = {f"127.0.0.1:{7001 + n}" for n in range(3)}
    for n, daemon in enumerate(daemons):
        others = everybody - {f"127.0.0.1:{7001 + n}"}
        await daemon.until(lambda daemon=daemon, others=others: found(daemon) >= others)
        assert found(daemon) == others
        assert daemon.of("trouble") == []


async def test_a_latecomer_finds_who_was_there(place: Place) -> None:
    node = new_node()
    await place.daemon(7001, node=node)
    late = await place.browser()
    await late.until(lambda: late.of("found") == [("127.0.0.1:7001", node)])


async def test_a_goodbye_is_seen(place: Place) -> None:
    node = new_node()
    leaving, staying = await place.daemon(7001, node=node), await place.browser()
    await staying.until(lambda: found(staying) == {"127.0.0.1:7001"})
    await leaving.lan.close()
    await staying.until(lambda: staying.of("removed") == [("127.0.0.1:7001", node)])


async def test_closing_twice_does_nothing_more(place: Place) -> None:
    daemon = await place.daemon(7001)
    await daemon.lan.close()
    await daemon.lan.close()


async def test_two_lives_of_a_copied_state_directory_are_both_found(place: Place) -> None:
    node = new_node()
    await place.daemon(7001, node=node, life="0000000a")
    await place.daemon(7002, node=node, life="0000000b")
    third = await place.browser()
    await third.until(lambda: set(third.of("found")) == {("127.0.0.1:7001", node), ("127.0.0.1:7002", node)})


async def test_another_mesh_is_left_alone(place: Place) -> None:
    await place.daemon(7001, mesh=f"other-{ULID()}")
    ours = await place.browser()
    await place.daemon(7002)
    await ours.until(lambda: "127.0.0.1:7002" in found(ours))
    assert found(ours) == {"127.0.0.1:7002"}
    assert ours.of("ignored") == []


async def test_asking_again_finds_nobody_twice(place: Place) -> None:
    asking = await place.browser()
    await place.daemon(7001)
    await asking.until(lambda: bool(found(asking)))
    await asking.lan.ask()
    await place.daemon(7002, life="00000002")
    await asking.until(lambda: "127.0.0.1:7002" in found(asking))
    assert len(asking.of("found")) == 2


GOOD = {"txtvers": "1", "mesh": "MESH", "id": "50-01M84RBZX257RX0MDWRRSNDHDW", "proto": "1"}


@pytest.mark.parametrize(
    ("txt", "address", "port", "reason"),
    [
        ({**GOOD, "mesh": b"\xff\xff"}, "127.0.0.1", 7001, "not text"),
        ({**GOOD, "mesh": "m" * 240}, "127.0.0.1", 7001, "not a mesh name"),
        ({}, "127.0.0.1", 7001, "version"),
        ({"id": GOOD["id"]}, "127.0.0.1", 7001, "version"),
        ({**GOOD, "proto": "99"}, "127.0.0.1", 7001, "protocol 99"),
        ({**GOOD, **{f"k{n}": "v" * 200 for n in range(35)}}, "127.0.0.1", 7001, "39 keys"),
        (GOOD, "10.1.2.3", 7001, "cannot be reached"),
        (GOOD, "127.0.0.1", 0, "no port"),
    ],
    ids=["not-text", "long-name", "empty", "partial", "protocol", "oversized", "foreign-address", "no-port"],
)
async def test_what_a_stranger_announces_wrongly_is_ignored_with_a_reason(
    place: Place, stranger: AsyncZeroconf, txt: dict[str, str | bytes], address: str, port: int, reason: str
) -> None:
    ours = await place.browser()
    if txt.get("mesh") == "MESH":
        txt = {**txt, "mesh": place.mesh}
    instance = f"stranger {ULID()}.{SERVICE}"
    info = AsyncServiceInfo(
        SERVICE,
        instance,
        addresses=[socket.inet_aton(address)],
        port=port,
        properties=txt,
        server=f"stranger-{ULID()}.local.",
    )
    await stranger.async_register_service(info, cooperating_responders=True)
    await ours.until(lambda: any(name == instance for name, _ in ours.of("ignored")))
    assert reason in dict(ours.of("ignored"))[instance]
    await place.daemon(7002)
    await ours.until(lambda: found(ours) == {"127.0.0.1:7002"})  # and it goes on


async def test_a_daemon_that_moved_is_found_again(place: Place, stranger: AsyncZeroconf) -> None:
    ours = await place.browser()
    info = {"type_": SERVICE, "name": f"moving {ULID()}.{SERVICE}", "properties": {**GOOD, "mesh": place.mesh}}
    where = {"addresses": [socket.inet_aton("127.0.0.1")], "server": f"moving-{ULID()}.local."}
    await stranger.async_register_service(AsyncServiceInfo(**info, **where, port=7001), cooperating_responders=True)
    await ours.until(lambda: "127.0.0.1:7001" in found(ours))
    await stranger.async_update_service(AsyncServiceInfo(**info, **where, port=7002))
    await ours.until(lambda: "127.0.0.1:7002" in found(ours))


async def test_a_client_finds_a_mesh_by_name_and_all_of_them(place: Place) -> None:
    node, other = new_node(), f"other-{ULID()}"
    await place.daemon(7001, node=node)
    await place.daemon(7002, mesh=other)
    assert [(one.address, one.mesh, one.node) for one in await find(place.mesh)] == [
        ("127.0.0.1:7001", place.mesh, node)
    ]
    assert {place.mesh, other} <= {one.mesh for one in await find()}


async def test_a_client_that_finds_nobody_gets_an_empty_list() -> None:
    assert await find(f"nobody-{ULID()}", 0.2) == []


async def test_an_announcement_that_does_not_come_back_is_trouble_until_it_does(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.lan.discovery.HEARD_WITHIN", 0.05)
    with monkeypatch.context() as firewall:
        firewall.setattr(Zeroconf, "async_send", lambda *_, **__: None)
        daemon = await place.daemon(7001)
        await daemon.until(lambda: bool(daemon.of("trouble")))
    where, text = daemon.of("trouble")[0]
    assert where == "127.0.0.1"
    assert "firewall" in text
    assert "--peer HOST:PORT" in text
    await daemon.lan.ask()
    await daemon.until(lambda: daemon.of("trouble")[1:] == [("127.0.0.1", "")])
