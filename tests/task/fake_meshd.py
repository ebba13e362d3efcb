"""The side of meshd that a task's process sees of checkpoints: its socket, and a store of chunks.

Every chunk is kept a second time, as another node would, and comes back when it is said to be damaged.
"""

from __future__ import annotations

import json
import shutil
import socketserver
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mesh.blob.files import ChunkFiles
from mesh.blob.manifest import Chunk, Manifest, name, parse
from mesh.core.ids import BlobId

SECRET = "s3cret"


class Saved(NamedTuple):
    step: int
    metrics: dict[str, Any]
    blob: BlobId
    manifest: bytes


class FakeMeshd:
    """``saved``: what it has, in order. ``asked``: every request about checkpoints."""

    def __init__(self, folder: Path, store: Path) -> None:
        self.socket = folder / "task.sock"
        self.files = ChunkFiles(store)
        self.opened = False
        self.saved: list[Saved] = []
        self.asked: list[dict[str, Any]] = []
        self.reports: list[dict[str, Any]] = []
        self.refused: dict[str, tuple[str, str]] = {}  # request -> the error that answers it
        self.secret: str | None = SECRET  # None: whatever is said
        self.answers = threading.Event()  # cleared: a save is not answered
        self.answers.set()
        self.before_answer: Callable[[dict[str, Any]], bytes] = lambda message: b""
        self._copies: dict[Chunk, bytes] = {}
        self._server = socketserver.ThreadingUnixStreamServer(str(self.socket), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self.answers.set()
        self._server.shutdown()
        self._server.server_close()

    def environment(self) -> dict[str, str]:
        attempt = self.socket.parent.name  # no other test's
        return {"MESH_TASK_SOCKET": str(self.socket), "MESH_ATTEMPT": attempt, "MESH_TASK_SECRET": SECRET}

    def newest(self) -> Saved | None:
        return max(self.saved, key=lambda one: one.step, default=None)

    def path(self, chunk: Chunk) -> Path:
        digest = chunk.digest.hex()
        return self.files.directory / "chunks" / digest[:2] / digest

    def manifest(self, number: int = -1) -> Manifest:
        saved = self.saved[number]
        return parse(saved.manifest, saved.blob)

    def damage(self, chunk: Chunk) -> None:
        self.path(chunk).write_bytes(b"\0" * chunk.size)

    def _handler(self) -> type[socketserver.StreamRequestHandler]:
        fake = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                hello = json.loads(self.rfile.readline() or b"{}")
                if fake.secret is not None and hello.get("secret") != fake.secret:
                    self.wfile.write(b'{"error":"the secret is not its own"}\n')
                    return
                self.wfile.write(b'{"ok":true}\n')
                while line := self.rfile.readline():
                    message = json.loads(line)
                    body = self.rfile.read(message.get("size", 0))
                    answer, data = fake._answer(message, body)
                    self.wfile.write(fake.before_answer(message) + json.dumps(answer).encode() + b"\n" + data)

        return Handler

    def _answer(self, message: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        if "report" in message:
            self.reports.append(message["report"])
            return {"ok": True}, b""
        self.asked.append(message)
        if refused := self.refused.get(message["checkpoint"]):
            return {"error": refused[0], "message": refused[1]}, b""
        match message["checkpoint"]:
            case "open":
                self.opened = True
                return {"ok": True, "directory": str(self.files.directory)}, b""
            case "save":
                assert self.opened, "each one is opened before its chunks are written"
                self.opened = False
                self.answers.wait()
                manifest = parse(body, name(body))
                assert all(self.files.has(chunk) for chunk in manifest.chunks), "a chunk is not settled"
                self._copies |= {chunk: self.files.read(chunk) for chunk in manifest.chunks}
                self.saved.append(Saved(message["step"], message["metrics"], name(body), body))
                return {"ok": True}, b""
        found = self.newest()
        if found is None:
            return {"ok": True, "blob": "", "size": 0}, b""
        if message["damaged"] == found.blob:
            for chunk in parse(found.manifest, found.blob).chunks:
                self.files.remove(chunk.digest)
                self.files.put(self._copies[chunk])
            self.files.settle(parse(found.manifest, found.blob).chunks)
        about = {"blob": found.blob, "step": found.step, "attempt": "j.1.1", "size": len(found.manifest)}
        return {"ok": True, "directory": str(self.files.directory), **about}, found.manifest


@contextmanager
def meshd(store: Path, patch: pytest.MonkeyPatch) -> Iterator[FakeMeshd]:
    """One, and this process in a task of it; its last checkpoint is finished at the end."""
    from mesh.task import api, checkpoints

    folder = Path(tempfile.mkdtemp(prefix="mesh-"))  # a socket's path is short
    fake = FakeMeshd(folder, store)
    try:
        with patch.context() as patched:
            for key, value in fake.environment().items():
                patched.setenv(key, value)
            patched.setattr(api, "_from_environment", None)
            yield fake
            fake.answers.set()
            checkpoints.finish()
    finally:
        fake.answers.set()
        fake.close()
        shutil.rmtree(folder)
