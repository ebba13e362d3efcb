"""A meshd of nothing but runners, to be killed: begins a command and a function, prints their pids, and waits."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from tests.shell.runner_harness import Harness, function, shell


def loop_forever() -> None:
    child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    print(os.getpid(), child.pid, flush=True)
    while True:
        pass


async def main(state: Path, mode: str) -> None:
    h = Harness(state, mode)
    command = h.begin(shell("setsid sleep 1000 & echo $$ $! $PPID; sleep 1000"), slot=0)[0]
    function_ = h.begin(function(loop_forever), slot=1)[0]
    print(await h.line(command), await h.line(function_), flush=True)
    await asyncio.Event().wait()


asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
