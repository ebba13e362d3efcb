"""Messages that keep the mesh together to frames of ``Peer.Link`` and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from mesh.core.messages import (
    BlobMessage,
    Cursor,
    Heartbeat,
    Hello,
    Pull,
    Pulled,
    Refused,
    Relayed,
    Sighting,
    Verdict,
    Yield,
    YieldRequest,
)
from mesh.v1 import peer_pb2 as pb
from mesh.wire import holdings
from mesh.wire.errors import UNREADABLE, UNWRITABLE, unreadable, unwritable
from mesh.wire.ledger import decode_records, encode_records, get_claim, put_claim


class Refusal(NamedTuple):
    """Ends a link, and why, for the other side's people. ``code``: foreign, protocol, duplicate, invalid or empty."""

    code: str
    reason: str


PeerMessage: TypeAlias = (
    Heartbeat | Verdict | YieldRequest | Yield | Refused | Relayed | Pull | Pulled | BlobMessage
)  # fmt: skip
LinkMessage: TypeAlias = Hello | Refusal | PeerMessage


def encode_peer(message: LinkMessage) -> pb.PeerFrame:
    frame = pb.PeerFrame()
    kind, put, _ = _CODECS[type(message)]
    try:
        put(getattr(frame, kind), message)
    except UNWRITABLE as error:
        raise unwritable(kind, error) from error
    return frame


def decode_peer(frame: pb.PeerFrame) -> LinkMessage | None:
    """``None``: a kind that this version does not know, and need not, or an empty frame."""
    kind = frame.WhichOneof("kind")
    if kind is None:
        return None
    try:
        message: LinkMessage | None = _GETTERS[kind](getattr(frame, kind))
    except UNREADABLE as error:
        raise unreadable(kind, error) from error
    return message


def _put_hello(m: pb.Hello, hello: Hello) -> None:
    protocols, m.mesh_name, ids, m.mature, m.node, m.life, m.name, m.address, m.role, m.version, m.uptime_ms = hello
    m.protocols.extend(protocols)
    m.mesh_ids.extend(ids)


def _get_hello(m: pb.Hello) -> Hello:
    return Hello(
        tuple(m.protocols),
        m.mesh_name,
        tuple(m.mesh_ids),
        m.mature,
        m.node,
        m.life,
        m.name,
        m.address,
        m.role,
        m.version,
        m.uptime_ms,
    )


def _put_refusal(m: pb.Refusal, refusal: Refusal) -> None:
    m.code, m.reason = refusal


def _get_refusal(m: pb.Refusal) -> Refusal:
    return Refusal(m.code, m.reason)


def _put_heartbeat(m: pb.Heartbeat, heartbeat: Heartbeat) -> None:
    (
        m.seq,
        m.echo,
        m.life,
        m.incarnation,
        m.eligible,
        m.why_not,
        claim,
        m.leader_heard,
        m.leads,
        m.followed,
        suspects,
        seen,
        peers,
        m.name,
        m.role,
        m.address,
        m.position,
        successors,
        m.caught_up,
        m.carried,
    ) = heartbeat
    put_claim(m.claim, claim)
    m.suspects.extend(suspects)
    m.successors.extend(successors)
    for sighting in seen:
        part = m.seen.add(address=sighting.address, leads=sighting.leads, followed=sighting.followed)
        put_claim(part.claim, sighting.claim)
    for node, address in peers:
        m.peers.add(node=node, address=address)


def _get_heartbeat(m: pb.Heartbeat) -> Heartbeat:
    return Heartbeat(
        m.seq,
        m.echo,
        m.life,
        m.incarnation,
        m.eligible,
        m.why_not,
        get_claim(m.claim),
        m.leader_heard,
        m.leads,
        m.followed,
        tuple(m.suspects),
        tuple(Sighting(get_claim(part.claim), part.address, part.leads, part.followed) for part in m.seen),
        tuple((peer.node, peer.address) for peer in m.peers),
        m.name,
        m.role,
        m.address,
        m.position,
        tuple(m.successors),
        m.caught_up,
        m.carried,
    )


def _put_verdict(m: pb.Verdict, verdict: Verdict) -> None:
    m.stays, m.yields, m.above, m.established = verdict


def _get_verdict(m: pb.Verdict) -> Verdict:
    return Verdict(m.stays, m.yields, m.above, m.established)


def _put_yield_request(m: pb.YieldRequest, request: YieldRequest) -> None:
    put_claim(m.claim, request.claim)


def _get_yield_request(m: pb.YieldRequest) -> YieldRequest:
    return YieldRequest(get_claim(m.claim))


def _put_yield(m: pb.Yield, message: Yield) -> None:
    put_claim(m.claim, message.claim)
    m.reason = message.reason


def _get_yield(m: pb.Yield) -> Yield:
    return Yield(get_claim(m.claim), m.reason)


def _put_refused(m: pb.Refused, refused: Refused) -> None:
    put_claim(m.highest, refused.highest)
    m.alive = refused.alive


def _get_refused(m: pb.Refused) -> Refused:
    return Refused(get_claim(m.highest), m.alive)


def _put_relayed(m: pb.Relayed, relayed: Relayed) -> None:
    m.source, m.target, message = relayed
    kind, put, _ = _CODECS[type(message)]
    put(getattr(m, kind), message)


def _get_relayed(m: pb.Relayed) -> Relayed | None:
    kind = m.WhichOneof("message")
    return None if kind is None else Relayed(m.source, m.target, _GETTERS[kind](getattr(m, kind)))


def _put_pull(m: pb.Pull, pull: Pull) -> None:
    m.session, cursors, m.wait = pull
    for cursor in cursors:
        _put_cursor(m.cursors.add(), cursor)


def _get_pull(m: pb.Pull) -> Pull:
    return Pull(m.session, tuple(_get_cursor(part) for part in m.cursors), m.wait)


def _put_pulled(m: pb.Pulled, pulled: Pulled) -> None:
    m.session, cursor, m.end, records = pulled
    _put_cursor(m.cursor, cursor)
    m.records = records if isinstance(records, bytes) else encode_records(records)


def _get_pulled(m: pb.Pulled) -> Pulled:
    return Pulled(m.session, _get_cursor(m.cursor), m.end, tuple(decode_records(m.records)))


def _put_cursor(m: pb.Cursor, cursor: Cursor) -> None:
    m.journal, m.position, m.digest = cursor


def _get_cursor(m: pb.Cursor) -> Cursor:
    return Cursor(m.journal, m.position, m.digest)


_CODECS: dict[type, tuple[str, Callable[[Any, Any], None], Callable[[Any], Any]]] = {
    Hello: ("hello", _put_hello, _get_hello),
    Refusal: ("refusal", _put_refusal, _get_refusal),
    Heartbeat: ("heartbeat", _put_heartbeat, _get_heartbeat),
    Verdict: ("verdict", _put_verdict, _get_verdict),
    YieldRequest: ("yield_request", _put_yield_request, _get_yield_request),
    Yield: ("yielded", _put_yield, _get_yield),
    Refused: ("refused", _put_refused, _get_refused),
    Relayed: ("relayed", _put_relayed, _get_relayed),
    Pull: ("pull", _put_pull, _get_pull),
    Pulled: ("pulled", _put_pulled, _get_pulled),
    **holdings.CODECS,
}
_GETTERS: dict[str, Callable[[Any], Any]] = {kind: get for kind, _, get in _CODECS.values()}
