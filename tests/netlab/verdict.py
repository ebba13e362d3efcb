"""Whether the promises were kept, from what was written down and from what was done to whom.

Each rule is a function of the evidence that returns what is wrong, a sentence each. They hold the mesh to the promises
of docs/ARCHITECTURE.md section 2, and excuse only what those excuse: what nobody in reach could have known. What
may have come about because the machine is too busy for so many daemons is neither broken nor kept: it is not judged.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any, NamedTuple

from mesh.core.lattice import FAILED, Acceptance
from mesh.core.ledger import FINAL, Ledger
from tests.netlab.books import Done, Told, nonce_of
from tests.netlab.starvation import Waits
from tests.netlab.timeline import FOREVER, LOST_AFTER, Timeline

KNOWN_AFTER = 2.0  # seconds after its beginning in which an attempt may be known to its node and its leader alone
DECLARED_AFTER = 15.0  # seconds after which its node has declared it to whoever leads then
COPIES = 2  # machines that have what was promised on disk, at least: the leader, and a successor
SAID_AFTER = 3.0  # seconds from a success to its acceptance, on a loaded machine


class Evidence(NamedTuple):
    told: Told
    attempts: dict[str, Done]
    asked: dict[str, dict[str, Any]]  # task -> what meshctl shows of it, after all was calm
    ledgers: dict[str, Ledger]  # by host, from the journals after the end
    whole: Ledger  # all of them joined
    hosts: dict[str, str]  # node id -> host
    timeline: Timeline
    waits: Waits


def lost(seen: Evidence) -> list[str]:
    """Acknowledged, or shown, and then not there though every machine is back."""
    known = {**seen.told.acknowledged, **{shown.task: shown.client for shown in seen.told.shown}}
    wrong = []
    for task, client in sorted(known.items()):
        state = seen.whole.tasks.get(task)
        if task not in seen.asked:
            wrong.append(f"{task} of {client} was acknowledged, and the mesh does not know it")
        elif state is None or state.spec is None:
            wrong.append(f"{task} of {client} was acknowledged, and is in no journal")
    return wrong


def unfinished(seen: Evidence) -> list[str]:
    """Acknowledged and not ended, or shown as ended and not so on any disk."""
    wrong = []
    for task, client in sorted(seen.told.acknowledged.items()):
        if task not in seen.asked:
            continue
        asked, state = seen.asked[task]["state"], seen.whole.tasks.get(task)
        if asked not in FINAL:
            wrong.append(f"{task} of {client} has not ended: it is {asked}")
        elif state is not None and state.spec is not None and state.state != asked:
            wrong.append(f"{task} of {client} is shown as {asked}, and the journals say {state.state}")
    return wrong


def results(seen: Evidence) -> tuple[list[str], list[str]]:
    """Results that were shown and are not current: those that the mesh shows as superseded, and those it lost."""
    replaced, wrong = [], []
    for shown in seen.told.shown:
        if shown.task not in seen.asked:
            continue
        now, state = seen.asked[shown.task], seen.whole.tasks.get(shown.task)
        if shown.state != "succeeded":
            if now["state"] != shown.state:
                replaced.append(f"{shown.task} was shown to {shown.client} as {shown.state}, and is {now['state']}")
            continue
        told = {attempt["id"]: attempt for attempt in now["attempts"] if attempt["state"] == "succeeded"}
        current = [attempt["id"] for attempt in told.values() if attempt["accepted"]]
        recorded = state.attempts.get(shown.attempt) if state is not None else None
        what = f"the result of {shown.task} that {shown.client} was shown (attempt {shown.attempt})"
        if shown.attempt not in told:
            wrong.append(f"{what} is not known any more; there are {sorted(told)}")
        elif recorded is None or nonce_of(recorded) != shown.nonce:
            found = None if recorded is None else nonce_of(recorded)
            wrong.append(f"{what} had the nonce {shown.nonce}, and the journals say {found}")
        elif told[shown.attempt]["superseded"]:
            replaced.append(f"{what} was superseded")
        elif current != [shown.attempt]:
            wrong.append(f"{what} is not shown as superseded, and what is accepted is {current}")
        elif state is None or (accepted := state.accepted()) is None or accepted.attempt != shown.attempt:
            wrong.append(f"{what} is not the accepted one of the journals")
    return replaced, wrong


def accepted_twice(seen: Evidence) -> tuple[list[str], list[str], list[str]]:
    """Two acceptances of one task with different results. By leaders in touch, or by one; and by leaders who were not,
    but had been since the first of them, or of whom one was dead: where the second one reached more machines than may
    lack it, too few knew what was accepted.

    And what cannot be judged: the second was accepted while the machine kept the two leaders from hearing each other.
    """
    conflicting, unreplicated, starved = [], [], []
    for task, state in sorted(seen.whole.tasks.items()):
        accepted = sorted((state.acceptances or {}).values(), key=lambda each: (_ended(seen, each), each))
        for first, second in combinations(accepted, 2):
            if first.digest == second.digest:
                continue
            one, other = (seen.hosts[each.claim.leader] for each in (first, second))
            at, line = _ended(seen, second), seen.timeline
            both = f"{first.attempt} by {_by(seen, first)}, {second.attempt} by {_by(seen, second)}"
            if one == other or not at:
                conflicting.append(f"{task} was accepted twice: {both}")
            elif line.apart_since(one, other, at) > at:
                if seen.waits.starved_since(one, other, at) <= _ended(seen, first) + SAID_AFTER:
                    starved.append(f"{task} was accepted twice: {both}, while one of them had no core")
                else:
                    conflicting.append(f"{task} was accepted twice: {both}, who were in touch")
            elif line.apart_since(one, other, at, deaths=False) > _ended(seen, first) + SAID_AFTER and _may_know(
                seen, other, at
            ):
                unreplicated.append(f"{task} was accepted twice, for no one in reach knew of the first: {both}")
    return conflicting, unreplicated, starved


def _may_know(seen: Evidence, leader: str, at: float) -> bool:
    """Whether somebody whom it reached must have what another leader and one successor of that have on disk."""
    apart = [name for name in seen.hosts.values() if seen.timeline.apart_since(leader, name, at) <= at]
    return len(apart) < COPIES


def _ended(seen: Evidence, acceptance: Acceptance) -> float:
    done = seen.attempts.get(acceptance.attempt)
    return done.ended if done is not None and done.ended is not None else 0.0


def _by(seen: Evidence, acceptance: Acceptance) -> str:
    return f"{seen.hosts[acceptance.claim.leader]} in term {acceptance.claim.term}"


def repeated(seen: Evidence) -> tuple[list[str], list[str], int]:
    """Work of surviving machines that was stopped or begun again while it ran; that was begun again after its end;
    and how many tasks were begun more than once at all. Each task is told once."""
    disturbed, recomputed, doubled = {}, {}, 0
    by_task: dict[str, list[Done]] = {}
    for done in sorted(seen.attempts.values(), key=lambda done: done.began):
        by_task.setdefault(done.task, []).append(done)
    for task, begun in sorted(by_task.items()):
        doubled += len(begun) > 1
        # Of two that run, one is recalled for the other: only the last one that ran had no reason to stop.
        last = max(begun, key=lambda done: FOREVER if done.stopped is None else done.stopped)
        if all(done.ended is None for done in begun) and not _stopped_rightly(seen, last):
            disturbed[task] = f"{task}: {_what(seen, last)}, and its machine lives"
        for first, second in combinations(begun, 2):
            both = f"{task}: {_what(seen, first)}, and again {_what(seen, second)}"
            if first.ended is not None and first.ended <= second.began:
                # Who alone held its result may have been the one that was gone.
                if not _excused(seen, first, second) and not seen.timeline.anyone_died(first.ended - 1, second.began):
                    recomputed.setdefault(task, both)
            # What is stopped because another attempt has ended the task was of no use any more.
            elif not _ended_before(begun, first.stopped or second.began) and not _excused(seen, first, second):
                disturbed.setdefault(task, both)
    return list(disturbed.values()), list(recomputed.values()), doubled


def _ended_before(begun: list[Done], at: float) -> bool:
    return any(done.ended is not None and done.ended <= at for done in begun)


def _stopped_rightly(seen: Evidence, done: Done) -> bool:
    """Its machine's daemon died while it could run; or the holder itself says that it failed."""
    until = done.stopped if done.stopped is not None else done.began + 60
    return seen.timeline.died(seen.hosts[done.node], done.began, until) or _failed(seen, done)


def _failed(seen: Evidence, done: Done) -> bool:
    known = seen.whole.tasks[done.task].attempts.get(done.attempt) if done.task in seen.whole.tasks else None
    return known is not None and known.ended and known.phase == FAILED


def _excused(seen: Evidence, first: Done, second: Done) -> bool:
    """Whether who granted the second had reason to, or could not know of the first."""
    node, one, other = (seen.hosts[name] for name in (first.node, first.leader, second.leader))
    line = seen.timeline
    if _failed(seen, first) or line.died(node, first.began, second.began):
        return True
    if line.apart_for(node, other, first.began, second.began) > LOST_AFTER:
        return True
    # A grant waits for no disk and for no other node: where who granted the first was out of touch ever since, the
    # other side learns of it from its node alone, which declares it once it follows that side.
    known = line.apart_since(one, other, second.began) > first.began + KNOWN_AFTER
    unknown = not known or not _may_know(seen, other, second.began)
    undeclared = second.began < first.began + DECLARED_AFTER or line.apart_since(node, other, second.began) < FOREVER
    return unknown and undeclared


def _what(seen: Evidence, done: Done) -> str:
    ended = "stopped" if done.ended is None else f"to {done.ended:.2f}"
    where, by = seen.hosts[done.node], seen.hosts[done.leader]
    return f"{done.attempt} ran on {where} from {done.began:.2f} {ended}, granted by {by}"


def verdict(seen: Evidence) -> tuple[dict[str, int], dict[str, list[str]], list[str]]:
    """The counts; by the name of each broken promise what is wrong; and what cannot be judged on a machine so busy."""
    replaced, lost_results = results(seen)
    disturbed, recomputed, doubled = repeated(seen)
    conflicting, unreplicated, starved = accepted_twice(seen)
    broken = {
        "lost": lost(seen),
        "unfinished": unfinished(seen),
        "lost_results": lost_results,
        "conflicting": conflicting,
        "unreplicated": unreplicated,
        "disturbed": disturbed,
        "recomputed": recomputed,
    }
    states = [seen.asked[task]["state"] for task in seen.told.acknowledged if task in seen.asked]
    counts = {
        "acknowledged": len(seen.told.acknowledged),
        "shown": len(seen.told.shown),
        "succeeded": states.count("succeeded"),
        "failed": states.count("failed"),
        **{name: len(wrong) for name, wrong in broken.items()},
        "replaced": len(replaced),
        "doubled": doubled,
        "gave_up": len(seen.told.gave_up),
        "starved": len(starved),
    }
    return counts, {name: wrong for name, wrong in broken.items() if wrong}, starved
