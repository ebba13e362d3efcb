"""Why a node does not take a task: a code and numbers while deciding, words only when somebody asks.

A matching compares thousands of nodes and classes per second and throws most of the answers away, so a
:class:`Why` is a small tuple and :meth:`Why.__str__` writes the sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

_KIB = 1024


class Why(NamedTuple):
    """One reason. ``str()`` is for people; ``never`` says that no waiting helps on that machine as it is."""

    code: str
    args: tuple[Any, ...] = ()

    @property
    def never(self) -> bool:
        if self.code == ALTERNATIVES:
            return all(why.never for why in self.args)
        return self.code in _NEVER

    def __str__(self) -> str:
        return _WORDS[self.code](*self.args)


# No waiting helps.
CORES, MEMORY, GPUS, CONTRADICTION, LABEL, PROFILE = "cores", "memory", "gpus", "contradiction", "label", "profile"
MIN_PRIORITY, MAX_PRIORITY, PYTHON, CANNOT, NO_SLOTS = "min priority", "max priority", "python", "cannot", "no slots"
# Waiting may help.
NO_BID, UNWILLING, BARRED = "no bid", "unwilling", "barred"
BUSY_SLOTS, BUSY_CORES, BUSY_MEMORY, BUSY_GPUS = "busy slots", "busy cores", "busy memory", "busy gpus"
QUEUE_FULL, KEPT, LATER, TIE, BEHIND, OTHER = "queue full", "kept", "later", "tie", "behind", "other"
FARTHER = "farther"
ALTERNATIVES = "alternatives"
# Of a hold task, whichever node it is: what it waits for.
MAY_RUN, OWNED = "may run", "owned"

_NEVER = frozenset(
    {CORES, MEMORY, GPUS, CONTRADICTION, LABEL, PROFILE, MIN_PRIORITY, MAX_PRIORITY, PYTHON, CANNOT, NO_SLOTS}
)


def of_alternatives(whys: list[Why]) -> Why:
    """One reason out of those of all alternatives, in their order. There is at least one."""
    if len(whys) == 1:
        return whys[0]
    distinct = list(dict.fromkeys(whys))
    return distinct[0] if len(distinct) == 1 else Why(ALTERNATIVES, tuple(distinct))


def size(count: int) -> str:
    """Bytes as people write them: ``12 GiB``, ``1.5 GiB``, ``300 MiB``."""
    for unit, factor in (("GiB", _KIB**3), ("MiB", _KIB**2), ("KiB", _KIB)):
        if count >= factor:
            return f"{_short(count / factor)} {unit}"
    return f"{count} B"


def cores(millicpus: int) -> str:
    return "1 core" if millicpus == 1000 else f"{_short(millicpus / 1000, 3)} cores"


def seconds(micros: int) -> str:
    if micros < 1000:
        return f"{micros} us"
    if micros < 1_000_000:
        return f"{_short(micros / 1000)} ms"
    return f"{_short(micros / 1_000_000)} s"


def _short(value: float, digits: int = 1) -> str:
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".")


def gpus(milligpus: int, memory: int, kind: str) -> str:
    """What is asked for: ``2 GPUs with 12 GiB``, ``0.5 cuda GPU``."""
    noun = "GPU" if milligpus <= 1000 else "GPUs"
    which = "" if kind in ("any", "cpu", "") else f"{kind} "
    return f"{_short(milligpus / 1000, 3)} {which}{noun}" + (f" with {size(memory)}" if memory else "")


def need(millicpus: int, memory: int, milligpus: int, gpu_memory: int, device: str) -> str:
    """``1 core, 4 GiB of memory and 1 GPU with 12 GiB``."""
    parts = [cores(millicpus)]
    if memory:
        parts.append(f"{size(memory)} of memory")
    if milligpus:
        parts.append(gpus(milligpus, gpu_memory, device))
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


_FORCE = "`meshctl retry {} --force` runs it all the same, though it may run twice"


def _may_run(node: str, task: str) -> str:
    return (
        f"it must not run twice (on_lost: hold), and {node} was lost while it may have run it; it goes on once {node} "
        f"returns with it; {_FORCE.format(task)}"
    )


def _owned(node: str, task: str) -> str:
    return (
        f"it must not run twice (on_lost: hold), and {node or 'its owner'} alone may grant it, which is away or has "
        f"not handed it over yet; {_FORCE.format(task)}"
    )


def _offered(count: int) -> str:
    return str(count) if count else "none"


_WORDS: dict[str, Callable[..., str]] = {
    CORES: lambda need, have: f"its {cores(have)} cannot hold {_short(need / 1000, 3)}",
    MEMORY: lambda need, have: f"its {size(have)} of memory cannot hold {size(need)}",
    GPUS: lambda need, memory, kind, have: f"needs {gpus(need, memory, kind)}, offers {_offered(have)}",
    CONTRADICTION: lambda need: f"asks for {gpus(need, 0, '')} on device cpu",
    LABEL: lambda name, value: f"label {name}={value} missing",
    PROFILE: lambda need, have: f"profile is {have}, not {need}",
    MIN_PRIORITY: lambda limit, priority: f"min priority {limit}, task has {priority}",
    MAX_PRIORITY: lambda limit, priority: f"max priority {limit}, task has {priority}",
    PYTHON: lambda need, have: f"Python {have} only (task needs {need})",
    CANNOT: lambda text: text,
    NO_SLOTS: lambda: "offers no slots",
    NO_BID: lambda: "has not bid yet",
    UNWILLING: lambda text: f"unwilling: {text}",
    BARRED: lambda text: text,
    BUSY_SLOTS: lambda slots: "busy: its slot is taken" if slots == 1 else f"busy: all {slots} slots are taken",
    BUSY_CORES: lambda need, free, total: (
        f"busy: needs {cores(need)}, {_short(max(0, free) / 1000, 3)} of {_short(total / 1000, 3)} free"
    ),
    BUSY_MEMORY: lambda need, free, total: (
        f"busy: needs {size(need)} of memory, {size(max(0, free))} of {size(total)} free"
    ),
    BUSY_GPUS: lambda need, memory, kind, free: f"busy: needs {gpus(need, memory, kind)}, {_offered(free)} free now",
    QUEUE_FULL: lambda work: f"busy: {seconds(work)} of work is queued there, as much as it allows",
    KEPT: lambda job, what: f"kept free for job {job}, which needs {what}",
    LATER: lambda this, that: f"would finish in {seconds(this)}, the chosen node in {seconds(that)}",
    TIE: lambda: "would finish no sooner, and the lower id goes first",
    FARTHER: lambda: "would have to fetch what the task reads",
    BEHIND: lambda: "would wait there behind a task of unknown duration",
    OTHER: lambda what: f"has room only for {what}, which the task lists later",
    ALTERNATIVES: lambda *whys: "; or ".join(str(why) for why in whys),
    MAY_RUN: _may_run,
    OWNED: _owned,
}
