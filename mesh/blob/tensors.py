"""Tensors of torch and arrays of NumPy: how each lies in a file, copied out of them and built again.

Neither library is imported before a state that needs it is restored, which only tasks and clients do: where torch was
not imported there is no tensor to save either. Complex numbers are stored as pairs of floats and everything else that
old readers of the layout do not know as bytes, so that they read all the rest.
"""

from __future__ import annotations

import ctypes
import importlib
import re
import sys
from collections.abc import Callable, Sequence
from math import prod
from mmap import mmap
from typing import Any, NamedTuple

from mesh.blob.layout import corrupt, whole

# torch's names of dtypes -> those of the layout; a complex number has two of it.
TORCH = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fnuz": "U8",
    "float8_e5m2fnuz": "U8",
    "float8_e8m0fnu": "U8",
    "complex32": "F16",
    "complex64": "F32",
    "complex128": "F64",
}
NUMPY = {
    "|b1": "BOOL",
    "|u1": "U8",
    "|i1": "I8",
    "<u2": "U16",
    "<i2": "I16",
    "<u4": "U32",
    "<i4": "I32",
    "<u8": "U64",
    "<i8": "I64",
    "<f2": "F16",
    "<f4": "F32",
    "<f8": "F64",
    "<c8": "F32",
    "<c16": "F64",
}
# Other byte orders, text, times: as bytes. Not longdouble, which is another type on another machine.
_BYTES = re.compile(r"[<>|](?:[iuf][248]|c8|c16|[SU][1-9][0-9]{0,8}|[mM]8(?:\[[0-9]{0,9}[a-zA-Z]{1,2}\])?)")
_SCALAR = re.compile(r"[<|](?:b1|[iuf][1248]|c8|c16|[mM]8(?:\[[0-9]{0,9}[a-zA-Z]{1,2}\])?)")

ELEMENTS = 1 << 60  # a view that repeats itself has any shape without taking memory; libraries count in 63 bits


class Source(NamedTuple):
    """A tensor or an array of the state: what it is, where in whose memory, and how it is stored."""

    kind: str  # torch, parameter or numpy
    dtype: str  # a name of TORCH, or NumPy's description
    grad: bool
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # bytes
    item: int  # bytes
    memory: tuple[str, str, int]  # equal for those that share it
    start: int  # in that memory, bytes
    end: int
    dense: bool  # row by row without gaps
    stored: tuple[str, tuple[int, ...]]  # dtype of the layout, shape
    copy: Callable[[mmap, int], None]  # into such memory from that byte on

    @property
    def size(self) -> int:
        return prod(self.shape) * self.item


def source(value: Any) -> Source | str | None:
    """None: it is neither a tensor nor an array. A text: it is one that cannot be saved, and why and what to do."""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and isinstance(value, torch.Tensor):
        return _tensor(torch, value)
    if numpy is not None and isinstance(value, numpy.ndarray):
        return _array(numpy, value)
    return None


def scalar(value: Any) -> tuple[str, str] | str | None:
    """Description and bytes of a NumPy scalar, which is a plain value; None and texts as of :func:`source`."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, numpy.generic):
        return None
    if not _SCALAR.fullmatch(value.dtype.str):
        return f"is a NumPy scalar of type {value.dtype}; save str(...), bytes(...) or float(...) of it"
    return value.dtype.str, value.tobytes().hex()


def load_scalar(dtype: str, text: str) -> object:
    if not _SCALAR.fullmatch(dtype):
        corrupt(f"a NumPy scalar of type {dtype!r:.80}")
    numpy = library("numpy", "NumPy scalars")
    try:
        (value,) = numpy.frombuffer(bytes.fromhex(text), dtype)
    except (ValueError, TypeError):
        corrupt(f"a NumPy scalar of type {dtype} of {len(text) // 2} bytes")
    return value


def _tensor(torch: Any, value: Any) -> Source | str:
    kind = {torch.Tensor: "torch", torch.nn.Parameter: "parameter"}.get(type(value), "")
    dtype = str(value.dtype).removeprefix("torch.")
    if not kind:
        return f"is a {type(value).__name__}, a kind of tensor; save a plain tensor of its values"
    if value.layout is not torch.strided:
        return f"is a tensor of layout {value.layout}; save its to_dense()"
    if value.device.type == "meta":
        return "is a tensor on the device meta, without values; give it values, or leave it out"
    if dtype not in TORCH:
        return f"is a tensor of dtype {dtype}; convert it to one of {', '.join(TORCH)}"
    tensor = value.detach().resolve_conj().resolve_neg()
    item, shape = tensor.element_size(), tuple(tensor.shape)
    strides = tuple(stride * item for stride in tensor.stride())
    start = tensor.storage_offset() * item

    def copy(memory: mmap, at: int) -> None:
        raw = torch.frombuffer(memory, dtype=torch.uint8, count=tensor.nbytes, offset=at)
        raw.view(tensor.dtype).view(shape).copy_(tensor)

    return Source(
        kind,
        dtype,
        value.requires_grad,
        shape,
        strides,
        item,
        ("torch", str(tensor.device), tensor.untyped_storage().data_ptr()),
        start,
        _end(start, shape, strides, item),
        tensor.is_contiguous(),
        (TORCH[dtype], (*shape, 2) if tensor.is_complex() else shape),
        copy,
    )


def _array(numpy: Any, value: Any) -> Source | str:
    dtype, item = value.dtype.str, value.dtype.itemsize
    if type(value) is not numpy.ndarray:
        return f"is a {type(value).__name__}, a kind of array; save numpy.array(...) of it"
    if dtype not in NUMPY and not _BYTES.fullmatch(dtype):
        return f"is an array of dtype {value.dtype}; convert it to numbers, or save it as a file"
    if dtype in NUMPY:
        stored = NUMPY[dtype], (*value.shape, 2) if value.dtype.kind == "c" else value.shape
    else:
        stored = "U8", (*value.shape, item)
    owner = value
    while isinstance(owner.base, numpy.ndarray):
        owner = owner.base
    origin = owner.__array_interface__["data"][0]
    start = value.__array_interface__["data"][0] - origin

    def copy(memory: mmap, at: int) -> None:
        numpy.copyto(numpy.ndarray(value.shape, value.dtype, buffer=memory, offset=at), value)

    return Source(
        "numpy",
        dtype,
        False,
        value.shape,
        value.strides,
        item,
        ("numpy", "", origin),
        start,
        _end(start, value.shape, value.strides, item),
        value.flags.c_contiguous,
        stored,
        copy,
    )


def _end(start: int, shape: Sequence[int], strides: Sequence[int], item: int) -> int:
    """Where the last item ends; for strides that go forward."""
    return start + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) + item


class Leaf(NamedTuple):
    """How a tensor or an array lies in one of a file's tensors. As JSON: an array of these."""

    kind: str
    segment: int  # by place in the file
    dtype: str
    grad: bool
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None  # bytes; None: row by row
    start: int  # bytes


def load_leaf(fields: object, segments: Sequence[int]) -> Leaf:
    """The leaf of these fields, which lies within its segment, whose sizes are given in bytes.

    Raises:
        BlobCorrupt: there is none.
    """
    if not isinstance(fields, list) or len(fields) != len(Leaf._fields):
        corrupt(f"{fields!r:.80} is no leaf")
    leaf = Leaf(*fields)
    strides = leaf.shape if leaf.strides is None else leaf.strides
    if not (
        isinstance(leaf.dtype, str)
        and isinstance(leaf.grad, bool)
        and isinstance(leaf.shape, list)
        and isinstance(strides, list)
        and len(strides) == len(leaf.shape) <= 64
        and all(map(whole, (leaf.segment, leaf.start, *leaf.shape, *strides)))
        and leaf.segment < len(segments)
        and prod(leaf.shape) < ELEMENTS
    ):
        corrupt(f"{fields!r:.80} is no leaf")
    known = leaf.dtype in NUMPY or _BYTES.fullmatch(leaf.dtype) if leaf.kind == "numpy" else leaf.dtype in TORCH
    if leaf.kind not in ("torch", "parameter", "numpy") or not known:
        corrupt(f"a leaf of the kind {leaf.kind!r:.20} and the dtype {leaf.dtype:.80}")
    return leaf._replace(
        shape=tuple(leaf.shape), strides=tuple(leaf.strides) if isinstance(leaf.strides, list) else None
    )


class Memory:
    """The memory of one tensor of a file, to be filled and then seen through its leaves."""

    def __init__(self, of: str, size: int) -> None:
        """``of``: torch or numpy, which must be installed."""
        self.of, self.size = of, size
        if of == "torch":
            self._torch = library("torch", "tensors")
            self._storage = self._torch.UntypedStorage(size, device="cpu")
        else:
            self._numpy = library("numpy", "arrays")
            self._base = self._numpy.empty(size, self._numpy.uint8)

    def view(self) -> memoryview:
        """Its bytes; not to be touched once this object and its tensors are gone."""
        if self.of == "numpy":
            return memoryview(self._base)
        return memoryview((ctypes.c_ubyte * self.size).from_address(self._storage.data_ptr())).cast("B")

    def see(self, leaf: Leaf) -> object:
        try:
            return self._as_tensor(leaf) if self.of == "torch" else self._as_array(leaf)
        except (ValueError, TypeError, RuntimeError, OverflowError) as error:
            return corrupt(f"{leaf.kind} of {leaf.dtype} and shape {leaf.shape}: {error}")

    def _as_tensor(self, leaf: Leaf) -> object:
        torch = self._torch
        dtype = getattr(torch, leaf.dtype, None)
        if dtype is None:
            raise ImportError(f"this state has tensors of {leaf.dtype}, which torch {torch.__version__} does not have")
        item = dtype.itemsize
        strides = self._strides(leaf, item)
        tensor = torch.empty(0, dtype=dtype, device="cpu")
        tensor.set_(self._storage, leaf.start // item, leaf.shape, [stride // item for stride in strides])
        if leaf.kind == "parameter":
            return torch.nn.Parameter(tensor, requires_grad=leaf.grad)
        return tensor.requires_grad_(leaf.grad)

    def _as_array(self, leaf: Leaf) -> object:
        dtype = self._numpy.dtype(leaf.dtype)
        strides = self._strides(leaf, dtype.itemsize)
        return self._numpy.ndarray(leaf.shape, dtype, buffer=self._base, offset=leaf.start, strides=strides)

    def _strides(self, leaf: Leaf, item: int) -> tuple[int, ...]:
        """In bytes, checked: nothing that the leaf shows lies outside of this memory."""
        rows = [item * prod(leaf.shape[n + 1 :]) for n in range(len(leaf.shape))]
        strides = tuple(rows) if leaf.strides is None else leaf.strides
        # torch counts in items and would enlarge what is too small.
        end = _end(leaf.start, leaf.shape, strides, item) if prod(leaf.shape) else leaf.start
        if end > self.size or any(part % item for part in (leaf.start, *strides)):
            corrupt(f"a leaf of shape {leaf.shape} from {leaf.start} on lies outside of {self.size} bytes")
        return strides


def library(name: str, what: str) -> Any:
    """torch or numpy, imported now if it was not.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"this state has {what}, and {name} cannot be imported here: {error}") from None


def without_torch(leaf: Leaf, name: str) -> Leaf:
    """The array that stands for a tensor where torch is not installed.

    Raises:
        ImportError: NumPy has no such dtype.
    """
    if leaf.kind == "numpy":
        return leaf
    layout = TORCH[leaf.dtype]
    wanted = ("c" if leaf.dtype.startswith("complex") else ""), layout
    for dtype, known in NUMPY.items():
        if ("c" if dtype[1] == "c" else "", known) == wanted and (layout != "U8" or leaf.dtype == "uint8"):
            return leaf._replace(kind="numpy", dtype=dtype, grad=False)
    raise ImportError(
        f"tensor {name} is of {leaf.dtype}, which NumPy does not have, and torch is not installed here; install torch"
    )
