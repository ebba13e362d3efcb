from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.v1 import client_pb2 as pb
from mesh.wire.errors import WireError
from mesh.wire.parts import (
    CHUNK,
    MANIFEST,
    Piece,
    Progress,
    Stored,
    get_part,
    get_request,
    have_reply,
    put_part,
    read_get_part,
    read_get_request,
    read_have,
    read_put_part,
    read_stored,
    stored_reply,
)

pieces = st.builds(Piece, st.sampled_from([MANIFEST, CHUNK]), st.binary(min_size=1))


@given(pieces, st.integers(0, 100))
def test_what_is_put_arrives_as_it_was(piece: Piece, copies: int) -> None:
    read = read_put_part(put_part(piece, copies).SerializeToString())
    assert read == (piece, copies if piece.kind == MANIFEST else 0)


@given(pieces | st.builds(Progress, st.integers(0, 2**62), st.integers(0, 2**62)))
def test_what_is_got_arrives_as_it_was(part: Piece | Progress) -> None:
    assert read_get_part(pb.GetPart.FromString(get_part(part))) == part


@given(st.integers(0, 2**40 - 1))
def test_what_is_there_is_told_by_bits(have: int) -> None:
    assert read_have(pb.PutReply.FromString(have_reply(have, 40))) == have


@given(st.lists(st.text()), st.text())
def test_where_it_is_kept_is_told(nodes: list[str], why: str) -> None:
    stored = Stored(tuple(nodes), why)
    assert read_stored(pb.PutReply.FromString(stored_reply(stored))) == stored


def test_a_request_names_a_blob_and_where_to_begin() -> None:
    assert read_get_request(get_request("ab", 7).SerializeToString()) == ("ab", 7)


def test_bytes_that_are_no_part_are_refused() -> None:
    for read in (read_put_part, read_get_request):
        with pytest.raises(WireError):
            read(b"\xff\xff\xff")
    assert read_put_part(b"")[0].kind == ""
