"""Calls repeated until answered, watches that resume, patience that ends; and which error says what."""

from __future__ import annotations

import threading
import time

import grpc
import pytest

from mesh import MeshClient, MeshError, MeshTimeout, NoLeader, NoMeshFound, NotFound
from mesh.client import channel as channels
from mesh.client.address import Address, Finder
from mesh.client.channel import error_of
from mesh.core import errors
from mesh.core.lattice import Job
from mesh.v1 import client_pb2 as pb
from tests.client.fake_server import FakeMesh


def double(n: int) -> int:
    return 2 * n


@pytest.mark.parametrize("error", [None, NoLeader("nobody leads", "the leader is gone", "wait")])
def test_a_call_is_repeated_until_it_is_answered(client: MeshClient, mesh: FakeMesh, error: MeshError | None) -> None:
    mesh.refuse("Submit", error, 3)
    assert client.submit(double, 4).result(10) == 8
    assert mesh.calls["Submit"] == 4


def test_an_answer_that_was_lost_does_no_harm(client: MeshClient, mesh: FakeMesh) -> None:
    """The submission arrived and its answer did not: it is the same submission when repeated."""
    original = mesh.Submit
    lost = []

    def losing(request: object, context: grpc.ServicerContext) -> object:
        reply = original(request, context)
        if not lost:
            lost.append(1)
            context.abort(grpc.StatusCode.UNAVAILABLE, "lost")
        return reply

    mesh.Submit = losing
    mesh.stop()
    mesh.start()
    assert client.submit(double, 4).result(10) == 8
    assert mesh.calls["Submit"] == 2
    assert len(mesh.tasks) == 1


def test_a_refusal_is_not_repeated(client: MeshClient, mesh: FakeMesh) -> None:
    mesh.refuse("Submit", errors.Conflict("task j.1 exists with other contents"))
    with pytest.raises(errors.Conflict, match="other contents"):
        client.submit(double, 4).result(10)
    assert mesh.calls["Submit"] == 1
    assert client.submit(double, 5).result(10) == 10  # the next one is not affected


def test_submissions_share_a_stream_until_it_breaks(client: MeshClient, mesh: FakeMesh) -> None:
    assert [client.submit(double, n).result(10) for n in range(3)] == [0, 2, 4]
    assert (mesh.calls["Submit"], mesh.calls["SubmitEach"]) == (3, 1)
    mesh.stop()  # the stream that waits for a next submission ends, and that is no attempt that failed
    mesh.start()
    assert [client.submit(double, n).result(10) for n in range(3)] == [0, 2, 4]
    assert mesh.calls["SubmitEach"] == 2


async def test_a_submission_without_an_answer_is_given_up_and_repeated(
    mesh: FakeMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "CALL_TIMEOUT", 0.2)
    original, hung = mesh.Submit, threading.Event()

    def hanging(request: pb.SubmitRequest, context: grpc.ServicerContext) -> pb.SubmitReply:
        if not hung.is_set():
            hung.set()
            over = threading.Event()
            context.add_callback(over.set)
            over.wait(10)
        return original(request, context)

    mesh.Submit = hanging  # type: ignore[method-assign]
    channel = channels.Channel(Finder(mesh.address))
    job = Job("j1", "digest")
    assert (await channel.submit(job, []))[0] == 0
    assert hung.is_set()
    assert mesh.calls["SubmitEach"] == 2
    await channel.close()


async def test_a_stream_that_breaks_under_a_submission_is_a_node_that_went_away(mesh: FakeMesh) -> None:
    class Breaking:
        def done(self) -> bool:
            return False

        async def write(self, request: object) -> None:
            raise _Failure(grpc.StatusCode.INTERNAL, details="Internal error from Core")

    channel = channels.Channel(Finder(mesh.address))
    await channel.connect()
    channel._idle.append(Breaking())
    assert (await channel.submit(Job("j1", "digest"), []))[0] == 0
    assert mesh.calls["SubmitEach"] == 1
    await channel.close()


def test_a_broken_watch_resumes(client: MeshClient, mesh: FakeMesh) -> None:
    assert client.submit(double, 1).result(10) == 2
    mesh.holding = True
    future = client.submit(double, 2)
    mesh.until(lambda: future.task_id in mesh.tasks)
    mesh.break_watches()
    mesh.until(lambda: mesh.calls["Watch"] >= 2)
    mesh.run_held()
    assert future.result(10) == 4


def test_a_daemon_that_is_started_again_is_waited_for(client: MeshClient, mesh: FakeMesh) -> None:
    mesh.holding = True
    future = client.submit(double, 2)
    mesh.until(lambda: future.task_id in mesh.tasks)
    mesh.stop()
    while_away = client.submit(double, 3)
    mesh.holding = False
    mesh.start()
    mesh.run_held()
    assert (future.result(20), while_away.result(20)) == (4, 6)


def test_patience_ends(mesh: FakeMesh) -> None:
    with MeshClient(mesh.address, patience=1.0) as client:
        mesh.holding = True
        future = client.submit(double, 2)
        mesh.until(lambda: future.task_id in mesh.tasks)
        mesh.until(lambda: mesh.calls["Watch"] == 1)
        mesh.stop()
        with pytest.raises(NoMeshFound, match=r"no contact with the mesh for .* s.*goes on without this client"):
            future.result(20)
        mesh.start()
        mesh.holding = False
        assert client.submit(double, 3).result(20) == 6  # a new call tries anew


def test_patience_counts_from_the_last_contact(mesh: FakeMesh) -> None:
    with MeshClient(mesh.address, patience=1.0) as client:
        begun = time.monotonic()
        while time.monotonic() < begun + 1.1:  # the watch is older than the patience, and was heard just now
            assert client.submit(double, 1).result(10) == 2
        mesh.holding = True
        future = client.submit(double, 2)
        mesh.until(lambda: future.task_id in mesh.tasks)
        watches = mesh.calls["Watch"]
        mesh.break_watches()
        mesh.until(lambda: mesh.calls["Watch"] > watches)
        mesh.run_held()
        assert future.result(10) == 4


async def test_the_address_is_looked_up_again_only_after_a_failure(mesh: FakeMesh) -> None:
    class Counting(Finder):
        asked = 0

        async def find(self) -> Address:
            self.asked += 1
            return await super().find()

    finder = Counting(mesh.address)
    channel = channels.Channel(finder)
    await channel.status()
    mesh.refuse("Status", None)
    await channel.status()
    await channel.status()
    await channel.close()
    assert finder.asked == 2


def test_a_leaderless_mesh_is_waited_for_as_long_as_the_patience(mesh: FakeMesh) -> None:
    with MeshClient(mesh.address, patience=0.2) as client:
        mesh.refuse("Peers", NoLeader("nobody leads"), 100)
        with pytest.raises(NoLeader, match="nobody leads"):
            client.peers()
        assert mesh.calls["Peers"] > 2


def test_an_address_where_nobody_ever_answered_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "FIRST_CONTACT", 0.1)
    with (
        MeshClient("unix:/nonexistent/socket", patience=600) as client,
        pytest.raises(NoMeshFound, match=r"no node answers at unix:/nonexistent/socket.*is meshd running"),
    ):
        client.peers()


def test_a_silent_stream_asks_whether_the_node_lives(
    client: MeshClient, mesh: FakeMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "SILENCE", 0.05)
    mesh.holding = True
    future = client.submit(double, 2)
    mesh.until(lambda: mesh.calls["Status"] >= 2)
    mesh.refuse("Status", None)
    mesh.until(lambda: mesh.calls["Watch"] >= 2)  # the probe was not answered, so it was opened again
    mesh.run_held()
    assert future.result(10) == 4


def test_a_stream_that_is_heard_is_not_asked(
    client: MeshClient, mesh: FakeMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "SILENCE", 0.5)
    begun = time.monotonic()
    while time.monotonic() < begun + 1.2:
        assert client.submit(double, 1).result(10) == 2
    assert (mesh.calls["Watch"], mesh.calls["Status"]) == (1, 0)


def test_unknown_things(client: MeshClient) -> None:
    with pytest.raises(NotFound, match=r"there is no task j1\.1; `meshctl tasks`") as caught:
        client.task("j1.1")
    assert caught.value.hint == ""
    with pytest.raises(NotFound):
        client.job("j1").status()


@pytest.mark.parametrize("method", ["submit", "watch"])
def test_a_defect_of_the_client_leaves_nobody_waiting(
    client: MeshClient, mesh: FakeMesh, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def broken(*_: object) -> object:
        raise ValueError("unforeseen")

    mesh.holding = True
    monkeypatch.setattr(channels.Channel, method, broken)
    with pytest.raises(MeshError, match="ValueError: unforeseen; this is a defect"):
        client.submit(double, 1).result(10)


class _Failure(grpc.aio.AioRpcError):
    def __init__(self, code: grpc.StatusCode, name: str = "", details: str = "what; why; what to do; and more") -> None:
        trailing = grpc.aio.Metadata(("mesh-error", name)) if name else grpc.aio.Metadata()
        super().__init__(code, grpc.aio.Metadata(), trailing, details=details)


@pytest.mark.parametrize("name", [name for name in dir(errors) if isinstance(getattr(errors, name), type)])
def test_every_error_comes_back_as_itself(name: str) -> None:
    kind = getattr(errors, name)
    if issubclass(kind, MeshError):
        error = error_of(_Failure(grpc.StatusCode.FAILED_PRECONDITION, name), None)
        assert type(error) is kind
        assert str(error) == "what; why; what to do; and more"


@pytest.mark.parametrize(
    ("code", "name", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, "", NoMeshFound),
        (grpc.StatusCode.CANCELLED, "", NoMeshFound),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "", MeshTimeout),
        (grpc.StatusCode.UNIMPLEMENTED, "", MeshError),
        (grpc.StatusCode.INTERNAL, "", MeshError),
        (grpc.StatusCode.INTERNAL, "ErrorOfANewerVersion", MeshError),
        (grpc.StatusCode.INTERNAL, "annotations", MeshError),  # a name in that module, and no error
    ],
)
def test_statuses_without_a_known_error(code: grpc.StatusCode, name: str, kind: type[MeshError]) -> None:
    assert type(error_of(_Failure(code, name), None)) is kind


@pytest.mark.parametrize(
    ("details", "why"),
    [
        ("failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Connection refused", "refused;"),
        ("DNS resolution failed for nohost:1: C-ares status is not ARES_SUCCESS: [x: Domain name not found]", "found;"),
    ],
)
def test_why_nobody_answers_is_the_end_of_what_grpc_says(details: str, why: str) -> None:
    assert f"{why} is meshd running there?" in str(error_of(_Failure(grpc.StatusCode.UNAVAILABLE, "", details), None))
