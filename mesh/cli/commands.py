"""What each command does: one call or a few, then show what came back. Returns the exit code."""

from __future__ import annotations

import argparse
import platform
import re
import sys
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

from mesh import __version__
from mesh.cli import blobs, show
from mesh.cli.output import Output
from mesh.cli.submit import submit, wait
from mesh.client.channel import Channel
from mesh.client.jobs import AsyncJob, result_row
from mesh.core.errors import NotBuilt, NotFound
from mesh.core.messages import PROTOCOL

_NOTHING_LEFT = "nothing was cancelled: all of {1} had ended"
_NONE_FAILED = "nothing is run once more: nothing of {1} has failed or was cancelled"
_DELETED_BEFORE = "{1} is deleted; it had no tasks, or was deleted before"
NODE_ID = re.compile(r"[0-9]{2}-[0-9A-Z]{26}")


async def peers(args: argparse.Namespace, channel: Channel, output: Output) -> int:
    return _answer(output, await channel.peers(), show.peers)


async def jobs(args: argparse.Namespace, channel: Channel, output: Output) -> int:
    found = await channel.jobs()
    if not found and not output.json:
        away = [p["name"] for p in await channel.peers() if p["id"] and p["state"] not in ("alive", "refused")]
        if away:
            output.note(f"meshctl: members that might know of jobs are away: {', '.join(away)}")
    return _answer(output, found, show.jobs)


async def job(args: argparse.Namespace, channel: Channel, output: Output) -> int:
    return _answer(output, await channel.job(args.job), show.job)


async def tasks(args: argparse.Namespace, channel: Channel, output: Output) -> int:
    return _answer(output, await channel.tasks(args.job or "", args.state), show.tasks)


async def task(args: argparse.Namespace, channel: Channel, output: Output) -> int:
    return _answer(output, await channel.task(args.task), show.task)


async def explain(args: argparse.Namespace, channel: Channel, output: Output) -> int:
    return _answer(output, await channel.explain(args.task), show.explain)


async def best(args: argparse.Namespace, channel: Channel, output: Output) -> int:
    return _answer(output, await AsyncJob(channel, args.job).best(), show.best)


async def status(args: argparse.Namespace, channel: Channel, output: Output) -> int:
    return _answer(output, await channel.status(), show.status)


async def results(args: argparse.Namespace, channel: Channel, output: Output) -> int:
    if args.parquet:
        raise NotBuilt("'results --parquet' is not built yet", "", "use --csv or -o json")
    await channel.job(args.job)  # an unknown job is an error, not an empty table
    documents = await channel.tasks(args.job)
    if args.csv:
        show.results_csv(output, documents)
        return 0
    if output.json:
        output.document([result_row(document) for document in documents])
    else:
        show.results(output, documents)
    return 0


async def cancel(args: argparse.Namespace, channel: Channel, output: Output) -> int:
    return _done(output, args.job_task, await channel.cancel(args.job_task), "cancelled {} of {}", _NOTHING_LEFT)


async def pause(args: argparse.Namespace, channel: Channel, output: Output) -> int:
    return _done(output, args.job, await channel.pause(args.job, True), "paused {1}")


async def resume(args: argparse.Namespace, channel: Channel, output: Output) -> int:
    return _done(output, args.job, await channel.pause(args.job, False), "resumed {1}")


async def retry(args: argparse.Namespace, channel: Channel, output: Output) -> int:
    count = await channel.retry(args.job_task, args.force)
    return _done(output, args.job_task, count, "running {} of {} once more", _NONE_FAILED)


async def delete(args: argparse.Namespace, channel: Channel, output: Output) -> int:
    if args.checkpoints:
        raise NotBuilt("'delete --checkpoints' is not built yet", "", "without it the job and its results are deleted")
    return _done(output, args.job, await channel.delete(args.job), "deleted {1} with {0}", _DELETED_BEFORE)


async def priority(args: argparse.Namespace, channel: Channel, output: Output) -> int:
    count = await channel.priority(args.job_task, args.number)
    return _done(output, args.job_task, count, f"priority of {{1}} is {args.number} now")


async def forget(args: argparse.Namespace, channel: Channel, output: Output) -> int:
    await channel.forget(args.node)
    if output.json:
        output.document({"id": args.node})
    else:
        output.line(f"nobody waits for {args.node} any more; if it comes back, it is a member again")
    return 0


async def logs(args: argparse.Namespace, channel: Channel, output: Output) -> int:
    refusal = NotBuilt("logs of nodes are not built yet", f"{args.task} is a node", "meshd logs to its stderr")
    if NODE_ID.fullmatch(args.task):
        raise refusal
    try:
        async with aclosing(channel.logs(args.task, args.attempt, args.follow)) as chunks:
            async for data in chunks:
                _write(output, data)
    except NotFound:
        if any(args.task == peer["name"] for peer in await channel.peers()):
            raise refusal from None
        raise
    return 0


def _write(output: Output, data: bytes) -> None:
    """As it came: output of programs is bytes."""
    output.stdout.flush()
    if buffer := getattr(output.stdout, "buffer", None):
        buffer.write(data)
        buffer.flush()
    else:
        output.stdout.write(data.decode(errors="replace"))


def version(output: Output) -> int:
    """Needs no mesh."""
    found = {"version": __version__, "protocol": PROTOCOL, "python": platform.python_version()}
    if output.json:
        output.document(found)
    else:
        output.line(f"meshctl {__version__} (protocol {PROTOCOL}, Python {found['python']}, {sys.platform})")
    return 0


def _answer(output: Output, document: Any, as_text: Callable[[Output, Any], None]) -> int:
    if output.json:
        output.document(document)
    else:
        as_text(output, document)
    return 0


def _done(output: Output, target: str, count: int, text: str, nothing: str = "") -> int:
    """``nothing``: said instead where no task was concerned."""
    if output.json:
        output.document({"id": target, "tasks": count})
    else:
        said = nothing if nothing and not count else text
        output.line(said.format(f"{count} task{'' if count == 1 else 's'}", target))
    return 0


Command = Callable[[argparse.Namespace, Channel, Output], Awaitable[int]]

COMMANDS: dict[str, Command] = {
    "peers": peers,
    "submit": submit,
    "jobs": jobs,
    "job": job,
    "tasks": tasks,
    "task": task,
    "wait": wait,
    "cancel": cancel,
    "pause": pause,
    "resume": resume,
    "retry": retry,
    "delete": delete,
    "priority": priority,
    "forget": forget,
    "logs": logs,
    "explain": explain,
    "best": best,
    "results": results,
    "status": status,
    "put": blobs.put,
    "get": blobs.get,
    "blobs": blobs.blobs,
}
