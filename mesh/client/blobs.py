"""Blobs from the side of those who use them: put bytes into the mesh, get them out.

Both go by the node that is asked; what it has already does not travel. After a break either goes on where it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing
from typing import Any, NamedTuple, TypeAlias

import grpc
import grpc.aio

from mesh.blob.manifest import Buffer, Chunk, Manifest, cut, digest, manifest_of, name, parse
from mesh.blob.states import restore
from mesh.client.channel import Attempts, Channel, Reader, error_of
from mesh.core.errors import BlobCorrupt, BlobMissing, MeshError, NoMeshFound
from mesh.core.ids import BlobId, NodeId
from mesh.wire.parts import (
    CHUNK,
    MANIFEST,
    Piece,
    Progress,
    get_request,
    put_part,
    read_get_part,
    read_have,
    read_stored,
)

Segments: TypeAlias = Callable[[], Iterable[Buffer]]  # called twice: to name the blob, and to send it
Listener: TypeAlias = Callable[[int, int], None]  # bytes that are over there, or here, and that there are


class Put(NamedTuple):
    """``durable_on``: nodes that have all of it; ``why``: why no more of them, empty where there are enough."""

    blob: BlobId
    size: int
    durable_on: tuple[NodeId, ...]
    why: str


async def put(
    channel: Channel, segments: Segments, listener: Listener = lambda here, size: None, copies: int = 2
) -> Put:
    """Put a blob, which is on ``copies`` nodes when this returns, if there are as many.

    Raises:
        QuotaExceeded: the node that was asked has no room for it.
        BlobCorrupt: the segments were not the same when they were sent as when they were named.
    """
    manifest = await asyncio.to_thread(lambda: manifest_of(Chunk(digest(p), len(p)) for p in cut(segments())))
    encoded = manifest.encode()
    attempts = Attempts(channel)
    while True:
        try:
            call = (await channel.connect()).Put()
            reader = Reader(channel, call)

            def heard(here: int, size: int) -> None:
                attempts.heard()
                listener(here, size)

            try:
                return await _send(call, reader, manifest, encoded, segments, heard, copies)
            finally:
                reader.close()
        except grpc.aio.AioRpcError as failure:
            await _failed(attempts, failure, channel)
        except NoMeshFound as error:
            await attempts.not_found(error)


async def _send(
    call: Any, reader: Reader, manifest: Manifest, encoded: bytes, segments: Segments, listener: Listener, copies: int
) -> Put:
    await _write(call, reader, Piece(MANIFEST, encoded), copies)
    have = read_have(await _reply(reader))
    here = sum(chunk.size for index, chunk in enumerate(manifest.chunks) if have >> index & 1)
    listener(here, manifest.size)
    pieces = cut(segments())
    for index, chunk in enumerate(manifest.chunks):
        piece = await asyncio.to_thread(_next, pieces)
        if not have >> index & 1:
            if not await _write(call, reader, Piece(CHUNK, piece)):
                break  # it has ended, and reading says how
            here += chunk.size
            listener(here, manifest.size)
    else:
        await call.done_writing()
    stored = read_stored(await _reply(reader))
    return Put(name(encoded), manifest.size, stored.durable_on, stored.why)


def _next(pieces: Iterator[memoryview]) -> bytes:
    return bytes(next(pieces, b""))


async def _write(call: Any, reader: Reader, piece: Piece, copies: int = 0) -> bool:
    """Whether it was taken. Raises what keeps a node that is silent from being reached."""
    try:
        await call.write(put_part(piece, copies))
    except asyncio.InvalidStateError:
        return False
    except asyncio.CancelledError:
        if (why := reader.why_cancelled()) is None:
            raise
        raise why from None
    return True


async def _reply(reader: Reader) -> Any:
    reply = await reader.read()
    if reply is grpc.aio.EOF:  # type: ignore[attr-defined]
        raise MeshError("the node took the blob and said no more", "it is of another version", "upgrade the older one")
    return reply


async def get(channel: Channel, blob: BlobId, listener: Listener = lambda here, size: None) -> AsyncGenerator[bytes]:
    """The chunks of a blob, in order, each as it was put. ``listener`` hears how far the node asked has fetched it.

    Raises:
        BlobMissing: no node that can be reached has all of it.
        BlobCorrupt: what came is not what the blob's name says.
        NotFound: that is no blob's name.
    """
    attempts, manifest, read = Attempts(channel), None, 0
    while True:
        try:
            reader = Reader(channel, (await channel.connect()).Get(get_request(blob, read)))
            try:
                while (reply := await reader.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
                    attempts.heard()
                    match read_get_part(reply):
                        case Progress(here, size):
                            listener(here, size)
                        case Piece(kind, data) if kind == MANIFEST:
                            manifest = parse(data, blob)
                        case Piece(_, data):
                            _check(blob, manifest, read, data)
                            yield data
                            read += 1
                if manifest is not None and read == len(manifest.chunks):
                    return
                raise BlobCorrupt(f"blob {blob[:12]} ended after {read} chunks", "", "get it again")
            finally:
                reader.close()
        except grpc.aio.AioRpcError as failure:
            await _failed(attempts, failure, channel)
        except NoMeshFound as error:
            await attempts.not_found(error)


def _check(blob: BlobId, manifest: Manifest | None, index: int, data: bytes) -> None:
    if manifest is None or index >= len(manifest.chunks) or digest(data) != manifest.chunks[index].digest:
        raise BlobCorrupt(f"chunk {index} of blob {blob[:12]} is not what its name says", "", "get it again")


async def get_bytes(channel: Channel, blob: BlobId) -> bytearray:
    data = bytearray()
    async with aclosing(get(channel, blob)) as chunks:
        async for chunk in chunks:
            data += chunk
    return data


def state_of(blob: BlobId, data: bytearray) -> Any:
    """The state that a task saved; its tensors on the CPU. Raises BlobCorrupt: there is none in this blob."""
    view = memoryview(data)

    def read(offset: int, into: memoryview) -> None:
        if offset + len(into) > len(view):
            raise BlobCorrupt(f"the state in blob {blob[:12]} is cut short", "", "get it again")
        into[:] = view[offset : offset + len(into)]

    try:
        return restore(len(data), read)
    except BlobCorrupt as error:
        hint = "files and shards: `meshctl get` writes them to disk"
        raise BlobCorrupt(f"blob {blob[:12]} holds no state", error.why or error.what, hint) from error


async def _failed(attempts: Attempts, failure: grpc.aio.AioRpcError, channel: Channel) -> None:
    error = error_of(failure, channel.address)
    if isinstance(error, BlobMissing | BlobCorrupt):
        raise error from failure  # the node has tried already
    await attempts.failed(failure)
