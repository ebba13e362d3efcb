"""A job's progress while somebody waits: a bar on a terminal, otherwise a line at every tenth."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from mesh.cli.output import Output
from mesh.cli.show import counts, ended
from mesh.wire.client import Watched


class Progress:
    """Give :meth:`step` to ``AsyncJob.wait``. Writes to stderr, so that the answer on stdout stays clean."""

    def __init__(self, output: Output, job: str) -> None:
        self._output, self._job = output, job
        self._bar: Any = None
        self._row: Any = None
        self._tenth = -1
        self._state = ""

    def __enter__(self) -> Progress:
        if self._output.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[counts]}"),
                console=Console(file=self._output.stderr),
            )
            self._row = self._bar.add_task(self._job, total=None, counts="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, watched: Watched) -> None:
        tasks = watched.counts._asdict()
        done, total = ended(tasks), sum(tasks.values())
        if self._bar is not None:
            self._bar.update(
                self._row, total=total, completed=done, description=f"{self._job} {watched.state}", counts=counts(tasks)
            )
            return
        tenth = 10 * done // total if total else 0
        if tenth != self._tenth or watched.state != self._state:
            self._tenth, self._state = tenth, watched.state
            self._output.note(f"{self._job} {watched.state}: {done} of {total} ended ({counts(tasks)})")
