"""The Client service: what users ask of a node, over TCP and over the Unix socket.

Owns decoding of requests, forwarding to the leader, the streams of those who watch, and the form of errors: a gRPC
status whose details read ``what; why; what to do`` and whose trailing metadata names the class (``mesh-error``). It
must not know how an answer comes about: that is asked of :class:`Mind`, :class:`Results` and :class:`Logs`.

A node that does not lead passes the bytes of request and answer on as they are, at most two nodes far.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, Protocol, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from mesh.core import errors
from mesh.core.effects import Answer
from mesh.core.errors import InvalidSpec, MeshError, NoLeader, NotFound, QuotaExceeded
from mesh.core.events import (
    CancelAsked,
    DeleteAsked,
    Event,
    ForgetAsked,
    PauseAsked,
    PinAsked,
    PriorityAsked,
    RetryAsked,
    Submitted,
)
from mesh.core.ids import AttemptId, JobId, TaskId, misnamed
from mesh.core.lattice import Owner
from mesh.core.valid import PAYLOAD_BYTES, fault, first_fault
from mesh.shell import server_blobs
from mesh.shell.server_blobs import Keeper
from mesh.shell.server_watch import Results, Watcher
from mesh.v1 import client_pb2 as pb
from mesh.wire.client import decode_submit, encode_watched
from mesh.wire.errors import WireError

log = logging.getLogger("mesh")

ERROR, HOPS = "mesh-error", "mesh-hops"  # metadata: an error's class; how many nodes passed a call on
MAX_HOPS = 2
HERE = {"Logs", "Get"}  # streams that need no leader, or find their own way
DISK_PATIENCE = 5.0  # seconds that a question waits for the journal
DETAILS_LIMIT = 4000  # characters: headers beyond 8 KiB are refused by the receiver
WRITTEN = 200  # items of a document that are written out in one go: the encoder keeps the interpreter to itself

_STATUS = {
    "NoLeader": grpc.StatusCode.UNAVAILABLE,
    "NotAMember": grpc.StatusCode.PERMISSION_DENIED,
    "InvalidSpec": grpc.StatusCode.INVALID_ARGUMENT,
    "NotFound": grpc.StatusCode.NOT_FOUND,
    "Conflict": grpc.StatusCode.ALREADY_EXISTS,
    "QuotaExceeded": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "MeshTimeout": grpc.StatusCode.DEADLINE_EXCEEDED,
    "MeshError": grpc.StatusCode.INTERNAL,
}
_CHANNEL = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),  # whoever asked knows better whether to ask again
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
)

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
Handlers: TypeAlias = "grpc.GenericRpcHandler[bytes, bytes]"


class Mind(Protocol):
    """The machine and its driver, as far as calls need them."""

    def leading(self) -> bool: ...

    def leader_address(self) -> str: ...

    async def ask(self, event: Callable[[int], Event]) -> Answer: ...

    async def safe(self) -> None:
        """Waits until all that is known now is on disk, here and on a successor's where one counts."""

    async def document(self, name: str, *arguments: str) -> Any:
        """What the method of this name answers, fit for JSON. Raises MeshError."""


class Logs(Protocol):
    def place(self, target: str, attempt: AttemptId) -> tuple[str, AttemptId]:
        """The address of the node that has it, empty for this one, and which attempt. Raises NotFound."""

    def read(self, target: str, attempt: AttemptId, follow: bool) -> AsyncIterator[bytes]: ...


class Server:
    """Register :meth:`handlers` on the node's gRPC server; tell it what the machine says of tasks, jobs and leader."""

    def __init__(self, mind: Mind, results: Results, logs: Logs, keeper: Keeper) -> None:
        self._mind, self._results, self._logs, self._keeper = mind, results, logs, keeper
        self._watchers: set[Watcher] = set()
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def handlers(self) -> Handlers:
        unary: dict[str, Callable[[bytes], Awaitable[bytes]]] = {
            "Submit": self._submit,
            "Cancel": self._target(lambda call, m: CancelAsked(call, m.id), pb.Target),
            "Pause": self._target(lambda call, m: PauseAsked(call, m.job, m.paused), pb.PauseRequest),
            "Retry": self._target(lambda call, m: RetryAsked(call, m.id, m.force), pb.RetryRequest),
            "Forget": self._target(lambda call, m: ForgetAsked(call, m.id), pb.Target),
            "Pin": self._target(lambda call, m: PinAsked(call, m.blob, m.pinned), pb.PinRequest),
            "Priority": self._target(lambda call, m: PriorityAsked(call, m.target, m.priority), pb.PriorityRequest),
            "Delete": self._target(lambda call, m: DeleteAsked(call, m.id), pb.Target),
            "Peers": self._document("Peers", pb.Nothing),
            "Jobs": self._document("Jobs", pb.Nothing),
            "Job": self._document("Job", pb.Target, "id"),
            "Tasks": self._document("Tasks", pb.TasksRequest, "job", "state"),
            "Task": self._document("Task", pb.Target, "id"),
            "Explain": self._document("Explain", pb.Target, "id"),
            "Status": self._document("Status", pb.Nothing),
            "Blobs": self._document("Blobs", pb.Nothing),
        }
        methods: dict[str, Any] = {
            name: grpc.unary_unary_rpc_method_handler(self._unary(name, answer)) for name, answer in unary.items()
        }
        for name, stream in (("Watch", self._watch), ("Logs", self._read_logs), ("Get", self._get)):
            methods[name] = grpc.unary_stream_rpc_method_handler(self._stream(name, stream))
        methods["SubmitEach"] = grpc.stream_stream_rpc_method_handler(self._submit_each)
        methods["Put"] = grpc.stream_stream_rpc_method_handler(self._put)
        return grpc.method_handlers_generic_handler("mesh.v1.Client", methods)

    async def close(self) -> None:
        channels, self._channels = self._channels, {}
        for closing in self._closing:
            closing.cancel()
        for channel in channels.values():
            await channel.close(None)
        await asyncio.gather(*self._closing, return_exceptions=True)

    # What the machine says.

    def tasks_changed(self, tasks: tuple[TaskId, ...]) -> None:
        for watcher in self._watchers:
            watcher.tasks_changed(tasks)

    def jobs_changed(self, jobs: tuple[JobId, ...]) -> None:
        for watcher in self._watchers:
            if watcher.job in jobs:
                watcher.job_changed()

    def leader_changed(self, address: str) -> None:
        """``address``: where calls go now; empty: nowhere."""
        if not self._mind.leading():
            for watcher in self._watchers:
                watcher.move()
        for old in [old for old in self._channels if old != address]:
            # With grace: a stream that the old leader still serves is ended by itself.
            closing = asyncio.get_running_loop().create_task(self._channels.pop(old).close(DISK_PATIENCE))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    # Calls.

    def _unary(self, name: str, answer: Callable[[bytes], Awaitable[bytes]]) -> Any:
        async def handle(request: bytes, context: Context) -> bytes:
            try:
                return await self._answered(name, answer, request, context)
            except Exception as error:  # noqa: BLE001 - every one is answered, and logged where it is a defect
                await _abort(context, name, error)

        return handle

    async def _submit_each(self, _: AsyncIterator[bytes], context: Context) -> None:
        try:
            while isinstance(request := await context.read(), bytes):
                await context.write(await self._answered("Submit", self._submit, request, context))
        except Exception as error:  # noqa: BLE001 - as above
            await _abort(context, "SubmitEach", error)

    async def _answered(
        self, name: str, answer: Callable[[bytes], Awaitable[bytes]], request: bytes, context: Context
    ) -> bytes:
        """Here, or by the leader."""
        address = self._elsewhere(name, context)
        if address:
            return await self._pass_on(self._channel(address), name, request, context)
        return await answer(request)

    def _stream(self, name: str, replies: Callable[[bytes, Context], AsyncIterator[bytes]]) -> Any:
        async def handle(request: bytes, context: Context) -> AsyncIterator[bytes]:
            try:
                address = "" if name in HERE else self._elsewhere(name, context)
                if address:
                    replies_there = self._passed_on(self._channel(address), name, request, context)
                    async for reply in replies_there:
                        yield reply
                else:
                    async for reply in replies(request, context):
                        yield reply
            except Exception as error:  # noqa: BLE001 - as above
                await _abort(context, name, error)

        return handle

    def _elsewhere(self, name: str, context: Context) -> str:
        """The address to pass a call on to; empty: it is answered here."""
        if name == "Status" or self._mind.leading():
            return ""
        address = self._mind.leader_address()
        if not address and name == "Peers":
            return ""  # a node on its own still knows whom it misses
        if not address:
            raise NoLeader("no node leads at the moment", "the members are agreeing on one", "try again")
        if _hops(context) >= MAX_HOPS:
            raise NoLeader("the mesh is changing its leader", "each node names another one", "try again")
        return address

    async def _pass_on(self, channel: grpc.aio.Channel, name: str, request: bytes, context: Context) -> bytes:
        method: Any = channel.unary_unary(f"/mesh.v1.Client/{name}", as_is, as_is)
        try:
            reply: bytes = await method(request, timeout=context.time_remaining(), metadata=_next_hop(context))
        except asyncio.CancelledError:
            _raise_if_left()
            raise
        return reply

    async def _passed_on(
        self, channel: grpc.aio.Channel, name: str, request: bytes, context: Context
    ) -> AsyncIterator[bytes]:
        method: Any = channel.unary_stream(f"/mesh.v1.Client/{name}", as_is, as_is)
        call = method(request, timeout=context.time_remaining(), metadata=_next_hop(context))
        try:
            async for reply in call:
                yield reply
        except asyncio.CancelledError:
            _raise_if_left()
            raise
        finally:
            call.cancel()

    def _channel(self, address: str) -> grpc.aio.Channel:
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = grpc.aio.insecure_channel(address, options=_CHANNEL)
        return channel

    # Answers of this node.

    async def _submit(self, request: bytes) -> bytes:
        message = pb.SubmitRequest.FromString(request)
        job, tasks = decode_submit(message)
        for task in tasks:
            if problem := misnamed(job.id, task.id):
                raise InvalidSpec(f"nothing was submitted; {problem}; submit it under other ids")
            if len(task.payload) > PAYLOAD_BYTES:
                raise QuotaExceeded(
                    f"task {task.id} is too large",
                    f"its function and arguments take {len(task.payload)} bytes, the limit is {PAYLOAD_BYTES}",
                    "pass the path of a file, or fewer values",
                )
        owner = message.owner and fault(Owner(job.id, "", 0, message.owner))
        if problem := fault(job) or first_fault(tasks) or owner:  # no peer would take it from this node
            raise InvalidSpec(f"nothing was submitted; {problem}; submit it without that")
        answer = await self._ask(lambda call: Submitted(call, job, tasks, message.owner))
        return pb.SubmitReply(count=answer.count, durable_on=answer.durable_on).SerializeToString()

    def _target(self, event: Callable[[int, Any], Event], message: Any) -> Callable[[bytes], Awaitable[bytes]]:
        async def control(request: bytes) -> bytes:
            asked = message.FromString(request)
            answer = await self._ask(lambda call: event(call, asked))
            return pb.Done(count=answer.count).SerializeToString()

        return control

    async def _ask(self, event: Callable[[int], Event]) -> Answer:
        answer = await self._mind.ask(event)
        if answer.error:
            raise _named(answer.error, answer.message)
        return answer

    def _document(self, name: str, message: Any, *fields: str) -> Callable[[bytes], Awaitable[bytes]]:
        async def document(request: bytes) -> bytes:
            asked = message.FromString(request)
            try:
                found = await self._mind.document(name, *(getattr(asked, field) for field in fields))
            except NotFound:
                await self._shown()  # that it was deleted, too
                raise
            if name != "Status":  # a node whose disk hangs must still be able to say so
                await self._shown()
            return pb.Document(json=(await _written(found)).encode()).SerializeToString()

        return document

    async def _shown(self) -> None:
        """Nothing is shown before its records are on disk."""
        try:
            async with asyncio.timeout(DISK_PATIENCE):
                await self._mind.safe()
        except TimeoutError:
            raise NoLeader(
                "this node cannot answer", "its journal has not reached the disk for seconds", "see meshctl status"
            ) from None

    async def _watch(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        asked = pb.WatchRequest.FromString(request)
        watcher = Watcher(asked.job, asked.results, self._results, self._shown)
        self._watchers.add(watcher)
        try:
            async for reply in watcher.replies():
                yield encode_watched(*reply).SerializeToString()
        finally:
            self._watchers.discard(watcher)

    def _get(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        return server_blobs.get(self._keeper, request)

    async def _put(self, _: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        try:
            async for reply in server_blobs.put(self._keeper, context):
                yield reply
        except Exception as error:  # noqa: BLE001 - as above
            await _abort(context, "Put", error)

    async def _read_logs(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        asked = pb.LogsRequest.FromString(request)
        try:
            if asked.attempt and _hops(context) and not self._mind.leading():
                address, attempt = "", asked.attempt  # the leader knows that it ran here
            else:
                address, attempt = self._logs.place(asked.target, asked.attempt)
        except errors.NotFound:
            # Only the leader knows every task and node.
            address, attempt = self._elsewhere("Logs", context), asked.attempt
            if not address:
                raise
        if not address:
            yield pb.LogChunk(attempt=attempt).SerializeToString()
            skip = asked.skip
            async for data in self._logs.read(asked.target, attempt, asked.follow):
                if skip < len(data):
                    yield pb.LogChunk(data=data[skip:]).SerializeToString()
                skip = max(0, skip - len(data))
            yield pb.LogChunk(finished=True).SerializeToString()
            return
        if _hops(context) >= MAX_HOPS:
            raise NoLeader("these logs cannot be found", "each node names another one that has them", "try again")
        channel = grpc.aio.insecure_channel(address, options=_CHANNEL)
        try:
            there = pb.LogsRequest(target=asked.target, attempt=attempt, follow=asked.follow, skip=asked.skip)
            async for reply in self._passed_on(channel, "Logs", there.SerializeToString(), context):
                yield reply
        finally:
            await channel.close(None)


async def _written(found: Any) -> str:
    """As JSON. What else waits in the loop gets its turn in a long list."""
    if not isinstance(found, list):
        return json.dumps(found)
    parts = []
    for at in range(0, len(found), WRITTEN):
        parts.append(json.dumps(found[at : at + WRITTEN])[1:-1])
        await asyncio.sleep(0)
    return f"[{', '.join(parts)}]"


def as_is(data: bytes) -> bytes:
    return data


def _raise_if_left() -> None:
    """A call that was passed on ends as cancelled, too, where its channel is closed because another node leads now.

    Whoever asked has to be told: gRPC answers nothing for a handler that ends as cancelled.
    """
    task = asyncio.current_task()
    if task is None or not task.cancelling():
        raise NoLeader("the leader of this mesh changed", "the last one is out of reach", "try again") from None


def _hops(context: Context) -> int:
    for key, value in context.invocation_metadata() or ():
        if key == HOPS and str(value).isdigit():
            return int(value)
    return 0


def _next_hop(context: Context) -> tuple[tuple[str, str], ...]:
    return ((HOPS, str(_hops(context) + 1)),)


def _named(name: str, message: str) -> MeshError:
    kind = getattr(errors, name)
    found: MeshError = kind(message)
    return found


async def _abort(context: Context, method: str, error: Exception) -> NoReturn:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, grpc.aio.AioRpcError):
        trailing: Any = error.trailing_metadata() or ()
        named = [(key, value) for key, value in trailing if key == ERROR]
        if named:  # the leader's own answer
            await context.abort(error.code(), error.details() or "", tuple(named))
        error = NoLeader("the leader does not answer", f"{error.code().name}: {error.details()}", "try again")
    elif isinstance(error, WireError | DecodeError):
        error = InvalidSpec(f"the request cannot be read: {error}")
    elif not isinstance(error, MeshError):
        log.error("%s failed; this is a defect, please report it", method, exc_info=error, extra={"event": "defect"})
        error = MeshError("this node failed to answer", f"{type(error).__name__}: {error}", "see its log")
    name = type(error).__name__
    code = _STATUS.get(name, grpc.StatusCode.FAILED_PRECONDITION)
    await context.abort(code, str(error)[:DETAILS_LIMIT], ((ERROR, name),))
