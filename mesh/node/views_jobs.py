"""What a node shows of jobs and tasks, as JSON documents with the field names of the interface.

Reads the machine, decides nothing.

Times are RFC 3339 UTC, sizes bytes, durations seconds. What has to look at every task of a job is a generator: it
yields after each slice, so that heartbeats and grants get their turn, and returns what it found. Tasks may change, or
be deleted, in between.
"""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeAlias, TypeVar

from mesh.core.checkpoints import best_of, of_task
from mesh.core.errors import NoLeader, NotFound
from mesh.core.ids import AttemptId, JobId, NodeId, TaskId, job_of
from mesh.core.lattice import FAILED, LOST, OFFERED, RELEASED, RUNNING, SUCCEEDED, Attempt, Checkpoint, Task
from mesh.core.leader import OPEN
from mesh.core.ledger import BROKEN, CANCELLED, DONE, FINAL, JobState, TaskState
from mesh.core.machine import Machine
from mesh.core.matching import explain as explain_waiting
from mesh.wire.work import decode_work

T = TypeVar("T")
Document = dict[str, Any]
Sliced: TypeAlias = Generator[None, None, T]

SLICE = 200  # tasks that are looked at in one go: about 5 ms where each becomes a document

_OPEN_PHASES = {OFFERED: "offered", RUNNING: "running", LOST: "lost"}
_ENDED_PHASES = {RELEASED: "released", FAILED: "failed", SUCCEEDED: "succeeded"}


def jobs(machine: Machine) -> Sliced[list[Document]]:
    found = [(state.order, name) for name, state in machine.ledger.jobs.items() if state.spec is not None]
    told = []
    for _, name in sorted(found):
        with suppress(NotFound):  # deleted meanwhile
            told.append((yield from job(machine, name)))
    return told


def job(machine: Machine, name: JobId) -> Sliced[Document]:
    best = yield from _best(machine, _job(machine, name))
    state = _job(machine, name)
    assert state.spec is not None
    return {
        "id": name,
        "name": state.spec.name,
        "kind": state.spec.kind,
        "state": _job_state(machine, name, state),
        "tasks": dict(state.counts),
        "best": best,
        "priority": int(machine.ledger.value(f"job/{name}", "priority") or state.spec.priority),
        "submitted_at": _time(state.spec.submitted_ms),
        "durable_on": [machine.me.node, *machine.copies.standing()],
    }


def _job(machine: Machine, name: JobId) -> JobState:
    state = machine.ledger.jobs.get(name)
    if state is None or state.spec is None:
        raise _unknown(machine, "job", name, "meshctl jobs")
    return state


def _task(machine: Machine, name: TaskId) -> TaskState:
    state = machine.ledger.known(name)
    if state is None or state.spec is None:
        raise _unknown(machine, "task", name, "meshctl tasks")
    return state


def _unknown(machine: Machine, what: str, name: str, hint: str) -> NotFound | NoLeader:
    """A leader must not deny that an id exists while there are journals that it has not read."""
    if machine.ledger.is_deleted(name):
        return NotFound(f"there is no {what} {name}", f"job {job_of(name)} was deleted", f"see {hint}")
    why = machine.leader.why_unknown(machine.now) if machine.leading else ""
    if why:
        return NoLeader(f"{what} {name} is not known here", why, "try again")
    return NotFound(f"there is no {what} {name}", "", f"see {hint}")


def _job_state(machine: Machine, name: JobId, state: JobState) -> str:
    counts = state.counts
    complete = state.tasks and (state.spec is None or len(state.tasks) >= state.spec.size)
    if counts["pending"] or counts["running"] or not complete:
        return "paused" if machine.ledger.value(f"job/{name}", "paused") else "running"
    if counts["failed"]:
        return "failed"
    return "cancelled" if counts["cancelled"] else "succeeded"


def _best(machine: Machine, state: JobState) -> Sliced[Document | None]:
    spec = state.spec
    if spec is None or not spec.metric:
        return None
    best: tuple[float, TaskId, TaskState] | None = None
    for slice_ in _slices(machine, state.tasks):
        for name, task in slice_:
            attempt = _accepted(task) if task.state == DONE else None
            value = _metrics(attempt.outcome.metrics).get(spec.metric) if attempt is not None else None
            if not isinstance(value, int | float) or math.isnan(value):
                continue
            if best is None or (value > best[0] if spec.maximize else value < best[0]):
                best = (value, name, task)
        yield
    if best is None:
        return None
    value, name, winner = best
    return {
        "task": name,
        "params": _params(winner),
        "metric": {"name": spec.metric, "value": value},
        "checkpoint": _best_checkpoint(winner),
    }


def _best_checkpoint(state: TaskState) -> Document | None:
    """Of its checkpoints the best by the job's metric; the newest where none has it."""
    policy = _spec(state).shape.checkpoints
    saved = of_task(state.tries, policy)
    best = (best_of(saved, policy) if policy.metric else None) or next(iter(saved), None)
    return None if best is None else _checkpoint(best)


def _checkpoint(checkpoint: Checkpoint) -> Document:
    return {
        "blob": checkpoint.blob,
        "run": checkpoint.run,
        "step": checkpoint.step,
        "attempt": checkpoint.attempt,
        "size": checkpoint.size,
        "metrics": _metrics(checkpoint.metrics),
        "saved_at": _time(checkpoint.saved_ms),
    }


def _slices(machine: Machine, names: Iterable[TaskId]) -> Generator[list[tuple[TaskId, TaskState]]]:
    """Of the tasks that are known with their contents when their turn comes."""
    names = tuple(names)
    for at in range(0, len(names), SLICE):
        found = ((name, machine.ledger.known(name)) for name in names[at : at + SLICE])
        yield [(name, state) for name, state in found if state is not None and state.spec is not None]


def standing(machine: Machine, name: JobId) -> tuple[dict[str, int], str, bool]:
    """Counts, state, and whether more tasks may come at any time."""
    state = _job(machine, name)
    assert state.spec is not None
    return dict(state.counts), _job_state(machine, name, state), state.spec.kind == "functions"


def ended(machine: Machine, name: JobId) -> Sliced[list[TaskId]]:
    found: list[TaskId] = []
    for slice_ in _slices(machine, _job(machine, name).tasks):
        found += [task for task, state in slice_ if state.state in FINAL]
        yield
    return found


def result(machine: Machine, job_id: JobId, name: TaskId) -> tuple[Any, ...] | None:
    """The fields of :class:`mesh.wire.client.TaskResult`; None where it is another job's or has not ended."""
    state = machine.ledger.known(name)
    if state is None or state.spec is None or state.spec.job != job_id or state.state not in FINAL:
        return None
    attempt = _accepted(state) if state.state == DONE else _last(state)
    if attempt is None:
        code, message = _ending(state)
        return (name, state.state, b"", "", code, message)
    outcome = attempt.outcome
    code, message = (outcome.code, outcome.message) if state.state == DONE else _ending(state)
    return (
        name, state.state, outcome.result, outcome.digest, code, message, outcome.detail, attempt.node, attempt.id,
        outcome.metrics, outcome.blob,
    )  # fmt: skip


def tasks(machine: Machine, job_id: str, wanted: str) -> Sliced[list[Document]]:
    """Of one job, or of all (``job_id`` empty); in one state, or in any."""
    states = [_job(machine, job_id)] if job_id else [state for _, state in sorted(machine.ledger.jobs.items())]
    told: list[Document] = []
    for of_job in states:
        ordered: list[tuple[int, TaskId]] = []
        for slice_ in _slices(machine, of_job.tasks):
            ordered += [(_spec(state).index, name) for name, state in slice_]
            yield
        ordered.sort()
        for slice_ in _slices(machine, (name for _, name in ordered)):
            told += [task(machine, name) for name, state in slice_ if not wanted or state.state == wanted]
            yield
    return told


def task(machine: Machine, name: TaskId) -> Document:
    state = _task(machine, name)
    spec = _spec(state)
    accepted = _accepted(state)
    shown = accepted or _last(state)
    metrics = _metrics(shown.outcome.metrics) if shown is not None else {}
    for attempt in state.open_attempts():
        metrics = {**metrics, **_metrics(machine.leader.progress.get(attempt.id, b""))}
    return {
        "id": name,
        "job": spec.job,
        "state": state.state,
        "reason": _held(machine, state) or _reason(state),
        "priority": machine.leader.tasks.priority(spec)[0],
        "params": _params(state),
        "attempts": [_attempt(machine, a, state) for a in sorted(state.attempts.values(), key=_age)],
        "checkpoints": [_checkpoint(each) for each in of_task(state.tries, spec.shape.checkpoints)],
        "result_digest": accepted.outcome.digest if accepted is not None else None,
        "metrics": metrics,
        "error": _error(state),
    }


def _attempt(machine: Machine, attempt: Attempt, state: TaskState) -> Document:
    outcome = attempt.outcome
    current = state.accepted()
    accepted = current is not None and current.attempt == attempt.id
    return {
        "id": attempt.id,
        "node": attempt.node,
        "node_name": _name(machine, attempt.node),
        "run": attempt.run,
        "term": _term(attempt.id),
        "state": (_ENDED_PHASES if attempt.ended else _OPEN_PHASES)[attempt.phase],
        "accepted": accepted,
        "superseded": not accepted and attempt.id in (state.acceptances or {}),
        "reason": f"{outcome.code}: {outcome.message}".strip(": "),
        "resumed_from": _resumed(attempt, state),
        "started_at": _time(outcome.started_ms),
        "finished_at": _time(outcome.finished_ms),
    }


def _resumed(attempt: Attempt, state: TaskState) -> Document | None:
    if not attempt.resumed:
        return None
    known = (checkpoint for each in state.tries for checkpoint in each.saved if checkpoint.blob == attempt.resumed)
    return next(map(_checkpoint, known), {"blob": attempt.resumed})  # it may be kept no more


def explain(machine: Machine, name: TaskId, now: float) -> Document:
    """The choice and its reasons: of the decision that was made, or of the one that would be made now."""
    state = _task(machine, name)
    spec, leader = _spec(state), machine.leader
    decided = next((leader.decisions[a.id] for a in state.open_attempts() if a.id in leader.decisions), None)
    if decided is None and state.state in FINAL:
        decided = leader.past.get(name)
    if decided is not None:
        found = decided.explain()
        choice, why, nodes = found.choice, found.why, found.nodes
    elif state.state in FINAL or state.open_attempts():
        last = _accepted(state) or _last(state) or next(iter(state.open_attempts()), None)
        choice, nodes = last.node if last is not None else "", ()
        why = "it was granted by an earlier leader, whose reasons were not kept" if last is not None else _reason(state)
    elif held := _held(machine, state):
        choice, why, nodes = "", held, ()
    elif leader.phase != OPEN:
        choice, why, nodes = "", "the leader is still gathering journals, and grants nothing yet", ()
    elif leader.tasks.waits_for_journal(name):
        choice, why, nodes = "", "the leader is still reading the journal that told of it, and may learn more of it", ()
    else:
        priority, own = leader.tasks.priority(spec)
        found = explain_waiting(
            spec, priority, own, leader.tasks.ready, leader.loads, leader.accounts, machine.params, now
        )  # fmt: skip
        choice, why, nodes = "", (f"it goes to {found.choice} next" if found.choice else found.why), found.nodes
    if state.state in FINAL:
        why = f"{why}; it {_past(state.state)}" + (f": {_reason(state)}" if _reason(state) else "")
    return {
        "task": name,
        "choice": choice,
        "why": why,
        "nodes": [
            {"id": node, "name": _name(machine, node), "feasible": feasible, "why": reason}
            for node, feasible, reason in nodes
        ],
    }


def _name(machine: Machine, node: NodeId) -> str:
    """What people call it; its id where that was never heard."""
    if node == machine.me.node:
        return machine.me.name
    peer = machine.members.peers.get(node)
    return peer.name if peer is not None and peer.name else node


def _past(state: str) -> str:
    return "was cancelled" if state == CANCELLED else state


def _spec(state: TaskState) -> Task:
    assert state.spec is not None
    return state.spec


def _params(state: TaskState) -> Any:
    return json.loads(decode_work(_spec(state).payload).params or b"{}")


def _metrics(text: bytes) -> Document:
    return json.loads(text) if text else {}


def _accepted(state: TaskState) -> Attempt | None:
    acceptance = state.accepted()
    return None if acceptance is None else state.attempts.get(acceptance.attempt)


def _age(attempt: Attempt) -> tuple[int, int, int, AttemptId]:
    number = attempt.id.rsplit(".", 1)[-1]
    return attempt.run, _term(attempt.id), int(number) if number.isdecimal() else 0, attempt.id


def _term(attempt: AttemptId) -> int:
    return int(attempt.split(".", 1)[0])


def _last(state: TaskState) -> Attempt | None:
    """The attempt that says most about how the task ended: the newest failure, else the newest."""
    ended_attempts = [a for a in state.attempts.values() if a.ended]
    failed = [a for a in ended_attempts if a.phase == FAILED]
    return max(failed or ended_attempts, key=_age, default=None)


def _ending(state: TaskState) -> tuple[str, str]:
    if state.ended is not None and state.state in (BROKEN, CANCELLED):
        return state.ended.code, state.ended.message
    return (CANCELLED, "cancelled by its user") if state.state == CANCELLED else ("", "")


def _reason(state: TaskState) -> str:
    if state.state in (BROKEN, CANCELLED):
        code, message = _ending(state)
        return message or code
    failed = state.failures()
    if state.state != DONE and failed:
        last = _last(state)
        return f"failed {failed} times; last: {last.outcome.code}: {last.outcome.message}" if last is not None else ""
    return ""


def _held(machine: Machine, state: TaskState) -> str:
    """What a hold task waits for, in the names that people know."""
    why = machine.leader.tasks.waits(_spec(state).id)
    return "" if why is None else str(why._replace(args=(_name(machine, why.args[0]), *why.args[1:])))


def _error(state: TaskState) -> str | None:
    if state.state != BROKEN:
        return None
    code, message = _ending(state)
    last = _last(state)
    detail = last.outcome.detail if last is not None and last.phase == FAILED else ""
    return "\n".join(part for part in (f"{code}: {message}", detail) if part)


def _time(milliseconds: int) -> str | None:
    if not milliseconds:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
