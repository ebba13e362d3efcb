"""Which files of a directory are left out of its blob: what git would leave out by .gitignore, and .meshignore.

The last line that matches decides, those of deeper directories after those above, .meshignore after .gitignore; nothing
below a directory that is left out can come back. Files above the directory and git's own settings do not count, so the
same files are left out on every machine.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from pathspec import GitIgnoreSpec

FILES = (".gitignore", ".meshignore")  # in this order
ALWAYS = frozenset((".git", "__pycache__"))


class Line(NamedTuple):
    pattern: re.Pattern[str]
    leaves_out: bool  # else it brings back

    def matches(self, path: str) -> bool:
        """Whether it means this path itself. The pattern also finds what lies below: there its group, the slash after
        the directory that it means, ends before the path does."""
        return any(
            found.lastindex is None or found.end(found.lastindex) == len(path) for found in self.pattern.finditer(path)
        )


class Rules(NamedTuple):
    """The lines of one directory's ignore files."""

    below: str  # that directory, ending in "/"; empty: the top
    lines: tuple[Line, ...]


def parse(text: str) -> tuple[Line, ...]:
    lines = []
    for line in text.removeprefix("\ufeff").split("\n"):
        # What ends in "/**" means what lies below, and the pattern would find the directory itself; so say it in full.
        bare = line.rstrip()  # spaces, and the other half of a Windows line end
        line = bare + "/*" if bare.endswith("/**") else bare + "*/" if bare.endswith("/**/") else line
        try:
            found = list(GitIgnoreSpec.from_lines([line]).patterns)
        except ValueError:
            continue  # such as a lone "!": git lets it match nothing
        lines += [Line(one.regex, one.include) for one in found if one.include is not None and one.regex is not None]
    return tuple(lines)


def left_out(path: str, rules: tuple[Rules, ...]) -> bool:
    """``path`` from the top, that of a directory ending in "/"; ``rules`` those of all directories above, top first."""
    for below, lines in reversed(rules):
        for line in reversed(lines):
            if line.matches(path[len(below) :]):
                return line.leaves_out
    return False
