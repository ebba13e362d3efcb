from __future__ import annotations

from contextlib import suppress
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.ids import Claim
from mesh.core.lattice import (
    NO_OUTCOME,
    Acceptance,
    Attempt,
    Checkpoint,
    Checkpointing,
    Outcome,
    Record,
    Resources,
    Retries,
    Run,
    Shape,
    Task,
)
from mesh.v1 import ledger_pb2 as pb
from mesh.wire import ledger
from mesh.wire.errors import WireError
from mesh.wire.ledger import decode_records, encode_records
from tests.wire.strategies import fields, values

RECORDS = get_args(Record)
PARTS = (Claim, Resources, Retries, Checkpointing, Shape, Outcome, Checkpoint)
UNKNOWN = b"\xfa\xff\x03\x03new"  # field 8191, three bytes: what a newer version might add


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_every_record_has_a_codec_and_comes_back_as_it_was(kind: type[Record]) -> None:
    @given(values(kind))
    @settings(max_examples=60)
    def law(record: Record) -> None:
        (back,) = decode_records(encode_records([record]))
        assert back == record
        assert type(back) is kind
        assert [type(value) for value in back] == [type(value) for value in record]

    law()


@given(st.lists(values(Record), max_size=8), st.lists(values(Record), max_size=8))
@settings(max_examples=60)
def test_a_batch_keeps_its_order_and_batches_join_by_concatenation(a: list[Record], b: list[Record]) -> None:
    assert decode_records(encode_records(a)) == a
    assert decode_records(encode_records(a) + encode_records(b)) == a + b


@pytest.mark.parametrize("kind", RECORDS + PARTS, ids=lambda kind: kind.__name__)
def test_messages_name_the_fields_that_the_tuples_have(kind: type) -> None:
    assert set(getattr(pb, kind.__name__).DESCRIPTOR.fields_by_name) == set(fields(kind))


def test_a_record_of_nothing_but_defaults_is_still_a_record() -> None:
    for kind in RECORDS:
        empty = {bool: False, int: 0, str: "", bytes: b""}
        parts = {
            Shape: Shape(),
            Outcome: NO_OUTCOME,
            Claim: Claim(False, 0, "", ""),
            tuple[Checkpoint, ...]: (),
            tuple[str, ...]: (),
        }
        record = kind(*((empty | parts)[hint] for hint in fields(kind).values()))
        assert decode_records(encode_records([record])) == [record]


def test_equal_shapes_and_claims_and_names_are_shared_after_decoding() -> None:
    claim = Claim(True, 3, "50-leader", "a-life")
    shape = Shape((Resources(millicpus=1234, labels=(("disk", "fast"),)),), kind="train")
    tasks = [Task(f"t{i}", "a-job", i, "d", shape, b"") for i in range(3)]
    accepted = [Acceptance(f"t{i}", "a", claim, "d") for i in range(3)]
    # In two batches, as two slices of one submission come in two messages.
    a = decode_records(encode_records(tasks[:2] + accepted[:2]))
    b = decode_records(encode_records(tasks[2:] + accepted[2:]))
    back = [record for record in a + b if isinstance(record, Task)]
    assert len({id(task.shape) for task in back}) == len({id(task.job) for task in back}) == 1
    claims = [record.claim for record in a + b if isinstance(record, Acceptance)]
    assert len({id(claim) for claim in claims}) == 1


def test_an_attempt_without_an_outcome_says_nothing_of_one() -> None:
    attempt = Attempt("t", "a", False, 0, 1, 1, "n")
    (back,) = decode_records(encode_records([attempt]))
    assert isinstance(back, Attempt)
    assert back.outcome is NO_OUTCOME
    assert len(encode_records([attempt])) < len(encode_records([attempt._replace(outcome=Outcome(code="x"))]))


def test_fields_and_kinds_of_a_newer_version_are_passed_over() -> None:
    shape = pb.Shape(kind="k").SerializeToString() + UNKNOWN
    task = pb.Task(id="t", job="j", shape=shape).SerializeToString() + UNKNOWN
    run = pb.Run(task="t", run=2).SerializeToString() + UNKNOWN
    known = pb.RecordBatch(records=[pb.Record(task=pb.Task.FromString(task)), pb.Record(run=pb.Run.FromString(run))])
    newer = pb.RecordBatch(records=[pb.Record.FromString(UNKNOWN)])
    data = newer.SerializeToString() + known.SerializeToString() + UNKNOWN
    assert UNKNOWN in data[:-1]
    records = decode_records(data)
    assert [type(record) for record in records] == [Task, Run]
    assert records[0].shape.kind == "k"  # type: ignore[union-attr]


@given(st.lists(values(Record), min_size=1, max_size=4), st.data())
@settings(max_examples=200)
def test_damaged_bytes_raise_the_one_error_or_are_something_else(records: list[Record], data: st.DataObject) -> None:
    good = encode_records(records)
    at = data.draw(st.integers(0, len(good) - 1))
    damaged = data.draw(
        st.one_of(
            st.just(good[:at]),
            st.binary(min_size=1, max_size=4).map(lambda noise: good[:at] + noise + good[at + len(noise) :]),
        )
    )
    with suppress(WireError):  # nothing else comes through
        decode_records(damaged)


@pytest.mark.parametrize(
    "data",
    [b"\xff", b"\x0a\x05abc", pb.RecordBatch(records=[pb.Record(task=pb.Task(shape=b"\xff"))]).SerializeToString()],
    ids=["tag", "cut", "shape"],
)
def test_malformed_bytes_raise(data: bytes) -> None:
    with pytest.raises(WireError, match="cannot be read"):
        decode_records(data)


@pytest.mark.parametrize(
    "record",
    [
        Run("t", 2**63, 0),
        Run("not \udcff text", 0, 0),
        Task("t", "j", 0, "d", Shape(cwd="/\udcff"), b""),
        Acceptance("t", "a", Claim(True, 2**64, "l", "x"), "d"),
        Run(None, 0, 0),  # type: ignore[arg-type]
    ],
    ids=["integer", "surrogate", "shape", "claim", "type"],
)
def test_what_no_message_can_hold_raises(record: Record) -> None:
    with pytest.raises(WireError, match="cannot be written"):
        encode_records([record])


def test_the_tables_name_every_record() -> None:
    assert set(ledger._ENCODERS) == set(RECORDS)
    assert set(ledger._DECODERS) == set(pb.Record.DESCRIPTOR.fields_by_name)
