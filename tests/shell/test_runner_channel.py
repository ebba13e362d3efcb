"""Frames to one runner over a real socket pair."""

from __future__ import annotations

import asyncio
import socket

from mesh.shell.runner_processes import Channel


async def test_what_does_not_fit_into_the_socket_follows_and_then_nothing_is_waited_for() -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    channel = Channel(ours, lambda frames: None)
    loop = asyncio.get_running_loop()
    data = bytes(range(256)) * 8192  # 2 MiB, ten times what a socket takes
    channel.send(data[:100])
    channel.send(data[100:])
    channel.send(b"end")
    got = b""
    async with asyncio.timeout(10):
        while not got.endswith(b"end"):
            got += await loop.sock_recv(theirs, 1 << 20)
    assert got == data + b"end"
    assert not loop.remove_writer(ours)  # else the loop would spin
    channel.hang_up()
    theirs.close()
