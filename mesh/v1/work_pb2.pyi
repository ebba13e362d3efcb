from mesh.v1 import ledger_pb2 as _ledger_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WorkItem(_message.Message):
    __slots__ = ("kind", "argv", "target", "function", "arguments", "cwd", "env", "params", "metric", "files", "requirements")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ARGV_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    CWD_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    REQUIREMENTS_FIELD_NUMBER: _ClassVar[int]
    kind: str
    argv: _containers.RepeatedScalarFieldContainer[str]
    target: str
    function: bytes
    arguments: bytes
    cwd: str
    env: _containers.RepeatedCompositeFieldContainer[Variable]
    params: bytes
    metric: str
    files: str
    requirements: str
    def __init__(self, kind: _Optional[str] = ..., argv: _Optional[_Iterable[str]] = ..., target: _Optional[str] = ..., function: _Optional[bytes] = ..., arguments: _Optional[bytes] = ..., cwd: _Optional[str] = ..., env: _Optional[_Iterable[_Union[Variable, _Mapping]]] = ..., params: _Optional[bytes] = ..., metric: _Optional[str] = ..., files: _Optional[str] = ..., requirements: _Optional[str] = ...) -> None: ...

class Variable(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class Device(_message.Message):
    __slots__ = ("id", "kind", "name", "memory", "free_memory")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    FREE_MEMORY_FIELD_NUMBER: _ClassVar[int]
    id: str
    kind: str
    name: str
    memory: int
    free_memory: int
    def __init__(self, id: _Optional[str] = ..., kind: _Optional[str] = ..., name: _Optional[str] = ..., memory: _Optional[int] = ..., free_memory: _Optional[int] = ...) -> None: ...

class Offer(_message.Message):
    __slots__ = ("slots", "millicpus", "memory", "free_memory", "devices", "labels", "profile", "cpu", "python", "min_priority", "max_priority", "unwilling", "runners")
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    MILLICPUS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    FREE_MEMORY_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    CPU_FIELD_NUMBER: _ClassVar[int]
    PYTHON_FIELD_NUMBER: _ClassVar[int]
    MIN_PRIORITY_FIELD_NUMBER: _ClassVar[int]
    MAX_PRIORITY_FIELD_NUMBER: _ClassVar[int]
    UNWILLING_FIELD_NUMBER: _ClassVar[int]
    RUNNERS_FIELD_NUMBER: _ClassVar[int]
    slots: int
    millicpus: int
    memory: int
    free_memory: int
    devices: _containers.RepeatedCompositeFieldContainer[Device]
    labels: _containers.RepeatedCompositeFieldContainer[_ledger_pb2.Label]
    profile: str
    cpu: str
    python: str
    min_priority: int
    max_priority: int
    unwilling: str
    runners: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, slots: _Optional[int] = ..., millicpus: _Optional[int] = ..., memory: _Optional[int] = ..., free_memory: _Optional[int] = ..., devices: _Optional[_Iterable[_Union[Device, _Mapping]]] = ..., labels: _Optional[_Iterable[_Union[_ledger_pb2.Label, _Mapping]]] = ..., profile: _Optional[str] = ..., cpu: _Optional[str] = ..., python: _Optional[str] = ..., min_priority: _Optional[int] = ..., max_priority: _Optional[int] = ..., unwilling: _Optional[str] = ..., runners: _Optional[_Iterable[str]] = ...) -> None: ...

class DeviceShare(_message.Message):
    __slots__ = ("device", "free")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    FREE_FIELD_NUMBER: _ClassVar[int]
    device: str
    free: int
    def __init__(self, device: _Optional[str] = ..., free: _Optional[int] = ...) -> None: ...

class Speed(_message.Message):
    __slots__ = ("kind", "micros")
    KIND_FIELD_NUMBER: _ClassVar[int]
    MICROS_FIELD_NUMBER: _ClassVar[int]
    kind: str
    micros: int
    def __init__(self, kind: _Optional[str] = ..., micros: _Optional[int] = ...) -> None: ...

class Bid(_message.Message):
    __slots__ = ("offer", "free_slots", "free_millicpus", "free_memory", "devices", "allowance_ms", "speeds")
    OFFER_FIELD_NUMBER: _ClassVar[int]
    FREE_SLOTS_FIELD_NUMBER: _ClassVar[int]
    FREE_MILLICPUS_FIELD_NUMBER: _ClassVar[int]
    FREE_MEMORY_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    ALLOWANCE_MS_FIELD_NUMBER: _ClassVar[int]
    SPEEDS_FIELD_NUMBER: _ClassVar[int]
    offer: Offer
    free_slots: int
    free_millicpus: int
    free_memory: int
    devices: _containers.RepeatedCompositeFieldContainer[DeviceShare]
    allowance_ms: int
    speeds: _containers.RepeatedCompositeFieldContainer[Speed]
    def __init__(self, offer: _Optional[_Union[Offer, _Mapping]] = ..., free_slots: _Optional[int] = ..., free_millicpus: _Optional[int] = ..., free_memory: _Optional[int] = ..., devices: _Optional[_Iterable[_Union[DeviceShare, _Mapping]]] = ..., allowance_ms: _Optional[int] = ..., speeds: _Optional[_Iterable[_Union[Speed, _Mapping]]] = ...) -> None: ...

class Grant(_message.Message):
    __slots__ = ("attempt", "run", "task", "priority", "devices", "alternative", "resume")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    ALTERNATIVE_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    attempt: str
    run: int
    task: _ledger_pb2.Task
    priority: int
    devices: _containers.RepeatedScalarFieldContainer[str]
    alternative: int
    resume: _containers.RepeatedCompositeFieldContainer[_ledger_pb2.Checkpoint]
    def __init__(self, attempt: _Optional[str] = ..., run: _Optional[int] = ..., task: _Optional[_Union[_ledger_pb2.Task, _Mapping]] = ..., priority: _Optional[int] = ..., devices: _Optional[_Iterable[str]] = ..., alternative: _Optional[int] = ..., resume: _Optional[_Iterable[_Union[_ledger_pb2.Checkpoint, _Mapping]]] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("attempt", "metrics")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    attempt: str
    metrics: bytes
    def __init__(self, attempt: _Optional[str] = ..., metrics: _Optional[bytes] = ...) -> None: ...

class Cannot(_message.Message):
    __slots__ = ("what", "why")
    WHAT_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    what: str
    why: str
    def __init__(self, what: _Optional[str] = ..., why: _Optional[str] = ...) -> None: ...

class Report(_message.Message):
    __slots__ = ("claim", "life", "applied", "attempts", "progress", "bid", "declares", "cannot", "session", "slices")
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    LIFE_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    BID_FIELD_NUMBER: _ClassVar[int]
    DECLARES_FIELD_NUMBER: _ClassVar[int]
    CANNOT_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SLICES_FIELD_NUMBER: _ClassVar[int]
    claim: _ledger_pb2.Claim
    life: str
    applied: int
    attempts: _containers.RepeatedCompositeFieldContainer[_ledger_pb2.Attempt]
    progress: _containers.RepeatedCompositeFieldContainer[Progress]
    bid: Bid
    declares: int
    cannot: _containers.RepeatedCompositeFieldContainer[Cannot]
    session: int
    slices: int
    def __init__(self, claim: _Optional[_Union[_ledger_pb2.Claim, _Mapping]] = ..., life: _Optional[str] = ..., applied: _Optional[int] = ..., attempts: _Optional[_Iterable[_Union[_ledger_pb2.Attempt, _Mapping]]] = ..., progress: _Optional[_Iterable[_Union[Progress, _Mapping]]] = ..., bid: _Optional[_Union[Bid, _Mapping]] = ..., declares: _Optional[int] = ..., cannot: _Optional[_Iterable[_Union[Cannot, _Mapping]]] = ..., session: _Optional[int] = ..., slices: _Optional[int] = ...) -> None: ...

class Recall(_message.Message):
    __slots__ = ("attempt", "why")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    attempt: str
    why: str
    def __init__(self, attempt: _Optional[str] = ..., why: _Optional[str] = ...) -> None: ...

class Orders(_message.Message):
    __slots__ = ("claim", "seq", "grants", "recalls", "acks", "unknown", "session")
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    GRANTS_FIELD_NUMBER: _ClassVar[int]
    RECALLS_FIELD_NUMBER: _ClassVar[int]
    ACKS_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    claim: _ledger_pb2.Claim
    seq: int
    grants: _containers.RepeatedCompositeFieldContainer[Grant]
    recalls: _containers.RepeatedCompositeFieldContainer[Recall]
    acks: _containers.RepeatedScalarFieldContainer[str]
    unknown: _containers.RepeatedScalarFieldContainer[str]
    session: int
    def __init__(self, claim: _Optional[_Union[_ledger_pb2.Claim, _Mapping]] = ..., seq: _Optional[int] = ..., grants: _Optional[_Iterable[_Union[Grant, _Mapping]]] = ..., recalls: _Optional[_Iterable[_Union[Recall, _Mapping]]] = ..., acks: _Optional[_Iterable[str]] = ..., unknown: _Optional[_Iterable[str]] = ..., session: _Optional[int] = ...) -> None: ...

class ReportFrame(_message.Message):
    __slots__ = ("node", "report", "life")
    NODE_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    LIFE_FIELD_NUMBER: _ClassVar[int]
    node: str
    report: Report
    life: str
    def __init__(self, node: _Optional[str] = ..., report: _Optional[_Union[Report, _Mapping]] = ..., life: _Optional[str] = ...) -> None: ...

class OrdersFrame(_message.Message):
    __slots__ = ("orders",)
    ORDERS_FIELD_NUMBER: _ClassVar[int]
    orders: Orders
    def __init__(self, orders: _Optional[_Union[Orders, _Mapping]] = ...) -> None: ...
