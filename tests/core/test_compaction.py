"""What a journal written anew holds: all that counts, whatever it is merged with later."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.compaction import NOTHING, rewritten, useful
from mesh.core.lattice import (
    FAILED,
    LOST,
    OFFERED,
    RELEASED,
    RUNNING,
    SUCCEEDED,
    TASK_CANCELLED,
    TASK_FAILED,
    Acceptance,
    Attempt,
    Checkpoint,
    Checkpointing,
    Deleted,
    Ended,
    Job,
    Outcome,
    Record,
    Register,
    Run,
    Shape,
    Task,
)
from mesh.core.ledger import FINAL, Ledger
from mesh.core.messages import NO_CURSOR, Cursor
from tests.core.parts import claim
from tests.core.test_lattice import histories, joined

JOB, TASK = Job("j", "d"), Task("j.0", "j", 0, "d", Shape(), b"")
OPEN = Attempt("j.0", "1.50-a.a1.1", False, 0, OFFERED, 1, "50-b")
WON = OPEN._replace(id="1.50-a.a1.9", ended=True, phase=SUCCEEDED, outcome=Outcome(digest="d"))
ACCEPTED = Acceptance("j.0", WON.id, claim("a"), "d")


def tries(run: int = 1) -> dict[str, Attempt]:
    """One attempt of each sort."""
    sorts = {
        "offered": (False, OFFERED), "running": (False, RUNNING), "lost": (False, LOST),
        "released": (True, RELEASED), "failed": (True, FAILED), "succeeded": (True, SUCCEEDED),
    }  # fmt: skip
    return {
        name: OPEN._replace(id=f"1.50-a.a1.{run}{number}", ended=ended, phase=phase, run=run)
        for number, (name, (ended, phase)) in enumerate(sorts.items())
    }


def kept(*records: Record, run: int = 1) -> set[str]:
    """Of :func:`tries`, those that are of use beside these records."""
    found = set(useful(joined([JOB, TASK, *records, *tries(run).values()])))
    assert set(records) <= found
    return {name for name, attempt in tries(run).items() if attempt in found}


def test_of_what_may_go_on_all_attempts_are_kept() -> None:
    assert kept() == set(tries())
    assert kept(Run("j.0", 2, 1), run=2) == set(tries())


def test_of_an_accepted_task_only_successes_and_what_is_open_are_kept() -> None:
    assert kept(WON, ACCEPTED) == {"offered", "running", "succeeded"}


def test_of_a_failed_or_cancelled_run_failures_are_kept_to_be_shown() -> None:
    for end in (Ended("j.0", 1, TASK_FAILED), Ended("j.0", 1, TASK_CANCELLED), Run("j.0", 1, 1)):
        assert kept(end) == {"offered", "running", "succeeded", "failed"}


def test_of_runs_that_were_followed_by_another_only_successes_and_what_is_open_are_kept() -> None:
    assert kept(Run("j.0", 2, 1)) == {"offered", "running", "succeeded"}


def test_of_those_with_checkpoints_the_ones_that_are_kept_are() -> None:
    saved = [
        attempt._replace(saved=(Checkpoint(1, step, attempt.id, 1, f"{step:064x}", 1),))
        for step, attempt in enumerate([tries()["lost"], tries()["released"]])
    ]
    few = TASK._replace(shape=Shape(checkpoints=Checkpointing(keep=1)))
    assert saved[1] in set(useful(joined([JOB, few, *saved, ACCEPTED])))
    assert saved[0] not in set(useful(joined([JOB, few, *saved, ACCEPTED])))


def test_attempts_at_unknown_tasks_are_kept_for_a_leader() -> None:
    assert set(tries().values()) <= set(useful(joined([*tries().values(), Ended("j.0", 1, TASK_FAILED)])))


def standing(ledger: Ledger) -> list[object]:
    """What counts of each task: its state and result, and where it is not final, all that decides what comes next."""
    found: list[object] = []
    for name, state in sorted(ledger.tasks.items()):
        if ledger.is_deleted(name) or state.spec is None:
            continue
        final = state.state in FINAL
        decides = None if final else (state.failures(), state.losses())
        found.append((state.spec, final and state.state, state.accepted(), state.success(), decides))
    return found


@given(histories, histories)
@settings(max_examples=400)
def test_whatever_it_is_merged_with_later_every_task_stands_as_if_nothing_had_been_dropped(
    records: list[Record], later: list[Record]
) -> None:
    """``later`` holds older and newer records of the same tasks and attempts, as a peer's journal may."""
    whole, small = joined(records), joined(useful(joined(records)))
    small.check(whole=True)
    assert standing(small) == standing(whole)
    for ledger in (whole, small):
        for record in [*later, *records[::2]]:
            ledger.join(record)
    assert standing(small) == standing(whole)


@given(histories)
def test_doing_it_again_drops_nothing_more(records: list[Record]) -> None:
    once = list(useful(joined(records)))
    assert list(useful(joined(once))) == once


# -- rows --------------------------------------------------------------------------------------------------------------


def rows_of(records: list[Record]) -> list[tuple[Cursor, list[Record]]]:
    return [(Cursor("old", at + 2, f"d{at}"), records[at : at + 2]) for at in range(0, len(records), 2)]


def test_rows_keep_their_order_and_say_up_to_where_who_read_them_knows_them() -> None:
    gone = [Job("k", "d"), Task("k.0", "k", 0, "d", Shape(), b"")]
    records: list[Record] = [JOB, gone[0], gone[1], OPEN._replace(task="k.0"), TASK, OPEN, Deleted("k"), WON]
    others = [Cursor("x", 7, "x"), Cursor("y", 8, "y")]
    found = list(rewritten(list(useful(joined(records))), rows_of(records), others))
    assert found[:-3] == [
        (Cursor("old", 2, "d0"), [JOB]),
        (Cursor("old", 6, "d4"), [TASK, OPEN]),
        (Cursor("old", 8, "d6"), [Deleted("k"), WON]),
    ]
    assert found[-3:] == [(Cursor("old", 8, "d6"), [NOTHING])] + [(cursor, [NOTHING]) for cursor in others]


def test_what_was_joined_of_several_records_stands_at_the_end() -> None:
    records: list[Record] = [TASK, Run("j.0", 1, 1), Run("j.0", 2, 0), Register("job/j", "x", 1, "50-a", "1")]
    found = list(rewritten(list(useful(joined(records))), rows_of(records), ()))
    assert found[-1] == (Cursor("old", 4, "d2"), [NOTHING, Run("j.0", 2, 1)])


@given(histories, st.integers(0, 20))
def test_who_read_the_old_journal_that_far_and_gets_the_rest_knows_it_all(records: list[Record], read: int) -> None:
    rows = rows_of(records)
    reader = joined(record for cursor, part in rows if cursor.position <= read for record in part)
    found = list(rewritten(list(useful(joined(records))), rows, [Cursor("x", 7, "x")]))
    assert all(a[0].position <= b[0].position for a, b in pairwise(found[:-1]))
    sent = [part for source, part in found if source.journal == "x" or source.position > read]
    for part in sent:
        for record in part:
            reader.join(record)
    assert standing(reader) == standing(joined(records))
    if rows and read >= rows[-1][0].position:
        assert sent == [[NOTHING]], "nothing of the old journal is sent again"


def test_the_empty_record_changes_nothing() -> None:
    assert not Ledger().join(NOTHING)
    assert not joined([JOB]).join(NOTHING)
    assert NO_CURSOR.position == 0
