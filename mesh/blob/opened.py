"""A blob that is whole here, read at any offset."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

from mesh.blob.files import ChunkFiles
from mesh.blob.manifest import Manifest


class Opened:
    """From one thread. Each chunk is verified when it is read; the last one is kept, for reads are mostly in order."""

    def __init__(self, files: ChunkFiles, manifest: Manifest) -> None:
        self.size = manifest.size
        self._files, self._chunks = files, manifest.chunks
        self._starts = [0, *accumulate(chunk.size for chunk in manifest.chunks)]
        self._index, self._data = -1, b""

    def read(self, offset: int, into: memoryview) -> None:
        """Fill ``into`` with the bytes from ``offset`` on. Raises EOFError beyond the end, BlobCorrupt, BlobMissing."""
        if offset < 0 or offset + len(into) > self.size:
            raise EOFError(f"{len(into)} bytes from {offset} on are not in a blob of {self.size}")
        done = 0
        while done < len(into):
            index = bisect_right(self._starts, offset + done) - 1
            if index != self._index:
                self._index, self._data = index, self._files.read(self._chunks[index])
            start = offset + done - self._starts[index]
            part = self._data[start : start + len(into) - done]
            into[done : done + len(part)] = part
            done += len(part)
