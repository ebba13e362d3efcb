"""Ledger records to bytes and back: journal rows and replication slices.

Written for tens of thousands of records per second: values are assigned by unpacking whole tuples, never by reflection,
a shape or claim that many records share is encoded once, and decoded into one shared object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from sys import intern
from typing import Any

from mesh.core.ids import Claim
from mesh.core.lattice import (
    NO_OUTCOME,
    USUAL,
    Acceptance,
    Attempt,
    Checkpoint,
    Checkpointing,
    Claimed,
    Deleted,
    Ended,
    Job,
    Lived,
    Mesh,
    Outcome,
    Owner,
    Record,
    Register,
    Resources,
    Retries,
    Run,
    Shape,
    Task,
)
from mesh.v1 import ledger_pb2 as pb
from mesh.wire.errors import UNREADABLE, UNWRITABLE, unreadable, unwritable


def encode_records(records: Iterable[Record]) -> bytes:
    """A RecordBatch. The concatenation of two batches is the batch of both."""
    batch = pb.RecordBatch()
    add = batch.records.add
    try:
        for record in records:
            _ENCODERS[type(record)](add(), record)
        return batch.SerializeToString()
    except UNWRITABLE as error:
        raise unwritable("record", error) from error


def decode_records(data: bytes) -> list[Record]:
    """The records of a batch in their order, less those of a kind that this version does not know."""
    records: list[Record] = []
    append = records.append
    try:
        for message in pb.RecordBatch.FromString(data).records:
            kind = message.WhichOneof("kind")
            if kind is not None:
                append(_DECODERS[kind](getattr(message, kind)))
    except UNREADABLE as error:
        raise unreadable("batch of records", error) from error
    return records


# Parts that other messages contain, too: put_* fills a message, get_* reads one.


def put_claim(message: pb.Claim, claim: Claim) -> None:
    message.established, message.term, message.leader, message.life = claim


def get_claim(message: pb.Claim) -> Claim:
    return Claim(message.established, message.term, intern(message.leader), intern(message.life))


@lru_cache(maxsize=256)
def _claim_bytes(claim: Claim) -> bytes:
    message = pb.Claim()
    put_claim(message, claim)
    return message.SerializeToString()


@lru_cache(maxsize=256)
def _claim_of(data: bytes) -> Claim:
    return get_claim(pb.Claim.FromString(data))


@lru_cache(maxsize=4096)
def shape_bytes(shape: Shape) -> bytes:
    message = pb.Shape(
        kind=shape.kind, python=shape.python, cwd=shape.cwd, timeout_ms=shape.timeout_ms, hold=shape.hold
    )
    for need in shape.alternatives:
        part = message.alternatives.add()
        part.millicpus, part.memory, part.milligpus, part.gpu_memory, part.device, labels, part.profile = need
        for key, value in labels:
            part.labels.add(key=key, value=value)
    if shape.checkpoints != USUAL:
        checkpoints = message.checkpoints
        (
            checkpoints.every_ms, checkpoints.keep, checkpoints.copies, checkpoints.metric, checkpoints.maximize,
        ) = shape.checkpoints  # fmt: skip
    retries = message.retries
    retries.max, retries.backoff_ms, retries.factor_milli, retries.max_delay_ms, not_on = shape.retries
    retries.not_on.extend(not_on)
    return message.SerializeToString()


@lru_cache(maxsize=4096)  # bounded: one entry per resource class, however many tasks it has
def shape_of(data: bytes) -> Shape:
    """The same object for the same bytes, as long as they are in use."""
    message = pb.Shape.FromString(data)
    retries = message.retries
    return Shape(
        tuple(
            Resources(
                part.millicpus,
                part.memory,
                part.milligpus,
                part.gpu_memory,
                intern(part.device),
                tuple((label.key, label.value) for label in part.labels),
                part.profile,
            )
            for part in message.alternatives
        ),
        message.kind,
        message.python,
        message.cwd,
        Retries(retries.max, retries.backoff_ms, retries.factor_milli, retries.max_delay_ms, tuple(retries.not_on)),
        message.timeout_ms,
        message.hold,
        _checkpointing(message.checkpoints) if message.HasField("checkpoints") else USUAL,
    )


def _checkpointing(m: pb.Checkpointing) -> Checkpointing:
    return Checkpointing(m.every_ms, m.keep, m.copies, m.metric, m.maximize)


def put_job(message: pb.Job, job: Job) -> None:
    (
        message.id,
        message.digest,
        message.name,
        message.kind,
        message.priority,
        message.max_parallel,
        message.metric,
        message.maximize,
        message.submitted_ms,
        message.source,
        message.size,
    ) = job


def get_job(m: pb.Job) -> Job:
    return Job(
        intern(m.id),
        m.digest,
        m.name,
        m.kind,
        m.priority,
        m.max_parallel,
        m.metric,
        m.maximize,
        m.submitted_ms,
        m.source,
        m.size,
    )


def put_task(message: pb.Task, task: Task) -> None:
    message.id, message.job, message.index, message.digest, shape, message.payload, needs = task
    message.needs.extend(needs)
    message.shape = shape_bytes(shape)


def get_task(m: pb.Task) -> Task:
    return Task(m.id, intern(m.job), m.index, m.digest, shape_of(m.shape), m.payload, tuple(m.needs))


def put_attempt(message: pb.Attempt, attempt: Attempt) -> None:
    (
        message.task,
        message.id,
        message.ended,
        message.round,
        message.phase,
        message.run,
        message.node,
        outcome,
        saved,
        message.resumed,
    ) = attempt
    for checkpoint in saved:
        put_checkpoint(message.saved.add(), checkpoint)
    if outcome is not NO_OUTCOME:
        part = message.outcome
        (
            part.code,
            part.message,
            part.detail,
            part.result,
            part.digest,
            part.metrics,
            part.started_ms,
            part.finished_ms,
            part.micros,
            part.blob,
            part.log,
        ) = outcome


def get_attempt(m: pb.Attempt) -> Attempt:
    outcome = NO_OUTCOME
    if m.HasField("outcome"):
        o = m.outcome
        outcome = Outcome(
            o.code,
            o.message,
            o.detail,
            o.result,
            o.digest,
            o.metrics,
            o.started_ms,
            o.finished_ms,
            o.micros,
            o.blob,
            o.log,
        )
    saved = tuple([get_checkpoint(checkpoint) for checkpoint in m.saved]) if m.saved else ()
    return Attempt(m.task, m.id, m.ended, m.round, m.phase, m.run, intern(m.node), outcome, saved, m.resumed)


def put_checkpoint(m: pb.Checkpoint, checkpoint: Checkpoint) -> None:
    m.run, m.step, m.attempt, m.number, m.blob, m.size, m.metrics, m.saved_ms = checkpoint


def get_checkpoint(m: pb.Checkpoint) -> Checkpoint:
    return Checkpoint(m.run, m.step, m.attempt, m.number, m.blob, m.size, m.metrics, m.saved_ms)


def _put_acceptance(message: pb.Acceptance, acceptance: Acceptance) -> None:
    message.task, message.attempt, claim, message.digest = acceptance
    message.claim = _claim_bytes(claim)


def _get_acceptance(m: pb.Acceptance) -> Acceptance:
    return Acceptance(m.task, m.attempt, _claim_of(m.claim), m.digest)


def _put_run(message: pb.Run, run: Run) -> None:
    message.task, message.run, message.cancelled = run


def _get_run(m: pb.Run) -> Run:
    return Run(m.task, m.run, m.cancelled)


def _put_ended(message: pb.Ended, ended: Ended) -> None:
    message.task, message.run, message.status, message.code, message.message = ended


def _get_ended(m: pb.Ended) -> Ended:
    return Ended(m.task, m.run, m.status, m.code, m.message)


def _put_register(message: pb.Register, register: Register) -> None:
    message.scope, message.field, message.version, message.node, message.value = register


def _get_register(m: pb.Register) -> Register:
    return Register(m.scope, intern(m.field), m.version, intern(m.node), m.value)


def _put_mesh(message: pb.Mesh, mesh: Mesh) -> None:
    message.id, message.mature = mesh


def _get_mesh(m: pb.Mesh) -> Mesh:
    return Mesh(m.id, m.mature)


def _put_claimed(message: pb.Claimed, claimed: Claimed) -> None:
    put_claim(message.claim, claimed.claim)


def _get_claimed(m: pb.Claimed) -> Claimed:
    return Claimed(get_claim(m.claim))


def _put_lived(message: pb.Lived, lived: Lived) -> None:
    message.node, message.number, message.life = lived


def _get_lived(m: pb.Lived) -> Lived:
    return Lived(intern(m.node), m.number, intern(m.life))


def _put_owner(message: pb.Owner, owner: Owner) -> None:
    message.job, message.task, message.handovers, message.owner = owner


def _get_owner(m: pb.Owner) -> Owner:
    return Owner(intern(m.job), m.task, m.handovers, intern(m.owner))


def _put_deleted(message: pb.Deleted, deleted: Deleted) -> None:
    message.job = deleted.job


def _get_deleted(m: pb.Deleted) -> Deleted:
    return Deleted(m.job)


_ENCODERS: dict[type[Record], Callable[[pb.Record, Any], None]] = {
    Job: lambda out, record: put_job(out.job, record),
    Task: lambda out, record: put_task(out.task, record),
    Attempt: lambda out, record: put_attempt(out.attempt, record),
    Acceptance: lambda out, record: _put_acceptance(out.acceptance, record),
    Run: lambda out, record: _put_run(out.run, record),
    Ended: lambda out, record: _put_ended(out.ended, record),
    Register: lambda out, record: _put_register(out.register, record),
    Mesh: lambda out, record: _put_mesh(out.mesh, record),
    Claimed: lambda out, record: _put_claimed(out.claimed, record),
    Lived: lambda out, record: _put_lived(out.lived, record),
    Owner: lambda out, record: _put_owner(out.owner, record),
    Deleted: lambda out, record: _put_deleted(out.deleted, record),
}

_DECODERS: dict[str, Callable[[Any], Record]] = {
    "job": get_job,
    "task": get_task,
    "attempt": get_attempt,
    "acceptance": _get_acceptance,
    "run": _get_run,
    "ended": _get_ended,
    "register": _get_register,
    "mesh": _get_mesh,
    "claimed": _get_claimed,
    "lived": _get_lived,
    "owner": _get_owner,
    "deleted": _get_deleted,
}
