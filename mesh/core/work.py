"""What a task does: a plain description that the core carries and never looks into.

The core sees it as the opaque ``payload`` of a :class:`mesh.core.lattice.Task`; ``mesh.wire.work`` encodes it, the
runner shell decodes it.
"""

from __future__ import annotations

from typing import NamedTuple

COMMAND = "command"
CALL = "call"
FUNCTION = "function"


class Work(NamedTuple):
    """One unit of work.

    ``kind`` is ``command`` (``argv``), ``call`` (``target`` is ``module:function``, ``arguments`` a JSON object of
    keyword arguments) or ``function`` (``function`` and ``arguments`` are cloudpickle bytes: a callable and a pair of
    positional and keyword arguments).
    """

    kind: str
    argv: tuple[str, ...] = ()
    target: str = ""
    function: bytes = b""
    arguments: bytes = b""
    cwd: str = ""  # absolute; empty: the attempt's own output directory
    env: tuple[tuple[str, str], ...] = ()
    params: bytes = b"{}"  # JSON object: what `tasks` shows and `task.params` returns
    metric: str = ""  # the JSON lines of stdout that hold this name are metrics; empty: every JSON object line
    files: str = ""  # a blob: the directory that is shipped with it, in which ``cwd`` is a relative path
    requirements: str = ""  # what its Python must have installed, as pip reads it; empty: meshd's own Python will do
