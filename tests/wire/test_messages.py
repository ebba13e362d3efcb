from __future__ import annotations

from contextlib import suppress
from typing import Any, get_args

import pytest
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Frame
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.ids import NO_CLAIM, Claim
from mesh.core.lattice import Shape, Task
from mesh.core.messages import (
    NO_CURSOR,
    WORK_MESSAGES,
    Bid,
    Cursor,
    Device,
    Grant,
    Hello,
    Message,
    Offer,
    Orders,
    Pulled,
    Relayed,
    Report,
    Sighting,
    Yield,
)
from mesh.core.work import Work
from mesh.v1 import ledger_pb2, peer_pb2, work_pb2
from mesh.wire import peer
from mesh.wire.errors import WireError
from mesh.wire.ledger import encode_records
from mesh.wire.peer import PeerMessage, Refusal, decode_peer, encode_peer
from mesh.wire.work import (
    decode_orders,
    decode_report,
    decode_work,
    encode_orders,
    encode_report,
    encode_work,
    opening,
)
from tests.wire.strategies import fields, values

ON_LINKS = (Hello, Refusal, *get_args(PeerMessage))
PART = fields(Relayed)["message"]
UNKNOWN = b"\xfa\xff\x03\x03new"


def test_every_message_has_a_codec() -> None:
    assert set(get_args(PeerMessage)) | set(WORK_MESSAGES) == set(get_args(Message))
    assert set(peer._CODECS) == set(ON_LINKS)
    assert {kind for kind, _, _ in peer._CODECS.values()} == set(peer_pb2.PeerFrame.DESCRIPTOR.fields_by_name)


def through(frame: Any) -> Any:
    """The frame as the other side gets it, from a newer version at that."""
    return type(frame).FromString(frame.SerializeToString() + UNKNOWN)


@pytest.mark.parametrize("kind", ON_LINKS, ids=lambda kind: kind.__name__)
def test_what_links_carry_comes_back_as_it_was(kind: type) -> None:
    @given(values(kind))
    @settings(max_examples=60)
    def law(message: Any) -> None:
        back = decode_peer(through(encode_peer(message)))
        assert back == message
        assert type(back) is kind

    law()


def test_a_message_of_nothing_but_defaults_is_still_one() -> None:
    empty = {bool: False, int: 0, str: "", Claim: NO_CLAIM, Cursor: NO_CURSOR, PART: Yield(NO_CLAIM, "")}
    for kind in ON_LINKS:
        message = kind(*(empty.get(hint, ()) for hint in fields(kind).values()))
        assert decode_peer(through(encode_peer(message))) == message


@given(values(Report))
@settings(max_examples=60)
def test_reports_come_back_as_they_were(report: Report) -> None:
    assert decode_report(through(encode_report(report))) == report


@given(values(Orders))
@settings(max_examples=60)
def test_orders_come_back_as_they_were(orders: Orders) -> None:
    assert decode_orders(through(encode_orders(orders))) == orders


@given(values(Work))
@settings(max_examples=60)
def test_work_comes_back_as_it_was(work: Work) -> None:
    assert decode_work(encode_work(work) + UNKNOWN) == work


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        *((kind, getattr(peer_pb2, kind.__name__)) for kind in (*ON_LINKS, Sighting) if kind is not Relayed),
        *((kind, getattr(work_pb2, kind.__name__)) for kind in (Report, Orders, Bid, Offer, Device, Grant)),
        (Work, work_pb2.WorkItem),
    ],
    ids=lambda kind: kind.__name__,
)
def test_messages_name_the_fields_that_the_tuples_have(kind: type, message: Any) -> None:
    assert set(message.DESCRIPTOR.fields_by_name) == set(fields(kind))


def test_frames_of_a_newer_version_are_nothing() -> None:
    assert decode_peer(peer_pb2.PeerFrame.FromString(UNKNOWN)) is None
    assert decode_peer(peer_pb2.PeerFrame(relayed=peer_pb2.Relayed(source="a", target="b"))) is None
    assert decode_report(work_pb2.ReportFrame.FromString(UNKNOWN)) is None
    assert decode_orders(work_pb2.OrdersFrame.FromString(UNKNOWN)) is None


def test_the_opening_says_who_speaks_and_reports_nothing() -> None:
    frame = opening("50-node", "a-life")
    assert (frame.node, frame.life) == ("50-node", "a-life")
    assert decode_report(frame) is None


def test_records_of_a_journal_go_out_as_they_stand_there() -> None:
    row = Task("t1", "a-job", 1, "d", Shape(kind="a"), b"")
    pulled = Pulled(1, Cursor("j", 2, "d"), True, (row,))
    assert decode_peer(through(encode_peer(pulled._replace(records=encode_records([row]))))) == pulled


def test_grants_of_one_class_share_their_shape() -> None:
    tasks = [Task(f"t{i}", "a-job", i, "d", Shape(kind="a"), b"") for i in range(2)]
    orders = Orders(NO_CLAIM, 1, tuple(Grant("a", 1, task, 5, (), 0) for task in tasks), (), (), ())
    back = decode_orders(through(encode_orders(orders)))
    assert back is not None
    assert back.grants[0].task.shape is back.grants[1].task.shape


def test_malformed_parts_raise() -> None:
    bad = ledger_pb2.Task(id="t", shape=b"\xff")
    with pytest.raises(WireError, match="orders cannot be read"):
        decode_orders(work_pb2.OrdersFrame(orders=work_pb2.Orders(grants=[work_pb2.Grant(task=bad)])))
    with pytest.raises(WireError, match="cannot be read"):
        decode_peer(peer_pb2.PeerFrame(pulled=peer_pb2.Pulled(records=b"\xff")))
    with pytest.raises(WireError, match="work cannot be read"):
        decode_work(b"\xff")


@pytest.mark.parametrize(
    "encode",
    [
        lambda: encode_peer(Refusal("", "\udcff")),
        lambda: encode_peer(Pulled(2**63, NO_CURSOR, True, ())),
        lambda: encode_report(Report(NO_CLAIM, "\udcff", 0, (), (), None, 0)),
        lambda: encode_orders(Orders(NO_CLAIM, -(2**64), (), (), (), ())),
        lambda: encode_work(Work("command", argv=("\udcff",))),
        lambda: encode_work(Work("command", env=(("A", "\udcff"),))),
    ],
)
def test_what_no_message_can_hold_raises(encode: Any) -> None:
    with pytest.raises(WireError, match="cannot be written"):
        encode()


FRAMES: dict[type[Frame], Any] = {
    peer_pb2.PeerFrame: decode_peer,
    work_pb2.ReportFrame: decode_report,
    work_pb2.OrdersFrame: decode_orders,
}


@given(
    st.one_of(values(Message), values(Hello)),
    st.integers(0, 10_000),
    st.binary(min_size=1, max_size=4),
)
@settings(max_examples=200)
def test_damaged_frames_raise_the_one_error_or_are_something_else(message: Any, at: int, noise: bytes) -> None:
    encode = {Report: encode_report, Orders: encode_orders}.get(type(message), encode_peer)
    frame = encode(message)
    good = frame.SerializeToString()
    at %= len(good)
    for damaged in (good[:at], good[:at] + noise + good[at + len(noise) :]):
        with suppress(
            WireError, DecodeError
        ):  # a frame that is none ends its stream in gRPC; nothing else comes through
            FRAMES[type(frame)](type(frame).FromString(damaged))
