"""What this daemon says: lines on stderr, as text or JSON, and the newest of them for ``meshctl logs NODE``.

Owns the form of a line; whoever logs gives a message and, as ``extra``, ``event`` (a stable name) and ``fields``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections import deque
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import IO

KEPT = 2000  # lines, about 300 KB
ROOT = "mesh"
LOOK_EVERY = 0.25  # seconds between two looks of one who follows


class Context:
    """What stands in every line. ``term`` changes with the leader."""

    def __init__(self) -> None:
        self.node = ""
        self.term = 0


class TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event = getattr(record, "event", "")
        message = _message(self, record)
        level = record.levelname.lower()
        return f"{_clock(record)} {level:<7} {event + ': ' if event else ''}{message}"


class JsonFormatter(logging.Formatter):
    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "ts": _clock(record),
            "level": record.levelname.lower(),
            "node": self._context.node,
            "term": self._context.term,
            "event": getattr(record, "event", ""),
            "msg": _message(self, record),
        }
        for key, value in getattr(record, "fields", {}).items():
            line.setdefault(key, value)
        return json.dumps(line, default=str)


class Book(logging.Handler):
    """The newest lines, each with its number from 1."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[bytes] = deque(maxlen=KEPT)
        self._count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record).encode("utf-8", "replace") + b"\n")
        self._count += 1

    async def read(self, follow: bool) -> AsyncIterator[bytes]:
        """What is kept; with ``follow``, for ever what is added. Lines that were pushed out meanwhile are missing."""
        told = 0
        while True:
            lines = list(self._lines)
            fresh, told = min(self._count - told, len(lines)), self._count
            if fresh:
                yield b"".join(lines[-fresh:])
            if not follow:
                return
            # Lines also come from other threads: looking is simpler than waking, and costs nothing while nobody looks.
            await asyncio.sleep(LOOK_EVERY)


def open_book(level: str, form: str, context: Context, stream: IO[str] | None = None) -> Book:
    """Everything under ``mesh`` goes to stderr and into the book from now on."""
    book = Book()
    lines = logging.StreamHandler(stream or sys.stderr)
    for handler in (book, lines):
        handler.setFormatter(JsonFormatter(context) if form == "json" else TextFormatter())
    root = logging.getLogger(ROOT)
    root.handlers = [lines, book]
    root.setLevel(level.upper())
    root.propagate = False
    logging.getLogger("asyncio").handlers = root.handlers
    return book


def _clock(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    message = record.getMessage()
    if record.exc_info:
        message += "\n" + formatter.formatException(record.exc_info)
    return message
