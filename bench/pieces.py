"""The bare parts a task passes through, measured on the same machine in the same run, for comparison."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import grpc

from bench.harness import median, publish, quantile

CALLS = 1000
WARM = 100
METHOD = "/bench.Echo/Call"
ECHO = """
import sys
while line := sys.stdin.buffer.readline():
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
"""


class Echo(grpc.GenericRpcHandler):
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        async def call(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            return request

        return grpc.unary_unary_rpc_method_handler(call) if handler_call_details.method == METHOD else None


async def serve(target: str) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Echo(),))
    server.add_insecure_port(target)
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


async def unary(target: str) -> list[float]:
    """Milliseconds of each call to another process."""
    async with grpc.aio.insecure_channel(target) as channel:
        call = channel.unary_unary(METHOD)
        took = []
        for i in range(WARM + CALLS):
            began = time.perf_counter()
            await call(b"x" * 200)
            if i >= WARM:
                took.append(1000 * (time.perf_counter() - began))
        return took


def grpc_round_trip(directory: Path) -> list[float]:
    target = f"unix:{directory / 'echo.sock'}"
    server = subprocess.Popen([sys.executable, "-m", "bench.pieces", "serve", target], stdout=subprocess.PIPE)
    try:
        if server.stdout is None or server.stdout.readline() != b"ready\n":
            raise RuntimeError("the echo server did not start")
        return asyncio.run(unary(target))
    finally:
        server.kill()
        server.wait()


def synced_commit(directory: Path) -> list[float]:
    """One row of 200 bytes, WAL, synchronous FULL: each is on disk when it returns."""
    database = sqlite3.connect(directory / "journal", isolation_level=None)
    database.execute("pragma journal_mode=wal")
    database.execute("pragma synchronous=full")
    database.execute("create table rows (position integer primary key, body blob)")
    took = []
    for _ in range(CALLS):
        began = time.perf_counter()
        database.execute("insert into rows (body) values (?)", (b"x" * 200,))
        took.append(1000 * (time.perf_counter() - began))
    database.close()
    return took


def pipe_round_trip() -> list[float]:
    child = subprocess.Popen([sys.executable, "-c", ECHO], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    if child.stdin is None or child.stdout is None:
        raise RuntimeError("no pipes")
    line, took = b"x" * 199 + b"\n", []
    for i in range(WARM + CALLS):
        began = time.perf_counter()
        child.stdin.write(line)
        child.stdin.flush()
        child.stdout.readline()
        if i >= WARM:
            took.append(1000 * (time.perf_counter() - began))
    child.stdin.close()
    child.wait()
    return took


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as directory:
        pieces = {
            "grpc_unary_unix": grpc_round_trip(Path(directory)),
            "sqlite_synced_commit": synced_commit(Path(directory)),
            "pipe_round_trip": pipe_round_trip(),
        }
    figures: dict[str, float] = {}
    for name, took in pieces.items():
        figures |= {f"{name}_median_ms": round(median(took), 4), f"{name}_p99_ms": round(quantile(took, 0.99), 4)}
    publish("pieces", {**figures, "calls": CALLS})


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(serve(sys.argv[2]))
    else:
        main()
