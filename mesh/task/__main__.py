"""The entry of meshd's child processes: ``python -m mesh.task zygote|runner DESCRIPTOR...``.

Nothing else is in this module, for it is the ``__main__`` that functions find in a runner.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    if sys.path[0] == os.getcwd():
        del sys.path[0]  # it was for finding this package; what else lies beside it is not for tasks to import
    if sys.argv[1] == "zygote":
        from mesh.task import zygote

        zygote.main(int(sys.argv[2]))
    else:
        from mesh.task import runner

        runner.main(*map(int, sys.argv[2:]))
