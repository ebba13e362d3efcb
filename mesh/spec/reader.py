"""Reads YAML into plain values, keeping the place of everything, and collects every problem instead of the first.

Owns what YAML itself may get wrong (syntax, duplicate keys, merges, numbers that YAML 1.1 reads as text, files that
expand without end). Knows nothing of sweeps.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, NamedTuple, NoReturn

import yaml
from yaml.constructor import SafeConstructor

from mesh.core.errors import InvalidSpec, Problem

LARGEST_FILE = 256 * 1024  # characters; PyYAML reads about 100 kB a second
LARGEST_EXPANSION = 200_000  # nodes visited: aliases can make a file of a kilobyte mean a billion values
DEEPEST = 50

_TAG = "tag:yaml.org,2002:"
_PLAIN = frozenset({"str", "int", "float", "bool", "timestamp", "value", "merge"})
_YAML_1_2_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


class Bad:
    """Stands for a value that could not be read; its problem is recorded."""


BAD: Final = Bad()


class Entry(NamedTuple):
    key: yaml.ScalarNode
    value: yaml.Node


def close_to(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` or nothing."""
    found = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return f"; did you mean {found[0]!r}?" if found else ""


class Reader:
    """One file being read. ``path`` is for messages."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.warnings: list[Problem] = []
        self._problems: dict[tuple[int, int, str], Problem] = {}
        self._visited = 0
        self._construct = SafeConstructor()

    # Problems

    def _place(self, node: yaml.Node, text: str) -> Problem:
        mark = node.start_mark
        if mark.line < 0:  # from an override: see mesh.spec.overrides
            return Problem(f"{mark.name}: {text}")
        return Problem(text, mark.line + 1, mark.column + 1)

    def refuse(self, node: yaml.Node, text: str) -> None:
        """The same problem twice is one: a bound is read once to infer its distribution, and again as what it is."""
        self.add(self._place(node, text))

    def add(self, problem: Problem) -> None:
        self._problems.setdefault((problem.line, problem.column, problem.text), problem)

    def warn(self, node: yaml.Node, text: str) -> None:
        problem = self._place(node, text)
        if all(str(problem) != str(warning) for warning in self.warnings):
            self.warnings.append(problem)

    def finish(self) -> None:
        """Raises InvalidSpec with all problems, in the order of the file, if there are any."""
        if self._problems:
            problems = tuple(self._problems[key] for key in sorted(self._problems))
            many = f"{len(problems)} errors" if len(problems) > 1 else "1 error"
            raise InvalidSpec(f"{self.path}: {many}", problems)

    def stop(self, node: yaml.Node, text: str) -> NoReturn:
        self.refuse(node, text)
        self.finish()
        raise AssertionError("a problem was recorded, so finish() raises")

    # Documents

    def compose(self, text: str) -> yaml.Node:
        """The document's root node. Raises InvalidSpec where there is none: syntax errors come one at a time."""
        if len(text) > LARGEST_FILE:
            self.add(Problem(f"the file has {len(text)} characters; at most {LARGEST_FILE} are read"))
            self.finish()
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            self.add(_syntax_problem(error, text))
        except yaml.reader.ReaderError as error:
            before = text[: error.position]
            column = error.position - (before.rfind("\n") + 1) + 1
            self.add(
                Problem(f"the character U+{error.character:04X} is not allowed in YAML", before.count("\n") + 1, column)
            )
        except RecursionError:
            self.add(Problem("the file is nested too deeply"))
        else:
            if root is not None:
                return root
            self.add(Problem("the file is empty; a sweep needs at least method and parameters", 1, 1))
        self.finish()
        raise AssertionError("a problem was recorded, so finish() raises")

    # Collections

    def mapping(self, node: yaml.Node, where: str, depth: int = 0) -> dict[str, Entry]:
        """The entries by key; duplicates, keys that are no text and wrong types are problems. ``<<`` is merged."""
        self._visit(node)
        if not isinstance(node, yaml.MappingNode):
            self.refuse(node, f"{where} must be a mapping (key: value), not {_kind(node)}")
            return {}
        self._check_tag(node, "map")
        own: dict[str, Entry] = {}
        merged: dict[str, Entry] = {}
        for key, value in node.value:
            if key.tag == _TAG + "merge":
                for name, entry in self._merge(value, where, depth).items():
                    merged.setdefault(name, entry)
            elif not isinstance(key, yaml.ScalarNode):
                self.refuse(key, f"a key of {where} must be text, not {_kind(key)}")
            elif key.tag not in (_TAG + "str", _TAG + "value"):
                kind = key.tag.removeprefix(_TAG)
                self.refuse(
                    key, f"the key {key.value!r} of {where} is read as {kind}; put it in quotes if it is a name"
                )
            elif key.value in own:
                first = own[key.value].key.start_mark
                self.refuse(key, f"{key.value!r} stands twice in {where}; first on line {first.line + 1}")
            else:
                own[key.value] = Entry(key, value)
        return {**merged, **own} if merged else own

    def _merge(self, node: yaml.Node, where: str, depth: int) -> dict[str, Entry]:
        if depth > DEEPEST:
            self.stop(node, f"{where} merges itself")
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        found: dict[str, Entry] = {}
        for source in sources:  # the first that has a key wins, as YAML says
            for name, entry in self.mapping(source, f"what << merges into {where}", depth + 1).items():
                found.setdefault(name, entry)
        return found

    def only(
        self,
        entries: Mapping[str, Entry],
        known: Collection[str],
        where: str,
        not_built: Collection[str] = (),
        elsewhere: Mapping[str, str] | None = None,
    ) -> None:
        """Refuses every other key by name. ``elsewhere`` says where keys of other places belong."""
        prefix = f"{where}." if where != "the file" else ""
        for name, entry in entries.items():
            if name in not_built:
                self.refuse(entry.key, f"not built yet: {prefix}{name}")
            elif name not in known:
                belongs = (elsewhere or {}).get(name)
                hint = f"; it belongs under {belongs}" if belongs else close_to(name, [*known, *not_built])
                self.refuse(entry.key, f"unknown key {name!r} in {where}{hint}")

    def items(self, node: yaml.Node, where: str) -> list[yaml.Node] | None:
        self._visit(node)
        if not isinstance(node, yaml.SequenceNode):
            self.refuse(node, f"{where} must be a list, not {_kind(node)}")
            return None
        self._check_tag(node, "seq")
        return list(node.value)

    # Values

    def value(self, node: yaml.Node, where: str, depth: int = 0) -> Any:
        """Any JSON value, or BAD."""
        if depth > DEEPEST:
            self.stop(node, f"{where} is nested too deeply, or contains itself")
        if isinstance(node, yaml.SequenceNode):
            items = [self.value(item, where, depth + 1) for item in self.items(node, where) or ()]
            return BAD if BAD in items else items
        if isinstance(node, yaml.MappingNode):
            found = {
                name: self.value(entry.value, f"{where}.{name}", depth + 1)
                for name, entry in self.mapping(node, where).items()
            }
            return BAD if BAD in found.values() else found
        return self.scalar(node, where)

    def scalar(self, node: yaml.Node, where: str) -> Any:
        """Text, a number, a boolean or None, read as YAML 1.1 does (PyYAML's way), with warnings where that surprises.

        Returns BAD where it is none of these.
        """
        self._visit(node)
        if not isinstance(node, yaml.ScalarNode):
            self.refuse(node, f"{where} must be a single value, not {_kind(node)}")
            return BAD
        written = str(node.value)
        match node.tag.removeprefix(_TAG):
            case "null":
                return None
            case "bool":
                found = bool(self._construct.construct_yaml_bool(node))
                if written.lower() not in ("true", "false"):
                    self.warn(node, f"{written} is read as {str(found).lower()}; put it in quotes if it is text")
                return found
            case "int":
                return self._integer(node, written, where)
            case "float":
                return self._float(node, written, where)
            case "str" if node.style is None and _is_number(written):
                self.warn(node, f"{written} is text to YAML 1.1 and is taken as the number {float(written)!r}")
                return self._finite(node, float(written), where)
            case "str" | "value" | "merge" | "timestamp":  # a date stays as it is written: JSON has none
                return self._text(node, written, where)
            case other:
                self.refuse(node, f"{where} has the tag {other!r}; only plain YAML is read")
                return BAD

    def _integer(self, node: yaml.ScalarNode, written: str, where: str) -> Any:
        try:
            found = int(self._construct.construct_yaml_int(node))
        except ValueError:
            self.refuse(node, f"{where}: {written!r} is not an integer")
            return BAD
        if ":" in written or re.fullmatch(r"[-+]?0[0-9_]+", written):
            self.warn(node, f"{written} is read as {found}, to another base; put it in quotes if it is text")
        return found

    def _float(self, node: yaml.ScalarNode, written: str, where: str) -> Any:
        try:
            found = float(self._construct.construct_yaml_float(node))
        except ValueError:
            self.refuse(node, f"{where}: {written!r} is not a number")
            return BAD
        if ":" in written:
            self.warn(node, f"{written} is read as {found}, to another base; put it in quotes if it is text")
        return self._finite(node, found, where)

    def _finite(self, node: yaml.Node, found: float, where: str) -> Any:
        if math.isfinite(found):
            return found
        self.refuse(node, f"{where}: {found} cannot be written as JSON; put it in quotes to pass it as text")
        return BAD

    def _text(self, node: yaml.Node, written: str, where: str) -> Any:
        if "\0" in written:
            self.refuse(node, f"{where} holds a NUL character, which no program's argument can")
            return BAD
        if any("\ud800" <= character <= "\udfff" for character in written):
            self.refuse(node, f"{where} holds half a surrogate pair, which is no text")
            return BAD
        return written

    def text(self, node: yaml.Node, where: str) -> str | None:
        """A non-empty text as it is written: a name like 2024 or on stays what it is."""
        self._visit(node)
        if not isinstance(node, yaml.ScalarNode) or node.tag == _TAG + "null" or not node.value:
            self.refuse(node, f"{where} must be text, not {_kind(node)}")
            return None
        if node.tag.removeprefix(_TAG) not in _PLAIN:
            self.refuse(node, f"{where} has the tag {node.tag.removeprefix(_TAG)!r}; only plain YAML is read")
            return None
        found = self._text(node, str(node.value), where)
        return None if found is BAD else str(found)

    def integer(self, node: yaml.Node, where: str, low: int, high: int | None = None) -> int | None:
        found = self.scalar(node, where)
        if found is BAD:
            return None
        if not isinstance(found, int) or isinstance(found, bool) or found < low or (high is not None and found > high):
            limits = f"of {low} or more" if high is None else f"from {low} to {high}"
            self.refuse(node, f"{where} must be a whole number {limits}, not {show(found)}")
            return None
        return found

    def number(self, node: yaml.Node, where: str) -> int | float | None:
        found = self.scalar(node, where)
        if found is BAD:
            return None
        if not isinstance(found, int | float) or isinstance(found, bool):
            self.refuse(node, f"{where} must be a number, not {show(found)}")
            return None
        return found

    def _check_tag(self, node: yaml.Node, tag: str) -> None:
        if node.tag != _TAG + tag:
            self.refuse(node, f"the tag {node.tag.removeprefix(_TAG)!r} is not known; only plain YAML is read")

    def _visit(self, node: yaml.Node) -> None:
        self._visited += 1
        if self._visited > LARGEST_EXPANSION:
            self.stop(node, f"the file expands to more than {LARGEST_EXPANSION} values; do its aliases repeat?")


def show(value: object) -> str:
    """As it would be written in the file."""
    if value is None:
        return "nothing"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _is_number(written: str) -> bool:
    # Digits alone, such as 08, are text to YAML 1.1 and mostly meant so.
    return bool(_YAML_1_2_FLOAT.fullmatch(written)) and not written.lstrip("+-").isdigit()


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return repr(node.value) if node.value and node.tag != _TAG + "null" else "nothing"


def _syntax_problem(error: yaml.MarkedYAMLError, text: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    said = ", ".join(part for part in (error.context, error.problem) if part) or "broken YAML"
    if mark is None:
        return Problem(said)
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    if "${" in line and "[" in line:
        said += '; inside [ ] a macro needs quotes: ["${program}", "${args}"]'
    elif "\t" in line[: len(line) - len(line.lstrip())]:
        said += "; indent with spaces: YAML allows no tabs there"
    elif isinstance(error, yaml.parser.ParserError) and "block mapping" in (error.context or ""):
        said += "; is this line indented as those it belongs with?"
    return Problem(said, mark.line + 1, mark.column + 1)
