"""What meshd will not do, its exit code, what it says; and that nothing is damaged by it."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from mesh.core.ids import NO_CLAIM
from mesh.core.lattice import Job, Shape, Task
from mesh.core.lattice import Mesh as MeshRecord
from mesh.core.messages import PROTOCOL, Cursor, Heartbeat, Hello, Pull, Pulled
from mesh.shell.journal import Journal
from mesh.v1.peer_pb2 import PeerFrame
from mesh.wire.peer import Refusal, decode_peer, encode_peer
from tests.e2e.mesh import PATIENCE, Daemon, Mesh, alive, until
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
    refused(
        a, 73,
        f"meshd: the journal {journal} was written by a newer meshd; "
        "its schema is version 99, this meshd knows those up to 2; "
        "start the newer version again, or choose another --state-dir; nothing was changed",
    )  # fmt: skip
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


# -- a peer that sends what no node sends ------------------------------------------------------------------------------


class FakePeer:
    """A member that beats, has a journal, and says of it what it is told to say."""

    def __init__(self, daemon: Daemon, mesh_name: str, mesh_id: str) -> None:
        ours = Hello((PROTOCOL,), mesh_name, (mesh_id,), False, FAKE, "F1", "fake", FAKE_ADDRESS, "auto", "0", 0)
        self.daemon, self.hello = daemon, ours

    async def _link(self, channel: grpc.aio.Channel) -> tuple[Any, Any]:
        call: Any = channel.stream_stream("/mesh.v1.Peer/Link")()
        await call.write(encode_peer(self.hello).SerializeToString())
        return call, await self._read(call)

    async def _read(self, call: Any) -> Any:
        async with asyncio.timeout(PATIENCE):
            frame = await call.read()
        return None if frame is grpc.aio.EOF else decode_peer(PeerFrame.FromString(frame))

    async def lie(self, answer: Callable[[Pull], bytes]) -> tuple[Refusal, int, Refusal]:
        """Answers the first pull so. The refusal of that, the daemon's journal before it, and what a redial gets."""
        async with grpc.aio.insecure_channel(self.daemon.address) as channel:
            call, theirs = await self._link(channel)
            assert isinstance(theirs, Hello)
            seq = position = 0
            while not isinstance(said := await self._read(call), Refusal):
                assert said is not None, "the link ended without a word"
                if position:
                    continue  # a write would fail where the stream has ended, and hide what it ended with
                if isinstance(said, Heartbeat):
                    seq += 1
                    beat = Heartbeat(seq, said.seq, "F1", 0, True, "", NO_CLAIM, False, 0, "", (), (), (), "fake",
                                     "auto", FAKE_ADDRESS, 9)  # fmt: skip
                    await call.write(encode_peer(beat).SerializeToString())
                elif isinstance(said, Pull):
                    status = await asyncio.to_thread(until, self._settled, what="its journal rests")
                    position = status["journal_position"]
                    await call.write(answer(said))
            assert await call.read() is grpc.aio.EOF
            second, again = await self._link(channel)
            if isinstance(again, Hello):  # a refusal follows the hello, for it is the machine's
                again = await self._read_refusal(second)
            return said, position, again

    def _settled(self) -> dict[str, Any] | None:
        before = self.daemon.status()
        return before if self.daemon.status()["journal_position"] == before["journal_position"] else None

    async def _read_refusal(self, call: Any) -> Refusal:
        while not isinstance(said := await self._read(call), Refusal):
            assert said is not None, "the link ended without a word"
        return said


FAKE, FAKE_ADDRESS = "50-01ARZ3NDEKTSV4RRFFQ69G5FZZ", "127.0.0.1:1"
FORGED = Task("k.1", "j", 0, "d", Shape(), b"")


def bad_records(pull: Pull) -> bytes:
    records = (MeshRecord("01ARZ3NDEKTSV4RRFFQ69G5FA9", True), Job("j", "d"), FORGED)
    pulled = Pulled(pull.session, Cursor("fake", 3, "x"), True, records)
    return encode_peer(pulled).SerializeToString()


def no_records(pull: Pull) -> bytes:
    pulled = PeerFrame(pulled={"session": pull.session, "end": True, "records": b"\xff\xff"})
    return pulled.SerializeToString()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (bad_records, "a task's id is its job's id, a dot and a name, 'k.1' of job 'j' is not"),
        (no_records, "a batch of records cannot be read"),
    ],
)
def test_a_peer_that_sends_bad_records(mesh: Mesh, answer: Callable[[Pull], bytes], why: str) -> None:
    """It hears why, its link is closed and counted, nothing it sent is taken, and the node goes on."""
    a = mesh.start("a")
    mesh.met(a)
    peer = FakePeer(a, mesh.name, a.status()["mesh_id"])
    refusal, position, again = asyncio.run(peer.lie(answer))
    assert refusal.code == again.code == "invalid"
    assert why in refusal.reason
    assert why in again.reason
    status = a.status()
    assert status["refused_messages"] == {FAKE: 1}
    assert status["journal_position"] == position, "nothing was recorded, not the good ones of the batch either"
    assert "01ARZ3NDEKTSV4RRFFQ69G5FA9" not in status["mesh_id"]
    assert mesh.ctl("jobs", at=a) == []
    (row,) = [row for row in mesh.peers(a) if row["id"] == FAKE]
    assert (row["state"], row["refused_messages"]) == ("refused", 1)
    assert why in row["reason"]
    assert "peer_refused" in a.said()
    assert mesh.ctl("submit", "--wait", "--", "true", at=a)["state"] == "succeeded"


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
