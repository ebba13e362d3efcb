from mesh.v1 import ledger_pb2 as _ledger_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Hello(_message.Message):
    __slots__ = ("protocols", "mesh_name", "mesh_ids", "mature", "node", "life", "name", "address", "role", "version", "uptime_ms")
    PROTOCOLS_FIELD_NUMBER: _ClassVar[int]
    MESH_NAME_FIELD_NUMBER: _ClassVar[int]
    MESH_IDS_FIELD_NUMBER: _ClassVar[int]
    MATURE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    LIFE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    UPTIME_MS_FIELD_NUMBER: _ClassVar[int]
    protocols: _containers.RepeatedScalarFieldContainer[int]
    mesh_name: str
    mesh_ids: _containers.RepeatedScalarFieldContainer[str]
    mature: bool
    node: str
    life: str
    name: str
    address: str
    role: str
    version: str
    uptime_ms: int
    def __init__(self, protocols: _Optional[_Iterable[int]] = ..., mesh_name: _Optional[str] = ..., mesh_ids: _Optional[_Iterable[str]] = ..., mature: _Optional[bool] = ..., node: _Optional[str] = ..., life: _Optional[str] = ..., name: _Optional[str] = ..., address: _Optional[str] = ..., role: _Optional[str] = ..., version: _Optional[str] = ..., uptime_ms: _Optional[int] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("code", "reason")
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    code: str
    reason: str
    def __init__(self, code: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class Sighting(_message.Message):
    __slots__ = ("claim", "address", "leads", "followed")
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    LEADS_FIELD_NUMBER: _ClassVar[int]
    FOLLOWED_FIELD_NUMBER: _ClassVar[int]
    claim: _ledger_pb2.Claim
    address: str
    leads: int
    followed: str
    def __init__(self, claim: _Optional[_Union[_ledger_pb2.Claim, _Mapping]] = ..., address: _Optional[str] = ..., leads: _Optional[int] = ..., followed: _Optional[str] = ...) -> None: ...

class PeerAddress(_message.Message):
    __slots__ = ("node", "address")
    NODE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    node: str
    address: str
    def __init__(self, node: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("seq", "echo", "life", "incarnation", "eligible", "why_not", "claim", "leader_heard", "leads", "followed", "suspects", "seen", "peers", "name", "role", "address", "position", "successors", "caught_up", "carried")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    ECHO_FIELD_NUMBER: _ClassVar[int]
    LIFE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ELIGIBLE_FIELD_NUMBER: _ClassVar[int]
    WHY_NOT_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    LEADER_HEARD_FIELD_NUMBER: _ClassVar[int]
    LEADS_FIELD_NUMBER: _ClassVar[int]
    FOLLOWED_FIELD_NUMBER: _ClassVar[int]
    SUSPECTS_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    SUCCESSORS_FIELD_NUMBER: _ClassVar[int]
    CAUGHT_UP_FIELD_NUMBER: _ClassVar[int]
    CARRIED_FIELD_NUMBER: _ClassVar[int]
    seq: int
    echo: int
    life: str
    incarnation: int
    eligible: bool
    why_not: str
    claim: _ledger_pb2.Claim
    leader_heard: bool
    leads: int
    followed: str
    suspects: _containers.RepeatedScalarFieldContainer[str]
    seen: _containers.RepeatedCompositeFieldContainer[Sighting]
    peers: _containers.RepeatedCompositeFieldContainer[PeerAddress]
    name: str
    role: str
    address: str
    position: int
    successors: _containers.RepeatedScalarFieldContainer[str]
    caught_up: bool
    carried: int
    def __init__(self, seq: _Optional[int] = ..., echo: _Optional[int] = ..., life: _Optional[str] = ..., incarnation: _Optional[int] = ..., eligible: _Optional[bool] = ..., why_not: _Optional[str] = ..., claim: _Optional[_Union[_ledger_pb2.Claim, _Mapping]] = ..., leader_heard: _Optional[bool] = ..., leads: _Optional[int] = ..., followed: _Optional[str] = ..., suspects: _Optional[_Iterable[str]] = ..., seen: _Optional[_Iterable[_Union[Sighting, _Mapping]]] = ..., peers: _Optional[_Iterable[_Union[PeerAddress, _Mapping]]] = ..., name: _Optional[str] = ..., role: _Optional[str] = ..., address: _Optional[str] = ..., position: _Optional[int] = ..., successors: _Optional[_Iterable[str]] = ..., caught_up: _Optional[bool] = ..., carried: _Optional[int] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("stays", "yields", "above", "established")
    STAYS_FIELD_NUMBER: _ClassVar[int]
    YIELDS_FIELD_NUMBER: _ClassVar[int]
    ABOVE_FIELD_NUMBER: _ClassVar[int]
    ESTABLISHED_FIELD_NUMBER: _ClassVar[int]
    stays: str
    yields: str
    above: int
    established: bool
    def __init__(self, stays: _Optional[str] = ..., yields: _Optional[str] = ..., above: _Optional[int] = ..., established: _Optional[bool] = ...) -> None: ...

class YieldRequest(_message.Message):
    __slots__ = ("claim",)
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    claim: _ledger_pb2.Claim
    def __init__(self, claim: _Optional[_Union[_ledger_pb2.Claim, _Mapping]] = ...) -> None: ...

class Yield(_message.Message):
    __slots__ = ("claim", "reason")
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    claim: _ledger_pb2.Claim
    reason: str
    def __init__(self, claim: _Optional[_Union[_ledger_pb2.Claim, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class Refused(_message.Message):
    __slots__ = ("highest", "alive")
    HIGHEST_FIELD_NUMBER: _ClassVar[int]
    ALIVE_FIELD_NUMBER: _ClassVar[int]
    highest: _ledger_pb2.Claim
    alive: bool
    def __init__(self, highest: _Optional[_Union[_ledger_pb2.Claim, _Mapping]] = ..., alive: _Optional[bool] = ...) -> None: ...

class Relayed(_message.Message):
    __slots__ = ("source", "target", "verdict", "yield_request", "yielded")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    YIELD_REQUEST_FIELD_NUMBER: _ClassVar[int]
    YIELDED_FIELD_NUMBER: _ClassVar[int]
    source: str
    target: str
    verdict: Verdict
    yield_request: YieldRequest
    yielded: Yield
    def __init__(self, source: _Optional[str] = ..., target: _Optional[str] = ..., verdict: _Optional[_Union[Verdict, _Mapping]] = ..., yield_request: _Optional[_Union[YieldRequest, _Mapping]] = ..., yielded: _Optional[_Union[Yield, _Mapping]] = ...) -> None: ...

class Cursor(_message.Message):
    __slots__ = ("journal", "position", "digest")
    JOURNAL_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    journal: str
    position: int
    digest: str
    def __init__(self, journal: _Optional[str] = ..., position: _Optional[int] = ..., digest: _Optional[str] = ...) -> None: ...

class Pull(_message.Message):
    __slots__ = ("session", "cursors", "wait")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    CURSORS_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    session: int
    cursors: _containers.RepeatedCompositeFieldContainer[Cursor]
    wait: bool
    def __init__(self, session: _Optional[int] = ..., cursors: _Optional[_Iterable[_Union[Cursor, _Mapping]]] = ..., wait: _Optional[bool] = ...) -> None: ...

class Pulled(_message.Message):
    __slots__ = ("session", "cursor", "end", "records")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    session: int
    cursor: Cursor
    end: bool
    records: bytes
    def __init__(self, session: _Optional[int] = ..., cursor: _Optional[_Union[Cursor, _Mapping]] = ..., end: _Optional[bool] = ..., records: _Optional[bytes] = ...) -> None: ...

class HeldBlob(_message.Message):
    __slots__ = ("blob", "size")
    BLOB_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    blob: str
    size: int
    def __init__(self, blob: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class Holds(_message.Message):
    __slots__ = ("claim", "life", "session", "seq", "gained", "lost", "free", "more")
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    LIFE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    GAINED_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    FREE_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    claim: _ledger_pb2.Claim
    life: str
    session: int
    seq: int
    gained: _containers.RepeatedCompositeFieldContainer[HeldBlob]
    lost: _containers.RepeatedScalarFieldContainer[str]
    free: int
    more: bool
    def __init__(self, claim: _Optional[_Union[_ledger_pb2.Claim, _Mapping]] = ..., life: _Optional[str] = ..., session: _Optional[int] = ..., seq: _Optional[int] = ..., gained: _Optional[_Iterable[_Union[HeldBlob, _Mapping]]] = ..., lost: _Optional[_Iterable[str]] = ..., free: _Optional[int] = ..., more: _Optional[bool] = ...) -> None: ...

class HoldsSeen(_message.Message):
    __slots__ = ("claim", "session", "seq")
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    claim: _ledger_pb2.Claim
    session: int
    seq: int
    def __init__(self, claim: _Optional[_Union[_ledger_pb2.Claim, _Mapping]] = ..., session: _Optional[int] = ..., seq: _Optional[int] = ...) -> None: ...

class Seek(_message.Message):
    __slots__ = ("claim", "blob", "size", "copies", "like")
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    COPIES_FIELD_NUMBER: _ClassVar[int]
    LIKE_FIELD_NUMBER: _ClassVar[int]
    claim: _ledger_pb2.Claim
    blob: str
    size: int
    copies: int
    like: str
    def __init__(self, claim: _Optional[_Union[_ledger_pb2.Claim, _Mapping]] = ..., blob: _Optional[str] = ..., size: _Optional[int] = ..., copies: _Optional[int] = ..., like: _Optional[str] = ...) -> None: ...

class Found(_message.Message):
    __slots__ = ("claim", "blob", "holders", "fetching", "sure", "enough", "why")
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    FETCHING_FIELD_NUMBER: _ClassVar[int]
    SURE_FIELD_NUMBER: _ClassVar[int]
    ENOUGH_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    claim: _ledger_pb2.Claim
    blob: str
    holders: _containers.RepeatedCompositeFieldContainer[PeerAddress]
    fetching: _containers.RepeatedCompositeFieldContainer[PeerAddress]
    sure: bool
    enough: bool
    why: str
    def __init__(self, claim: _Optional[_Union[_ledger_pb2.Claim, _Mapping]] = ..., blob: _Optional[str] = ..., holders: _Optional[_Iterable[_Union[PeerAddress, _Mapping]]] = ..., fetching: _Optional[_Iterable[_Union[PeerAddress, _Mapping]]] = ..., sure: _Optional[bool] = ..., enough: _Optional[bool] = ..., why: _Optional[str] = ...) -> None: ...

class Copy(_message.Message):
    __slots__ = ("claim", "blob", "size", "holders")
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    claim: _ledger_pb2.Claim
    blob: str
    size: int
    holders: _containers.RepeatedCompositeFieldContainer[PeerAddress]
    def __init__(self, claim: _Optional[_Union[_ledger_pb2.Claim, _Mapping]] = ..., blob: _Optional[str] = ..., size: _Optional[int] = ..., holders: _Optional[_Iterable[_Union[PeerAddress, _Mapping]]] = ...) -> None: ...

class CopyFailed(_message.Message):
    __slots__ = ("claim", "blob", "reason")
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    claim: _ledger_pb2.Claim
    blob: str
    reason: str
    def __init__(self, claim: _Optional[_Union[_ledger_pb2.Claim, _Mapping]] = ..., blob: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class Spare(_message.Message):
    __slots__ = ("claim", "number", "blobs")
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    claim: _ledger_pb2.Claim
    number: int
    blobs: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, claim: _Optional[_Union[_ledger_pb2.Claim, _Mapping]] = ..., number: _Optional[int] = ..., blobs: _Optional[_Iterable[str]] = ...) -> None: ...

class Spared(_message.Message):
    __slots__ = ("claim", "number", "blobs", "why")
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    claim: _ledger_pb2.Claim
    number: int
    blobs: _containers.RepeatedScalarFieldContainer[str]
    why: str
    def __init__(self, claim: _Optional[_Union[_ledger_pb2.Claim, _Mapping]] = ..., number: _Optional[int] = ..., blobs: _Optional[_Iterable[str]] = ..., why: _Optional[str] = ...) -> None: ...

class PeerFrame(_message.Message):
    __slots__ = ("hello", "refusal", "heartbeat", "verdict", "yield_request", "yielded", "refused", "relayed", "pull", "pulled", "holds", "holds_seen", "seek", "found", "copy", "copy_failed", "spare", "spared")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    YIELD_REQUEST_FIELD_NUMBER: _ClassVar[int]
    YIELDED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    RELAYED_FIELD_NUMBER: _ClassVar[int]
    PULL_FIELD_NUMBER: _ClassVar[int]
    PULLED_FIELD_NUMBER: _ClassVar[int]
    HOLDS_FIELD_NUMBER: _ClassVar[int]
    HOLDS_SEEN_FIELD_NUMBER: _ClassVar[int]
    SEEK_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    COPY_FIELD_NUMBER: _ClassVar[int]
    COPY_FAILED_FIELD_NUMBER: _ClassVar[int]
    SPARE_FIELD_NUMBER: _ClassVar[int]
    SPARED_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    refusal: Refusal
    heartbeat: Heartbeat
    verdict: Verdict
    yield_request: YieldRequest
    yielded: Yield
    refused: Refused
    relayed: Relayed
    pull: Pull
    pulled: Pulled
    holds: Holds
    holds_seen: HoldsSeen
    seek: Seek
    found: Found
    copy: Copy
    copy_failed: CopyFailed
    spare: Spare
    spared: Spared
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., verdict: _Optional[_Union[Verdict, _Mapping]] = ..., yield_request: _Optional[_Union[YieldRequest, _Mapping]] = ..., yielded: _Optional[_Union[Yield, _Mapping]] = ..., refused: _Optional[_Union[Refused, _Mapping]] = ..., relayed: _Optional[_Union[Relayed, _Mapping]] = ..., pull: _Optional[_Union[Pull, _Mapping]] = ..., pulled: _Optional[_Union[Pulled, _Mapping]] = ..., holds: _Optional[_Union[Holds, _Mapping]] = ..., holds_seen: _Optional[_Union[HoldsSeen, _Mapping]] = ..., seek: _Optional[_Union[Seek, _Mapping]] = ..., found: _Optional[_Union[Found, _Mapping]] = ..., copy: _Optional[_Union[Copy, _Mapping]] = ..., copy_failed: _Optional[_Union[CopyFailed, _Mapping]] = ..., spare: _Optional[_Union[Spare, _Mapping]] = ..., spared: _Optional[_Union[Spared, _Mapping]] = ...) -> None: ...
