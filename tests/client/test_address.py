"""Where a client looks for its mesh, in which order, and what it says when it finds none or several."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh import InvalidSpec, NoMeshFound
from mesh.client.address import Finder, SeveralMeshes, parse_address
from mesh.lan.discovery import Found
from mesh.lan.local import LocalDaemon, Registration, register


class Network:
    """What mDNS would find."""

    def __init__(self, *found: Found) -> None:
        self.found = list(found)
        self.asked: list[str | None] = []

    async def __call__(self, mesh: str | None) -> list[Found]:
        self.asked.append(mesh)
        return [one for one in self.found if mesh in (None, one.mesh)]


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"XDG_RUNTIME_DIR": str(tmp_path)}


def daemon(environ: dict[str, str], name: str, mesh: str = "lab", pid: int = 100) -> Registration:
    found = LocalDaemon(f"50-{name}", name, mesh, pid, "127.0.0.1:7433", f"/run/{name}.sock")
    return register(found, name, environ)


async def test_an_address_given_goes_before_everything(environ: dict[str, str]) -> None:
    daemon(environ, "anvil")
    network = Network(Found("10.0.0.1:7433", "lab", "50-A"))
    environ["MESH_ADDRESS"] = "unix:/from/environment"
    assert str(await Finder("host:1234", environ=environ, browse=network).find()) == "host:1234"
    assert str(await Finder(environ=environ, browse=network).find()) == "unix:/from/environment"
    assert network.asked == []


async def test_the_local_daemon_goes_before_the_network(environ: dict[str, str]) -> None:
    network = Network(Found("10.0.0.1:7433", "lab", "50-A"))
    running = daemon(environ, "anvil")
    finder = Finder(environ=environ, browse=network)
    assert (await finder.find()).target == "unix:/run/anvil.sock"
    assert network.asked == []
    running.close()
    assert (await finder.find()).target == "10.0.0.1:7433"
    assert network.asked == ["lab"]  # the mesh that was found first stays the one that is meant


async def test_several_local_daemons_are_listed(environ: dict[str, str]) -> None:
    running = [daemon(environ, "anvil"), daemon(environ, "bellows", "forge")]
    with pytest.raises(SeveralMeshes) as caught:
        await Finder(environ=environ, browse=Network()).find()
    assert caught.value.addresses == ("unix:/run/bellows.sock", "unix:/run/anvil.sock")
    for part in ("2 daemons", "anvil, mesh lab", "bellows, mesh forge", "--address"):
        assert part in str(caught.value)
    assert str(await Finder(mesh="forge", environ=environ, browse=Network()).find()) == "unix:/run/bellows.sock"
    assert len(running) == 2


async def test_a_second_daemon_later_confuses_nobody(environ: dict[str, str]) -> None:
    running = [daemon(environ, "bellows")]
    finder = Finder(environ=environ, browse=Network())
    await finder.find()
    running.append(daemon(environ, "anvil"))
    running.append(daemon(environ, "crucible", "forge"))
    assert str(await finder.find()) == "unix:/run/bellows.sock"
    running[0].close()
    assert str(await finder.find()) == "unix:/run/anvil.sock"  # of the same mesh


async def test_several_meshes_on_the_network_are_listed(environ: dict[str, str]) -> None:
    network = Network(Found("10.0.0.1:7433", "lab", "50-A"), Found("10.0.0.2:7433", "forge", "50-B"))
    with pytest.raises(SeveralMeshes, match=r"10\.0\.0\.1:7433 \(mesh lab\), 10\.0\.0\.2:7433 \(mesh forge\)"):
        await Finder(environ=environ, browse=network).find()
    assert str(await Finder(mesh="forge", environ=environ, browse=network).find()) == "10.0.0.2:7433"


async def test_members_of_one_mesh_are_one_choice(environ: dict[str, str]) -> None:
    network = Network(Found("10.0.0.1:7433", "lab", "50-A"), Found("10.0.0.2:7433", "lab", "50-B"))
    finder = Finder(environ=environ, browse=network)
    assert str(await finder.find()) == "10.0.0.1:7433"
    network.found = [Found("10.0.0.0:7433", "lab", "10-C"), *network.found]
    assert str(await finder.find()) == "10.0.0.1:7433"  # as long as it answers


async def test_no_mesh_says_what_to_do(environ: dict[str, str]) -> None:
    with pytest.raises(NoMeshFound, match=r"no mesh found; .*; start meshd, or give --address HOST:PORT"):
        await Finder(environ=environ, browse=Network()).find()
    with pytest.raises(NoMeshFound, match="no mesh named 'lab'"):
        await Finder(mesh="lab", environ=environ, browse=Network()).find()


@pytest.mark.parametrize(
    ("text", "target"),
    [("host:1", "host:1"), ("[::1]:7433", "[::1]:7433"), ("unix:/a/b", "unix:/a/b"), ("unix:///a/b", "unix:/a/b")],
)
def test_addresses(text: str, target: str) -> None:
    assert parse_address(text).target == target


@pytest.mark.parametrize(
    "text", ["host", "host:", ":1", "host:0", "host:65536", "host:x", "unix:", "::1:7433", "host:²"]
)
def test_wrong_addresses(text: str) -> None:
    with pytest.raises(InvalidSpec, match="is not an address"):
        parse_address(text)
