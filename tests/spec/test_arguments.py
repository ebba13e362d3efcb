"""``meshctl submit --param k v1 v2 -- COMMAND``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.errors import InvalidSpec
from mesh.core.lattice import Resources
from mesh.spec.arguments import grid_from_params, scalar
from mesh.spec.expand import count
from mesh.spec.sweep import Sweep
from tests.spec.helpers import run


def grid(params: Sequence[tuple[str, Sequence[str]]], *command: str, base: str = "", **changes: Any) -> Sweep:
    return grid_from_params(params, base, command, directory="/data", **changes)


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("1", 1),
        ("-2.5", -2.5),
        ("1e-5", 1e-5),
        ("true", True),
        ("null", None),
        ('"5"', "5"),
        ("adam", "adam"),
        ("", ""),
        ("007", "007"),
        ("1_000", "1_000"),
        ("NaN", "NaN"),
        ("Infinity", "Infinity"),
        ("1e999", "1e999"),
        ("[1, 2]", "[1, 2]"),
        ('{"a": 1}', '{"a": 1}'),
        ("True", "True"),
        ("0x10", "0x10"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_values_are_json_scalars_where_they_are_and_text_otherwise(written: str, found: object) -> None:
    assert scalar(written) == found
    assert type(scalar(written)) is type(found)


def test_the_grid_of_the_parameters_in_their_order_after_the_constants() -> None:
    sweep = grid([("lr", ["0.1", "1"]), ("opt", ["a", "b"])], "python", "train.py", base='{"epochs": 3}')
    job, _, works = run(sweep)
    assert [work.argv for work in works] == [
        ("python", "train.py", "--epochs=3", f"--lr={lr}", f"--opt={opt}") for lr in ("0.1", "1") for opt in "ab"
    ]
    assert json.loads(works[0].params) == {"epochs": 3, "lr": 0.1, "opt": "a"}
    assert (job.kind, job.name) == ("sweep", "train.py")
    assert (works[0].cwd, run(sweep)[1][0].shape.cwd) == ("/data", "/data")


def test_a_parameter_replaces_a_constant_of_the_base() -> None:
    (work,) = run(grid([("a", ["2"])], "x", base='{"a": 1, "b": {"c": 1}}'))[2]
    assert json.loads(work.params) == {"b": {"c": 1}, "a": 2}
    assert work.argv == ("x", "--b={'c': 1}", "--a=2")


def test_a_command_that_passes_parameters_keeps_its_form_and_others_get_them_at_the_end() -> None:
    assert run(grid([("a", ["1"])], "x", "${args_no_hyphens}", "last"))[2][0].argv == ("x", "a=1", "last")
    assert run(grid([("a", ["1"])], "${interpreter}", "x.py"))[2][0].argv == ("${interpreter}", "x.py", "--a=1")
    assert run(grid([("a", ["1"])], "x", "--config", "${args_json}"))[2][0].argv == ("x", "--config", '{"a": 1}')


def test_no_parameters_are_one_task_with_the_command_as_it_is() -> None:
    job, tasks, works = run(grid([], "echo", "a b", "$HOME", ""))
    assert (len(tasks), works[0].argv, works[0].params) == (1, ("echo", "a b", "$HOME", ""), b"{}")
    assert job.kind == "tasks"


def test_a_repeated_value_is_one_point() -> None:
    assert count(grid([("a", ["1", "1.0", "1", "true", '"1"'])], "x")) == 3


def test_gpus() -> None:
    assert grid([], "x", gpus=2).options.alternatives == (Resources(milligpus=2000),)


def test_every_problem_at_once() -> None:
    with pytest.raises(InvalidSpec) as caught:
        grid([("a", ["1"]), ("a", []), ("b=c", ["1"])], "${agrs}", "${program}", base="[1]", gpus=-1)
    assert [str(p) for p in caught.value.problems] == [
        "--param a is given twice",
        "--param a has no values",
        "--base-config must be a JSON object",
        "'b=c' cannot be a parameter's name: it must not start with '-' nor hold '=' or white space",
        "unknown macro '${agrs}'; did you mean '${args}'?",
        "${program} needs a sweep file; write the program itself",
        "--gpus must be from 0 to 1000, not -1",
    ]


@pytest.mark.parametrize(
    ("base", "command", "part"),
    [
        ("{", ("x",), "--base-config is not JSON"),
        ('{"a": NaN}', ("x",), "that JSON does not have"),
        ('{"a": 1e999}', ("x",), "that JSON does not have"),
        ("", (), "there is no command"),
        ("", ("a\0b",), "NUL"),
        ("", ("${args_no_equals}",), "not built yet: ${args_no_equals}"),
    ],
)
def test_other_problems(base: str, command: tuple[str, ...], part: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        grid([], *command, base=base)
    (problem,) = caught.value.problems
    assert part in str(problem)


def test_an_absurd_grid_is_refused() -> None:
    with pytest.raises(InvalidSpec, match=r"1,030,301 points, over the 1,000,000"):
        grid([(name, [str(n) for n in range(101)]) for name in "abc"], "x")


def test_a_relative_directory_is_the_caller_s_mistake() -> None:
    with pytest.raises(ValueError, match="not absolute"):
        grid_from_params([], "", ["x"], directory="here")


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        (("python", "train.py"), "train.py"),
        (("/usr/bin/env", "A=1", "python3.12", "-u", "src/train.py"), "train.py"),
        (("${env}", "${interpreter}", "./a/b.py"), "b.py"),
        (("python", "-m", "pkg.train"), "pkg.train"),
        (("python", "-c", "print(1)"), "python"),
        (("bash", "-c", "true"), "bash"),
        (("${interpreter}",), "python"),
        (("./run", "--x"), "run"),
        (("/bin/true",), "true"),
    ],
)
def test_the_kind_of_work_is_the_program_and_not_its_interpreter(command: tuple[str, ...], kind: str) -> None:
    assert run(grid([("a", ["1"])], *command))[1][0].shape.kind == kind


arguments = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20)


@given(st.lists(arguments, min_size=1, max_size=5, unique=True))
@settings(max_examples=8, deadline=None)
def test_values_arrive_at_a_real_program_exactly(written: list[str]) -> None:
    program = "import sys, json; print(json.dumps(sys.argv[1:]))"
    quoted = [json.dumps(text) for text in written]  # so that 1 and true arrive as text too
    for work, text in zip(run(grid([("p", quoted)], sys.executable, "-c", program))[2], written, strict=True):
        printed = subprocess.run(work.argv, capture_output=True, check=True, text=True, encoding="utf-8").stdout
        assert json.loads(printed) == [f"--p={text}"]
        assert json.loads(work.params) == {"p": text}
