"""What files of Weights & Biases mean, trap by trap."""

from __future__ import annotations

import json

import pytest

from mesh.core.errors import InvalidSpec
from mesh.core.lattice import Resources, Retries
from mesh.spec.expand import count, describe_parameters
from mesh.spec.options import Options
from tests.spec.helpers import argv, has, problems, read, run, warnings

HEAD = "program: train.py\nmethod: grid\n"


def one(parameter: str, command: str = "", **changes: object) -> tuple[str, ...]:
    return argv(f"{HEAD}{command}\nparameters: {{x: {parameter}}}\n", **changes)[0]


def values_of(written: str) -> list[object]:
    sweep = read(f"{HEAD}parameters:\n  x: {{values: {written}}}\n")
    return list(sweep.parameters[0].values)


# YAML 1.1


@pytest.mark.parametrize(
    ("written", "number"),
    [("1e-5", 1e-5), ("1E5", 1e5), ("1e+3", 1000.0), ("1.5e3", 1500.0), ("-.5", -0.5), ("+.5e1", 5.0), ("3.e2", 300.0)],
)
def test_numbers_that_yaml_1_1_reads_as_text_are_numbers_with_a_warning(written: str, number: float) -> None:
    sweep = read(f"program: x\nmethod: grid\nparameters:\n  lr: {{values: [{written}]}}\n")
    assert sweep.parameters[0].values == (number,)
    assert warnings(sweep) == [f"4:17: {written} is text to YAML 1.1 and is taken as the number {number!r}"]


def test_such_numbers_may_be_bounds() -> None:
    sweep = read("program: x\nmethod: random\nrun_cap: 1\nparameters: {lr: {min: 1e-5, max: 1e-1}}\n")
    assert (sweep.parameters[0].distribution, sweep.parameters[0].low) == ("uniform", 1e-5)


@pytest.mark.parametrize("written", ["'1e-5'", '"1e-5"', "08", "1e", "e5", ".", "v1.5e3", "0x1g"])
def test_what_is_quoted_or_only_looks_like_a_number_stays_text(written: str) -> None:
    sweep = read(f"{HEAD}parameters:\n  x: {{values: [{written}]}}\n")
    assert sweep.parameters[0].values == (written.strip("'\""),)
    assert warnings(sweep) == []


@pytest.mark.parametrize(
    ("written", "value"), [("no", False), ("on", True), ("Off", False), ("010", 8), ("1:30", 90), ("1:30.5", 90.5)]
)
def test_words_and_numbers_that_yaml_1_1_changes_are_warned_of(written: str, value: object) -> None:
    sweep = read(f"{HEAD}parameters:\n  x: {{values: [{written}]}}\n")
    assert sweep.parameters[0].values == (value,)
    assert has(warnings(sweep), "4:16:", f"{written} is read as")


def test_dates_stay_as_written_because_json_has_none() -> None:
    assert values_of("[2024-01-31, 2024-01-31 10:00:00]") == ["2024-01-31", "2024-01-31 10:00:00"]


def test_the_bare_equals_sign_and_merge_sign_are_text() -> None:
    assert values_of("[=, <<]") == ["=", "<<"]


def test_anchors_and_merges_work_and_own_keys_win() -> None:
    sweep = read(
        """\
        program: x
        method: grid
        parameters:
          a: &base {distribution: categorical, values: [1, 2]}
          b: *base
          c: {<<: *base, values: [3]}
        """
    )
    assert [parameter.values for parameter in sweep.parameters] == [(1, 2), (1, 2), (3,)]


def test_names_are_text_however_they_look() -> None:
    assert read(HEAD + "name: 2024\nparameters: {x: {value: 1}}\n").name == "2024"
    assert read(HEAD + "name: on\nparameters: {x: {value: 1}}\n").name == "on"
    assert read(HEAD + "parameters: {x: {value: 1}}\n").name == "sweep"  # the file's


def test_a_byte_order_mark_does_not_shift_the_first_column() -> None:
    assert problems("\ufeffmethod: bayes\nprogram: x\nparameters: {x: {value: 1}}\n") == [
        "1:9: not built yet: method bayes; grid and random are"
    ]


# Parameters


@pytest.mark.parametrize(
    ("bounds", "distribution"),
    [
        ("min: 1, max: 5", "int_uniform"),
        ("min: 0.0, max: 1.0", "uniform"),
        ("min: 0, max: 1.0", "uniform"),
        ("min: 0.0, max: 1", "uniform"),
        ("min: 1, max: 5, distribution: uniform", "uniform"),
        ("min: 1, max: 5, distribution: log_uniform_values", "log_uniform_values"),
        ("value: [1, 2]", "constant"),
        ("values: [1]", "categorical"),
        ("value: 1, distribution: constant", "constant"),
        ("values: [1], distribution: categorical", "categorical"),
    ],
)
def test_the_distribution_is_inferred_as_theirs(bounds: str, distribution: str) -> None:
    sweep = read(f"program: x\nmethod: random\nrun_cap: 1\nparameters: {{p: {{{bounds}}}}}\n")
    assert sweep.parameters[0].distribution == distribution


@pytest.mark.parametrize("bounds", ["min: 0.0, max: 1.0", "min: 1, max: 5, distribution: log_uniform_values"])
def test_a_grid_over_a_continuous_distribution_is_an_error_as_theirs(bounds: str) -> None:
    (found,) = problems(f"{HEAD}parameters:\n  x: {{{bounds}}}\n")
    assert found.startswith("4:6: parameters.x: a grid cannot walk the continuous")


def test_a_grid_walks_whole_numbers_with_both_ends() -> None:
    assert [a[-1] for a in argv(HEAD + "parameters: {x: {min: 3, max: 5}}\n")] == ["--x=3", "--x=4", "--x=5"]


def test_a_grid_follows_the_file_with_the_last_parameter_fastest() -> None:
    assert [a[-2:] for a in argv(HEAD + "parameters: {z: {values: [1, 2]}, a: {values: [x, y]}}\n")] == [
        ("--z=1", "--a=x"),
        ("--z=1", "--a=y"),
        ("--z=2", "--a=x"),
        ("--z=2", "--a=y"),
    ]


def test_a_grid_runs_a_repeated_value_once_and_says_so() -> None:
    sweep = read(HEAD + "parameters:\n  x: {values: [1, 1.0, true, '1', 2, 1]}\n")
    assert sweep.parameters[0].values == (1, True, "1", 2)
    assert warnings(sweep) == [
        "4:19: parameters.x.values: 1.0 stands there already; a grid runs it once",
        "4:38: parameters.x.values: 1 stands there already; a grid runs it once",
    ]


def test_random_keeps_repeated_values_as_weights() -> None:
    text = "program: x\nmethod: random\nrun_cap: 200\nparameters: {x: {values: [a, a, a, b]}}\n"
    sweep = read(text)
    assert sweep.parameters[0].values == ("a", "a", "a", "b")
    assert sum(a[-1] == "--x=a" for a in argv(text)) > 120


def test_run_cap_ends_a_grid_and_a_grid_may_be_smaller() -> None:
    text = HEAD + "parameters: {x: {values: [1, 2, 3]}}\nrun_cap: "
    assert [count(read(text + cap)) for cap in ("2", "3", "50")] == [2, 3, 3]


def test_a_capped_grid_over_billions_is_walked_without_building_it() -> None:
    text = HEAD + "parameters: {x: {min: 0, max: 1000000000000}, y: {values: [a, b]}}\nrun_cap: 3\n"
    assert [a[-2:] for a in argv(text)] == [("--x=0", "--y=a"), ("--x=0", "--y=b"), ("--x=1", "--y=a")]


def test_nested_parameters_are_one_argument_and_one_object() -> None:
    text = """\
    program: train.py
    method: grid
    parameters:
      batch: {values: [32]}
      optimizer:
        parameters:
          lr: {values: [0.1, 0.01]}
          nadam: {parameters: {beta: {value: 0.9}}}
    """
    _, tasks, works = run(read(text))
    assert len(tasks) == 2
    assert json.loads(works[1].params) == {"batch": 32, "optimizer": {"lr": 0.01, "nadam": {"beta": 0.9}}}
    assert works[1].argv[-1] == "--optimizer={'lr': 0.01, 'nadam': {'beta': 0.9}}"
    described = describe_parameters(read(text))["optimizer"]["parameters"]["nadam"]["parameters"]["beta"]
    assert described == {"distribution": "constant", "value": 0.9}


def test_a_dotted_name_is_one_name() -> None:
    assert one("{value: 1}") == ("/usr/bin/env", "${interpreter}", "train.py", "--x=1")
    assert argv(HEAD + "parameters: {opt.lr: {value: 1}}\n")[0][-1] == "--opt.lr=1"


# Command


def test_the_default_command() -> None:
    assert one("{value: 1}") == ("/usr/bin/env", "${interpreter}", "train.py", "--x=1")


@pytest.mark.parametrize(
    ("value", "argument"),
    [
        ("0.1", "--x=0.1"),
        ("1e-5", "--x=1e-05"),
        ("true", "--x=True"),
        ("false", "--x=False"),
        ("null", "--x=None"),
        ("[1, a]", "--x=[1, 'a']"),
        ("{a: 1}", "--x={'a': 1}"),
        ("''", "--x="),
        ("'a b'", "--x=a b"),
        ("'\"; rm -rf / #'", '--x="; rm -rf / #'),
        ("$HOME", "--x=$HOME"),
        ("'${args}'", "--x=${args}"),
        ('"a\\nb"', "--x=a\nb"),
        ("-1", "--x=-1"),
    ],
)
def test_values_reach_the_program_as_theirs_do_and_never_touch_a_shell(value: str, argument: str) -> None:
    assert one(f"{{value: {value}}}")[-1] == argument


def test_nothing_as_a_value_is_warned_of() -> None:
    assert has(
        warnings(read(HEAD + "parameters: {x: {value: null}}\n")), "reaches a program's arguments as the text None"
    )


COMMAND = "command: [python, '${program}', '%s']"


@pytest.mark.parametrize(
    ("macro", "arguments"),
    [
        ("${args}", ("--a=True", "--b=False", "--c=x y")),
        ("${args_no_hyphens}", ("a=True", "b=False", "c=x y")),
        ("${args_no_boolean_flags}", ("--a", "--c=x y")),
        ("${args_json}", ('{"a": true, "b": false, "c": "x y"}',)),
        ("${args_json_file}", ("${args_json_file}",)),
        ("${interpreter}", ("${interpreter}",)),
        ("${env}", ("/usr/bin/env",)),
        ("${program}", ("train.py",)),
        ("plain", ("plain",)),
        ("${envvar:HOME}", ("/home/ann",)),
        ("--in=${envvar:HOME}/x/${envvar:WHO}", ("--in=/home/ann/x/${args}",)),
    ],
)
def test_every_macro(macro: str, arguments: tuple[str, ...]) -> None:
    text = f"{HEAD}{COMMAND % macro}\nparameters: {{a: {{value: true}}, b: {{value: false}}, c: {{value: x y}}}}\n"
    found = argv(text, envvars={"HOME": "/home/ann", "WHO": "${args}"})
    assert found == [("python", "train.py", *arguments)]


def test_inserted_text_is_not_searched_for_macros() -> None:
    found = one("{value: 1}", "command: ['${envvar:WHO}', '${args}']", envvars={"WHO": "${args_json}"})
    assert found == ("${args_json}", "--x=1")


def test_a_boolean_flag_is_for_booleans_and_not_for_zero_and_one() -> None:
    found = one("{values: [0]}", COMMAND % "${args_no_boolean_flags}")
    assert found[-1] == "--x=0"


def test_macros_work_unquoted_in_block_lists_and_numbers_in_commands_keep_their_look() -> None:
    text = (
        HEAD
        + "command:\n- ${env}\n- python3\n- ${program}\n- -n\n- 3\n- 1e-5\n- 1.50\n- ${args}\n"
        + "parameters: {x: {value: 1}}\n"
    )
    assert argv(text) == [("/usr/bin/env", "python3", "train.py", "-n", "3", "1e-5", "1.50", "--x=1")]


def test_an_unknown_macro_is_an_error_where_theirs_drops_it() -> None:
    text = HEAD + "command: [a, '${agrs}', '${HOME}']\nparameters: {x: {value: 1}}\n"
    assert problems(text) == [
        "3:14: unknown macro '${agrs}'; did you mean '${args}'?",
        "3:25: unknown macro '${HOME}'; for an environment variable write ${envvar:HOME}",
    ]


def test_a_macro_inside_a_longer_item_stays_and_is_warned_of() -> None:
    sweep = read(HEAD + "command: [sh, -c, 'python x.py ${args}']\nparameters: {x: {value: 1}}\n")
    assert run(sweep)[2][0].argv == ("sh", "-c", "python x.py ${args}")
    assert has(warnings(sweep), "3:19:", "${args} stays as it is")


def test_a_missing_environment_variable_is_an_error_where_theirs_inserts_its_name() -> None:
    sweep = read(HEAD + "command: [a, '${envvar:DATA}/${envvar:HOME}']\nparameters: {x: {value: 1}}\n")
    with pytest.raises(InvalidSpec) as caught:
        run(sweep, envvars={"HOME": "/"})
    assert [str(p) for p in caught.value.problems] == ["3:14: the environment has no DATA, which the command uses"]


@pytest.mark.parametrize(
    ("command", "place", "part"),
    [
        ("command: python train.py", "3:10", "must be a list"),
        ("command: []", "3:10", "is empty"),
        ("command: [a, [b]]", "3:14", "must be a single value"),
        ("command: [a, ]\nprogram: x", "4:1", "stands twice"),
        ("command: {a: 1}", "3:10", "must be a list"),
        ("command: [a, ~]", "3:14", "write '' for an empty argument"),
    ],
)
def test_commands_that_are_none(command: str, place: str, part: str) -> None:
    (found,) = problems(f"{HEAD}{command}\nparameters: {{x: {{value: 1}}}}\n")
    assert found.startswith(f"{place}: ")
    assert part in found


def test_a_program_is_needed_only_where_it_is_used() -> None:
    rest = "method: grid\nparameters: {x: {value: 1}}\n"
    assert has(problems(rest), "1:1:", "program is missing")
    assert has(problems(rest + "command: ['${program}']"), "3:11:", "program is missing")
    assert argv(rest + "command: [true]") == [("True",)]  # as theirs: YAML's booleans become Python's text
    assert argv(rest + "command: ['true']") == [("true",)]


def test_the_working_directory_is_the_file_s_and_the_program_relative_to_it() -> None:
    _, tasks, works = run(read("program: src/train.py\nmethod: grid\nparameters: {x: {value: 1}}\n"))
    assert (tasks[0].shape.cwd, works[0].cwd, works[0].argv[2]) == ("/data/team", "/data/team", "src/train.py")
    assert tasks[0].shape.kind == "train.py"


# The rest of the file


def test_a_metric_s_name_may_hold_anything_and_the_goal_is_minimize_unless_said() -> None:
    sweep = read(HEAD + "metric: {name: val / top-1 accuracy}\nparameters: {x: {value: 1}}\n")
    job, _, works = run(sweep)
    assert (job.metric, works[0].metric, job.maximize) == ("val / top-1 accuracy", "val / top-1 accuracy", False)
    assert read(HEAD + "metric: {name: a, goal: maximize}\nparameters: {x: {value: 1}}\n").maximize


def test_a_wrong_goal_is_an_error_where_theirs_silently_minimizes() -> None:
    assert has(
        problems(HEAD + "metric: {name: a, goal: Maximize}\nparameters: {x: {value: 1}}\n"),
        "3:25:",
        "did you mean 'maximize'?",
    )


def test_keys_that_name_a_server_s_places_are_left_out_with_a_warning() -> None:
    sweep = read("project: p\nentity: e\n" + HEAD + "parameters: {x: {value: 1}}\n")
    assert warnings(sweep) == [
        "1:1: project means nothing here and is left out",
        "2:1: entity means nothing here and is left out",
    ]


def test_the_mesh_block_in_the_ledger_s_terms() -> None:
    sweep = read(
        HEAD
        + """\
parameters: {x: {value: 1}}
mesh:
  priority: 9
  resources:
    - {cpus: 0.5, memory: 4GiB, gpus: 2, gpu_memory: 12GB, device: cuda, labels: {zone: on, rack: 7}, profile: gpu_high}
    - {cpus: 16}
  retries: {max: 3, backoff: 250ms, factor: 1.5, max_delay: 1m, not_on: [ValueError, 3]}
  timeout: 6h
  on_lost: retry
  max_parallel: 8
  env: {vars: {THREADS: 1, FLAG: yes, EMPTY: ''}, python: 3.10}
  search: {seed: 42, sampler: grid, pruner: none}
"""
    )
    assert sweep.options == Options(
        priority=9,
        alternatives=(
            Resources(500, 4 * 2**30, 2000, 12 * 10**9, "cuda", (("rack", "7"), ("zone", "on")), "gpu_high"),
            Resources(16000),
        ),
        retries=Retries(3, 250, 1500, 60_000, ("ValueError", "3")),
        timeout_ms=21_600_000,
        max_parallel=8,
        env=(("EMPTY", ""), ("FLAG", "yes"), ("THREADS", "1")),
        python="3.10",
        seed=42,
    )
    job, tasks, works = run(sweep)
    assert (job.priority, job.max_parallel) == (9, 8)
    shape = tasks[0].shape
    assert (shape.alternatives, shape.retries, shape.timeout_ms) == (
        sweep.options.alternatives,
        sweep.options.retries,
        21_600_000,
    )
    assert works[0].env == sweep.options.env
    assert shape.python == "3.10"


@pytest.mark.parametrize(("written", "hold"), [("hold", True), ("retry", False)])
def test_what_must_not_run_twice_is_part_of_the_shape(written: str, hold: bool) -> None:
    sweep = read(f"{HEAD}parameters: {{x: {{value: 1}}}}\nmesh: {{on_lost: {written}}}\n")
    _, tasks, _ = run(sweep)
    assert sweep.options.hold is tasks[0].shape.hold is hold


@pytest.mark.parametrize("resources", ["{gpu_memory: 1GiB}", "{device: cuda}", "{device: mps}"])
def test_asking_for_what_only_a_gpu_has_asks_for_one(resources: str) -> None:
    sweep = read(f"{HEAD}parameters: {{x: {{value: 1}}}}\nmesh: {{resources: {resources}}}\n")
    assert sweep.options.alternatives[0].milligpus == 1000


@pytest.mark.parametrize("block", ["mesh:\n", "mesh: {}\n", "mesh: {env: }\n", "mesh: {search: , env: {vars: }}\n", ""])
def test_empty_blocks_are_the_defaults(block: str) -> None:
    assert read(HEAD + "parameters: {x: {value: 1}}\n" + block).options == Options()


# Overrides


def test_overrides_replace_before_the_checks() -> None:
    text = (
        "program: x\nmethod: random\nparameters:\n  a.b: {values: [1, 2]}\nmesh: {resources: [{cpus: 1}, {cpus: 2}]}\n"
    )
    sweep = read(
        text,
        "run_cap=5",
        "parameters.a.b.values=[7]",
        "mesh.priority=9",
        "mesh.resources.1.cpus=4",
        "metric.name=val loss",
        "parameters.c={value: 1e-3}",
        "name=a=b",
    )
    assert (sweep.run_cap, sweep.options.priority, sweep.metric, sweep.name) == (5, 9, "val loss", "a=b")
    assert [(p.path, p.values) for p in sweep.parameters] == [(("a.b",), (7,)), (("c",), (0.001,))]
    assert [r.millicpus for r in sweep.options.alternatives] == [1000, 4000]
    assert sweep.source.decode() == text


def test_problems_of_overrides_name_the_override_and_come_with_the_file_s() -> None:
    assert problems(
        "program: x\nmethod: bayes\nparameters: {a: {values: [1]}}\n",
        "mesh.priority=11",
        "nonsense",
        "a..b=1",
        "a" + ".a" * 2000 + "=1",
        "name=[",
        "parameters.a.values.3=1",
        "run_cap=",
    ) == [
        "--set a..b=1: write it as key=value or key.key=value",
        "--set a" + ".a" * 2000 + "=1: write it as key=value or key.key=value",
        "--set mesh.priority=11: mesh.priority must be a whole number from 1 to 10, not 11",
        "--set name=[: the value is not valid YAML; put it in quotes if it is text",
        "--set nonsense: write it as key=value or key.key=value",
        "--set parameters.a.values.3=1: '3' is no position in a list of 1, from 0",
        "--set run_cap=: run_cap must be a whole number of 1 or more, not ''",
        "2:9: not built yet: method bayes; grid and random are",
    ]


def test_an_override_finds_the_longest_key() -> None:
    text = "program: x\nmethod: grid\nparameters:\n  a: {parameters: {b: {value: 1}}}\n  a.b: {value: 2}\n"
    sweep = read(text, "parameters.a.b.value=3", "parameters.a.parameters.b.value=4")
    assert [(p.path, p.values) for p in sweep.parameters] == [(("a", "b"), (4,)), (("a.b",), (3,))]


def test_an_override_of_one_alias_leaves_the_others() -> None:
    sweep = read("program: x\nmethod: grid\nparameters:\n  a: &p {values: [1]}\n  b: *p\n", "parameters.a.values.0=9")
    assert [p.values for p in sweep.parameters] == [(9,), (1,)]
