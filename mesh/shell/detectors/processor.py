"""Processor, cores and memory: what this process may use, which in a container is less than the machine has."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import psutil

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
CPUINFO = Path("/proc/cpuinfo")
MODEL_KEYS = ("model name", "hardware", "cpu model", "model")


def cpu() -> dict[str, Any]:
    return {"cpu": _model(), "machine": platform.machine() or "unknown"}


def cores() -> dict[str, Any]:
    """Thousandths of a core: those this process may run on, less where a cgroup's quota allows less."""
    if sys.platform.startswith("linux"):
        usable = len(os.sched_getaffinity(0))
    else:
        usable = psutil.cpu_count() or 1
    return {"millicpus": max(1, min([1000 * usable, *_quotas()]))}


def memory() -> dict[str, Any]:
    """Total and available, less where a cgroup allows less; what it uses as file cache can be had back."""
    system = psutil.virtual_memory()
    total, free = int(system.total), int(system.available)
    for group in _groups():
        limit = _number(group / "memory.max")
        if limit is None:
            continue
        used = (_number(group / "memory.current") or 0) - _inactive_file(group)
        total, free = min(total, limit), min(free, max(0, limit - used))
    return {"memory": total, "free_memory": min(free, total)}


@cache
def _model() -> str:
    if sys.platform == "darwin":
        asked = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
        )
        return _clean(asked.stdout) or platform.processor() or "unknown"
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    values = {key.strip().lower(): value for key, _, value in (line.partition(":") for line in lines)}
    named = (_clean(values[key]) for key in MODEL_KEYS if key in values)
    # Arm processors mostly name neither model nor hardware.
    return next((name for name in named if name), platform.processor() or platform.machine() or "unknown")


def _clean(text: str) -> str:
    return " ".join("".join(letter for letter in text if letter.isprintable()).split())[:128]


def _groups() -> Iterator[Path]:
    """The cgroups (v2) this process is in, from its own to the root: each one's limits hold."""
    try:
        lines = MEMBERSHIP.read_text(encoding="utf-8").splitlines()
    except OSError:
        return  # no Linux
    own = next((line[3:] for line in lines if line.startswith("0::")), None)
    if own is None:
        return
    # Inside a container the path may be that of the host, or lead out of what is mounted; the root is always there.
    parts = [part for part in own.split("/") if part not in ("", "..", ".")]
    for count in range(len(parts), -1, -1):
        group = CGROUPS.joinpath(*parts[:count])
        if group.is_dir():
            yield group


def _quotas() -> Iterator[int]:
    for group in _groups():
        quota, _, period = _read(group / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit() and int(period):
            yield max(1, 1000 * int(quota) // int(period))


def _inactive_file(group: Path) -> int:
    for line in _read(group / "memory.stat").splitlines():
        key, _, value = line.partition(" ")
        if key == "inactive_file" and value.isdigit():
            return int(value)
    return 0


def _number(path: Path) -> int | None:
    """None: no such file, or ``max``, which is no limit."""
    text = _read(path)
    return int(text) if text.isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
