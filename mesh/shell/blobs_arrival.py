"""How a blob becomes whole: written here and committed, or fetched chunk by chunk.

Owns the order of what is done: chunks are synced under their final names, then the row says so. Files are looked at and
synced without the lock; so each step at the end looks whether a chunk was lost, or the fetch given up, meanwhile.
"""

from __future__ import annotations

from mesh.blob.manifest import Buffer, Chunk, Manifest, name, parse
from mesh.core.errors import BlobMissing, MeshError, QuotaExceeded
from mesh.core.ids import BlobId
from mesh.shell.blobs_shelf import Shelf, no_chunk, not_begun
from mesh.shell.blobs_use import Fetch


def commit(shelf: Shelf, encoded: bytes) -> BlobId:
    blob = name(encoded)
    manifest = parse(encoded, blob)
    chunks = set(manifest.chunks)
    while not _committed(shelf, blob, encoded, manifest, chunks):
        pass
    return blob


def _committed(shelf: Shelf, blob: BlobId, encoded: bytes, manifest: Manifest, chunks: set[Chunk]) -> bool:
    """``False``: a chunk was lost meanwhile, it may be one of these."""
    with shelf.lock():
        if shelf.is_complete(blob):
            shelf.touch(blob)
            return True
        losses = shelf.losses
        unrecorded = chunks - shelf.index.present_among(chunks)
    missing = sum(not shelf.files.has(chunk) for chunk in chunks)
    if missing:
        raise BlobMissing(
            f"blob {blob[:12]} is not whole",
            f"{missing} of its {len(chunks)} chunks are not in the store",
            "write it again",
        )
    shelf.files.secure(unrecorded)
    with shelf.lock():
        if losses != shelf.losses:
            return False
        try:
            shelf.admit(blob, encoded, manifest, settled=chunks)
        except QuotaExceeded:
            shelf.doomed |= {chunk.digest for chunk in unrecorded}
            raise
        shelf.fetches.pop(blob, None)
    return True


def begin(shelf: Shelf, encoded: bytes) -> int:
    blob = name(encoded)
    manifest = parse(encoded, blob)
    fetch = Fetch(manifest)
    with shelf.lock():
        if shelf.is_complete(blob):
            shelf.touch(blob)
            return fetch.whole
        if blob in shelf.fetches:
            return shelf.fetches[blob].have
        shelf.admit(blob, encoded, manifest)
        shelf.fetches[blob] = fetch
        recorded = shelf.index.present_among(fetch.where)
        arrived = shelf.arrived & fetch.where.keys()
    try:
        shelf.unlink()
        for chunk in recorded:
            if not shelf.files.has(chunk):
                shelf.lose(chunk)
        found = shelf.found(fetch.where.keys() - recorded - arrived)
    except BaseException:
        with shelf.lock():
            shelf.fetches.pop(blob, None)
        raise
    with shelf.lock():
        here = (recorded | arrived | found) - fetch.lost
        if shelf.fetches.get(blob) is fetch:
            shelf.arrived |= here - shelf.index.present_among(here)
            fetch.add(here)
        return fetch.have


def write(shelf: Shelf, blob: BlobId, index: int, data: Buffer) -> None:
    with shelf.lock():
        fetch = shelf.fetches.get(blob)
        if fetch is None:
            if shelf.is_complete(blob):
                return
            raise not_begun(blob)
        if not 0 <= index < len(fetch.manifest.chunks):
            raise no_chunk(blob, index)
    chunk = fetch.manifest.chunks[index]
    shelf.files.write(chunk, data)
    with shelf.lock():
        if shelf.index.known(chunk.digest):
            if not shelf.index.present(chunk):
                shelf.arrived.add(chunk)
            for other in shelf.fetches.values():
                other.lost.discard(chunk)
                other.add([chunk])
        else:
            shelf.doomed.add(chunk.digest)
        begun = shelf.fetches.get(blob) is fetch or shelf.is_complete(blob)
    if not begun:
        shelf.unlink()
        raise not_begun(blob)


def finish(shelf: Shelf, blob: BlobId) -> None:
    while not _finished(shelf, blob):
        pass


def _finished(shelf: Shelf, blob: BlobId) -> bool:
    """``False``: meanwhile a chunk was lost, which may be one of these, or the fetch was given up."""
    with shelf.lock():
        if shelf.is_complete(blob):
            return True
        fetch = shelf.fetches.get(blob)
        if fetch is None:
            raise not_begun(blob)
        if fetch.missing():
            why = f"{fetch.missing()} of its {len(fetch.manifest.chunks)} chunks are missing"
            raise BlobMissing(f"blob {blob[:12]} is not whole", why)
        losses = shelf.losses
        arrived = shelf.arrived & fetch.where.keys()
    try:
        shelf.files.settle(arrived)
    except MeshError:
        for chunk in arrived:
            if not shelf.files.there(chunk):
                shelf.lose(chunk)
        shelf.give_up(blob, fetch, arrived)
        raise
    if shelf.give_up(blob, fetch, arrived):
        return False
    with shelf.lock():
        if shelf.fetches.get(blob) is not fetch or losses != shelf.losses:
            return False
        with shelf.change():
            shelf.index.settle(arrived)
            shelf.index.complete(blob)
        shelf.arrived -= arrived
        del shelf.fetches[blob]
    return True
