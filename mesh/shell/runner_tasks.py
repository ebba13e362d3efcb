"""The Unix socket at which running tasks report: JSON lines, authenticated by the secret of the attempt.

Reports, and checkpoints: there as many bytes as ``size`` says follow a line, of a question or of an answer.

Knows connections and secrets, not what an attempt is or what becomes of a report.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import socket
from pathlib import Path
from typing import Any, Protocol

from mesh.core.errors import MeshError
from mesh.task.api import usable

LINE_LIMIT = 1 << 16
BODY_LIMIT = 64 << 20  # the manifest of 1.8 TB


class Attempts(Protocol):
    """What the server asks about attempts. An attempt that is not running has no secret."""

    def secret_of(self, attempt: str) -> str | None: ...
    def stop_asked(self, attempt: str) -> bool: ...
    def reported(self, attempt: str, metrics: dict[str, Any]) -> None: ...
    async def checkpoint(self, attempt: str, message: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]: ...


class TaskServer:
    """Listens from its construction on; :meth:`close` removes the socket."""

    def __init__(self, path: Path, attempts: Attempts) -> None:
        self.path = path
        self._attempts = attempts
        self._lines: dict[str, set[asyncio.StreamWriter]] = {}
        path.unlink(missing_ok=True)  # of a former life, killed before it could
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        os.chmod(path, 0o600)
        listener.listen(128)
        listener.setblocking(False)
        self._starting = asyncio.ensure_future(asyncio.start_unix_server(self._serve, sock=listener, limit=LINE_LIMIT))

    def stop(self, attempt: str) -> None:
        """Tell the processes of this attempt that it was asked to stop."""
        for writer in self._lines.get(attempt, ()):
            writer.write(b'{"stop":true}\n')

    async def close(self) -> None:
        server = await self._starting
        server.close()
        for writers in self._lines.values():
            for writer in writers:
                writer.close()
        self.path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        attempt = ""
        try:
            hello = await self._line(reader)
            if hello is None:
                return
            attempt = str(hello.get("attempt", ""))
            if not self._known(attempt, hello.get("secret")):
                writer.write(b'{"error":"this attempt is not running here, or the secret is not its own"}\n')
                return
            self._lines.setdefault(attempt, set()).add(writer)
            if self._attempts.stop_asked(attempt):
                writer.write(b'{"stop":true}\n')
            writer.write(b'{"ok":true}\n')
            while (message := await self._line(reader)) is not None:
                if "checkpoint" in message:
                    writer.write(await self._checkpoint(attempt, message, await self._body(reader, message)))
                else:
                    writer.write(self._answer(attempt, message))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # the process ended
        except (ValueError, RecursionError) as error:  # a line that is too long or no JSON object
            writer.write(json.dumps({"error": str(error)}).encode() + b"\n")
        finally:
            if writers := self._lines.get(attempt):
                writers.discard(writer)
                if not writers:
                    del self._lines[attempt]
            writer.close()

    def _known(self, attempt: str, secret: object) -> bool:
        expected = self._attempts.secret_of(attempt)
        return expected is not None and isinstance(secret, str) and hmac.compare_digest(expected, secret)

    def _answer(self, attempt: str, message: dict[str, Any]) -> bytes:
        metrics = message.get("report")
        if not isinstance(metrics, dict):
            return b'{"error":"this meshd only understands report and checkpoint"}\n'
        if self._attempts.secret_of(attempt) is None:
            return b'{"error":"this attempt has ended"}\n'
        for name, value in metrics.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                return json.dumps({"error": f"the value of {name} is not a number"}).encode() + b"\n"
        self._attempts.reported(attempt, {name: usable(value) for name, value in metrics.items()})
        return b'{"ok":true}\n'

    async def _checkpoint(self, attempt: str, message: dict[str, Any], body: bytes) -> bytes:
        try:
            answer, rest = await self._attempts.checkpoint(attempt, message, body)
        except MeshError as error:
            return json.dumps({"error": type(error).__name__, "message": str(error)}).encode() + b"\n"
        return json.dumps({"ok": True, **answer, "size": len(rest)}).encode() + b"\n" + rest

    @staticmethod
    async def _body(reader: asyncio.StreamReader, message: dict[str, Any]) -> bytes:
        size = message.get("size", 0)
        if not isinstance(size, int) or not 0 <= size <= BODY_LIMIT:
            raise ValueError(f"{size!r:.80} bytes follow, it says; the limit is {BODY_LIMIT}")
        return await reader.readexactly(size)

    @staticmethod
    async def _line(reader: asyncio.StreamReader) -> dict[str, Any] | None:
        line = await reader.readline()
        if not line:
            return None
        message = json.loads(line)
        if not isinstance(message, dict):
            raise ValueError("a line must be a JSON object")
        return message
