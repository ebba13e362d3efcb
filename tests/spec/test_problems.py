"""A broken file: every error in one go, each with its line and column."""

from __future__ import annotations

import pytest

from mesh.core.errors import InvalidSpec
from mesh.spec import reader as reading
from mesh.spec.sweep import parse
from tests.spec.helpers import PATH, has, problems, read

GOOD = """\
program: train.py
method: grid
parameters:
  lr: {values: [1, 2]}
"""


def test_every_error_of_a_file_comes_in_one_go_with_its_place_and_in_order() -> None:
    assert problems(
        """\
        program: train.py
        metod: grid
        method: bayes
        metric: {goal: maximise}
        early_terminate: {type: hyperband, min_iter: 3}
        parameters:
          lr: {min: 3, max: 1}
          width: {values: []}
          depth: {distribution: q_uniform, min: 1, max: 5}
          batch: {distribution: unifrom, min: 1, max: 5}
          drop: 0.5
          layers: [1, 2]
          both: {value: 1, values: [1]}
          odd: {valuse: [1]}
        run_cap: 0
        mesh:
          priority: 11
          resources: {cpu: 2, memory: 4 potatoes}
          retries: {max: 3, backoff: soon}
          on_lost: wait
          checkpoints: {evry: 60s, keep: 0}
          files: ""
        """
    ) == [
        "2:1: unknown key 'metod' in the file; did you mean 'method'?",
        "3:9: not built yet: method bayes; grid and random are",
        "4:9: metric.name is missing",
        "4:16: metric.goal must be minimize or maximize, not 'maximise'; did you mean 'maximize'?",
        "5:1: not built yet: early_terminate",
        "7:13: parameters.lr: min 3 must be less than max 1",
        "8:19: parameters.width.values is empty; it needs at least one value",
        "9:25: not built yet: distribution q_uniform (parameters.depth)",
        "10:25: parameters.batch: unknown distribution 'unifrom'; did you mean 'uniform'?",
        "11:9: parameters.drop must be a mapping; write drop: {value: ...}",
        "12:11: parameters.layers must be a mapping; write layers: {values: [...]}",
        "13:20: parameters.both: values does not go with constant",
        "14:9: unknown key 'valuse' in parameters.odd; did you mean 'value'?",
        "15:10: run_cap must be a whole number of 1 or more, not 0",
        "17:13: mesh.priority must be a whole number from 1 to 10, not 11",
        "18:15: unknown key 'cpu' in mesh.resources; did you mean 'cpus'?",
        (
            "18:31: mesh.resources.memory: '4 potatoes' has the unknown unit 'potatoes'; "
            "use B, kB, MB, GB, TB, KiB, MiB, GiB or TiB"
        ),
        (
            "19:30: mesh.retries.backoff: 'soon' is not a duration; "
            "write it like 250ms, 30s, 5m, 6h or a number of seconds"
        ),
        "20:12: mesh.on_lost must be retry or hold, not 'wait'",
        "21:17: unknown key 'evry' in mesh.checkpoints; did you mean 'every'?",
        "21:34: mesh.checkpoints.keep must be a whole number from 1 to 100, not 0",
        "22:10: mesh.files must be text, not nothing",
    ]


def test_the_message_names_the_file_and_counts() -> None:
    with pytest.raises(InvalidSpec, match=r"/data/team/sweep.yaml: 2 errors; 1:1: .*; 1:1: ") as caught:
        parse("name: x\nprogram: y", PATH)
    assert caught.value.what == f"{PATH}: 2 errors"


@pytest.mark.parametrize(
    ("line", "place", "part"),
    [
        ("method: custom", "5:9", "not built yet: method custom"),
        ("metric: {name: a, target: 3}", "5:19", "not built yet: metric.target"),
        ("metric: {name: a, impute: worst}", "5:19", "not built yet: metric.impute"),
        ("metric: {name: a, impute_while_running: latest}", "5:19", "not built yet: metric.impute_while_running"),
        ("controller: {type: local}", "5:1", "not built yet: controller"),
        ("job: a", "5:1", "not built yet: job"),
        ("image_uri: a", "5:1", "not built yet: image_uri"),
        ("mesh: {search: {engine: optuna}}", "5:17", "not built yet: mesh.search.engine"),
        ("mesh: {search: {sampler: tpe}}", "5:26", "not built yet: mesh.search.sampler 'tpe'"),
        ("mesh: {search: {pruner: asha}}", "5:25", "not built yet: mesh.search.pruner 'asha'"),
        ("command: ['${args_no_equals}']", "5:11", "not built yet: ${args_no_equals}"),
    ],
)
def test_what_is_not_built_is_refused_by_name(line: str, place: str, part: str) -> None:
    text = GOOD.replace("method: grid\n", "\n") + line if line.startswith("method") else GOOD + line
    assert problems(text) == [next(p for p in problems(text) if p.startswith(f"{place}: ") and part in p)]


@pytest.mark.parametrize("distribution", ["normal", "q_normal", "log_normal", "beta", "log_uniform", "inv_log_uniform"])
def test_other_distributions_are_refused_by_name_with_their_keys(distribution: str) -> None:
    found = problems(
        f"""\
        program: a.py
        method: random
        run_cap: 3
        parameters: {{x: {{distribution: {distribution}, mu: 0, sigma: 1}}}}
        """
    )
    assert has(found, f"not built yet: distribution {distribution} (parameters.x)")
    assert has(found, "not built yet: parameters.x.mu")
    assert has(found, "not built yet: parameters.x.sigma")


def test_probabilities_are_refused_and_nothing_else() -> None:
    text = GOOD.replace("{values: [1, 2]}", "{values: [1, 2], probabilities: [0.1, 0.9]}")
    assert problems(text) == ["4:24: not built yet: parameters.lr.probabilities"]


@pytest.mark.parametrize("kind", ["task", "pipeline"])
def test_other_kinds_of_file_are_refused_alone_without_complaints_about_their_keys(kind: str) -> None:
    text = f"name: x\nkind: {kind}\nmatrix: {{}}\ntasks: {{}}\n"
    assert problems(text) == [f"2:7: not built yet: kind {kind}; only sweeps are"]


def test_a_misspelt_kind_is_an_error_and_sweep_is_not() -> None:
    assert problems("kind: swep\n" + GOOD) == ["1:7: kind must be sweep, not 'swep'; did you mean 'sweep'?"]
    assert read("kind: sweep\n" + GOOD) == read(GOOD).__class__(
        **{**vars(read(GOOD)), "source": b"kind: sweep\n" + GOOD.encode()}
    )


def test_keys_of_another_place_are_sent_there() -> None:
    assert problems(GOOD + "retries: {max: 3}\n") == ["5:1: unknown key 'retries' in the file; it belongs under mesh"]


def test_duplicate_keys_are_errors_at_every_depth() -> None:
    assert problems(
        """\
        program: a.py
        method: grid
        parameters:
          lr: {value: 1}
          lr: {value: 2}
          x:
            value: {a: 1, a: 2}
        method: random
        """
    ) == [
        "5:3: 'lr' stands twice in parameters; first on line 4",
        "7:19: 'a' stands twice in parameters.x.value; first on line 7",
        "8:1: 'method' stands twice in the file; first on line 2",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1:1: the file is empty"),
        ("# nothing\n", "1:1: the file is empty"),
        ("- a\n", "1:1: the file must be a mapping"),
        ("just text", "1:1: the file must be a mapping"),
        ("a: [1, 2\nb: 3\n", "2:2: while parsing a flow sequence"),
        ("a: b: c\n", "1:5: mapping values are not allowed here"),
        ("a: 1\n\tmethod: grid\n", "2:1: while scanning"),
        ("a: *nowhere\n", "1:4: found undefined alias"),
        ("method: grid\n---\nmethod: grid\n", "2:1: expected a single document"),
        ("method: g\x07rid\n", "1:10: the character U+0007 is not allowed"),
        ("a: " + "[" * 2000, "the file is nested too deeply"),
        ("command: [python, ${program}]\n", "1:20: while parsing a flow sequence"),
    ],
)
def test_broken_yaml(text: str, expected: str) -> None:
    (found,) = problems(text)
    assert found.startswith(expected)


def test_a_macro_in_brackets_without_quotes_says_so() -> None:
    assert has(problems("command: [python, ${program}]\n"), "inside [ ] a macro needs quotes")


def test_wrong_indentation_says_so() -> None:
    assert has(problems("parameters:\n\tlr: {value: 1}\n"), "indent with spaces: YAML allows no tabs there")
    assert has(problems("a:\n  b: 1\n   c: 2\n"), "mapping values are not allowed here")
    assert has(problems("a:\n  b:\n    c: 1\n   d:\n    e: 1\n"), "is this line indented as those it belongs with?")


def test_aliases_that_repeat_without_end_are_refused_quickly() -> None:
    bomb = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 10)}]\n" for n in range(9)
    )
    text = bomb + "method: grid\nprogram: x\nparameters: {p: {value: *j}}\n"
    assert has(problems(text), f"the file expands to more than {reading.LARGEST_EXPANSION} values")


@pytest.mark.parametrize(
    "text",
    [
        "method: grid\nprogram: x\nparameters: {p: {value: &a [*a]}}\n",
        "method: grid\nprogram: x\nparameters: &a {p: {parameters: *a}}\n",
        "&a\nmethod: grid\nprogram: x\n<<: *a\n",
    ],
)
def test_values_that_contain_themselves_are_refused(text: str) -> None:
    assert has(problems(text), "itself")


def test_a_huge_file_is_refused_unread() -> None:
    assert has(problems("#" * (reading.LARGEST_FILE + 1)), "characters; at most")


@pytest.mark.parametrize("tag", ["!!python/object:os.system", "!mine", "!!binary", "!!set"])
def test_tags_are_refused_and_construct_nothing(tag: str) -> None:
    value = "{a}" if tag == "!!set" else "eA=="
    assert has(
        problems(f"method: grid\nprogram: x\nparameters: {{p: {{value: {tag} {value}}}}}\n"), "only plain YAML is read"
    )
    assert has(problems(f"method: grid\nprogram: x\nname: {tag} {value}\nparameters: {{p: {{value: 1}}}}\n"), "3:7:")


@pytest.mark.parametrize(
    ("written", "part"),
    [('"a\\0b"', "NUL"), ('"\\ud800"', "surrogate"), (".nan", "JSON"), ("-.inf", "JSON"), ("1e999", "JSON")],
)
def test_values_that_no_argument_or_json_can_hold_are_refused(written: str, part: str) -> None:
    (found,) = problems(f"method: grid\nprogram: x\nparameters: {{p: {{values: [1, {written}]}}}}\n")
    assert found.startswith("3:30: ")
    assert part in found


@pytest.mark.parametrize(
    ("key", "fault"),
    [
        ("on", "is read as bool"),
        ("1", "is read as int"),
        ("~", "is read as null"),
        ("[a]", "must be text"),
        ('"a b"', "white space"),
        ('"a=b"', "white space"),
        ("--lr", "must not start with '-'"),
        ('""', "must not start"),
    ],
)
def test_parameter_names_that_would_not_survive_are_refused(key: str, fault: str) -> None:
    (found,) = problems(f"method: grid\nprogram: x\nparameters:\n  ok: {{value: 1}}\n  {key}: {{value: 1}}\n")
    assert found.startswith("5:3: ")
    assert fault in found


@pytest.mark.parametrize("name", ["lr", "optimizer.lr", "data-set", "+trainer.lr", "model/width", "größe"])
def test_parameter_names_that_people_use_are_taken(name: str) -> None:
    assert read(f"method: grid\nprogram: x\nparameters:\n  {name}: {{value: 1}}\n").parameters[0].path == (name,)


@pytest.mark.parametrize(
    ("bounds", "part"),
    [
        ("min: 1", "int_uniform needs max"),
        ("max: 1.5", "uniform needs min"),
        ("min: 1, max: 1", "must be less than"),
        ("min: true, max: 3", "must be a number, not true"),
        ("min: a, max: 3", "must be a number, not 'a'"),
        ("min: [1], max: 3", "must be a single value, not a list"),
        ("distribution: int_uniform, min: 1, max: 2.5", "int_uniform needs whole numbers, not 2.5"),
        ("distribution: log_uniform_values, min: 0, max: 1", "needs a min above 0"),
        ("distribution: log_uniform_values, min: -1, max: 1", "needs a min above 0"),
        ("distribution: uniform, values: [1, 2]", "values does not go with uniform"),
        ("distribution: categorical, min: 1, max: 2", "categorical needs values"),
        ("distribution: constant, values: [1]", "constant needs value"),
        ("min: -1.7e+308, max: 1.7e+308", "too wide"),
        (f"min: 0, max: {10**400}", "fit 64 bits"),
        (f"min: 0.5, max: {10**400}", "too wide"),
        ("parameters: {a: {value: 1}}, value: 1", "value does not go with nested parameters"),
        ("parameters: {}", "is empty"),
    ],
)
def test_bounds_and_forms(bounds: str, part: str) -> None:
    found = problems(f"method: random\nrun_cap: 2\nprogram: x\nparameters: {{p: {{{bounds}}}}}\n")
    assert has(found, "4:", part)


@pytest.mark.parametrize(
    ("block", "part"),
    [
        ("resources: {gpus: 1.5}", "share of one GPU (0.5) or whole GPUs (2)"),
        ("resources: {gpus: -1}", "mesh.resources.gpus must be from 0"),
        ("resources: {cpus: 0.0001}", "less than a thousandth"),
        ("resources: {cpus: yes}", "must be a number, not true"),
        ("resources: {gpus: 0, gpu_memory: 1GiB}", "needs a GPU, but gpus is 0"),
        ("resources: {gpus: 0, device: cuda}", "needs a GPU, but gpus is 0"),
        ("resources: {gpus: 1, device: cpu}", "has no GPU"),
        ("resources: {device: gpu}", "must be any, cpu, cuda or mps, not 'gpu'; did you mean 'cpu'?"),
        ("resources: []", "empty list"),
        ("resources: 3", "must be a mapping"),
        ("resources: [{cpus: 1}, {gpu: 1}]", "unknown key 'gpu' in mesh.resources[1]; did you mean 'gpus'?"),
        ("resources: {labels: [a]}", "mesh.resources.labels must be a mapping"),
        ("retries: 3", "mesh.retries must be a mapping"),
        ("retries: {backoff: 1s}", "mesh.retries needs max"),
        ("retries: {max: -1}", "whole number from 0"),
        ("retries: {max: 1, factor: 0.5}", "factor must be 1 or more"),
        ("retries: {max: 1, not_on: ValueError}", "not_on must be a list"),
        ("timeout: 0", "must be more than nothing"),
        ("timeout: 6 weeks", "is not a duration"),
        ("max_parallel: 0", "whole number from 1"),
        ("max_parallel: yes", "whole number from 1 to 1000000, not true"),
        ("priority: high", "whole number from 1 to 10, not 'high'"),
        ("on_lost: never", "must be retry or hold"),
        ("env: {vars: {1A: x}}", "cannot be a variable's name"),
        ("env: {vars: {MESH_TASK_ID: x}}", "is the mesh's own"),
        ("env: {vars: {A: [1]}}", "mesh.env.vars.A must be text, not a list"),
        ("search: {seed: -1}", "whole number of 0 or more"),
        ("serach: {seed: 1}", "unknown key 'serach' in mesh; did you mean 'search'?"),
    ],
)
def test_the_mesh_block(block: str, part: str) -> None:
    (found,) = problems(f"{GOOD}mesh:\n  {block}\n")
    assert found.startswith("6:")
    assert part in found


def test_a_random_search_without_an_end_is_refused() -> None:
    (found,) = problems("method: random\nprogram: x\nparameters: {a: {values: [1]}}\n")
    assert found.startswith("1:9: ")
    assert "add run_cap" in found


def test_an_absurd_grid_is_refused_without_being_built() -> None:
    axes = "".join(f"  p{n}: {{min: 0, max: 999999999}}\n" for n in range(3))
    (found,) = problems(f"method: grid\nprogram: x\nparameters:\n{axes}")
    assert found.startswith("4:3: the grid has about 1e+27 points, over the 1,000,000 of one job")
    (found,) = problems(f"method: grid\nprogram: x\nrun_cap: 2000000\nparameters:\n{axes}")
    assert found.startswith("3:10: run_cap is over 1,000,000")
    (found,) = problems("method: random\nprogram: x\nrun_cap: 1000001\nparameters: {a: {values: [1]}}\n")
    assert "run_cap is over 1,000,000" in found
    everything = "".join(f"  p{n}: {{min: 0, max: 999999999}}\n" for n in range(40))
    assert has(problems(f"method: grid\nprogram: x\nparameters:\n{everything}"), "over 1e300 points")


def test_the_limits_are_the_last_that_pass() -> None:
    assert read("method: grid\nprogram: x\nparameters: {a: {min: 1, max: 1000000}}\n").run_cap is None
    assert has(problems("method: grid\nprogram: x\nparameters: {a: {min: 0, max: 1000000}}\n"), "1,000,001 points")


def test_a_relative_path_is_the_caller_s_mistake() -> None:
    with pytest.raises(ValueError, match="not absolute"):
        parse(GOOD, "sweep.yaml")


def test_a_value_that_is_read_twice_is_one_problem() -> None:
    assert problems("method: random\nprogram: x\nrun_cap: 1\nparameters: {a: {min: .inf, max: 3}}\n") == [
        "4:23: parameters.a.min: inf cannot be written as JSON; put it in quotes to pass it as text"
    ]


def test_a_parameter_with_nothing_to_vary() -> None:
    assert problems(GOOD.replace("{values: [1, 2]}", "{}")) == [
        "4:7: parameters.lr needs value, values, or min and max"
    ]
