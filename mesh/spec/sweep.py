"""A sweep file, parsed and checked.

The schema is that of Weights & Biases, so that files people have run unchanged, with everything of the mesh's own
under the one key ``mesh``. What it has and the mesh does not yet is refused by name. All errors of a file are
reported together, each with its line and column.
"""

from __future__ import annotations

import math
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, field

import yaml

from mesh.core.errors import Problem
from mesh.spec import command as commands
from mesh.spec import overrides as set_overrides
from mesh.spec.command import Word
from mesh.spec.environment import Load, no_files
from mesh.spec.options import Options, read_options
from mesh.spec.parameters import Parameter, read_parameters
from mesh.spec.reader import BAD, Entry, Reader, close_to, show

GRID, RANDOM = "grid", "random"
LARGEST_COUNT = 1_000_000  # tasks of one job

_METHODS_NOT_BUILT = ("bayes", "custom")
_KEYS = ("program", "command", "name", "description", "method", "metric", "parameters", "run_cap", "kind", "mesh")
_NOT_BUILT = ("early_terminate", "controller", "job", "image_uri", "launch", "scheduler", "prior_runs")
_OF_A_SERVER = ("project", "entity", "apiVersion")  # they name a place on a tracking server or a version of it
_ELSEWHERE = dict.fromkeys(
    ("priority", "resources", "retries", "timeout", "on_lost", "max_parallel", "files", "env", "checkpoints"), "mesh"
) | {"goal": "metric", "value": "parameters", "values": "parameters", "min": "parameters", "max": "parameters"}


@dataclass(frozen=True)
class Sweep:
    """What to run, for :func:`mesh.spec.expand.expand`. ``run_cap`` None: the whole grid."""

    method: str
    parameters: tuple[Parameter, ...]
    command: tuple[Word, ...]
    directory: str  # absolute; where the command runs and what its paths are relative to
    program: str = ""
    name: str = ""
    description: str = ""
    run_cap: int | None = None
    metric: str = ""  # empty: none
    maximize: bool = False
    options: Options = field(default_factory=Options)
    source: bytes = b""
    warnings: tuple[Problem, ...] = ()


def grid_size(parameters: Sequence[Parameter]) -> int:
    return math.prod(parameter.size for parameter in parameters)


def parse(text: str, path: str, overrides: Sequence[str] = (), load: Load = no_files) -> Sweep:
    """The sweep that ``text`` describes. ``path`` is the file's absolute path; it is not read here.

    ``load`` reads what the sweep names and needs to know: a file of requirements.
    ``overrides`` are ``key.key=value``, applied before the checks. Raises InvalidSpec with every problem.
    """
    if not posixpath.isabs(path):
        raise ValueError(f"the path {path!r} is not absolute")
    reader = Reader(path)
    root = set_overrides.apply(reader, reader.compose(text), tuple(overrides))
    entries = reader.mapping(root, "the file")
    if not isinstance(root, yaml.MappingNode):
        reader.finish()
    _refuse_other_kinds(reader, entries)
    for name in _OF_A_SERVER:
        if name in entries:
            reader.warn(entries[name].key, f"{name} means nothing here and is left out")
    reader.only(entries, (*_KEYS, *_OF_A_SERVER), "the file", _NOT_BUILT, _ELSEWHERE)

    method = _read_method(reader, root, entries)
    parameters: list[Parameter] = []
    if "parameters" in entries:
        parameters = read_parameters(reader, entries["parameters"].value, method == GRID)
    else:
        reader.refuse(root, "parameters is missing: what the sweep varies")
    run_cap = None
    if "run_cap" in entries:
        run_cap = reader.integer(entries["run_cap"].value, "run_cap", 1)
    _check_count(reader, entries, method, parameters, run_cap)
    program = _optional_text(reader, entries, "program")
    metric, maximize = _read_metric(reader, entries["metric"].value) if "metric" in entries else ("", False)
    command = _read_command(reader, root, entries, program)
    options = read_options(reader, entries["mesh"].value, method, load) if "mesh" in entries else Options()
    name = _optional_text(reader, entries, "name") or posixpath.splitext(posixpath.basename(path))[0]
    description = _optional_text(reader, entries, "description")
    reader.finish()
    return Sweep(
        method=method,
        parameters=tuple(parameters),
        command=command,
        directory=posixpath.dirname(path),
        program=program,
        name=name,
        description=description,
        run_cap=run_cap,
        metric=metric,
        maximize=maximize,
        options=options,
        source=text.encode(),
        warnings=tuple(sorted(reader.warnings, key=lambda problem: (problem.line, problem.column, problem.text))),
    )


def _optional_text(reader: Reader, entries: dict[str, Entry], name: str) -> str:
    return (reader.text(entries[name].value, name) or "") if name in entries else ""


def _refuse_other_kinds(reader: Reader, entries: dict[str, Entry]) -> None:
    """A task or pipeline file has other keys altogether, so nothing else of it is checked."""
    if "kind" not in entries:
        return
    node = entries["kind"].value
    kind = reader.text(node, "kind")
    if kind in ("task", "pipeline"):
        reader.stop(node, f"not built yet: kind {kind}; only sweeps are")
    if kind not in (None, "sweep"):
        reader.refuse(node, f"kind must be sweep, not {kind!r}{close_to(str(kind), ('sweep', 'task', 'pipeline'))}")


def _read_method(reader: Reader, root: yaml.Node, entries: dict[str, Entry]) -> str:
    """The method, or an empty text where it is not known: then no rule of one is applied."""
    if "method" not in entries:
        reader.refuse(root, "method is missing: grid or random")
        return ""
    node = entries["method"].value
    method = reader.text(node, "method")
    if method in (GRID, RANDOM):
        return str(method)
    if method in _METHODS_NOT_BUILT:
        reader.refuse(node, f"not built yet: method {method}; grid and random are")
    elif method is not None:
        hint = close_to(method, (GRID, RANDOM, *_METHODS_NOT_BUILT))
        reader.refuse(node, f"unknown method {method!r}{hint or '; use grid or random'}")
    return ""


def _check_count(
    reader: Reader, entries: dict[str, Entry], method: str, parameters: list[Parameter], run_cap: int | None
) -> None:
    if method == RANDOM and "run_cap" not in entries:
        reader.refuse(entries["method"].value, "method random has no end: add run_cap, the number of trials")
    if run_cap is not None and run_cap > LARGEST_COUNT and (method != GRID or grid_size(parameters) > LARGEST_COUNT):
        reader.refuse(entries["run_cap"].value, f"run_cap is over {LARGEST_COUNT:,}, the most tasks of one job")
    elif method == GRID and "run_cap" not in entries and grid_size(parameters) > LARGEST_COUNT:
        points = grid_size(parameters)
        shown = f"{points:,}" if points < 10**15 else f"about {points:.0e}" if points < 10**300 else "over 1e300"
        reader.refuse(
            entries["parameters"].value,
            f"the grid has {shown} points, over the {LARGEST_COUNT:,} of one job; give fewer values, or add run_cap",
        )


def _read_metric(reader: Reader, node: yaml.Node) -> tuple[str, bool]:
    entries = reader.mapping(node, "metric")
    reader.only(entries, ("name", "goal"), "metric", ("target", "impute", "impute_while_running"))
    name: str | None = ""
    if "name" in entries:
        name = reader.text(entries["name"].value, "metric.name")
    elif isinstance(node, yaml.MappingNode):
        reader.refuse(node, "metric.name is missing")
    goal: str | None = "minimize"
    if "goal" in entries:
        goal = reader.text(entries["goal"].value, "metric.goal")
        if goal not in (None, "minimize", "maximize"):
            hint = close_to(str(goal).lower(), ("minimize", "maximize"))
            reader.refuse(entries["goal"].value, f"metric.goal must be minimize or maximize, not {goal!r}{hint}")
    return name or "", goal == "maximize"


def _read_command(reader: Reader, root: yaml.Node, entries: dict[str, Entry], program: str) -> tuple[Word, ...]:
    if "command" not in entries:
        if "program" not in entries:
            reader.refuse(root, "program is missing: the script to run (or give a command)")
        return commands.DEFAULT
    node = entries["command"].value
    if isinstance(node, yaml.ScalarNode):
        reader.refuse(node, 'command must be a list, one item per argument: ["python", "train.py", "${args}"]')
        return ()
    items = reader.items(node, "command") or []
    if isinstance(node, yaml.SequenceNode) and not items:
        reader.refuse(node, "command is empty; leave it out for ${env} ${interpreter} ${program} ${args}")
    words: list[Word] = []
    for item in items:
        value = reader.scalar(item, "command")
        if value is BAD:
            continue
        mark = item.start_mark
        written = str(item.value) if isinstance(value, float) else str(value)
        words.append(Word(written if value is not None else "", max(mark.line + 1, 0), max(mark.column + 1, 0)))
        if value is None:
            reader.refuse(item, "command: an item is empty; write '' for an empty argument")
        else:
            _check_word(reader, item, written, program)
    return tuple(words)


def _check_word(reader: Reader, node: yaml.Node, text: str, program: str) -> None:
    if text in commands.NOT_BUILT:
        reader.refuse(node, f"not built yet: {text}")
    elif commands.unknown_macro(text):
        hint = close_to(text, commands.MACROS) or f"; for an environment variable write ${{envvar:{text[2:-1]}}}"
        reader.refuse(node, f"unknown macro {show(text)}{hint}")
    elif text == commands.PROGRAM and not program:
        reader.refuse(node, "command uses ${program}, but program is missing")
    elif inside := commands.embedded_macro(text):
        reader.warn(node, f"{inside} stays as it is inside a longer item; make it an item of its own")
