"""The connection to whichever node answers: calls repeated until they are answered, streams that resume.

Every id is minted by the client, so a call whose answer was lost is simply made again. Repeated are: a node that does
not answer, a mesh without a leader, any error that says a retry can help; with growing pauses, for as long as the
patience lasts. Owns the stubs and the mapping of a status to an error. Knows nothing of futures, files or terminals.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Any

# Unless told otherwise gRPC reports every daemon that goes on stderr, in the middle of the user's own output.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import grpc

from mesh.client.address import Address, Finder, SeveralMeshes
from mesh.core.errors import MeshError, MeshTimeout, NoLeader, NoMeshFound, error_named
from mesh.core.lattice import Job, Task
from mesh.v1 import client_pb2 as pb
from mesh.v1 import client_pb2_grpc as services
from mesh.wire.client import Watched, decode_watched, encode_submit

log = logging.getLogger("mesh.client")

PATIENCE = 60.0  # seconds without any contact
FIRST_CONTACT = 3.0  # seconds: nobody has ever answered at this address, so it is probably wrong
CALL_TIMEOUT = 10.0  # seconds for one answer; a leader that hangs is given up after this and asked again
SILENCE = 10.0  # seconds after which a silent stream's node is asked whether it lives
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 1.0  # seconds between attempts, doubled each time

_OPTIONS = [
    ("grpc.max_receive_message_length", -1),  # a watch begins with everything that has already ended
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),  # nodes are on this network; a proxy variable is meant for the web
    ("grpc.use_local_subchannel_pool", 1),  # clients of one process do not share one another's back-off
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
]

# What a connection that breaks looks like; a node that goes cancels what it serves.
_BROKEN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def error_of(failure: grpc.aio.AioRpcError, address: Address | None) -> MeshError:
    """What the node answered, or what kept it from answering."""
    metadata: Any = failure.trailing_metadata() or ()
    for key, value in metadata:
        if key == "mesh-error":
            return error_named(value.decode() if isinstance(value, bytes) else value, failure.details() or "")
    where = str(address) if address else "the mesh"
    if failure.code() in _BROKEN:
        # "failed to connect to all addresses; last error: ...: Connection refused": the end is what happened.
        why = (failure.details() or "").rpartition(": ")[2]
        why = why if "[" in why else why.rstrip("]")  # the resolver puts its own errors in a list
        return NoMeshFound(f"no node answers at {where}", why, "is meshd running there? its log says what it does")
    if failure.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return MeshTimeout(f"{where} did not answer in time", "its node is overloaded or stopped", "try again")
    if failure.code() is grpc.StatusCode.UNIMPLEMENTED:
        return MeshError(f"the node at {where} does not know this call", "it is older than this client", "upgrade it")
    return MeshError(f"the node at {where} failed", f"{failure.code().name}: {failure.details()}", "see its log")


def _failure(code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), "no answer came by the stream", None)


class Channel:
    """All calls of the client service. Use it in one event loop; :meth:`close` it there.

    ``patience``: seconds without any contact after which calls and streams give up, with the error that stood last.
    """

    def __init__(self, finder: Finder, patience: float = PATIENCE) -> None:
        self._finder = finder
        self._patience = patience
        self._address: Address | None = None
        self._channel: grpc.aio.Channel | None = None
        self._stub: services.ClientStub | None = None
        self._stale = False  # the last attempt reached nobody: look the address up again
        self._connecting = asyncio.Lock()
        self._reached = False
        self._closing: set[asyncio.Task[None]] = set()
        self._owners: dict[str, str] = {}  # job -> who is to grant its hold tasks
        self._idle: list[Any] = []  # streams of the present stub that took a submission and can take another

    @property
    def address(self) -> Address | None:
        return self._address

    async def connect(self) -> services.ClientStub:
        """Find the mesh's address. Raises ``NoMeshFound`` where there is none; nothing is sent yet."""
        if self._stub is not None and not self._stale:
            return self._stub
        async with self._connecting:
            if self._stub is None or self._stale:
                address = await self._finder.find()
                if self._stub is None or address != self._address:
                    self._replace(address)
                self._stale = False
            assert self._stub is not None
            return self._stub

    def _replace(self, address: Address) -> None:
        if self._channel is not None:
            # With grace: calls that still run on it are not ours to break.
            closing = asyncio.ensure_future(self._channel.close(CALL_TIMEOUT))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        while self._idle:
            self._idle.pop().cancel()
        self._address = address
        self._channel = grpc.aio.insecure_channel(address.target, options=_OPTIONS)
        self._stub = services.ClientStub(self._channel)  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close(None)
        for closing in self._closing:
            closing.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        self._channel = self._stub = None

    # -- calls -------------------------------------------------------------------------------------------------------

    async def submit(self, job: Job, tasks: Iterable[Task]) -> tuple[int, tuple[str, ...]]:
        """Submit a slice; the nodes that hold it durably are returned with the count."""
        tasks = tuple(tasks)
        request = encode_submit(job, tasks)
        if any(task.shape.hold for task in tasks):
            request.owner = await self._owner_of(job)
        reply = await self._answered(lambda stub: self._submit(stub, request))
        return reply.count, tuple(reply.durable_on)

    async def _owner_of(self, job: Job) -> str:
        """Who is to grant its hold tasks: who led before the first of them was sent, whoever leads by now.

        Two leaders may be sent the same slice, the second because the answer of the first was lost.
        """
        if job.id not in self._owners:
            found = await self._leader()
            self._owners.setdefault(job.id, found)  # slices go side by side
        return self._owners[job.id]

    def moved(self, job: str, durable_on: tuple[str, ...]) -> bool:
        """Whether who is to grant its hold tasks leads no more, by the answer to a slice."""
        return job in self._owners and self._owners[job] not in durable_on[:1]

    async def _leader(self) -> str:
        attempts = Attempts(self)
        while True:
            for row in await self.peers():
                if row["leader"]:
                    return str(row["id"])
            await attempts.failed(_failure(grpc.StatusCode.UNAVAILABLE))

    async def cancel(self, target: str) -> int:
        return await self._done("Cancel", pb.Target(id=target))

    async def pause(self, job: str, paused: bool) -> int:
        return await self._done("Pause", pb.PauseRequest(job=job, paused=paused))

    async def retry(self, target: str, force: bool = False) -> int:
        return await self._done("Retry", pb.RetryRequest(id=target, force=force))

    async def pin(self, blob: str, pinned: bool) -> int:
        return await self._done("Pin", pb.PinRequest(blob=blob, pinned=pinned))

    async def forget(self, node: str) -> int:
        return await self._done("Forget", pb.Target(id=node))

    async def priority(self, target: str, priority: int) -> int:
        return await self._done("Priority", pb.PriorityRequest(target=target, priority=priority))

    async def delete(self, job: str) -> int:
        return await self._done("Delete", pb.Target(id=job))

    async def peers(self) -> list[dict[str, Any]]:
        return await self._document("Peers", pb.Nothing())  # type: ignore[no-any-return]

    async def jobs(self) -> list[dict[str, Any]]:
        return await self._document("Jobs", pb.Nothing())  # type: ignore[no-any-return]

    async def job(self, job: str) -> dict[str, Any]:
        return await self._document("Job", pb.Target(id=job))  # type: ignore[no-any-return]

    async def tasks(self, job: str = "", state: str = "") -> list[dict[str, Any]]:
        return await self._document("Tasks", pb.TasksRequest(job=job, state=state))  # type: ignore[no-any-return]

    async def task(self, task: str) -> dict[str, Any]:
        return await self._document("Task", pb.Target(id=task))  # type: ignore[no-any-return]

    async def explain(self, task: str) -> dict[str, Any]:
        return await self._document("Explain", pb.Target(id=task))  # type: ignore[no-any-return]

    async def blobs(self) -> list[dict[str, Any]]:
        return await self._document("Blobs", pb.Nothing())  # type: ignore[no-any-return]

    async def status(self) -> dict[str, Any]:
        return await self._document("Status", pb.Nothing())  # type: ignore[no-any-return]

    async def watch(self, job: str, results: bool = True) -> AsyncGenerator[Watched, None]:
        """What has ended, then what ends. After a break it starts anew: replies repeat what they told before."""
        stream = self._stream("Watch", pb.WatchRequest(job=job, results=results))
        try:
            async for reply in stream:
                yield decode_watched(reply)
        finally:
            await stream.aclose()

    async def logs(self, target: str, attempt: str = "", follow: bool = False) -> AsyncGenerator[bytes, None]:
        """The output of one attempt, once: after a break it goes on where it was, by way of whichever node answers."""
        asked = pb.LogsRequest(target=target, attempt=attempt, follow=follow)
        while True:
            stream = self._stream("Logs", asked)  # reads the request anew for each attempt at it
            try:
                async for chunk in stream:
                    asked.attempt = chunk.attempt or asked.attempt
                    asked.skip += len(chunk.data)
                    if chunk.data:
                        yield chunk.data
                    if chunk.finished:
                        return
            finally:
                await stream.aclose()

    async def _done(self, method: str, request: Any) -> int:
        return (await self._call(method, request)).count  # type: ignore[no-any-return]

    async def _document(self, method: str, request: Any) -> Any:
        return json.loads((await self._call(method, request)).json)

    # -- until answered ----------------------------------------------------------------------------------------------

    async def _call(self, method: str, request: Any) -> Any:
        return await self._answered(lambda stub: getattr(stub, method)(request, timeout=CALL_TIMEOUT))

    async def _answered(self, ask: Callable[[services.ClientStub], Awaitable[Any]]) -> Any:
        attempts = Attempts(self)
        while True:
            try:
                reply = await ask(await self.connect())
            except grpc.aio.AioRpcError as failure:
                await attempts.failed(failure)
            except NoMeshFound as error:
                await attempts.not_found(error)
            else:
                self._reached = True
                return reply

    async def _submit(self, stub: services.ClientStub, request: pb.SubmitRequest) -> pb.SubmitReply:
        """By a stream that is kept for the next one: a call of its own arrives 0.2 ms later (0.33 against 0.13)."""
        call = self._idle.pop() if self._idle else None
        if call is None or call.done():
            call = stub.SubmitEach()
        try:
            async with asyncio.timeout(CALL_TIMEOUT):
                with contextlib.suppress(asyncio.InvalidStateError):  # it has ended, and reading says how
                    await call.write(request)
                reply = await call.read()
        except grpc.aio.AioRpcError as failure:
            if failure.code() is grpc.StatusCode.INTERNAL and not failure.trailing_metadata():
                # So gRPC calls it when a stream breaks under a write; how it ended is not known then.
                raise _failure(grpc.StatusCode.UNAVAILABLE) from failure
            raise
        except TimeoutError:
            raise _failure(grpc.StatusCode.DEADLINE_EXCEEDED) from None
        if not isinstance(reply, pb.SubmitReply):  # the end
            raise _failure(grpc.StatusCode.UNAVAILABLE)
        if stub is self._stub:
            self._idle.append(call)
        else:
            call.cancel()
        return reply

    async def _stream(self, method: str, request: Any) -> AsyncGenerator[Any, None]:
        attempts = Attempts(self)
        while True:
            try:
                reader = Reader(self, getattr(await self.connect(), method)(request))
                try:
                    while (reply := await reader.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
                        self._reached = True
                        attempts.heard()
                        yield reply
                    return
                finally:
                    reader.close()
            except grpc.aio.AioRpcError as failure:
                await attempts.failed(failure)
            except NoMeshFound as error:
                await attempts.not_found(error)


class Reader:
    """The messages of one stream. A node that is silent is asked whether it lives; one that is not ends the stream.

    One task for a stream: a task and a timer for each message took 0.1 ms of it.
    """

    def __init__(self, channel: Channel, call: Any) -> None:
        self._channel, self._call = channel, call
        self._clock = asyncio.get_running_loop().time
        self._heard = self._clock()
        self._failure: Exception | None = None
        self._asking = asyncio.ensure_future(self._ask())

    async def read(self) -> Any:
        try:
            reply = await self._call.read()
        except asyncio.CancelledError:
            if (why := self.why_cancelled()) is None:
                raise
            raise why from None
        self._heard = self._clock()
        self._channel._reached = True
        return reply

    def why_cancelled(self) -> Exception | None:
        """Why the call was ended here; None where it is we who were cancelled, not the call."""
        me = asyncio.current_task()
        return None if me is None or me.cancelling() else self._failure

    async def _ask(self) -> None:
        try:
            while True:
                await asyncio.sleep(self._heard + SILENCE - self._clock())
                if self._clock() >= self._heard + SILENCE:
                    stub = await self._channel.connect()
                    await stub.Status(pb.Nothing(), timeout=CALL_TIMEOUT)
                    self._heard = self._clock()
        except Exception as failure:  # noqa: BLE001 - whatever it is, who reads is told
            self._failure = failure
            self._call.cancel()

    def close(self) -> None:
        self._asking.cancel()
        self._call.cancel()


class Attempts:
    """One call's patience: after each failure either waits a little, or raises."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._clock = asyncio.get_running_loop().time
        self.heard()

    def heard(self) -> None:
        self._since = self._clock()
        self._pause = FIRST_PAUSE

    async def failed(self, failure: grpc.aio.AioRpcError) -> None:
        channel = self._channel
        error = error_of(failure, channel._address)
        if isinstance(error, NoMeshFound):
            channel._stale = True
        elif not error.retryable:
            raise error from failure
        else:
            # Somebody answered, if only that there is no leader at the moment.
            channel._reached = channel._reached or isinstance(error, NoLeader)
        await self._rest(error, failure)

    async def not_found(self, error: NoMeshFound) -> None:
        """No address. Before the first contact that is the answer; afterwards a daemon may be starting again."""
        if not self._channel._reached or isinstance(error, SeveralMeshes):
            raise error
        await self._rest(error, error)

    async def _rest(self, error: MeshError, cause: Exception) -> None:
        channel = self._channel
        patience = channel._patience if channel._reached else min(FIRST_CONTACT, channel._patience)
        waited = self._clock() - self._since
        if waited + self._pause > patience:
            if channel._reached and isinstance(error, NoMeshFound):
                raise NoMeshFound(
                    f"no contact with the mesh for {waited:.0f} s",
                    str(error.why or error.what),
                    "what was submitted goes on without this client",
                ) from cause
            raise error from cause
        log.debug("asking again in %.2f s: %s", self._pause, error)
        await asyncio.sleep(self._pause)
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
