"""What becomes of the output of attempts that have ended: its name at once, its copies in the background."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from mesh.core.errors import QuotaExceeded
from mesh.core.lattice import FAILED, RELEASED, SUCCEEDED
from mesh.task.logs import CAP_BYTES
from tests.shell.runner_harness import Harness, function, shell


@pytest_asyncio.fixture
async def h(tmp_path: Path) -> AsyncIterator[Harness]:
    harness = Harness(tmp_path)
    yield harness
    harness.copied.set()
    harness.opens.set()
    await harness.close()


def uncopied(h: Harness) -> list[str]:
    return sorted(os.listdir(h.state / "uncopied"))


async def copied(h: Harness, blob: str) -> bytes:
    """What the blob holds, once it has been copied."""
    await h.until(lambda: blob in [spread for spread, _, _ in h.spread_to])
    return bytes(h.read(blob))


async def test_what_a_command_printed_is_a_blob(h: Harness) -> None:
    _, outcome = await h.run(shell("echo out; echo err >&2"))
    assert sorted((await copied(h, outcome.log)).split()) == [b"err", b"out"]
    assert h.spread_to == [(outcome.log, 2, "")]


async def test_what_a_function_printed_is_a_blob(h: Harness) -> None:
    phase, outcome = await h.run(function(lambda: print("said")))
    assert phase == SUCCEEDED
    assert await copied(h, outcome.log) == b"said\n"


async def test_who_printed_nothing_has_none(h: Harness) -> None:
    ends = await h.ends_of(h.begin(shell("exit 0"), function(lambda: 7)))
    assert [outcome.log for _, outcome in ends] == ["", ""]
    assert uncopied(h) == []


async def test_it_holds_what_a_reader_of_the_file_sees(h: Harness) -> None:
    """More than is kept: head, a line that says what was dropped, tail."""
    (attempt,) = h.begin(shell(f"yes abcdefg | head -c {CAP_BYTES + (3 << 20)}"))
    _, outcome = await h.end_of(attempt)
    data = await copied(h, outcome.log)
    assert b"bytes dropped" in data
    assert data == await h.printed(attempt)


async def test_the_end_waits_for_no_copy(h: Harness) -> None:
    h.copied.clear()
    h.opens.clear()
    ends = await h.ends_of(h.begin(*(shell(f"echo {n}") for n in range(5))))
    assert [phase for phase, _ in ends] == [SUCCEEDED] * 5
    assert h.spread_to == []
    h.opens.set()
    h.copied.set()
    for n, (_, outcome) in enumerate(ends):
        assert await copied(h, outcome.log) == b"%d\n" % n


async def test_equal_logs_are_one_blob(h: Harness) -> None:
    h.opens.clear()
    ends = await h.ends_of(h.begin(*(shell("echo same") for _ in range(5))))
    h.opens.set()
    assert len({outcome.log for _, outcome in ends}) == 1
    await copied(h, ends[0][1].log)
    await h.until(lambda: not h.writers)
    assert len(h.spread_to) <= 2, "the first, and all that ended meanwhile"


@pytest.mark.parametrize("how", ["crash", "stop"])
async def test_one_whose_runner_died_has_its_log(h: Harness, how: str) -> None:
    def talks() -> None:
        import os
        import signal
        import time

        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(os.getpid(), flush=True)
        time.sleep(60)

    (attempt,) = h.begin(function(talks))
    pid = int(await h.line(attempt))
    if how == "crash":
        os.kill(pid, signal.SIGKILL)
    else:
        h.stop(attempt)
    phase, outcome = await h.end_of(attempt)
    assert phase == (FAILED if how == "crash" else RELEASED)
    assert await copied(h, outcome.log) == f"{pid}\n".encode()


async def test_what_was_not_copied_is_by_the_next_life(tmp_path: Path) -> None:
    first = Harness(tmp_path)
    first.opens.clear()
    (attempt,) = first.begin(shell("echo kept"))
    _, outcome = await first.end_of(attempt)
    await first.close()
    assert len(uncopied(first)) == 1
    second = Harness(tmp_path)
    assert await copied(second, outcome.log) == b"kept\n"
    await second.until(lambda: not second.writers)
    await second.run(shell("exit 0"))
    await second.close()
    assert uncopied(second) == []


async def test_a_full_store_leaves_it_to_the_next_life(h: Harness) -> None:
    h.refuses = QuotaExceeded("there is no room for it")
    _, outcome = await h.run(shell("echo lost"))
    assert outcome.log
    await h.until(lambda: h.refused > 0)
    h.refuses = None
    _, other = await h.run(shell("echo other"))
    assert await copied(h, other.log) == b"other\n"
    assert os.readlink(h.state / "uncopied" / uncopied(h)[0]) == outcome.log
