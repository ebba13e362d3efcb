"""The parts in which a blob goes between a client and a node. Each side reads what the other writes."""

from __future__ import annotations

from typing import NamedTuple

from google.protobuf.message import DecodeError

from mesh.core.ids import BlobId, NodeId
from mesh.v1 import client_pb2 as pb
from mesh.wire.errors import WireError

MANIFEST, CHUNK = "manifest", "chunk"


class Stored(NamedTuple):
    """``durable_on``: the nodes that have all of it. ``why``: why no more have it; empty: as many as should."""

    durable_on: tuple[NodeId, ...]
    why: str


class Progress(NamedTuple):
    """Bytes that are on the node that fetches, and that there are."""

    here: int
    size: int


class Piece(NamedTuple):
    kind: str  # MANIFEST or CHUNK
    data: bytes


def put_part(piece: Piece, copies: int = 0) -> pb.PutPart:
    """``copies``, beside the manifest: on how many nodes it should be."""
    if piece.kind == MANIFEST:
        return pb.PutPart(manifest=piece.data, copies=copies)
    return pb.PutPart(chunk=piece.data)


def read_put_part(data: bytes) -> tuple[Piece, int]:
    try:
        part = pb.PutPart.FromString(data)
    except DecodeError as error:
        raise WireError(f"no part of a blob: {error}") from error
    kind = part.WhichOneof("part")
    return Piece(kind or "", part.manifest if kind == MANIFEST else part.chunk), part.copies


def have_reply(have: int, chunks: int) -> bytes:
    return pb.PutReply(have=have.to_bytes((chunks + 7) // 8, "little")).SerializeToString()


def read_have(reply: pb.PutReply) -> int:
    return int.from_bytes(reply.have, "little")


def stored_reply(stored: Stored) -> bytes:
    return pb.PutReply(durable_on=stored.durable_on, why=stored.why).SerializeToString()


def read_stored(reply: pb.PutReply) -> Stored:
    return Stored(tuple(reply.durable_on), reply.why)


def get_request(blob: BlobId, first: int) -> pb.GetRequest:
    """``first``: the chunk to begin with."""
    return pb.GetRequest(blob=blob, first=first)


def read_get_request(data: bytes) -> tuple[BlobId, int]:
    try:
        request = pb.GetRequest.FromString(data)
        return request.blob, request.first
    except DecodeError as error:
        raise WireError(f"no name of a blob: {error}") from error


def get_part(part: Progress | Piece) -> bytes:
    if isinstance(part, Progress):
        return pb.GetPart(here=part.here, size=part.size).SerializeToString()
    message = pb.GetPart(manifest=part.data) if part.kind == MANIFEST else pb.GetPart(chunk=part.data)
    return message.SerializeToString()


def read_get_part(part: pb.GetPart) -> Progress | Piece:
    if part.manifest:
        return Piece(MANIFEST, part.manifest)
    return Piece(CHUNK, part.chunk) if part.chunk else Progress(part.here, part.size)
