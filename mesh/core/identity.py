"""Who this node is, and which hellos it takes a link with.

A mesh has an id; its name is for people. A *young* mesh (no two members were ever together for long) merges with any
mesh of its name; two that are not young refuse each other's links and say so.
"""

from __future__ import annotations

from typing import NamedTuple

from mesh.core.ids import Life, NodeId, ulid_of
from mesh.core.ledger import Ledger
from mesh.core.messages import PROTOCOL, Hello


class Me(NamedTuple):
    """What the shell draws and reads once, at start. ``role``: auto, leader, worker or observer."""

    node: NodeId
    life: Life
    name: str
    role: str
    address: str
    mesh_name: str
    new_mesh_id: str  # drawn for a journal that holds none yet
    version: str
    settings: tuple[tuple[str, str], ...] = ()  # of the mesh, that this node was told to set: durability, lost_after

    @property
    def may_lead(self) -> bool:
        return self.role in ("auto", "leader")

    @property
    def works(self) -> bool:
        return self.role in ("auto", "worker")


class Refusal(NamedTuple):
    code: str  # foreign, protocol, duplicate, doubt, self; ours: it is the other side that hangs up
    reason: str


def hello(me: Me, ledger: Ledger, uptime: float) -> Hello:
    return Hello(
        (PROTOCOL,), me.mesh_name, ledger.mesh_ids(), ledger.mature(), me.node, me.life, me.name, me.address, me.role,
        me.version, int(uptime * 1000),
    )  # fmt: skip


def refuse(mine: Hello, theirs: Hello) -> Refusal | None:
    """Why no link may exist between these two, or None. Identity doubles are judged elsewhere, by the leader."""
    if not set(mine.protocols) & set(theirs.protocols):
        return Refusal(
            "protocol",
            f"{theirs.name} speaks protocol {_versions(theirs)}, this node {_versions(mine)}; "
            "upgrade the older of the two",
        )
    if mine.mesh_name != theirs.mesh_name:
        return Refusal(
            "foreign",
            f"{theirs.name} belongs to mesh '{theirs.mesh_name}', this node to '{mine.mesh_name}'; "
            "start both with the same --mesh to join them",
        )
    if mine.mature and theirs.mature and not set(mine.mesh_ids) & set(theirs.mesh_ids):
        return Refusal(
            "foreign",
            f"{theirs.name} belongs to another mesh that is also named '{mine.mesh_name}' "
            f"({theirs.mesh_ids[0]}, here {mine.mesh_ids[0]}); choose another --mesh name for one of them",
        )
    return None


def same_machine(one: NodeId, other: NodeId) -> bool:
    """Whether two ids are one state directory, perhaps started with different ranks."""
    return ulid_of(one) == ulid_of(other)


def _versions(side: Hello) -> str:
    return ", ".join(str(version) for version in side.protocols)
