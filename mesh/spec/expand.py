"""From a sweep to its job and tasks.

Trial ``i`` depends on the sweep, the seed and ``i`` alone. A grid is walked in the order of the file, the last
parameter fastest, and nothing is built that is not asked for: trial ``i`` is computed from ``i``. Random search takes
one number of ``random.Random`` per parameter, in the order of the file, so a parameter added at the end changes
nothing of the others; only ``random()`` is used, whose sequence Python promises to keep.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mesh.core.errors import InvalidSpec, Problem
from mesh.core.ids import JobId
from mesh.core.lattice import Job, Shape, Task
from mesh.core.work import COMMAND, Work
from mesh.spec import command as commands
from mesh.spec.parameters import CONSTANT
from mesh.spec.sweep import GRID, Sweep, grid_size


def count(sweep: Sweep) -> int:
    """How many tasks it makes."""
    if sweep.method == GRID:
        points = grid_size(sweep.parameters)
        return points if sweep.run_cap is None else min(points, sweep.run_cap)
    return sweep.run_cap or 0


def describe_parameters(sweep: Sweep) -> dict[str, Any]:
    """The parameters as the file's schema has them, distributions spelled out, as one JSON object."""
    found: dict[str, Any] = {}
    for parameter in sweep.parameters:
        level = found
        for name in parameter.path[:-1]:
            level = level.setdefault(name, {"parameters": {}})["parameters"]
        level[parameter.path[-1]] = parameter.describe()
    return found


def trial(sweep: Sweep, index: int, seed: str) -> dict[str, Any]:
    """The parameters of trial ``index``, nested as in the file."""
    if sweep.method == GRID:
        values = []
        for parameter in reversed(sweep.parameters):
            index, position = divmod(index, parameter.size)
            values.append(parameter.at(position))
        values.reverse()
    else:
        draw = random.Random(f"{seed}/{index}").random
        values = [p.at(0) if p.distribution == CONSTANT else p.draw(draw()) for p in sweep.parameters]
    found: dict[str, Any] = {}
    for parameter, value in zip(sweep.parameters, values, strict=True):
        level = found
        for name in parameter.path[:-1]:
            level = level.setdefault(name, {})
        level[parameter.path[-1]] = value
    return found


def expand(
    sweep: Sweep,
    *,
    job_id: JobId,
    submitted_ms: int,
    encode: Callable[[Work], bytes],
    envvars: Mapping[str, str],
    priority: int | None = None,
    name: str | None = None,
    seed: int | None = None,
    files: str = "",
    folder: str = "",
) -> tuple[Job, Iterator[Task]]:
    """The job, and its tasks one by one as they are asked for.

    ``encode`` makes a task's payload. ``envvars`` is the submitter's environment, for ``${envvar:NAME}``; a variable
    that is missing raises InvalidSpec. ``priority``, ``name`` and ``seed`` go before what the file says; without any
    seed the job's id is one. The same arguments give equal records; ``submitted_ms`` is in no digest, so that a
    submission that is repeated later is still the same. ``files`` is the blob of the directory that is shipped, where
    one is, and ``folder`` the working directory within it.
    """
    if priority is not None and not 1 <= priority <= 10:
        raise InvalidSpec("the priority is wrong", (Problem(f"priority must be from 1 to 10, not {priority}"),))
    _check_envvars(sweep, envvars)
    options = sweep.options
    chosen = options.seed if seed is None else seed
    seed_text = str(job_id if chosen is None else chosen)
    filled = commands.fill(sweep.command, sweep.program, envvars)
    shape = Shape(
        alternatives=options.alternatives,
        kind=commands.kind_of(sweep.program, filled),
        python=options.python,
        cwd="" if files else sweep.directory,
        retries=options.retries,
        timeout_ms=options.timeout_ms,
        hold=options.hold,
        checkpoints=options.checkpoints._replace(metric=sweep.metric, maximize=sweep.maximize),
    )
    work = Work(
        COMMAND,
        cwd=folder if files else sweep.directory,
        env=options.env,
        metric=sweep.metric,
        files=files,
        requirements=options.requirements,
    )
    job = Job(
        id=job_id,
        digest="",
        name=sweep.name if name is None else name,
        kind="sweep" if sweep.parameters else "tasks",
        priority=options.priority if priority is None else priority,
        max_parallel=options.max_parallel,
        metric=sweep.metric,
        maximize=sweep.maximize,
        submitted_ms=submitted_ms,
        source=sweep.source,
        size=count(sweep),
    )
    whole = (
        job._replace(submitted_ms=0, source=b"")._asdict() | {"source": sweep.source.decode()},
        (sweep.method, count(sweep), "" if sweep.method == GRID else seed_text),
        describe_parameters(sweep),
        [word.text for word in sweep.command],
        filled,
        _common(work, shape),
    )
    return job._replace(digest=_digest(whole).hexdigest()), _tasks(
        sweep, job_id, seed_text, filled, work, shape, encode
    )


def _tasks(
    sweep: Sweep,
    job_id: JobId,
    seed: str,
    filled: tuple[str, ...],
    work: Work,
    shape: Shape,
    encode: Callable[[Work], bytes],
) -> Iterator[Task]:
    common = _digest(_common(work, shape))
    needs = (work.files,) if work.files else ()
    for index in range(count(sweep)):
        params = trial(sweep, index, seed)
        argv = commands.arguments(sweep.command, filled, params)
        digest = common.copy()
        digest.update(_canonical((argv, params)))
        written = json.dumps(params, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        payload = encode(work._replace(argv=argv, params=written))
        yield Task(f"{job_id}.{index}", job_id, index, digest.hexdigest(), shape, payload, needs)


def _common(work: Work, shape: Shape) -> tuple[Any, ...]:
    shipped = [work.files] if work.files else []
    installed = [("requirements", work.requirements)] if work.requirements else []
    return (work.kind, work.cwd, work.env, work.metric, shape, *shipped, *installed)


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _digest(value: Any) -> hashlib.blake2b:
    return hashlib.blake2b(_canonical(value), digest_size=16)


def _check_envvars(sweep: Sweep, envvars: Mapping[str, str]) -> None:
    """Theirs puts the variable's name in its place; a command with a wrong argument is worse than none."""
    problems = tuple(
        Problem(f"the environment has no {name}, which the command uses", word.line, word.column)
        for word in sweep.command
        for name in commands.envvars_in(word.text)
        if name not in envvars
    )
    if problems:
        raise InvalidSpec("the command cannot be filled in", problems)
