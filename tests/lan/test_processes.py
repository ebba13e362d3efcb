"""Daemons in processes of their own: on loopback, and on machines of their own as network namespaces."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from ulid import ULID

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 30.0  # seconds, until a process has started and been found on a busy machine


class Peer:
    """A running ``tests.lan.peer``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.events: list[list[Any]] = []

    async def until(self, true: Callable[[list[Any]], bool]) -> list[Any]:
        """The next event that is ``true``; those before it are kept in ``events`` too."""
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(PATIENCE):
                while line := await self.process.stdout.readline():
                    self.events.append(json.loads(line))
                    if true(self.events[-1]):
                        return self.events[-1]
        except TimeoutError:
            raise TimeoutError(f"what came: {self.events}") from None
        raise AssertionError(f"it ended, having said {self.events}")

    async def hears(self, *event: Any) -> None:
        await self.until(lambda got: got == list(event))

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command.encode() + b"\n")

    async def close(self) -> None:
        if self.process.returncode is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            await self.process.communicate()


class Peers:
    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self.mesh = f"test-{ULID()}"

    async def start(self, host: str, port: int, *prefix: str, **environ: str) -> Peer:
        process = await asyncio.create_subprocess_exec(
            *prefix, sys.executable, "-m", "tests.lan.peer", self.mesh, host, str(port),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        )  # fmt: skip
        peer = Peer(process)
        self._stack.push_async_callback(peer.close)
        return peer


@pytest.fixture
async def peers() -> AsyncIterator[Peers]:
    async with AsyncExitStack() as stack:
        yield Peers(stack)


async def test_processes_on_loopback_share_the_port_and_hear_a_goodbye(peers: Peers) -> None:
    first, second, third = [await peers.start("127.0.0.1", port) for port in (7001, 7002, 7003)]
    for peer, others in ((first, {7002, 7003}), (second, {7001, 7003}), (third, {7001, 7002})):
        missing = {f"127.0.0.1:{port}" for port in others}
        while missing:
            missing.discard((await peer.until(lambda event: event[0] == "found"))[1])
    await third.close()
    await first.hears("removed", "127.0.0.1:7003")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


class Network:
    """Machines on one switch. The switch is a namespace too, so that nothing of the host's is touched."""

    def __init__(self) -> None:
        self._prefix = f"lan{secrets.token_hex(3)}"
        self._names: list[str] = []
        self._switch = self._namespace("sw")
        ip("-n", self._switch, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        ip("-n", self._switch, "link", "set", "br0", "up")

    def _namespace(self, suffix: str) -> str:
        name = f"{self._prefix}{suffix}"
        ip("netns", "add", name)
        self._names.append(name)
        return name

    def machine(self, number: int, *, loopback: bool = True) -> tuple[str, ...]:
        """The command prefix that runs something on it; its address is 10.77.0.NUMBER."""
        name = self._namespace(str(number))
        ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", f"p{number}", "netns", self._switch)
        ip("-n", self._switch, "link", "set", f"p{number}", "master", "br0", "up")
        ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")
        if loopback:
            ip("-n", name, "link", "set", "lo", "up")
        return ("ip", "netns", "exec", name)

    def close(self) -> None:
        for name in self._names:
            ip("netns", "del", name)


@pytest.fixture
def network() -> Iterator[Network]:
    if not sys.platform.startswith("linux"):
        pytest.skip("network namespaces are Linux's")
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("making network namespaces needs root and iproute2")
    try:
        built = Network()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces cannot be made here: {error.stderr.strip()}")
    yield built
    built.close()


@pytest.mark.netlab
@pytest.mark.parametrize("host", ["10.77.0.1", "0.0.0.0"])
async def test_machines_of_one_network_find_each_other_at_their_own_addresses(
    peers: Peers, network: Network, host: str
) -> None:
    one, two = network.machine(1), network.machine(2)
    first = await peers.start(host, 7433, *one)
    second = await peers.start("10.77.0.2", 7433, *two)
    assert (await first.until(lambda event: event[0] == "found"))[1] == "10.77.0.2:7433"
    assert (await second.until(lambda event: event[0] == "found"))[1] == "10.77.0.1:7433"
    await first.close()
    await second.hears("removed", "10.77.0.1:7433")
    assert all(event[0] in ("ready", "found", "removed") for event in second.events)


@pytest.mark.netlab
async def test_loopback_daemons_and_the_network_do_not_hear_each_other(peers: Peers, network: Network) -> None:
    one, two = network.machine(1), network.machine(2)
    # The one that listens on the network makes the kernel of its machine take part in multicast there.
    hidden, shown = await peers.start("127.0.0.1", 7001, *one), await peers.start("10.77.0.1", 7002, *one)
    await hidden.hears("ready")
    await shown.hears("ready")
    asking = await peers.start("10.77.0.2", 7433, *two)
    await asking.hears("found", "10.77.0.1:7002")
    asking.tell("find")
    _, clients = await asking.until(lambda event: event[0] == "clients-find")
    assert {"10.77.0.1:7002", "10.77.0.2:7433"}.issuperset(clients)
    assert clients
    assert not any(event[0] == "ignored" for event in asking.events)
    hidden.tell("refresh")
    await hidden.hears("refreshed")
    assert hidden.events == [["ready"], ["refreshed"]]


QUESTION = """
import socket, sys
from zeroconf import DNSIncoming, DNSOutgoing, DNSQuestion
out = DNSOutgoing(0)
out.add_question(DNSQuestion("_meshd._tcp.local.", 12, 1))
asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asking.settimeout(2.0)
for target in sys.argv[1:]:
    asking.sendto(out.packets()[0], (target, 5353))
    try:
        answers = DNSIncoming(asking.recv(9000)).answers()
        print(target, *[record.port for record in answers if record.type == 33])
    except (TimeoutError, ConnectionRefusedError):
        print(target, "silent")
"""


@pytest.mark.netlab
async def test_a_loopback_daemon_does_not_answer_a_question_sent_to_its_machine(peers: Peers, network: Network) -> None:
    one, two, three = (network.machine(number) for number in (1, 2, 3))
    for peer in (await peers.start("127.0.0.1", 7001, *one), await peers.start("10.77.0.2", 7002, *two)):
        await peer.hears("ready")
    process = await asyncio.create_subprocess_exec(
        *three, sys.executable, "-c", QUESTION, "10.77.0.1", "10.77.0.2", stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert output.decode().splitlines() == ["10.77.0.1 silent", "10.77.0.2 7002"]


@pytest.mark.netlab
async def test_a_port_that_cannot_be_shared_is_a_warning_and_mdns_comes_when_it_is_free(
    peers: Peers, network: Network
) -> None:
    machine = network.machine(1)
    peer = await peers.start("127.0.0.1", 7001, *machine, BLOCK="5353")
    _, where, text = await peer.until(lambda event: event[0] == "trouble")
    assert where == "127.0.0.1"
    assert "in use" in text
    assert "--peer HOST:PORT" in text
    await peer.hears("ready")  # it runs on
    peer.tell("find")
    _, text = await peer.until(lambda event: event[0].startswith("clients-fail"))
    assert "--address HOST:PORT" in text
    peer.tell("refresh")
    await peer.hears("refreshed")
    assert sum(event[0] == "trouble" for event in peer.events) == 1  # said once
    peer.tell("unblock")
    peer.tell("refresh")
    await peer.hears("trouble", "127.0.0.1", "")
    other = await peers.start("127.0.0.1", 7002, *machine)
    await other.hears("found", "127.0.0.1:7001")


@pytest.mark.netlab
@pytest.mark.parametrize("host", ["127.0.0.1", "10.77.0.9", "0.0.0.0"])
async def test_no_multicast_is_a_warning(peers: Peers, network: Network, host: str) -> None:
    machine = network.machine(1, loopback=False)
    ip("-n", machine[-1], "link", "set", "eth0", "down")
    peer = await peers.start(host, 7001, *machine)
    _, where, text = await peer.until(lambda event: event[0] == "trouble")
    assert where == host
    assert "--peer HOST:PORT" in text
    await peer.hears("ready")


@pytest.mark.netlab
async def test_a_new_network_is_announced_on(peers: Peers, network: Network) -> None:
    one, two = network.machine(1), network.machine(2)
    ip("-n", one[-1], "link", "set", "eth0", "down")
    moving = await peers.start("0.0.0.0", 7433, *one)
    await moving.hears("ready")
    staying = await peers.start("10.77.0.2", 7433, *two)
    await staying.hears("ready")
    ip("-n", one[-1], "link", "set", "eth0", "up")
    moving.tell("refresh")
    await staying.hears("found", "10.77.0.1:7433")
