"""Sweep files on their way into a mesh: read, checked against this machine's disk, expanded, submitted in slices."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mesh.blob.trees import Tree, scan
from mesh.client import blobs
from mesh.client.channel import Channel
from mesh.client.feed import BATCH_BYTES, BATCH_TASKS, FLIGHTS, new_job_id
from mesh.client.functions import LIMIT
from mesh.client.jobs import AsyncJob
from mesh.core.errors import InvalidSpec, MeshError, Problem, QuotaExceeded
from mesh.core.ids import BlobId
from mesh.core.lattice import Task
from mesh.spec.expand import expand
from mesh.spec.sweep import Sweep, parse
from mesh.wire.work import encode_work

MOST_SHIPPED = 100_000_000  # bytes of files that are shipped without being asked for
LARGEST_TOLD = 5


def read_sweep(path: Path, overrides: tuple[str, ...] = ()) -> Sweep:
    """The file, checked. Raises ``InvalidSpec`` with every problem, a program that is not there included."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidSpec(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InvalidSpec(f"{path} is not UTF-8 text", (Problem("a byte that is not UTF-8", line, 1),)) from error
    where = path.absolute()
    try:
        sweep = parse(text, str(where), overrides, _load)
    except InvalidSpec as error:
        # All errors in one go: the program is looked for even where the rest of the file is wrong.
        written = _PROGRAM.search(text)
        missing = _missing_program(written["program"] if written else "", where.parent, text)
        problems = sorted([*error.problems, *missing], key=lambda problem: (problem.line, problem.column))
        raise _invalid(path, problems) from error
    if missing := _missing_program(sweep.program, Path(sweep.directory), text):
        raise _invalid(path, missing)
    return sweep


def _load(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")


_PROGRAM = re.compile(r"""^program\s*:\s*(?P<quote>["']?)(?P<program>[^"'#\n]+?)(?P=quote)\s*(?:#.*)?$""", re.MULTILINE)


def _missing_program(program: str, directory: Path, text: str) -> list[Problem]:
    if not program or (directory / program).is_file():
        return []
    line = column = 0
    written = _PROGRAM.search(text)
    if written is not None and written["program"] == program:
        start = written.start("quote")
        line, column = text.count("\n", 0, start) + 1, start - written.start() + 1
    return [Problem(f"the program {program!r} does not exist in {directory}", line, column)]


def _invalid(path: Path, problems: list[Problem]) -> InvalidSpec:
    many = f"{len(problems)} error{'' if len(problems) == 1 else 's'}"
    return InvalidSpec(f"{path}: {many}", tuple(problems))


def overrides_of(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Python values as ``--set`` has them: YAML, of which JSON is a part."""
    return tuple(f"{key}={json.dumps(value)}" for key, value in values.items())


async def submit_sweep(
    channel: Channel, path: Path, name: str | None, priority: int | None, overrides: Mapping[str, Any]
) -> AsyncJob:
    sweep = await asyncio.to_thread(read_sweep, path, overrides_of(overrides))
    return await submit(channel, sweep, name, priority)


async def submit(
    channel: Channel, sweep: Sweep, name: str | None = None, priority: int | None = None, job_id: str | None = None,
    large: bool = False,
) -> AsyncJob:  # fmt: skip
    """All tasks of the sweep, acknowledged. Raises what a slice was refused with; the slices before it stand.

    ``large``: ship its files though they have more than 100 MB, for which ``QuotaExceeded`` is raised otherwise.
    """
    shipped, folder = await _ship(channel, sweep, large) if sweep.options.files else ("", "")
    job, tasks = expand(
        sweep,
        job_id=job_id or new_job_id(),
        submitted_ms=int(time.time() * 1000),
        encode=encode_work,
        envvars=os.environ,
        priority=priority,
        name=name,
        files=shipped,
        folder=folder,
    )
    slices = _slices(tasks)
    total, durable_on = 0, None
    under_way: set[asyncio.Task[tuple[int, tuple[str, ...]]]] = set()
    try:
        # The first slice alone: it is the one that makes the job known.
        for part in slices:
            under_way.add(asyncio.create_task(channel.submit(job, part)))
            if total and len(under_way) < FLIGHTS:
                total += len(part)
                continue
            total += len(part)
            durable_on = _common(durable_on, await _next_answers(under_way))
        while under_way:
            durable_on = _common(durable_on, await _next_answers(under_way))
    except MeshError as error:
        if total > BATCH_TASKS:
            error.hint = f"{error.hint}; part of job {job.id} was submitted: `meshctl cancel {job.id}` stops it"
        raise
    finally:
        for call in under_way:
            call.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
    return AsyncJob(channel, job.id, total, durable_on or ())


async def _ship(channel: Channel, sweep: Sweep, large: bool) -> tuple[BlobId, str]:
    """Puts the directory that ``files:`` names; the blob, and the working directory within it."""
    tree, folder = await asyncio.to_thread(_scanned, sweep)
    if tree.size > MOST_SHIPPED and not large:
        largest = ", ".join(f"{path} ({size / 1e6:.0f} MB)" for path, size in tree.largest(LARGEST_TOLD))
        raise QuotaExceeded(
            f"the files to be shipped have {tree.size / 1e6:.0f} MB; nothing was submitted",
            f"the largest are {largest}",
            "leave them out with a line in .meshignore, or submit with --yes",
        )
    return (await blobs.put(channel, tree.segments)).blob, folder


def _scanned(sweep: Sweep) -> tuple[Tree, str]:
    root = (Path(sweep.directory) / sweep.options.files).resolve()
    here = Path(sweep.directory).resolve()
    if not root.is_dir():
        raise InvalidSpec(f"mesh.files: {root} is no directory; nothing was submitted")
    if not here.is_relative_to(root):
        raise InvalidSpec(
            f"mesh.files: {root} does not hold {here}, where the program runs; nothing was submitted; "
            "write . or a directory above it"
        )
    return scan(root, ignore=True), str(here.relative_to(root))


async def _next_answers(under_way: set[asyncio.Task[tuple[int, tuple[str, ...]]]]) -> list[tuple[str, ...]]:
    done, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
    under_way -= done
    return [call.result()[1] for call in done]


def _common(known: tuple[str, ...] | None, answers: list[tuple[str, ...]]) -> tuple[str, ...]:
    """The nodes that hold every slice."""
    for nodes in answers:
        known = nodes if known is None else tuple(node for node in known if node in nodes)
    return known or ()


def _slices(tasks: Iterator[Task]) -> Iterator[list[Task]]:
    part: list[Task] = []
    room = BATCH_BYTES
    for task in tasks:
        if len(task.payload) > LIMIT:
            raise QuotaExceeded(
                f"task {task.index} has {len(task.payload):,} bytes; a task carries at most {LIMIT:,}",
                "its parameters or its command are that long",
                "put the data into a file and pass its path",
            )
        part.append(task)
        room -= len(task.payload)
        if len(part) == BATCH_TASKS or room <= 0:
            yield part
            part, room = [], BATCH_BYTES
    if part:
        yield part
