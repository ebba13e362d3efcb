"""What begins a blob of shards: which tensors there are, and where in the blob each shard of them lies. Without pickle.

Layout: ``MAGIC``, the length of what follows (unsigned, 64 bits, big endian), JSON; then, in the order of ``stored``,
the bytes of each shard, row by row, and of each value that is no tensor, as a state (:mod:`mesh.blob.states`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple, NoReturn

import torch
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from mesh.blob.tensors import TORCH
from mesh.blob.trees import Read
from mesh.blob.values import Encoder, decode
from mesh.core.errors import BlobCorrupt, MeshError

MAGIC = b"computemesh shards 1\n"
HEAD_BYTES = len(MAGIC) + 8
INDEX_BYTES = 1 << 30


class Place(NamedTuple):
    """Where one shard, or one value, lies."""

    at: int  # from the begin of the blob, bytes
    size: int  # bytes
    shape: tuple[int, ...]  # of a shard
    dtype: Any  # of torch; None: it is a value


class Index(NamedTuple):
    metadata: Metadata
    places: Mapping[MetadataIndex, Place]


def encode(metadata: Metadata, stored: Sequence[tuple[MetadataIndex, int]]) -> bytes:
    """The index of a blob in which these lie in this order; the number is the size of each in bytes.

    Raises:
        TypeError: the planner's own data is no plain value, or a tensor is of a dtype that is not known.
    """
    encoder = Encoder(lambda value, path: None)
    planner = encoder.encode(metadata.planner_data)
    if encoder.wrong:
        raise TypeError("\n".join(("what this planner remembers cannot be saved:", *encoder.wrong)))
    fields = {
        "planner": planner,
        "tensors": [[name, _described(name, entry)] for name, entry in metadata.state_dict_metadata.items()],
        "stored": [[at.fqn, None if at.offset is None else list(at.offset), at.index, size] for at, size in stored],
    }
    text = json.dumps(fields, separators=(",", ":")).encode()
    return MAGIC + len(text).to_bytes(8, "big") + text


def read(size: int, into: Read) -> Index:
    """The index of a blob of ``size`` bytes.

    Raises:
        MeshError: it holds no shards.
        BlobCorrupt: its index contradicts itself.
    """
    head = bytearray(min(size, HEAD_BYTES))
    into(0, memoryview(head))
    if not head.startswith(MAGIC) or len(head) < HEAD_BYTES:
        raise MeshError("the newest checkpoint holds no shards", "", "load it the way it was saved")
    length = int.from_bytes(head[len(MAGIC) :], "big")
    if length > min(size - HEAD_BYTES, INDEX_BYTES):
        _corrupt(f"an index of {length} bytes in a blob of {size}")
    text = bytearray(length)
    into(HEAD_BYTES, memoryview(text))
    try:
        return _parsed(json.loads(text), HEAD_BYTES + length, size)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BlobCorrupt("this blob holds no shards that can be read", f"{type(error).__name__}: {error}") from None


def _described(name: str, entry: Any) -> Any:
    if not isinstance(entry, TensorStorageMetadata):
        return None
    dtype = str(entry.properties.dtype).removeprefix("torch.")
    if dtype not in TORCH:
        raise TypeError(f"{name} is of dtype {dtype}; convert it to one of {', '.join(TORCH)}")
    shards = [[list(shard.offsets), list(shard.sizes)] for shard in entry.chunks]
    return [dtype, entry.properties.requires_grad, list(entry.size), shards]


def _parsed(fields: Any, start: int, size: int) -> Index:
    entries: dict[str, Any] = {}
    for name, described in fields["tensors"]:
        entries[name] = BytesStorageMetadata() if described is None else _tensor(*described)
    places: dict[MetadataIndex, Place] = {}
    at = start
    for name, offset, hint, length in fields["stored"]:
        place, entry = MetadataIndex(name, offset, hint), entries[name]
        shape: tuple[int, ...] = ()
        dtype = None
        if isinstance(entry, TensorStorageMetadata):
            shape = next(tuple(shard.sizes) for shard in entry.chunks if shard.offsets == place.offset)
            dtype = entry.properties.dtype
            if length != prod(shape) * dtype.itemsize:
                _corrupt(f"a shard of {name} of the shape {shape} has {length} bytes")
        places[place] = Place(at, length, shape, dtype)
        at += length
    if at != size:
        _corrupt(f"its shards end at {at} of {size} bytes")
    planner = decode(fields["planner"], lambda number: _corrupt(f"leaf {number} in what its planner remembers"))
    return Index(Metadata(state_dict_metadata=entries, planner_data=planner), places)


def _tensor(dtype: str, grad: bool, size: list[int], shards: list[list[list[int]]]) -> TensorStorageMetadata:
    if dtype not in TORCH:
        _corrupt(f"a tensor of the dtype {dtype!r:.80}")
    return TensorStorageMetadata(
        properties=TensorProperties(dtype=getattr(torch, dtype), requires_grad=grad),
        size=torch.Size(size),
        chunks=[ChunkStorageMetadata(offsets=torch.Size(at), sizes=torch.Size(shape)) for at, shape in shards],
    )


def _corrupt(why: str) -> NoReturn:
    raise BlobCorrupt("this blob holds no shards that can be read", why)
