"""Frames between meshd and its runners: a length-prefixed JSON header and raw bytes after it.

Goals: no pickle, no protobuf and no gRPC in a runner; one frame for a whole batch. Non-goals: compatibility between
versions, for both ends are of one installation.

meshd sends   ``{"op": "setup", ...}`` once, ``{"op": "begin", "attempts": [row...], "sizes": [...]}`` whose body is the
              blobs that rows name by index, ``{"op": "stop", "attempts": [...], "signal": n}``.
              ``{"op": "fetched", "attempt": "", "blob": "", "directory": "", "error": "", "message": ""}`` with the
              blob's manifest as its body, and the same with ``"op": "opened"`` and no blob.
A runner sends ``["ready", pid]``, ``["ended", attempt, phase, code, message, detail, metrics, started_ms, finished_ms,
              micros, digest, retires, blob, log]`` with the result as its body, or the manifest of the blob it is,
              ``["progress", attempt, metrics]``, ``["fetch", attempt, blob, damaged]``, ``["open", attempt]`` before it
              writes a result into the store, and ``["imported", [module...]]``.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

PREFIX = struct.Struct(">II")
READ_BYTES = 1 << 18  # more than a socket buffer holds by default, so one read empties it

_encode = json.JSONEncoder(separators=(",", ":")).encode
_decode = json.JSONDecoder().decode


class Row(NamedTuple):
    """One attempt in a ``begin`` frame. ``function``, ``arguments``, ``params`` and ``requirements`` are indices into
    its blobs."""

    attempt: str
    task: str
    job: str
    secret: str
    kind: str
    argv: tuple[str, ...]
    target: str
    function: int
    arguments: int
    cwd: str  # with files: within them
    env: tuple[tuple[str, str], ...]
    params: int
    metric: str
    cuda: str  # CUDA_VISIBLE_DEVICES
    threads: int
    requirements: int
    files: str = ""  # a blob: the directory that came with it


def encode(header: object, body: bytes = b"") -> bytes:
    head = _encode(header).encode()
    return PREFIX.pack(len(head), len(body)) + head + body


class FrameReader:
    """Cuts a byte stream into frames."""

    __slots__ = ("_held", "_parts", "_wanted")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._held = 0
        self._wanted = 0  # nothing can be complete before so many bytes are held

    def rest(self) -> bytes:
        """What is no whole frame yet."""
        return b"".join(self._parts)

    def feed(self, data: bytes) -> Iterator[tuple[Any, bytes]]:
        """Yield (header, body) of every frame that is complete. Must be consumed to its end before the next call."""
        if self._parts:
            self._parts.append(data)
            self._held += len(data)
            if self._held < self._wanted:
                return  # joining once at the end, not once per read
            data = b"".join(self._parts)
            self._parts.clear()
        at, size, self._wanted = 0, len(data), 0
        while size - at >= PREFIX.size:
            head, body = PREFIX.unpack_from(data, at)
            start = at + PREFIX.size
            end = start + head + body
            if end > size:
                self._wanted = end - at
                break
            at = end
            yield _decode(str(data[start : start + head], "utf-8")), data[start + head : end]
        if at < size:
            self._parts.append(data[at:])
            self._held = size - at
