"""A process with a journal of its own, to be killed or starved of disk space: ``journal_child PATH MODE [SECOND]``.

Prints one line per event, flushed, so that what was printed is what was announced.

- ``endless``: appends without end, in batches of 1 to 40.
- ``quota``: appends until its files may not grow any more (RLIMIT_FSIZE), lifts the limit, ends when all is synced.
- ``full``: the same on a file system that fills up; SECOND is a file to remove to make room.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from queue import Queue
from threading import Event

from mesh.core.lattice import Run
from mesh.shell.journal import Journal

PAD = "x" * 200


def record(number: int) -> Run:
    return Run(f"t{number}{PAD}", number, 0)


def say(*words: object) -> None:
    print(*words, flush=True)


def endless(path: Path) -> None:
    journal = Journal.open(path)
    progress = Event()

    def on_synced(position: int) -> None:
        say("synced", position)
        progress.set()

    journal.start(lambda callback, argument: callback(argument), on_synced, lambda reason: say("failed", reason))
    position = journal.position
    for size in cycle((1, 3, 40, 7)):
        journal.append(position + size, [record(position + n) for n in range(1, size + 1)])
        position += size
        progress.clear()
        if position - journal.position > 200:  # far enough ahead of the disk for groups of many
            progress.wait()


def starved(path: Path, starve: Callable[[], object], feed: Callable[[], object]) -> None:
    events: Queue[tuple[str, int | str]] = Queue()
    journal = Journal.open(path, retry_after=0.02)
    journal.start(
        lambda callback, argument: callback(argument),
        lambda position: events.put(("synced", position)),
        lambda reason: events.put(("failed", reason)),
    )
    starve()
    position, fed = 0, False
    while True:
        if not fed and position == journal.position:
            journal.append(position + 20, [record(position + n) for n in range(1, 21)])
            position += 20
        kind, what = events.get(timeout=30)
        if kind == "failed":
            say(kind, what)
            if what:
                # What comes meanwhile waits in the queue.
                journal.append(position + 20, [record(position + n) for n in range(1, 21)])
                position += 20
                feed()
                fed = True
        elif fed and what == position:
            break
    journal.close()
    say("synced", position)


def main(path: Path, mode: str, second: str = "") -> None:
    if mode == "endless":
        endless(path)
    elif mode == "quota":
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        starved(
            path,
            lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard)),
            lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard)),
        )
    elif mode == "full":
        ballast = Path(second)
        starved(path, lambda: ballast.write_bytes(bytes(300_000)), ballast.unlink)
    else:
        sys.exit(f"no mode {mode}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
