"""The judge itself: each broken promise is found in evidence made by hand, and what nobody could know is excused."""

from __future__ import annotations

import pickle
from itertools import pairwise
from typing import Any

import pytest

from mesh.core.ids import Claim, attempt_id
from mesh.core.lattice import FAILED, LOST, SUCCEEDED, Acceptance, Attempt, Job, Outcome, Record, Shape, Task
from mesh.core.ledger import Ledger
from tests.netlab.books import Done, Shown, Told
from tests.netlab.plan import DAEMON_FAULTS, plan
from tests.netlab.starvation import Waits
from tests.netlab.timeline import Timeline
from tests.netlab.verdict import Evidence, verdict

A, B, C = (f"50-{letter}" for letter in "ABC")
HOSTS = {A: "a", B: "b", C: "c"}
FIRST, SECOND = Claim(True, 3, A, "life"), Claim(True, 5, B, "life")
ONE, TWO = attempt_id(FIRST, 1), attempt_id(SECOND, 1)
T = "job.0"


class Story:
    """A task whose first attempt ran on ``c`` from 100 to 110, was accepted by ``a`` and shown."""

    def __init__(self) -> None:
        self.records: list[Record] = [Job("job", "d"), Task(T, "job", 0, "d", Shape(), b"")]
        self.attempts: dict[str, Done] = {}
        self.shown: list[Shown] = []
        self.timeline = Timeline()
        self.waits = Waits()
        self.asked = True
        self.on_disk = True

    def ran(
        self,
        attempt: str = ONE,
        node: str = C,
        began: float = 100,
        ended: float | None = 110,
        stopped: float | None = None,
    ) -> Story:
        nonce = len(self.attempts) + 1
        self.attempts[attempt] = Done(attempt, T, node, began, ended, stopped, nonce)
        if ended is not None:
            outcome = Outcome(result=pickle.dumps({"nonce": nonce}), digest=str(nonce))
            self.records.append(Attempt(T, attempt, True, 1, SUCCEEDED, 1, node, outcome))
        else:
            self.records.append(Attempt(T, attempt, False, 1, LOST, 1, node))
        return self

    def accepted(self, claim: Claim = FIRST, attempt: str = ONE) -> Story:
        self.records.append(Acceptance(T, attempt, claim, str(self.attempts[attempt].nonce)))
        return self

    def told(self, attempt: str = ONE, nonce: int | None = None) -> Story:
        found = self.attempts[attempt].nonce if nonce is None else nonce
        self.shown.append(Shown("client", T, "succeeded", attempt, found))
        return self

    def fault(self, since: float, until: float, **what: Any) -> Story:
        span = self.timeline.begin("fault", **what)
        span.since, span.until = since, until
        return self

    def waited(self, host: str, at: float, seconds: float) -> Story:
        self.waits.note(host, at, seconds)
        return self

    def broken(self, counted: str = "") -> Any:
        """The names of the broken promises, or one of the counts."""
        whole = Ledger()
        for record in self.records if self.on_disk else ():
            whole.join(record)
        state = whole.tasks.get(T)
        current = state.accepted() if state is not None else None
        document = {
            "id": T,
            "state": state.state if state is not None else "",
            "attempts": [
                {
                    "id": attempt.id,
                    "state": "succeeded" if attempt.ended and attempt.phase == SUCCEEDED else "lost",
                    "accepted": current is not None and attempt.id == current.attempt,
                    "superseded": attempt.id in (state.acceptances or {}) and attempt.id != current.attempt,
                }
                for attempt in state.attempts.values()
            ],
        } if state is not None else {"state": "succeeded", "attempts": []}  # fmt: skip
        told = Told({T: "client"}, self.shown, [], [])
        asked = {T: document} if self.asked else {}
        counts, wrong, _ = verdict(Evidence(told, self.attempts, asked, {}, whole, HOSTS, self.timeline, self.waits))
        return counts[counted] if counted else set(wrong)


def usual() -> Story:
    return Story().ran().accepted().told()


def test_a_quiet_run_breaks_nothing() -> None:
    assert usual().broken() == set()


def test_lost_and_unfinished() -> None:
    story = usual()
    story.asked = False
    assert story.broken() == {"lost"}
    story = usual()
    story.on_disk = False
    assert "lost" in story.broken()
    assert Story().ran(ended=None).fault(105, 106, dead="c").broken() == {"unfinished"}


def test_results_that_were_shown() -> None:
    assert Story().ran().accepted().told(nonce=7).broken() == {"lost_results"}  # another value than on any disk
    replaced = usual().ran(TWO, A, 101, 108).accepted(SECOND, TWO).fault(95, 120, apart=("b", "ac"))
    assert replaced.broken() == set()
    assert replaced.broken("replaced") == 1
    forgotten = Story().ran().told().ran(TWO, A, 101, 108).accepted(SECOND, TWO).fault(95, 120, apart=("b", "ac"))
    assert forgotten.broken() == {"lost_results"}


def test_two_acceptances_are_excused_by_a_separation_alone() -> None:
    def both(began: float = 111) -> Story:
        return usual().ran(TWO, A, began, began + 3).accepted(SECOND, TWO)

    assert "conflicting" in both().broken()
    assert "conflicting" in both().fault(95, 120, apart=("c", "ab")).broken()  # not between the leaders
    assert both().fault(101, 115, apart=("ac", "b")).broken() == set()
    assert both().fault(101, 115, silent="b").broken() == set()
    assert "unreplicated" in both().fault(109, 115, dead="a").broken()  # it came back, and b had not heard of it
    again = both(140).fault(109, 115, apart=("a", "b"))
    assert "conflicting" in again.broken()  # they had met since
    assert "unreplicated" in again.fault(142, 155, apart=("a", "b")).broken()  # and were apart again
    assert again.fault(139, 155, apart=("b", "ac")).broken() == set()  # alone: c may be the one that knows
    same = usual().ran(again := attempt_id(FIRST, 2), B, 111, 112).accepted(FIRST._replace(term=4), again)
    assert "conflicting" in same.fault(90, 120, apart=("a", "b")).broken()


def test_two_acceptances_are_not_judged_where_one_of_the_leaders_had_no_core() -> None:
    def both(*waits: tuple[str, float, float], again: float = 111) -> Story:
        story = usual().ran(TWO, A, again, again + 3).accepted(SECOND, TWO)
        for wait in waits:
            story.waited(*wait)
        return story

    starved = both(("b", 112, 0.6), ("b", 112.5, 0.7))
    assert starved.broken() == {"recomputed"}  # which is judged as ever
    assert starved.broken("starved") == 1
    assert "conflicting" in both(("b", 112, 0.6), ("b", 112.5, 0.5)).broken()  # there was time for a beat and its echo
    assert "conflicting" in both(("b", 111, 0.6), ("b", 113.3, 0.7)).broken()  # not in one window
    assert "conflicting" in both(("c", 112, 2.0)).broken()  # neither of the two
    assert "conflicting" in both(("a", 120, 3.0)).broken()  # afterwards
    assert "conflicting" in both(("a", 108, 3.0)).broken()  # they had met again
    assert "conflicting" in both(("a", 140, 2.0), again=138).broken()  # long after the first, which was known by then


@pytest.mark.parametrize(
    ("fault", "excused"),
    [
        (None, False),
        ({"since": 105, "until": 106, "dead": "c"}, True),  # its machine died
        ({"since": 105, "until": 106, "dead": "a"}, False),  # another one did, long after it was known to run
        ({"since": 100.5, "until": 140, "dead": "ac"}, True),  # who granted it, too
        ({"since": 104, "until": 120, "apart": ("c", "ab")}, False),  # cut off, for less than lost_after
        ({"since": 99, "until": 140, "apart": ("ac", "b")}, True),  # granted where the other leader could not know
        ({"since": 99, "until": 140, "apart": ("a", "bc")}, False),  # and its node has declared it since
    ],
)
def test_running_work_begun_again(fault: dict[str, Any] | None, excused: bool) -> None:
    story = Story().ran(ended=160).ran(TWO, A, 130, 131).accepted(SECOND, TWO)
    if fault is not None:
        story.fault(**fault)
    assert (story.broken() == set()) is excused
    assert excused or story.broken() == {"disturbed"}
    assert story.broken("doubled") == 1


def test_work_of_a_machine_cut_off_for_longer_than_lost_after_is_begun_again() -> None:
    def story(until: float) -> Story:
        again = Story().ran(ended=160).ran(TWO, A, 145, 146).accepted(SECOND, TWO)
        return again.fault(105, 110, apart=("c", "ab")).fault(until, 150, apart=("c", "ab"))

    assert story(117).broken() == set()  # two faults, and no time between them to be back in
    assert story(130).broken() == {"disturbed"}


def test_work_that_was_stopped() -> None:
    stopped = Story().ran(ended=None)
    assert "disturbed" in stopped.broken()
    assert "disturbed" not in stopped.fault(130, 131, dead="c").broken()
    recalled = Story().ran(ended=None).ran(TWO, A, 105, None, stopped=112)  # for the first, which then died
    assert "disturbed" not in recalled.fault(130, 131, dead="c").fault(90, 120, apart=("ac", "b")).broken()
    alone = Story().ran(ended=None, stopped=104).ran(TWO, A, 105, None, stopped=112)
    assert "disturbed" in alone.fault(130, 131, dead="c").fault(90, 120, apart=("ac", "b")).broken()
    useless = usual().ran(TWO, A, 105, None).fault(99, 120, apart=("ac", "b"))
    assert "disturbed" not in useless.broken()
    failed = Story().ran(ended=None)
    failed.records[-1] = Attempt(T, ONE, True, 1, FAILED, 1, C, Outcome(code="OSError"))
    assert "disturbed" not in failed.broken()


def test_finished_work_is_computed_again_only_where_its_holder_is_gone() -> None:
    again = usual().ran(TWO, A, 120, 121)
    assert again.broken() == {"recomputed"}
    assert again.fault(112, 113, dead="a").broken() == set()


def test_a_plan_follows_from_its_seed() -> None:
    faults = plan(7, 60, "abcde")
    assert faults == plan(7, 60, "abcde")
    assert faults != plan(8, 60, "abcde")
    assert len(faults) == 60
    assert all(set(fault.names) | set(fault.others) <= set("abcde") for fault in faults)
    for track in (True, False):
        own = [fault for fault in faults if (fault.kind in DAEMON_FAULTS) is track]
        assert all(one.at + one.seconds < other.at for one, other in pairwise(own))
