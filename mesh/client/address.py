"""Where the mesh is: an address given, else the local daemon's socket, else mDNS.

Looks afresh each time it is asked, because a daemon that was started again may stand elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mesh.core.errors import InvalidSpec, NoMeshFound
from mesh.lan.local import LocalDaemon, local_daemons

if TYPE_CHECKING:
    from mesh.lan.discovery import Found


class Address(NamedTuple):
    """Where to dial. ``target`` is gRPC's form; ``str()`` is the form that people write."""

    text: str
    target: str

    def __str__(self) -> str:
        return self.text


class SeveralMeshes(NoMeshFound):
    """Several could be meant and none was named. ``addresses`` lists them."""

    def __init__(self, what: str, choices: dict[str, str]) -> None:
        listed = ", ".join(f"{address} ({name})" for address, name in choices.items())
        super().__init__(what, listed, "choose one with --address or MESH_ADDRESS")
        self.addresses = tuple(choices)


def parse_address(text: str) -> Address:
    """``host:port``, ``[v6]:port`` or ``unix:PATH``. Raises :class:`InvalidSpec`."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:").removeprefix("//")
        if not path:
            raise InvalidSpec(f"{text!r} is not an address: no path follows unix:")
        return Address(text, f"unix:{Path(path).absolute()}")
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise InvalidSpec(f"{text!r} is not an address: write host:port or unix:PATH")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise InvalidSpec(f"{text!r} is not an address: write an IPv6 address in brackets, [{host}]:{port}")
    return Address(text, text)


async def browse(mesh: str | None) -> list[Found]:
    """What answers by mDNS; see :func:`mesh.lan.discovery.find`."""
    from mesh.lan.discovery import find  # 0.1 s of imports that a client with a local daemon does not need

    return await find(mesh)


class Finder:
    """Finds the address of a mesh, and the same mesh again. ``mesh``: only one of this name."""

    def __init__(
        self,
        address: str | None = None,
        mesh: str | None = None,
        environ: Mapping[str, str] = os.environ,
        browse: Callable[[str | None], Awaitable[list[Found]]] = browse,
    ) -> None:
        given = address or environ.get("MESH_ADDRESS") or ""
        self._given = parse_address(given) if given else None
        self._mesh = mesh
        self._environ = environ
        self._browse = browse
        self._last: Address | None = None

    async def find(self) -> Address:
        """Raises ``NoMeshFound``; where several could be meant, :class:`SeveralMeshes`."""
        if self._given is None:
            # From now on the same mesh is meant, whatever else may be started meanwhile.
            self._last, self._mesh = self._local() or await self._remote()
            return self._last
        return self._given

    def _local(self) -> tuple[Address, str] | None:
        daemons = [d for d in local_daemons(self._environ) if self._mesh in (None, d.mesh)]
        if not daemons:
            return None
        again = [d for d in daemons if _socket(d) == self._last]
        if len(daemons) > 1 and self._last is None:
            choices = {str(_socket(d)): f"{d.name}, mesh {d.mesh}, pid {d.pid}" for d in daemons}
            raise SeveralMeshes(f"{len(daemons)} daemons run on this machine", choices)
        chosen = (again or daemons)[0]
        return _socket(chosen), chosen.mesh

    async def _remote(self) -> tuple[Address, str]:
        found = await self._browse(self._mesh)
        if not found:
            named = f" named {self._mesh!r}" if self._mesh else ""
            raise NoMeshFound(
                f"no mesh{named} found",
                "no meshd runs on this machine and none answers on the network",
                "start meshd, or give --address HOST:PORT (or MESH_ADDRESS)",
            )
        if len({one.mesh for one in found}) > 1:
            choices = {one.address: f"mesh {one.mesh}" for one in found}
            raise SeveralMeshes("several meshes answer on the network", choices)
        again = [one for one in found if self._last is not None and one.address == self._last.text]
        chosen = (again or found)[0]
        return Address(chosen.address, chosen.address), chosen.mesh


def _socket(daemon: LocalDaemon) -> Address:
    return parse_address(f"unix:{daemon.socket}")
