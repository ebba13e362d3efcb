"""PyTorch: training loops that go on where they were, and sharded checkpoints without a shared file system.

``resumable`` is for loops of one process. For jobs of several, ``torch.distributed.checkpoint`` is given a
``CheckpointWriter`` or a ``CheckpointReader``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from mesh.torch.loop import Loop, resumable

if TYPE_CHECKING:
    from mesh.torch.shards import CheckpointReader, CheckpointWriter

__all__ = ["CheckpointReader", "CheckpointWriter", "Loop", "resumable"]


def __getattr__(name: str) -> object:
    if name in ("CheckpointReader", "CheckpointWriter"):  # what they need takes a second to import
        return getattr(import_module("mesh.torch.shards"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
