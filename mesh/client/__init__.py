"""The client of a mesh: submit functions and files, follow them, ask why. ``from mesh import MeshClient``.

Knows the protocol's client service and nothing of daemons. Names load when they are used, because runners import
``mesh.client.chunks`` and must not pay for gRPC.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mesh.client.aio import AsyncMeshClient
    from mesh.client.futures import TaskFuture
    from mesh.client.jobs import AsyncJob, Job
    from mesh.client.sync import MeshClient

__all__ = ["AsyncJob", "AsyncMeshClient", "Job", "MeshClient", "TaskFuture"]

_HOMES = {
    "AsyncJob": "mesh.client.jobs",
    "AsyncMeshClient": "mesh.client.aio",
    "Job": "mesh.client.jobs",
    "MeshClient": "mesh.client.sync",
    "TaskFuture": "mesh.client.futures",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
