"""That a state comes back as it was, that readers of the layout read its tensors, and what is saved again is little."""

from __future__ import annotations

import json
import math
import random
import struct
import subprocess
import sys
import threading
from collections import Counter, OrderedDict, namedtuple
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mesh.blob.manifest import CHUNK_BYTES, cut, digest
from mesh.blob.states import restore, snapshot
from mesh.blob.tensors import NUMPY, TORCH
from mesh.core.errors import QuotaExceeded
from tests.blob.states_alike import again, alike, read, written

# --- round trips -----------------------------------------------------------------------------------------------------

NANS = [struct.unpack(">d", bytes.fromhex(bits))[0] for bits in ("7ff8000000000001", "fff8000000000000")]

keys = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=3,
)
numbers = st.integers() | st.floats() | st.sampled_from(NANS) | st.integers(1 << 62, 1 << 70)
text = st.text(st.characters())  # lone surrogates too: file names have them
plain = st.none() | st.booleans() | numbers | text | st.binary()
numeric = arrays.boolean_dtypes() | arrays.integer_dtypes(endianness="?") | arrays.floating_dtypes(endianness="?")
other = arrays.complex_number_dtypes(endianness="?") | arrays.datetime64_dtypes() | arrays.unicode_string_dtypes()
dtypes = (numeric | other | arrays.byte_string_dtypes()).filter(
    lambda dtype: dtype.itemsize <= 16 or dtype.kind in "SU"
)
shapes = arrays.array_shapes(min_dims=0, min_side=0, max_dims=3, max_side=4)
arrayed = arrays.arrays(dtypes.filter(lambda dtype: dtype.kind not in "fc" or dtype.str[2:] != "16"), shapes)


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    dtype = getattr(torch, draw(st.sampled_from(sorted(TORCH))))
    shape = draw(shapes)
    items = math.prod(shape) * dtype.itemsize
    raw = bytearray(draw(st.binary(min_size=items, max_size=items)))
    if dtype is torch.bool:
        raw = bytearray(byte & 1 for byte in raw)
    tensor = (torch.frombuffer(raw, dtype=torch.uint8) if items else torch.empty(0, dtype=torch.uint8)).view(dtype)
    tensor = tensor.view(shape)
    if dtype.is_floating_point and draw(st.booleans()):
        tensor = torch.nn.Parameter(tensor) if draw(st.booleans()) else tensor.requires_grad_()
    return tensor


states = st.recursive(
    plain | arrayed | tensors(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=4).map(OrderedDict)
        | st.dictionaries(keys, st.integers(), max_size=4).map(Counter)
    ),
    max_leaves=8,
)


@given(states)
def test_a_state_comes_back_to_the_bit(state: object) -> None:
    assert alike(again(state), state)


@given(states)
def test_equal_states_are_equal_bytes(state: object) -> None:
    blob = written(state)
    assert written(state) == blob
    assert written(read(blob)) == blob


@given(st.sampled_from("?bBhHiIlLefdFD"), st.binary(min_size=16, max_size=16))
def test_numpy_scalars_come_back_to_the_bit(code: str, raw: bytes) -> None:
    raw = bytes([raw[0] & 1]) if code == "?" else raw
    (value,) = np.frombuffer(raw[: np.dtype(code).itemsize], code)
    assert alike(again([value, value, np.datetime64("2031-01-01")])[0], value)


@pytest.mark.parametrize("dtype", sorted(NUMPY))
def test_every_dtype_of_numpy_and_any_order_in_memory(dtype: str) -> None:
    whole = np.arange(24).astype(dtype).reshape(2, 3, 4)
    for array in (whole, whole.T, whole[:, ::2], whole[::-1], np.asfortranarray(whole), whole[0, 0, 0:0], whole[0, 0]):
        assert alike(again({"a": array})["a"], array)


@pytest.mark.parametrize("dtype", sorted(TORCH))
def test_every_dtype_of_torch_and_any_order_in_memory(dtype: str) -> None:
    raw = torch.arange(24 * getattr(torch, dtype).itemsize, dtype=torch.uint8) % (2 if dtype == "bool" else 251)
    whole = raw.view(getattr(torch, dtype)).view(2, 3, 4)
    for tensor in (whole, whole.permute(2, 0, 1), whole[:, :, ::2], whole[0, 0, 0], whole[:0]):
        back = again({"a": tensor})["a"]
        assert back.shape == tensor.shape
        assert alike(back, tensor.contiguous())


def test_lazy_conjugates_and_results_of_operations_are_values() -> None:
    numbers = torch.tensor([1 + 2j, 3 - 4j])
    weight = torch.ones(3, requires_grad=True)
    back = again({"plain": numbers, "conj": numbers.conj(), "imag": numbers.conj().imag, "sum": weight * 2})
    assert torch.equal(back["plain"], numbers)
    assert torch.equal(back["conj"], numbers.conj())
    assert torch.equal(back["imag"], numbers.conj().imag)
    assert back["sum"].tolist() == [2, 2, 2]
    assert back["sum"].requires_grad
    assert back["sum"].is_leaf


@pytest.mark.parametrize("state", [torch.arange(3), np.arange(3), {}, [], 0, None, "", ()])
def test_a_state_may_be_anything_at_all(state: object) -> None:
    assert alike(again(state), state)


def test_integers_of_any_size() -> None:
    assert again([10**5000, -(10**5000), 1 << 63, -(1 << 63)]) == [10**5000, -(10**5000), 1 << 63, -(1 << 63)]


# --- what training saves ---------------------------------------------------------------------------------------------


def model() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1)
    )


class Training:
    def __init__(self) -> None:
        self.model = model()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01, amsgrad=True)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 10)
        self.numpy, self.step = np.random.default_rng(3), 0

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "rng": (random.getstate(), np.random.get_state(), self.numpy.bit_generator.state, torch.get_rng_state()),
            "step": self.step,
        }

    def load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        random.setstate(state["rng"][0])
        np.random.set_state(state["rng"][1])
        self.numpy.bit_generator.state = state["rng"][2]
        torch.set_rng_state(state["rng"][3])
        self.step = state["step"]

    def train(self, steps: int) -> None:
        for _ in range(steps):
            noise = float(self.numpy.normal()) + random.random() + float(np.random.rand())
            loss = (self.model(torch.randn(16, 4)) - noise).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()
            self.step += 1


def test_training_goes_on_from_a_state_to_the_bit() -> None:
    first = Training()
    first.train(5)
    saved = snapshot(first.state())
    blob = b"".join(saved.segments())
    first.train(5)  # whatever it changes is not in the snapshot
    assert b"".join(saved.segments()) == blob
    second = Training()
    second.train(1)
    second.load(read(blob))
    second.train(5)
    assert alike(second.state(), first.state())


SCHEDULERS: dict[str, Any] = {
    "multistep": lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [2, 4]),  # has a Counter
    "onecycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=10),
    "plateau": torch.optim.lr_scheduler.ReduceLROnPlateau,
    "lambda": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
    "sequence": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o, [torch.optim.lr_scheduler.ConstantLR(o), torch.optim.lr_scheduler.ExponentialLR(o, 0.9)], [2]
    ),
    "cyclic": lambda o: torch.optim.lr_scheduler.CyclicLR(o, 0.1, 0.2),
    "scaler": lambda _: torch.amp.GradScaler("cpu", init_scale=4.0),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_and_scalers(name: str) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1, momentum=0.9)
    state = SCHEDULERS[name](optimizer).state_dict()
    assert state
    assert alike(again(state), state)


@pytest.mark.parametrize("generator", ["MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"])
def test_numpys_generators(generator: str) -> None:
    bits = getattr(np.random, generator)(5)
    np.random.Generator(bits).normal(size=3)
    other = getattr(np.random, generator)(6)
    other.state = again(bits.state)
    assert np.array_equal(np.random.Generator(bits).normal(size=9), np.random.Generator(other).normal(size=9))


def test_a_modules_versions_come_back() -> None:
    state = model().state_dict()
    assert again(state)._metadata == state._metadata  # type: ignore[attr-defined]  # torch keeps it there
    assert state._metadata["1"] == {"version": 2}  # type: ignore[attr-defined]


# --- shared memory ---------------------------------------------------------------------------------------------------


def test_tied_weights_are_stored_once_and_tied_again() -> None:
    weight = torch.nn.Parameter(torch.rand(300, 100))
    state = {"in": weight, "out": weight, "data": weight.data, "turned": weight.data.T, "row": weight.data[7]}
    blob = written(state)
    assert len(blob) < weight.nbytes * 1.05
    back = read(blob)
    assert back["in"] is back["out"]
    with torch.no_grad():
        back["in"].fill_(3)
    assert all(bool((tensor == 3).all()) for tensor in back.values())
    assert back["turned"].shape == (100, 300)


def test_arrays_that_share_memory_do_so_again() -> None:
    whole = np.arange(10_000.0)
    back = again({"middle": whole[100:200], "whole": whole, "odd": whole[1::2]})
    assert len(written({"a": whole, "b": whole[100:200]})) < whole.nbytes * 1.05
    back["whole"][:] = 5
    assert set(back["middle"]) == set(back["odd"]) == {5.0}


def test_a_small_view_does_not_drag_what_it_was_cut_from() -> None:
    whole = torch.rand(1_000_000)
    assert len(written([whole[5], whole[10:20:3]])) < 2000


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(1, 3)), min_size=1, max_size=6))
@example([(0, 3, 1), (0, 6, 2)])  # one start, one shape
def test_views_of_any_kind_show_what_they_showed(cuts: list[tuple[int, int, int]]) -> None:
    whole, line = torch.arange(30.0), np.arange(30)[::-1]
    state = [(whole[start:end:step], line[start:end:step]) for start, end, step in cuts]
    for (tensor, array), (was, were) in zip(again(state), state, strict=True):
        assert torch.equal(tensor, was)
        assert np.array_equal(array, were)


# --- other readers ---------------------------------------------------------------------------------------------------

NAMED: dict[str, Any] = {
    "model": {"w": torch.rand(3, 5), "b": torch.arange(7, dtype=torch.bfloat16)},
    "model.w": torch.ones(2, dtype=torch.float64),
    "steps": [torch.tensor(4), np.arange(3, dtype=np.uint8), torch.tensor([1 + 2j])],
    "__metadata__": torch.tensor([True]),
    "\ud800": torch.zeros(0, 4),
    "fp8": torch.ones(3).to(torch.float8_e4m3fn),
    "odd fp8": torch.ones(3).to(torch.float8_e5m2fnuz),
    "tied": None,
}
NAMED["tied"] = NAMED["model"]["w"]


def test_whoever_reads_safetensors_reads_the_tensors() -> None:
    found = safetensors.torch.load(written(NAMED))
    assert found.keys() == {
        "model.w",
        "model.w#2",
        "model.b",
        "steps.0",
        "steps.1",
        "steps.2",
        "__metadata__#2",
        "?",
        "fp8",
        "odd fp8",
    }
    assert torch.equal(found["model.w"], NAMED["model"]["w"])
    assert torch.equal(found["model.w#2"], NAMED["model.w"])
    assert torch.equal(found["model.b"], NAMED["model"]["b"])
    assert found["steps.2"].tolist() == [[1, 2]]
    assert found["fp8"].dtype == torch.float8_e4m3fn


@given(states)
@example(NAMED)  # items of every size
def test_the_layout_is_as_its_rules_say(state: object) -> None:
    blob = written(state)
    safetensors.deserialize(blob)  # type: ignore[no-untyped-call]
    (length,) = struct.unpack("<Q", blob[:8])
    header = json.loads(blob[8 : 8 + length])
    assert length % 8 == 0
    assert all(isinstance(value, str) for value in header.pop("__metadata__").values())
    at = 0
    for entry in header.values():
        start, end = entry["data_offsets"]
        item = int(entry["dtype"].lstrip("BIUF").split("_")[0] or 8) // 8 if entry["dtype"] != "BOOL" else 1
        assert start == at
        assert start % item == 0
        assert end - start == math.prod(entry["shape"]) * item
        at = end
    assert len(blob) == 8 + length + at


# --- saved again -----------------------------------------------------------------------------------------------------


def chunks(state: object) -> list[bytes]:
    return [digest(piece) for piece in cut(snapshot(state).segments())]


def test_what_did_not_change_is_the_same_chunks_again() -> None:
    layer, head = torch.rand(CHUNK_BYTES // 2), torch.rand(CHUNK_BYTES // 8)
    before = chunks({"step": 9, "loss": np.float32(0.5), "layer": layer, "head": head})
    assert len(before) == 1 + 2 + 1
    after = chunks({"step": 10, "loss": np.float32(0.25), "layer": layer, "head": head})
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, True, True, True]
    head[0] += 1
    changed = chunks({"step": 10**30, "loss": math.nan, "layer": layer, "head": head, "more": [1] * 1000})
    assert [a == b for a, b in zip(before, changed, strict=True)] == [False, True, True, False]


# --- the snapshot's memory -------------------------------------------------------------------------------------------


def test_memory_is_used_again() -> None:
    first = snapshot({"a": torch.zeros(1000)})
    view = memoryview(list(first.segments())[1])  # a reader that should not read any more sees what came after
    second = snapshot({"a": torch.full((900,), 7.0)}, first)
    assert bytes(view[:3600]) == bytes(list(second.segments())[1])
    assert alike(read(b"".join(second.segments())), {"a": torch.full((900,), 7.0)})
    with pytest.raises(ValueError, match="given to another"):
        list(first.segments())
    with pytest.raises(ValueError, match="given to another"):
        snapshot({}, first)
    larger = torch.rand(5000)
    assert torch.equal(read(b"".join(snapshot(larger, second).segments())), larger)


def test_a_state_that_is_refused_leaves_the_spare_as_it_was() -> None:
    spare = snapshot(torch.ones(3))
    with pytest.raises(TypeError):
        snapshot({"a": torch.zeros(3), "b": object()}, spare)
    assert torch.equal(read(b"".join(spare.segments())), torch.ones(3))


def test_the_size_is_known_before_it_is_read() -> None:
    saved = snapshot(NAMED)
    assert saved.size == len(b"".join(saved.segments()))


# --- what a state cannot hold ----------------------------------------------------------------------------------------

Point = namedtuple("Point", "x y")


class Weird(torch.Tensor):
    pass


def loop() -> list[Any]:
    state: list[Any] = []
    state.append(state)
    return state


REFUSED = [
    (len, "is a builtin_function_or_method; convert it"),
    ({1, 2}, r"is a set; save sorted\(...\)"),
    (Point(1, 2), r"is the named tuple Point; save its _asdict\(\)"),
    (1j, "is a complex; save its real"),
    (np.str_("x"), "is a NumPy scalar of type <U1; save str"),
    (np.array([None]), "is an array of dtype object"),
    (np.zeros(1, [("a", "f4")]), "is an array of dtype"),
    (np.ma.masked_array([1], [True]), "is a MaskedArray"),
    (torch.eye(2).to_sparse(), r"layout torch.sparse_coo; save its to_dense\(\)"),
    (torch.empty(2, device="meta"), "on the device meta"),
    (torch.empty(2, dtype=torch.bits8), "dtype bits8; convert"),
    (torch.ones(2).as_subclass(Weird), "is a Weird, a kind of tensor"),
    (torch.float32, "is a dtype; save str"),
    (torch.Size([1]), "is a Size; save tuple"),
    (torch.nn.Linear(1, 1), r"is a Module; save its state_dict\(\)"),
    (torch.Generator(), r"is a Generator; save its get_state\(\)"),
    ({torch.float32: 1}, "has the key torch.float32, is a dtype; make keys"),
    (threading.Lock(), "is a lock; convert it"),
    (loop(), "contain itself"),
]
if np.dtype(np.longdouble).itemsize > 8:  # on some machines it is a float64
    REFUSED += [(np.longdouble(1), "is a NumPy scalar of type"), (np.ones(1, np.longdouble), "is an array of dtype")]


@pytest.mark.parametrize(("value", "says"), REFUSED, ids=[says for _, says in REFUSED])
def test_what_cannot_be_saved_is_named_with_what_to_do(value: object, says: str) -> None:
    with pytest.raises(TypeError, match=says) as raised:
        snapshot({"model": [1, {2: value}]})
    assert "state['model'][1][2]" in str(raised.value)


def test_all_of_it_is_named_at_once() -> None:
    state = {"model": {"hook": again, "w": torch.ones(2)}, "seen": {3}, "more": (1, [object()])}
    with pytest.raises(TypeError) as raised:
        snapshot(state)
    assert str(raised.value).splitlines() == [
        "3 of its values cannot be saved:",
        "state['model']['hook'] is a function; convert it to numbers, text or tensors, or save it as a file",
        "state['seen'] is a set; save sorted(...) of it",
        "state['more'][1][0] is an object; convert it to numbers, text or tensors, or save it as a file",
    ]


def test_more_values_than_a_header_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.blob.layout.HEADER_BYTES", 1000)
    with pytest.raises(QuotaExceeded, match="make long lists"):
        snapshot({"log": bytes(1000)})


# --- without the libraries -------------------------------------------------------------------------------------------


def test_nothing_imports_torch_or_numpy_for_a_state_without_them() -> None:
    code = (
        "import sys\n"
        "from mesh.blob.states import restore, snapshot\n"
        "blob = b''.join(snapshot({'a': [1, 2.5, b'x', (None,)]}).segments())\n"
        "def read(offset, buffer): buffer[:] = blob[offset:offset + len(buffer)]\n"
        "assert restore(len(blob), read) == {'a': [1, 2.5, b'x', (None,)]}\n"
        "assert not {'torch', 'numpy'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tensors_come_back_as_arrays_where_torch_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.rand(4, 3, requires_grad=True)
    blob = written({"w": weight, "turned": weight.detach().T, "c": torch.tensor([1j]), "u": torch.arange(3).byte()})
    monkeypatch.setitem(sys.modules, "torch", None)
    back = read(blob)
    assert np.array_equal(back["w"], weight.detach().numpy())
    assert np.array_equal(back["turned"], weight.detach().numpy().T)
    assert back["c"].tolist() == [1j]
    assert back["u"].dtype == np.uint8


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float8_e8m0fnu", "complex32"])
def test_a_dtype_that_numpy_lacks_needs_torch(monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    blob = written({"w": torch.empty(2, dtype=getattr(torch, dtype))})
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=f"tensor w is of {dtype}.*install torch"):
        read(blob)


def test_arrays_need_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    blob = written({"a": np.ones(2)})
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(ImportError, match="this state has arrays, and numpy cannot be imported"):
        read(blob)


def test_a_reader_that_fails_is_heard() -> None:
    def fails(offset: int, buffer: memoryview) -> None:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        restore(1000, fails)
