"""Messages about who holds which blob, as parts of a ``PeerFrame``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from mesh.core.messages import Copy, CopyFailed, Found, Holds, HoldsSeen, Seek, Spare, Spared
from mesh.v1 import peer_pb2 as pb
from mesh.wire.ledger import get_claim, put_claim


def _put_named(field: Any, named: Iterable[tuple[str, str]]) -> None:
    for node, address in named:
        field.add(node=node, address=address)


def _get_named(field: Any) -> tuple[tuple[str, str], ...]:
    return tuple((part.node, part.address) for part in field)


def _put_holds(m: pb.Holds, holds: Holds) -> None:
    claim, m.life, m.session, m.seq, gained, lost, m.free, m.more = holds
    put_claim(m.claim, claim)
    for blob, size in gained:
        m.gained.add(blob=blob, size=size)
    m.lost.extend(lost)


def _get_holds(m: pb.Holds) -> Holds:
    gained = tuple((part.blob, part.size) for part in m.gained)
    return Holds(get_claim(m.claim), m.life, m.session, m.seq, gained, tuple(m.lost), m.free, m.more)


def _put_holds_seen(m: pb.HoldsSeen, seen: HoldsSeen) -> None:
    claim, m.session, m.seq = seen
    put_claim(m.claim, claim)


def _get_holds_seen(m: pb.HoldsSeen) -> HoldsSeen:
    return HoldsSeen(get_claim(m.claim), m.session, m.seq)


def _put_seek(m: pb.Seek, seek: Seek) -> None:
    claim, m.blob, m.size, m.copies, m.like = seek
    put_claim(m.claim, claim)


def _get_seek(m: pb.Seek) -> Seek:
    return Seek(get_claim(m.claim), m.blob, m.size, m.copies, m.like)


def _put_found(m: pb.Found, found: Found) -> None:
    claim, m.blob, holders, fetching, m.sure, m.enough, m.why = found
    put_claim(m.claim, claim)
    _put_named(m.holders, holders)
    _put_named(m.fetching, fetching)


def _get_found(m: pb.Found) -> Found:
    holders, fetching = _get_named(m.holders), _get_named(m.fetching)
    return Found(get_claim(m.claim), m.blob, holders, fetching, m.sure, m.enough, m.why)


def _put_copy(m: pb.Copy, copy: Copy) -> None:
    claim, m.blob, m.size, holders = copy
    put_claim(m.claim, claim)
    _put_named(m.holders, holders)


def _get_copy(m: pb.Copy) -> Copy:
    return Copy(get_claim(m.claim), m.blob, m.size, _get_named(m.holders))


def _put_copy_failed(m: pb.CopyFailed, failed: CopyFailed) -> None:
    claim, m.blob, m.reason = failed
    put_claim(m.claim, claim)


def _get_copy_failed(m: pb.CopyFailed) -> CopyFailed:
    return CopyFailed(get_claim(m.claim), m.blob, m.reason)


def _put_spare(m: pb.Spare, spare: Spare) -> None:
    claim, m.number, blobs = spare
    put_claim(m.claim, claim)
    m.blobs.extend(blobs)


def _get_spare(m: pb.Spare) -> Spare:
    return Spare(get_claim(m.claim), m.number, tuple(m.blobs))


def _put_spared(m: pb.Spared, spared: Spared) -> None:
    claim, m.number, blobs, m.why = spared
    put_claim(m.claim, claim)
    m.blobs.extend(blobs)


def _get_spared(m: pb.Spared) -> Spared:
    return Spared(get_claim(m.claim), m.number, tuple(m.blobs), m.why)


CODECS: dict[type, tuple[str, Callable[[Any, Any], None], Callable[[Any], Any]]] = {
    Holds: ("holds", _put_holds, _get_holds),
    HoldsSeen: ("holds_seen", _put_holds_seen, _get_holds_seen),
    Seek: ("seek", _put_seek, _get_seek),
    Found: ("found", _put_found, _get_found),
    Copy: ("copy", _put_copy, _get_copy),
    CopyFailed: ("copy_failed", _put_copy_failed, _get_copy_failed),
    Spare: ("spare", _put_spare, _get_spare),
    Spared: ("spared", _put_spared, _get_spared),
}
