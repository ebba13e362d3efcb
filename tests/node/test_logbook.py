"""Lines in both forms, and the book that ``meshctl logs NODE`` reads."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from mesh.node.logbook import KEPT, Context, open_book


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root, loop = logging.getLogger("mesh"), logging.getLogger("asyncio")
    before = (root.handlers, root.level, root.propagate, loop.handlers)
    yield
    root.handlers, root.propagate, loop.handlers = before[0], before[2], before[3]
    root.setLevel(before[1])


def test_json_lines_have_the_promised_keys() -> None:
    out, context = io.StringIO(), Context()
    open_book("info", "json", context, out)
    context.node, context.term = "50-A", 3
    logging.getLogger("mesh").warning("%s left", "b", extra={"event": "left", "fields": {"peer": "b", "msg": "no"}})
    (line,) = [json.loads(text) for text in out.getvalue().splitlines()]
    assert list(line) == ["ts", "level", "node", "term", "event", "msg", "peer"]
    assert (line["level"], line["node"], line["term"], line["event"], line["msg"]) == (
        "warning", "50-A", 3, "left", "b left",
    )  # fmt: skip
    assert line["ts"].endswith("Z")


def test_text_lines_hold_event_and_traceback_and_obey_the_level() -> None:
    out = io.StringIO()
    open_book("info", "text", Context(), out)
    log = logging.getLogger("mesh.shell")
    log.debug("unseen")
    try:
        raise ValueError("boom")
    except ValueError:
        log.exception("failed", extra={"event": "defect"})
    text = out.getvalue()
    assert "error   defect: failed\n" in text
    assert "ValueError: boom" in text
    assert "unseen" not in text


async def test_book_keeps_the_newest_and_can_be_followed() -> None:
    log, book = logging.getLogger("mesh"), open_book("info", "text", Context(), io.StringIO())
    for number in range(KEPT + 5):
        log.info("line %d", number)
    (kept,) = [part async for part in book.read(follow=False)]
    assert len(kept.splitlines()) == KEPT
    assert kept.splitlines()[0].endswith(b"line 5")
    following = book.read(follow=True)
    assert await anext(following) == kept
    log.info("one")
    log.info("two")
    assert [line.rpartition(b" ")[2] for line in (await anext(following)).splitlines()] == [b"one", b"two"]
