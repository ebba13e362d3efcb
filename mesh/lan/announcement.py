"""What a daemon says of itself by DNS-SD, and how far that is believed.

Goals: a small and static TXT record; anything malformed is refused with a reason. Non-goals: trust. Anybody on the
network can announce anything, so a reader takes the address and lets the first message of the link say the rest.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mesh.core.ids import Life, NodeId

SERVICE = "_meshd._tcp.local."
TXT_VERSION = "1"
LABEL_BYTES = 63  # of one DNS label
MAX_KEYS = 32  # ours are four; a TXT record of hundreds is no announcement
NODE = re.compile(r"\d\d-[0-7][0-9A-HJKMNP-TV-Z]{25}")
PROTOCOLS = re.compile(r"[1-9]\d{0,4}(,[1-9]\d{0,4}){0,15}")
BROADCAST = ipaddress.IPv4Address("255.255.255.255")


class BadAnnouncement(ValueError):
    """What was announced is not believed; the text says why."""


class Announcement(NamedTuple):
    mesh: str  # the mesh's name
    node: NodeId
    protocols: tuple[int, ...]  # accepted versions, highest first


def label(announcement: Announcement, life: Life) -> str:
    """The DNS-SD instance name: what people see in a network browser.

    It contains the life, so it is unique by construction, also where two nodes run on copies of one state directory.
    That saves the probing that DNS asks for where a name may be taken already: 1.2 s during which nobody is found.
    """
    tail = f" {announcement.node} {life}"
    name = re.sub(r"[^A-Za-z0-9_-]", "-", announcement.mesh)
    return name[: LABEL_BYTES - len(tail)] + tail


def encode(announcement: Announcement) -> dict[str, str]:
    return {
        "txtvers": TXT_VERSION,
        "mesh": announcement.mesh,
        "id": announcement.node,
        "proto": ",".join(str(version) for version in announcement.protocols),
    }


def decode(properties: Mapping[bytes, bytes | None], protocols: Iterable[int]) -> Announcement:
    """Raises :class:`BadAnnouncement`. ``protocols`` are the versions spoken here; one of them must be announced."""
    if len(properties) > MAX_KEYS:
        raise BadAnnouncement(f"its TXT record has {len(properties)} keys")
    try:
        # Keys are compared without case, says RFC 6763; the first of equals counts.
        values: dict[str, str] = {}
        for key, value in properties.items():
            values.setdefault(key.decode("ascii").lower(), (value or b"").decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadAnnouncement("its TXT record is not text") from error
    if (version := values.get("txtvers")) != TXT_VERSION:
        raise BadAnnouncement(f"its TXT record has version {_shown(version)}, here it is {TXT_VERSION}")
    mesh, node, spoken = values.get("mesh", ""), values.get("id", ""), values.get("proto", "")
    if not 0 < len(mesh) <= LABEL_BYTES or not mesh.isprintable():
        raise BadAnnouncement(f"mesh={_shown(mesh)} is not a mesh name")
    if not NODE.fullmatch(node):
        raise BadAnnouncement(f"id={_shown(node)} is not a node id")
    if not PROTOCOLS.fullmatch(spoken):
        raise BadAnnouncement(f"proto={_shown(spoken)} is no list of protocol versions")
    theirs, ours = tuple(int(part) for part in spoken.split(",")), tuple(protocols)
    if not set(theirs).intersection(ours):
        raise BadAnnouncement(
            f"it speaks protocol {spoken}, this node {','.join(map(str, ours))}: update the older one"
        )
    return Announcement(mesh, node, theirs)


def address(addresses: Iterable[str], port: int | None, network: str) -> str:
    """The ``host:port`` to dial: of several IPv4 addresses, one on our network. Raises :class:`BadAnnouncement`."""
    if not port:
        raise BadAnnouncement("it names no port")
    ours = ipaddress.IPv4Network(network)
    told = [ipaddress.IPv4Address(text) for text in addresses]
    # Heard on loopback: from this machine. Heard on a network: a loopback address would lead back to ourselves.
    fit = [
        one
        for one in told
        if one.is_loopback == ours.is_loopback and not (one.is_unspecified or one.is_multicast or one == BROADCAST)
    ]
    if not fit:
        raise BadAnnouncement(f"its address ({', '.join(map(str, told)) or 'none'}) cannot be reached from {network}")
    return f"{min(fit, key=lambda one: (one not in ours, one))}:{port}"


def _shown(value: str | None) -> str:
    """Short, and without what could write over a log."""
    return ascii(value if value is None or len(value) <= 40 else value[:40] + "...")
