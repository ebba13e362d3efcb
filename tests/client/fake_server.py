"""A mesh in one object: the client service over a Unix socket, its tasks executed as they arrive.

Everything is remembered across :meth:`FakeMesh.stop` and :meth:`FakeMesh.start`, as a daemon's journal does. Tests
reach in to hold tasks back, to refuse calls, to break streams, and to see what was asked.
"""

from __future__ import annotations

import concurrent.futures
import json
import pickle
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle
import grpc

from mesh.blob.manifest import Chunk, cut, digest, manifest_of, name
from mesh.blob.objects import dump
from mesh.client.functions import dumps_beside
from mesh.core.errors import BlobMissing, Conflict, MeshError, NotFound
from mesh.core.lattice import Job, Task
from mesh.core.work import FUNCTION, Work
from mesh.v1 import client_pb2 as pb
from mesh.v1 import client_pb2_grpc as services
from mesh.wire.client import JobCounts, TaskResult, decode_submit, encode_watched
from mesh.wire.work import decode_work

NODE = "50-01JZ0000000000000000000000"
CHECKPOINT = {
    "blob": "0f" * 32, "run": 1, "step": 7, "attempt": "", "size": 3 << 20, "metrics": {"loss": 0.5},
    "saved_at": "2025-01-01T00:00:01.000Z",
}  # fmt: skip
PEERS = [
    {
        "id": NODE,
        "name": "anvil",
        "role": "auto",
        "leader": True,
        "state": "alive",
        "reason": "",
        "address": "127.0.0.1:7433",
        "devices": [
            {"kind": "cuda", "name": "RTX 5090", "memory_bytes": 34359738368, "free_memory_bytes": 30064771072}
        ],
        "slots": 4,
        "free_slots": 3,
        "bid": {"slots": 4},
        "term": 3,
        "version": "0.1.0",
    },
    {
        "id": "50-01JZ1111111111111111111111",
        "name": "mac",
        "role": "worker",
        "leader": False,
        "state": "island",
        "reason": "unheard for 12 s",
        "address": "127.0.0.1:7434",
        "devices": [],
        "slots": 8,
        "free_slots": 8,
        "bid": None,
        "term": 3,
        "version": "0.1.0",
    },
]


class Refusal(NamedTuple):
    error: MeshError | None  # None: the connection breaks
    times: int


class FakeMesh(services.ClientServicer):
    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.address = f"unix:{socket}"
        self.jobs: dict[str, Job] = {}
        self.tasks: dict[str, Task] = {}
        self.ended: dict[str, TaskResult] = {}
        self.blobs: dict[str, list[bytes]] = {}
        self.giving = threading.Event()  # blobs are sent from now on
        self.giving.set()
        self.paused: dict[str, bool] = {}
        self.priorities: dict[str, int] = {}
        self.calls: Counter[str] = Counter()
        self.batches: list[int] = []  # tasks per Submit
        self.holding = False  # tasks are accepted and not run
        self.owners: list[str] = []  # that submissions named
        self.forced: list[bool] = []
        self.durable_on = [NODE]
        self.command: Callable[[Work], tuple[str, dict[str, float]]] = lambda work: ("succeeded", {})
        self.documents: dict[str, Any] = {
            "Peers": PEERS,
            "Status": {"mesh": "test", "leader": NODE, "term": 3, "node": NODE, "members": 2},
        }
        self.explanation: dict[str, Any] = {}
        self.output: list[bytes] = []
        self.break_logs_at = 0  # bytes, after which the stream of the output breaks, once
        self.log_requests: list[tuple[str, int]] = []  # attempt and bytes to skip
        self.shut: set[str] = set()  # methods that nobody answers
        self._refusals: dict[str, deque[MeshError | None]] = {}
        self._changed = threading.Condition()
        self._generation = 0  # raised to break every watch
        self._server: grpc.Server | None = None

    # -- for tests ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        server = grpc.server(concurrent.futures.ThreadPoolExecutor(16))
        services.add_ClientServicer_to_server(self, server)
        server.add_insecure_port(self.address)
        server.start()
        self._server = server

    def stop(self) -> None:
        if self._server is not None:
            self.break_watches()
            self._server.stop(0).wait()
            self._server = None

    def refuse(self, method: str, error: MeshError | None, times: int = 1) -> None:
        """The next calls of this method fail with the error; with None as if nobody were there."""
        self._refusals.setdefault(method, deque()).extend([error] * times)

    def break_watches(self) -> None:
        with self._changed:
            self._generation += 1
            self._changed.notify_all()

    def run_held(self) -> None:
        """Run what was held back, in order."""
        with self._changed:
            self.holding = False
            for task in self.tasks.values():
                self._run(task)
            self._changed.notify_all()

    def put(self, value: Any) -> str:
        """An object that is a blob of this mesh from now on."""
        chunks = [bytes(chunk) for chunk in cut(dump(value, dumps_beside))]
        blob = name(manifest_of(Chunk(digest(chunk), len(chunk)) for chunk in chunks).encode())
        self.blobs[blob] = chunks
        return blob

    def until(self, condition: Callable[[], bool], timeout: float = 10.0) -> None:
        """Wait until a call has made it true."""
        with self._changed:
            assert self._changed.wait_for(condition, timeout), "it did not happen"

    # -- the service -------------------------------------------------------------------------------------------------

    def Submit(self, request: pb.SubmitRequest, context: grpc.ServicerContext) -> pb.SubmitReply:
        self._enter("Submit", context)
        job, tasks = decode_submit(request)
        with self._changed:
            self.owners.append(request.owner)
            self.batches.append(len(tasks))
            if self.jobs.setdefault(job.id, job).digest != job.digest:
                self._abort(context, Conflict(f"job {job.id} exists with other contents"))
            for task in tasks:
                if task.id not in self.tasks:
                    self.tasks[task.id] = task
                    if not self.holding:
                        self._run(task)
            self._changed.notify_all()
        return pb.SubmitReply(count=len(tasks), durable_on=self.durable_on)

    def SubmitEach(
        self, requests: Iterator[pb.SubmitRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.SubmitReply]:
        self._enter("SubmitEach", context)
        for request in requests:
            yield self.Submit(request, context)

    def Watch(self, request: pb.WatchRequest, context: grpc.ServicerContext) -> Iterator[pb.WatchReply]:
        self._enter("Watch", context)
        job = self._job(request.job, context)
        with self._changed:
            generation, told = self._generation, 0
        first = True
        while True:
            with self._changed:
                if not first and generation == self._generation and len(self._ended_of(job.id)) == told:
                    self._changed.wait(0.5)  # bounded, because nothing wakes it when the client hangs up
                if not context.is_active():
                    return
                if generation != self._generation:
                    context.abort(grpc.StatusCode.UNAVAILABLE, "the node went away")
                results = self._ended_of(job.id)[told:]
                told += len(results)
                document = self._job_document(job)
            if not results and not first:
                continue
            first = False
            done = job.kind != "functions" and document["state"] in ("succeeded", "failed", "cancelled")
            counts = JobCounts(**document["tasks"])
            yield encode_watched(results if request.results else (), counts, document["state"], done)
            if done:
                return

    def Cancel(self, request: pb.Target, context: grpc.ServicerContext) -> pb.Done:
        self._enter("Cancel", context)
        with self._changed:
            targets = [t for t in self.tasks.values() if request.id in (t.id, t.job)]
            if not targets:
                self._abort(context, NotFound(f"there is no task or job {request.id}"))
            stopped = [t for t in targets if t.id not in self.ended]
            for task in stopped:
                self.ended[task.id] = TaskResult(task.id, "cancelled", message="by request")
            self._changed.notify_all()
        return pb.Done(count=len(stopped))

    def Delete(self, request: pb.Target, context: grpc.ServicerContext) -> pb.Done:
        self._enter("Delete", context)
        with self._changed:
            job = self._job(request.id, context)
            mine = [task for task in self.tasks.values() if task.job == job.id]
            if any(task.id not in self.ended for task in mine):
                self._abort(context, Conflict(f"job {job.id} cannot be deleted; some of its tasks have not ended"))
            for task in mine:
                del self.tasks[task.id], self.ended[task.id]
            del self.jobs[job.id]
            self._changed.notify_all()
        return pb.Done(count=len(mine))

    def Pause(self, request: pb.PauseRequest, context: grpc.ServicerContext) -> pb.Done:
        self._enter("Pause", context)
        self.paused[self._job(request.job, context).id] = request.paused
        return pb.Done(count=1)

    def Retry(self, request: pb.RetryRequest, context: grpc.ServicerContext) -> pb.Done:
        self._enter("Retry", context)
        with self._changed:
            self.forced.append(request.force)
            again = [t for t in self.tasks.values() if request.id in (t.id, t.job) and self._state(t) == "failed"]
            for task in again:
                del self.ended[task.id]
                self._run(task)
            self._changed.notify_all()
        return pb.Done(count=len(again))

    def Priority(self, request: pb.PriorityRequest, context: grpc.ServicerContext) -> pb.Done:
        self._enter("Priority", context)
        self.priorities[request.target] = request.priority
        return pb.Done(count=1)

    def Peers(self, request: pb.Nothing, context: grpc.ServicerContext) -> pb.Document:
        self._enter("Peers", context)
        return _document(self.documents["Peers"])

    def Jobs(self, request: pb.Nothing, context: grpc.ServicerContext) -> pb.Document:
        self._enter("Jobs", context)
        return _document([self._job_document(job) for job in self.jobs.values()])

    def Job(self, request: pb.Target, context: grpc.ServicerContext) -> pb.Document:
        self._enter("Job", context)
        return _document(self._job_document(self._job(request.id, context)))

    def Tasks(self, request: pb.TasksRequest, context: grpc.ServicerContext) -> pb.Document:
        self._enter("Tasks", context)
        tasks = [t for t in self.tasks.values() if request.job in ("", t.job)]
        return _document([self._task_document(t) for t in tasks if request.state in ("", self._state(t))])

    def Task(self, request: pb.Target, context: grpc.ServicerContext) -> pb.Document:
        self._enter("Task", context)
        if request.id not in self.tasks:
            self._abort(context, NotFound(f"there is no task {request.id}", "", "`meshctl tasks` lists them"))
        return _document(self._task_document(self.tasks[request.id]))

    def Explain(self, request: pb.Target, context: grpc.ServicerContext) -> pb.Document:
        self._enter("Explain", context)
        return _document({"task": request.id, **self.explanation})

    def Status(self, request: pb.Nothing, context: grpc.ServicerContext) -> pb.Document:
        self._enter("Status", context)
        return _document(self.documents["Status"])

    def Logs(self, request: pb.LogsRequest, context: grpc.ServicerContext) -> Iterator[pb.LogChunk]:
        self._enter("Logs", context)
        yield pb.LogChunk(attempt=request.attempt or "newest")
        self.log_requests.append((request.attempt, request.skip))
        text = b"".join(self.output)
        if request.skip < self.break_logs_at:
            yield pb.LogChunk(data=text[request.skip : self.break_logs_at])
            context.abort(grpc.StatusCode.UNAVAILABLE, "connection lost")
        yield pb.LogChunk(data=text[request.skip :])
        yield pb.LogChunk(finished=True)

    def Get(self, request: pb.GetRequest, context: grpc.ServicerContext) -> Iterator[pb.GetPart]:
        self._enter("Get", context)
        self.giving.wait(10)
        if request.blob not in self.blobs:
            self._abort(context, BlobMissing(f"blob {request.blob[:12]} cannot be fetched", "no node has it", "wait"))
        chunks = self.blobs[request.blob]
        manifest = manifest_of(Chunk(digest(chunk), len(chunk)) for chunk in chunks)
        yield pb.GetPart(manifest=manifest.encode())
        for chunk in chunks[request.first :]:
            yield pb.GetPart(chunk=chunk)

    # -- within ------------------------------------------------------------------------------------------------------

    def _enter(self, method: str, context: grpc.ServicerContext) -> None:
        with self._changed:
            self.calls[method] += 1
            self._changed.notify_all()
            waiting = self._refusals.get(method)
            refusal = None if method in self.shut else waiting.popleft() if waiting else ...
        if refusal is None:
            context.abort(grpc.StatusCode.UNAVAILABLE, "connection lost")
        if refusal is not ...:
            self._abort(context, refusal)

    @staticmethod
    def _abort(context: grpc.ServicerContext, error: MeshError) -> None:
        context.set_trailing_metadata((("mesh-error", type(error).__name__),))
        code = grpc.StatusCode.UNAVAILABLE if error.retryable else grpc.StatusCode.FAILED_PRECONDITION
        context.abort(code, str(error))

    def _job(self, job: str, context: grpc.ServicerContext) -> Job:
        if job not in self.jobs:
            self._abort(context, NotFound(f"there is no job {job}", "", "`meshctl jobs` lists them"))
        return self.jobs[job]

    def _run(self, task: Task) -> None:
        if task.id in self.ended:
            return
        work = decode_work(task.payload)
        if work.kind != FUNCTION:
            state, metrics = self.command(work)
            code = "exit 1" if state == "failed" else ""
            self.ended[task.id] = TaskResult(
                task.id, state, code=code, node=NODE, metrics=json.dumps(metrics).encode() if metrics else b""
            )
            return
        try:
            args, kwargs = pickle.loads(work.arguments)
            result = cloudpickle.dumps(pickle.loads(work.function)(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - whatever the function raises
            self.ended[task.id] = TaskResult(
                task.id,
                "failed",
                cloudpickle.dumps(error),
                "",
                type(error).__name__,
                str(error),
                traceback.format_exc(),
                NODE,
            )
        else:
            blob = self.put(pickle.loads(result)) if len(result) > 16 << 10 else ""
            self.ended[task.id] = TaskResult(task.id, "succeeded", b"" if blob else result, node=NODE, blob=blob)

    def _state(self, task: Task) -> str:
        return self.ended[task.id].state if task.id in self.ended else "pending"

    def _ended_of(self, job: str) -> list[TaskResult]:
        return [result for task, result in self.ended.items() if self.tasks[task].job == job]

    def _job_document(self, job: Job) -> dict[str, Any]:
        states = Counter(self._state(task) for task in self.tasks.values() if task.job == job.id)
        counts = {state: states[state] for state in JobCounts._fields}
        open_tasks = counts["pending"] + counts["running"]
        ended = "failed" if counts["failed"] else "cancelled" if counts["cancelled"] else "succeeded"
        return {
            "id": job.id,
            "name": job.name,
            "kind": job.kind,
            "state": ("paused" if self.paused.get(job.id) else "running") if open_tasks else ended,
            "tasks": counts,
            "best": self._best(job),
        }

    def _best(self, job: Job) -> dict[str, Any] | None:
        scored = [
            (json.loads(result.metrics)[job.metric], result.id)
            for result in self._ended_of(job.id)
            if result.metrics and job.metric in json.loads(result.metrics)
        ]
        if not scored:
            return None
        value, task = max(scored) if job.maximize else min(scored)
        params = json.loads(decode_work(self.tasks[task].payload).params)
        return {"task": task, "params": params, "metric": {"name": job.metric, "value": value}, "checkpoint": None}

    def _task_document(self, task: Task) -> dict[str, Any]:
        result = self.ended.get(task.id)
        attempt = {
            "id": f"3.{NODE}.1.{task.index}",
            "node": NODE,
            "term": 3,
            "state": self._state(task),
            "reason": "",
            "resumed_from": CHECKPOINT,
            "started_at": "2025-01-01T00:00:00.000Z",
            "finished_at": "2025-01-01T00:00:01.500Z",
        }
        return {
            "id": task.id,
            "job": task.job,
            "state": self._state(task),
            "reason": "",
            "priority": self.priorities.get(task.id, self.jobs[task.job].priority),
            "params": json.loads(decode_work(task.payload).params),
            "attempts": [attempt] if result else [],
            "result_digest": None,
            "metrics": json.loads(result.metrics) if result and result.metrics else {},
            "checkpoints": [{**CHECKPOINT, "attempt": attempt["id"]}] if result else [],
            "error": f"{result.code}: {result.message}" if result and result.state == "failed" else None,
        }


def _document(value: Any) -> pb.Document:
    return pb.Document(json=json.dumps(value).encode())
