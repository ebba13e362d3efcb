"""Chunk files: what their places mean, whoever writes them, and whatever fails."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mesh.blob.disk import Disk
from mesh.blob.files import THREADS, ChunkFiles, write_blob
from mesh.blob.manifest import CHUNK_BYTES, Buffer, Chunk, digest, name, parse
from mesh.core.errors import BlobCorrupt, BlobMissing, MeshError, QuotaExceeded
from tests.blob.brittle import BrittleDisk

DATA = b"some bytes"
CHUNK = Chunk(digest(DATA), len(DATA))


@pytest.fixture
def disk() -> BrittleDisk:
    return BrittleDisk()


@pytest.fixture
def files(tmp_path: Path, disk: BrittleDisk) -> ChunkFiles:
    return ChunkFiles(tmp_path, disk)


def settled(directory: Path, chunk: Chunk = CHUNK) -> Path:
    name = chunk.digest.hex()
    return directory / "chunks" / name[:2] / name


def arriving(directory: Path) -> list[str]:
    return sorted(os.listdir(directory / "arriving"))


def test_a_chunk_is_written_then_settled(files: ChunkFiles, tmp_path: Path, disk: BrittleDisk) -> None:
    assert not files.there(CHUNK)
    assert files.put(DATA) == CHUNK
    assert arriving(tmp_path) == [CHUNK.digest.hex()]
    assert files.there(CHUNK)
    assert not files.has(CHUNK)
    assert files.read(CHUNK) == DATA
    files.settle([CHUNK])
    assert arriving(tmp_path) == []
    assert files.has(CHUNK)
    assert files.there(CHUNK)
    assert files.read(CHUNK) == DATA
    assert disk.is_synced(settled(tmp_path))
    disk.cut_power(tmp_path)
    assert settled(tmp_path).read_bytes() == DATA
    files.settle([CHUNK, CHUNK])
    files.remove(CHUNK.digest)
    files.remove(CHUNK.digest)
    with pytest.raises(BlobMissing, match=CHUNK.digest.hex()[:12]):
        files.read(CHUNK)
    with pytest.raises(BlobMissing):
        files.settle([CHUNK])


def test_what_is_settled_is_not_written_again(files: ChunkFiles, tmp_path: Path) -> None:
    files.put(DATA)
    files.settle([CHUNK])
    before = settled(tmp_path).stat().st_ino
    files.put(DATA)
    files.write(CHUNK, DATA)
    assert arriving(tmp_path) == []
    files.settle([CHUNK])
    assert settled(tmp_path).stat().st_ino == before


def test_a_settled_file_that_was_cut_short_is_replaced(files: ChunkFiles, tmp_path: Path) -> None:
    files.put(DATA)
    files.settle([CHUNK])
    settled(tmp_path).write_bytes(DATA[:-1])
    assert not files.has(CHUNK)
    files.put(DATA)
    files.settle([CHUNK])
    assert files.read(CHUNK) == DATA


@pytest.mark.parametrize("data", [b"some bytez", DATA[:-1], DATA + b"s", b""])
def test_wrong_bytes_are_neither_written_nor_read(files: ChunkFiles, tmp_path: Path, data: bytes) -> None:
    with pytest.raises(BlobCorrupt, match="is damaged"):
        files.write(CHUNK, data)
    assert arriving(tmp_path) == []
    for path in (tmp_path / "arriving" / CHUNK.digest.hex(), settled(tmp_path)):
        path.write_bytes(data)
        with pytest.raises(BlobCorrupt, match="is damaged"):
            files.read(CHUNK)


def test_a_file_that_the_disk_cannot_read_is_damaged(files: ChunkFiles, tmp_path: Path) -> None:
    settled(tmp_path).mkdir()  # as good as any way to have open or read fail
    with pytest.raises(MeshError, match=r"cannot be used.*directory.*is its disk sound"):
        files.read(CHUNK)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("method", ["write", "rename", "sync"])
def test_a_disk_that_fails_is_said_so_and_leaves_nothing(
    files: ChunkFiles, disk: BrittleDisk, tmp_path: Path, code: int, method: str
) -> None:
    disk.fail[method] = code
    with pytest.raises(MeshError, match=str(tmp_path)) as caught:
        write_blob(files, [DATA])
    assert isinstance(caught.value, QuotaExceeded) == (code in (errno.ENOSPC, errno.EDQUOT))
    assert caught.value.why
    assert caught.value.hint
    assert not files.there(CHUNK), "after a failed sync another would succeed and mean nothing"
    assert arriving(tmp_path) == []
    disk.fail.clear()
    files.put(DATA)
    files.settle([CHUNK])
    assert files.read(CHUNK) == DATA


def test_names_are_durable_even_if_another_moved_the_files(
    files: ChunkFiles, disk: BrittleDisk, tmp_path: Path
) -> None:
    files.put(DATA)
    disk.sync(str(tmp_path / "arriving" / CHUNK.digest.hex()))
    disk.rename(str(tmp_path / "arriving" / CHUNK.digest.hex()), str(settled(tmp_path)))  # and was killed
    files.settle([CHUNK])
    disk.cut_power(tmp_path)
    assert files.has(CHUNK)


def test_a_chunk_written_again_while_it_settles_is_no_unsynced_file(
    files: ChunkFiles, disk: BrittleDisk, tmp_path: Path
) -> None:
    again = ChunkFiles(tmp_path, disk)

    def write_again(path: str) -> None:
        if "arriving" in path:
            again.put(DATA)

    files.put(DATA)
    disk.on_sync = write_again
    files.settle([CHUNK])
    assert disk.is_synced(settled(tmp_path))
    again.settle([CHUNK])
    assert disk.is_synced(settled(tmp_path))


def test_a_chunk_written_again_just_before_it_settles_does(
    files: ChunkFiles, disk: BrittleDisk, tmp_path: Path
) -> None:
    files.put(DATA)
    disk.links_missed = 2
    files.settle([CHUNK])
    assert files.has(CHUNK)
    assert disk.is_synced(settled(tmp_path))


def test_two_that_settle_one_chunk_leave_one_file(files: ChunkFiles, disk: BrittleDisk, tmp_path: Path) -> None:
    again = ChunkFiles(tmp_path, Disk())

    def settle_too(path: str) -> None:
        if "arriving" in path:
            again.settle([CHUNK])

    files.put(DATA)
    disk.on_sync = settle_too
    files.settle([CHUNK])
    assert files.read(CHUNK) == DATA
    assert arriving(tmp_path) == []


def test_a_chunk_that_settles_while_it_is_looked_for_is_found(files: ChunkFiles, tmp_path: Path) -> None:
    class SettledMeanwhile(ChunkFiles):
        def _arrival(self, digest: bytes) -> str:
            files.settle([CHUNK])
            return super()._arrival(digest)

    files.put(DATA)
    assert SettledMeanwhile(tmp_path).there(CHUNK)
    files.remove(CHUNK.digest)
    files.put(DATA)
    assert SettledMeanwhile(tmp_path).read(CHUNK) == DATA


def test_many_threads_write_and_settle_the_same_chunks(tmp_path: Path) -> None:
    parts = [bytes([n]) * 5000 for n in range(20)]
    chunks = [Chunk(digest(part), len(part)) for part in parts]
    gate = threading.Barrier(8)

    def work(n: int) -> None:
        files = ChunkFiles(tmp_path)  # as processes do
        gate.wait()
        for part in parts[n:] + parts[:n]:
            files.put(part)
        files.settle(chunks)
        for part, chunk in zip(parts, chunks, strict=True):
            assert files.read(chunk) == part

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    files = ChunkFiles(tmp_path)
    for part, chunk in zip(parts, chunks, strict=True):
        assert files.has(chunk)
        assert files.read(chunk) == part
    assert [name for name in arriving(tmp_path) if "." in name] == []


def test_listings_tell_chunks_from_what_others_began(files: ChunkFiles, tmp_path: Path) -> None:
    files.put(DATA)
    files.put(b"more")
    files.settle([CHUNK])
    other = tmp_path / "arriving" / f"{CHUNK.digest.hex()}.1-abcd-0"
    other.write_bytes(b"half")
    (tmp_path / "arriving" / f"{CHUNK.digest.hex()}{files._own}0").write_bytes(b"half")
    assert files.settled(CHUNK.digest[0]) == [CHUNK.digest]
    assert files.settled(CHUNK.digest[0] ^ 1) == []
    assert files.arrivals() == ([digest(b"more")], [other.name])
    files.discard(other.name)
    assert not other.exists()


# Whole blobs


def test_a_blob_is_cut_written_and_settled(files: ChunkFiles) -> None:
    segments: list[Buffer] = [b"head", bytes(range(256)) * 10_000, b"", memoryview(bytearray(b"tail"))]
    encoded = write_blob(files, segments)
    chunks = parse(encoded, name(encoded)).chunks
    assert [chunk.size for chunk in chunks] == [4, CHUNK_BYTES, CHUNK_BYTES, 2_560_000 - 2 * CHUNK_BYTES, 4]
    assert all(files.has(chunk) for chunk in chunks)
    assert b"".join(files.read(chunk) for chunk in chunks) == b"".join(segments)


def test_segments_are_taken_a_few_at_a_time(files: ChunkFiles, tmp_path: Path) -> None:
    ahead = []

    def segments() -> Iterator[bytes]:
        for n in range(100):
            yield b"%d" % n
            ahead.append(n - len(arriving(tmp_path)))

    write_blob(files, segments())
    assert max(ahead) <= 2 * THREADS + 1


def test_a_blob_that_cannot_be_written_is_said_so(files: ChunkFiles, disk: BrittleDisk) -> None:
    disk.fail["write"] = errno.ENOSPC
    with pytest.raises(QuotaExceeded):
        write_blob(files, [b"a", b"b"])
    disk.fail = {"sync": errno.EIO}
    with pytest.raises(MeshError):
        write_blob(files, [b"a", b"b"])
