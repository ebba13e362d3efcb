"""Builders for tests of the core's parts: short names in, whole messages out.

Node ``a`` is ``50-a``, its first life ``a1``, its address ``a:1``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from mesh.core.effects import Effect, Persist, Send
from mesh.core.identity import Me
from mesh.core.ids import NO_CLAIM, Claim, NodeId
from mesh.core.lattice import Attempt, Job, Outcome, Record, Shape, Task
from mesh.core.ledger import Ledger
from mesh.core.messages import PROTOCOL, Grant, Heartbeat, Hello, Message
from mesh.core.outbox import Outbox
from mesh.core.params import Params

PARAMS = Params()
T = TypeVar("T")


def node(name: str) -> NodeId:
    return f"50-{name}"


def who(name: str = "a", role: str = "auto", life: int = 1, rank: int = 50) -> Me:
    return Me(f"{rank:02}-{name}", f"{name}{life}", name, role, f"{name}:1", "lab", f"mesh-{name}", "0")


def claim(name: str, term: int = 1, established: bool = True, life: int = 1) -> Claim:
    return Claim(established, term, node(name), f"{name}{life}")


def hello(me: Me, **more: Any) -> Hello:
    mine = Hello(
        (PROTOCOL,), me.mesh_name, (me.new_mesh_id,), False, me.node, me.life, me.name, me.address, me.role,
        me.version, 0,
    )  # fmt: skip
    return mine._replace(**more)


def beat(name: str, seq: int = 1, echo: int = 1, **more: Any) -> Heartbeat:
    """By default its sender is eligible and follows nobody."""
    mine = Heartbeat(
        seq, echo, f"{name}1", 0, True, "", NO_CLAIM, False, 0, "", (), (), (), name, "auto", f"{name}:1", 0
    )  # fmt: skip
    return mine._replace(**more)


def job(name: str = "j", **more: Any) -> Job:
    return Job(name, f"digest of {name}")._replace(**more)


def task(name: str = "t", job: str = "j", shape: Shape | None = None, index: int = 0) -> Task:
    return Task(name, job, index, f"digest of {name}", Shape(kind="k") if shape is None else shape, b"")


def tasks(count: int, job: str = "j", shape: Shape | None = None) -> tuple[Task, ...]:
    shape = Shape(kind="k") if shape is None else shape
    return tuple(task(f"{job}-{index:05}", job, shape, index) for index in range(count))


def grant(name: str, what: Task, devices: tuple[str, ...] = (), alternative: int = 0) -> Grant:
    return Grant(name, 1, what, 5, devices, alternative)


def success(result: str = "r", micros: int = 0) -> Outcome:
    return Outcome(result=result.encode(), digest=f"digest of {result}", micros=micros)


def outbox(name: str = "a", records: Iterable[Record] = ()) -> Outbox:
    ledger = Ledger()
    position = 0
    for record in records:
        ledger.join(record)
        position += 1
    return Outbox(node(name), ledger, position)


def sync(out: Outbox) -> list[Effect]:
    """What this step wanted done, and what was said once it was on disk."""
    effects = out.flush()
    out.on_synced(out.position)
    return effects + out.flush()


def only(kind: type[T], effects: Iterable[object]) -> list[T]:
    return [effect for effect in effects if isinstance(effect, kind)]


def one(kind: type[T], effects: Iterable[object]) -> T:
    found = only(kind, effects)
    assert len(found) == 1, f"{len(found)} of {kind.__name__} in {effects}"
    return found[0]


def messages(kind: type[T], effects: Iterable[Effect], to: str = "") -> list[T]:
    """Messages of one type that leave, to one node or to all."""
    sent: list[Message] = [e.message for e in only(Send, effects) if not to or e.to == node(to)]
    return only(kind, sent)


def persisted(kind: type[T], effects: Iterable[Effect]) -> list[T]:
    return only(kind, [record for effect in only(Persist, effects) for record in effect.records])


def attempts_of(ledger: Ledger, name: str) -> list[Attempt]:
    return [attempt for _, attempt in sorted(ledger.tasks[name].attempts.items())]
