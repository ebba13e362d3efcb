from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Claim(_message.Message):
    __slots__ = ("established", "term", "leader", "life")
    ESTABLISHED_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    LIFE_FIELD_NUMBER: _ClassVar[int]
    established: bool
    term: int
    leader: str
    life: str
    def __init__(self, established: _Optional[bool] = ..., term: _Optional[int] = ..., leader: _Optional[str] = ..., life: _Optional[str] = ...) -> None: ...

class Label(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: str
    def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class Resources(_message.Message):
    __slots__ = ("millicpus", "memory", "milligpus", "gpu_memory", "device", "labels", "profile")
    MILLICPUS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    MILLIGPUS_FIELD_NUMBER: _ClassVar[int]
    GPU_MEMORY_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    millicpus: int
    memory: int
    milligpus: int
    gpu_memory: int
    device: str
    labels: _containers.RepeatedCompositeFieldContainer[Label]
    profile: str
    def __init__(self, millicpus: _Optional[int] = ..., memory: _Optional[int] = ..., milligpus: _Optional[int] = ..., gpu_memory: _Optional[int] = ..., device: _Optional[str] = ..., labels: _Optional[_Iterable[_Union[Label, _Mapping]]] = ..., profile: _Optional[str] = ...) -> None: ...

class Retries(_message.Message):
    __slots__ = ("max", "backoff_ms", "factor_milli", "max_delay_ms", "not_on")
    MAX_FIELD_NUMBER: _ClassVar[int]
    BACKOFF_MS_FIELD_NUMBER: _ClassVar[int]
    FACTOR_MILLI_FIELD_NUMBER: _ClassVar[int]
    MAX_DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    NOT_ON_FIELD_NUMBER: _ClassVar[int]
    max: int
    backoff_ms: int
    factor_milli: int
    max_delay_ms: int
    not_on: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, max: _Optional[int] = ..., backoff_ms: _Optional[int] = ..., factor_milli: _Optional[int] = ..., max_delay_ms: _Optional[int] = ..., not_on: _Optional[_Iterable[str]] = ...) -> None: ...

class Shape(_message.Message):
    __slots__ = ("alternatives", "kind", "python", "cwd", "retries", "timeout_ms", "hold", "checkpoints")
    ALTERNATIVES_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PYTHON_FIELD_NUMBER: _ClassVar[int]
    CWD_FIELD_NUMBER: _ClassVar[int]
    RETRIES_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINTS_FIELD_NUMBER: _ClassVar[int]
    alternatives: _containers.RepeatedCompositeFieldContainer[Resources]
    kind: str
    python: str
    cwd: str
    retries: Retries
    timeout_ms: int
    hold: bool
    checkpoints: Checkpointing
    def __init__(self, alternatives: _Optional[_Iterable[_Union[Resources, _Mapping]]] = ..., kind: _Optional[str] = ..., python: _Optional[str] = ..., cwd: _Optional[str] = ..., retries: _Optional[_Union[Retries, _Mapping]] = ..., timeout_ms: _Optional[int] = ..., hold: _Optional[bool] = ..., checkpoints: _Optional[_Union[Checkpointing, _Mapping]] = ...) -> None: ...

class Checkpointing(_message.Message):
    __slots__ = ("every_ms", "keep", "copies", "metric", "maximize")
    EVERY_MS_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    COPIES_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    MAXIMIZE_FIELD_NUMBER: _ClassVar[int]
    every_ms: int
    keep: int
    copies: int
    metric: str
    maximize: bool
    def __init__(self, every_ms: _Optional[int] = ..., keep: _Optional[int] = ..., copies: _Optional[int] = ..., metric: _Optional[str] = ..., maximize: _Optional[bool] = ...) -> None: ...

class Checkpoint(_message.Message):
    __slots__ = ("run", "step", "attempt", "number", "blob", "size", "metrics", "saved_ms")
    RUN_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    SAVED_MS_FIELD_NUMBER: _ClassVar[int]
    run: int
    step: int
    attempt: str
    number: int
    blob: str
    size: int
    metrics: bytes
    saved_ms: int
    def __init__(self, run: _Optional[int] = ..., step: _Optional[int] = ..., attempt: _Optional[str] = ..., number: _Optional[int] = ..., blob: _Optional[str] = ..., size: _Optional[int] = ..., metrics: _Optional[bytes] = ..., saved_ms: _Optional[int] = ...) -> None: ...

class Job(_message.Message):
    __slots__ = ("id", "digest", "name", "kind", "priority", "max_parallel", "metric", "maximize", "submitted_ms", "source", "size")
    ID_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    MAX_PARALLEL_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    MAXIMIZE_FIELD_NUMBER: _ClassVar[int]
    SUBMITTED_MS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    id: str
    digest: str
    name: str
    kind: str
    priority: int
    max_parallel: int
    metric: str
    maximize: bool
    submitted_ms: int
    source: bytes
    size: int
    def __init__(self, id: _Optional[str] = ..., digest: _Optional[str] = ..., name: _Optional[str] = ..., kind: _Optional[str] = ..., priority: _Optional[int] = ..., max_parallel: _Optional[int] = ..., metric: _Optional[str] = ..., maximize: _Optional[bool] = ..., submitted_ms: _Optional[int] = ..., source: _Optional[bytes] = ..., size: _Optional[int] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("id", "job", "index", "digest", "shape", "payload", "needs")
    ID_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    NEEDS_FIELD_NUMBER: _ClassVar[int]
    id: str
    job: str
    index: int
    digest: str
    shape: bytes
    payload: bytes
    needs: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, id: _Optional[str] = ..., job: _Optional[str] = ..., index: _Optional[int] = ..., digest: _Optional[str] = ..., shape: _Optional[bytes] = ..., payload: _Optional[bytes] = ..., needs: _Optional[_Iterable[str]] = ...) -> None: ...

class Outcome(_message.Message):
    __slots__ = ("code", "message", "detail", "result", "digest", "metrics", "started_ms", "finished_ms", "micros", "blob", "log")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    STARTED_MS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_MS_FIELD_NUMBER: _ClassVar[int]
    MICROS_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    detail: str
    result: bytes
    digest: str
    metrics: bytes
    started_ms: int
    finished_ms: int
    micros: int
    blob: str
    log: str
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ..., detail: _Optional[str] = ..., result: _Optional[bytes] = ..., digest: _Optional[str] = ..., metrics: _Optional[bytes] = ..., started_ms: _Optional[int] = ..., finished_ms: _Optional[int] = ..., micros: _Optional[int] = ..., blob: _Optional[str] = ..., log: _Optional[str] = ...) -> None: ...

class Attempt(_message.Message):
    __slots__ = ("task", "id", "ended", "round", "phase", "run", "node", "outcome", "saved", "resumed")
    TASK_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    SAVED_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    task: str
    id: str
    ended: bool
    round: int
    phase: int
    run: int
    node: str
    outcome: Outcome
    saved: _containers.RepeatedCompositeFieldContainer[Checkpoint]
    resumed: str
    def __init__(self, task: _Optional[str] = ..., id: _Optional[str] = ..., ended: _Optional[bool] = ..., round: _Optional[int] = ..., phase: _Optional[int] = ..., run: _Optional[int] = ..., node: _Optional[str] = ..., outcome: _Optional[_Union[Outcome, _Mapping]] = ..., saved: _Optional[_Iterable[_Union[Checkpoint, _Mapping]]] = ..., resumed: _Optional[str] = ...) -> None: ...

class Acceptance(_message.Message):
    __slots__ = ("task", "attempt", "claim", "digest")
    TASK_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    task: str
    attempt: str
    claim: bytes
    digest: str
    def __init__(self, task: _Optional[str] = ..., attempt: _Optional[str] = ..., claim: _Optional[bytes] = ..., digest: _Optional[str] = ...) -> None: ...

class Run(_message.Message):
    __slots__ = ("task", "run", "cancelled")
    TASK_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    task: str
    run: int
    cancelled: int
    def __init__(self, task: _Optional[str] = ..., run: _Optional[int] = ..., cancelled: _Optional[int] = ...) -> None: ...

class Ended(_message.Message):
    __slots__ = ("task", "run", "status", "code", "message")
    TASK_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    task: str
    run: int
    status: int
    code: str
    message: str
    def __init__(self, task: _Optional[str] = ..., run: _Optional[int] = ..., status: _Optional[int] = ..., code: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class Register(_message.Message):
    __slots__ = ("scope", "field", "version", "node", "value")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    scope: str
    field: str
    version: int
    node: str
    value: str
    def __init__(self, scope: _Optional[str] = ..., field: _Optional[str] = ..., version: _Optional[int] = ..., node: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class Mesh(_message.Message):
    __slots__ = ("id", "mature")
    ID_FIELD_NUMBER: _ClassVar[int]
    MATURE_FIELD_NUMBER: _ClassVar[int]
    id: str
    mature: bool
    def __init__(self, id: _Optional[str] = ..., mature: _Optional[bool] = ...) -> None: ...

class Claimed(_message.Message):
    __slots__ = ("claim",)
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    claim: Claim
    def __init__(self, claim: _Optional[_Union[Claim, _Mapping]] = ...) -> None: ...

class Lived(_message.Message):
    __slots__ = ("node", "number", "life")
    NODE_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    LIFE_FIELD_NUMBER: _ClassVar[int]
    node: str
    number: int
    life: str
    def __init__(self, node: _Optional[str] = ..., number: _Optional[int] = ..., life: _Optional[str] = ...) -> None: ...

class Owner(_message.Message):
    __slots__ = ("job", "task", "handovers", "owner")
    JOB_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    HANDOVERS_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    job: str
    task: str
    handovers: int
    owner: str
    def __init__(self, job: _Optional[str] = ..., task: _Optional[str] = ..., handovers: _Optional[int] = ..., owner: _Optional[str] = ...) -> None: ...

class Deleted(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: str
    def __init__(self, job: _Optional[str] = ...) -> None: ...

class Record(_message.Message):
    __slots__ = ("job", "task", "attempt", "acceptance", "run", "ended", "register", "mesh", "claimed", "lived", "owner", "deleted")
    JOB_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    ACCEPTANCE_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    REGISTER_FIELD_NUMBER: _ClassVar[int]
    MESH_FIELD_NUMBER: _ClassVar[int]
    CLAIMED_FIELD_NUMBER: _ClassVar[int]
    LIVED_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    DELETED_FIELD_NUMBER: _ClassVar[int]
    job: Job
    task: Task
    attempt: Attempt
    acceptance: Acceptance
    run: Run
    ended: Ended
    register: Register
    mesh: Mesh
    claimed: Claimed
    lived: Lived
    owner: Owner
    deleted: Deleted
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ..., task: _Optional[_Union[Task, _Mapping]] = ..., attempt: _Optional[_Union[Attempt, _Mapping]] = ..., acceptance: _Optional[_Union[Acceptance, _Mapping]] = ..., run: _Optional[_Union[Run, _Mapping]] = ..., ended: _Optional[_Union[Ended, _Mapping]] = ..., register: _Optional[_Union[Register, _Mapping]] = ..., mesh: _Optional[_Union[Mesh, _Mapping]] = ..., claimed: _Optional[_Union[Claimed, _Mapping]] = ..., lived: _Optional[_Union[Lived, _Mapping]] = ..., owner: _Optional[_Union[Owner, _Mapping]] = ..., deleted: _Optional[_Union[Deleted, _Mapping]] = ...) -> None: ...

class RecordBatch(_message.Message):
    __slots__ = ("records",)
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedCompositeFieldContainer[Record]
    def __init__(self, records: _Optional[_Iterable[_Union[Record, _Mapping]]] = ...) -> None: ...
