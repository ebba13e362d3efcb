from mesh.v1 import ledger_pb2 as _ledger_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PinRequest(_message.Message):
    __slots__ = ("blob", "pinned")
    BLOB_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    blob: str
    pinned: bool
    def __init__(self, blob: _Optional[str] = ..., pinned: _Optional[bool] = ...) -> None: ...

class PutPart(_message.Message):
    __slots__ = ("manifest", "chunk", "copies")
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    COPIES_FIELD_NUMBER: _ClassVar[int]
    manifest: bytes
    chunk: bytes
    copies: int
    def __init__(self, manifest: _Optional[bytes] = ..., chunk: _Optional[bytes] = ..., copies: _Optional[int] = ...) -> None: ...

class PutReply(_message.Message):
    __slots__ = ("have", "durable_on", "why")
    HAVE_FIELD_NUMBER: _ClassVar[int]
    DURABLE_ON_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    have: bytes
    durable_on: _containers.RepeatedScalarFieldContainer[str]
    why: str
    def __init__(self, have: _Optional[bytes] = ..., durable_on: _Optional[_Iterable[str]] = ..., why: _Optional[str] = ...) -> None: ...

class GetRequest(_message.Message):
    __slots__ = ("blob", "first")
    BLOB_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    blob: str
    first: int
    def __init__(self, blob: _Optional[str] = ..., first: _Optional[int] = ...) -> None: ...

class GetPart(_message.Message):
    __slots__ = ("manifest", "chunk", "here", "size")
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    HERE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    manifest: bytes
    chunk: bytes
    here: int
    size: int
    def __init__(self, manifest: _Optional[bytes] = ..., chunk: _Optional[bytes] = ..., here: _Optional[int] = ..., size: _Optional[int] = ...) -> None: ...

class SubmitRequest(_message.Message):
    __slots__ = ("job", "tasks", "owner")
    JOB_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    job: _ledger_pb2.Job
    tasks: _containers.RepeatedCompositeFieldContainer[_ledger_pb2.Task]
    owner: str
    def __init__(self, job: _Optional[_Union[_ledger_pb2.Job, _Mapping]] = ..., tasks: _Optional[_Iterable[_Union[_ledger_pb2.Task, _Mapping]]] = ..., owner: _Optional[str] = ...) -> None: ...

class SubmitReply(_message.Message):
    __slots__ = ("count", "durable_on")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    DURABLE_ON_FIELD_NUMBER: _ClassVar[int]
    count: int
    durable_on: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, count: _Optional[int] = ..., durable_on: _Optional[_Iterable[str]] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("job", "results")
    JOB_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    job: str
    results: bool
    def __init__(self, job: _Optional[str] = ..., results: _Optional[bool] = ...) -> None: ...

class WatchReply(_message.Message):
    __slots__ = ("results", "counts", "state", "done")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[TaskResult]
    counts: JobCounts
    state: str
    done: bool
    def __init__(self, results: _Optional[_Iterable[_Union[TaskResult, _Mapping]]] = ..., counts: _Optional[_Union[JobCounts, _Mapping]] = ..., state: _Optional[str] = ..., done: _Optional[bool] = ...) -> None: ...

class TaskResult(_message.Message):
    __slots__ = ("id", "state", "result", "digest", "code", "message", "detail", "node", "attempt", "metrics", "blob")
    ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    id: str
    state: str
    result: bytes
    digest: str
    code: str
    message: str
    detail: str
    node: str
    attempt: str
    metrics: bytes
    blob: str
    def __init__(self, id: _Optional[str] = ..., state: _Optional[str] = ..., result: _Optional[bytes] = ..., digest: _Optional[str] = ..., code: _Optional[str] = ..., message: _Optional[str] = ..., detail: _Optional[str] = ..., node: _Optional[str] = ..., attempt: _Optional[str] = ..., metrics: _Optional[bytes] = ..., blob: _Optional[str] = ...) -> None: ...

class JobCounts(_message.Message):
    __slots__ = ("pending", "running", "succeeded", "failed", "cancelled")
    PENDING_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    pending: int
    running: int
    succeeded: int
    failed: int
    cancelled: int
    def __init__(self, pending: _Optional[int] = ..., running: _Optional[int] = ..., succeeded: _Optional[int] = ..., failed: _Optional[int] = ..., cancelled: _Optional[int] = ...) -> None: ...

class Target(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class RetryRequest(_message.Message):
    __slots__ = ("id", "force")
    ID_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    id: str
    force: bool
    def __init__(self, id: _Optional[str] = ..., force: _Optional[bool] = ...) -> None: ...

class PauseRequest(_message.Message):
    __slots__ = ("job", "paused")
    JOB_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    job: str
    paused: bool
    def __init__(self, job: _Optional[str] = ..., paused: _Optional[bool] = ...) -> None: ...

class PriorityRequest(_message.Message):
    __slots__ = ("target", "priority")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    target: str
    priority: int
    def __init__(self, target: _Optional[str] = ..., priority: _Optional[int] = ...) -> None: ...

class Done(_message.Message):
    __slots__ = ("count",)
    COUNT_FIELD_NUMBER: _ClassVar[int]
    count: int
    def __init__(self, count: _Optional[int] = ...) -> None: ...

class Nothing(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Document(_message.Message):
    __slots__ = ("json",)
    JSON_FIELD_NUMBER: _ClassVar[int]
    json: bytes
    def __init__(self, json: _Optional[bytes] = ...) -> None: ...

class TasksRequest(_message.Message):
    __slots__ = ("job", "state")
    JOB_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    job: str
    state: str
    def __init__(self, job: _Optional[str] = ..., state: _Optional[str] = ...) -> None: ...

class LogsRequest(_message.Message):
    __slots__ = ("target", "attempt", "follow", "skip")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    SKIP_FIELD_NUMBER: _ClassVar[int]
    target: str
    attempt: str
    follow: bool
    skip: int
    def __init__(self, target: _Optional[str] = ..., attempt: _Optional[str] = ..., follow: _Optional[bool] = ..., skip: _Optional[int] = ...) -> None: ...

class LogChunk(_message.Message):
    __slots__ = ("data", "finished", "attempt")
    DATA_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    finished: bool
    attempt: str
    def __init__(self, data: _Optional[bytes] = ..., finished: _Optional[bool] = ..., attempt: _Optional[str] = ...) -> None: ...
