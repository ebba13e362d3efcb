"""``env=`` of a call: what the machine that runs it must have installed, and the variables that it is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from mesh.client.options import PYTHON, refuse
from mesh.core.errors import Problem
from mesh.spec.environment import python_problem, requirements_of_lines, variable_problem

_KEYS = ("python", "requirements", "vars")


class Environment(NamedTuple):
    requirements: str = ""
    vars: tuple[tuple[str, str], ...] = ()


def environment_of(wanted: Mapping[str, Any] | None) -> Environment:
    """Raises ``InvalidSpec`` with every problem."""
    if wanted is None:
        return Environment()
    if not isinstance(wanted, Mapping):
        refuse("the options of this call are wrong", [Problem(f"env is {wanted!r}; it must be a mapping")])
    problems = [f"env has no {key!r}; it has {', '.join(_KEYS)}" for key in wanted if key not in _KEYS]
    version = str(wanted.get("python", PYTHON))
    if problem := python_problem(version):
        problems.append(f"env.python: {problem}")
    elif version != PYTHON:
        problems.append(f"env.python is {version}, but what this Python {PYTHON} pickles can only run in {PYTHON}")
    found = Environment(
        _requirements(wanted.get("requirements") or (), problems), _variables(wanted.get("vars") or {}, problems)
    )
    refuse("the options of this call are wrong", [Problem(problem) for problem in problems])
    return found


def _requirements(wanted: Any, problems: list[str]) -> str:
    if not isinstance(wanted, list | tuple) or not all(isinstance(line, str) for line in wanted):
        problems.append(f"env.requirements is {wanted!r}; it must be a list of texts, as ['scipy>=1.11']")
        return ""
    text, found = requirements_of_lines(wanted)
    problems += [f"env.requirements: {problem}" for problem in found]
    return text


def _variables(wanted: Any, problems: list[str]) -> tuple[tuple[str, str], ...]:
    if not isinstance(wanted, Mapping):
        problems.append(f"env.vars is {wanted!r}; it must map names to values")
        return ()
    found = tuple(sorted((str(name), str(value)) for name, value in wanted.items()))
    problems += [f"env.vars: {problem}" for name, _ in found if (problem := variable_problem(name))]
    return found
