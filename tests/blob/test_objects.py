from __future__ import annotations

import pickle
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.blob.manifest import digest
from mesh.blob.objects import MAGIC, Ref, dump, load
from mesh.core.errors import BlobCorrupt

BLOB = "0f" * 32
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner),
)


def pickled(value: object, leave_out: Any) -> bytes:
    return pickle.dumps(value, 5, buffer_callback=leave_out)


def back(value: object) -> Any:
    return load(BLOB, bytearray(b"".join(dump(value, pickled))))


@given(VALUES)
def test_a_value_comes_back_as_it_was(value: object) -> None:
    assert back(value) == value


def test_arrays_are_segments_of_their_own_and_come_back_writable() -> None:
    arrays = {"w": np.arange(1000.0), "b": np.zeros((3, 0)), "f": np.asfortranarray(np.ones((4, 5)))}
    segments = dump(arrays, pickled)
    assert sorted(len(segment) for segment in segments[1:]) == [0, 160, 8000]
    found = back(arrays)
    assert all(np.array_equal(found[name], array) for name, array in arrays.items())
    found["w"][0] = 7


def test_an_array_that_did_not_change_is_the_same_segment() -> None:
    array = np.arange(1000.0)
    one, other = dump([array, 1], pickled), dump([array, 2], pickled)
    assert digest(one[1]) == digest(other[1])
    assert digest(one[0]) != digest(other[0])


GOOD = b"".join(dump([np.arange(10.0), "x"], pickled))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no object"),
        (MAGIC, "no object"),
        (b"x" + GOOD[1:], "no object"),
        (GOOD[:-1], "lies about sizes"),
        (GOOD + b"x", "lies about sizes"),
        (MAGIC + struct.pack(">IQ", 2**32 - 1, 1), "cut short"),
        (MAGIC + struct.pack(">IQ", 0, 2**63), "lies about sizes"),
    ],
)
def test_what_is_no_object_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(BlobCorrupt, match=says):
        load(BLOB, bytearray(data))


def test_a_ref_travels_and_is_told_from_other_tuples() -> None:
    ref = Ref(BLOB, 5)
    assert type(pickle.loads(pickle.dumps(ref))) is Ref
    assert repr(ref) == "Ref(0f0f0f0f0f0f, 5 bytes)"
