"""Python objects as blobs: a pickle, and beside it the buffers that it left out (arrays, tensors), each a segment.

Layout: ``MAGIC``, the number of buffers and the size of the pickle (unsigned, 32 and 64 bits, big endian), the size of
each buffer (64 bits), the pickle; then the buffers. An array that did not change is the same chunks again, and is read
into its own memory without a copy (pickle protocol 5, PEP 574).

Reading one runs what its maker put into it, as every unpickling does: members trust each other.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mesh.blob.manifest import Buffer
from mesh.core.errors import BlobCorrupt
from mesh.core.ids import BlobId

MAGIC = b"computemesh object 1\n"

_HEAD = struct.Struct(">IQ")
_SIZE = struct.Struct(">Q")


class Ref(NamedTuple):
    """Stands for an object that was put: as an argument of a function, the function gets the object itself."""

    blob: BlobId
    size: int  # bytes of the blob

    def __repr__(self) -> str:
        return f"Ref({self.blob[:12]}, {self.size} bytes)"


def dump(value: object, pickled: Callable[[object, Callable[[pickle.PickleBuffer], object]], bytes]) -> list[Buffer]:
    """The segments of this value. ``pickled`` is given it, and what to call with each buffer that it leaves out."""
    buffers: list[memoryview] = []
    body = pickled(value, lambda buffer: buffers.append(buffer.raw()))
    return segments(body, buffers)


def segments(body: bytes, buffers: Sequence[memoryview]) -> list[Buffer]:
    """Of a value whose pickle is there already, and beside it the buffers that it left out, in order."""
    head = MAGIC + _HEAD.pack(len(buffers), len(body)) + b"".join(_SIZE.pack(len(buffer)) for buffer in buffers)
    return [head + body, *buffers]


def load(blob: BlobId, data: bytearray) -> Any:
    """The value that these bytes hold; its arrays use their memory.

    Raises:
        BlobCorrupt: this blob holds no object, or one of another version. And whatever unpickling raises.
    """
    start = len(MAGIC) + _HEAD.size
    if not data.startswith(MAGIC) or len(data) < start:
        raise BlobCorrupt(f"blob {blob[:12]} holds no object that this version can read", "", "get it with meshctl get")
    count, size = _HEAD.unpack_from(data, len(MAGIC))
    at = start + count * _SIZE.size
    if at > len(data):
        raise BlobCorrupt(f"the object in blob {blob[:12]} is cut short", f"it should have {count} buffers")
    sizes = [size for (size,) in _SIZE.iter_unpack(memoryview(data)[start:at])]
    if at + size + sum(sizes) != len(data):
        raise BlobCorrupt(f"the object in blob {blob[:12]} lies about sizes", f"{len(data)} bytes are there")
    view = memoryview(data)
    body, at = view[at : at + size], at + size
    buffers = []
    for length in sizes:
        buffers.append(view[at : at + length])
        at += length
    return pickle.loads(body, buffers=buffers)
