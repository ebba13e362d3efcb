"""The Client service over real gRPC, above a machine that is a script."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from mesh.blob.manifest import Chunk, digest, manifest_of, name, parse
from mesh.core import effects as fx
from mesh.core import events as ev
from mesh.core.errors import BlobCorrupt, BlobMissing, NoLeader, NotFound
from mesh.core.lattice import Job, Shape, Task
from mesh.core.valid import PAYLOAD_BYTES
from mesh.shell import server
from mesh.shell.server import Server
from mesh.shell.server_watch import REPLY_RESULTS, STANDING_EVERY, Standing
from mesh.v1 import client_pb2 as pb
from mesh.v1.client_pb2_grpc import ClientStub
from mesh.wire.client import JobCounts, TaskResult, Watched, decode_watched, encode_submit
from mesh.wire.parts import (
    CHUNK,
    MANIFEST,
    Piece,
    Progress,
    Stored,
    get_request,
    put_part,
    read_get_part,
    read_have,
    read_stored,
)

JOB = Job("j1", "digest", "name")


class World:
    """Mind, Results and Logs in one."""

    def __init__(self, name: str) -> None:
        self.name, self.leads, self.leader = name, True, ""
        self.asked: list[ev.Event] = []
        self.answer: Callable[[Any], fx.Answer] = lambda event: fx.Answer(event.call, count=1)
        self.disk = asyncio.Event()
        self.disk.set()
        self.states: dict[str, TaskResult] = {}
        self.total = 0
        self.open_ended = False
        self.reads = 0
        self.where: dict[str, str] = {}
        self.documents = 0

    def leading(self) -> bool:
        return self.leads

    def leader_address(self) -> str:
        return self.leader

    async def ask(self, event: Callable[[int], ev.Event]) -> fx.Answer:
        made = event(7)
        self.asked.append(made)
        return self.answer(made)

    async def safe(self) -> None:
        await self.disk.wait()

    async def document(self, name: str, *arguments: str) -> Any:
        self.documents += 1
        if name == "Job":
            raise NotFound(f"there is no job {arguments[0]}", "it was never submitted", "see meshctl jobs")
        if name == "Explain":
            raise ZeroDivisionError("oops")
        return {"by": self.name, "name": name, "arguments": arguments}

    async def ended(self, job: str) -> list[str]:
        if job != "j1":
            raise NotFound(f"there is no job {job}")
        return list(self.states)

    def result(self, job: str, task: str) -> TaskResult | None:
        self.reads += 1
        return self.states.get(task)

    def standing(self, job: str) -> Standing:
        done = len(self.states)
        counts = JobCounts(pending=self.total - done, succeeded=done)
        return Standing(counts, "succeeded" if done == self.total else "running", done == self.total, self.open_ended)

    def place(self, target: str, attempt: str) -> tuple[str, str]:
        if target not in self.where:
            raise NotFound(f"there is no task {target}")
        return self.where[target], attempt or "newest"

    async def read(self, target: str, attempt: str, follow: bool) -> AsyncIterator[bytes]:
        for part in (self.name, target, attempt, str(follow)):
            yield part.encode()


class Keeper:
    """Keeps blobs in memory, and as many as were put are on ``b`` as well."""

    def __init__(self) -> None:
        self.manifests: dict[str, bytes] = {}
        self.chunks: dict[tuple[str, int], bytes] = {}
        self.written: list[int] = []
        self.left: list[str] = []
        self.elsewhere: dict[str, list[bytes]] = {}  # what can be fetched: a manifest and chunks

    async def begin(self, manifest: bytes) -> int:
        blob = name(manifest)
        self.manifests[blob] = manifest
        return sum(1 << index for held, index in self.chunks if held == blob)

    async def leave(self, blob: str) -> None:
        self.left.append(blob)

    async def write(self, blob: str, index: int, data: bytes) -> None:
        if digest(data) != parse(self.manifests[blob], blob).chunks[index].digest:
            raise BlobCorrupt(f"chunk {index} is wrong")
        self.chunks[blob, index] = data
        self.written.append(index)

    async def keep(self, blob: str, copies: int) -> Stored:
        return Stored(("50-A", "50-B"), f"{copies} were asked for")

    async def fetch(self, blob: str) -> AsyncIterator[Progress]:
        if blob not in self.manifests:
            if blob not in self.elsewhere:
                raise BlobMissing("nobody has it", "none", "put it")
            self.manifests[blob], *chunks = self.elsewhere[blob]
            self.chunks.update({(blob, index): chunk for index, chunk in enumerate(chunks)})
            yield Progress(3, 9)

    async def read(self, blob: str, first: int) -> AsyncIterator[bytes]:
        yield self.manifests[blob]
        for index in range(first, len(parse(self.manifests[blob], blob).chunks)):
            yield self.chunks[blob, index]


class Node:
    def __init__(self, name: str) -> None:
        self.world = World(name)
        self.keeper = Keeper()
        self.service = Server(self.world, self.world, self.world, self.keeper)

    async def start(self) -> Node:
        self.server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
        self.server.add_generic_rpc_handlers((self.service.handlers(),))
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        await self.server.start()
        self.channel = grpc.aio.insecure_channel(self.address)
        self.stub = ClientStub(self.channel)
        return self

    async def close(self) -> None:
        await self.channel.close()
        await self.service.close()
        await self.server.stop(None)


@pytest.fixture
async def make() -> AsyncIterator[Callable[[str], Any]]:
    nodes: list[Node] = []

    async def start(name: str) -> Node:
        nodes.append(await Node(name).start())
        return nodes[-1]

    yield start
    for node in nodes:
        await node.close()


@pytest.fixture
async def node(make: Callable[[str], Any]) -> Node:
    found: Node = await make("a")
    return found


@pytest.fixture
async def pair(make: Callable[[str], Any]) -> tuple[Node, Node]:
    """A follower and its leader."""
    follower, leader = await make("follower"), await make("leader")
    follower.world.leads, follower.world.leader = False, leader.address
    return follower, leader


async def end_of(call: Any) -> None:
    if not hasattr(call, "read"):
        await call
        return
    while await call.read() is not grpc.aio.EOF:
        pass


async def failure(call: Any) -> tuple[str, grpc.StatusCode, str]:
    """The class named, the status and the text."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await end_of(call)
    error = raised.value
    names = [value for key, value in error.trailing_metadata() or () if key == "mesh-error"]
    return (names[0] if names else ""), error.code(), error.details() or ""


def submission(size: int = 3) -> pb.SubmitRequest:
    return encode_submit(JOB, [Task("j1.t1", "j1", 0, "d", Shape(), b"x" * size)])


def result(name: str, size: int = 1) -> TaskResult:
    return TaskResult(name, "succeeded", b"r" * size, "digest", detail="trace", node="50-A")


class Watch:
    """A watch, and all that it told."""

    def __init__(self, node: Node, results: bool = True) -> None:
        self.call = node.stub.Watch(pb.WatchRequest(job="j1", results=results))
        self.told: list[Watched] = []

    async def next(self) -> Watched:
        async with asyncio.timeout(5):
            reply = await self.call.read()
        assert reply is not grpc.aio.EOF, "the stream ended"
        self.told.append(decode_watched(reply))
        return self.told[-1]

    async def until(self, true: Callable[[Watched], bool]) -> Watched:
        while not true(await self.next()):
            pass
        return self.told[-1]

    @property
    def ids(self) -> list[str]:
        return [result.id for reply in self.told for result in reply.results]


async def test_submission_is_stepped_and_answered(node: Node) -> None:
    node.world.answer = lambda event: fx.Answer(event.call, count=1, durable_on=("50-A", "50-B"))
    reply = await node.stub.Submit(submission())
    assert (reply.count, list(reply.durable_on)) == (1, ["50-A", "50-B"])
    assert node.world.asked == [ev.Submitted(7, JOB, (Task("j1.t1", "j1", 0, "d", Shape(), b"xxx"),))]


async def test_refusal_of_the_machine_reaches_the_caller_by_name(node: Node) -> None:
    node.world.answer = lambda event: fx.Answer(
        event.call, "Conflict", "job j1 exists; with other tasks; use another id"
    )
    assert await failure(node.stub.Submit(submission())) == (
        "Conflict",
        grpc.StatusCode.ALREADY_EXISTS,
        "job j1 exists; with other tasks; use another id",
    )


@pytest.mark.parametrize(("job", "name"), [("j1", "t1"), ("j1", "j1."), ("j1", "j10.1"), ("j.1", "j.1.1")])
async def test_a_task_that_is_not_named_after_its_job_is_refused(node: Node, job: str, name: str) -> None:
    """Of a deleted job's records some name only the task."""
    request = encode_submit(JOB._replace(id=job), [Task(name, job, 0, "d", Shape(), b"")])
    kind, _, text = await failure(node.stub.Submit(request))
    assert kind == "InvalidSpec"
    assert text.startswith("nothing was submitted; a ")
    assert text.endswith("is not; submit it under other ids") or "has no dot" in text
    assert not node.world.asked


@pytest.mark.parametrize(
    ("job", "task", "owner", "why"),
    [
        ({"submitted_ms": -1}, {}, "", "job j1 was submitted at -1 ms"),
        ({}, {"index": -1}, "", "task j1.t1 has number -1 in its job"),
        ({}, {"shape": Shape(())}, "", "task j1.t1 does not say what it needs"),
        ({}, {}, "me", "'me' is no id of a node"),
    ],
)
async def test_what_no_other_node_would_take_from_this_one_is_refused(
    node: Node, job: dict[str, Any], task: dict[str, Any], owner: str, why: str
) -> None:
    request = encode_submit(JOB._replace(**job), [Task("j1.t1", "j1", 0, "d", Shape(), b"")._replace(**task)])
    request.owner = owner
    kind, _, text = await failure(node.stub.Submit(request))
    assert kind == "InvalidSpec"
    assert text.startswith(f"nothing was submitted; {why}")
    assert not node.world.asked


async def test_too_large_a_task_is_refused(node: Node) -> None:
    name, code, text = await failure(node.stub.Submit(submission(PAYLOAD_BYTES + 1)))
    assert (name, code) == ("QuotaExceeded", grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert "task j1.t1 is too large" in text
    assert node.world.asked == []


async def test_submissions_of_a_stream_are_answered_one_after_another(node: Node) -> None:
    node.world.answer = lambda event: fx.Answer(event.call, count=len(node.world.asked), durable_on=("50-A",))
    call = node.stub.SubmitEach()
    for number in (1, 2):
        await call.write(submission())
        reply = await call.read()
        assert (reply.count, list(reply.durable_on)) == (number, ["50-A"])
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_the_first_submission_that_is_refused_ends_its_stream(node: Node) -> None:
    node.world.answer = lambda event: fx.Answer(event.call, "Conflict", "job j1 exists")
    call = node.stub.SubmitEach()
    await call.write(submission())
    assert await failure(call) == ("Conflict", grpc.StatusCode.ALREADY_EXISTS, "job j1 exists")


async def test_a_submitter_that_leaves_is_no_defect(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    asked = asyncio.Event()

    async def never(event: Callable[[int], ev.Event]) -> fx.Answer:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    for hold in (False, True):  # it leaves between two submissions, and while one is not answered
        if hold:
            node.world.ask = never  # type: ignore[method-assign]
        channel = grpc.aio.insecure_channel(node.address)
        call = ClientStub(channel).SubmitEach()
        await call.write(submission())
        await (asked.wait() if hold else call.read())
        await channel.close(None)
        for _ in range(3):
            await node.stub.Status(pb.Nothing())
    assert "defect" not in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("method", "request_", "event"),
    [
        ("Cancel", pb.Target(id="t1"), ev.CancelAsked(7, "t1")),
        ("Pause", pb.PauseRequest(job="j1", paused=True), ev.PauseAsked(7, "j1", True)),
        ("Retry", pb.Target(id="j1"), ev.RetryAsked(7, "j1")),  # of an older client
        ("Retry", pb.RetryRequest(id="j1", force=True), ev.RetryAsked(7, "j1", True)),
        ("Priority", pb.PriorityRequest(target="t1", priority=9), ev.PriorityAsked(7, "t1", 9)),
        ("Delete", pb.Target(id="j1"), ev.DeleteAsked(7, "j1")),
    ],
)
async def test_control_calls_are_events(node: Node, method: str, request_: Any, event: ev.Event) -> None:
    node.world.answer = lambda event: fx.Answer(event.call, count=3)
    assert (await getattr(node.stub, method)(request_)).count == 3
    assert node.world.asked == [event]


@pytest.mark.parametrize(
    ("method", "request_", "arguments"),
    [
        ("Peers", pb.Nothing(), []),
        ("Jobs", pb.Nothing(), []),
        ("Tasks", pb.TasksRequest(job="j1", state="failed"), ["j1", "failed"]),
        ("Task", pb.Target(id="t1"), ["t1"]),
        ("Status", pb.Nothing(), []),
    ],
)
async def test_questions_are_answered_by_documents(
    node: Node, method: str, request_: Any, arguments: list[str]
) -> None:
    reply = await getattr(node.stub, method)(request_)
    assert json.loads(reply.json) == {"by": "a", "name": method, "arguments": arguments}


async def test_nothing_is_shown_before_it_is_on_disk(node: Node) -> None:
    node.world.disk.clear()
    call = asyncio.ensure_future(node.stub.Jobs(pb.Nothing()))
    assert json.loads((await node.stub.Status(pb.Nothing())).json)["by"] == "a"  # which waits for no disk
    while node.world.documents < 2:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert not call.done()
    node.world.disk.set()
    assert json.loads((await call).json)["name"] == "Jobs"


async def test_error_of_a_question_reads_what_why_what_to_do(node: Node) -> None:
    assert await failure(node.stub.Job(pb.Target(id="j9"))) == (
        "NotFound",
        grpc.StatusCode.NOT_FOUND,
        "there is no job j9; it was never submitted; see meshctl jobs",
    )


async def test_defect_is_logged_and_named(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    name, code, text = await failure(node.stub.Explain(pb.Target(id="t1")))
    assert (name, code) == ("MeshError", grpc.StatusCode.INTERNAL)
    assert "ZeroDivisionError" in text
    assert "Traceback" in caplog.text


async def test_unreadable_request_is_invalid(node: Node) -> None:
    for method in ("Submit", "Tasks"):
        name, code, _ = await failure(node.channel.unary_unary(f"/mesh.v1.Client/{method}")(b"\xff\xff\xff"))
        assert (name, code) == ("InvalidSpec", grpc.StatusCode.INVALID_ARGUMENT)


# Forwarding.


async def test_follower_passes_calls_on(pair: tuple[Node, Node]) -> None:
    follower, leader = pair
    assert json.loads((await follower.stub.Jobs(pb.Nothing())).json)["by"] == "leader"
    assert (await follower.stub.Submit(submission())).count == 1
    stream = follower.stub.SubmitEach()
    await stream.write(submission())
    assert (await stream.read()).count == 1
    assert len(leader.world.asked) == 2
    assert follower.world.asked == []


async def test_status_is_each_nodes_own(pair: tuple[Node, Node]) -> None:
    assert json.loads((await pair[0].stub.Status(pb.Nothing())).json)["by"] == "follower"


async def test_leaders_error_passes_unchanged(pair: tuple[Node, Node]) -> None:
    name, code, text = await failure(pair[0].stub.Job(pb.Target(id="j9")))
    assert (name, code) == ("NotFound", grpc.StatusCode.NOT_FOUND)
    assert text.startswith("there is no job j9")


async def test_without_a_leader_try_again(pair: tuple[Node, Node]) -> None:
    follower, _ = pair
    follower.world.leader = ""
    assert (await failure(follower.stub.Jobs(pb.Nothing())))[:2] == ("NoLeader", grpc.StatusCode.UNAVAILABLE)
    assert (await failure(follower.stub.Watch(pb.WatchRequest(job="j1"))))[0] == "NoLeader"
    assert json.loads((await follower.stub.Peers(pb.Nothing())).json)["by"] == "follower"


async def test_dead_leader_is_no_leader(pair: tuple[Node, Node]) -> None:
    follower, leader = pair
    await leader.server.stop(None)
    name, code, text = await failure(follower.stub.Jobs(pb.Nothing()))
    assert (name, code) == ("NoLeader", grpc.StatusCode.UNAVAILABLE)
    assert "does not answer" in text


async def test_two_that_name_each_other_do_not_pass_a_call_around(pair: tuple[Node, Node]) -> None:
    follower, leader = pair
    leader.world.leads, leader.world.leader = False, follower.address
    for call in (follower.stub.Jobs(pb.Nothing()), follower.stub.Watch(pb.WatchRequest(job="j1"))):
        name, _, text = await failure(call)
        assert name == "NoLeader"
        assert "changing its leader" in text


async def test_follower_passes_a_watch_on(pair: tuple[Node, Node]) -> None:
    follower, leader = pair
    leader.world.total = 1
    watch = Watch(follower)
    assert (await watch.next()).counts.pending == 1
    leader.world.states["t1"] = result("t1")
    leader.service.tasks_changed(("t1",))
    assert (await watch.until(lambda reply: reply.done)).state == "succeeded"
    assert watch.ids == ["t1"]
    assert await watch.call.read() is grpc.aio.EOF


async def test_new_leader_is_asked_after_a_change(pair: tuple[Node, Node], make: Callable[[str], Any]) -> None:
    follower, _ = pair
    await follower.stub.Jobs(pb.Nothing())
    other = await make("other")
    follower.world.leader = other.address
    follower.service.leader_changed(other.address)
    assert json.loads((await follower.stub.Jobs(pb.Nothing())).json)["by"] == "other"
    assert list(follower.service._channels) == [other.address]


async def test_who_watches_through_a_follower_is_told_that_the_old_leader_is_out_of_reach(
    pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends no stream itself: cut off, it does not know that another leads."""
    monkeypatch.setattr(server, "DISK_PATIENCE", 0.05)
    follower, leader = pair
    leader.world.total = 1
    watch = Watch(follower)
    await watch.next()
    follower.service.leader_changed("127.0.0.1:9")
    async with asyncio.timeout(5):
        name, code, _ = await failure(watch.call)
    assert (name, code) == ("NoLeader", grpc.StatusCode.UNAVAILABLE)


# Watching.


async def test_watch_tells_what_ended_before_it_and_after(node: Node) -> None:
    world = node.world
    world.total = 3
    world.states = {"t1": result("t1")}
    watch = Watch(node)
    await watch.until(lambda reply: reply.counts.succeeded == 1)
    world.states["t2"] = result("t2")
    node.service.tasks_changed(("t2", "of another job"))
    await watch.until(lambda reply: bool(reply.results))
    assert watch.told[-1].results == (result("t2"),)
    world.states["t3"] = result("t3")
    node.service.tasks_changed(("t3",))
    last = await watch.until(lambda reply: reply.done)
    assert (last.counts, last.state) == (JobCounts(succeeded=3), "succeeded")
    assert watch.ids == ["t1", "t2", "t3"]
    assert await watch.call.read() is grpc.aio.EOF
    assert not node.service._watchers


async def test_who_watches_a_job_that_is_deleted_hears_so_when_that_is_on_disk(node: Node) -> None:
    node.world.total = 3
    watch = Watch(node)
    await watch.next()

    def gone(job: str) -> Standing:
        raise NotFound(f"there is no job {job}", f"job {job} was deleted")

    node.world.disk.clear()
    node.world.standing = gone  # type: ignore[method-assign]
    node.service.jobs_changed(("j1",))
    reading = asyncio.ensure_future(failure(watch.call))
    await asyncio.wait({reading}, timeout=3 * STANDING_EVERY)
    assert not reading.done()
    node.world.disk.set()
    assert (await reading)[::2] == ("NotFound", "there is no job j1; job j1 was deleted")


async def test_many_results_come_in_slices(node: Node) -> None:
    node.world.states = {f"t{n}": result(f"t{n}") for n in range(2 * REPLY_RESULTS + 1)}
    node.world.total = len(node.world.states)
    watch = Watch(node)
    await watch.until(lambda reply: reply.done)
    assert [len(reply.results) for reply in watch.told] == [REPLY_RESULTS, REPLY_RESULTS, 1, 0]


async def test_large_results_come_in_slices(node: Node) -> None:
    node.world.states = {f"t{n}": result(f"t{n}", 400_000) for n in range(4)}
    node.world.total = 4
    watch = Watch(node)
    await watch.until(lambda reply: reply.done)
    assert [len(reply.results) for reply in watch.told] == [3, 1, 0]


async def test_watch_without_results_tells_states(node: Node) -> None:
    node.world.states, node.world.total = {"t1": result("t1")}, 1
    watch = Watch(node, results=False)
    await watch.until(lambda reply: reply.done)
    assert watch.told[0].results == (TaskResult("t1", "succeeded"),)


async def test_watch_of_what_ended_waits_for_the_disk(node: Node) -> None:
    node.world.states, node.world.total = {"t1": result("t1")}, 1
    node.world.disk.clear()
    watch = Watch(node)
    reading = asyncio.ensure_future(watch.next())
    await node.stub.Status(pb.Nothing())
    await node.stub.Status(pb.Nothing())
    assert not reading.done()
    assert node.world.reads == 0
    node.world.disk.set()
    assert (await reading).results == (result("t1"),)


async def test_results_do_not_wait_for_the_counts(node: Node) -> None:
    node.world.total = 3
    watch = Watch(node)
    await watch.next()
    node.world.disk.clear()  # something else is on its way to the disk
    node.world.states["t1"] = result("t1")
    node.service.tasks_changed(("t1",))
    reply = await watch.next()
    assert (reply.results, reply.counts.succeeded) == ((result("t1"),), 0)
    reading = asyncio.ensure_future(watch.next())
    await asyncio.wait({reading}, timeout=3 * STANDING_EVERY)
    assert not reading.done()
    node.world.disk.set()
    assert (await reading).counts.succeeded == 1


async def test_what_ends_while_the_end_waits_for_the_disk_is_told_before_it(node: Node) -> None:
    world = node.world
    world.total = 2
    watch = Watch(node)
    await watch.next()
    world.disk.clear()
    world.states = {"t1": result("t1"), "t2": result("t2")}
    node.service.tasks_changed(("t1",))
    await watch.until(lambda reply: bool(reply.results))
    await node.stub.Status(pb.Nothing())
    node.service.tasks_changed(("t2",))
    world.disk.set()
    await watch.until(lambda reply: reply.done)
    assert watch.ids == ["t1", "t2"]


async def test_open_ended_job_is_watched_on(node: Node) -> None:
    world = node.world
    world.states, world.total, world.open_ended = {"t1": result("t1")}, 1, True
    watch = Watch(node)
    await watch.until(lambda reply: reply.state == "succeeded" and not reply.results)
    assert not watch.told[-1].done
    world.states["t2"], world.total = result("t2"), 2
    node.service.tasks_changed(("t2",))
    await watch.until(lambda reply: bool(reply.results))
    assert watch.ids == ["t1", "t2"]


async def test_ids_wait_for_a_slow_watcher_and_results_do_not(node: Node) -> None:
    world = node.world
    world.total = 400
    watch = Watch(node)
    await watch.next()
    for number in range(400):  # 40 MB: far beyond what gRPC takes before somebody reads
        world.states[f"t{number}"] = result(f"t{number}", 100_000)
        node.service.tasks_changed((f"t{number}",))
        await asyncio.sleep(0)
    for _ in range(20):
        await node.stub.Status(pb.Nothing())
    assert world.reads < 200
    await watch.until(lambda reply: reply.done)
    assert len(watch.ids) == 400


async def test_watch_ends_with_the_leadership(node: Node) -> None:
    node.world.total = 1
    watch = Watch(node)
    await watch.next()
    node.world.leads = False
    node.service.leader_changed("127.0.0.1:1")
    name, code, _ = await failure(watch.call)
    assert (name, code) == ("NoLeader", grpc.StatusCode.UNAVAILABLE)


async def test_unknown_job_cannot_be_watched(node: Node) -> None:
    assert (await failure(node.stub.Watch(pb.WatchRequest(job="j9"))))[0] == "NotFound"
    assert not node.service._watchers


async def test_watcher_that_leaves_is_forgotten(node: Node) -> None:
    node.world.total = 1
    watch = Watch(node)
    await watch.next()
    watch.call.cancel()
    async with asyncio.timeout(5):
        while node.service._watchers:  # noqa: ASYNC110
            await asyncio.sleep(0)


# Logs.


async def chunks(call: Any) -> list[bytes]:
    found = [chunk async for chunk in call]
    assert found[0].attempt == "newest"
    assert found[-1].finished
    return [chunk.data for chunk in found[1:-1]]


async def test_logs_of_this_node_are_read_here(node: Node) -> None:
    node.world.where = {"t1": ""}
    assert await chunks(node.stub.Logs(pb.LogsRequest(target="t1", follow=True))) == [b"a", b"t1", b"newest", b"True"]


@pytest.mark.parametrize(("skip", "left"), [(1, b"t1newestTrue"), (4, b"ewestTrue"), (99, b"")])
async def test_output_that_was_read_is_not_sent_again(node: Node, skip: int, left: bytes) -> None:
    node.world.where = {"t1": ""}
    asked = pb.LogsRequest(target="t1", follow=True, skip=skip)
    assert b"".join(await chunks(node.stub.Logs(asked))) == left


async def test_logs_are_found_by_the_leader_on_a_third_node(
    pair: tuple[Node, Node], make: Callable[[str], Any]
) -> None:
    follower, leader = pair
    third = await make("third")
    leader.world.where = {"t1": third.address}
    third.world.leads, third.world.where = False, {"t1": ""}
    call = follower.stub.Logs(pb.LogsRequest(target="t1"))
    assert await chunks(call) == [b"third", b"t1", b"newest", b"False"]


async def test_logs_of_what_nobody_knows(pair: tuple[Node, Node]) -> None:
    assert (await failure(pair[0].stub.Logs(pb.LogsRequest(target="t9"))))[0] == "NotFound"


async def test_logs_are_read_where_the_leader_says_they_are(pair: tuple[Node, Node]) -> None:
    follower, leader = pair  # which no longer knows the task, since the leader has its result
    leader.world.where = {"t1": follower.address}
    assert await chunks(follower.stub.Logs(pb.LogsRequest(target="t1"))) == [b"follower", b"t1", b"newest", b"False"]


async def test_logs_that_each_leader_says_another_has_end(pair: tuple[Node, Node]) -> None:
    one, two = pair
    one.world.leads = True
    one.world.where, two.world.where = {"t1": two.address}, {"t1": one.address}
    assert (await failure(one.stub.Logs(pb.LogsRequest(target="t1"))))[0] == "NoLeader"


async def test_stopping_node_says_so(node: Node) -> None:
    async def stopping(event: Any) -> fx.Answer:
        raise NoLeader("this node is stopping", "", "ask another node")

    node.world.ask = stopping  # type: ignore[method-assign]
    assert await failure(node.stub.Submit(submission())) == (
        "NoLeader",
        grpc.StatusCode.UNAVAILABLE,
        "this node is stopping; ask another node",
    )


# -- blobs ------------------------------------------------------------------------------------------------------------

PARTS = [b"one", b"two two", b"three"]
BLOB_MANIFEST = manifest_of(Chunk(digest(part), len(part)) for part in PARTS).encode()
BLOB = name(BLOB_MANIFEST)


async def test_a_blob_is_put_without_what_is_there_and_got_whole(node: Node) -> None:
    node.keeper.chunks[BLOB, 1] = PARTS[1]
    call = node.stub.Put()
    await call.write(put_part(Piece(MANIFEST, BLOB_MANIFEST), 3))
    assert read_have(await call.read()) == 0b010
    for part in (PARTS[0], PARTS[2]):
        await call.write(put_part(Piece(CHUNK, part)))
    await call.done_writing()
    assert read_stored(await call.read()) == Stored(("50-A", "50-B"), "3 were asked for")
    assert node.keeper.written == [0, 2]
    assert node.keeper.left == [BLOB]
    got = [read_get_part(part) async for part in node.stub.Get(get_request(BLOB, 0))]
    assert got == [Piece(MANIFEST, BLOB_MANIFEST), *(Piece(CHUNK, part) for part in PARTS)]
    rest = [read_get_part(part) async for part in node.stub.Get(get_request(BLOB, 2))]
    assert rest == [Piece(MANIFEST, BLOB_MANIFEST), Piece(CHUNK, PARTS[2])]


async def test_more_copies_than_can_be_are_refused(node: Node) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="17 copies are more than the 16"):
        await all_of(node.stub.Put(iter([put_part(Piece(MANIFEST, BLOB_MANIFEST), 17)])))


async def test_what_is_elsewhere_is_fetched_first_and_its_progress_told(node: Node) -> None:
    node.keeper.elsewhere[BLOB] = [BLOB_MANIFEST, *PARTS]
    got = [read_get_part(part) async for part in node.stub.Get(get_request(BLOB, 0))]
    assert got[:2] == [Progress(3, 9), Piece(MANIFEST, BLOB_MANIFEST)]
    assert len(got) == 5


async def test_a_blob_needs_no_leader(node: Node) -> None:
    node.world.leads = False
    node.keeper.elsewhere[BLOB] = [BLOB_MANIFEST, *PARTS]
    assert len([part async for part in node.stub.Get(get_request(BLOB, 0))]) == 5


async def all_of(call: Any) -> list[Any]:
    return [reply async for reply in call]


@pytest.mark.parametrize(
    ("parts", "kind", "says"),
    [
        ([Piece(CHUNK, b"x")], "InvalidSpec", "a manifest was due"),
        ([Piece(MANIFEST, b"nonsense")], "BlobCorrupt", "can read"),
        ([Piece(MANIFEST, BLOB_MANIFEST), Piece(CHUNK, b"wrong")], "BlobCorrupt", "chunk 0 is wrong"),
        ([Piece(MANIFEST, BLOB_MANIFEST), Piece(CHUNK, PARTS[0])], "InvalidSpec", "stopped before a chunk"),
        ([], "InvalidSpec", "stopped before a manifest"),
    ],
)
async def test_what_is_no_blob_is_refused(node: Node, parts: list[Piece], kind: str, says: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=says) as refused:
        await all_of(node.stub.Put(iter(map(put_part, parts))))
    assert ("mesh-error", kind) in tuple(refused.value.trailing_metadata() or ())
    assert node.keeper.left == [BLOB][: len(node.keeper.manifests)]


@pytest.mark.parametrize(("blob", "kind"), [("0" * 64, "BlobMissing"), ("../secret", "NotFound"), ("", "NotFound")])
async def test_what_is_not_there_is_not_got(node: Node, blob: str, kind: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await all_of(node.stub.Get(get_request(blob, 0)))
    assert ("mesh-error", kind) in tuple(refused.value.trailing_metadata() or ())
