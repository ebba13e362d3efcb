"""What a task asks of its checkpoints at its socket, what the mesh is told of them, and what an end waits for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from mesh.blob.files import write_blob
from mesh.blob.manifest import name
from mesh.core.errors import BlobMissing, QuotaExceeded
from mesh.core.events import AttemptResumed, AttemptSaved, AttemptsEnded
from mesh.core.lattice import FAILED, RELEASED, SUCCEEDED, Checkpoint, Checkpointing
from mesh.shell import runners
from tests.shell.runner_harness import BOUND, Harness, Whole, shell

EARLIER = Checkpoint(1, 7, "1.50-OTHER.LIFE.1", 1, "0e" * 32, 5)


@pytest_asyncio.fixture
async def h(tmp_path: Path) -> AsyncIterator[Harness]:
    harness = Harness(tmp_path)
    yield harness
    harness.copied.set()
    await harness.close()


class Line:
    """The task's end of its socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def of(cls, h: Harness, attempt: str) -> Line:
        """Once it runs."""
        await h.line(attempt)
        line = cls(*await asyncio.open_unix_connection(h.runners._server.path))
        await line.ask({"attempt": attempt, "secret": h.runners.secret_of(attempt)})
        return line

    async def ask(self, message: dict[str, Any], body: bytes = b"") -> dict[str, Any]:
        async with asyncio.timeout(BOUND):
            self.writer.write(json.dumps(message).encode() + b"\n" + body)
            answer: dict[str, Any] = json.loads(await self.reader.readline())
            answer["body"] = await self.reader.readexactly(answer.get("size", 0))
            return answer

    async def save(self, h: Harness, data: bytes, step: int = 1, **metrics: float) -> str:
        """The blob."""
        assert (await self.ask({"checkpoint": "open"}))["directory"] == str(h.directory)
        manifest = write_blob(h.files, [data])
        question = {"checkpoint": "save", "step": step, "metrics": metrics, "size": len(manifest)}
        answer = await self.ask(question, manifest)
        assert answer == {"ok": True, "size": 0, "body": b""}
        return name(manifest)


WAIT = shell("echo here; read line < $MESH_OUTPUT_DIR/none 2>/dev/null; exec sleep 60")


def told(h: Harness) -> list[Checkpoint]:
    return [event.checkpoint for event in h.events if isinstance(event, AttemptSaved)]


async def test_what_is_saved_is_copied_and_then_told_with_its_step_and_metrics(h: Harness) -> None:
    [attempt] = h.begin(WAIT, checkpoints=Checkpointing(copies=3))
    line = await Line.of(h, attempt)
    h.copied.clear()
    first = await line.save(h, b"one", 4, loss=0.5)
    await h.until(lambda: h.spread_to == [(first, 3, "")])
    assert not told(h), "it is complete once it is copied"
    h.copied.set()
    await h.until(lambda: bool(told(h)))
    [checkpoint] = told(h)
    assert checkpoint[:7] == (1, 4, attempt, 1, first, 3, b'{"loss":0.5}')
    second = await line.save(h, b"two", 5)
    await h.until(lambda: len(told(h)) == 2)
    assert h.spread_to[1] == (second, 3, first), "it goes where the one before is: most of it is there"
    assert told(h)[1].number == 2


async def test_of_those_that_came_while_one_was_copied_only_the_last_is_copied(h: Harness) -> None:
    [attempt] = h.begin(WAIT)
    line = await Line.of(h, attempt)
    h.copied.clear()
    blobs = []
    for number in range(4):
        blobs.append(await line.save(h, b"%d" % number, number))
        await h.until(lambda: bool(h.spread_to))
    h.copied.set()
    await h.until(lambda: len(told(h)) == 2)
    assert [checkpoint.blob for checkpoint in told(h)] == [blobs[0], blobs[3]]
    held = [h.objects[blob].holds for blob in blobs]
    await h.until(lambda: not any(h.objects[blob].holds for blob in blobs))
    assert held[1:3] == [0, 0], "what is not copied may go"


@pytest.mark.parametrize(("code", "waits"), [("paused", True), ("drained", True), ("recalled", False)])
async def test_an_end_waits_until_the_last_checkpoint_is_complete(h: Harness, code: str, waits: bool) -> None:
    [attempt] = h.begin(WAIT)
    line = await Line.of(h, attempt)
    h.copied.clear()
    await line.save(h, b"one")
    h.stop(attempt, code=code)
    await h.printed(attempt)  # which ends with its process
    if waits:
        assert not h.ended
        h.copied.set()
    phase, outcome = await h.end_of(attempt)
    assert (phase, outcome.code) == (RELEASED, code)
    kinds = [type(event) for event in h.events if isinstance(event, AttemptSaved | AttemptsEnded)]
    assert kinds == ([AttemptSaved, AttemptsEnded] if waits else [AttemptsEnded])


async def test_meshd_that_stops_does_not_wait_for_copies(h: Harness) -> None:
    [attempt] = h.begin(WAIT)
    line = await Line.of(h, attempt)
    h.copied.clear()
    await line.save(h, b"one")
    await h.close()
    assert attempt in h.ended
    assert not told(h)


async def test_an_end_does_not_wait_for_ever(h: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.shell.runner_checkpoints.SETTLE", 0.01)
    [attempt] = h.begin(shell("echo here; sleep 0.3; exit 3"))
    line = await Line.of(h, attempt)
    h.copied.clear()
    await line.save(h, b"one")
    assert (await h.end_of(attempt))[0] == FAILED
    assert not told(h)


async def test_chunks_stay_until_the_attempt_has_ended(h: Harness) -> None:
    [attempt] = h.begin(WAIT)
    line = await Line.of(h, attempt)
    await line.ask({"checkpoint": "open"})
    assert h.writers == 1
    blob = await line.save(h, b"one")
    assert h.writers == 0, "while anybody writes no file goes: a store would grow for as long as a task trains"
    await line.ask({"checkpoint": "open"})
    await line.ask({"checkpoint": "load", "damaged": ""})
    assert (h.writers, h.objects[blob].holds > 0) == (1, True)
    h.stop(attempt)
    await h.end_of(attempt)
    await h.until(lambda: (h.writers, h.objects[blob].holds) == (0, 0))


async def test_load_gives_the_newest_its_own_before_that_of_an_earlier_attempt(h: Harness) -> None:
    h.objects[EARLIER.blob] = Whole(b"manifest", "/there")
    [attempt] = h.begin(WAIT, resume=(EARLIER,))
    line = await Line.of(h, attempt)
    answer = await line.ask({"checkpoint": "load"})
    assert answer == {
        "ok": True, "blob": EARLIER.blob, "step": 7, "attempt": EARLIER.attempt, "directory": "/there", "size": 8,
        "body": b"manifest",
    }  # fmt: skip
    await h.until(lambda: AttemptResumed(attempt, EARLIER.blob) in h.events)
    own = await line.save(h, b"own", 8)
    assert (await line.ask({"checkpoint": "load"}))["blob"] == own
    assert sum(isinstance(event, AttemptResumed) for event in h.events) == 1


async def test_where_nothing_was_saved_load_says_so(h: Harness) -> None:
    [attempt] = h.begin(WAIT)
    answer = await (await Line.of(h, attempt)).ask({"checkpoint": "load"})
    assert (answer["blob"], answer["body"]) == ("", b"")


async def test_where_the_newest_is_gone_the_one_before_is_given_and_where_all_are_an_error(h: Harness) -> None:
    older = EARLIER._replace(step=6, blob="0d" * 32)
    h.objects[EARLIER.blob] = BlobMissing("nobody has it")
    h.objects[older.blob] = Whole(b"older", "/there")
    [attempt] = h.begin(WAIT, resume=(EARLIER, older))
    line = await Line.of(h, attempt)
    assert (await line.ask({"checkpoint": "load"}))["step"] == 6
    h.objects[older.blob] = BlobMissing("nobody has it either")
    answer = await line.ask({"checkpoint": "load"})
    assert answer["error"] == "BlobMissing"
    assert "none of the 2 checkpoints" in answer["message"]
    assert "nobody has it either" in answer["message"]


async def test_a_damaged_one_is_had_again(h: Harness) -> None:
    h.objects[EARLIER.blob] = Whole(b"damaged", "/there")
    h.objects[EARLIER.blob + "!"] = Whole(b"mended", "/there")
    [attempt] = h.begin(WAIT, resume=(EARLIER,))
    line = await Line.of(h, attempt)
    assert (await line.ask({"checkpoint": "load", "damaged": EARLIER.blob}))["body"] == b"mended"


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ({"checkpoint": "save", "step": -1, "metrics": {}}, "whole number from 0"),
        ({"checkpoint": "save", "step": 1.5, "metrics": {}}, "whole number from 0"),
        ({"checkpoint": "save", "step": 1, "metrics": []}, "names and numbers"),
        ({"checkpoint": "save", "step": 1, "metrics": {"x" * 20_000: 1}}, "bytes; at most 16384"),
        ({"checkpoint": "delete"}, "open, save and load"),
        ({"checkpoint": "save", "size": -1}, "the limit is"),
        ({"checkpoint": "save", "size": 1 << 40}, "the limit is"),
        ({"checkpoint": "save", "step": 1, "metrics": {}, "size": 3}, "no manifest|is not its own"),
    ],
)
async def test_what_makes_no_sense_is_refused_and_told_of_by_nobody(h: Harness, message: Any, why: str) -> None:
    [attempt] = h.begin(WAIT)
    line = await Line.of(h, attempt)
    await line.ask({"checkpoint": "open"})
    answer = await line.ask(message, b"abc"[: message.get("size", 0)] if message.get("size", 0) == 3 else b"")
    assert any(part in f"{answer['error']} {answer.get('message')}" for part in why.split("|")), answer
    assert not h.spread_to


async def test_what_cannot_be_kept_is_told_and_holds_nothing_up(h: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(manifest: bytes) -> tuple[str, int]:
        raise QuotaExceeded("it does not fit in the store")

    [attempt] = h.begin(WAIT)
    line = await Line.of(h, attempt)
    await line.ask({"checkpoint": "open"})
    monkeypatch.setattr(h, "commit", full)
    answer = await line.ask({"checkpoint": "save", "step": 1, "metrics": {}, "size": 3}, b"abc")
    assert (answer["error"], h.writers) == ("QuotaExceeded", 0)


async def test_nothing_is_saved_before_it_was_opened(h: Harness) -> None:
    [attempt] = h.begin(WAIT)
    answer = await (await Line.of(h, attempt)).ask({"checkpoint": "save", "step": 1, "metrics": {}})
    assert "opened before it is saved" in answer["error"]


async def test_what_uses_checkpoints_has_longer_to_save_one_more_but_not_when_it_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The usual grace is none here: what is not killed at once was given time."""
    h = Harness(tmp_path, grace=0.0)
    try:
        stubborn = shell("trap 'echo saving; sleep 0.2; exit 0' TERM; echo here; while :; do sleep 0.05; done")
        [attempt] = h.begin(stubborn)
        await (await Line.of(h, attempt)).ask({"checkpoint": "open"})
        h.stop(attempt, code="paused")
        assert (await h.end_of(attempt))[0] == RELEASED
        assert b"saving" in await h.printed(attempt)
        monkeypatch.setattr(runners, "SAVE_GRACE", 600.0)
        [attempt] = h.begin(shell("trap '' TERM; echo here; while :; do sleep 0.05; done"))
        await (await Line.of(h, attempt)).ask({"checkpoint": "open"})
        h.stop(attempt, code="cancelled")
        await h.end_of(attempt)
    finally:
        await h.close()


async def test_the_policy_says_how_often(h: Harness) -> None:
    [attempt] = h.begin(shell("echo every $MESH_CHECKPOINT_EVERY"), checkpoints=Checkpointing(every_ms=1500))
    assert (await h.end_of(attempt))[0] == SUCCEEDED
    assert await h.printed(attempt) == b"every 1.5\n"
