"""The command of a trial: a list of arguments, with macros.

Arguments stay a list from here to exec, so no value can break another's quoting. A macro stands alone in its item,
as with Weights & Biases; only ``${envvar:NAME}`` may stand inside one. Inserted text is never searched for macros.

``${interpreter}`` and ``${args_json_file}`` stay in the list as items of their own: only the node that runs the
attempt knows its Python and can write a file, so its runner replaces them (by the Python of the task's environment,
which is meshd's own where nothing is required, and by the path of a file that holds the attempt's parameters as JSON).
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

INTERPRETER = "${interpreter}"
ARGS_JSON_FILE = "${args_json_file}"
ARGS = "${args}"
PROGRAM = "${program}"
ENV = "${env}"

_ENVVAR = re.compile(r"\$\{envvar:([A-Za-z_][A-Za-z0-9_]*)\}")
_MACRO = re.compile(r"\$\{[^}]*\}")

ARGUMENT_MACROS = frozenset({ARGS, "${args_no_hyphens}", "${args_no_boolean_flags}", "${args_json}", ARGS_JSON_FILE})
NOT_BUILT = frozenset({"${args_no_equals}"})  # its values would be items of their own, and could look like macros
MACROS = ARGUMENT_MACROS | {ENV, INTERPRETER, PROGRAM}


class Word(NamedTuple):
    """One item of a command and its place in the file (1-based; 0: none)."""

    text: str
    line: int = 0
    column: int = 0


DEFAULT = (Word(ENV), Word(INTERPRETER), Word(PROGRAM), Word(ARGS))


def envvars_in(text: str) -> list[str]:
    return _ENVVAR.findall(text)


def embedded_macro(text: str) -> str:
    """A macro that stands inside a longer item, where it is not replaced; empty if there is none."""
    return next((found for found in _MACRO.findall(text) if found in MACROS), "") if text not in MACROS else ""


def unknown_macro(text: str) -> bool:
    """Whether the whole item looks like a macro and is none. Theirs drops such an item silently."""
    return bool(_MACRO.fullmatch(text)) and text not in MACROS and not _ENVVAR.fullmatch(text)


def fill(words: tuple[Word, ...], program: str, envvars: Mapping[str, str]) -> tuple[str, ...]:
    """Everything that is the same for all trials. Raises KeyError for a variable that ``envvars`` lacks."""
    fixed = {ENV: "/usr/bin/env", PROGRAM: program}
    return tuple(fixed.get(word.text) or _ENVVAR.sub(lambda m: envvars[m[1]], word.text) for word in words)


def arguments(words: tuple[Word, ...], filled: tuple[str, ...], params: Mapping[str, Any]) -> tuple[str, ...]:
    """The trial's argument list. ``words`` says which items are macros: filled text is not looked at again."""
    argv: list[str] = []
    for word, text in zip(words, filled, strict=True):
        match word.text:
            case "${args}":
                argv += [f"--{name}={value}" for name, value in params.items()]
            case "${args_no_hyphens}":
                argv += [f"{name}={value}" for name, value in params.items()]
            case "${args_no_boolean_flags}":
                argv += [
                    f"--{name}" if value is True else f"--{name}={value}"
                    for name, value in params.items()
                    if value is not False
                ]
            case "${args_json}":
                argv.append(json.dumps(params))
            case _:
                argv.append(text)
    return tuple(argv)


_RUNS_OTHERS = re.compile(r"env|python[0-9.]*|pypy[0-9.]*|bash|sh|zsh|dash|node|ruby|perl|Rscript|julia")


def kind_of(program: str, filled: tuple[str, ...]) -> str:
    """What is measured as one kind of work: the program's file name, not the interpreter's."""
    if program:
        return posixpath.basename(program)
    items = iter(filled)
    kind = ""
    for item in items:
        name = posixpath.basename(item)
        if item == INTERPRETER or _RUNS_OTHERS.fullmatch(name):
            kind = kind or ("python" if item == INTERPRETER else name)
        elif item == "-m":
            return next(items, kind)
        elif item == "-c":
            return kind
        elif not item.startswith("-") and not re.match(r"[A-Za-z_][A-Za-z0-9_]*=", item) and item not in MACROS:
            return name
    return kind
