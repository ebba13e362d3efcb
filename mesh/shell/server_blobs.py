"""Blobs over the Client service: what users put, and get. Answered by the node that is asked, whoever leads.

Owns the order of the parts. It must not know where a blob lies, nor how it comes here: that is asked of ``Keeper``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Protocol, TypeAlias

import grpc
import grpc.aio

from mesh.blob.manifest import is_name, name, parse
from mesh.core.errors import InvalidSpec, NotFound
from mesh.core.exchange import members
from mesh.core.ids import BlobId
from mesh.wire.parts import (
    CHUNK,
    MANIFEST,
    Piece,
    Progress,
    Stored,
    get_part,
    have_reply,
    read_get_request,
    read_put_part,
    stored_reply,
)

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"

MOST_COPIES = 16  # the leader names no more holders than that
COPIES = 2  # of what a user puts: on the node that was asked, and on another one
MANIFEST_BYTES = 32 << 20  # of a blob of 900 GB; half of what one message may have


class Keeper(Protocol):
    """This node's blobs. Sets of chunks are integers: bit n is chunk n."""

    async def begin(self, manifest: bytes) -> int:
        """It comes from a client: the chunks that are here. ``leave`` it whatever comes. Raises QuotaExceeded."""

    async def leave(self, blob: BlobId) -> None:
        """Nothing more of it comes: what is not whole is kept until room is needed."""

    async def write(self, blob: BlobId, index: int, data: bytes) -> None:
        """Raises BlobCorrupt where it is not what the manifest says."""

    async def keep(self, blob: BlobId, copies: int) -> Stored:
        """All of it came; answers once it is on as many nodes as it should be, or as can be. Raises BlobMissing."""

    def fetch(self, blob: BlobId) -> AsyncGenerator[Progress, None]:
        """Until it is here. Raises BlobMissing, BlobCorrupt, QuotaExceeded."""

    def read(self, blob: BlobId, first: int) -> AsyncGenerator[bytes, None]:
        """Its manifest, then its chunks from that one on. It is not collected meanwhile."""


async def put(keeper: Keeper, context: Context) -> AsyncIterator[bytes]:
    manifest, copies = await _piece(context, MANIFEST)
    if len(manifest) > MANIFEST_BYTES:
        raise InvalidSpec(f"this blob's manifest has {len(manifest)} bytes, the limit is {MANIFEST_BYTES}; split it")
    if copies > MOST_COPIES:
        raise InvalidSpec(f"{copies} copies are more than the {MOST_COPIES} that a mesh keeps; ask for fewer")
    blob = name(manifest)
    count = len((await asyncio.to_thread(parse, manifest, blob)).chunks)
    have = await keeper.begin(manifest)
    try:
        yield have_reply(have, count)
        for index in members(~have & ((1 << count) - 1)):
            chunk, _ = await _piece(context, CHUNK)
            await keeper.write(blob, index, chunk)
        stored = await keeper.keep(blob, copies or COPIES)
    finally:
        await keeper.leave(blob)
    yield stored_reply(stored)


async def _piece(context: Context, kind: str) -> tuple[bytes, int]:
    request = await context.read()
    if not isinstance(request, bytes):
        raise InvalidSpec(f"the blob is not whole; its sender stopped before a {kind}; put it again")
    piece, copies = read_put_part(request)
    if piece.kind != kind:
        raise InvalidSpec(f"a blob is put as its manifest and then its chunks; a {kind} was due; upgrade the client")
    return piece.data, copies


async def get(keeper: Keeper, request: bytes) -> AsyncIterator[bytes]:
    blob, first = read_get_request(request)
    if not is_name(blob):
        raise NotFound(f"{blob[:80]!r} is no blob's id", "an id has 64 hexadecimal digits", "see `meshctl blobs`")
    async with aclosing(keeper.fetch(blob)) as fetching:
        async for progress in fetching:
            yield get_part(progress)
    kind = MANIFEST
    async with aclosing(keeper.read(blob, first)) as reading:
        async for data in reading:
            yield get_part(Piece(kind, data))
            kind = CHUNK
