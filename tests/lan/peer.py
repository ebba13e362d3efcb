"""A daemon's mDNS part in a process of its own: ``python -m tests.lan.peer MESH HOST PORT``.

Prints each callback as a JSON line. Reads commands, a line each: ``refresh``; ``block PORT`` binds a UDP port without
sharing it and ``unblock`` gives it free; ``find`` prints what a client finds; the end of the input means goodbye.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import sys
from typing import Any

from mesh.lan.discovery import Lan, MulticastUnavailable, find
from tests.lan.recorder import new_node


def say(*event: Any) -> None:
    print(json.dumps(event), flush=True)


async def commands() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def search(mesh: str) -> None:
    try:
        say("clients-find", sorted(one.address for one in await find(mesh, 2.0)))
    except MulticastUnavailable as error:
        say("clients-fail", str(error))


async def main(mesh: str, host: str, port: int) -> None:
    blocker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    if "BLOCK" in os.environ:
        blocker.bind(("", int(os.environ["BLOCK"])))
    lan = Lan(
        mesh,
        host,
        on_found=lambda address, announcement: say("found", address),
        on_removed=lambda address, announcement: say("removed", address),
        on_ignored=lambda instance, reason: say("ignored", instance, reason),
        on_trouble=lambda where, text: say("trouble", where, text),
    )
    await lan.start()
    await lan.announce(new_node(), secrets.token_hex(4), port)
    say("ready")
    reader = await commands()
    while command := (await reader.readline()).decode().strip():
        if command == "refresh":
            await lan.refresh()
            say("refreshed")
        elif command == "unblock":
            blocker.close()
        elif command == "find":
            await search(mesh)
    await lan.close()
    blocker.close()
    say("closed")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
