"""The default worlds hold; a seed is a world; and who runs the simulator by hand is told what failed."""

from __future__ import annotations

import multiprocessing
import os
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.sim.__main__ import run_seed
from tests.sim.mutations import MUTATIONS, ROOT

SEEDS = 300


def python(*arguments: str, hash_seed: int = 0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


@pytest.mark.timeout(300)  # 45 s where nobody else uses the two cores
def test_default_seeds() -> None:
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        results = list(pool.map(run_seed, range(SEEDS), chunksize=5))
    assert [result.seed for result in results] == list(range(SEEDS))
    wrong = [
        f"seed {result.seed}: {result.violations[0]}\n    make sim SEEDS=1 FROM={result.seed}"
        for result in results
        if result.violations
    ]
    if wrong:
        pytest.fail("\n".join([f"{len(wrong)} of {SEEDS} worlds fail", *wrong]), pytrace=False)


def test_a_seed_is_one_world_in_every_process() -> None:
    """The order of sets of strings differs between these two; what is decided must not."""
    code = "from tests.sim.__main__ import run_seed\nfor n in range(6): print(n, run_seed(n).trace)"
    one, other = (python("-c", code, hash_seed=seed) for seed in (1, 2))
    assert one.returncode == 0, one.stderr
    assert len(set(one.stdout.split()[1::2])) == 6, "worlds of different seeds have one trace"
    assert one.stdout == other.stdout


def test_the_command_line_passes() -> None:
    run = python("-m", "tests.sim", "--seeds", "2", "--from", "3", "--jobs", "1")
    assert (run.returncode, run.stderr) == (0, "")
    assert re.fullmatch(r"2 seeds, \d+ steps, 0 failed, [\d.]+ s\n", run.stdout)


def test_the_command_line_names_a_failing_seed_and_replays_it() -> None:
    mutation = next(mutation for mutation in MUTATIONS if mutation.name == "answers_before_the_sync")
    seed = mutation.seed
    run = python("-m", "tests.sim.mutations", mutation.name, "--seeds", "1", "--from", str(seed), "--jobs", "1")
    assert run.returncode == 1, run.stdout + run.stderr
    assert run.stderr == ""
    failure = re.search(rf"^seed {seed} fails: (.*)$", run.stdout, re.MULTILINE)
    assert failure is not None, run.stdout
    assert f"\n1 seeds, {re.search(r', (.*) steps', run.stdout)[1]} steps, 1 failed" in run.stdout  # type: ignore[index]
    assert f"again with: make sim SEEDS=1 FROM={seed}" in run.stdout
    assert run.stdout.endswith(f"seed {seed}: {failure[1]}\n"), "the replay shows something else, or more"
