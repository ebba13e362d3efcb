"""DNS-SD over mDNS: announces this daemon, and finds the addresses of others.

Owns the multicast sockets, one set for each interface. Daemons that listen on loopback announce and browse on
loopback only. What it finds is an address and never more: see :mod:`mesh.lan.announcement`. Where multicast does not
work it says so and what to do instead, tries again every ``RETRY`` seconds, and nothing else depends on it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from zeroconf import DNSQuestionType, IPVersion, ServiceStateChange, Zeroconf
from zeroconf import Error as ZeroconfError
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from mesh.core.errors import MeshError
from mesh.core.ids import Life, NodeId
from mesh.core.messages import PROTOCOL
from mesh.lan.announcement import SERVICE, Announcement, BadAnnouncement, address, decode, encode, label
from mesh.lan.interfaces import Interface, interfaces

# Seconds; also how soon a new interface (a laptop that changed its network) is announced on, and how often who may have
# company that it never met asks for it: the library's own questions become as rare as one in an hour.
RETRY = 15.0
HEARD_WITHIN = 5.0  # our own announcement comes back by multicast loop in milliseconds; after this long it is lost
LOOK_UP = 3.0  # for the records of an instance whose name was seen alone
# Answers to one question are spread over 0.02 to 0.12 s; who answered somebody in the last second waits 1 to 1.2 s.
SETTLE_ONE, SETTLE_ALL = 0.3, 1.5
MAX_KNOWN = 4096  # instances per interface; more is a flood, not a network
HERE_AND_AROUND = ("127.0.0.1", "0.0.0.0")  # where a client looks: on loopback and on every network
IP_MULTICAST_ALL, IP_BOUND_IF = 49, 25  # not in the socket module: Linux's and Darwin's

OnFound = Callable[[str, Announcement], None]
OnText = Callable[[str, str], None]


class MulticastUnavailable(MeshError):
    """No interface can multicast, so nothing can be found; there are other ways in."""


class Found(NamedTuple):
    """A daemon that answered: where, and what it says it is."""

    address: str  # host:port
    mesh: str
    node: NodeId


class Lan:
    """Announces one daemon and finds the others of its mesh. All callbacks come in the event loop.

    ``on_found(address, announcement)`` is called for every instance of this mesh but our own, again when its address
    changes; ``on_removed`` when it said goodbye or its records ran out. ``on_ignored(instance, reason)`` is called
    once for an instance that is not believed. ``on_trouble(interface, text)`` says that mDNS does not work there and
    what to do; with an empty text, that it works again. ``seeking`` is asked every ``RETRY`` seconds: whether there may
    be somebody who was never found, because the network was cut when it was announced.

    After :meth:`start` and, once the port is known, :meth:`announce`, the caller must :meth:`close`.
    """

    def __init__(
        self,
        mesh: str,
        *hosts: str,
        on_found: OnFound,
        on_removed: OnFound,
        on_ignored: OnText,
        on_trouble: OnText,
        seeking: Callable[[], bool] = lambda: True,
        protocols: tuple[int, ...] = (PROTOCOL,),
    ) -> None:
        self.mesh, self.hosts, self.protocols = mesh, hosts, protocols
        self.on_found, self.on_removed = on_found, on_removed
        self.on_ignored, self.on_trouble, self.seeking = on_ignored, on_trouble, seeking
        self._segments: dict[Interface, _Segment] = {}
        self._service: tuple[Announcement, Life, int] | None = None
        self._troubled: dict[str, str] = {}
        self._watching: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()

    @property
    def works(self) -> bool:
        """Some interface can multicast."""
        return bool(self._segments)

    async def start(self) -> None:
        """Begin to browse. Never raises for want of multicast: see ``on_trouble``."""
        await self.refresh()
        self._watching = asyncio.create_task(self._watch(), name="lan-watch")

    async def announce(self, node: NodeId, life: Life, port: int) -> None:
        """Say that the daemon can be reached on ``port`` at each interface's address."""
        async with self._changing:
            self._service = (Announcement(self.mesh, node, self.protocols), life, port)
            for segment in self._segments.values():
                await segment.announce(*self._service)

    async def ask(self) -> None:
        """Ask again who is there: for a machine that slept or was cut off, and missed what was announced meanwhile."""
        async with self._changing:
            for segment in self._segments.values():
                await segment.browse()

    async def refresh(self) -> None:
        """Open what interfaces came or now work, close those that went."""
        async with self._changing:
            wanted = {interface for host in self.hosts for interface in interfaces(host)}
            for gone in self._segments.keys() - wanted:
                await self._segments.pop(gone).close()
            where = ", ".join(self.hosts)
            if not wanted:
                self._report(where, "no interface that can multicast over IPv4 carries this address")
            elif all(interface.address != where for interface in wanted):
                self._report(where, "")
            for interface in sorted(wanted - self._segments.keys()):
                await self._open(interface)

    async def close(self) -> None:
        """Say goodbye (0.25 s) and stop. Calling it again does nothing."""
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching
            self._watching = None
        async with self._changing:
            segments, self._segments = list(self._segments.values()), {}
            await asyncio.gather(*(segment.close() for segment in segments))

    async def _open(self, interface: Interface) -> None:
        segment = _Segment(interface, self)
        try:
            await segment.open()
        except (OSError, ZeroconfError) as error:
            await segment.close()
            self._report(interface.address, getattr(error, "strerror", "") or str(error) or type(error).__name__)
            return
        self._segments[interface] = segment
        self._report(interface.address, "")
        if self._service is not None:
            await segment.announce(*self._service)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(RETRY)
            await self.refresh()
            if self.seeking():
                await self.ask()

    def _report(self, where: str, why: str) -> None:
        """Tell of trouble, and of its end, once each."""
        if self._troubled.get(where, "") == why:
            return
        self._troubled[where] = why
        text = (
            f"mDNS does not work on {where} ({why}); this node is not found there and finds nobody; "
            "name another node with --peer HOST:PORT, or give --no-mdns to be silent about it"
        )
        self.on_trouble(where, text if why else "")


class _Segment:
    """One interface: its sockets, our announcement on it, and the instances heard there."""

    def __init__(self, interface: Interface, lan: Lan) -> None:
        self.interface = interface
        self.deaf = False  # we announced and did not hear it
        self._lan = lan
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._known: dict[str, tuple[str, Announcement] | None] = {}  # instance -> found, or None: ignored
        self._lookups: set[asyncio.Task[None]] = set()
        self._own = ""
        self._hearing: asyncio.TimerHandle | None = None
        self._flooded = False

    async def open(self) -> None:
        """Raises OSError where the interface cannot multicast or the port cannot be shared."""
        self._zeroconf = AsyncZeroconf(interfaces=[self.interface.address], ip_version=IPVersion.V4Only)
        zeroconf = self._zeroconf.zeroconf
        await zeroconf.async_wait_for_start()
        if not zeroconf.engine.senders:
            raise OSError("the interface does not take part in multicast")
        for reader in zeroconf.engine.readers:
            _confine(reader.transport.get_extra_info("socket"), self.interface.device)
        await self.browse()

    async def browse(self) -> None:
        """Ask who is there; again, if that was asked before."""
        assert self._zeroconf is not None
        if self._browser is not None:
            await self._browser.async_cancel()
        # A unicast answer, which the first question usually asks for, goes to any one of the daemons that share port
        # 5353 on this machine, mostly not to the one that asked: 1.2 s until found, against 0.1 s.
        self._browser = AsyncServiceBrowser(
            self._zeroconf.zeroconf, SERVICE, handlers=[self._on_change], question_type=DNSQuestionType.QM
        )

    async def announce(self, announcement: Announcement, life: Life, port: int) -> None:
        assert self._zeroconf is not None
        self._own = f"{label(announcement, life)}.{SERVICE}"
        info = AsyncServiceInfo(
            SERVICE,
            self._own,
            addresses=[ipaddress.ip_address(self.interface.record).packed],
            port=port,
            properties=encode(announcement),
            server=f"{announcement.node}-{life}.local.",
        )
        # Not probed for: the name is unique by construction.
        await self._zeroconf.async_register_service(info, cooperating_responders=True)
        self._hearing = asyncio.get_running_loop().call_later(HEARD_WITHIN, self._unheard)

    async def close(self) -> None:
        if self._hearing is not None:
            self._hearing.cancel()
        for task in self._lookups:
            task.cancel()
        if self._browser is not None:
            await self._browser.async_cancel()
        if self._zeroconf is not None:
            await self._zeroconf.async_close()

    def _unheard(self) -> None:
        self.deaf = True
        self._lan._report(self.interface.address, "nothing sent comes back: a firewall may drop UDP port 5353")

    def _heard(self) -> None:
        if self._hearing is not None:
            self._hearing.cancel()
        if self.deaf:
            self.deaf = False
            self._lan._report(self.interface.address, "")

    def _on_change(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if name == self._own:
            self._heard()
        elif state_change is ServiceStateChange.Removed:
            if (found := self._known.pop(name, None)) is not None:
                self._lan.on_removed(*found)
        elif name in self._known or len(self._known) + len(self._lookups) < MAX_KNOWN:
            self._look(zeroconf, name)
        elif not self._flooded:
            self._flooded = True
            self._lan.on_ignored(name, f"more than {MAX_KNOWN} instances are announced on {self.interface.address}")

    def _look(self, zeroconf: Zeroconf, name: str) -> None:
        info = AsyncServiceInfo(SERVICE, name)
        if info.load_from_cache(zeroconf):
            self._judge(name, info)
            return
        task = asyncio.create_task(self._look_up(zeroconf, name, info))
        self._lookups.add(task)
        task.add_done_callback(self._lookups.discard)

    async def _look_up(self, zeroconf: Zeroconf, name: str, info: AsyncServiceInfo) -> None:
        if await info.async_request(zeroconf, LOOK_UP * 1000, question_type=DNSQuestionType.QM):
            self._judge(name, info)
        elif name not in self._known:
            self._ignore(name, f"its records did not come within {LOOK_UP:g} s")

    def _judge(self, name: str, info: AsyncServiceInfo) -> None:
        try:
            announcement = decode(info.properties, self._lan.protocols)
            where = address(info.parsed_addresses(IPVersion.V4Only), info.port, self.interface.network)
        except BadAnnouncement as error:
            if self._known.get(name, True):
                self._ignore(name, str(error))
            return
        # Another mesh is none of our business, and no reason to say anything.
        if self._lan.mesh not in ("", announcement.mesh) or self._known.get(name) == (where, announcement):
            return
        self._known[name] = (where, announcement)
        self._lan.on_found(where, announcement)

    def _ignore(self, name: str, reason: str) -> None:
        self._known[name] = None
        self._lan.on_ignored(name, reason)


def _confine(sock: socket.socket, device: str) -> None:
    """Hear this interface only: the sockets are bound to the wildcard address, so that they can share port 5353.

    Without it a daemon on loopback answers unicast questions from the network, and hears what others joined.
    """
    if sys.platform.startswith("linux"):
        sock.setsockopt(socket.IPPROTO_IP, IP_MULTICAST_ALL, 0)
        # Denied to users by kernels before 5.7: then multicast is confined by the option above, and answers carry
        # nothing but the loopback address.
        with suppress(PermissionError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode() + b"\0")
    elif sys.platform == "darwin":
        sock.setsockopt(socket.IPPROTO_IP, IP_BOUND_IF, socket.if_nametoindex(device))


async def find(
    mesh: str | None = None, timeout: float = 3.0, *, protocols: tuple[int, ...] = (PROTOCOL,)
) -> list[Found]:
    """The daemons that can be heard on loopback and every network, of one mesh or of all (``None``), in order of id.

    Waits ``timeout`` seconds for the first. Of one mesh any daemon will do, so 0.3 s later it returns, perhaps without
    some; for all meshes it waits 1.5 s more, and has everybody. Raises :class:`MulticastUnavailable` where no interface
    can multicast.
    """
    found: set[Found] = set()
    heard = asyncio.Event()

    def on_found(where: str, announcement: Announcement) -> None:
        found.add(Found(where, announcement.mesh, announcement.node))
        heard.set()

    def nothing(*_: object) -> None:
        """A client asks who is there; who left, or announced nonsense, is not there."""

    troubles: list[str] = []
    lan = Lan(
        mesh or "",
        *HERE_AND_AROUND,
        on_found=on_found,
        on_removed=nothing,
        on_ignored=nothing,
        on_trouble=lambda _, text: troubles.append(text),
        protocols=protocols,
    )
    try:
        await lan.refresh()
        if not lan.works:
            raise MulticastUnavailable("cannot look for a mesh by mDNS", troubles[0], "give --address HOST:PORT")
        with suppress(TimeoutError):
            await asyncio.wait_for(heard.wait(), timeout)
            await asyncio.sleep(SETTLE_ONE if mesh else SETTLE_ALL)
    finally:
        await lan.close()
    return sorted(found, key=lambda one: (one.node, one.mesh, one.address))
