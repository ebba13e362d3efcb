"""Effects, records and messages in few words, for transcripts that people read.

A claim is ``a1:2``: life a1 leads with term 2; ``a1:2?`` is provisional and ``-`` none. An attempt is ``2.a1.7``: the
seventh minted under a1:2.
"""

from __future__ import annotations

from mesh.core import effects as do
from mesh.core import messages as say
from mesh.core.ids import NO_CLAIM, AttemptId, Claim, NodeId
from mesh.core.lattice import (
    FAILED,
    LOST,
    OFFERED,
    RELEASED,
    RUNNING,
    SUCCEEDED,
    TASK_FAILED,
    Acceptance,
    Attempt,
    Claimed,
    Deleted,
    Ended,
    Job,
    Lived,
    Mesh,
    Owner,
    Record,
    Register,
    Run,
    Task,
)

OPEN_PHASES = {OFFERED: "offered", RUNNING: "running", LOST: "lost"}
END_PHASES = {RELEASED: "released", FAILED: "failed", SUCCEEDED: "succeeded"}


def name_of(node: NodeId) -> str:
    return node[3:] if node[:3] == "50-" else node


def claim(what: Claim) -> str:
    return "-" if what == NO_CLAIM else f"{what.life}:{what.term}" + ("" if what.established else "?")


def attempt_name(name: AttemptId) -> str:
    term, _leader, life, number = name.split(".")
    return f"{term}.{life}.{number}"


def names(many: tuple[AttemptId, ...]) -> str:
    return " ".join(attempt_name(name) for name in many)


def attempt(what: Attempt) -> str:
    phase = (END_PHASES if what.ended else OPEN_PHASES)[what.phase]
    text = f"{attempt_name(what.id)} of {what.task} on {name_of(what.node)} {phase}"
    text += f" round {what.round}" if what.round else ""
    text += f" run {what.run}" if what.run > 1 else ""
    return text + (f" ({what.outcome.code})" if what.outcome.code else "")


def record(what: Record) -> str:
    match what:
        case Job():
            return f"job {what.id}"
        case Task():
            return f"task {what.id}"
        case Attempt():
            return attempt(what)
        case Acceptance():
            return f"{attempt_name(what.attempt)} accepted for {what.task} under {claim(what.claim)}"
        case Run():
            return f"{what.task} run {what.run} cancelled {what.cancelled}"
        case Ended():
            return f"{what.task} ended as {'failed' if what.status == TASK_FAILED else 'cancelled'} ({what.code})"
        case Owner():
            return f"{what.task or what.job} is {name_of(what.owner)}'s v{what.handovers}"
        case Register():
            return f"{what.scope} {what.field}={what.value!r} v{what.version}"
        case Mesh():
            return f"{what.id} {'mature' if what.mature else 'young'}"
        case Claimed():
            return f"claim {claim(what.claim)}"
        case Lived():
            return f"life {what.life}"
        case Deleted():
            return f"{what.job} deleted"


def bid(what: say.Bid | None) -> str:
    if what is None:
        return "no bid"
    return f"bid {what.free_slots}/{what.offer.slots}" + (f" ({what.offer.unwilling})" if what.offer.unwilling else "")


def beat(what: say.Heartbeat) -> str:
    text = f"beat {claim(what.claim)}"
    text += "" if what.claim == NO_CLAIM or what.leader_heard else " (not heard)"
    text += f" leads {what.leads}" if what.leads else ""
    text += f" followed {name_of(what.followed)}" if what.followed else ""
    text += f" sees {' '.join(claim(s.claim) for s in what.seen)}" if what.seen else ""
    text += f" suspects {' '.join(map(name_of, what.suspects))}" if what.suspects else ""
    return text + (f" not eligible: {what.why_not}" if what.why_not else "")


def message(what: say.Message) -> str:
    match what:
        case say.Heartbeat():
            return beat(what)
        case say.Verdict():
            return f"verdict: {name_of(what.stays)} stays, {name_of(what.yields)} yields, above term {what.above}"
        case say.YieldRequest():
            return f"asks for the leadership of {claim(what.claim)}"
        case say.Yield():
            return f"yields {claim(what.claim)}: {what.reason}"
        case say.Refused():
            return f"refuses: {claim(what.highest)} is the highest, {'alive' if what.alive else 'not alive'}"
        case say.Relayed():
            return f"relays {name_of(what.source)} to {name_of(what.target)}: {message(what.message)}"
        case say.Pull():
            after = " and ".join(f"{cursor.journal} {cursor.position}" for cursor in what.cursors) or "nothing"
            return f"pull after {after}" + (", when there is more" if what.wait else "")
        case say.Pulled():
            return f"pulled {len(what.records)} up to {what.cursor.position}" + (", the end" if what.end else "")
        case say.Report():
            parts = [f"declares {what.declares}/{what.slices}"] if what.declares else []
            parts += [attempt(each) for each in what.attempts]
            parts += [bid(what.bid)]
            return f"report to {claim(what.claim)}, applied {what.applied}: {', '.join(parts)}"
        case say.Holds():
            changes = [f"+{each[:6]}" for each, _ in what.gained] + [f"-{each[:6]}" for each in what.lost]
            return f"holds {what.session}.{what.seq}: {' '.join(changes) or 'nothing'}{', and more' * what.more}"
        case say.HoldsSeen():
            return f"has seen holds {what.session}.{what.seq}" if what.session else "asks what it holds"
        case say.Seek():
            return f"seeks {what.blob[:6]}" + (f" on {what.copies} nodes" if what.copies else "")
        case say.Found():
            parts = [name_of(node) for node, _ in what.holders]
            parts += [f"{name_of(node)} (fetching)" for node, _ in what.fetching]
            parts += [] if what.sure else ["perhaps more"]
            parts += [] if what.enough else ["not enough"]
            return f"found {what.blob[:6]}: {', '.join(parts) or 'nobody'}" + (f" ({what.why})" if what.why else "")
        case say.Copy():
            return f"copy {what.blob[:6]} from {' '.join(name_of(node) for node, _ in what.holders)}"
        case say.CopyFailed():
            return f"cannot copy {what.blob[:6]}: {what.reason}"
        case say.Orders():
            parts = [f"grant {attempt_name(g.attempt)} of {g.task.id}" for g in what.grants]
            parts += [f"recall {attempt_name(recalled)} ({why})" for recalled, why in what.recalls]
            parts += [f"ack {names(what.acks)}"] if what.acks else []
            parts += [f"unknown {names(what.unknown)}"] if what.unknown else []
            return f"orders {what.seq} under {claim(what.claim)}: {', '.join(parts) or 'welcome'}"


def effect(what: do.Effect) -> str:
    match what:
        case do.Persist():
            return f"persists up to {what.position}: {', '.join(record(each) for each in what.records)}"
        case do.Send():
            return f"-> {name_of(what.to)}: {message(what.message)}"
        case do.Dial():
            return f"dials {what.address}"
        case do.Hangup():
            return f"hangs up ({what.code}): {what.reason}"
        case do.BeginAttempts():
            return f"begins in slot {what.slot}: {names(tuple(a.attempt for a in what.assignments))}"
        case do.StopAttempts():
            return f"stops {names(what.attempts)} ({what.code}): {what.reason}"
        case do.Answer():
            if what.error:
                return f"answers call {what.call}: {what.error}: {what.message}"
            return f"answers call {what.call}: {what.count}, durable on {' '.join(map(name_of, what.durable_on))}"
        case do.TasksChanged():
            return f"shows {' '.join(what.tasks)}"
        case do.JobsChanged():
            return f"shows job {' '.join(what.jobs)}"
        case do.LeaderChanged():
            return f"calls go to {what.address or 'nobody'}: {claim(what.claim)}"
        case do.Notice():
            fields = " ".join(f"{key}={value}" for key, value in what.fields)
            return f"notes {what.event}: {fields}"
        case do.BlobFound():
            return f"hears of {what.blob[:6]}: {' '.join(name_of(node) for node, _ in what.holders) or 'nobody'}"
        case do.CopyBlob():
            return f"copies {what.blob[:6]} from {' '.join(name_of(node) for node, _ in what.holders)}"
        case do.Drained():
            return "is drained"
        case do.Exit():
            return f"exits with {what.code}: {what.reason}"
