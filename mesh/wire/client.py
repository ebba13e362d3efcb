"""The two calls that carry many tasks, Submit and Watch, to messages and back. The others are plain messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mesh.core.lattice import Job, Task
from mesh.v1 import client_pb2 as pb
from mesh.wire.errors import UNREADABLE, UNWRITABLE, unreadable, unwritable
from mesh.wire.ledger import get_job, put_job, put_task, shape_of


class TaskResult(NamedTuple):
    """A task that ended, as its user sees it."""

    id: str
    state: str  # succeeded, failed, cancelled
    result: bytes = b""
    digest: str = ""
    code: str = ""
    message: str = ""
    detail: str = ""  # the remote traceback
    node: str = ""
    attempt: str = ""
    metrics: bytes = b""  # JSON object of last values
    blob: str = ""  # the result, where it is large; ``result`` is empty then


class JobCounts(NamedTuple):
    pending: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0


class Watched(NamedTuple):
    """One step of a Watch: what ended since the last one, and how the job stands. ``done``: nothing follows."""

    results: tuple[TaskResult, ...]
    counts: JobCounts
    state: str
    done: bool


def encode_submit(job: Job, tasks: Iterable[Task]) -> pb.SubmitRequest:
    """Tasks of that job; their job's id does not travel with each."""
    request = pb.SubmitRequest()
    add = request.tasks.add
    try:
        put_job(request.job, job)
        for task in tasks:
            message = add()
            put_task(message, task)
            message.job = ""
    except UNWRITABLE as error:
        raise unwritable("submission", error) from error
    return request


def decode_submit(request: pb.SubmitRequest) -> tuple[Job, tuple[Task, ...]]:
    """Every task belongs to the job, whatever it says itself."""
    try:
        job = get_job(request.job)
        return job, tuple(
            [Task(m.id, job.id, m.index, m.digest, shape_of(m.shape), m.payload, tuple(m.needs)) for m in request.tasks]
        )
    except UNREADABLE as error:
        raise unreadable("submission", error) from error


def encode_watched(results: Sequence[TaskResult], counts: JobCounts, state: str, done: bool) -> pb.WatchReply:
    reply = pb.WatchReply(state=state, done=done)
    try:
        (
            reply.counts.pending,
            reply.counts.running,
            reply.counts.succeeded,
            reply.counts.failed,
            reply.counts.cancelled,
        ) = counts
        add = reply.results.add
        for result in results:
            m = add()
            (
                m.id,
                m.state,
                m.result,
                m.digest,
                m.code,
                m.message,
                m.detail,
                m.node,
                m.attempt,
                m.metrics,
                m.blob,
            ) = result
    except UNWRITABLE as error:
        raise unwritable("task's result", error) from error
    return reply


def decode_watched(reply: pb.WatchReply) -> Watched:
    counts = reply.counts
    return Watched(
        tuple(
            [
                TaskResult(
                    m.id,
                    m.state,
                    m.result,
                    m.digest,
                    m.code,
                    m.message,
                    m.detail,
                    m.node,
                    m.attempt,
                    m.metrics,
                    m.blob,
                )
                for m in reply.results
            ]
        ),
        JobCounts(counts.pending, counts.running, counts.succeeded, counts.failed, counts.cancelled),
        reply.state,
        reply.done,
    )
