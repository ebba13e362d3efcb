"""A network of its own: namespaces as hosts, joined by a switch in one more, and every way a network can fail.

Nothing is made in the network namespace of the machine itself: both ends of each cable are born where they belong.
What is wrong with the network is kept here as plain sets and written to each host whole, so that healing is the same
write with nothing in it. Hosts drop what they must not hear by its source address: then nobody is refused, as behind a
dead switch.
"""

from __future__ import annotations

import ctypes
import os
import re
import secrets
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import permutations, product
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

NETWORK = "10.77.0"
NAMES = "abcdefghijklmnopqrstuvwxyz"
NAMESPACES = Path("/run/netns")
OWNED = re.compile(r"meshlab-p(\d+)-")  # of the process that made it
CLONE_NEWNET = 0x40000000


def ip(*arguments: str, text: str = "") -> str:
    return command("ip", *arguments, text=text)


def command(*arguments: str, text: str = "") -> str:
    done = subprocess.run(arguments, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


class Host:
    """One namespace with a cable to the switch. ``number`` is the last part of its address."""

    def __init__(self, network: Network, name: str, number: int) -> None:
        self.network, self.name = network, name
        self.namespace, self.port = f"{network.prefix}-{name}", f"port-{name}"
        self.address = f"{NETWORK}.{number}"
        network.namespace(self.namespace)
        # Without IPv6, whose link-local addresses would be a second way around every rule below.
        ip("netns", "exec", self.namespace, "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6")
        ip(
            "link", "add", "name", "eth0", "netns", self.namespace,
            "type", "veth", "peer", "name", self.port, "netns", network.switch,
        )  # fmt: skip
        ip("-n", network.switch, "link", "set", self.port, "master", "switch", "up")
        ip("-n", self.namespace, "address", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", self.namespace, "link", "set", "eth0", "up")

    @property
    def before(self) -> Sequence[str]:
        """What stands before a command that is to run on this host, and to end where the lab's own process ends."""
        return "setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", self.namespace

    def within(self, work: Callable[[], T]) -> T:
        """Do it in this host's network: sockets made there stay there."""
        found: list[T] = []
        failed: list[BaseException] = []

        def there() -> None:  # a thread of its own, for it never comes back from the namespace
            try:
                handle = os.open(NAMESPACES / self.namespace, os.O_RDONLY)
                try:
                    if ctypes.CDLL(None, use_errno=True).setns(handle, CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), f"cannot enter {self.namespace}")
                finally:
                    os.close(handle)
                found.append(work())
            except BaseException as error:  # noqa: BLE001 - told in the thread that asked
                failed.append(error)

        thread = threading.Thread(target=there)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        return found[0]

    def socket(self, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
        return self.within(lambda: socket.socket(socket.AF_INET, kind))


class Network:
    """Hosts by name: a, b, c, ... Where a method takes names, a string of several is several hosts."""

    def __init__(self, count: int) -> None:
        self.prefix = f"meshlab-p{os.getpid()}-{secrets.token_hex(3)}"
        self.switch = f"{self.prefix}-switch"
        self.hosts: dict[str, Host] = {}
        self.cut: set[tuple[str, str]] = set()  # (from, to): nothing of one arrives at the other
        self.lossy: dict[str, float] = {}  # the share of packets that are lost, to it and from it
        self.shaped: set[str] = set()
        self.unplugged: set[str] = set()
        self._namespaces: list[str] = []
        try:
            self.namespace(self.switch)
            ip("-n", self.switch, "link", "add", "name", "switch", "type", "bridge")
            ip("-n", self.switch, "link", "set", "switch", "up")
            for number, name in enumerate(NAMES[:count], 1):
                self.hosts[name] = Host(self, name, number)
            self._until_up()
        except BaseException:
            self.close()
            raise

    def namespace(self, name: str) -> None:
        ip("netns", "add", name)
        self._namespaces.append(name)
        ip("-n", name, "link", "set", "lo", "up")

    def _until_up(self) -> None:
        """The kernel takes up to 1 s to notice a new carrier; until then the switch passes nothing on."""
        end = time.monotonic() + 10
        while ip("-n", self.switch, "-o", "link", "show", "up", "master", "switch").count("state UP") < len(self.hosts):
            if time.monotonic() > end:
                raise OSError("the cables of the lab have no carrier")
            time.sleep(0.02)

    # Partitions.

    def isolate(self, *names: str) -> None:
        """Each of these hears nobody and is heard by nobody; the cable stays in."""
        for name in "".join(names):
            self.split(name, self._others(name))

    def split(self, *groups: str) -> None:
        """No packet passes between these groups. A host in none of them sees all: it is a bridge between them."""
        for left, right in permutations(groups, 2):
            self.cut |= set(product(left, right))
        self._write()

    def one_way(self, sender: str, receiver: str) -> None:
        """Packets pass from these to those, and none comes back."""
        self.cut |= set(product(receiver, sender))
        self._write()

    def unplug(self, *names: str) -> None:
        """The cable is pulled: a host sees that itself (no carrier)."""
        for name in "".join(names):
            self.unplugged.add(name)
            ip("-n", self.switch, "link", "set", self.hosts[name].port, "down")

    def plug(self, *names: str) -> None:
        for name in "".join(names):
            ip("-n", self.switch, "link", "set", self.hosts[name].port, "up")
            self.unplugged.discard(name)

    # Poor links.

    def lose(self, names: str, share: float) -> None:
        """This share of all packets to and from these hosts is lost; on the receiver's side, so no sender is told."""
        self.lossy |= dict.fromkeys(names, share)
        self._write()

    def limit(self, names: str, rate: str) -> None:
        """Their cables carry this much, each way: ``1mbit``, as tc writes it."""
        self._shape(names, "tbf", "rate", rate, "burst", "32kb", "latency", "400ms")

    def delay(self, names: str, milliseconds: float) -> None:
        """Each way. Raises OSError where the kernel has no netem; :func:`can_delay` asks."""
        self._shape(names, "netem", "delay", f"{milliseconds}ms")

    def _shape(self, names: str, *discipline: str) -> None:
        for name in names:
            self.shaped.add(name)
            for namespace, device in self._ends(name):
                command("tc", "-n", namespace, "qdisc", "replace", "dev", device, "root", *discipline)

    def unlimit(self, names: str) -> None:
        """Their cables carry all that is sent, at once."""
        for name in names:
            self.shaped.discard(name)
            for namespace, device in self._ends(name):
                command("tc", "-n", namespace, "qdisc", "delete", "dev", device, "root")

    def mend(self) -> None:
        """No partition and no loss any more; cables and rates stay as they are."""
        self.cut.clear()
        self.lossy.clear()
        self._write()

    def heal(self) -> None:
        """As new: every host hears every other, at full speed."""
        self.mend()
        self.plug(*self.unplugged)
        self.unlimit("".join(sorted(self.shaped)))

    def heard(self, sender: str, receiver: str) -> bool:
        """Whether packets of the one reach the other, as far as this lab has to say."""
        return (sender, receiver) not in self.cut and self.unplugged.isdisjoint((sender, receiver))

    # Within.

    def _others(self, names: str) -> str:
        return "".join(name for name in self.hosts if name not in names)

    def _ends(self, name: str) -> list[tuple[str, str]]:
        return [(self.hosts[name].namespace, "eth0"), (self.switch, self.hosts[name].port)]

    def _write(self) -> None:
        """The rules of every host, each in one transaction of its kernel."""
        for name, host in self.hosts.items():
            rules = [
                f"-A INPUT -s {self.hosts[sender].address} -j DROP"
                for sender, receiver in sorted(self.cut)
                if receiver == name
            ]
            for lossy, share in sorted(self.lossy.items()):
                whose = "-i eth0" if lossy == name else f"-s {self.hosts[lossy].address}"
                rules.append(f"-A INPUT {whose} -m statistic --mode random --probability {share} -j DROP")
            text = "\n".join(["*filter", ":INPUT ACCEPT [0:0]", *rules, "COMMIT", ""])
            ip("netns", "exec", host.namespace, "iptables-restore", "-w", "5", text=text)

    def close(self) -> None:
        """Whatever still runs on the hosts ends with them. May be called again."""
        for name in reversed(self._namespaces):
            remove(name)
        self._namespaces.clear()


def remove(namespace: str) -> None:
    with suppress(OSError):
        for pid in ip("netns", "pids", namespace).split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        ip("netns", "delete", namespace)


def sweep() -> None:
    """Remove the namespaces of labs whose process was killed before it could."""
    for path in sorted(NAMESPACES.iterdir()) if NAMESPACES.exists() else ():
        if ownerless(path.name):
            remove(path.name)


def ownerless(name: str) -> bool:
    """Whether a lab made it whose process is gone."""
    owner = OWNED.search(name)
    return owner is not None and not Path(f"/proc/{owner[1]}").exists()


@contextmanager
def _scratch() -> Iterator[str]:
    name = f"meshlab-p{os.getpid()}-{secrets.token_hex(3)}-probe"
    ip("netns", "add", name)
    try:
        yield name
    finally:
        remove(name)


def why_not() -> str:
    """Why this machine makes no such network; empty where it does."""
    try:
        with _scratch() as name:
            ip("-n", name, "link", "add", "name", "switch", "type", "bridge")
            rule = "*filter\n-A INPUT -m statistic --mode random --probability 0.5 -j DROP\nCOMMIT\n"
            ip("netns", "exec", name, "iptables-restore", text=rule)
    except OSError as error:
        return f"this machine makes no network namespaces with a bridge and iptables: {error}"
    return ""


def can_delay() -> bool:
    try:
        with _scratch() as name:
            command("tc", "-n", name, "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms")
    except OSError:
        return False
    return True
