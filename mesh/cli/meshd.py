"""``meshd``: reads the settings, takes the state directory, runs the daemon, returns the exit code."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

# gRPC's own lines on stderr (a peer that went away, a port in use) tell what this program tells better.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from mesh.core.errors import MeshError
from mesh.node.config import load
from mesh.node.logbook import Context, open_book
from mesh.node.state import State


def main(argv: Sequence[str] | None = None) -> int:
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except MeshError as error:
        print(f"meshd: {error}", file=sys.stderr)
        return int(getattr(error, "exit_code", 1))


def _run(argv: Sequence[str]) -> int:
    config = load(argv)
    context = Context()
    book = open_book(config.log_level, config.log_format, context)
    for warning in config.warnings:
        print(f"meshd: {warning}", file=sys.stderr)
    if red := config.warning_in_red(sys.stderr):
        print(red, file=sys.stderr, flush=True)
    state = State.open(config.state_dir, new_id=config.new_id)
    try:
        # Only now: a wrong setting is answered before the large imports.
        from mesh.node.daemon import run

        return asyncio.run(run(config, state, book, context))
    finally:
        state.close()


if __name__ == "__main__":
    sys.exit(main())
