"""Every error a user can meet, under one root.

MeshError
├── NoMeshFound        no daemon here and none on the network          (fatal)
├── NoLeader           nobody grants at the moment                     (retryable)
├── NotAMember         this machine is not admitted                    (fatal)
├── InvalidSpec        a file or an argument is wrong; lists all of it (fatal)
├── NotFound           no such job, task or node                       (fatal)
├── Conflict           the same id with other contents; not as it is   (fatal)
├── Held               it must not run twice, and may be running       (fatal)
├── NoFeasibleNode     no machine can ever run it; each one's reason   (fatal)
├── QuotaExceeded      too large, or the disk is full                  (fatal)
├── NotBuilt           this version cannot do it yet                   (fatal)
├── BlobMissing        no reachable holder                             (retryable)
├── BlobCorrupt        the bytes do not match their name               (retryable)
├── MeshTimeout        waited as long as was asked                     (retryable)
└── TaskError
    ├── TaskFailed     it ended with an error; holds its traceback     (fatal)
    ├── TaskLost       its machines died too often                     (retryable)
    ├── TaskCancelled  somebody cancelled it                           (fatal)
    ├── TaskTimeout    it ran longer than it may                       (fatal)
    └── TaskPruned     the search said stop                            (fatal)

``retryable`` says whether doing the same again can help.
"""

from __future__ import annotations


class MeshError(Exception):
    """Root of all. ``str()`` reads: what happened; why; what to do."""

    retryable = False

    def __init__(self, what: str = "", why: str = "", hint: str = "") -> None:
        super().__init__(what, why, hint)
        self.what, self.why, self.hint = what, why, hint

    def __str__(self) -> str:
        return "; ".join(part for part in (self.what, self.why, self.hint) if part)


class NoMeshFound(MeshError):
    pass


class NoLeader(MeshError):
    retryable = True


class NotAMember(MeshError):
    pass


class InvalidSpec(MeshError):
    """``problems`` holds every error, each with its place in the file (1-based line and column; 0 where unknown)."""

    def __init__(self, what: str, problems: tuple[Problem, ...] = ()) -> None:
        super().__init__(what, "; ".join(str(p) for p in problems))
        self.problems = problems


class Problem:
    """One error in a file."""

    __slots__ = ("column", "line", "text")

    def __init__(self, text: str, line: int = 0, column: int = 0) -> None:
        self.text, self.line, self.column = text, line, column

    def __str__(self) -> str:
        return f"{self.line}:{self.column}: {self.text}" if self.line else self.text


class NotFound(MeshError):
    pass


class Conflict(MeshError):
    pass


class Held(MeshError):
    pass


class NoFeasibleNode(MeshError):
    """``nodes`` maps each node's id to its reason."""

    def __init__(self, what: str = "", why: str = "", hint: str = "", nodes: dict[str, str] | None = None) -> None:
        super().__init__(what, why, hint)
        self.nodes = nodes or {}


class QuotaExceeded(MeshError):
    pass


class NotBuilt(MeshError):
    pass


class BlobMissing(MeshError):
    retryable = True


class BlobCorrupt(MeshError):
    retryable = True


class MeshTimeout(MeshError, TimeoutError):
    retryable = True


class TaskError(MeshError):
    """``task`` is the task's id; ``remote_traceback`` what the remote interpreter printed, if it did."""

    def __init__(
        self, what: str = "", why: str = "", hint: str = "", task: str = "", remote_traceback: str = ""
    ) -> None:
        super().__init__(what, why, hint)
        self.task, self.remote_traceback = task, remote_traceback

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}\n\n{self.remote_traceback}" if self.remote_traceback else text


class TaskFailed(TaskError):
    pass


class TaskLost(TaskError):
    retryable = True


class TaskCancelled(TaskError):
    pass


class TaskTimeout(TaskError):
    pass


class TaskPruned(TaskError):
    pass


def error_named(name: str, text: str) -> MeshError:
    """The error of this class; the root of all where this version does not know it.

    ``text`` reads ``what; why; what to do``, as ``str()`` of the original did.
    """
    kind = globals().get(name)
    parts = (text or name).split("; ", 2)
    if kind is InvalidSpec:
        return InvalidSpec(text)
    if isinstance(kind, type) and issubclass(kind, MeshError):
        return kind(*parts)
    return MeshError(*parts)
