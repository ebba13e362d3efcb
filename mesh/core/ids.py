"""Identifiers, and the orders that decisions use.

A NodeId is ``RANK-ULID``: two digits of rank, then the ULID of the state directory. The lowest id leads; ULIDs grow
with time, so among equal ranks the longest-standing machine leads and a newcomer never takes over by accident.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple, TypeAlias

NodeId: TypeAlias = str
Life: TypeAlias = str
JobId: TypeAlias = str
TaskId: TypeAlias = str
AttemptId: TypeAlias = str
BlobId: TypeAlias = str  # BLAKE3 of its manifest, 64 hexadecimal digits

ULID_LENGTH = 26


def job_of(task: TaskId) -> JobId:
    """A task's id is its job's id, which has no dot, a dot and a name: what names only a task says whose it is."""
    return task.partition(".")[0]


def misnamed(job: JobId, task: TaskId) -> str:
    """What is wrong with the id of a task of this job; empty: nothing. Asked wherever submissions come in."""
    if not job or "." in job:
        return f"a job's id has no dot and is not empty, {job!r} is not such"
    if not task.startswith(f"{job}.") or len(task) == len(job) + 1:
        return f"a task's id is its job's id, a dot and a name, {task!r} of job {job!r} is not"
    return ""


def node_id(rank: int, ulid: str) -> NodeId:
    """The id that people see and the election compares. ``rank`` is 0 to 99."""
    if not 0 <= rank <= 99:
        raise ValueError(f"rank {rank} is not between 0 and 99")
    return f"{rank:02d}-{ulid}"


def ulid_of(node: NodeId) -> str:
    """What stays the same when a machine is started again with another rank."""
    return node[3:]


_INVERTED = {code: 0x7F - code for code in range(0x20, 0x7F)}


@lru_cache(maxsize=4096)
def _descending(node: NodeId) -> str:
    # The \x7f keeps a prefix above its extensions, as an inverted order must.
    return node.translate(_INVERTED) + "\x7f"


class Claim(NamedTuple):
    """A leadership: fences every grant, recall and acceptance made under it.

    Claims are compared by :attr:`key`, the same everywhere: an established claim beats a provisional one, then the
    higher term, then the *lower* leader id, then the later life.
    """

    established: bool
    term: int
    leader: NodeId
    life: Life

    @property
    def key(self) -> tuple[bool, int, str, Life]:
        return (self.established, self.term, _descending(self.leader), self.life)


NO_CLAIM = Claim(False, 0, "", "")


def attempt_id(claim: Claim, number: int) -> AttemptId:
    """No two leaders, and no two lives of one leader, can mint the same id."""
    return f"{claim.term}.{claim.leader}.{claim.life}.{number}"


def granter(attempt: AttemptId) -> NodeId:
    """The leader that minted this id."""
    return attempt.split(".", 2)[1] if attempt.count(".") >= 2 else ""
