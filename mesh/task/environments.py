"""The Python environments that tasks ask for (``env: {requirements: ...}``): built once per node, ``STATE/envs/KEY``.

The runner whose task is the first to need one builds it, with uv where that is installed, else with venv and pip;
others that need the same wait for it. KEY is a digest of all that decides what it is. ``KEY.log`` beside it is what
its build printed, however it ended.

What is not in an environment is looked for where meshd's own Python looks: so mesh itself and what a runner needs are
found in each, and what a task requires goes before the same thing of meshd's.

It is built where it stays, for the scripts in it hold its path, so no rename can make it whole: a file ``whole`` does,
written last.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import NamedTuple

import mesh

KEPT = 8  # environments per node; one with torch has 5 GB
LOGS_KEPT = 7 * 86400.0  # seconds, of builds whose environment is not there

WHOLE = "whole"


class Own(NamedTuple):
    """Meshd's own Python, and where it finds modules."""

    python: str
    paths: tuple[str, ...]


def own() -> Own:
    """Of this process, which must be one of meshd's own Python, and not have run a task yet."""
    found = dict.fromkeys((*sys.path, str(Path(mesh.__file__).parent.parent)))
    return Own(sys.executable, tuple(path for path in found if os.path.isdir(path)))


def python_of(home: Path) -> str:
    return str(home / "bin" / "python")


def variables(home: Path, path: str) -> dict[str, str]:
    """What ``activate`` would set. ``path``: PATH as it was."""
    return {"VIRTUAL_ENV": str(home), "PATH": os.pathsep.join(filter(None, (str(home / "bin"), path)))}


def usable(home: Path) -> bool:
    """Whether it is whole and its Python is still there; used from now on."""
    try:
        os.utime(home / WHOLE)
    except FileNotFoundError:
        return False
    return os.path.exists(python_of(home))


def tidy(state: Path) -> None:
    """Keep those used last, and nothing that is half built. While nothing runs."""
    folder = state / "envs"
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    whole = [path for path in entries if (path / WHOLE).exists()]
    keep = {path.name for path in sorted(whole, key=lambda path: -(path / WHOLE).stat().st_mtime)[:KEPT]}
    for path in entries:
        if path.name in keep or (path.suffix == ".log" and path.stem in keep):
            continue
        if path.suffix == ".log" and time.time() - path.stat().st_mtime < LOGS_KEPT:
            continue
        if path.is_dir():
            (path / WHOLE).unlink(missing_ok=True)  # half of it must not be taken for the whole
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
