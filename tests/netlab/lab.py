"""A network of its own: namespaces as hosts, joined by a bridge in one more, all of them removed at the end.

Nothing is made in the namespace of the machine itself: both ends of each cable are born where they belong.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

NETWORK = "10.77.0"


class NoLab(Exception):
    """Why there can be none on this machine."""


def ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


class Host:
    """One namespace with a cable to the switch."""

    def __init__(self, lab: Lab, number: int) -> None:
        self.lab, self.namespace, self.port = lab, f"{lab.prefix}-{number}", f"port{number}"
        self.address = f"{NETWORK}.{number}"
        lab.namespace(self.namespace)
        ip("link", "add", "eth0", "netns", self.namespace, "type", "veth", "peer", self.port, "netns", lab.switch)
        ip("-n", lab.switch, "link", "set", self.port, "master", "switch", "up")
        ip("-n", self.namespace, "address", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", self.namespace, "link", "set", "eth0", "up")

    @property
    def before(self) -> Sequence[str]:
        """What stands before a command that is to run on this host."""
        return "ip", "netns", "exec", self.namespace

    def unplug(self) -> None:
        ip("-n", self.lab.switch, "link", "set", self.port, "down")

    def plug(self) -> None:
        ip("-n", self.lab.switch, "link", "set", self.port, "up")


class Lab:
    def __init__(self) -> None:
        self.prefix = f"meshlab-{secrets.token_hex(3)}"
        self.switch = f"{self.prefix}-switch"
        self._namespaces: list[str] = []
        self.namespace(self.switch)
        ip("-n", self.switch, "link", "add", "switch", "type", "bridge")
        ip("-n", self.switch, "link", "set", "switch", "up")

    def namespace(self, name: str) -> None:
        ip("netns", "add", name)
        self._namespaces.append(name)
        ip("-n", name, "link", "set", "lo", "up")

    def hosts(self, count: int) -> list[Host]:
        return [Host(self, number) for number in range(1, count + 1)]

    def close(self) -> None:
        for name in reversed(self._namespaces):
            ip("netns", "delete", name)


@contextmanager
def made() -> Iterator[Lab]:
    """Raises NoLab with the reason where this machine has none to give."""
    if os.geteuid() != 0:
        raise NoLab("network namespaces need root")
    if shutil.which("ip") is None:
        raise NoLab("network namespaces need the command ip (iproute2)")
    probe = f"meshlab-{secrets.token_hex(3)}-probe"
    try:
        ip("netns", "add", probe)
        ip("netns", "delete", probe)
    except OSError as error:
        raise NoLab(f"this machine makes no network namespaces: {error}") from error
    lab = Lab()
    try:
        yield lab
    finally:
        lab.close()
