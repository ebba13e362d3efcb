"""Which tasks a leader that opens has to look at: kept as records come, and never more nor less than they say."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.core.compaction import unneeded, useful
from mesh.core.lattice import (
    FAILED,
    LOST,
    OFFERED,
    SUCCEEDED,
    TASK_CANCELLED,
    TASK_FAILED,
    Acceptance,
    Attempt,
    Deleted,
    Ended,
    Job,
    Outcome,
    Record,
    Run,
    Shape,
    Task,
)
from tests.core.parts import claim
from tests.core.test_lattice import histories, joined

TASK = Task("j.0", "j", 0, "d", Shape(), b"")
OPEN = Attempt("j.0", "1.50-a.a1.1", False, 0, OFFERED, 1, "50-b")
WON = OPEN._replace(ended=True, phase=SUCCEEDED, outcome=Outcome(digest="d"))
ACCEPTED = Acceptance("j.0", WON.id, claim("a"), "d")
OTHER = OPEN._replace(id="1.50-a.a1.2")


def unsettled(*records: Record) -> bool:
    ledger = joined([Job("j", "d"), TASK, *records])
    ledger.check(whole=True)
    return list(ledger.unsettled) == ["j.0"]


def test_what_is_open_or_may_still_be_accepted_is_looked_at() -> None:
    assert unsettled()
    assert unsettled(OPEN)
    assert unsettled(WON)
    assert unsettled(OPEN._replace(phase=LOST))
    assert unsettled(Ended("j.0", 1, TASK_FAILED), WON), "a late success is accepted"
    assert unsettled(WON, ACCEPTED, OTHER), "another attempt is recalled"
    assert unsettled(Run("j.0", 1, 1), OPEN), "it is recalled"
    assert unsettled(Ended("j.0", 1, TASK_FAILED), Run("j.0", 2, 0))


def test_what_is_over_is_not() -> None:
    assert not unsettled(WON, ACCEPTED)
    assert not unsettled(ACCEPTED), "though its result is still on its way"
    assert not unsettled(WON, ACCEPTED, OTHER._replace(phase=LOST))
    assert not unsettled(Ended("j.0", 1, TASK_FAILED), OPEN._replace(ended=True, phase=FAILED))
    assert not unsettled(Ended("j.0", 1, TASK_CANCELLED))
    assert not unsettled(Run("j.0", 1, 1), WON)
    assert not unsettled(WON, Deleted("j")) or not joined([WON, Deleted("j")]).known("j.0")


@given(histories, st.randoms(use_true_random=False))
def test_it_is_kept_in_whatever_order_records_come(history: list[Record], rng: object) -> None:
    shuffled = list(history)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    ledger = joined(shuffled)
    ledger.check(whole=True)
    again = joined(history)
    alive = {name for name in ledger.unsettled if not ledger.is_deleted(name)}  # others wait to be freed
    assert alive == {name for name in again.unsettled if not again.is_deleted(name)}


@given(histories)
def test_what_a_journal_could_do_without_is_counted_as_it_is_left_out(history: list[Record]) -> None:
    ledger = joined(history)
    assert unneeded(ledger, 1000) == 1000 - len(list(useful(ledger)))
