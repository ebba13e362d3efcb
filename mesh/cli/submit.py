"""``meshctl submit`` and ``wait``: from a file or a command line to a job, and to its end."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mesh.cli import show
from mesh.cli.output import Output, literal, pairs, placed, shown
from mesh.cli.progress import Progress
from mesh.client import sweeps
from mesh.client.channel import Channel
from mesh.client.feed import new_job_id
from mesh.client.jobs import AsyncJob
from mesh.spec.arguments import grid_from_params
from mesh.spec.expand import count, describe_parameters
from mesh.spec.sweep import Sweep

MANY = 1000  # tasks: more are started only after a person at a terminal has said yes


def read(args: argparse.Namespace, output: Output) -> Sweep:
    """What is to be submitted. Raises ``InvalidSpec`` with every problem; warnings go to stderr."""
    if args.file is None:
        return grid_from_params(
            [(param[0], param[1:]) for param in args.param],
            args.base_config or "",
            args.command,
            directory=os.getcwd(),
            name=args.name or "",
            gpus=args.gpus or 0,
            metric=args.metric or "",
            maximize=args.goal == "maximize",
        )
    sweep = sweeps.read_sweep(Path(args.file), tuple(args.set))
    for warning in sweep.warnings:
        output.note(placed(warning, args.file, "warning"))
    return sweep


def dry_run(sweep: Sweep, output: Output) -> int:
    """Needs no mesh, which is why there is no estimate: durations are measured by nodes."""
    parameters = describe_parameters(sweep)
    if output.json:
        output.document({"tasks": count(sweep), "params": parameters, "estimate_seconds": None})
        return 0
    output.line(f"{_tasks(count(sweep))} would be submitted")
    rows = list(_axes(parameters))
    if rows:
        output.line()
        output.table(("PARAMETER", "VALUES"), rows)
    return 0


def _axes(parameters: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, described in parameters.items():
        if "parameters" in described:
            yield from _axes(described["parameters"], f"{prefix}{name}.")
        else:
            yield prefix + name, _range(described)


def _range(described: dict[str, Any]) -> str:
    if "values" in described and "probabilities" not in described:
        return ", ".join(literal(value) for value in described["values"])
    if "value" in described:
        return literal(described["value"])
    return pairs(described)


async def submit(args: argparse.Namespace, channel: Channel, output: Output) -> int:
    sweep: Sweep = args.sweep
    if not args.yes and count(sweep) > MANY and sys.stdin.isatty() and not _confirmed(sweep, output):
        output.note("meshctl: nothing was submitted")
        return 1
    job_id = new_job_id()
    args.interrupted = f"part of job {job_id} may be submitted; `meshctl cancel {job_id}` stops it"
    job = await sweeps.submit(channel, sweep, args.name, args.priority, job_id, large=args.yes)
    if output.json:
        output.document({"job": job.id, "tasks": job.count, "durable_on": list(job.durable_on)})
    else:
        nodes = f"{len(job.durable_on)} node{'' if len(job.durable_on) == 1 else 's'}"
        output.line(f"{job.id}: {_tasks(job.count)} submitted, durable on {nodes} ({', '.join(job.durable_on)})")
    if args.wait:
        return await _until_ended(args, job, output, None)
    args.interrupted = ""
    return 0


def _confirmed(sweep: Sweep, output: Output) -> bool:
    print(f"Submit {_tasks(count(sweep))}? [y/N] ", end="", file=output.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


async def wait(args: argparse.Namespace, channel: Channel, output: Output) -> int:
    return await _until_ended(args, AsyncJob(channel, args.job), output, args.timeout)


async def _until_ended(args: argparse.Namespace, job: AsyncJob, output: Output, timeout: float | None) -> int:
    args.interrupted = f"job {job.id} goes on; `meshctl wait {job.id}` waits again, `meshctl cancel {job.id}` stops it"
    started = time.monotonic()
    with Progress(output, job.id) as progress:
        document = await job.wait(timeout, progress.step)
    if output.json:
        output.document(document)
    else:
        seconds = time.monotonic() - started
        # Of a job that somebody waits for later, this is not how long it took.
        after = f" after {seconds:.1f} s" if args.verb == "submit" else ""
        output.line(f"{job.id} {document['state']}{after}: {show.counts(document['tasks'])}")
        if document["best"]:
            best = document["best"]
            metric = f"{best['metric']['name']}={shown(best['metric']['value'])}"
            output.line(f"best {metric} of task {best['task']}: {pairs(best['params'])}")
        if document["tasks"]["failed"]:
            output.note(
                f"meshctl: {_tasks(document['tasks']['failed'])} failed; `meshctl tasks --job {job.id}` says why"
            )
    return 0 if document["state"] == "succeeded" else 1


def _tasks(number: int) -> str:
    return f"{number:,} task{'' if number == 1 else 's'}"
