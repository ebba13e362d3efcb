"""How a runner ends by itself."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest

PROGRAM = """
import os, socket, sys
from mesh.task import runner
def serve(self):
    raise OSError(int(sys.argv[1]), os.strerror(int(sys.argv[1])), "/state/outputs/1.1")
runner.Runner.serve = serve
runner.run(socket.socketpair()[0])
"""


@pytest.mark.parametrize(("number", "told"), [(errno.ENOSPC, True), (errno.EROFS, True), (errno.EBADF, False)])
def test_a_disk_that_takes_nothing_is_told_in_one_line_and_what_is_a_defect_with_its_traceback(
    number: int, told: bool
) -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM, str(number)], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1
    assert "/state/outputs/1.1" in ran.stderr
    assert ("Traceback" in ran.stderr) is not told
    assert (len(ran.stderr.splitlines()) == 1) is told
