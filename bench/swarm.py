"""One holder, eight nodes that want 64 MiB of it at once, every cable of 200 Mbit/s each way; and of 50 Mbit/s.

Goal: at most 1.5 times what one node alone needs; 8 times if each had it from the holder. Hosts are network namespaces
of one machine, so it needs root, and at 200 Mbit/s nine of them move 400 MB/s between them: where that takes all of the
machine (2 cores), the slower cables show what the exchange does. Each time another blob is fetched; the clock stops
when the last node has all of it on its disk.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

import grpc.aio

from bench.harness import median, publish
from mesh.v1.client_pb2_grpc import ClientStub
from mesh.wire.parts import Piece, get_request, read_get_part
from tests.e2e.mesh import Daemon, Mesh, mesh_of
from tests.netlab.lab import lab, why_no_lab

HOSTS, RATES, SIZE = 9, ("200mbit", "50mbit"), 64 << 20
RUNS = 3


def fetched_by(mesh: Mesh, holder: Daemon, nodes: list[Daemon]) -> float:
    """Seconds until all of these have a new blob."""
    file = mesh.directory / "blob"
    file.write_bytes(os.urandom(SIZE))
    blob = mesh.ctl("put", str(file), "--copies", "1", at=holder, within=120)["id"]
    return asyncio.run(_fetch(blob, [node.socket for node in nodes]))


async def _fetch(blob: str, sockets: list[str]) -> float:
    began = time.perf_counter()
    await asyncio.gather(*(_one(blob, socket) for socket in sockets))
    return time.perf_counter() - began


async def _one(blob: str, socket: str) -> None:
    """Until its node has it, which is when it begins to give it."""
    async with grpc.aio.insecure_channel(socket, options=[("grpc.max_receive_message_length", -1)]) as channel:
        call = ClientStub(channel).Get(get_request(blob, 0))  # type: ignore[no-untyped-call]
        async for part in call:
            if isinstance(read_get_part(part), Piece):
                call.cancel()
                return


def measure(rate: str) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="mesh-bench-") as directory,
        mesh_of(Path(directory)) as mesh,
        lab(HOSTS, mesh) as net,
    ):
        (holder,) = net.start("a", slots=1, flags=["--rank", "10"])
        holder.ready()
        others = net.start(*(name for name in net.hosts if name != "a"), slots=1)
        net.settled()
        net.limit("".join(net.hosts), rate)
        alone = [fetched_by(mesh, holder, others[number : number + 1]) for number in range(RUNS)]
        sent = mesh.ctl("status", at=holder)["blob_bytes_sent"]
        together = [fetched_by(mesh, holder, others) for _ in range(RUNS)]
        sent = mesh.ctl("status", at=holder)["blob_bytes_sent"] - sent
    publish(
        "swarm",
        {
            "nodes": len(others),
            "bytes": SIZE,
            "rate": rate,
            "alone_seconds": round(median(alone), 3),
            "alone_each": [round(seconds, 3) for seconds in alone],
            "together_seconds": round(median(together), 3),
            "together_each": [round(seconds, 3) for seconds in together],
            "ratio": round(median(together) / median(alone), 3),
            "goal_ratio": 1.5,
            "holder_sent": round(sent / RUNS / SIZE, 2),
        },
    )


def main() -> None:
    if why := why_no_lab():
        print(f"bench: swarm: left out: {why}", file=sys.stderr)
        return
    for rate in RATES:
        measure(rate)


if __name__ == "__main__":
    main()
