"""The table of meshd's options: name, help, default, and the check that turns its text into a value.

A parser takes the text of one value, whichever source it came from, and raises ValueError saying what it takes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

Setting: TypeAlias = str | int | float | bool

DEFAULT_PORT = 7433
ROLES = ("auto", "leader", "worker", "observer")
LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")
PRIORITIES = (1, 10)
# One DNS label, and one directory: a mesh's name is both.
MESH_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
DEVICE = re.compile(r"[a-z][a-z0-9_]*(:\d{1,3})?")
LABEL_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", re.IGNORECASE)
SECONDS = re.compile(r"(\d+(?:\.\d+)?)(s|m|h)?")

# What the contract names and this version does not do.
LATER = {
    "join": "joining by token is not built yet; until then daemons trust whoever reaches them (see --insecure)",
    "metrics": "serving metrics is not built yet; leave it out",
}
LATER_TABLES: dict[str, tuple[str, ...]] = {"mesh": ("forget_after",), "mlflow": ()}


LOST_AFTER = (5.0, 7 * 86400.0)  # seconds; less would take each pause of a network for the loss of a machine


def text(value: str) -> str:
    if not value or len(value) > 64 or not value.isprintable():
        raise ValueError(f"{value!r} is not a name: 1 to 64 printable characters")
    return value


def mesh_name(value: str) -> str:
    if not MESH_NAME.fullmatch(value):
        raise ValueError(
            f"{value!r} is not a mesh name: up to 63 letters, digits, '.', '_' or '-', a letter or digit first"
        )
    return value


def profile(value: str) -> str:
    if not MESH_NAME.fullmatch(value):
        raise ValueError(f"{value!r} is not a profile name: up to 63 letters, digits, '.', '_' or '-'")
    return value


def one_of(*choices: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value not in choices:
            raise ValueError(f"{value!r} is none of {', '.join(choices)}")
        return value

    return parse


def whole(low: int, high: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        if not (value.isascii() and value.isdigit() and low <= int(value) <= high):
            raise ValueError(f"{value!r} is not a whole number from {low} to {high}")
        return int(value)

    return parse


def size(value: str) -> int:
    """Bytes: 16GiB, 16G and 16g are the same; 16GB is 16 times 1000 * 1000 * 1000."""
    match = SIZE.fullmatch(value.strip())
    if match:
        number, unit, binary = match.groups()
        base = 1000 if value.strip()[-1] in "bB" and not binary else 1024
        count = int(float(number) * base ** " KMGT".index(unit.upper() or " "))
        if count > 0:
            return count
    raise ValueError(f"{value!r} is not a size: for example 512MiB, 16GiB or 16GB")


def seconds(value: str) -> float:
    match = SECONDS.fullmatch(value.strip())
    if not match:
        raise ValueError(f"{value!r} is not a time: seconds, for example 30, or 30s, 5m, 1h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2] or "s"]


def lost_after(value: str) -> str:
    """As the mesh keeps it: plain seconds."""
    found = seconds(value)
    if not LOST_AFTER[0] <= found <= LOST_AFTER[1]:
        raise ValueError(f"{value!r} is not between {LOST_AFTER[0]:g} s and {LOST_AFTER[1] / 86400:g} days")
    return f"{found:g}"


def host_and_port(value: str, default: int) -> tuple[str, int]:
    """``HOST``, ``HOST:PORT``, ``[V6]:PORT`` or a bare IPv6 address."""
    value = value.strip()
    host, separator, port = value, "", ""
    if value.startswith("["):
        host, bracket, rest = value[1:].partition("]")
        if not bracket or rest:
            separator, port = rest[:1] or "[", rest[1:]
    elif value.count(":") == 1:
        host, separator, port = value.partition(":")
    if not host or re.search(r"[\s/\[\]]", host) or separator not in ("", ":"):
        raise ValueError(f"{value!r} is not HOST or HOST:PORT (0.0.0.0 is every address of this machine)")
    if not separator:
        return host, default
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ValueError(f"{value!r} has no port from 0 to 65535 after the colon")
    return host, int(port)


def join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen(value: str) -> tuple[str, int]:
    return host_and_port(value, DEFAULT_PORT)


def peer(value: str) -> tuple[str, int]:
    host, port = host_and_port(value, DEFAULT_PORT)
    if port == 0:
        raise ValueError(f"{value!r} has port 0, where nothing can be reached")
    return host, port


def label(value: str) -> tuple[str, str]:
    key, equals, worth = value.partition("=")
    if not equals or not LABEL_KEY.fullmatch(key) or len(worth) > 63 or not worth.isprintable():
        raise ValueError(f"{value!r} is not KEY=VALUE (letters, digits, '.', '_', '/', '-' in the key; 63 at most)")
    return key, worth


def device(value: str) -> str:
    if not DEVICE.fullmatch(value):
        raise ValueError(f"{value!r} is not a device: cuda:0, mps, or cpu for none")
    return value


# Of the mesh, not of a node: replicated, and the value set last counts everywhere.
MESH_SETTINGS: dict[str, Callable[[str], str]] = {
    "durability": one_of("local", "one", "all"),
    "lost_after": lost_after,
}


def path(value: str) -> Path:
    if not value or "\0" in value:
        raise ValueError(f"{value!r} is not a path")
    return Path(os.path.expanduser(value)).absolute()


@dataclass(frozen=True)
class Option:
    name: str  # as in mesh.toml
    group: str
    parse: Callable[[str], Any]
    metavar: str
    help: str
    default: Any = None
    repeats: bool = False
    switch: bool = False
    flag_only: str = ""  # why neither a variable nor the file may set it

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return "MESH_" + self.name.upper()


MESH, MACHINE, OFFER, RUN = "which mesh, and what it is in it", "this node", "what it offers", "how it runs"

OPTIONS = (
    Option("mesh", MESH, mesh_name, "NAME", "the mesh to be part of (default)", "default"),
    Option(
        "role", MESH, one_of(*ROLES), "|".join(ROLES),
        "auto leads if it is lowest, and works (the default); leader leads or stands by and runs nothing; "
        "worker never leads; observer neither", "auto",
    ),
    Option(
        "rank", MESH, whole(0, 99), "00-99",
        "the lowest leads, and among equals the oldest: 10 for a machine that should lead, 90 for a laptop (50)", 50,
    ),
    Option("peer", MESH, peer, "HOST:PORT", "a node to contact, where mDNS does not reach it; may be repeated",
           (), repeats=True),
    Option("no_mdns", MESH, bool, "", "neither announce this node on the network nor look for others", False,
           switch=True),
    Option("name", MACHINE, text, "NODE", "what people call this node (the host name)", ""),
    Option(
        "listen", MACHINE, listen, "HOST[:PORT]",
        "the address to be reached at; port 0 picks one, and without a port it is 7433 "
        "(127.0.0.1 and any free port: this machine only)", ("127.0.0.1", 0),
    ),
    Option("insecure", MACHINE, bool, "", "allow --listen on an address that other machines can reach, although "
           "nothing authenticates them: anyone there can run programs here", False, switch=True),
    Option("state_dir", MACHINE, path, "DIR", "identity and journal; one per node ($XDG_STATE_HOME/meshd/MESH)"),
    Option("new_id", MACHINE, bool, "", "draw a new identity, for a state directory that was copied from another node; "
           "the journal stays", False, switch=True,
           flag_only="only as a flag: set here, it would make another node of this one at every start"),
    Option("slots", OFFER, whole(1, 100_000), "N", "tasks at a time (the usable cores)"),
    Option("device", OFFER, device, "cuda:0", "offer this accelerator only; cpu: none; may be repeated (all)",
           (), repeats=True),
    Option("memory", OFFER, size, "SIZE", "offer this much memory, for example 16GiB (all of it)"),
    Option("store", OFFER, size, "SIZE", "keep so much of blobs, for example 200GiB (four fifths of the free disk)"),
    Option("send_limit", OFFER, size, "SIZE", "send at most so much of blobs per second, for example 50MB (no limit)"),
    Option("min_priority", OFFER, whole(*PRIORITIES), "N", "run no task of a lower priority (1)", 1),
    Option("max_priority", OFFER, whole(*PRIORITIES), "N", "run no task of a higher priority (10)", 10),
    Option("label", OFFER, label, "K=V", "something that tasks can ask for; may be repeated", (), repeats=True),
    Option("profile", OFFER, profile, "NAME", "hardware profile: gpu_high, gpu_standard, cpu_arm_high, cpu_x86 or one "
           "of your own (as measured)", ""),
    Option("grace", RUN, seconds, "S", "seconds that running tasks have to finish in when it is stopped (30)", 30.0),
    Option("log_level", RUN, one_of(*LEVELS), "L", f"{', '.join(LEVELS)} (info)", "info"),
    Option("log_format", RUN, one_of(*FORMATS), "text|json", "how log lines on stderr look (text)", "text"),
)  # fmt: skip
