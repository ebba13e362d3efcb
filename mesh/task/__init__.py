"""What a task may ask and tell while it runs: ``from mesh import task``.

``task.params`` (a dict), ``task.id``, ``task.attempt``, ``task.node``, ``task.report(step=3, loss=0.1)``,
``task.should_stop()`` and ``task.checkpoint``, which saves and loads. Outside a mesh task ``params`` is empty, the
others are empty strings, ``report`` prints a JSON line, ``should_stop`` is False and there never is a checkpoint, so
that a program can be tried by hand as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mesh.task.api import current, report, should_stop
from mesh.task.checkpoints import checkpoint

__all__ = ["attempt", "checkpoint", "id", "node", "params", "report", "should_stop"]

if TYPE_CHECKING:
    params: dict[str, Any]
    id: str  # noqa: A001  the name users type
    attempt: str
    node: str

_ASKED = frozenset(("params", "id", "attempt", "node"))


def __getattr__(name: str) -> Any:
    # Asked anew each time: one runner executes many attempts.
    if name in _ASKED:
        return getattr(current(), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
