"""Which network interfaces a daemon is announced on, given the address it listens on.

Announcing on another interface than the one that carries the address, or with another interface's address, sends
peers to where nobody listens; so each interface is announced on by itself, with its own address only.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import NamedTuple

import psutil


class Interface(NamedTuple):
    device: str  # eth0
    address: str  # multicast is joined and sent on the interface that carries this
    record: str  # the address to announce there
    network: str  # CIDR, to prefer addresses that it reaches directly


def interfaces(host: str) -> tuple[Interface, ...]:
    """For an IPv4 address of this machine, or a wildcard; empty where nothing can be announced.

    mDNS is spoken over IPv4 only, so an IPv6 address other than ``::`` has none.
    """
    listening = ipaddress.ip_address(host)
    if listening.is_unspecified:
        return tuple(found for found in _all() if not ipaddress.ip_address(found.address).is_loopback)
    if listening.version == 6:
        return ()
    if listening.is_loopback:
        # All of 127.0.0.0/8 is one interface, and only 127.0.0.1 is sure to be configured on it.
        device = next((found.device for found in _all() if found.address == "127.0.0.1"), "lo")
        return (Interface(device, "127.0.0.1", host, "127.0.0.0/8"),)
    return tuple(found for found in _all() if found.address == host)


def dialable(host: str) -> str:
    """The address that others are told for a daemon listening on ``host``: for a wildcard, the first real one."""
    if not ipaddress.ip_address(host).is_unspecified:
        return host
    return next((found.address for found in interfaces(host)), "127.0.0.1")


def _all() -> list[Interface]:
    """IPv4, up, and able to multicast; loopback counts although Linux does not flag it so."""
    states = psutil.net_if_stats()
    found = []
    for device, addresses in sorted(psutil.net_if_addrs().items()):
        state = states.get(device)
        flags = state.flags.split(",") if state is not None and state.isup else ()
        if not flags or not {"multicast", "loopback"}.intersection(flags):
            continue
        for entry in addresses:
            if entry.family == socket.AF_INET and entry.address and entry.netmask:
                network = ipaddress.ip_network(f"{entry.address}/{entry.netmask}", strict=False)
                found.append(Interface(device, entry.address, entry.address, str(network)))
    return found
