"""What meshd will not do, its exit code, what it says; and that nothing is damaged by it."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest

from mesh.core.lattice import Mesh as MeshRecord
from mesh.shell.journal import Journal
from tests.e2e.mesh import Daemon, Mesh, alive, until
from tests.e2e.work import Gated

pytestmark = pytest.mark.e2e


def refused(daemon: Daemon, code: int, *texts: str) -> None:
    """It ends with this code, says all this in at most a screenful, and shows no traceback."""
    assert daemon.ends() == code, daemon.said()
    said = daemon.said()
    for text in texts:
        assert text in said
    assert "Traceback" not in said


# -- identity ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("original", ["the leader", "a follower"])
def test_copied_state_directory(mesh: Mesh, tmp_path: Path, original: str) -> None:
    """The copy is told what to do and ends; the original goes on with what it runs."""
    gated = Gated(tmp_path)
    a, b = mesh.start_all("a", "b")
    job = mesh.ctl("submit", gated.sweep(2), at=a)["job"]
    began = gated.until_began(2)
    first = a if original == "the leader" else b
    term = first.status()["term"]
    subprocess.run(["cp", "-r", str(first.state), str(tmp_path / "copy")], check=True)
    refused(mesh.start("copy", *(["--rank", "10"] if first is a else []), peers=[a]), 76, "meshd --new-id", first.id)
    assert (first.status()["term"], first.status()["leader"]) == (term, a.id)
    assert all(alive(each.pid) for each in began)
    gated.open()
    mesh.until_state(job, "succeeded", at=b)
    assert len(gated.began()) == 2

    new = mesh.start("copy", "--new-id", peers=[a])
    mesh.met(a, b, new, leader=a)
    assert new.id not in (a.id, b.id)


def test_copy_that_is_found_by_mdns(mesh: Mesh, tmp_path: Path) -> None:
    a, b = mesh.start("a", "--rank", "10", mdns=True), mesh.start("b", mdns=True)
    mesh.met(a, b)
    subprocess.run(["cp", "-r", str(b.state), str(tmp_path / "copy")], check=True)
    refused(mesh.start("copy", mdns=True), 76, "meshd --new-id")
    mesh.met(a, b, leader=a)


def test_damaged_identity(mesh: Mesh, tmp_path: Path) -> None:
    a = mesh.start("a")
    was = a.id
    a.kill()
    (a.state / "identity.json").write_text("{")
    a.start()
    refused(a, 73, f"cannot read the identity {a.state / 'identity.json'}", "--new-id")
    assert (a.state / "identity.json").read_text() == "{"
    again = mesh.start("a", "--new-id")
    assert again.id != was


def test_identity_of_a_newer_version(mesh: Mesh) -> None:
    a = mesh.start("a")
    a.ready()
    assert a.stop() == 0
    (a.state / "identity.json").write_text(json.dumps({"version": 99, "ulid": "whatever that will be"}))
    a.start()
    refused(a, 73, "newer meshd (version 99")


# -- the journal -------------------------------------------------------------------------------------------------------


def used(mesh: Mesh) -> tuple[Daemon, Path]:
    """A node that has a few things in its journal and was stopped, and that journal."""
    a = mesh.start("a", slots=2)
    mesh.ctl("submit", "--param", "x", *map(str, range(50)), "--wait", "--", "true", at=a)
    assert a.stop() == 0
    return a, a.state / "journal.sqlite"


def test_journal_of_a_newer_version(mesh: Mesh) -> None:
    a, journal = used(mesh)
    with sqlite3.connect(journal) as connection:
        connection.execute("INSERT INTO schema (version, name) VALUES (99, 'from the future')")
    connection.close()
    before = journal.read_bytes()
    a.start()
    refused(a, 73, "was written by a newer meshd", "version 99", "nothing was changed")
    assert journal.read_bytes() == before


def set_aside(daemon: Daemon) -> Path:
    """The daemon has started all the same, and says where what it found lies now. That."""
    daemon.ready()
    (aside,) = daemon.state.glob("journal.sqlite.damaged-*")
    assert daemon.status()["damaged_journals"] == [str(aside)]
    assert "is damaged" in daemon.said()
    assert str(aside) in daemon.said()
    return aside


def test_truncated_journal(mesh: Mesh) -> None:
    a, journal = used(mesh)
    half = journal.read_bytes()[: journal.stat().st_size // 2]
    journal.write_bytes(half)
    a.start()
    assert set_aside(a).read_bytes() == half
    assert a.stop() == 0
    a.start()  # and it is told once
    a.ready()
    assert len(list(a.state.glob("journal.sqlite.damaged-*"))) == 1


def test_journal_with_flipped_bits(mesh: Mesh) -> None:
    """SQLite does not notice; the digest of the batch does. What is before it is kept."""
    a, journal = used(mesh)
    with sqlite3.connect(journal) as connection:
        (last,) = connection.execute("SELECT max(last) FROM batches").fetchone()
        connection.execute("UPDATE batches SET body = zeroblob(length(body)) WHERE last = ?", (last,))
    connection.close()
    a.start()
    aside = set_aside(a)
    assert f"digest of the batch that ends at position {last}" in a.said()
    assert len(mesh.ctl("jobs", at=a)) == 1
    with sqlite3.connect(aside) as connection:
        assert connection.execute("SELECT max(last) FROM batches").fetchone() == (last,)
    connection.close()


def test_garbage_for_a_journal(mesh: Mesh) -> None:
    a, journal = used(mesh)
    was = a.id
    journal.write_bytes(b"what is this?\n" * 1000)
    a.start()
    assert set_aside(a).read_bytes() == b"what is this?\n" * 1000
    assert a.id == was
    assert mesh.ctl("jobs", at=a) == []


# -- the state directory and the port ----------------------------------------------------------------------------------


def test_file_in_place_of_the_state_directory(mesh: Mesh, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("precious")
    refused(mesh.start("a"), 73, "cannot write to the state directory", str(tmp_path / "a"), "--state-dir")
    assert (tmp_path / "a").read_text() == "precious"


def test_read_only_state_directory(mesh: Mesh, tmp_path: Path) -> None:
    """Root is refused by no mode, so the directory is made immutable where the file system knows that."""
    state = tmp_path / "a"
    state.mkdir(mode=0o700)
    if not shutil.which("chattr") or subprocess.run(["chattr", "+i", str(state)], capture_output=True).returncode:
        pytest.skip("chattr +i does not work here, and root may write everywhere else")
    try:
        refused(mesh.start("a"), 73, "cannot write to the state directory", str(state))
    finally:
        subprocess.run(["chattr", "-i", str(state)], check=True)


def test_held_state_directory_and_used_port(mesh: Mesh) -> None:
    a = mesh.start("a")
    address = a.address
    refused(mesh.start("b", state=a.state), 73, "is held by another meshd", str(a.ready()["pid"]), "--state-dir")
    refused(mesh.start("c", "--listen", address), 98, f"cannot listen on {address}", "--listen")
    assert mesh.ctl("status", at=a)["id"] == a.id
    # An exit with 98 gave its own directory back.
    assert mesh.start("c").id


# -- settings ----------------------------------------------------------------------------------------------------------


def test_settings_that_are_wrong_are_told_together(mesh: Mesh) -> None:
    flags = ("--slotz", "2", "--rank", "100", "--memory", "much", "--listen", "0.0.0.0:0", "--join", "token")
    refused(
        mesh.start("a", *flags), 2,
        "5 settings are wrong", "did you mean --slots", "'100' is not a whole number", "'much' is not a size",
        "--insecure", "--join", "not built yet",
    )  # fmt: skip


def test_unknown_key_of_the_configuration_file(mesh: Mesh, tmp_path: Path) -> None:
    (tmp_path / "meshd").mkdir()
    (tmp_path / "meshd" / "mesh.toml").write_text('slot = 2\nlable = {room = "east"}\n')
    refused(mesh.start("a"), 2, "mesh.toml", "did you mean slots", "did you mean label")


# -- other meshes ------------------------------------------------------------------------------------------------------


def old(state: Path, mesh_id: str) -> None:
    """A journal of a mesh that is not young any more: two members of it were together for a minute."""
    state.mkdir(mode=0o700)
    journal = Journal.open(state / "journal.sqlite")

    async def write() -> None:
        synced = asyncio.Event()
        journal.start(asyncio.get_running_loop().call_soon_threadsafe, lambda _: synced.set(), print)
        journal.append(journal.position + 1, [MeshRecord(mesh_id, True)])
        await asyncio.wait_for(synced.wait(), 10)

    asyncio.run(write())
    journal.close()


def test_two_old_meshes_of_one_name(mesh: Mesh, tmp_path: Path) -> None:
    """Neither swallows the other: the links are refused, both go on, both say so. A young one joins either."""
    one_id, other_id = "01ARZ3NDEKTSV4RRFFQ69G5FA1", "01ARZ3NDEKTSV4RRFFQ69G5FA2"
    old(tmp_path / "a", one_id)
    old(tmp_path / "b", other_id)
    a = mesh.start("a")
    b = mesh.start("b", peers=[a])

    def shown(daemon: Daemon) -> list[str]:
        return [peer["reason"] for peer in mesh.peers(daemon) if peer["state"] == "refused"]

    for daemon in (a, b):
        [reason] = until(lambda daemon=daemon: shown(daemon), what=f"{daemon.name} shows the other mesh")
        assert f"belongs to another mesh that is also named '{mesh.name}'" in reason
        assert daemon.status()["members"] == 1
        assert mesh.ctl("submit", "--wait", "--", "true", at=daemon)["state"] == "succeeded"
    young = mesh.start("c", peers=[b])
    mesh.met(b, young)
    assert young.status()["mesh_id"] == other_id
    text = mesh.run("peers", at=a, json_too=False).stdout
    assert "refused" in text
    assert b.address in text


# -- meshctl without a mesh --------------------------------------------------------------------------------------------


def test_no_daemon(mesh: Mesh) -> None:
    done = mesh.run("--mesh", mesh.name, "peers", json_too=False)
    assert done.returncode == 69
    assert done.stderr.startswith("meshctl: no mesh named")
    assert "start meshd" in done.stderr


def test_nobody_at_the_address(mesh: Mesh) -> None:
    done = mesh.run("--address", "127.0.0.1:1", "peers", json_too=False)
    assert done.returncode == 69
    assert "no node answers at 127.0.0.1:1" in done.stderr


def test_several_local_daemons(mesh: Mesh) -> None:
    a, b = mesh.start("a"), mesh.start("b")
    addresses = [a.socket, b.socket]
    done = mesh.run("peers", json_too=False)
    assert done.returncode == 2
    assert all(address in done.stderr for address in addresses)
    assert "--address" in done.stderr
    assert b.stop() == 0
    assert [peer["id"] for peer in mesh.ctl("peers")] == [a.id]  # one is left, and is meant
