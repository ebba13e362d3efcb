from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.blob.manifest import CHUNK_BYTES, MAGIC, Chunk, Manifest, cut, digest, is_name, manifest_of, name, parse
from mesh.core.errors import BlobCorrupt

ONE = Chunk(digest(b"one"), 3)
TWO = Chunk(digest(b"two two"), 7)

chunks = st.lists(st.builds(Chunk, st.binary(min_size=32, max_size=32), st.integers(1, CHUNK_BYTES)), max_size=8)


@given(chunks)
def test_a_manifest_is_read_as_it_was_written(listed: list[Chunk]) -> None:
    manifest = manifest_of(listed)
    encoded = manifest.encode()
    assert parse(encoded, name(encoded)) == manifest


@given(chunks, chunks)
def test_only_equal_lists_have_equal_names(one: list[Chunk], other: list[Chunk]) -> None:
    names = name(manifest_of(one).encode()), name(manifest_of(other).encode())
    assert (names[0] == names[1]) == (one == other)


@pytest.mark.parametrize(
    ("encoded", "says"),
    [
        (Manifest(11, (ONE, TWO)).encode(), "lies about sizes"),
        (Manifest(0, (Chunk(digest(b""), 0),)).encode(), "lies about sizes"),
        (Manifest(CHUNK_BYTES + 1, (Chunk(ONE.digest, CHUNK_BYTES + 1),)).encode(), "lies about sizes"),
        (Manifest(10, (ONE, TWO)).encode()[:-1], "cut short"),
        (Manifest(10, (ONE, TWO)).encode() + b"x", "cut short"),
        (MAGIC, "can read"),
        (b"", "can read"),
        (b"another thing that is long enough to hold a head", "can read"),
    ],
)
def test_no_wrong_manifest_is_read_even_under_its_own_name(encoded: bytes, says: str) -> None:
    with pytest.raises(BlobCorrupt, match=says):
        parse(encoded, name(encoded))


def test_a_manifest_of_another_blob_is_refused() -> None:
    with pytest.raises(BlobCorrupt, match="not its own"):
        parse(manifest_of([ONE]).encode(), name(manifest_of([TWO]).encode()))


def test_chunks_restart_at_each_segment() -> None:
    layer = bytes(CHUNK_BYTES + 5)
    assert [len(piece) for piece in cut([b"head", layer, b"", b"tail"])] == [4, CHUNK_BYTES, 5, 4]


def test_a_changed_segment_leaves_the_chunks_of_the_others_as_they_were() -> None:
    before = [digest(piece) for piece in cut([b"a" * 10, b"b" * 3_000_000, b"c" * 10])]
    after = [digest(piece) for piece in cut([b"a" * 11, b"b" * 3_000_000, b"c" * 10])]
    assert before[1:] == after[1:]


@pytest.mark.parametrize("text", ["", "0" * 63, "0" * 65, "G" * 64, "A" * 64, "../" + "0" * 61, "0" * 63 + "\n"])
def test_what_is_no_name(text: str) -> None:
    assert not is_name(text)
    assert is_name(name(manifest_of([ONE]).encode()))
