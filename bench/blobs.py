"""One blob over loopback, from one process to another, beside a bare gRPC stream of the same bytes in chunks as large.

Both are given by an asynchronous server, as a node's is, and read by the synchronous client; what is moved lies in
memory at both ends, and the chunks that were moved are verified. The two are measured in turns, so that both see the
same machine. Meanwhile a ticker in each process's event loop says how late it is woken. Goal: a ratio of 0.9 or more.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio

from bench.harness import ROOT, median, publish, quantile
from mesh.blob.manifest import CHUNK_BYTES, Chunk, Manifest, digest, manifest_of, name, parse
from mesh.core.errors import BlobCorrupt
from mesh.shell.transfer import Transfer
from mesh.shell.transfer_source import BULK_CHANNEL

CHUNKS = 1024
UNLIKE = 16  # chunks that differ; the others repeat them, so that the bench needs little memory
TURNS = 3
TICK = 0.005


class Memory:
    """A store of which only this is real: what is written is verified."""

    def __init__(self, chunks: list[bytes]) -> None:
        self._chunks = chunks
        self._manifest = manifest_of(_chunk(chunks[index % len(chunks)]) for index in range(CHUNKS)).encode()
        self.blob = name(self._manifest)
        self._parsed: Manifest = parse(self._manifest, self.blob)
        self._have = 0
        self._lock = threading.Lock()

    def fill(self) -> None:
        self._have = (1 << CHUNKS) - 1

    def empty(self) -> None:
        self._have = 0

    def manifest(self, blob: str) -> bytes | None:
        return self._manifest if self._have else None

    def have(self, blob: str) -> int:
        return self._have

    def begin(self, manifest: bytes) -> int:
        return self._have

    def read(self, blob: str, index: int) -> bytes:
        return self._chunks[index % len(self._chunks)]

    def write(self, blob: str, index: int, data: bytes) -> None:
        if digest(data) != self._parsed.chunks[index].digest:
            raise BlobCorrupt(f"chunk {index} is wrong")
        with self._lock:
            self._have |= 1 << index

    def finish(self, blob: str) -> None:
        assert self._have.bit_count() == CHUNKS

    @contextlib.contextmanager
    def reading(self, blob: str) -> Iterator[None]:
        yield


def _chunk(data: bytes) -> Chunk:
    return Chunk(digest(data), len(data))


def _unlike() -> list[bytes]:
    return [number.to_bytes(2, "big") * (CHUNK_BYTES // 2) for number in range(UNLIKE)]


class Ticker:
    """How late the event loop wakes who sleeps, in milliseconds."""

    def __init__(self) -> None:
        self.late: list[float] = []

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + TICK
            await asyncio.sleep(TICK)
            self.late.append(1000 * (loop.time() - due))

    def p99(self) -> float:
        late, self.late = self.late, []
        return round(quantile(late, 0.99), 2) if late else 0.0


def _as_is(data: bytes) -> bytes:
    return data


async def serve() -> None:
    """Prints its port; then, whenever a line is read, how late its loop was since the last."""
    chunks = _unlike()
    store = Memory(chunks)
    store.fill()
    transfer, ticker = Transfer("50-holder", store), Ticker()

    async def bare(_: bytes, context: Any) -> AsyncIterator[bytes]:
        for index in range(CHUNKS):
            yield chunks[index % UNLIKE]

    methods: dict[str, Any] = {"Stream": grpc.unary_stream_rpc_method_handler(bare)}
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((transfer.handlers(), grpc.method_handlers_generic_handler("Bare", methods)))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    ticking = asyncio.ensure_future(ticker.run())
    while await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(ticker.p99()), flush=True)
    ticking.cancel()
    await transfer.close()
    await server.stop(None)


def bare(address: str) -> float:
    """GB/s."""
    with grpc.insecure_channel(address, options=BULK_CHANNEL) as channel:
        method: Any = channel.unary_stream("/Bare/Stream", _as_is, _as_is)
        began = time.perf_counter()
        moved = sum(len(data) for data in method(b""))
        return moved / (time.perf_counter() - began) / 1e9


async def moved(address: str, store: Memory) -> float:
    transfer = Transfer("50-node", store)

    async def holders() -> list[tuple[str, str]]:
        return [("50-holder", address)]

    store.empty()
    began = time.perf_counter()
    await transfer.fetch(store.blob, holders)
    took = time.perf_counter() - began
    assert transfer.traffic.received == CHUNKS * CHUNK_BYTES
    await transfer.close()
    return CHUNKS * CHUNK_BYTES / took / 1e9


async def measure(server: subprocess.Popen[str]) -> dict[str, Any]:
    assert server.stdin is not None
    assert server.stdout is not None
    address, store, ticker = f"127.0.0.1:{server.stdout.readline().strip()}", Memory(_unlike()), Ticker()
    rates, late = [], []

    def lateness() -> float:
        print(file=server.stdin, flush=True)
        return float(json.loads(server.stdout.readline()))  # type: ignore[union-attr]

    for turn in range(TURNS + 1):
        one = await asyncio.to_thread(bare, address)
        ticking = asyncio.ensure_future(ticker.run())
        lateness()
        two = await moved(address, store)
        ticking.cancel()
        if turn:  # the first warms both
            rates.append((one, two))
            late.append((lateness(), ticker.p99()))
        else:
            ticker.p99()
    return {
        "mib": CHUNKS * CHUNK_BYTES >> 20,
        "turns": TURNS,
        "bare_gb_per_second": round(median([one for one, _ in rates]), 2),
        "transfer_gb_per_second": round(median([two for _, two in rates]), 2),
        "ratio": round(median([two / one for one, two in rates]), 3),
        "goal_ratio": 0.9,
        "holder_loop_late_p99_ms": median([one for one, _ in late]),
        "fetcher_loop_late_p99_ms": median([two for _, two in late]),
        "each_turn": [[round(one, 2), round(two, 2)] for one, two in rates],
    }


def main() -> None:
    if sys.argv[1:] == ["serve"]:
        asyncio.run(serve())
        return
    command = [sys.executable, "-m", "bench.blobs", "serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        try:
            publish("blobs", asyncio.run(measure(server)))
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
