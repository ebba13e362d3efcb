"""The laws of the ledger: joining commutes, associates, repeats harmlessly, and says truly whether it changed anything.

The pools below are small on purpose. Records collide in ids, tie in versions and claims, and differ only in their last
field: an order that does not cover the whole value, or a join that keeps what came first, shows at once.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.ids import NO_CLAIM, Claim, job_of
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
    Resources,
    Retries,
    Run,
    Shape,
    Task,
)
from mesh.core.ledger import ACTIVE, BROKEN, CANCELLED, DONE, PENDING, Ledger

# -- records that tie ------------------------------------------------------------------------------------------------

NODES = ("50-A", "50-AB", "50-B")  # one is a prefix of another
LIVES = ("l1", "l2")
CLAIMS = tuple(
    Claim(established, term, node, life)
    for established in (False, True)
    for term in (1, 2)
    for node in NODES
    for life in LIVES
)
TASKS = ("j1.t1", "j1.t2", "j2.t3")
# An attempt's id is minted once, for one task and one node; all else about it may be told in any way.
MINTED = tuple((task, f"1.a.l.{task}{number}", node) for task in TASKS for number, node in enumerate(NODES))
SHAPES = (
    Shape(),
    Shape((Resources(), Resources(0, milligpus=500, labels=(("rack", "1"),)))),
    Shape(retries=Retries(2, not_on=("ValueError",))),
)

nodes = st.sampled_from(NODES)
words = st.sampled_from(("", "x", "y"))
small = st.integers(0, 3)
outcomes = st.builds(
    Outcome, code=words, message=words, result=st.sampled_from((b"", b"1")), digest=words, started_ms=small
)


def strategies(names: tuple[str, ...]) -> dict[type, st.SearchStrategy[Record]]:
    """Records of every type, those of tasks about these tasks."""
    tasks, jobs = st.sampled_from(names), st.sampled_from(("j1", "j2"))
    minted = st.sampled_from([each for each in MINTED if each[0] in names])
    return {
        Job: st.builds(Job, id=jobs, digest=words, name=words, priority=small),
        Task: st.builds(
            lambda name, *rest: Task(name, job_of(name), *rest),
            tasks, small, words, st.sampled_from(SHAPES), st.sampled_from((b"", b"p")),
        ),
        Attempt: st.builds(
            lambda which, ended, declared, phase, run, what, steps: Attempt(
                which[0], which[1], ended, declared, phase, run, which[2], what,
                tuple(Checkpoint(run, step, which[1], 1, "b", 1) for step in steps),
            ),
            minted, st.booleans(), small, st.integers(0, 2), st.integers(1, 2), outcomes, st.lists(small, max_size=2),
        ),
        Acceptance: st.builds(
            lambda which, *rest: Acceptance(which[0], which[1], *rest), minted, st.sampled_from(CLAIMS), words
        ),
        Run: st.builds(Run, tasks, small, small),
        Ended: st.builds(Ended, tasks, st.integers(1, 3), st.sampled_from((TASK_FAILED, TASK_CANCELLED)), words, words),
        Register: st.builds(
            Register, st.sampled_from(("job/j1", "task/j1.t1")), st.sampled_from(("x", "paused")), small, nodes, words
        ),
        Mesh: st.builds(Mesh, st.sampled_from(("m1", "m2", "m3")), st.booleans()),
        Claimed: st.builds(Claimed, st.sampled_from((*CLAIMS, NO_CLAIM))),
        Lived: st.builds(Lived, nodes, small, st.sampled_from(LIVES)),
        Owner: st.builds(Owner, jobs, st.sampled_from(("", *names)), small, nodes),
        Deleted: st.builds(Deleted, jobs),
    }  # fmt: skip


RECORDS, OF_ONE_TASK = strategies(TASKS), strategies(("j1.t1",))
MINTED_FIELDS = {Attempt: ("task", "id", "node"), Acceptance: ("task", "attempt"), Task: ("id", "job")}


@st.composite
def near(draw: st.DrawFn) -> list[Record]:
    """Records that are equal but for one field each."""
    kind = draw(st.sampled_from(list(RECORDS)))
    base, other = draw(RECORDS[kind]), draw(RECORDS[kind])
    free = [field for field in base._fields if field not in MINTED_FIELDS.get(kind, ())]
    fields = draw(st.lists(st.sampled_from(free), min_size=1, max_size=5))
    return [base, *(base._replace(**{field: getattr(other, field)}) for field in fields)]


def shuffled(history: st.SearchStrategy[list[Record]]) -> st.SearchStrategy[tuple[list[Record], list[Record]]]:
    return history.flatmap(lambda records: st.tuples(st.just(records), st.permutations(records)))


histories = st.one_of(
    st.lists(st.one_of(list(RECORDS.values())), max_size=14),
    st.sampled_from(list(RECORDS)).flatmap(lambda kind: st.lists(RECORDS[kind], max_size=10)),
    st.lists(st.one_of([OF_ONE_TASK[kind] for kind in (Task, Attempt, Acceptance, Run, Ended, Deleted)]), max_size=10),
    near(),
)


def joined(records: Iterable[Record]) -> Ledger:
    ledger = Ledger()
    for record in records:
        ledger.join(record)
    return ledger


def state_of(ledger: Ledger) -> object:
    """All records, and all that is derived from them. The order in which jobs were learnt of is this node's own."""
    ledger.check(whole=True)
    records = list(ledger.records())
    while ledger.dying:
        ledger.purge(1)
    tasks = {
        name: (state.state, state.accepted(), state.success(), state.failures(), state.losses(), state.open_attempts())
        for name, state in sorted(ledger.tasks.items())
        if state.derive() != PENDING or state.attempts or state.spec is not None
    }
    for value in tasks.values():
        value[-1].sort()
    counts = {
        name: (sorted(job.tasks), job.counts, job.final()) for name, job in sorted(ledger.jobs.items()) if job.tasks
    }
    ledger.check(whole=True)
    assert list(ledger.records()) == records, "what was freed was shown"
    return records, tasks, counts, ledger.mesh_ids(), ledger.mature()


# -- the laws --------------------------------------------------------------------------------------------------------


@given(shuffled(histories))
def test_joining_commutes(pair: tuple[list[Record], list[Record]]) -> None:
    one, other = pair
    assert state_of(joined(one)) == state_of(joined(other))


@given(shuffled(near()))
@settings(max_examples=600)
def test_joining_commutes_for_records_that_differ_in_one_field(pair: tuple[list[Record], list[Record]]) -> None:
    one, other = pair
    assert list(joined(one).records()) == list(joined(other).records())


@given(histories, histories, histories)
@settings(max_examples=60)
def test_joining_associates(a: list[Record], b: list[Record], c: list[Record]) -> None:
    left = joined([*joined([*a, *b]).records(), *c])
    right = joined([*a, *joined([*b, *c]).records()])
    assert state_of(left) == state_of(right)


@given(histories)
def test_joining_again_changes_nothing(records: list[Record]) -> None:
    ledger = joined(records)
    before = state_of(ledger)
    assert not [record for record in records if ledger.join(record)]
    assert state_of(ledger) == before


@given(histories, st.data())
@settings(max_examples=60)
def test_any_split_over_any_journals_joins_to_the_same(records: list[Record], data: st.DataObject) -> None:
    """Three nodes each know some of it, some of it several times; then they pull each other in any order."""
    known: list[list[Record]] = [[], [], []]
    for record in records:
        for node in data.draw(st.sets(st.integers(0, 2), min_size=1)):
            known[node].append(record)
    ledgers = [joined(each) for each in known]
    for one, other in [
        *data.draw(st.permutations([(i, j) for i in range(3) for j in range(3) if i != j])),
        (0, 1),
        (2, 1),
    ]:
        for record in list(ledgers[one].records()):
            ledgers[other].join(record)
    assert state_of(ledgers[1]) == state_of(joined(records))


@given(histories)
def test_its_records_reproduce_a_ledger(records: list[Record]) -> None:
    ledger = joined(records)
    kept = list(ledger.records())
    again = joined(kept)
    assert state_of(again) == state_of(ledger)
    assert len(kept) == len(set(kept)), "a record stands in it twice"


@given(histories)
def test_only_what_changed_something_says_so(records: list[Record]) -> None:
    """Only then is it journaled: a false no loses it at the next restart, a false yes grows journals for ever."""
    ledger = Ledger()
    before = list(ledger.records())
    for record in records:
        changed = ledger.join(record)
        after = list(ledger.records())
        assert changed == (after != before), record
        before = after


@given(histories)
def test_the_journal_of_changes_is_the_ledger(records: list[Record]) -> None:
    ledger = Ledger()
    journal = [record for record in records if ledger.join(record)]
    assert state_of(joined(journal)) == state_of(ledger)


@given(histories)
def test_derived_values_are_what_a_recomputation_says(records: list[Record]) -> None:
    ledger = Ledger()
    for record in records:
        ledger.join(record)
        ledger.check()
    ledger.check(whole=True)


def test_every_record_type_is_drawn_and_joined() -> None:
    assert set(RECORDS) == set(typing.get_args(Record))


# -- what wins -------------------------------------------------------------------------------------------------------

OPEN = Attempt("j1.t1", "1.a.l.1", False, 0, OFFERED, 1, "50-A")
HIGHER_ID = Claim(True, 1, "50-B", "l")
SUCCESS_1 = OPEN._replace(ended=True, phase=SUCCEEDED, outcome=Outcome(digest="d1"))


@pytest.mark.parametrize(
    ("loses", "wins"),
    [
        (OPEN, OPEN._replace(phase=RUNNING)),
        (OPEN._replace(phase=RUNNING), OPEN._replace(phase=LOST)),
        (OPEN._replace(phase=LOST), OPEN._replace(phase=RUNNING, round=1)),  # the holder refutes it
        (OPEN._replace(phase=RUNNING, round=1), OPEN._replace(phase=LOST, round=1)),
        (OPEN._replace(phase=LOST, round=3), OPEN._replace(ended=True, phase=RELEASED)),  # only the holder ends it
        (OPEN._replace(ended=True, phase=RELEASED), OPEN._replace(ended=True, phase=FAILED)),
        (OPEN._replace(ended=True, phase=FAILED), OPEN._replace(ended=True, phase=SUCCEEDED)),
        (SUCCESS_1, SUCCESS_1._replace(outcome=Outcome(digest="d2"))),
        (Register("job/j", "priority", 1, "50-B", "z"), Register("job/j", "priority", 2, "50-A", "a")),
        (Register("job/j", "priority", 1, "50-A", "z"), Register("job/j", "priority", 1, "50-B", "a")),
        (Register("job/j", "priority", 1, "50-A", "a"), Register("job/j", "priority", 1, "50-A", "b")),
        (Ended("j1.t1", 1, TASK_CANCELLED), Ended("j1.t1", 2, TASK_FAILED)),
        (Ended("j1.t1", 1, TASK_FAILED, "x"), Ended("j1.t1", 1, TASK_CANCELLED)),
        (Acceptance("j1.t1", "x", CLAIMS[0], "9"), Acceptance("j1.t1", "x", CLAIMS[0]._replace(established=True), "1")),
        (Acceptance("j1.t1", "x", CLAIMS[0], "1"), Acceptance("j1.t1", "x", CLAIMS[0], "2")),
        (Acceptance("j1.t1", "x", HIGHER_ID, "2"), Acceptance("j1.t1", "x", HIGHER_ID._replace(leader="50-A"), "1")),
        (Mesh("m", False), Mesh("m", True)),
        (Claimed(Claim(False, 9, "50-A", "l")), Claimed(Claim(True, 1, "50-B", "l"))),
        (Claimed(Claim(True, 1, "50-AB", "l")), Claimed(Claim(True, 1, "50-A", "l"))),
        (Lived("50-A", 1, "z"), Lived("50-A", 2, "a")),
    ],
)  # fmt: skip
def test_what_wins_in_either_order(loses: Record, wins: Record) -> None:
    for order in ([loses, wins], [wins, loses]):
        assert wins in list(joined(order).records())
        assert loses not in list(joined(order).records())


def test_run_and_cancelled_are_two_maxima() -> None:
    one, other = Run("j1.t1", 3, 1), Run("j1.t1", 2, 2)
    assert Run("j1.t1", 3, 2) in list(joined([one, other]).records())
    assert Run("j1.t1", 3, 2) in list(joined([other, one]).records())


def test_what_was_deleted_stays_so_in_either_order() -> None:
    """A journal of a node that slept through it, a late result, a repeated submission: nothing brings it back."""
    gone: list[Record] = [
        Job("j1", "d"),
        TASK,
        SUCCESS,
        ACCEPTED,
        Run("j1.t1", 2, 1),
        FAILURE,
        Register("job/j1", "priority", 1, "50-A", "9"),
        Register("task/j1.t1", "priority", 1, "50-A", "9"),
        RUNS._replace(task="j1.t2", id="other"),  # of a task that is known by it alone
    ]
    others = [Job("j10", "d"), TASK._replace(id="j10.t1", job="j10"), Register("job/j10", "paused", 1, "50-A", "1")]
    for at in range(len(gone) + 1):
        ledger = joined([*gone[:at], *others, Deleted("j1"), *gone[at:]])
        ledger.check(whole=True)
        assert list(ledger.records()) == list(joined([*others, Deleted("j1")]).records())
        assert not [record for record in gone if ledger.join(record)]
        while ledger.dying:
            ledger.purge(1)
        ledger.check(whole=True)
        assert (list(ledger.jobs), list(ledger.tasks)) == (["j10"], ["j10.t1"])
        assert not any(ledger.open.values())


def test_a_deleted_job_is_gone_at_once_and_freed_in_slices() -> None:
    tasks = [Task(f"j1.{n}", "j1", n, "d", Shape(), b"") for n in range(5)]
    ledger = joined([Job("j1", "d"), *tasks, RUNS._replace(task="j1.3"), Deleted("j1")])
    assert "j1" not in ledger.jobs
    assert ledger.known("j1.3") is None
    assert Deleted("j1") in list(ledger.records())
    assert len(ledger.tasks) == 5
    freed = []
    while ledger.dying:
        freed.append(ledger.purge(2))
        ledger.check(whole=True)
    assert [len(part) for part in freed] == [2, 2, 1]
    assert {name for part in freed for name, _ in part} == {task.id for task in tasks}
    assert not ledger.tasks


# -- what is derived ---------------------------------------------------------------------------------------------------

TASK = Task("j1.t1", "j1", 0, "d", Shape(), b"")
RUNS = OPEN._replace(phase=RUNNING)
SUCCESS = OPEN._replace(ended=True, phase=SUCCEEDED, outcome=Outcome(digest="d"))
ACCEPTED = Acceptance("j1.t1", OPEN.id, CLAIMS[0], "d")
CANCEL, FAILURE = Run("j1.t1", 1, 1), Ended("j1.t1", 1, TASK_FAILED)


@pytest.mark.parametrize(
    ("records", "state"),
    [
        ([], PENDING),
        ([OPEN], PENDING),
        ([RUNS], ACTIVE),
        ([RUNS, RUNS._replace(phase=LOST)], PENDING),
        ([SUCCESS], PENDING),  # not before a leader accepts it
        ([OPEN._replace(ended=True, phase=FAILED)], PENDING),  # a failure is one when Ended says so
        ([RUNS, FAILURE], BROKEN),
        ([RUNS, CANCEL], CANCELLED),
        ([FAILURE, CANCEL], CANCELLED),
        ([Ended("j1.t1", 1, TASK_CANCELLED)], CANCELLED),
        ([ACCEPTED, CANCEL, FAILURE], DONE),
        ([ACCEPTED], DONE),  # its attempt may come later
        ([FAILURE, CANCEL, Run("j1.t1", 2, 1)], PENDING),  # retried by hand
        ([FAILURE, CANCEL, Run("j1.t1", 2, 1), RUNS._replace(id="x", run=2)], ACTIVE),
        ([ACCEPTED, Run("j1.t1", 2, 0)], DONE),
        ([Ended("j1.t1", 2, TASK_FAILED), Run("j1.t1", 2, 1)], BROKEN),
    ],
)
def test_state_is_accepted_then_cancelled_then_failed_then_open(records: list[Record], state: str) -> None:
    for order in ([TASK, *records], [*reversed(records), TASK]):
        ledger = joined(order)
        ledger.check(whole=True)
        assert ledger.tasks["j1.t1"].state == state
        assert ledger.jobs["j1"].counts == {**dict.fromkeys(ledger.jobs["j1"].counts, 0), state: 1}


def test_failures_and_losses_count_per_run_and_releases_never() -> None:
    ledger = joined(
        [
            OPEN._replace(id="1", ended=True, phase=FAILED),
            OPEN._replace(id="2", ended=True, phase=FAILED, run=2),
            OPEN._replace(id="3", ended=True, phase=RELEASED, run=2),
            OPEN._replace(id="4", phase=LOST, run=2),
            OPEN._replace(id="5", phase=LOST, run=1),
            Run("j1.t1", 2, 0),
        ]
    )
    state = ledger.tasks["j1.t1"]
    assert (state.failures(), state.losses()) == (1, 1)
    assert state.open_attempts() == []


def test_the_current_acceptance_is_of_the_highest_claim_then_of_the_lowest_attempt() -> None:
    low, high = Claim(True, 1, "50-A", "l"), Claim(True, 2, "50-B", "l")
    superseded = Acceptance("j1.t1", "0", low, "d0")
    ledger = joined([superseded, Acceptance("j1.t1", "2", high, "d2"), Acceptance("j1.t1", "1", high, "d1")])
    assert ledger.tasks["j1.t1"].accepted() == Acceptance("j1.t1", "1", high, "d1")
    assert superseded in list(ledger.records()), "what was superseded is kept"


def test_a_register_is_overwritten_by_the_next_version() -> None:
    ledger = joined([Register("job/j1", "priority", 7, "50-B", "9")])
    mine = ledger.next_register("job/j1", "priority", "50-A", "3")
    assert ledger.join(mine)
    assert ledger.value("job/j1", "priority") == "3"
    assert ledger.value("job/j1", "paused") is None


def test_a_mesh_answers_to_all_ids_and_its_own_is_the_lowest_mature_one() -> None:
    ledger = joined([Mesh("m1", False), Mesh("m3", True), Mesh("m2", False)])
    assert ledger.mesh_ids() == ("m3", "m1", "m2")
    assert ledger.mature()
    assert joined([Mesh("m2", False), Mesh("m1", False)]).mesh_ids() == ("m1", "m2")


# -- what a record may hold --------------------------------------------------------------------------------------------

LEAVES = {bool, int, str, bytes}


def leaves(kind: typing.Any, path: str) -> Iterable[tuple[str, object]]:
    """Every type that stands in a record, by the way to it."""
    if typing.get_args(kind):
        for part in typing.get_args(kind):
            if part is not Ellipsis:
                yield from leaves(part, path)
        yield path, typing.get_origin(kind)
    elif isinstance(kind, type) and issubclass(kind, tuple):
        for name, part in typing.get_type_hints(kind).items():
            yield from leaves(part, f"{path}.{name}")
    else:
        yield path, kind


@pytest.mark.parametrize("record", typing.get_args(Record))
def test_a_record_holds_tuples_of_exact_and_ordered_values_alone(record: type) -> None:
    """No float, so that equal means byte-identical everywhere; no None, dict or set, so that max is total."""
    found = dict(leaves(record, record.__name__))
    assert found
    assert {path: kind for path, kind in found.items() if kind not in LEAVES | {tuple}} == {}


# -- the order of claims -----------------------------------------------------------------------------------------------

ids = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=4)
claims = st.builds(Claim, st.booleans(), small, st.one_of(nodes, ids), st.sampled_from(LIVES))


@given(claims, claims)
def test_different_claims_are_never_equal_in_order(one: Claim, other: Claim) -> None:
    assert (one.key == other.key) == (one == other)


@given(claims, claims)
def test_claims_are_compared_by_establishment_term_lower_id_and_life(one: Claim, other: Claim) -> None:
    if one.established != other.established:
        higher = one.established
    elif one.term != other.term:
        higher = one.term > other.term
    elif one.leader != other.leader:
        higher = one.leader < other.leader
    else:
        higher = one.life > other.life
    assert (one.key > other.key) == higher


@given(ids, st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=3))
def test_an_id_leads_before_its_extensions(prefix: str, rest: str) -> None:
    assert Claim(True, 1, prefix, "l").key > Claim(True, 1, prefix + rest, "l").key


def test_every_claim_that_a_node_makes_beats_no_claim() -> None:
    assert all(claim.key > NO_CLAIM.key for claim in CLAIMS)
