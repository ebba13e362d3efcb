"""What is kept of the environments of a node."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from mesh.task.environments import KEPT, LOGS_KEPT, WHOLE, tidy, usable, variables


def environment(folder: Path, name: str, used: float) -> Path:
    home = folder / name
    (home / "bin").mkdir(parents=True)
    (home / "bin/python").touch()
    (home / WHOLE).touch()
    os.utime(home / WHOLE, (used, used))
    (folder / f"{name}.log").write_text("built")
    return home


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_those_used_last_are_kept_with_their_logs(tmp_path: Path) -> None:
    envs = tmp_path / "envs"
    made = [environment(envs, f"e{n}", 1000.0 + n) for n in range(KEPT + 2)]
    for n in range(KEPT + 2):
        os.utime(envs / f"e{n}.log", (1000, 1000))
    assert usable(made[0])  # whose use makes it the last of all
    tidy(tmp_path)
    kept = ["e0", *(f"e{n}" for n in range(3, KEPT + 2))]
    assert names(envs) == sorted([*kept, *(f"{name}.log" for name in kept)])


def test_what_is_half_built_goes_and_the_log_of_what_failed_stays_for_a_while(tmp_path: Path) -> None:
    envs = tmp_path / "envs"
    environment(envs, "whole", time.time())
    for name in ("half", "half.tmp"):
        (envs / name / "bin").mkdir(parents=True)
    for name in ("half.lock", "half.failed", "half.log", "old.log"):
        (envs / name).touch()
    os.utime(envs / "old.log", (0, time.time() - LOGS_KEPT - 60))
    tidy(tmp_path)
    assert names(envs) == ["half.log", "whole", "whole.log"]


def test_a_node_without_any_has_nothing_to_tidy(tmp_path: Path) -> None:
    tidy(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_one_is_usable_only_whole_and_with_its_python(tmp_path: Path) -> None:
    home = environment(tmp_path, "e", 1000.0)
    assert usable(home)
    (home / "bin/python").unlink()
    assert not usable(home)
    (home / "bin/python").touch()
    (home / WHOLE).unlink()
    assert not usable(home)


@pytest.mark.parametrize(("path", "expected"), [("/bin:/usr/bin", "/e/bin:/bin:/usr/bin"), ("", "/e/bin")])
def test_its_programs_come_first(path: str, expected: str) -> None:
    # An empty entry would be the working directory.
    assert variables(Path("/e"), path) == {"VIRTUAL_ENV": "/e", "PATH": expected}
