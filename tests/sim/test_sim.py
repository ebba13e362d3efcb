"""The default worlds hold; a seed is one world everywhere; who runs the simulator by hand is told what failed."""

from __future__ import annotations

import multiprocessing
import os
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from tests.sim.__main__ import run_seed

ROOT = Path(__file__).parents[2]
SEEDS = 500

BROKEN = """
import sys
from tests.sim.mutations import MUTATIONS, _Finder
mutation = next(m for m in MUTATIONS if m.name == "answers do not wait for the disk")
sys.meta_path.insert(0, _Finder(mutation))
from tests.sim.__main__ import main
sys.argv[1:] = ["--seeds", "1", "--from", str(mutation.seed), "--jobs", "1"]
sys.exit(main())
"""


def python(*arguments: str, hash_seed: int = 0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


@pytest.mark.timeout(300)  # 50 s where nobody else uses the two cores
def test_default_seeds() -> None:
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        results = list(pool.map(run_seed, range(SEEDS), chunksize=5))
    assert [result.seed for result in results] == list(range(SEEDS))
    wrong = [
        f"seed {result.seed}: {result.violations[0]}\n    make sim SEEDS=1 FROM={result.seed}"
        for result in results
        if result.violations
    ]
    assert not wrong, "\n".join([f"{len(wrong)} of {SEEDS} worlds fail", *wrong])


def test_a_seed_is_one_world_in_every_process() -> None:
    """The order of sets of strings differs between these two; what is decided must not."""
    code = """if True:
        from tests.sim.run import build, play
        for seed in range(6):
            world = build(seed)
            world.traced = True
            print(seed, play(world).trace)
    """
    one, other = (python("-c", code, hash_seed=seed) for seed in (1, 2))
    assert one.returncode == 0, one.stderr
    assert len(set(one.stdout.split()[1::2])) == 6, "worlds of different seeds have one trace"
    assert one.stdout == other.stdout


def test_the_command_line_passes() -> None:
    run = python("-m", "tests.sim", "--seeds", "2", "--from", "3", "--jobs", "1")
    assert (run.returncode, run.stderr) == (0, "")
    assert re.fullmatch(r"2 seeds, \d+ steps, 0 failed, [\d.]+ s\n", run.stdout)


def test_the_command_line_names_a_failing_seed_and_replays_it() -> None:
    run = python("-c", BROKEN)
    assert run.returncode == 1, run.stdout + run.stderr
    failure = re.search(r"^seed (\d+) fails: (.*)$", run.stdout, re.MULTILINE)
    assert failure is not None, run.stdout
    seed, violation = failure.groups()
    assert f"again with: make sim SEEDS=1 FROM={seed}" in run.stdout
    again = re.search(rf"^seed {seed}: (.*)$", run.stdout, re.MULTILINE)
    assert again is not None
    assert again.group(1) == violation, "the replay shows something else first"
    assert "did not replay exactly" not in run.stdout
