"""A process's connection to its meshd: the client of the Unix socket at which running tasks ask and tell.

It speaks JSON lines. First ``{"attempt", "secret"}``; then each request is answered by ``{"ok": true, ...}`` or by
``{"error": ...}``, and ``{"stop": CODE}`` may come at any time. Where a request or an answer has a ``size``, that many
bytes follow its line at once.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from typing import Any

from mesh.core.errors import MeshError, error_named

ANSWER_TIMEOUT = 30.0  # meshd answers in under a millisecond; a suspended machine or a debugger may hold it up
_READ_BYTES = 1 << 16


class Line:
    """Made when first needed, and again after it broke. From any thread; one request at a time."""

    def __init__(self, path: str, attempt: str, secret: str, patience: float | None = ANSWER_TIMEOUT) -> None:
        """``patience``: seconds to wait for an answer; None where it may take as long as a transfer takes."""
        self._path, self._attempt, self._secret, self._patience = path, attempt, secret, patience
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._rest = bytearray()
        self.stop_asked = False

    def ask(self, message: dict[str, Any], body: bytes = b"") -> tuple[dict[str, Any], bytes]:
        """Send a request, and return the answer and its bytes.

        Raises:
            MeshError: meshd cannot be reached, or went away; or the error that it answered.
        """
        with self._lock:
            connection = self._connected()
            try:
                connection.sendall(json.dumps(message).encode() + b"\n" + body)
                answer, data = self._answer(connection)
            except OSError as error:
                self._drop()
                raise self._gone(error) from error
            except BaseException:  # in the midst of an answer, which must not be taken for that to the next request
                self._drop()
                raise
        _raise_error(answer)
        return answer, data

    def poll(self) -> None:
        """Read what meshd sent by itself."""
        with self._lock:
            connection = self._connected()
            connection.setblocking(False)
            try:
                while data := connection.recv(_READ_BYTES):
                    self._rest += data
            except BlockingIOError:
                pass  # all is read
            finally:
                connection.settimeout(self._patience)
            while b"\n" in self._rest:
                self._message(connection)

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _connected(self) -> socket.socket:
        if self._socket is None:
            self._socket = connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(self._patience)
            try:
                connection.connect(self._path)
                connection.sendall(json.dumps({"attempt": self._attempt, "secret": self._secret}).encode() + b"\n")
                answer, _ = self._answer(connection)
                _raise_error(answer)
            except OSError as error:
                self._drop()
                raise MeshError("this task cannot reach its meshd", f"{self._path}: {error}") from error
            except BaseException:
                self._drop()
                raise
        return self._socket

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, self._rest = None, bytearray()

    def _gone(self, error: OSError) -> MeshError:
        if isinstance(error, TimeoutError):
            return MeshError("meshd did not answer this task", f"waited {self._patience:.0f} s")
        return MeshError("meshd closed the line of this task", str(error))

    def _answer(self, connection: socket.socket) -> tuple[dict[str, Any], bytes]:
        while True:
            message = self._message(connection)
            data = self._bytes(connection, message.get("size", 0))
            if "error" in message or message.get("ok"):
                return message, data

    def _message(self, connection: socket.socket) -> dict[str, Any]:
        while (end := self._rest.find(b"\n")) < 0:
            self._rest += self._received(connection)
        message: dict[str, Any] = json.loads(self._rest[:end])
        del self._rest[: end + 1]
        if "stop" in message:
            self.stop_asked = True
        return message

    def _bytes(self, connection: socket.socket, size: int) -> bytes:
        while len(self._rest) < size:
            self._rest += self._received(connection)
        data = bytes(self._rest[:size])
        del self._rest[:size]
        return data

    @staticmethod
    def _received(connection: socket.socket) -> bytes:
        data = connection.recv(_READ_BYTES)
        if not data:
            raise MeshError("meshd closed the line of this task", "it stopped, or this attempt has ended")
        return data


def from_environment(patience: float | None = ANSWER_TIMEOUT) -> Line | None:
    """The line of the attempt that this process's environment names; None outside a mesh task."""
    get = os.environ.get
    path = get("MESH_TASK_SOCKET")
    return Line(path, get("MESH_ATTEMPT", ""), get("MESH_TASK_SECRET", ""), patience) if path else None


def _raise_error(answer: dict[str, Any]) -> None:
    if "message" in answer and "error" in answer:
        raise error_named(answer["error"], answer["message"])
    if "error" in answer:
        raise MeshError("meshd refused what this task told it", answer["error"])
