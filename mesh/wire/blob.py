"""Frames of ``mesh.v1.Blob``: plain numbers, because chunks travel bare (a protobuf message around them costs a third).

Manifest  request: a name.               reply: the manifest, encoded.
Have      request: a name.               replies: a bitmap of the chunks that are there; then, of those gained, numbers.
Chunks    requests: a name; then numbers. replies: for each number in turn the chunk's bytes, none where it has it no
          more.

A name is the blob's 32 bytes; numbers are 32 bits each, big endian; in a bitmap bit n % 8 of byte n // 8 is chunk n.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from mesh.core.ids import BlobId
from mesh.wire.errors import WireError

SERVICE = "mesh.v1.Blob"
NAME_BYTES = 32
NUMBER_BYTES = 4


def encode_name(blob: BlobId) -> bytes:
    return bytes.fromhex(blob)


def decode_name(frame: bytes) -> BlobId:
    if len(frame) != NAME_BYTES:
        raise WireError("a blob's name cannot be read", f"it has {len(frame)} bytes, not {NAME_BYTES}")
    return frame.hex()


def encode_bitmap(chunks: int) -> bytes:
    return chunks.to_bytes((chunks.bit_length() + 7) // 8, "little")


def decode_bitmap(frame: bytes) -> int:
    return int.from_bytes(frame, "little")


def encode_numbers(numbers: Iterable[int]) -> bytes:
    listed = tuple(numbers)
    return struct.pack(f">{len(listed)}I", *listed)


def decode_numbers(frame: bytes) -> tuple[int, ...]:
    if len(frame) % NUMBER_BYTES:
        raise WireError("numbers of chunks cannot be read", f"{len(frame)} bytes are no list of them")
    return struct.unpack(f">{len(frame) // NUMBER_BYTES}I", frame)
