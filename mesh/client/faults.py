"""What went wrong, as the exceptions of :mod:`mesh.core.errors`: from an answer's status, or from a task's outcome."""

from __future__ import annotations

import pickle

from mesh.core.errors import TaskError, TaskFailed, TaskLost, TaskPruned, TaskTimeout
from mesh.wire.client import TaskResult

_BY_CODE: dict[str, type[TaskError]] = {"timeout": TaskTimeout, "lost": TaskLost, "pruned": TaskPruned}

_HINTS = {
    "ModuleNotFoundError": "install the module on every node, define the function in the script itself, or send its "
    "module along with cloudpickle.register_pickle_by_value(module)",
    "memory": "ask for more with resources={'memory': ...}",
    "timeout": "allow more with timeout=",
}


def task_error(outcome: TaskResult) -> TaskError:
    """For a task that failed. ``__cause__`` is the exception the function raised, where it can be read here."""
    kind = _BY_CODE.get(outcome.code, TaskFailed)
    where = f" on {outcome.node}" if outcome.node else ""
    reason = outcome.message
    if outcome.code and outcome.code not in _BY_CODE:
        reason = f"{outcome.code}: {reason}" if reason else outcome.code
    verb = {TaskTimeout: "timed out", TaskLost: "was lost", TaskPruned: "was pruned"}.get(kind, "failed")
    error = kind(
        f"task {outcome.id} {verb}{where}",
        reason,
        _HINTS.get(outcome.code, ""),
        task=outcome.id,
        remote_traceback=outcome.detail,
    )
    if outcome.result:
        try:
            cause = pickle.loads(outcome.result)
        except Exception as unreadable:  # noqa: BLE001 - unpickling runs whatever code the exception brings
            error.add_note(f"the original exception cannot be read here: {type(unreadable).__name__}: {unreadable}")
        else:
            if isinstance(cause, BaseException):
                error.__cause__ = cause
    return error
