"""Files put into a mesh of real daemons, and got out of it by way of another node."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from mesh.blob.objects import Ref
from mesh.core.errors import BlobMissing, TaskFailed
from tests.e2e.mesh import Daemon, Mesh, until

MIB = 1 << 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.bin"
    path.write_bytes(os.urandom(5 * MIB + 7))
    return path


def test_what_was_put_is_on_two_nodes_and_any_node_gets_it(mesh: Mesh, file: Path, tmp_path: Path) -> None:
    a, b, c = mesh.start_all("a", "b", "c")
    put = mesh.ctl("put", str(file), at=a)
    assert put["size"] == 5 * MIB + 7
    assert put["why"] == ""
    assert len(put["durable_on"]) == 2
    assert put["durable_on"][0] == a.id
    (row,) = mesh.ctl("blobs", at=c)
    assert (row["id"], row["size"], len(row["nodes"])) == (put["id"], put["size"], 2)
    for daemon in (a, b, c):
        path = tmp_path / f"got by {daemon.name}"
        got = mesh.ctl("get", put["id"][:8], str(path), at=daemon)
        assert got == {"id": put["id"], "size": put["size"], "path": str(path)}
        assert path.read_bytes() == file.read_bytes()
    until(lambda: len(mesh.ctl("blobs", at=b)[0]["nodes"]) == 3, what="whoever got it has it")


def test_it_outlives_the_node_it_was_put_at(mesh: Mesh, file: Path, tmp_path: Path) -> None:
    a, b, c = mesh.start_all("a", "b", "c")
    put = mesh.ctl("put", str(file), at=b)
    b.kill()
    (other,) = set(put["durable_on"]) - {b.id}
    asked = next(daemon for daemon in (a, c) if daemon.id != other)
    mesh.ctl("get", put["id"], str(tmp_path / "got"), at=asked)
    assert (tmp_path / "got").read_bytes() == file.read_bytes()


def test_a_node_that_was_started_again_still_has_it(mesh: Mesh, file: Path, tmp_path: Path) -> None:
    a = mesh.start("a")
    put = mesh.ctl("put", str(file), at=a)
    assert put["durable_on"] == [a.id]
    assert put["why"] == "no other node that keeps blobs is alive"
    a.kill()
    a.start()
    until(lambda: [row["id"] for row in mesh.ctl("blobs", at=a)] == [put["id"]], what="it is listed")
    mesh.ctl("get", put["id"], str(tmp_path / "got"), at=a)
    assert (tmp_path / "got").read_bytes() == file.read_bytes()
    again = mesh.ctl("put", str(file), at=a)
    assert again["id"] == put["id"]


def test_what_nobody_has_is_refused_with_the_reason(mesh: Mesh, file: Path, tmp_path: Path) -> None:
    a = mesh.start("a")
    put = mesh.ctl("put", str(file), at=a)

    def refused(*arguments: str) -> tuple[int, str]:
        done = mesh.run(*arguments, at=a)
        return done.returncode, done.stderr

    code, said = refused("get", "0" * 64, str(tmp_path / "got"))
    assert (code, "no node is known to hold it" in said) == (1, True)
    code, said = refused("get", "xyz")
    assert (code, "xyz is no blob" in said) == (1, True)
    code, said = refused("get", "00000000")
    assert (code, "no node that can be reached has a blob 00000000" in said) == (1, True)
    code, said = refused("put", str(tmp_path / "absent"))
    assert (code, "absent is not there; nothing was put" in said) == (2, True)
    code, said = refused("get", put["id"], str(file))
    assert (code, "is there already; nothing was fetched" in said) == (2, True)
    assert list(tmp_path.glob(".*.part")) == []


def test_a_directory_comes_out_as_it_was(mesh: Mesh, tmp_path: Path) -> None:
    a, b = mesh.start_all("a", "b")
    (tmp_path / "data/deep").mkdir(parents=True)
    (tmp_path / "data/deep/run.sh").write_text("echo hello")
    (tmp_path / "data/deep/run.sh").chmod(0o755)
    (tmp_path / "data/link").symlink_to("deep/run.sh")
    (tmp_path / "data/empty").mkdir()
    put = mesh.ctl("put", str(tmp_path / "data"), at=a)
    mesh.ctl("get", put["id"], str(tmp_path / "got"), at=b)
    assert sorted(str(path.relative_to(tmp_path / "got")) for path in (tmp_path / "got").rglob("*")) == [
        "deep", "deep/run.sh", "empty", "link",
    ]  # fmt: skip
    assert (tmp_path / "got/link").read_text() == "echo hello"
    assert os.access(tmp_path / "got/deep/run.sh", os.X_OK)


def test_an_empty_file(mesh: Mesh, tmp_path: Path) -> None:
    a, b = mesh.start_all("a", "b")
    (tmp_path / "empty").touch()
    put = mesh.ctl("put", str(tmp_path / "empty"), at=a)
    assert (put["size"], len(put["durable_on"])) == (0, 2)
    mesh.ctl("get", put["id"], str(tmp_path / "got"), at=b)
    assert (tmp_path / "got").read_bytes() == b""


def test_an_object_is_sent_once_to_each_machine(mesh: Mesh) -> None:
    a, b = mesh.start_all("a", "b", slots=2)
    client = mesh.client(a)
    ref = client.put({"w": np.arange(500_000)})
    assert client.get(ref)["w"].sum() == 124999750000
    futures = [client.submit(lambda weights, i: int(weights["w"][i]), ref, i) for i in range(40)]
    assert [future.result(timeout=60) for future in futures] == list(range(40))
    assert mesh.client(b).get(ref)["w"][-1] == 499_999
    moved = sum(daemon.status()["blob_bytes_received"] for daemon in (a, b))
    assert moved == ref.size, "from one to the other, for a copy, and never again"


def test_an_object_that_rots_is_had_again_from_another(mesh: Mesh) -> None:
    a, _ = mesh.start_all("a", "b")
    client = mesh.client(a)
    ref = client.put(np.arange(500_000))
    rotten = max(chunk_files(a), key=lambda path: path.stat().st_size)
    rotten.write_bytes(rotten.read_bytes()[:-1] + b"?")
    sums = [client.submit(lambda array: int(array.sum()), ref) for _ in range(4)]
    assert {future.result(timeout=60) for future in sums} == {124999750000}


def test_a_ref_of_what_nobody_has(mesh: Mesh) -> None:
    a = mesh.start("a")
    client = mesh.client(a)
    with pytest.raises(BlobMissing, match="no node is known to hold it"):
        client.get(Ref("0f" * 32, 1))
    with pytest.raises(TaskFailed, match="no node is known to hold it"):
        client.submit(len, Ref("0f" * 32, 1)).result(timeout=60)


def chunk_files(daemon: Daemon) -> list[Path]:
    return sorted(path for path in (daemon.state / "blobs/chunks").rglob("*") if path.is_file())


def holders(mesh: Mesh, blob: str, at: Daemon) -> set[str]:
    return {name for row in mesh.ctl("blobs", at=at) if row["id"] == blob for name in row["nodes"]}


def test_a_chunk_that_rots_is_found_out_and_had_again_from_another(mesh: Mesh, file: Path, tmp_path: Path) -> None:
    a, b, c = mesh.start_all("a", "b", "c")
    put = mesh.ctl("put", str(file), "--copies", "2", at=a)
    rotten = next(path for path in chunk_files(a) if path.stat().st_size == MIB)
    rotten.write_bytes(rotten.read_bytes()[:-1] + b"?")
    (other,) = {daemon.name for daemon in (b, c) if daemon.id in put["durable_on"]}
    asked = next(daemon for daemon in (b, c) if daemon.name != other)
    mesh.ctl("get", put["id"], str(tmp_path / "by another"), at=asked)
    assert (tmp_path / "by another").read_bytes() == file.read_bytes()
    mesh.ctl("get", put["id"], str(tmp_path / "by itself"), at=a)
    assert (tmp_path / "by itself").read_bytes() == file.read_bytes()
    until(lambda: holders(mesh, put["id"], c) == {"a", "b", "c"}, what="all three have it whole")


def test_a_holder_killed_in_the_middle_is_done_without(mesh: Mesh, tmp_path: Path) -> None:
    """Both holders are slow, so that the kill comes in between; what had arrived is not moved again."""
    a = mesh.start("a", "--rank", "10", "--send-limit", "20MB")
    b = mesh.start("b", "--send-limit", "20MB", peers=[a])
    mesh.met(a, b)
    (tmp_path / "big").write_bytes(os.urandom(40 * MIB))
    put = mesh.ctl("put", str(tmp_path / "big"), at=a)
    c = mesh.start("c", peers=[a])
    mesh.met(a, b, c)
    getting = mesh.begin("get", put["id"], str(tmp_path / "got"), at=c)
    until(lambda: c.status()["blob_bytes_received"] > 4 * MIB, what="some of it has arrived")
    b.kill()
    assert getting.wait(60) == 0
    assert (tmp_path / "got").read_bytes() == (tmp_path / "big").read_bytes()
    assert c.status()["blob_bytes_received"] < 1.1 * 40 * MIB


def test_a_fetch_goes_on_where_its_node_was_killed(mesh: Mesh, tmp_path: Path) -> None:
    a = mesh.start("a", "--rank", "10", "--send-limit", "20MB")
    b = mesh.start("b", peers=[a])
    mesh.met(a, b)
    (tmp_path / "big").write_bytes(os.urandom(40 * MIB))
    put = mesh.ctl("put", str(tmp_path / "big"), "--copies", "1", at=a)
    getting = mesh.begin("get", put["id"], str(tmp_path / "got"), at=b)
    until(lambda: b.status()["blob_bytes_received"] > 10 * MIB, what="some of it has arrived")
    b.kill()
    getting.kill()
    b.start()
    mesh.met(a, b)
    mesh.ctl("get", put["id"], str(tmp_path / "got"), at=b, within=60)
    assert (tmp_path / "got").read_bytes() == (tmp_path / "big").read_bytes()
    assert b.status()["blob_bytes_received"] < 34 * MIB, "in its new life: what its former one had, it has"


def test_a_full_store_keeps_what_is_pinned_and_lets_the_rest_go(mesh: Mesh, tmp_path: Path) -> None:
    a = mesh.start("a", "--store", "12MiB")
    files = [tmp_path / name for name in ("pinned", "free", "new", "more")]
    for path in files:
        path.write_bytes(os.urandom(5 * MIB))
    pinned = mesh.ctl("put", str(files[0]), "--pin", at=a)["id"]
    free = mesh.ctl("put", str(files[1]), at=a)["id"]
    assert {row["id"]: row["pinned"] for row in mesh.ctl("blobs", at=a)} == {pinned: True, free: False}
    new = mesh.ctl("put", str(files[2]), at=a)["id"]
    assert {row["id"] for row in mesh.ctl("blobs", at=a)} == {pinned, new}
    mesh.ctl("blobs", "--pin", new[:8], at=a)
    failed = mesh.run("put", str(files[3]), at=a)
    assert failed.returncode == 1
    assert "its quota is" in failed.stderr
    mesh.ctl("blobs", "--unpin", new, at=a)
    more = mesh.ctl("put", str(files[3]), at=a)["id"]
    assert {row["id"] for row in mesh.ctl("blobs", at=a)} == {pinned, more}
