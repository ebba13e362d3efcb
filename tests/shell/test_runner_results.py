"""Results that are too large for a record: what becomes of them before their attempt has ended."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from mesh.blob.objects import load
from mesh.core.errors import MeshError, QuotaExceeded
from mesh.core.lattice import FAILED, RELEASED, SUCCEEDED
from mesh.task.functions import RECORD_BYTES
from tests.shell.runner_harness import BOUND, Harness, call, function


@pytest_asyncio.fixture
async def h(tmp_path: Path) -> AsyncIterator[Harness]:
    harness = Harness(tmp_path)
    yield harness
    harness.copied.set()
    harness.opens.set()
    await harness.close()


def large() -> Any:
    """A function whose result is no record's: defined here, so that it travels by value."""

    def made() -> dict[str, Any]:
        import numpy

        return {"weights": numpy.arange(20_000.0), "note": "one"}

    return made


async def test_it_is_a_blob_and_comes_back_equal(h: Harness) -> None:
    phase, outcome = await h.run(function(large()))
    assert (phase, outcome.result, outcome.digest) == (SUCCEEDED, b"", outcome.blob)
    value = load(outcome.blob, h.read(outcome.blob))
    assert value["note"] == "one"
    assert np.array_equal(value["weights"], np.arange(20_000.0))
    assert (h.writers, h.objects[outcome.blob].holds) == (0, 0)


@pytest.mark.parametrize("over", [0, 1])
async def test_up_to_16_kib_it_is_in_the_record(h: Harness, over: int) -> None:
    size = RECORD_BYTES - len(pickle.dumps(bytes(1000), 5)) + 1000 + over
    phase, outcome = await h.run(function(lambda: bytes(size)))
    assert phase == SUCCEEDED
    assert (len(outcome.result), bool(outcome.blob)) == (0 if over else RECORD_BYTES, bool(over))


async def test_a_small_array_is_in_the_record(h: Harness) -> None:
    def small() -> object:
        import numpy

        return numpy.arange(3)

    assert (await h.value(function(small))).tolist() == [0, 1, 2]
    assert h.spread_to == []


async def test_what_module_and_name_give_is_kept_too(h: Harness) -> None:
    phase, outcome = await h.run(call("builtins:bytearray", b"{}"))
    assert (phase, outcome.blob) == (SUCCEEDED, "")
    phase, outcome = await h.run(call("textwrap:indent", b'{"text": "%s", "prefix": ""}' % (b"x" * 20_000)))
    assert load(outcome.blob, h.read(outcome.blob)) == "x" * 20_000


async def test_results_that_share_an_array_store_it_once(h: Harness) -> None:
    def with_number(number: int) -> object:
        import numpy

        return number, numpy.arange(1_000_000, dtype="u1"), numpy.full(1 << 20, 7, "u1")

    ends = await h.ends_of(h.begin(*(function(with_number, number) for number in range(10))))
    assert [load(end.blob, h.read(end.blob))[0] for _, end in ends] == list(range(10))
    sizes = sorted(path.stat().st_size for path in (h.directory / "chunks").rglob("*") if path.is_file())
    assert sizes[-2:] == [1_000_000, 1 << 20]
    assert sum(sizes[:-2]) < 10_000


async def test_its_attempt_ends_once_it_is_copied_and_the_slot_goes_on_meanwhile(h: Harness) -> None:
    h.copied.clear()
    first, second = h.begin(function(large()), function(lambda: "small"))
    assert (await h.end_of(second))[0] == SUCCEEDED
    await h.until(lambda: bool(h.spread_to))
    assert await h.value(function(lambda: 7)) == 7, "so long, at the least, it was not told of"
    ((blob, copies, _),) = h.spread_to
    assert (first in h.ended, copies) == (False, 2)
    assert h.objects[blob].holds == 1, "it cannot be collected before somebody knows of it"
    h.copied.set()
    assert (await h.end_of(first))[1].blob == blob
    assert h.objects[blob].holds == 0


@pytest.mark.parametrize("at", ["opened", "committed"])
async def test_a_store_that_takes_nothing_fails_the_attempt_and_says_what_to_do(h: Harness, at: str) -> None:
    full = QuotaExceeded("there is no room for it", "the quota is 10 bytes")
    if at == "committed":
        h.refuses = full
        phase, outcome = await h.run(function(large()))
    else:

        async def refuse() -> Any:
            raise full

        h.writing, opens = refuse, h.writing  # type: ignore[method-assign]
        phase, outcome = await h.run(function(large()))
        h.writing = opens  # type: ignore[method-assign]
    assert (phase, outcome.code, outcome.digest, outcome.blob) == (FAILED, "QuotaExceeded", "", "")
    assert outcome.message == (
        "its result of 156.4 KiB was lost: there is no room for it; the quota is 10 bytes; give the store more"
        " room with meshd --store, return less, or write it to MESH_OUTPUT_DIR and return its path"
    )
    h.refuses = None
    assert (await h.run(function(large())))[0] == SUCCEEDED
    assert h.writers == 0


async def test_it_is_told_of_though_it_cannot_be_copied(h: Harness) -> None:
    async def broken(blob: str, copies: int, like: str) -> str:
        raise MeshError("nobody can be asked")

    h.spread = broken  # type: ignore[method-assign]
    assert (await h.run(function(large())))[0] == SUCCEEDED


async def test_a_stop_before_it_is_written_ends_the_attempt_without_one(h: Harness) -> None:
    h.opens.clear()
    (attempt,) = h.begin(function(large()))
    await h.until(lambda: bool(h.waiting))
    h.stop(attempt)
    phase, outcome = await h.end_of(attempt)
    assert (phase, outcome.code, outcome.blob) == (RELEASED, "cancelled", "")
    h.opens.set()
    assert await h.value(function(lambda: 7)) == 7
    await h.until(lambda: h.writers == 0)


async def test_meshd_does_not_wait_for_copies_when_it_stops(h: Harness) -> None:
    h.copied.clear()
    (attempt,) = h.begin(function(large()))
    await h.until(lambda: bool(h.spread_to))
    async with asyncio.timeout(BOUND):
        await h.close()
    phase, outcome = h.ended[attempt]
    assert (phase, outcome.blob) == (SUCCEEDED, h.spread_to[0][0])


async def test_a_runner_that_died_before_it_wrote_leaves_the_store_free(h: Harness) -> None:
    def made() -> object:
        import os

        print(os.getpid(), flush=True)
        return bytes(100_000)

    h.opens.clear()
    (attempt,) = h.begin(function(made))
    pid = int(await h.line(attempt))
    await h.until(lambda: bool(h.waiting))
    os.kill(pid, signal.SIGKILL)
    assert (await h.end_of(attempt))[0] == FAILED
    h.opens.set()
    await h.until(lambda: not h.waiting and bool(h.spread_to))  # that of its log, which was written meanwhile
    assert await h.value(function(lambda: 7)) == 7
    assert h.writers == 0
