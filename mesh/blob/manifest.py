"""Manifests: the list of a blob's chunks, whose digest is the blob's name.

Layout: ``MAGIC``, the blob's size and the number of chunks (unsigned, 64 and 32 bits, big endian), then of each chunk
its BLAKE3 digest (32 bytes) and its size (32 bits). 36 bytes per chunk: 1.8 MB for a blob of 50 GB. There is one
manifest for one list of chunks, so equal lists have equal names everywhere.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

from blake3 import blake3

from mesh.core.errors import BlobCorrupt
from mesh.core.ids import BlobId

Buffer: TypeAlias = bytes | bytearray | memoryview

CHUNK_BYTES = 1 << 20
MAGIC = b"computemesh blob 1\n"

_HEAD = struct.Struct(">QI")
_CHUNK = struct.Struct(">32sI")


class Chunk(NamedTuple):
    digest: bytes  # BLAKE3, 32 bytes
    size: int  # bytes, 1 to CHUNK_BYTES


class Manifest(NamedTuple):
    size: int  # bytes of the whole blob
    chunks: tuple[Chunk, ...]

    def encode(self) -> bytes:
        return b"".join(
            (MAGIC, _HEAD.pack(self.size, len(self.chunks)), *(_CHUNK.pack(*chunk) for chunk in self.chunks))
        )


def manifest_of(chunks: Iterable[Chunk]) -> Manifest:
    listed = tuple(chunks)
    return Manifest(sum(chunk.size for chunk in listed), listed)


def name(manifest: bytes) -> BlobId:
    """The id of the blob that this manifest, encoded, describes: 64 hexadecimal digits."""
    return blake3(manifest).hexdigest()


def is_name(text: str) -> bool:
    return len(text) == 64 and not text.strip("0123456789abcdef")


def digest(data: Buffer) -> bytes:
    return blake3(data).digest()


def parse(encoded: bytes, blob: BlobId) -> Manifest:
    """The manifest of this blob.

    Raises:
        BlobCorrupt: it is another blob's, or no manifest: cut short, sizes that do not add up, chunks of no size.
    """
    if name(encoded) != blob:
        raise BlobCorrupt(f"the manifest of blob {blob[:12]} is not its own", f"its digest is {name(encoded)[:12]}")
    start = len(MAGIC) + _HEAD.size
    if not encoded.startswith(MAGIC) or len(encoded) < start:
        raise BlobCorrupt(f"blob {blob[:12]} has no manifest that this version can read")
    size, count = _HEAD.unpack_from(encoded, len(MAGIC))
    if len(encoded) != start + count * _CHUNK.size:
        raise BlobCorrupt(f"the manifest of blob {blob[:12]} is cut short", f"it should list {count} chunks")
    chunks = tuple(Chunk(*fields) for fields in _CHUNK.iter_unpack(memoryview(encoded)[start:]))
    if not all(0 < chunk.size <= CHUNK_BYTES for chunk in chunks) or sum(chunk.size for chunk in chunks) != size:
        raise BlobCorrupt(f"the manifest of blob {blob[:12]} lies about sizes", f"{count} chunks are not {size} bytes")
    return Manifest(size, chunks)


def chunk_at(encoded: bytes, index: int) -> Chunk | None:
    """Of a manifest that was parsed before; ``None``: it has not that many."""
    start = len(MAGIC) + _HEAD.size + index * _CHUNK.size
    return Chunk(*_CHUNK.unpack_from(encoded, start)) if index >= 0 and start < len(encoded) else None


def cut(segments: Iterable[Buffer]) -> Iterator[memoryview]:
    """The chunks of these segments, without a copy: each segment begins a chunk, an empty one has none."""
    for segment in segments:
        view = memoryview(segment).cast("B")
        for start in range(0, len(view), CHUNK_BYTES):
            yield view[start : start + CHUNK_BYTES]
