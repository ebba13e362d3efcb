"""Expansion: counts, ids, digests, and that trial i is always the same trial i."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.errors import InvalidSpec
from mesh.core.lattice import Resources
from mesh.spec.command import DEFAULT
from mesh.spec.expand import count, describe_parameters, expand, trial
from mesh.spec.options import Options
from mesh.spec.parameters import CATEGORICAL, CONSTANT, INT_UNIFORM, LOG_UNIFORM_VALUES, UNIFORM, Parameter, identity
from mesh.spec.sweep import GRID, RANDOM, Sweep, parse
from tests.spec.helpers import PATH, Payloads, read, run

GRID_OF = "program: x\nmethod: grid\nparameters: {{a: {{values: {0}}}}}\n"

texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=4
)
names = st.lists(st.from_regex(r"[a-z][a-z0-9_.]{0,6}", fullmatch=True), min_size=1, max_size=4, unique=True)
finite = st.floats(min_value=-1e12, max_value=1e12, allow_nan=False)


@st.composite
def discrete(draw: Any, name: str) -> Parameter:
    match draw(st.sampled_from((CONSTANT, CATEGORICAL, INT_UNIFORM))):
        case "constant":
            return Parameter((name,), CONSTANT, (draw(values),))
        case "categorical":
            return Parameter(
                (name,), CATEGORICAL, tuple(draw(st.lists(values, min_size=1, max_size=4, unique_by=identity)))
            )
        case _:
            low = draw(st.integers(-(2**40), 2**40))
            return Parameter((name,), INT_UNIFORM, (), low, low + draw(st.integers(1, 4)))


@st.composite
def bounded(draw: Any, name: str) -> Parameter:
    if draw(st.booleans()):
        low, high = sorted(draw(st.lists(finite, min_size=2, max_size=2, unique=True)))
        return Parameter((name,), UNIFORM, (), low, high)
    low = draw(st.floats(1e-12, 1e6))
    return Parameter((name,), LOG_UNIFORM_VALUES, (), low, low * draw(st.floats(1.5, 1e6)))


@st.composite
def sweeps(draw: Any, method: str | None = None) -> Sweep:
    method = method or draw(st.sampled_from((GRID, RANDOM)))
    kinds = discrete if method == GRID else lambda name: discrete(name) | bounded(name)
    parameters = tuple(draw(kinds(name)) for name in draw(names))
    cap = draw(st.integers(1, 30)) if method == RANDOM else draw(st.none() | st.integers(1, 30))
    return Sweep(
        method,
        parameters,
        DEFAULT,
        "/data",
        "train.py",
        run_cap=cap,
        options=Options(seed=draw(st.none() | st.integers(0, 9))),
    )


@given(sweeps())
@settings(max_examples=150, deadline=None)
def test_as_many_tasks_as_counted_with_unique_ids_in_order(sweep: Sweep) -> None:
    job, tasks, works = run(sweep, job_id="01J")
    assert len(tasks) == len(works) == count(sweep)
    assert [task.id for task in tasks] == [f"01J.{n}" for n in range(len(tasks))]
    assert [task.index for task in tasks] == list(range(len(tasks)))
    assert {task.job for task in tasks} <= {job.id}
    assert len({id(task.shape) for task in tasks}) <= 1  # one object per job: a million tasks share it
    json.dumps(describe_parameters(sweep), allow_nan=False)


@given(sweeps(GRID))
@settings(max_examples=150, deadline=None)
def test_a_grid_is_the_product_in_the_order_of_the_file_each_point_once(sweep: Sweep) -> None:
    axes = [[p.at(n) for n in range(p.size)] for p in sweep.parameters]
    expected = list(itertools.islice(itertools.product(*axes), count(sweep)))
    found = [json.loads(work.params) for work in run(sweep)[2]]
    assert [tuple(map(identity, point.values())) for point in found] == [
        tuple(map(identity, point)) for point in expected
    ]
    assert all(list(point) == [p.path[0] for p in sweep.parameters] for point in found)
    assert len({task.digest for task in run(sweep)[1]}) == len(expected)


@given(sweeps(RANDOM), st.integers(0, 10**6))
@settings(max_examples=150, deadline=None)
def test_draws_stay_within_bounds(sweep: Sweep, index: int) -> None:
    point = trial(sweep, index, "seed")
    for parameter in sweep.parameters:
        value = point[parameter.path[0]]
        if parameter.values:
            assert any(value is choice for choice in parameter.values)
        else:
            assert parameter.low <= value <= parameter.high
            assert isinstance(value, int if parameter.distribution == INT_UNIFORM else float)


@given(bounded("x") | discrete("x"), st.sampled_from([0.0, math.nextafter(1, 0), 0.5]))
def test_the_ends_of_every_distribution_are_within_it(parameter: Parameter, share: float) -> None:
    value = parameter.draw(share)
    assert any(value is v for v in parameter.values) if parameter.values else parameter.low <= value <= parameter.high


@given(sweeps())
@settings(max_examples=60, deadline=None)
def test_the_same_arguments_give_the_same_records(sweep: Sweep) -> None:
    assert run(sweep) == run(sweep)


def random_sweep(
    text: str = "{lr: {min: 0.0, max: 1.0}, n: {min: 1, max: 100}}", cap: int = 6, rest: str = ""
) -> Sweep:
    return read(f"program: x\nmethod: random\nrun_cap: {cap}\nparameters: {text}\n{rest}")


def params_of(sweep: Sweep, **changes: Any) -> list[Any]:
    return [json.loads(work.params) for work in run(sweep, **changes)[2]]


def test_trial_i_depends_on_the_seed_and_i_alone() -> None:
    few, many = params_of(random_sweep(cap=3)), params_of(random_sweep(cap=9))
    assert few == many[:3]
    assert len({json.dumps(point) for point in many}) == 9
    wider = params_of(
        random_sweep("{lr: {min: 0.0, max: 1.0}, c: {value: 1}, n: {min: 1, max: 100}, z: {values: [1, 2]}}")
    )
    assert [(p["lr"], p["n"]) for p in wider] == [(p["lr"], p["n"]) for p in params_of(random_sweep())]


def test_the_seed_is_the_argument_s_then_the_file_s_then_the_job_s_id() -> None:
    plain, seeded = random_sweep(), random_sweep(rest="mesh: {search: {seed: 3}}")
    assert params_of(plain, job_id="A") == params_of(plain, job_id="A")
    assert params_of(plain, job_id="A") != params_of(plain, job_id="B")
    assert params_of(seeded, job_id="A") == params_of(seeded, job_id="B") == params_of(plain, job_id="C", seed=3)
    assert params_of(seeded, seed=4) != params_of(seeded)
    assert params_of(seeded, seed=0) != params_of(seeded)
    assert params_of(random_sweep(rest="mesh: {search: {seed: 0}}"), job_id="A") != params_of(plain, job_id="A")


def test_what_was_drawn_once_is_drawn_for_ever() -> None:
    """A sweep that is continued after an upgrade must not change under its results."""
    sweep = random_sweep(
        "{a: {min: 0.0, max: 1.0}, b: {min: 1, max: 1000}, d: {values: [x, y, z]},"
        " c: {distribution: log_uniform_values, min: 0.001, max: 1}}",
        cap=2,
    )
    assert params_of(sweep, seed=7) == [  # c by the machine's own exp and log
        {"a": 0.7059339087777089, "b": 617, "d": "x", "c": pytest.approx(0.5596836491152662, rel=1e-12)},
        {"a": 0.05507912152868766, "b": 160, "d": "x", "c": pytest.approx(0.02671039485065109, rel=1e-12)},
    ]


def test_log_uniform_values_is_uniform_in_the_logarithm() -> None:
    sweep = random_sweep("{x: {distribution: log_uniform_values, min: 1e-4, max: 1}}", cap=2000)
    decades = [math.floor(math.log10(point["x"])) for point in params_of(sweep, seed=1)]
    assert all(400 < decades.count(decade) < 600 for decade in (-4, -3, -2, -1))


def test_int_uniform_reaches_both_ends_evenly() -> None:
    found = [point["x"] for point in params_of(random_sweep("{x: {min: 1, max: 4}}", cap=2000), seed=1)]
    assert all(400 < found.count(n) < 600 for n in (1, 2, 3, 4))
    assert set(found) == {1, 2, 3, 4}


def test_tasks_are_made_as_they_are_asked_for() -> None:
    payloads = Payloads()
    sweep = parse("program: x\nmethod: grid\nparameters: {a: {min: 1, max: 1000000}}\n", PATH)
    _, tasks = expand(sweep, job_id="J", submitted_ms=0, encode=payloads.encode, envvars={})
    assert [task.index for task in itertools.islice(tasks, 3)] == [0, 1, 2]
    assert len(payloads.works) == 3


def test_the_job() -> None:
    text = "program: x\nmethod: grid\nname: mine\nmetric: {name: m, goal: maximize}\nparameters: {a: {values: [1]}}\n"
    job, _, _ = run(read(text), job_id="01J", submitted_ms=123)
    assert job == ("01J", job.digest, "mine", "sweep", 5, 0, "m", True, 123, text.encode(), 1)
    named, _, _ = run(read(text), priority=8, name="yours")
    assert (named.priority, named.name) == (8, "yours")


@pytest.mark.parametrize("priority", [0, 11])
def test_a_priority_out_of_range_is_refused(priority: int) -> None:
    with pytest.raises(InvalidSpec, match=f"priority must be from 1 to 10, not {priority}"):
        run(random_sweep(), priority=priority)


def test_digests_tell_what_differs_and_not_when_it_was_sent() -> None:
    base = random_sweep(rest="mesh: {search: {seed: 1}}")
    job, tasks, _ = run(base)
    assert run(base, submitted_ms=99)[0].digest == job.digest
    changes: list[tuple[Sweep, dict[str, Any]]] = [
        (base, {"priority": 6}),
        (base, {"name": "other"}),
        (base, {"seed": 2}),
        (base, {"job_id": "OTHER"}),
        (random_sweep(rest="mesh: {search: {seed: 1}, retries: {max: 1}}"), {}),
        (random_sweep(cap=7, rest="mesh: {search: {seed: 1}}"), {}),
    ]
    assert len({run(sweep, **change)[0].digest for sweep, change in changes} | {job.digest}) == len(changes) + 1
    with_retries = run(changes[4][0])[1]
    assert with_retries[0].digest != tasks[0].digest
    assert run(base, job_id="OTHER")[1][0].digest == tasks[0].digest  # the same work, whoever asks for it


def test_equal_work_has_one_digest_wherever_it_stands() -> None:
    both, second = read(GRID_OF.format("[1, 2]")), read(GRID_OF.format("[2]"))
    assert run(both)[1][1].digest == run(second)[1][0].digest


def test_an_environment_variable_that_differs_is_other_work() -> None:
    sweep = read("method: grid\ncommand: [run, '${envvar:DATA}']\nparameters: {a: {value: 1}}\n")
    one, two = run(sweep, envvars={"DATA": "1"}), run(sweep, envvars={"DATA": "2"})
    assert one[0].digest != two[0].digest
    assert one[1][0].digest != two[1][0].digest


def test_described_parameters_follow_the_schema() -> None:
    assert describe_parameters(random_sweep("{a: {min: 1, max: 5}, b: {values: [x]}, c: {value: 2}}")) == {
        "a": {"distribution": "int_uniform", "min": 1, "max": 5},
        "b": {"distribution": "categorical", "values": ["x"]},
        "c": {"distribution": "constant", "value": 2},
    }


def test_without_resources_a_task_needs_one_core() -> None:
    assert run(random_sweep())[1][0].shape.alternatives == (Resources(millicpus=1000),)


def test_a_task_needs_the_files_that_came_with_it() -> None:
    sweep = random_sweep()
    assert [task.needs for task in run(sweep, files="0f" * 32, folder=".")[1]] == [("0f" * 32,)] * count(sweep)
    assert {task.needs for task in run(sweep)[1]} == {()}
