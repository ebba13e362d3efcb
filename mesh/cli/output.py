"""How things are shown: JSON for programs, tables and lines for people, rich only on a terminal."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import IO, Any

from mesh.core.errors import InvalidSpec, Problem

GAP = "  "


class Output:
    """Where a command's answer goes. ``json``: documents instead of text."""

    def __init__(self, as_json: bool, stdout: IO[str] | None = None, stderr: IO[str] | None = None) -> None:
        self.json = as_json
        self.stdout = stdout or sys.stdout
        self.stderr = stderr or sys.stderr

    @property
    def on_terminal(self) -> bool:
        return self.stdout.isatty() and os.environ.get("TERM") != "dumb"

    def document(self, value: Any) -> None:
        """Indented for the eye on a terminal, one line otherwise."""
        text = json.dumps(value, indent=2 if self.on_terminal else None, ensure_ascii=False)
        print(text, file=self.stdout, flush=True)

    def line(self, text: str = "") -> None:
        print(text, file=self.stdout, flush=True)

    def note(self, text: str) -> None:
        """Beside the answer: progress, warnings."""
        print(text, file=self.stderr, flush=True)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], nothing: str = "") -> None:
        """Aligned text; ``nothing`` stands for no rows at all."""
        if not rows:
            self.line(nothing)
            return
        texts = [[shown(cell) for cell in row] for row in rows]
        if self.on_terminal:
            self._rich_table(columns, texts)
            return
        widths = [max(len(line[i]) for line in [list(columns), *texts]) for i in range(len(columns))]
        for line in [list(columns), *texts]:
            self.line(GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())

    def _rich_table(self, columns: Sequence[str], texts: list[list[str]]) -> None:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        needed = 0
        for column, *cells in zip(columns, *texts, strict=True):
            table.add_column(column, overflow="fold", no_wrap=column not in _PROSE)
            widest = max(len(text) for text in (column, *cells))
            needed += len(GAP) + (min(widest, _NARROWEST) if column in _PROSE else widest)
        for line in texts:
            table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in line))
        console = Console(file=self.stdout)
        # Where even that is too wide, the terminal breaks the lines: an id in pieces cannot be copied.
        console.width = max(console.width, needed)
        console.print(table)

    def fields(self, pairs: Sequence[tuple[str, object]]) -> None:
        """One thing: its fields, one to a line, without the empty ones."""
        kept = [(name, shown(value)) for name, value in pairs if shown(value)]
        width = max((len(name) for name, _ in kept), default=0)
        for name, value in kept:
            self.line(f"{name.ljust(width)}{GAP}{value}")


_PROSE = frozenset({"DEVICES", "METRICS", "OFFERS", "PARAMS", "REASON", "VALUES", "WHY"})  # columns that may be folded
_NARROWEST = 16  # characters that such a column keeps

_STYLES = {
    "alive": "green",
    "succeeded": "green",
    "running": "cyan",
    "suspect": "yellow",
    "island": "yellow",
    "paused": "yellow",
    "pending": "dim",
    "failed": "red",
    "refused": "red",
    "cancelled": "magenta",
}


def shown(value: object) -> str:
    """As a person reads it: nothing for None, short numbers, nested things as JSON."""
    if value is None or value in ("", [], {}):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    # Control characters would write over the terminal; what tasks and other machines say is not trusted with it.
    return "".join(c if c.isprintable() else " " for c in str(value))


def literal(value: object) -> str:
    """A parameter or a metric: what programs are given is not ``yes``, and null is not the same as nothing."""
    if value is None or isinstance(value, bool) or value in ("", [], {}):
        return json.dumps(value)
    return shown(value)


def pairs(values: dict[str, Any] | None) -> str:
    """``lr=0.1 depth=3``."""
    return " ".join(f"{key}={literal(value)}" for key, value in flat(values or {}).items())


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested parameters by dotted names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            found.update(flat(value, f"{prefix}{key}."))
        else:
            found[prefix + key] = value
    return found


def size(count: float) -> str:
    """Bytes in units of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if count >= 10 or count == int(count) else f"{count:.1f} {unit}"


def report(error: Exception, output: Output, file: str = "") -> None:
    """An error as ``meshctl: what; why; what to do``; the problems of a file one to a line, each with its place."""
    if isinstance(error, InvalidSpec) and error.problems:
        for problem in error.problems:
            output.note(placed(problem, file))
    else:
        output.note(f"meshctl: {error}")


def placed(problem: Problem, file: str, kind: str = "") -> str:
    kind = f"{kind}: " if kind else ""
    if not file:
        return f"meshctl: {kind}{problem.text}"
    place = f"{file}:{problem.line}:{problem.column}" if problem.line else file
    return f"{place}: {kind}{problem.text}"
