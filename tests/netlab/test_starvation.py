"""What the kernel says of waiting for a core, and what follows from it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.mesh import until
from tests.netlab.starvation import Waits, Watch
from tests.netlab.timeline import FOREVER


def test_two_are_starved_while_one_of_them_is_and_until_they_had_time_to_meet() -> None:
    waits = Waits()
    for host, at, waited in (("a", 10.0, 0.7), ("b", 11.0, 0.7), ("b", 12.0, 0.7), ("a", 14.0, 1.3), ("b", 30.0, 1.1)):
        waits.note(host, at, waited)
    assert waits.starved_since("a", "b", 11.9) == FOREVER  # neither of them alone
    assert waits.starved_since("a", "b", 12.0) == pytest.approx(9.8)
    assert waits.starved_since("b", "c", 14.1) == pytest.approx(9.8)
    assert waits.starved_since("b", "c", 14.3) == FOREVER
    assert waits.starved_since("b", "a", 16.1) == pytest.approx(9.8)  # the one after the other
    assert waits.starved_since("a", "c", 16.1) == pytest.approx(11.8)
    assert waits.starved_since("a", "b", 16.3) == FOREVER
    assert waits.starved_since("a", "b", 30.5) == FOREVER


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this kernel does not count waits for a core")
def test_a_watch_sees_who_waits_for_a_core_that_another_keeps_busy() -> None:
    spin = f"import os; os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}})\nwhile True: pass"
    greedy, meek = (
        subprocess.Popen(["nice", "-n", much, sys.executable, "-c", spin], stdin=subprocess.DEVNULL)
        for much in ("0", "19")
    )
    waits = Waits()
    watch = Watch(waits, lambda: {"a": meek.pid})

    def starved() -> bool:
        watch.look()
        return any(waits.starved_since("a", "b", look.at) < FOREVER for look in waits.looks.get("a", ())[-1:])

    try:
        until(starved, 30, "the meek one waits")
    finally:
        for process in (greedy, meek):
            process.kill()
            process.wait()
    noted = waits.total("a")
    watch.look()
    assert waits.total("a") == noted  # of who is gone nothing is
