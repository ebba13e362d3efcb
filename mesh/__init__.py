"""computemesh: the machines of a small team as one computer.

``from mesh import MeshClient`` submits work and follows it; ``from mesh import task``, inside a task, knows its
parameters and reports its progress. Names load when they are used: importing the package imports nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mesh.client.aio import AsyncMeshClient
    from mesh.client.futures import TaskFuture
    from mesh.client.jobs import AsyncJob, Job
    from mesh.client.sync import MeshClient
    from mesh.core.errors import (
        BlobCorrupt,
        BlobMissing,
        Conflict,
        InvalidSpec,
        MeshError,
        MeshTimeout,
        NoFeasibleNode,
        NoLeader,
        NoMeshFound,
        NotAMember,
        NotBuilt,
        NotFound,
        QuotaExceeded,
        TaskCancelled,
        TaskError,
        TaskFailed,
        TaskLost,
        TaskPruned,
        TaskTimeout,
    )

__version__ = "0.1.0"

__all__ = [
    "AsyncJob",
    "AsyncMeshClient",
    "BlobCorrupt",
    "BlobMissing",
    "Conflict",
    "InvalidSpec",
    "Job",
    "MeshClient",
    "MeshError",
    "MeshTimeout",
    "NoFeasibleNode",
    "NoLeader",
    "NoMeshFound",
    "NotAMember",
    "NotBuilt",
    "NotFound",
    "QuotaExceeded",
    "TaskCancelled",
    "TaskError",
    "TaskFailed",
    "TaskFuture",
    "TaskLost",
    "TaskPruned",
    "TaskTimeout",
    "task",
]

_CLIENT = ("AsyncJob", "AsyncMeshClient", "Job", "MeshClient", "TaskFuture")


def __getattr__(name: str) -> object:
    if name in _CLIENT:
        return getattr(import_module("mesh.client"), name)
    if name in __all__ and name != "task":  # mesh.task is a package of its own, which the import statement finds
        return getattr(import_module("mesh.core.errors"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
