"""The safetensors layout: where each tensor of a file lies. Knows bytes and shapes, neither torch nor NumPy nor states.

Eight bytes of header length (unsigned, little endian); the header, one JSON object that maps each tensor's name to its
dtype, shape and offsets in what follows, and ``__metadata__`` to strings, padded with spaces to a multiple of 8; the
tensors' bytes, row by row, little endian, without a gap. The largest items come first, so each lies at a multiple of
its items' size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple, NoReturn

from mesh.core.errors import BlobCorrupt, QuotaExceeded

# What the reference reader takes.
HEADER_BYTES = 100_000_000
LENGTH_BYTES = 8
METADATA = "__metadata__"

# Only what readers have known since 0.4: one dtype that a reader does not know, and it refuses the whole file.
ITEM_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
}


class Stored(NamedTuple):
    name: str
    dtype: str  # of ITEM_BYTES
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * ITEM_BYTES[self.dtype]


def encode(tensors: Sequence[Stored], metadata: Mapping[str, str]) -> bytes:
    """Length and header of a file of these tensors, in this order: by falling size of an item.

    Raises:
        QuotaExceeded: the header is larger than readers take.
    """
    fields: dict[str, Any] = {METADATA: metadata}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.size
        fields[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": (start, end)}
    assert len(fields) == len(tensors) + 1, "two tensors of one name"
    header = json.dumps(fields, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    if len(header) > HEADER_BYTES:
        raise QuotaExceeded(
            f"the values of this state that are not in tensors take {len(header) / 1e6:.0f} MB",
            f"there is room for {HEADER_BYTES / 1e6:.0f} MB",
            "make long lists and strings of bytes NumPy arrays or tensors, or save them as files",
        )
    return len(header).to_bytes(LENGTH_BYTES, "little") + header


def header_size(length: bytes, size: int) -> int:
    """Bytes of the header that these first eight bytes of a file of ``size`` bytes announce.

    Raises:
        BlobCorrupt: such a file cannot have such a header.
    """
    if size < LENGTH_BYTES + 2:
        corrupt(f"{size} bytes are too few")
    announced = int.from_bytes(length, "little")
    if not 2 <= announced <= min(size - LENGTH_BYTES, HEADER_BYTES):
        corrupt(f"a header of {announced} bytes in a blob of {size}")
    return announced


def parse(header: bytes, data: int) -> tuple[list[Stored], dict[str, str]]:
    """The tensors in the order in which they fill the ``data`` bytes after the header, and the metadata.

    Raises:
        BlobCorrupt: no such header, or one whose tensors overlap, leave gaps, or are not as large as their shapes.
    """
    fields = loads(header, "the header")
    if not isinstance(fields, dict):
        corrupt("the header is no JSON object")
    metadata = fields.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        corrupt(f"{METADATA} is not made of strings")
    placed = sorted(((*_offsets(name, entry), _stored(name, entry)) for name, entry in fields.items()), key=_place)
    at = 0
    for start, end, tensor in placed:
        if start != at or end - start != tensor.size:
            corrupt(f"tensor {tensor.name!r} of {tensor.size} bytes lies from {start} to {end}, the one before to {at}")
        at = end
    if at != data:
        corrupt(f"the tensors end at {at} of {data} bytes")
    return [tensor for _, _, tensor in placed], metadata


def loads(text: bytes | str, what: str) -> Any:
    """JSON in which no name occurs twice and no number is NaN.

    Raises:
        BlobCorrupt: it is not.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_constant)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise BlobCorrupt("this blob holds no state that can be read", f"{what}: {error}") from None


def corrupt(why: str) -> NoReturn:
    raise BlobCorrupt("this blob holds no state that can be read", why)


def whole(value: object) -> bool:
    """Whether it is a whole number from 0 up, and not one of JSON's truths."""
    return type(value) is int and value >= 0


def _offsets(name: str, entry: object) -> tuple[int, int]:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        corrupt(f"tensor {name!r} is not described by dtype, shape and data_offsets")
    offsets = entry["data_offsets"]
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(whole, offsets)):
        corrupt(f"tensor {name!r} lies at {offsets!r:.80}")
    return offsets[0], offsets[1]


def _stored(name: str, entry: dict[str, Any]) -> Stored:
    dtype, shape = entry["dtype"], entry["shape"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        corrupt(f"tensor {name!r} has the unknown dtype {dtype!r:.80}")
    if not isinstance(shape, list) or not all(map(whole, shape)):
        corrupt(f"tensor {name!r} has the shape {shape!r:.80}")
    return Stored(name, dtype, tuple(shape))


def _place(item: tuple[int, int, Stored]) -> tuple[int, int]:
    return item[:2]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name occurs twice")
    return fields


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")
