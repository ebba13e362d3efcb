"""Files and directories into the mesh and out of it: ``put``, ``get`` and ``blobs``."""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from mesh.blob.entries import HEAD_BYTES, is_tree
from mesh.blob.manifest import is_name
from mesh.blob.trees import File, Tree, extract, scan
from mesh.cli.output import Output, size
from mesh.client import blobs as client
from mesh.client.channel import Channel
from mesh.core.errors import BlobCorrupt, BlobMissing, InvalidSpec, MeshError, NotFound
from mesh.core.ids import BlobId

SHORTEST = 6  # digits of an id that may stand for it


async def put(args: argparse.Namespace, channel: Channel, output: Output) -> int:
    source = _source(args.file)
    with Bytes(output, Path(args.file).name) as progress:
        done = await client.put(channel, source.segments, progress.step, args.copies)
        if args.pin:
            await channel.pin(done.blob, True)
    if output.json:
        output.document({"id": done.blob, "size": done.size, "durable_on": list(done.durable_on), "why": done.why})
    else:
        nodes = f"{len(done.durable_on)} node{'' if len(done.durable_on) == 1 else 's'}"
        why = f"; on no more, for {done.why}" if done.why else ""
        output.line(f"{done.blob}  {size(done.size)}, on {nodes}{why}")
    return 0


def _source(name: str) -> File | Tree:
    path = Path(name)
    if not path.exists():
        raise InvalidSpec(f"{path} is not there; nothing was put")
    return scan(path, ignore=False) if path.is_dir() else File(path)


async def get(args: argparse.Namespace, channel: Channel, output: Output) -> int:
    blob = await _meant(args.ref, channel)
    path = _place(args.path, blob)
    got = 0
    with _draft(path) as draft:
        with Bytes(output, blob[:12]) as progress, draft.open("xb") as file:
            async with aclosing(client.get(channel, blob, progress.step)) as chunks:
                async for chunk in chunks:
                    file.write(chunk)
                    got += len(chunk)
        await asyncio.to_thread(_put_in_place, draft, path)
    if output.json:
        output.document({"id": blob, "size": got, "path": str(path)})
    else:
        output.line(f"{path}  {size(got)}")
    return 0


def _place(name: str | None, blob: BlobId) -> Path:
    path = Path(name or blob[:12])
    if path.is_dir():
        path /= blob[:12]
    if path.exists():
        raise InvalidSpec(f"{path} is there already; nothing was fetched; give another PATH")
    return path


@contextmanager
def _draft(path: Path) -> Iterator[Path]:
    """A file beside it, which is gone afterwards: what is not whole is not left."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield draft
    except MeshError:
        raise  # a time-out is an OSError, too
    except OSError as error:
        raise MeshError(f"{path} cannot be written", error.strerror or str(error), "give another PATH") from error
    finally:
        draft.unlink(missing_ok=True)


def _put_in_place(draft: Path, path: Path) -> None:
    with draft.open("rb") as file:
        if not is_tree(file.read(HEAD_BYTES)):
            draft.rename(path)
            return

        def read(offset: int, into: memoryview) -> None:
            file.seek(offset)
            if file.readinto(into) != len(into):
                raise BlobCorrupt(f"{path} ends within a file", "", "put it again")

        extract(draft.stat().st_size, read, path)


async def _meant(text: str, channel: Channel) -> BlobId:
    """The id that this is, or begins."""
    if is_name(text):
        return text
    if len(text) < SHORTEST or text.strip("0123456789abcdef"):
        raise NotFound(f"{text} is no blob", f"an id has 64 hexadecimal digits, {SHORTEST} may do", "meshctl blobs")
    found = [row["id"] for row in await channel.blobs() if row["id"].startswith(text)]
    if not found:
        raise BlobMissing(f"no node that can be reached has a blob {text}", "", "see `meshctl blobs`")
    if len(found) > 1:
        raise NotFound(f"{text} begins the ids of {len(found)} blobs", "", "give more digits of it")
    return str(found[0])


async def blobs(args: argparse.Namespace, channel: Channel, output: Output) -> int:
    for text, pinned in ((args.pin, True), (args.unpin, False)):
        if text:
            await channel.pin(await _meant(text, channel), pinned)
    found = await channel.blobs()
    if output.json:
        output.document(found)
    else:
        rows = [(r["id"], size(r["size"]), "pinned" if r["pinned"] else "", " ".join(r["nodes"])) for r in found]
        output.table(("BLOB", "SIZE", "PINNED", "ON"), rows, "no blobs")
    return 0


class Bytes:
    """Progress in bytes, on stderr: a bar on a terminal, otherwise a line every few seconds."""

    EVERY = 5.0  # seconds

    def __init__(self, output: Output, title: str) -> None:
        self._output, self._title = output, title
        self._bar: Any = None
        self._row: Any = None
        self._said = time.monotonic()

    def __enter__(self) -> Bytes:
        if self._output.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

            columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
            self._bar = Progress(*columns, console=Console(file=self._output.stderr))
            self._row = self._bar.add_task(self._title, total=None)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, here: int, total: int) -> None:
        if self._bar is not None:
            self._bar.update(self._row, completed=here, total=total)
        elif time.monotonic() - self._said >= self.EVERY:
            self._said = time.monotonic()
            self._output.note(f"{self._title}: {size(here)} of {size(total)}")
