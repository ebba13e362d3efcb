from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.blob.files import ChunkFiles, write_blob
from mesh.blob.manifest import name, parse
from mesh.blob.opened import Opened
from mesh.core.errors import BlobCorrupt

SEGMENTS = [b"head", b"x" * (1 << 20) + b"yz", b"", b"tail"]
WHOLE = b"".join(SEGMENTS)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    files = ChunkFiles(tmp_path_factory.mktemp("blobs"))
    manifest = write_blob(files, SEGMENTS)
    return Opened(files, parse(manifest, name(manifest)))


@given(st.integers(0, len(WHOLE)), st.integers(0, len(WHOLE)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_any_range_is_read_as_it_was_written(opened: Opened, one: int, other: int) -> None:
    start, end = sorted((one, other))
    into = bytearray(end - start)
    opened.read(start, memoryview(into))
    assert into == WHOLE[start:end]


@pytest.mark.parametrize(("offset", "size"), [(-1, 1), (len(WHOLE), 1), (0, len(WHOLE) + 1)])
def test_there_is_nothing_beyond(opened: Opened, offset: int, size: int) -> None:
    with pytest.raises(EOFError):
        opened.read(offset, memoryview(bytearray(size)))


def test_a_damaged_chunk_is_not_read(tmp_path: Path) -> None:
    files = ChunkFiles(tmp_path)
    manifest = write_blob(files, [b"head", b"tail"])
    (path,) = [path for path in (tmp_path / "chunks").rglob("*") if path.is_file() and path.read_bytes() == b"tail"]
    path.write_bytes(b"tale")
    found = Opened(files, parse(manifest, name(manifest)))
    found.read(0, memoryview(bytearray(4)))
    with pytest.raises(BlobCorrupt):
        found.read(2, memoryview(bytearray(4)))
