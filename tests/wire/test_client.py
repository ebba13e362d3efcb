from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.lattice import Job, Shape, Task
from mesh.v1 import client_pb2, ledger_pb2
from mesh.wire.client import (
    JobCounts,
    TaskResult,
    Watched,
    decode_submit,
    decode_watched,
    encode_submit,
    encode_watched,
)
from mesh.wire.errors import WireError
from tests.wire.strategies import fields, values

COUNTS = st.builds(JobCounts, *[st.integers(0, 2**32 - 1)] * 5)


@given(values(Job), st.lists(values(Task), max_size=4))
@settings(max_examples=60)
def test_a_submission_comes_back_as_it_was(job: Job, tasks: list[Task]) -> None:
    tasks = [task._replace(job=job.id) for task in tasks]
    request = client_pb2.SubmitRequest.FromString(encode_submit(job, tasks).SerializeToString())
    assert decode_submit(request) == (job, tuple(tasks))


def test_tasks_of_a_submission_share_shape_and_job_and_carry_no_job_of_their_own() -> None:
    job = Job("a-job-of-some-length", "d")
    request = encode_submit(job, [Task(f"t{i}", job.id, i, "d", Shape(kind="a"), b"") for i in range(2)])
    assert request.SerializeToString().count(job.id.encode()) == 1
    back, (a, b) = decode_submit(request)
    assert a.shape is b.shape
    assert a.job is b.job is back.id


def test_a_task_belongs_to_the_job_it_came_with() -> None:
    task = ledger_pb2.Task(id="t", job="another")
    _, (back,) = decode_submit(client_pb2.SubmitRequest(job=ledger_pb2.Job(id="mine"), tasks=[task]))
    assert back.job == "mine"


@given(st.builds(Watched, st.lists(values(TaskResult), max_size=4).map(tuple), COUNTS, st.text(), st.booleans()))
@settings(max_examples=60)
def test_what_is_watched_comes_back_as_it_was(watched: Watched) -> None:
    reply = client_pb2.WatchReply.FromString(encode_watched(*watched).SerializeToString())
    assert decode_watched(reply) == watched


@pytest.mark.parametrize("kind", [TaskResult, JobCounts])
def test_messages_name_the_fields_that_the_tuples_have(kind: type) -> None:
    assert tuple(getattr(client_pb2, kind.__name__).DESCRIPTOR.fields_by_name) == tuple(fields(kind))


def test_malformed_and_unencodable_submissions_raise() -> None:
    job = Job("j", "d")
    with pytest.raises(WireError, match="submission cannot be read"):
        decode_submit(client_pb2.SubmitRequest(tasks=[ledger_pb2.Task(shape=b"\xff")]))
    with pytest.raises(WireError, match="submission cannot be written"):
        encode_submit(job, [Task("t", "j", 2**63, "d", Shape(), b"")])
    with pytest.raises(WireError, match="result cannot be written"):
        encode_watched([TaskResult("t", "failed", detail="\udcff")], JobCounts(), "", False)
    with pytest.raises(WireError, match="result cannot be written"):
        encode_watched([], JobCounts(pending=-1), "", False)
