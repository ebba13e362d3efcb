"""What a call asks for, as the shape that matching looks at. Everything that is wrong is said at once."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from mesh.core.checkpoints import MOST_KEPT
from mesh.core.errors import InvalidSpec, Problem
from mesh.core.lattice import USUAL, Checkpointing, Resources, Retries, Shape
from mesh.spec.units import duration_ms, size

Wanted: TypeAlias = "Mapping[str, Any] | Sequence[Mapping[str, Any]] | None"

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"  # pickled code fits no other minor version
DEVICES = ("any", "cpu", "cuda", "mps")
PRIORITIES = range(1, 11)

_RESOURCES = ("cpus", "memory", "gpus", "gpu_memory", "device", "labels", "profile")
_RETRIES = ("max", "backoff", "factor", "max_delay", "not_on")


def function_shape(
    kind: str,
    resources: Wanted,
    retries: int | Mapping[str, Any],
    timeout: float | str | None,
    on_lost: str = "retry",
    checkpoints: Mapping[str, Any] | None = None,
) -> Shape:
    """The shape of a pickled function. Raises :class:`InvalidSpec` with every problem."""
    problems: list[Problem] = []
    alternatives = [resources] if resources is None or isinstance(resources, Mapping) else list(resources)
    shape = Shape(
        tuple(_resources(wanted or {}, problems) for wanted in alternatives) or (Resources(),),
        kind,
        PYTHON,
        "",
        _retries(retries, problems),
        0 if timeout is None else _read(duration_ms, timeout, "timeout", problems),
        on_lost == "hold",
        _checkpoints(checkpoints or {}, problems),
    )
    if on_lost not in ("retry", "hold"):
        problems.append(Problem(f"on_lost is {on_lost!r}; it must be 'retry' or 'hold'"))
    if timeout is not None and not problems and shape.timeout_ms <= 0:
        problems.append(Problem(f"timeout is {timeout!r}; it must be more than 0, or None for no limit"))
    refuse("the options of this call are wrong", problems)
    return shape


def check_priority(priority: int) -> int:
    if isinstance(priority, bool) or not isinstance(priority, int) or priority not in PRIORITIES:
        refuse(
            "the options of this call are wrong",
            [Problem(f"priority is {priority!r}; it must be a whole number from 1 to 10")],
        )
    return priority


def refuse(what: str, problems: list[Problem]) -> None:
    if problems:
        raise InvalidSpec(what, tuple(problems))


def _resources(wanted: Mapping[str, Any], problems: list[Problem]) -> Resources:
    _only(wanted, _RESOURCES, "resources", problems)
    device = wanted.get("device", "any")
    if device not in DEVICES:
        problems.append(Problem(f"resources.device is {device!r}; it must be one of {', '.join(DEVICES)}"))
    labels = wanted.get("labels") or {}
    if not isinstance(labels, Mapping):
        problems.append(Problem(f"resources.labels is {labels!r}; it must map names to values"))
        labels = {}
    gpu_memory = _read(size, wanted.get("gpu_memory", 0), "resources.gpu_memory", problems)
    # As in a sweep file: asking for GPU memory, or for cuda or mps, asks for one GPU.
    implied = 1 if gpu_memory or device in ("cuda", "mps") else 0
    milligpus = _read(_thousandths, wanted.get("gpus", implied), "resources.gpus", problems)
    if milligpus > 1000 and milligpus % 1000:
        problems.append(Problem("resources.gpus must be a share of one GPU (0.5) or whole GPUs (2)"))
    if implied and not milligpus:
        problems.append(Problem("resources.gpus is 0, but gpu_memory or device asks for a GPU"))
    if milligpus and device == "cpu":
        problems.append(Problem("resources.device cpu has no GPU; leave out gpus and gpu_memory"))
    return Resources(
        _read(_thousandths, wanted.get("cpus", 1), "resources.cpus", problems),
        _read(size, wanted.get("memory", 0), "resources.memory", problems),
        milligpus,
        gpu_memory,
        str(device),
        tuple(sorted((str(key), str(value)) for key, value in labels.items())),
        str(wanted.get("profile", "")),
    )


def _retries(wanted: int | Mapping[str, Any], problems: list[Problem]) -> Retries:
    if not isinstance(wanted, Mapping):
        wanted = {"max": wanted}
    _only(wanted, _RETRIES, "retries", problems)
    standard = Retries()
    not_on = wanted.get("not_on", ())
    names = [not_on] if isinstance(not_on, str | type) else list(not_on)
    return Retries(
        _read(_count, wanted.get("max", standard.max), "retries.max", problems),
        _read(duration_ms, wanted["backoff"], "retries.backoff", problems)
        if "backoff" in wanted
        else standard.backoff_ms,
        _read(_thousandths, wanted["factor"], "retries.factor", problems)
        if "factor" in wanted
        else standard.factor_milli,
        _read(duration_ms, wanted["max_delay"], "retries.max_delay", problems)
        if "max_delay" in wanted
        else standard.max_delay_ms,
        tuple(name.__name__ if isinstance(name, type) else str(name) for name in names),
    )


def _checkpoints(wanted: Mapping[str, Any], problems: list[Problem]) -> Checkpointing:
    _only(wanted, ("every", "keep", "copies", "metric", "goal"), "checkpoints", problems)
    goal = wanted.get("goal", "minimize")
    if goal not in ("minimize", "maximize"):
        problems.append(Problem(f"checkpoints.goal is {goal!r}; it must be 'minimize' or 'maximize'"))
    keep = _read(_count, wanted.get("keep", USUAL.keep), "checkpoints.keep", problems)
    copies = _read(_count, wanted.get("copies", USUAL.copies), "checkpoints.copies", problems)
    if not 1 <= keep <= MOST_KEPT:
        problems.append(Problem(f"checkpoints.keep is {wanted.get('keep')!r}; it must be from 1 to {MOST_KEPT}"))
    if not copies:
        problems.append(Problem(f"checkpoints.copies is {wanted.get('copies')!r}; it must be 1 or more"))
    return Checkpointing(
        _read(duration_ms, wanted["every"], "checkpoints.every", problems) if "every" in wanted else USUAL.every_ms,
        keep,
        copies,
        str(wanted.get("metric", "")),
        goal == "maximize",
    )


def _only(given: Mapping[str, Any], known: tuple[str, ...], where: str, problems: list[Problem]) -> None:
    problems += [Problem(f"{where} has no {key!r}; it has {', '.join(known)}") for key in given if key not in known]


def _read(reader: Callable[[Any], int], value: Any, where: str, problems: list[Problem]) -> int:
    try:
        return reader(value)
    except ValueError as error:
        problems.append(Problem(f"{where}: {error}"))
        return 0


def _thousandths(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{value!r} is not a number from 0")
    return round(value * 1000)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 1000:
        raise ValueError(f"{value!r} is not a whole number from 0 to 1000")
    return value
