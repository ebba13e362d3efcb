"""What only the store on disk can do: be killed, lose its power, be full or damaged, and serve many threads."""

from __future__ import annotations

import errno
import os
import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from mesh.blob.files import ChunkFiles
from mesh.blob.manifest import Chunk
from mesh.core.errors import BlobCorrupt, BlobMissing, MeshError, QuotaExceeded
from mesh.shell.blobs import Blobs
from mesh.shell.blobs_index import StoreDamaged, StoreError
from mesh.shell.blobs_shelf import UNLINK
from tests.blob.brittle import BrittleDisk, Killed
from tests.shell.blobs_bench import FileBench, Given

QUOTA = 100
OLD = Given(b"o" * 10, b"shared" * 5)
NEW = Given(b"shared" * 5, b"n" * 20, b"m" * 20)
SPARE = Given(b"s" * 20)


@pytest.fixture
def disk() -> BrittleDisk:
    return BrittleDisk()


@pytest.fixture
def bench(tmp_path: Path, disk: BrittleDisk) -> FileBench:
    return FileBench(tmp_path, QUOTA, disk)


@pytest.fixture
def store(bench: FileBench) -> Iterator[Blobs]:
    with closing(bench.open()) as store:
        yield store


# Killed at any moment


class Connection:
    """The index's, whose commits are steps of the disk: killed before it, or after it and before anything else."""

    def __init__(self, inner: sqlite3.Connection, disk: BrittleDisk) -> None:
        self._inner, self._disk = inner, disk

    def execute(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
        if statement != "COMMIT":
            return self._inner.execute(statement, *arguments)
        self._disk.step()
        cursor = self._inner.execute(statement)
        self._disk.step()
        return cursor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def put(store: Blobs) -> None:
    NEW.put(store)


def fetch(store: Blobs) -> None:
    NEW.fetch(store)


def resume(store: Blobs) -> None:
    NEW.fetch(store, [1])
    store.leave(NEW.id)
    NEW.fetch(store)


def give_up(store: Blobs) -> None:
    NEW.fetch(store, [1, 2])
    store.abandon(NEW.id)


def replace(store: Blobs) -> None:
    """What is not needed makes room."""
    Given(b"x" * 50).put(store)


@pytest.mark.parametrize("power", ["killed", "power cut"])
@pytest.mark.parametrize("act", [put, fetch, resume, give_up, replace])
def test_killed_at_any_step_each_blob_is_whole_or_is_not(
    bench: FileBench, disk: BrittleDisk, tmp_path: Path, act: Callable[[Blobs], None], power: str
) -> None:
    finished = False
    kill_at = 0
    while not finished:
        bench.clear()
        store = bench.open()
        OLD.put(store)
        SPARE.put(store)
        store.pin(OLD.id)
        store._shelf.index._connection = Connection(store._shelf.index._connection, disk)  # type: ignore[assignment]
        disk.steps, disk.kill_at = 0, kill_at
        try:
            act(store)
            finished = True
        except Killed:
            kill_at += 1
        disk.kill_at = -1
        if power == "power cut":
            disk.cut_power(tmp_path)
        was_whole = finished and act in (put, fetch, resume)
        store = bench.open()
        assert not was_whole or store.complete(NEW.id)
        assert store.complete(OLD.id)
        for entry in store.listing():
            if entry.complete:
                for index in range(store.have(entry.blob).bit_count()):
                    store.read(entry.blob, index)
        assert OLD.read(store) == OLD.parts
        store.sweep()
        assert store.complete(OLD.id)
        if act is not replace:
            assert store.complete(SPARE.id)
            assert not was_whole or store.begin(NEW.manifest) == NEW.whole
            NEW.fetch(store)
            assert NEW.read(store) == NEW.parts
            assert bench.files() == {chunk.digest for blob in (OLD, NEW, SPARE) for chunk in blob.chunks}
        assert store.stored == store.claimed
    assert kill_at >= 5


# Failing


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_disk_that_fails_during_a_fetch_loses_nothing(
    store: Blobs, bench: FileBench, disk: BrittleDisk, code: int
) -> None:
    OLD.put(store)
    NEW.fetch(store, [1])
    kind = QuotaExceeded if code in (errno.ENOSPC, errno.EDQUOT) else MeshError
    disk.fail["write"] = code
    with pytest.raises(kind, match="blob store"):
        store.write(NEW.id, 2, NEW.parts[2])
    assert store.have(NEW.id) == 0b011
    disk.fail.clear()
    store.write(NEW.id, 2, NEW.parts[2])
    disk.fail["sync"] = code
    with pytest.raises(kind, match="blob store"):
        store.finish(NEW.id)
    assert not store.complete(NEW.id)
    assert store.have(NEW.id) == 0b001, "what was not synced must arrive again"
    assert store.stored == 40
    disk.fail.clear()
    with pytest.raises(BlobMissing):
        store.finish(NEW.id)
    store.write(NEW.id, 1, NEW.parts[1])
    store.write(NEW.id, 2, NEW.parts[2])
    store.finish(NEW.id)
    assert NEW.read(store) + OLD.read(store) == NEW.parts + OLD.parts
    assert bench.files() == {chunk.digest for blob in (OLD, NEW) for chunk in blob.chunks}


def test_files_that_cannot_be_removed_go_later(store: Blobs, bench: FileBench, disk: BrittleDisk) -> None:
    OLD.put(store)
    disk.fail["remove"] = errno.EROFS
    with pytest.raises(MeshError, match="Read-only"):
        store.delete(OLD.id)
    assert store.info(OLD.id) is None
    disk.fail.clear()
    NEW.put(store)
    assert bench.files() == {chunk.digest for chunk in NEW.chunks}


def test_an_index_that_is_full_changes_nothing(store: Blobs) -> None:
    OLD.put(store)
    connection = store._shelf.index._connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    many = Given(*(b"%d" % n for n in range(500)))
    store._shelf.quota = 10_000
    with pytest.raises(QuotaExceeded, match=r"index.*cannot be written.*full"):
        store.begin(many.manifest)
    assert [entry.blob for entry in store.listing()] == [OLD.id]
    assert store.claimed == 40
    connection.execute("PRAGMA max_page_count = 1000")
    many.put(store)
    assert store.complete(many.id)


# A damaged index


def damage(path: Path, where: int) -> None:
    data = bytearray(path.read_bytes())
    data[where : where + 100] = bytes(random.Random(where).randbytes(100))
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["no database", "torn page", "free space", "manifest", "no table"])
def test_a_damaged_index_is_set_aside_and_the_store_begins_empty(bench: FileBench, tmp_path: Path, how: str) -> None:
    for _ in range(2):  # the second time there is one set aside already
        store = bench.open()
        OLD.put(store)
        store.close()
        path = tmp_path / "index.db"
        if how == "no database":
            path.write_bytes(b"something else" * 1000)
        elif how == "torn page":
            damage(path, 4096)
        elif how == "free space":  # it can be read; only a write would meet it
            data = bytearray(path.read_bytes())
            page = data.rindex(OLD.chunks[0].digest) // 4096 * 4096
            data[page + 1 : page + 3] = (4090).to_bytes(2, "big")
            path.write_bytes(data)
        else:
            with closing(sqlite3.connect(path, isolation_level=None)) as connection:
                change = "UPDATE blobs SET manifest = zeroblob(10)" if how == "manifest" else "DROP TABLE chunks"
                connection.execute(change)
        store = bench.open()
        assert store.listing() == []
        assert store.claimed == store.stored == 0
        assert str(path) in store.damage
        assert "set aside as index.db.damaged-" in store.damage
        assert store.begin(OLD.manifest) == OLD.whole, "what is here need not travel"
        store.finish(OLD.id)
        assert OLD.read(store) == OLD.parts
        store.close()
    assert bench.open().damage == ""
    assert len(list(tmp_path.glob("index.db.damaged-?"))) == 2


def test_damage_met_on_the_way_is_said_and_found_at_the_next_start(store: Blobs, bench: FileBench) -> None:
    OLD.put(store)
    store._shelf.index._connection.execute("UPDATE blobs SET manifest = x'00'")
    with pytest.raises(StoreDamaged, match=r"manifest of blob.*start meshd again"):
        store.manifest(OLD.id)
    assert bench.open().damage


def test_an_index_of_a_newer_version_or_of_others_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    for change, says in (("CREATE TABLE recipes (name)", "recipes"), ("PRAGMA user_version = 2", "newer meshd")):
        path.unlink(missing_ok=True)
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute(change)
        before = path.read_bytes()
        with pytest.raises(StoreError, match=says):
            Blobs.open(tmp_path, QUOTA)
        assert path.read_bytes() == before


def test_every_commit_reaches_the_disk(tmp_path: Path) -> None:
    with closing(Blobs.open(tmp_path, QUOTA)) as store:
        connection = store._shelf.index._connection
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        assert connection.execute("PRAGMA fullfsync").fetchone() == (1,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


# What a former life left in arriving/


def test_what_is_left_over_is_believed_only_after_it_was_hashed(bench: FileBench, tmp_path: Path) -> None:
    store = bench.open()
    NEW.fetch(store, [0, 1])
    store = bench.open()
    left = tmp_path / "arriving" / NEW.chunks[1].digest.hex()
    left.write_bytes(bytes(NEW.chunks[1].size))
    assert store.begin(NEW.manifest) == 0b001
    NEW.fetch(store, [1])
    store.write(NEW.id, 1, NEW.parts[1])
    store.write(NEW.id, 2, NEW.parts[2])
    store.finish(NEW.id)
    assert NEW.read(store) == NEW.parts


def test_a_sweep_leaves_what_is_being_written(store: Blobs, tmp_path: Path) -> None:
    runner = ChunkFiles(tmp_path)
    stale = tmp_path / "arriving" / f"{NEW.chunks[0].digest.hex()}.77-abcd-0"
    stale.write_bytes(b"half")
    with store.writing():
        runner.settle([runner.put(NEW.parts[0])])
        runner.put(NEW.parts[1])
        assert store.sweep() == 3
        assert runner.has(NEW.chunks[0])
        assert runner.there(NEW.chunks[1])
        assert stale.exists()
        runner.settle([runner.put(NEW.parts[1]), runner.put(NEW.parts[2])])
        store.commit(NEW.manifest)
    assert not stale.exists()
    assert NEW.read(store) == NEW.parts


def test_more_files_than_are_removed_at_once_go(store: Blobs, bench: FileBench) -> None:
    store._shelf.quota = 10_000
    many = Given(*(b"%d" % n for n in range(2 * UNLINK + 5)))
    many.put(store)
    store.delete(many.id)
    assert bench.files() == set()


def test_a_file_that_is_gone_is_noticed_when_a_fetch_begins(store: Blobs, bench: FileBench) -> None:
    OLD.put(store)
    bench.spoil(OLD.chunks[1], None)
    assert store.begin(NEW.manifest) == 0
    assert not store.complete(OLD.id)
    assert store.stored == 10


# Things that happen in the middle of others


def test_a_chunk_lost_while_a_blob_is_committed_is_missed(store: Blobs, bench: FileBench, disk: BrittleDisk) -> None:
    OLD.put(store)

    def lose(path: str) -> None:
        disk.on_sync = lambda path: None
        bench.spoil(OLD.chunks[1], b"")
        with pytest.raises(BlobCorrupt):
            store.read(OLD.id, 1)

    with store.writing():
        store.files.settle([store.files.put(part) for part in NEW.parts])
        disk.on_sync = lose
        with pytest.raises(BlobMissing, match="1 of its 3 chunks"):
            store.commit(NEW.manifest)
    assert store.info(NEW.id) is None


def test_a_chunk_lost_while_a_fetch_finishes_is_missed(store: Blobs, bench: FileBench, disk: BrittleDisk) -> None:
    OLD.put(store)
    NEW.fetch(store, [1, 2])

    def lose(path: str) -> None:
        disk.on_sync = lambda path: None
        bench.spoil(OLD.chunks[1], b"")
        with pytest.raises(BlobCorrupt):
            store.read(OLD.id, 1)
        store.write(NEW.id, 0, NEW.parts[0])  # it came again at once, and is not synced

    disk.on_sync = lose
    store.finish(NEW.id)
    disk.cut_power(bench._directory)
    assert NEW.read(store) == NEW.parts


def test_a_damaged_chunk_that_another_made_good_meanwhile_is_not_lost(store: Blobs) -> None:
    OLD.put(store)
    store._shelf.lose(OLD.chunks[1])  # as by who read it before
    assert store.complete(OLD.id)
    assert OLD.read(store) == OLD.parts


def test_given_up_while_it_finishes_it_leaves_nothing(store: Blobs, bench: FileBench, disk: BrittleDisk) -> None:
    NEW.fetch(store, [0, 1, 2])

    def abandon(path: str) -> None:
        disk.on_sync = lambda path: None
        store.abandon(NEW.id)

    disk.on_sync = abandon
    with pytest.raises(BlobMissing):
        store.finish(NEW.id)
    assert store.info(NEW.id) is None
    assert bench.files() == set()
    assert store.stored == 0


# Many threads


def test_many_threads_fetch_one_blob(store: Blobs) -> None:
    store._shelf.quota = 1 << 20
    blob = Given(*(bytes([n]) * 3000 for n in range(60)))
    store.begin(blob.manifest)
    gate = threading.Barrier(6)

    def work(n: int) -> None:
        gate.wait()
        for k in range(60):
            index = (k * 7 + n) % 60
            store.write(blob.id, index, blob.parts[index])
            assert store.read(blob.id, index) == blob.parts[index]

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    store.finish(blob.id)
    assert blob.read(store) == blob.parts
    assert store.stored == store.claimed == 180_000


def test_threads_that_put_delete_fetch_and_read_never_see_a_wrong_byte(store: Blobs, bench: FileBench) -> None:
    store._shelf.quota = 5000
    shared = [bytes([n]) * 200 for n in range(10)]
    blobs = [Given(*random.Random(n).sample(shared, 5), b"own %d" % n) for n in range(6)]
    gate = threading.Barrier(4)

    def work(n: int) -> int:
        rng = random.Random(n)
        gate.wait()
        read = 0
        for _ in range(60):
            blob = rng.choice(blobs)
            match rng.randrange(4):
                case 0:
                    blob.put(store)
                case 1:
                    store.delete(blob.id)
                case 2:
                    try:
                        blob.fetch(store)
                    except BlobMissing:  # deleted meanwhile
                        continue
                case _:
                    with ExitStack() as stack:
                        try:
                            stack.enter_context(store.reading(blob.id))
                        except BlobMissing:
                            continue
                        if store.complete(blob.id):
                            assert blob.read(store) == blob.parts
                            read += 1
        return read

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(work, range(4))) > 0
    for entry in store.listing():
        if not entry.complete:
            store.abandon(entry.blob)
    store.sweep()
    assert store.stored == store.claimed
    for entry in store.listing():
        (blob,) = (blob for blob in blobs if blob.id == entry.blob)
        assert blob.read(store) == blob.parts
    listed = {chunk for blob in blobs if store.complete(blob.id) for chunk in blob.chunks}
    assert bench.files() == {chunk.digest for chunk in listed}


# Figures


def test_saving_again_with_one_layer_in_a_hundred_changed_stores_that_layer(tmp_path: Path) -> None:
    layers = [os.urandom(8_000) for _ in range(200)]
    with closing(Blobs.open(tmp_path, 1 << 30)) as store:
        Given(*layers).put(store)
        before = store.stored
        assert before == 1_600_000
        layers[7], layers[150] = os.urandom(8_000), os.urandom(8_000)
        Given(*layers).put(store)
        assert store.stored - before == 16_000
        sizes = [path.stat().st_size for path in tmp_path.glob("chunks/*/*")]
        assert sum(sizes) == store.stored == store.claimed


def test_figures_are_right_after_a_restart(bench: FileBench) -> None:
    store = bench.open()
    OLD.put(store)
    NEW.fetch(store, [1])
    assert (store.claimed, store.stored) == (80, 60)
    store = bench.open()
    assert (store.claimed, store.stored) == (80, 40)
    store.begin(NEW.manifest)
    assert (store.claimed, store.stored) == (80, 60)
    assert Chunk(NEW.chunks[1].digest, 20) in store._shelf.arrived
