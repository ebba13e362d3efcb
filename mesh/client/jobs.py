"""A job that was submitted: wait for it, read it, stop it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from mesh.client.channel import Channel
from mesh.core.errors import MeshTimeout, NotFound
from mesh.wire.client import Watched

T = TypeVar("T")

ENDED = ("succeeded", "failed", "cancelled")


class AsyncJob:
    """``id`` is what ``meshctl job`` takes. ``durable_on``: nodes that held all of it when it was submitted here."""

    def __init__(self, channel: Channel, job: str, count: int = 0, durable_on: tuple[str, ...] = ()) -> None:
        self._channel = channel
        self.id = job
        self.count = count
        self.durable_on = durable_on

    def __repr__(self) -> str:
        return f"<Job {self.id}>"

    async def status(self) -> dict[str, Any]:
        """As ``meshctl job -o json`` prints it."""
        return await self._channel.job(self.id)

    async def wait(
        self, timeout: float | None = None, progress: Callable[[Watched], None] | None = None
    ) -> dict[str, Any]:
        """Until it has ended, however it did; returns :meth:`status`. Raises ``MeshTimeout``; the job goes on.

        ``progress`` is called with every step.
        """
        try:
            async with asyncio.timeout(timeout):
                while not await self._ended(progress):
                    pass  # the stream ended before the job: its node left, the next one goes on
                return await self.status()
        except TimeoutError as error:
            if isinstance(error, MeshTimeout):
                raise
            raise MeshTimeout(
                f"job {self.id} did not end within {timeout:g} s",
                "it goes on",
                f"`meshctl wait {self.id}` waits again, `meshctl cancel {self.id}` stops it",
            ) from None

    async def _ended(self, progress: Callable[[Watched], None] | None) -> bool:
        async with aclosing(self._channel.watch(self.id, results=False)) as stream:
            async for watched in stream:
                if progress is not None:
                    progress(watched)
                if watched.done or watched.state in ENDED:
                    return True
        return False

    async def best(self) -> dict[str, Any]:
        """``{"task", "params", "metric", "checkpoint"}``. Raises ``NotFound`` where no task has reported the metric."""
        best = (await self.status())["best"]
        if best is None:
            raise NotFound(
                f"job {self.id} has no best task",
                "no task that succeeded has reported the job's metric, or it names none",
                f"`meshctl tasks --job {self.id}` shows what was reported",
            )
        return best  # type: ignore[no-any-return]

    async def results(self) -> list[dict[str, Any]]:
        """One row per task, in order: ``task, state, node, params, metrics, error``."""
        return [result_row(task) for task in await self.tasks()]

    async def tasks(self, state: str = "") -> list[dict[str, Any]]:
        return await self._channel.tasks(self.id, state)

    async def cancel(self) -> int:
        """How many tasks that stopped."""
        return await self._channel.cancel(self.id)

    async def pause(self) -> None:
        await self._channel.pause(self.id, True)

    async def resume(self) -> None:
        await self._channel.pause(self.id, False)

    async def retry(self, force: bool = False) -> int:
        """Run what failed or was cancelled once more; how many tasks that are. ``force``: what is held too (``on_lost:
        hold``), though it may run twice. Raises ``Held`` where there is nothing else, and no force."""
        return await self._channel.retry(self.id, force)

    async def delete(self) -> int:
        """Forget it and its results everywhere, for good; how many tasks that were. Refused while any has not ended."""
        return await self._channel.delete(self.id)

    async def set_priority(self, priority: int) -> None:
        await self._channel.priority(self.id, priority)


class Job:
    """The same, each call waited for."""

    def __init__(self, job: AsyncJob, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._job, self._run = job, run
        self.id, self.count, self.durable_on = job.id, job.count, job.durable_on

    def __repr__(self) -> str:
        return repr(self._job)

    def status(self) -> dict[str, Any]:
        return self._run(self._job.status())  # type: ignore[no-any-return]

    def wait(self, timeout: float | None = None) -> dict[str, Any]:
        """Until it has ended, however it did; returns :meth:`status`. Raises ``MeshTimeout``; the job goes on."""
        return self._run(self._job.wait(timeout))  # type: ignore[no-any-return]

    def best(self) -> dict[str, Any]:
        return self._run(self._job.best())  # type: ignore[no-any-return]

    def results(self) -> list[dict[str, Any]]:
        """One row per task, in order: ``task, state, node, params, metrics, error``."""
        return self._run(self._job.results())  # type: ignore[no-any-return]

    def tasks(self, state: str = "") -> list[dict[str, Any]]:
        return self._run(self._job.tasks(state))  # type: ignore[no-any-return]

    def cancel(self) -> int:
        return self._run(self._job.cancel())  # type: ignore[no-any-return]

    def pause(self) -> None:
        self._run(self._job.pause())

    def resume(self) -> None:
        self._run(self._job.resume())

    def retry(self, force: bool = False) -> int:
        return self._run(self._job.retry(force))  # type: ignore[no-any-return]

    def delete(self) -> int:
        """Forget it and its results everywhere, for good; how many tasks that were. Refused while any has not ended."""
        return self._run(self._job.delete())  # type: ignore[no-any-return]

    def set_priority(self, priority: int) -> None:
        self._run(self._job.set_priority(priority))


def result_row(task: dict[str, Any]) -> dict[str, Any]:
    ran = [attempt["node"] for attempt in task["attempts"] if attempt["state"] == "succeeded"]
    return {
        "task": task["id"],
        "state": task["state"],
        "node": ran[-1] if ran else None,
        "params": task["params"],
        "metrics": task["metrics"],
        "error": task["error"],
    }
