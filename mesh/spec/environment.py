"""What a task may say of its environment (``env``): its Python, what it requires, its variables.

One set of rules for sweep files and for calls from Python. Files are read by the caller's function, so that nothing
here touches a disk. What a requirement means is for uv or pip to say, on the node that builds the environment; here
only what cannot mean the same on another machine is refused.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator

Load = Callable[[str], str]  # an absolute path to the file's text; raises OSError or UnicodeDecodeError

LARGEST = 16 << 10  # characters: they travel and are kept with every task

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PYTHON = re.compile(r"3\.[0-9]+")
_COMMENT = re.compile(r"(^|\s+)#.*$")  # as pip reads it: an URL's # is none
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
_OPTION = re.compile(r"(--[a-z-]+|-[a-z])\s*=?\s*(.*)")
_WITH_PATH = ("-e", "--editable", "-f", "--find-links")
_ARCHIVES = (".whl", ".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def variable_problem(name: str) -> str:
    """Why a task's variable cannot have this name; empty: it can."""
    if not _VARIABLE.fullmatch(name):
        return f"{name!r} cannot be a variable's name"
    if name.startswith("MESH_"):
        return f"{name} is the mesh's own; names with MESH_ are set by it"
    return ""


def python_problem(version: str) -> str:
    """Why this is no version that a task can ask for; empty: it is one."""
    return "" if _PYTHON.fullmatch(version) else f"{version!r} is no minor version of Python; write it as '3.11'"


def no_files(path: str) -> str:
    """A :data:`Load` where there are none."""
    raise FileNotFoundError(2, "files are not read here", path)


def requirements_of_file(path: str, load: Load) -> tuple[str, list[str]]:
    """What the file requires, one per line without comments, with the files that it includes (``-r``); and all that is
    wrong with it. A file that requires nothing is an empty text."""
    lines: list[str] = []
    problems: list[str] = []
    _include(posixpath.normpath(path), posixpath.basename(path), load, lines, problems, set())
    return _whole(lines, problems)


def requirements_of_lines(lines: Iterable[str]) -> tuple[str, list[str]]:
    """As :func:`requirements_of_file`, of what would be its lines."""
    kept: list[str] = []
    problems: list[str] = []
    for _, line in _logical("\n".join(lines)):
        included = _included(line)
        problem = f"{line!r} names a file; write what stands in it" if included is not None else _problem(line)
        problems += [problem] if problem else []
        kept.append(line)
    return _whole(kept, problems)


def _include(path: str, shown: str, load: Load, lines: list[str], problems: list[str], seen: set[str]) -> None:
    if path in seen:
        return  # its lines are there already
    seen.add(path)
    try:
        text = load(path)
    except OSError as error:
        problems.append(f"{shown} cannot be read: {error.strerror or error}")
        return
    except UnicodeDecodeError:
        problems.append(f"{shown} is not UTF-8 text")
        return
    for number, line in _logical(text):
        included = _included(line)
        if included is not None and not _URL.match(included):
            other = posixpath.normpath(posixpath.join(posixpath.dirname(path), included))
            _include(other, included, load, lines, problems, seen)
        else:
            if problem := _problem(line):
                problems.append(f"{shown}, line {number}: {problem}")
            lines.append(line)


def _logical(text: str) -> Iterator[tuple[int, str]]:
    """Lines as pip reads them: what ends in a backslash goes on, comments and empty lines are left out."""
    begun, parts = 0, list[str]()
    for number, raw in enumerate([*text.splitlines(), ""], 1):
        begun = begun or number
        goes_on = raw.endswith("\\") and not raw.lstrip().startswith("#")
        parts.append(raw[:-1] if goes_on else raw)
        if goes_on:
            continue
        line = " ".join(_COMMENT.sub("", "".join(parts)).split())
        if line:
            yield begun, line
        begun, parts = 0, []


def _option(line: str) -> tuple[str, str]:
    found = _OPTION.fullmatch(line)
    return (found[1], found[2]) if found else ("", "")


def _included(line: str) -> str | None:
    name, value = _option(line)
    return value if name in ("-r", "--requirement") else None


def _problem(line: str) -> str:
    """Why another machine would not understand it as this one does."""
    name, value = _option(line)
    if name in ("-c", "--constraint"):
        return f"{line!r}: constraints do not travel; write the versions here"
    if name in ("-r", "--requirement"):
        return f"{line!r}: what is included must be a file beside it"
    if name:
        if name not in _WITH_PATH or _found_anywhere(value):
            return ""
    elif _found_anywhere(line) or not _is_path(line):
        return ""
    return (
        f"{value or line!r} is a path that other machines do not have; build a wheel of it and name that by its URL, "
        "or ship its directory with files: and import it from there"
    )


def _found_anywhere(target: str) -> bool:
    """Whether it is an URL or an absolute path: then it is for the user to see that every machine finds it."""
    if target.startswith("file:"):
        return target.startswith("file:/")
    return bool(_URL.match(target)) or posixpath.isabs(target)


def _is_path(line: str) -> bool:
    target = line.partition(";")[0].partition(" --")[0].strip()
    named, at, where = target.partition("@")
    if at and re.fullmatch(r"[A-Za-z0-9._-]+\s*(\[[^\]]*\])?\s*", named):  # name @ URL
        return not _found_anywhere(where.strip())
    return "/" in target or target.startswith((".", "file:")) or target.partition("[")[0].endswith(_ARCHIVES)


def _whole(lines: list[str], problems: list[str]) -> tuple[str, list[str]]:
    text = "\n".join(lines)
    if len(text) > LARGEST:
        problems.append(
            f"what is required has {len(text):,} characters, and every task carries it; at most {LARGEST:,} do; "
            "leave out hashes, or what is required by others anyway"
        )
    return text, problems
