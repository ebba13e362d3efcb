"""``meshctl submit --param k v1 v2 -- COMMAND``: a grid without a file."""

from __future__ import annotations

import json
import math
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

from mesh.core.errors import InvalidSpec, Problem
from mesh.core.lattice import Resources
from mesh.spec import command as commands
from mesh.spec.command import Word
from mesh.spec.options import Options
from mesh.spec.parameters import CATEGORICAL, CONSTANT, Parameter, identity, name_fault
from mesh.spec.reader import close_to
from mesh.spec.sweep import GRID, LARGEST_COUNT, Sweep, grid_size


def scalar(written: str) -> Any:
    """A JSON number, boolean, null or text in double quotes where it is one, otherwise the text as it is."""
    try:
        found = json.loads(written)
    except (ValueError, RecursionError):
        return written
    if isinstance(found, dict | list) or (isinstance(found, float) and not math.isfinite(found)):
        return written  # json.loads takes NaN, Infinity and 1e999, which JSON does not have
    return found


def grid_from_params(
    params: Sequence[tuple[str, Sequence[str]]],
    base_config: str,
    command: Sequence[str],
    *,
    directory: str,
    name: str = "",
    gpus: int = 0,
    metric: str = "",
    maximize: bool = False,
) -> Sweep:
    """A grid over ``params``, with ``base_config`` (a JSON object as text, or empty) as constants beside it.

    A parameter of both is the ``--param``'s. ``directory`` is absolute: where the command runs. A command that passes
    its parameters nowhere gets ``${args}`` at its end; no parameters at all is one task. Raises InvalidSpec with
    every problem.
    """
    if not posixpath.isabs(directory):
        raise ValueError(f"the directory {directory!r} is not absolute")
    problems: list[str] = []
    varied: dict[str, Parameter] = {}
    for key, written in params:
        if key in varied:
            problems.append(f"--param {key} is given twice")
        if not written:
            problems.append(f"--param {key} has no values")
        values: dict[str, Any] = {}
        for value in map(scalar, written):
            values.setdefault(identity(value), value)
        varied[key] = Parameter((key,), CATEGORICAL, tuple(values.values()))
    base = _base(base_config, problems)
    constants = [Parameter((key,), CONSTANT, (value,)) for key, value in base.items() if key not in varied]
    problems += [fault for key in (*varied, *base) if (fault := name_fault(key))]
    words = [Word(item) for item in command]
    if not words:
        problems.append("there is no command; write it after --")
    for item in command:
        if "\0" in item:
            problems.append(f"the command's {item!r} holds a NUL character")
        if item in commands.NOT_BUILT:
            problems.append(f"not built yet: {item}")
        elif commands.unknown_macro(item):
            problems.append(f"unknown macro {item!r}{close_to(item, commands.MACROS)}")
        if item == commands.PROGRAM:
            problems.append("${program} needs a sweep file; write the program itself")
    if not any(item in commands.ARGUMENT_MACROS for item in command):
        words.append(Word(commands.ARGS))
    if not 0 <= gpus <= 1000:
        problems.append(f"--gpus must be from 0 to 1000, not {gpus}")
    parameters = (*constants, *varied.values())
    if not problems and grid_size(parameters) > LARGEST_COUNT:
        problems.append(f"the grid has {grid_size(parameters):,} points, over the {LARGEST_COUNT:,} of one job")
    if problems:
        raise InvalidSpec("the command cannot be submitted", tuple(Problem(text) for text in problems))
    return Sweep(
        method=GRID,
        parameters=parameters,
        command=tuple(words),
        directory=directory,
        name=name or commands.kind_of("", tuple(command)),
        metric=metric,
        maximize=maximize,
        options=Options(alternatives=(Resources(milligpus=gpus * 1000),)),
    )


def _base(written: str, problems: list[str]) -> Mapping[str, Any]:
    if not written:
        return {}
    try:
        found = json.loads(written)
    except (ValueError, RecursionError) as error:
        problems.append(f"--base-config is not JSON: {error}")
        return {}
    if not isinstance(found, dict):
        problems.append("--base-config must be a JSON object")
        return {}
    try:
        json.dumps(found, allow_nan=False)
    except ValueError:
        problems.append("--base-config holds a number that JSON does not have: NaN, infinite or too large")
        return {}
    return found
