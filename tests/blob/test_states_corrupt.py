"""Blobs that are no state, by accident or on purpose: each is refused with its reason, before it costs memory."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mesh.blob.states import FORMAT, restore
from mesh.core.errors import BlobCorrupt
from tests.blob.states_alike import read, written

GOOD: dict[str, Any] = {
    "w": torch.arange(6, dtype=torch.float32).view(2, 3),
    "row": np.arange(4.0),
    "n": np.int64(3),
    "s": (1, b"x"),
}
GOOD["tied"] = GOOD["w"]
W = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
LEAF = ["torch", 0, "float32", False, [2, 3], None, 0]


def blob(header: object, data: bytes = bytes(24)) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def state(value: object = None, leaves: object = None, content: object = None, **tensors: Any) -> dict[str, Any]:
    """The header of a state; left out: that of one tensor, w, which is all of the state."""
    made = {"leaves": [LEAF] if leaves is None else leaves, "value": {"x": 0} if value is None else value}
    text = content if isinstance(content, str) else json.dumps(made if content is None else content)
    return {"__metadata__": {"format": FORMAT, "state": text}, **(tensors or {"w": W})}


def bare(value: str) -> bytes:
    """A state without tensors."""
    content = f'{{"leaves": [], "value": {value}}}'
    return blob({"__metadata__": {"format": FORMAT, "state": content}}, b"")


def leaf(**fields: Any) -> list[list[Any]]:
    made = dict(zip(("kind", "segment", "dtype", "grad", "shape", "strides", "start"), LEAF, strict=True))
    return [list({**made, **fields}.values())]


def test_what_the_helpers_make_is_a_state() -> None:
    assert torch.equal(read(blob(state(), np.arange(6, dtype="f4").tobytes())), GOOD["w"])
    assert read(bare("[1]")) == [1]
    assert read(blob(state({"d": ["a", {"x": 0}]}, leaf(shape=[3], strides=[8])), bytes(24)))["a"].tolist() == [0, 0, 0]


LAYOUT = {
    "nothing": (b"", "0 bytes are too few"),
    "half a length": (b"\x02\0\0", "3 bytes are too few"),
    "no header": (struct.pack("<Q", 0) + b"{}", "a header of 0 bytes"),
    "a huge header": (struct.pack("<Q", 1 << 63) + bytes(100), "a header of 9223372036854775808 bytes"),
    "a header longer than the blob": (struct.pack("<Q", 93) + bytes(92), "a header of 93 bytes in a blob of 100"),
    "no JSON": (blob(b"{'a'}   "), "the header: "),
    "no text": (blob(b'{"\xff": 1}'), "the header: "),
    "not an object": (blob(b"[1]"), "the header is no JSON object"),
    "nested deeply": (blob(b"[" * 100_000), "the header: "),
    "a long number": (blob(b'{"w": ' + b"9" * 5000 + b"}"), "the header: "),
    "a name twice": (blob(b'{"w": {}, "w": {}}'), "a name occurs twice"),
    "NaN": (blob(b'{"w": NaN}'), "NaN is no JSON"),
    "metadata of numbers": (blob({"__metadata__": {"format": 1}}), "__metadata__ is not made of strings"),
    "metadata as a list": (blob({"__metadata__": ["format"]}), "__metadata__ is not made of strings"),
    "a field missing": (blob({"w": {"dtype": "F32", "shape": [6]}}), "not described by dtype"),
    "a tensor of nothing": (blob({"w": None}), "not described by dtype"),
    "an unknown dtype": (blob(state(w=W | {"dtype": "F31"})), "unknown dtype 'F31'"),
    "a dtype of lists": (blob(state(w=W | {"dtype": ["F32"]})), "unknown dtype"),
    "a negative side": (blob(state(w=W | {"shape": [-2, -3]})), "shape"),
    "a side of truth": (blob(state(w=W | {"shape": [True, 6]})), "shape"),
    "a shape of text": (blob(state(w=W | {"shape": "6"})), "shape"),
    "a shape larger than its bytes": (blob(state(w=W | {"shape": [1 << 40, 1 << 40]})), "of 4835703278458516698824704"),
    "one offset": (blob(state(w=W | {"data_offsets": [24]})), "lies at"),
    "negative offsets": (blob(state(w=W | {"data_offsets": [-24, 0]})), "lies at"),
    "turned offsets": (blob(state(w=W | {"data_offsets": [24, 0]})), "lies from 24 to 0"),
    "outside": (blob(state(w=W | {"data_offsets": [24, 48]})), "lies from 24 to 48"),
    "a gap": (
        blob(state(w=W, v=W | {"data_offsets": [28, 52]}), bytes(52)),
        "lies from 28 to 52, the one before to 24",
    ),
    "overlapping": (blob(state(w=W, v=W | {"data_offsets": [20, 44]}), bytes(44)), "lies from 20 to 44"),
    "the same bytes twice": (blob(state(w=W, v=W)), "lies from 0 to 24, the one before to 24"),
    "bytes missing": (blob(state(), bytes(23)), "the tensors end at 24 of 23 bytes"),
    "bytes left over": (blob(state(), bytes(25)), "the tensors end at 24 of 25 bytes"),
}
CONTENT = {
    "another's file": (blob({"__metadata__": {"format": "pt"}, "w": W}), "it is no state"),
    "a file without metadata": (blob({"w": W}), "it is no state"),
    "no content": (blob({"__metadata__": {"format": FORMAT}}, b""), "the state in the header"),
    "no fields": (blob(state(content={"value": 1})), "no leaves and value"),
    "content twice": (blob(state(content='{"leaves": [], "leaves": [], "value": 1}')), "a name occurs twice"),
    "content nested deeply": (blob(state(content="[" * 100_000)), "the state in the header"),
    "values nested deeply": (bare("[" * 3000 + "]" * 3000), "nested too deeply|the state in the header"),
    "leaves of no list": (blob(state(leaves={})), "the leaves are no list"),
    "a leaf of no list": (blob(state(leaves=[1])), "is no leaf"),
    "a leaf too short": (blob(state(leaves=[LEAF[:-1]])), "is no leaf"),
    "a leaf of another kind": (blob(state(leaves=leaf(kind="os"))), "the kind 'os'"),
    "a leaf of lists": (blob(state(leaves=leaf(kind=["torch"]))), "the kind"),
    "a leaf of no dtype": (blob(state(leaves=leaf(dtype="Tensor"))), "the dtype Tensor"),
    "an array of objects": (blob(state(leaves=leaf(kind="numpy", dtype="|O8"))), "the dtype |O8"),
    "an array of fields": (blob(state(leaves=leaf(kind="numpy", dtype="<f4,<f4"))), "the dtype <f4,<f4"),
    "an array of no times": (blob(state(leaves=leaf(kind="numpy", dtype="<M8[zz]", shape=[3]))), "numpy of <M8"),
    "truth that is a number": (blob(state(leaves=leaf(grad=1))), "is no leaf"),
    "gradients of whole numbers": (blob(state(leaves=leaf(dtype="int32", grad=True))), "torch of int32"),
    "a segment that is not there": (blob(state(leaves=leaf(segment=1))), "is no leaf"),
    "a negative segment": (blob(state(leaves=leaf(segment=-1))), "is no leaf"),
    "a leaf before its segment": (blob(state(leaves=leaf(start=-4))), "is no leaf"),
    "a leaf behind its segment": (blob(state(leaves=leaf(start=4))), "outside of 24 bytes"),
    "a leaf off its items": (blob(state(leaves=leaf(start=2, shape=[2]))), "outside of 24 bytes"),
    "a leaf larger than its segment": (blob(state(leaves=leaf(shape=[7]))), "outside of 24 bytes"),
    "items larger than the segment's": (blob(state(leaves=leaf(dtype="float64"))), "outside of 24 bytes"),
    "a side below zero": (blob(state(leaves=leaf(shape=[-1, 3]))), "is no leaf"),
    "strides too long": (blob(state(leaves=leaf(strides=[16, 4]))), "outside of 24 bytes"),
    "strides backwards": (blob(state(leaves=leaf(strides=[-12, 4]))), "is no leaf"),
    "strides of halves": (blob(state(leaves=leaf(strides=[10, 2]))), "outside of 24 bytes"),
    "too few strides": (blob(state(leaves=leaf(strides=[4]))), "is no leaf"),
    "sides without end": (blob(state(leaves=leaf(shape=[1 << 62], strides=[0]))), "is no leaf"),
    "too many sides": (blob(state(leaves=leaf(shape=[1] * 65))), "is no leaf"),
    "a tensor of nobody": (blob(state({"t": []}, [])), "a tensor is nowhere in the state"),
    "torch's and NumPy's": (
        blob(state([{"x": 0}, {"x": 1}], [LEAF, *leaf(kind="numpy", dtype="<f4")])),
        "torch's and NumPy's",
    ),
    "a leaf of nobody": (blob(state({"x": 0}, [LEAF, LEAF])), "1 of 2 leaves are nowhere"),
    "a leaf that is not there": (blob(state([{"x": 0}, {"x": 1}])), "leaf 1 of 1"),
    "a leaf below zero": (blob(state([{"x": 0}, {"x": -1}])), "is no value"),
    "a leaf as a key": (blob(state({"d": [{"x": 0}, 1]})), "leaf 0 is a key"),
    "a list as a key": (blob(state({"d": [[], {"x": 0}]})), "is no key"),
    "a list in a key": (blob(state({"d": [{"t": [[]]}, {"x": 0}]})), "is no key"),
    "a key twice": (blob(state({"d": [1, {"x": 0}, True, 2]})), "a key twice"),
    "a key alone": (blob(state({"d": [1, {"x": 0}, 2]})), "a key without a value"),
    "an unknown tag": (blob(state({"__reduce__": ["os.system", "x"]})), "is no value"),
    "two tags": (blob(state({"t": [], "x": 0})), "is no value"),
    "no tag": (blob(state([{"x": 0}, {}])), "is no value"),
    "a dict of an object": (blob(state({"d": {"a": {"x": 0}}})), "is no value"),
    "an ordered dict of nothing": (blob(state([{"x": 0}, {"o": []}])), "is no value"),
    "an ordered dict of three": (blob(state([{"x": 0}, {"o": [[], 1, 2]}])), "is no value"),
    "no base64": (blob(state([{"x": 0}, {"b": "a*="}])), "is no b"),
    "no hexadecimal": (blob(state([{"x": 0}, {"i": "0xzz"}])), "is no i"),
    "a float too short": (blob(state([{"x": 0}, {"f": "7ff8"}])), "is no f"),
    "a number too large": (bare("1e999"), "a number is too large"),
    "a scalar of objects": (blob(state([{"x": 0}, {"x": 1}], [LEAF, ["|O8", "00" * 8]])), "a NumPy scalar of type"),
    "a scalar of two": (blob(state([{"x": 0}, {"x": 1}], [LEAF, ["<f4", "00" * 8]])), "a NumPy scalar of type <f4 of"),
    "a scalar too short": (blob(state([{"x": 0}, {"x": 1}], [LEAF, ["<f4", "00"]])), "a NumPy scalar of type <f4 of"),
    "a scalar of no bytes": (blob(state([{"x": 0}, {"x": 1}], [LEAF, ["<f4", "zz"]])), "a NumPy scalar of type <f4 of"),
    "a scalar of no time": (blob(state([{"x": 0}, {"x": 1}], [LEAF, ["<M8[zz]", "00" * 8]])), "a NumPy scalar of"),
}


@pytest.mark.parametrize("case", [*LAYOUT, *CONTENT])
def test_it_is_refused_with_its_reason(case: str) -> None:
    bad, says = {**LAYOUT, **CONTENT}[case]
    with pytest.raises(BlobCorrupt) as raised:
        read(bad)
    assert raised.value.what == "this blob holds no state that can be read"
    assert any(part in raised.value.why for part in says.split("|"))


@pytest.mark.parametrize("case", LAYOUT)
def test_a_wrong_layout_costs_no_tensors(case: str) -> None:
    bad, _ = LAYOUT[case]
    asked = []

    def reader(offset: int, buffer: memoryview) -> None:
        asked.append(len(buffer))
        buffer[:] = bad[offset : offset + len(buffer)]

    with pytest.raises(BlobCorrupt):
        restore(len(bad), reader)
    assert sum(asked) <= len(bad)


@given(st.data())
def test_one_wrong_byte_is_refused_or_is_another_state(data: st.DataObject) -> None:
    good = bytearray(written(GOOD))
    place = data.draw(st.integers(0, len(good) - 1))
    good[place] ^= data.draw(st.integers(1, 255))
    try:
        read(bytes(good))
    except BlobCorrupt:
        pass


@given(st.integers(0, len(written(GOOD)) - 1))
def test_a_state_cut_short_is_refused(end: int) -> None:
    with pytest.raises(BlobCorrupt):
        read(written(GOOD)[:end])


def tagged(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(st.sampled_from("ifbtdocx"), inner | st.lists(inner, max_size=4), max_size=2)


@given(
    st.recursive(st.none() | st.integers() | st.text() | st.booleans(), lambda inner: st.lists(inner) | tagged(inner))
)
def test_any_json_is_refused_or_is_a_state(value: object) -> None:
    try:
        read(blob(state([{"x": 0}, value])))
    except BlobCorrupt:
        pass
