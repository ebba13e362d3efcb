"""What no correct node says: records and messages that come from a peer are held against this before anything is done.

Goals: nothing that came over a link can break this node or stand in its ledger for good. Checked is only what no node
of this protocol version or the one before it can make, whatever its user asked for: what is odd and harmless passes,
for refusing it would split a mesh. What a user or a runner could make otherwise is held against the same rules where it
comes in (the server's Submit, the worker's endings), so that no honest node is refused for what its user did.

Non-goals: whether it is true (members are trusted), and the types of fields: the codecs make them right, and a field
that was sent with another type reads as absent, so as an empty id.

It is one file, longer than most, so that all that a peer may say is read in one place.

A function here returns what is wrong, in words, or nothing. Common records take 0.3 to 1.1 us each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from mesh.core.checkpoints import MOST_KEPT
from mesh.core.ids import NO_CLAIM, AttemptId, BlobId, Claim, NodeId, TaskId, misnamed, ulid_of
from mesh.core.lattice import (
    LOST,
    NO_OUTCOME,
    TASK_CANCELLED,
    TASK_FAILED,
    Acceptance,
    Attempt,
    Checkpoint,
    Claimed,
    Deleted,
    Ended,
    Job,
    Lived,
    Mesh,
    Outcome,
    Owner,
    Record,
    Register,
    Run,
    Shape,
    Task,
)
from mesh.core.messages import (
    Copy,
    CopyFailed,
    Cursor,
    Found,
    Grant,
    Heartbeat,
    Hello,
    Holds,
    HoldsSeen,
    Message,
    Orders,
    Pull,
    Pulled,
    Refused,
    Relayed,
    Report,
    Seek,
    Spare,
    Spared,
    Verdict,
    Yield,
    YieldRequest,
)
from mesh.core.needs import shares_of

MOST = 1 << 62  # of whatever is raised by one: no node lives to count so far, and 2**63 fits no message
LAST_MS = 253_402_300_799_999  # the end of the year 9999, the last that can be shown
ID_LENGTH = 512  # characters; attempt ids are of about 70
PAYLOAD_BYTES = 4 << 20  # of one task: it travels whole, and lies in every journal
OUTCOME_BYTES = 4 << 20  # of one attempt's result, metrics and texts: 16 KiB, of an exception 64, and 32 of text
METRICS_BYTES = 16 << 10  # of one checkpoint: its record travels with every later one
SOURCE_BYTES = 32 << 20  # of the file that a job was submitted as: half of what fits in one message
MOST_NEEDED = 1000  # blobs that one task reads
MOST_CURSORS = 1000  # in one Pull; 96 are usual, and SQLite takes 32,766 values in a question


def fault(record: Record) -> str:
    """What is wrong with a record by itself; empty: nothing."""
    return _FAULTS[type(record)](record)


def first_fault(records: Iterable[Record]) -> str:
    for record in records:
        if text := _FAULTS[type(record)](record):
            return text
    return ""


def message_fault(sender: NodeId, message: Message) -> str:
    """What is wrong with a message that this peer sent, its records included; empty: nothing."""
    return _MESSAGES[type(message)](sender, message)


def hello_fault(hello: Hello) -> str:
    if text := _node(hello.node):
        return text
    if not _is_id(hello.life) or not hello.mesh_ids or not all(map(_is_id, hello.mesh_ids)):
        return f"the hello of {hello.node} lacks its life or the id of its mesh"
    return ""


# -- ids and claims ---------------------------------------------------------------------------------------------------


def _is_id(text: str) -> bool:
    return 0 < len(text) <= ID_LENGTH


@lru_cache(maxsize=4096)
def _node(node: NodeId) -> str:
    if 3 < len(node) <= ID_LENGTH and node[2] == "-" and node[:2].isascii() and node[:2].isdigit():
        return ""
    return f"{_shown(node)} is no id of a node: two digits of rank, a dash and a ULID"


@lru_cache(maxsize=1024)
def _claim(claim: Claim) -> str:
    """Of one that was made; NO_CLAIM is none."""
    if not 1 <= claim.term < MOST:
        return f"a claim of {_shown(claim.leader)} has term {claim.term}"
    if not _is_id(claim.life):
        return f"a claim of {_shown(claim.leader)} names no life"
    return _node(claim.leader)


def _any_claim(claim: Claim) -> str:
    return "" if claim == NO_CLAIM else _claim(claim)


@lru_cache(maxsize=1024)
def _minted(claim: str) -> bool:
    """Whether this part of an attempt's id, all but its number, is TERM.LEADER.LIFE."""
    term, _, rest = claim.partition(".")
    leader, _, life = rest.partition(".")
    return term.isascii() and term.isdigit() and len(claim) <= ID_LENGTH and not _node(leader) and bool(life)


def _attempt_id(name: str) -> str:
    claim, _, number = name.rpartition(".")
    if number.isdecimal() and len(number) < 20 and _minted(claim):
        return ""
    return f"{_shown(name)} is no id of an attempt: TERM.LEADER.LIFE.NUMBER"


def _task_id(name: str) -> str:
    if 0 < name.find(".") < len(name) - 1 and len(name) <= ID_LENGTH:
        return ""
    return f"{_shown(name)} is no id of a task: its job's id, a dot and a name"


def _shown(text: str) -> str:
    """Short, and without what could write over a log."""
    return ascii(text if len(text) <= 80 else text[:80] + "...")


# -- records ----------------------------------------------------------------------------------------------------------


def _job(job: Job) -> str:
    if not _is_id(job.id) or "." in job.id:
        return f"{_shown(job.id)} is no id of a job: it is empty, too long or has a dot"
    if not 0 <= job.submitted_ms <= LAST_MS:
        return f"job {job.id} was submitted at {job.submitted_ms} ms, which is no time"
    if len(job.source) > SOURCE_BYTES:
        return f"job {job.id} was submitted as a file of {len(job.source)} bytes, the limit is {SOURCE_BYTES}"
    if not (0 <= job.size < MOST and 0 <= job.max_parallel < MOST):
        return f"job {job.id} counts {job.size} tasks, {job.max_parallel} at a time"
    return ""


_sound: list[Shape] = []  # the last shape without a fault: thousands of tasks, one after another, share one object


def _task(task: Task) -> str:
    name, job, index, _, shape, payload, needs = task
    head, _, rest = name.partition(".")
    if head != job or not head or not rest or len(name) > ID_LENGTH:
        return misnamed(job, name) or _task_id(name)
    if len(payload) > PAYLOAD_BYTES:
        return f"task {name} has {len(payload)} bytes of function and arguments, the limit is {PAYLOAD_BYTES}"
    if not 0 <= index < MOST:
        return f"task {name} has number {index} in its job"
    if needs and (text := _needs(name, needs)):
        return text
    if _sound and shape is _sound[0]:
        return ""
    if text := _shape(shape):
        return f"task {name} {text}"
    _sound[:] = [shape]
    return ""


def _needs(name: TaskId, needs: tuple[BlobId, ...]) -> str:
    if len(needs) > MOST_NEEDED:
        return f"task {name} needs {len(needs)} blobs, the limit is {MOST_NEEDED}"
    return next(filter(None, map(_blob, needs)), "")


def _shape(shape: Shape) -> str:
    policy = shape.checkpoints
    if not (0 < policy.keep <= MOST_KEPT and 0 < policy.copies < MOST and 0 <= policy.every_ms < MOST):
        return f"keeps {policy.keep} checkpoints in {policy.copies} copies, one in {policy.every_ms} ms"
    if not shape.alternatives:
        return "does not say what it needs"
    for need in shape.alternatives:
        if not all(0 <= amount < MOST for amount in (need.millicpus, need.memory, need.milligpus, need.gpu_memory)):
            return f"needs {need.millicpus} millicpus, {need.memory} bytes, {need.milligpus} milligpus"
        if need.milligpus > 1_000_000:
            return f"needs {need.milligpus // 1000} cards; no machine has more than 1,000"
    retries = shape.retries
    amounts = (retries.max, retries.backoff_ms, retries.factor_milli, retries.max_delay_ms, shape.timeout_ms)
    if not all(0 <= amount < MOST for amount in amounts):
        return f"has retries or a timeout below 0 or beyond counting: {', '.join(map(str, amounts))}"
    return ""


def _attempt(attempt: Attempt) -> str:
    task, name, ended, turn, phase, run, node, outcome, saved, resumed = attempt
    claim, _, number = name.rpartition(".")
    if not (number.isdecimal() and len(number) < 20 and _minted(claim)):
        return _attempt_id(name)
    if not 0 < task.find(".") < len(task) - 1 or len(task) > ID_LENGTH:
        return _task_id(task)
    if not (0 <= phase <= 2 and 0 <= turn < MOST and 0 < run < MOST):
        order = "ended" if ended else "open"
        return f"attempt {name} is {order} in phase {phase}, round {turn}, run {run}, which the order does not have"
    if wrong := _node(node):
        return wrong
    if (saved or resumed) and (wrong := _saved(name, saved, resumed)):
        return wrong
    return "" if outcome is NO_OUTCOME else outcome_fault(name, ended, outcome)


def _saved(name: AttemptId, saved: tuple[Checkpoint, ...], resumed: BlobId) -> str:
    if len(saved) > MOST_KEPT + 1 or any(each.attempt != name for each in saved):
        return f"attempt {name} has {len(saved)} checkpoints, not all of them its own, or more than are kept"
    if resumed and (wrong := _blob(resumed)):
        return wrong
    return next(filter(None, map(checkpoint_fault, saved)), "")


def checkpoint_fault(checkpoint: Checkpoint) -> str:
    run, step, attempt, number, blob, size, metrics, saved_ms = checkpoint
    if not (0 < run < MOST and 0 <= step < MOST and 0 < number < MOST and 0 <= size < MOST):
        return f"a checkpoint of attempt {_shown(attempt)} is of run {run}, step {step}, number {number}, {size} bytes"
    if len(metrics) > METRICS_BYTES or not 0 <= saved_ms <= LAST_MS:
        return f"a checkpoint of attempt {_shown(attempt)} has {len(metrics)} bytes of metrics, of {saved_ms} ms"
    return _blob(blob) or _attempt_id(attempt)


def outcome_fault(name: AttemptId, ended: bool, outcome: Outcome) -> str:
    code, message, detail, result, digest, metrics, started, finished, micros, blob, log = outcome
    size = len(code) + len(message) + len(detail) + len(result) + len(digest) + len(metrics)
    if size > OUTCOME_BYTES:
        return f"attempt {name} tells {size} bytes of how it went, the limit is {OUTCOME_BYTES}"
    if (blob and (wrong := _blob(blob))) or (log and (wrong := _blob(log))):
        return wrong
    if not ended and (result or digest or blob or log):
        return f"attempt {name} has a result and has not ended"
    if not (0 <= started <= LAST_MS and 0 <= finished <= LAST_MS and 0 <= micros < MOST):
        return f"attempt {name} ran from {started} to {finished} ms for {micros} us, which are no times"
    return ""


def _acceptance(acceptance: Acceptance) -> str:
    task, attempt, claim, digest = acceptance
    if len(digest) > ID_LENGTH:
        return f"the acceptance of {_shown(attempt)} has a digest of {len(digest)} characters"
    return _task_id(task) or _attempt_id(attempt) or _claim(claim)


def _run(record: Run) -> str:
    if not 0 <= record.cancelled <= record.run < MOST or not record.run:
        return f"task {_shown(record.task)} is in run {record.run}, and run {record.cancelled} of it was cancelled"
    return _task_id(record.task)


def _ended(ended: Ended) -> str:
    if ended.status not in (TASK_FAILED, TASK_CANCELLED) or not 0 < ended.run < MOST:
        return f"task {_shown(ended.task)} ended in run {ended.run} with status {ended.status}, which is none"
    if len(ended.code) + len(ended.message) > OUTCOME_BYTES:
        return f"task {_shown(ended.task)} says at more than {OUTCOME_BYTES} characters why it ended"
    return _task_id(ended.task)


def _register(register: Register) -> str:
    scope, field, version, node, value = register
    name = f"{_shown(field)} of {_shown(scope)}"
    if not 0 < len(scope) <= 2 * ID_LENGTH or not _is_id(field) or len(value) > PAYLOAD_BYTES:
        return f"{name} has no name, or {len(value)} characters"
    if not 0 < version < MOST:
        return f"{name} has version {version}"
    if field == "priority" and not _is_number(value):
        return f"{name} is {_shown(value)}, which is no number"
    if scope == "mesh" and field == "lost_after" and not _is_seconds(value):
        return f"{name} is {_shown(value)}, which are no seconds"
    return _node(node)


def _is_number(value: str) -> bool:
    digits = value.removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) < 20


def _is_seconds(value: str) -> bool:
    try:
        return 0 <= float(value) < MOST
    except ValueError:
        return False


def _mesh(mesh: Mesh) -> str:
    return "" if _is_id(mesh.id) else f"{_shown(mesh.id)} is no id of a mesh"


def _lived(lived: Lived) -> str:
    if not 0 < lived.number < MOST or not _is_id(lived.life):
        return f"life {_shown(lived.life)} of {_shown(lived.node)} has number {lived.number}"
    return _node(lived.node)


def _owner(owner: Owner) -> str:
    if text := misnamed(owner.job, owner.task or f"{owner.job}.x"):
        return text
    if not 0 <= owner.handovers < MOST or len(owner.job) + len(owner.task) > 2 * ID_LENGTH:
        return f"the owner of {_shown(owner.task or owner.job)} changed {owner.handovers} times"
    return _node(owner.owner)


def _deleted(deleted: Deleted) -> str:
    return "" if _is_id(deleted.job) and "." not in deleted.job else f"{_shown(deleted.job)} is no id of a job"


_FAULTS: dict[type, Callable[[Any], str]] = {
    Job: _job,
    Task: _task,
    Attempt: _attempt,
    Acceptance: _acceptance,
    Run: _run,
    Ended: _ended,
    Register: _register,
    Mesh: _mesh,
    Claimed: lambda claimed: _any_claim(claimed.claim),  # a compacted journal says that it knows of none
    Lived: _lived,
    Owner: _owner,
    Deleted: _deleted,
}


# -- messages ---------------------------------------------------------------------------------------------------------


def _cursor(cursor: Cursor) -> str:
    if 0 <= cursor.position < MOST and len(cursor.journal) <= ID_LENGTH and len(cursor.digest) <= ID_LENGTH:
        return ""
    return f"there is no record {cursor.position} of journal {_shown(cursor.journal)}"


def _pull(sender: NodeId, pull: Pull) -> str:
    if len(pull.cursors) > MOST_CURSORS:
        return f"a pull names {len(pull.cursors)} journals, the limit is {MOST_CURSORS}"
    return next(filter(None, map(_cursor, pull.cursors)), "")


def _pulled(sender: NodeId, pulled: Pulled) -> str:
    cursor, records = pulled.cursor, pulled.records
    if text := _cursor(cursor):
        return text
    if isinstance(records, bytes):
        return "its records were not decoded"
    if pulled.session and (not cursor.journal or len(records) > cursor.position):
        return f"{len(records)} records end at record {cursor.position} of journal {_shown(cursor.journal)}"
    return first_fault(records)


def _report(sender: NodeId, report: Report) -> str:
    machine = ulid_of(sender)
    for attempt in report.attempts:
        if text := _attempt(attempt):
            return text
        if attempt.node != sender and ulid_of(attempt.node) != machine:  # started with another rank, it is itself
            return f"attempt {attempt.id} is {attempt.node}'s: only who holds an attempt reports on it"
        if attempt.phase == LOST and not attempt.ended:
            return f"attempt {attempt.id} is lost: nobody reports that of his own"
    return _any_claim(report.claim)


def _orders(sender: NodeId, orders: Orders) -> str:
    claim = orders.claim
    minted = f"{claim.term}.{claim.leader}.{claim.life}."
    for grant in orders.grants:
        if text := _grant(grant):
            return text
        if not grant.attempt.startswith(minted):
            return f"attempt {grant.attempt} is granted under another claim than it was minted under"
    return _any_claim(claim)


def _grant(grant: Grant) -> str:
    if text := _attempt_id(grant.attempt) or _task(grant.task):
        return text
    alternatives = grant.task.shape.alternatives
    if not 0 <= grant.alternative < len(alternatives) or not 0 < grant.run < MOST:
        return f"attempt {grant.attempt} is granted in run {grant.run} as alternative {grant.alternative}"
    if grant.devices and len(grant.devices) != len(shares_of(alternatives[grant.alternative])):
        return f"attempt {grant.attempt} is granted {len(grant.devices)} cards, which is not what its task needs"
    if len(grant.resume) > MOST_KEPT + 1:
        return f"attempt {grant.attempt} may go on from {len(grant.resume)} checkpoints, the limit is {MOST_KEPT + 1}"
    return next(filter(None, map(checkpoint_fault, grant.resume)), "")


def _heartbeat(sender: NodeId, beat: Heartbeat) -> str:
    if not all(0 <= count < MOST for count in (beat.seq, beat.echo, beat.incarnation, beat.position)):
        return f"heartbeat {beat.seq} of incarnation {beat.incarnation} is beyond counting"
    if text := _any_claim(beat.claim):
        return text
    for sighting in beat.seen:
        if text := _claim(sighting.claim):
            return text
    return next(filter(None, (_node(node) for node, _ in beat.peers)), "")


def _verdict(sender: NodeId, verdict: Verdict) -> str:
    return "" if 0 <= verdict.above < MOST else f"a verdict is above term {verdict.above}"


def _relayed(sender: NodeId, relayed: Relayed) -> str:
    return _node(relayed.source) or _node(relayed.target) or message_fault(relayed.source, relayed.message)


def _of_claim(sender: NodeId, message: YieldRequest | Yield) -> str:
    return _any_claim(message.claim)


def _refused(sender: NodeId, refused: Refused) -> str:
    return _any_claim(refused.highest)


def _blob(blob: BlobId) -> str:
    return "" if len(blob) == 64 and not blob.strip("0123456789abcdef") else f"{_shown(blob)} is no blob's id"


def _holds(sender: NodeId, holds: Holds) -> str:
    if not (0 < holds.session < MOST and 0 < holds.seq < MOST and 0 <= holds.free < MOST and _is_id(holds.life)):
        return f"slice {holds.seq} of session {holds.session} says that {holds.free} bytes are free"
    if not all(0 <= size < MOST for _, size in holds.gained):
        return f"slice {holds.seq} of session {holds.session} has blobs of impossible sizes"
    blobs = (*(blob for blob, _ in holds.gained), *holds.lost)
    return next(filter(None, map(_blob, blobs)), "") or _any_claim(holds.claim)


def _holds_seen(sender: NodeId, seen: HoldsSeen) -> str:
    if not (0 <= seen.session < MOST and 0 <= seen.seq < MOST):
        return f"it has seen slice {seen.seq} of session {seen.session}"
    return _any_claim(seen.claim)


def _seek(sender: NodeId, seek: Seek) -> str:
    if not (0 <= seek.size < MOST and 0 <= seek.copies < MOST):
        return f"{seek.copies} copies of {seek.size} bytes are sought"
    return _blob(seek.blob) or (_blob(seek.like) if seek.like else "") or _any_claim(seek.claim)


def _found(sender: NodeId, found: Found) -> str:
    named = (_node(node) for node, _ in (*found.holders, *found.fetching))
    return _blob(found.blob) or next(filter(None, named), "") or _any_claim(found.claim)


def _copy(sender: NodeId, copy: Copy) -> str:
    if not 0 <= copy.size < MOST:
        return f"a copy of {copy.size} bytes is asked for"
    named = (_node(node) for node, _ in copy.holders)
    return _blob(copy.blob) or next(filter(None, named), "") or _any_claim(copy.claim)


def _spare(sender: NodeId, spare: Spare | Spared) -> str:
    if not 0 < spare.number < MOST:
        return f"question {spare.number} of which blobs may go"
    return next(filter(None, map(_blob, spare.blobs)), "") or _any_claim(spare.claim)


def _copy_failed(sender: NodeId, failed: CopyFailed) -> str:
    return _blob(failed.blob) or _any_claim(failed.claim)


_MESSAGES: dict[type, Callable[[NodeId, Any], str]] = {
    Heartbeat: _heartbeat,
    Verdict: _verdict,
    YieldRequest: _of_claim,
    Yield: _of_claim,
    Refused: _refused,
    Relayed: _relayed,
    Pull: _pull,
    Pulled: _pulled,
    Report: _report,
    Orders: _orders,
    Holds: _holds,
    HoldsSeen: _holds_seen,
    Seek: _seek,
    Found: _found,
    Copy: _copy,
    CopyFailed: _copy_failed,
    Spare: _spare,
    Spared: _spare,
}
