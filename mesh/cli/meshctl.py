"""``meshctl``: parse, call, print. What it may say stands in ``parser``, what it does in ``commands``."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from typing import TYPE_CHECKING

# gRPC writes its own lines to stderr about connections that fail; what is said of them stands in our errors.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from mesh.cli.output import Output, report
from mesh.cli.parser import parse
from mesh.core.errors import InvalidSpec, MeshError, MeshTimeout, NoLeader, NoMeshFound, NotBuilt

if TYPE_CHECKING:
    from mesh.client.channel import Channel

ANSWER_PATIENCE = 10.0  # seconds for a command that only asks: a new leader is there after three
WAIT_PATIENCE = 60.0  # seconds without contact for one that waits anyway

OK, FAILED, USAGE, NO_MESH, TRY_AGAIN, TIMED_OUT, INTERRUPTED = 0, 1, 2, 69, 75, 124, 130


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code is returned. Wrong usage and ``--help`` exit by themselves."""
    output = Output(as_json=False)
    args = argparse.Namespace(file=None, interrupted="")
    try:
        args = parse(sys.argv[1:] if argv is None else argv)
        args.interrupted = ""
        output = Output(as_json=args.output == "json")
        return _run(args, output)
    except MeshError as error:
        report(error, output, getattr(args, "file", None) or "")
        return exit_code(error)
    except KeyboardInterrupt:
        output.note("meshctl: interrupted" + (f"; {args.interrupted}" if args.interrupted else ""))
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output went away, as `head` does. Nothing more can be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _run(args: argparse.Namespace, output: Output) -> int:
    from mesh.cli import commands, submit  # only now: --help and wrong usage answer without loading gRPC

    if args.verb == "version":
        return commands.version(output)
    if args.verb == "submit":
        # Before any connection: a file that is wrong is wrong without a mesh, too.
        args.sweep = submit.read(args, output)
        if args.dry_run:
            return submit.dry_run(args.sweep, output)
    return asyncio.run(_with_channel(args, output))


async def _with_channel(args: argparse.Namespace, output: Output) -> int:
    from mesh.cli.commands import COMMANDS
    from mesh.client.address import Finder
    from mesh.client.channel import Channel

    waits = args.verb == "wait" or (args.verb == "submit" and args.wait)
    channel = Channel(Finder(args.address, args.mesh), WAIT_PATIENCE if waits else ANSWER_PATIENCE)
    try:
        if args.mesh and (args.address or os.environ.get("MESH_ADDRESS")):
            await _check_mesh(args.mesh, channel)
        return await COMMANDS[args.verb](args, channel, output)
    finally:
        await channel.close()


async def _check_mesh(mesh: str, channel: Channel) -> None:
    """An address was named and a mesh too: nothing is done where they do not go together."""
    found = (await channel.status())["mesh"]
    if found != mesh:
        raise NoMeshFound(
            f"the node at {channel.address} is of mesh {found!r}, not of {mesh!r}",
            "",
            "leave out --mesh, or --address and MESH_ADDRESS",
        )


def exit_code(error: MeshError) -> int:
    """As the contract has it. An error that knows its own exit code keeps it."""
    if isinstance(error, InvalidSpec | NotBuilt):
        return USAGE
    if isinstance(error, NoMeshFound):
        return USAGE if getattr(error, "addresses", ()) else NO_MESH
    if isinstance(error, MeshTimeout):
        return TIMED_OUT
    if isinstance(error, NoLeader):
        return TRY_AGAIN
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
