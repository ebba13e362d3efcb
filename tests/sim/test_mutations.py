"""Every kept breakage of the core is caught by a default world: an invariant that nothing can violate shows here."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.sim.mutations import MUTATIONS, WORLDS, Mutation

ROOT = Path(__file__).parents[2]


def hunt(mutation: Mutation) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.sim.mutations", mutation.name],
        cwd=ROOT, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def hunts(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[subprocess.CompletedProcess[str]]]]:
    """Those that were asked for, two at a time, while the tests wait for one after the other."""
    wanted = [
        item.callspec.params["mutation"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.originalname == test_a_default_world_catches_it.__name__
    ]
    with ThreadPoolExecutor(2) as pool:
        futures = {mutation.name: pool.submit(hunt, mutation) for mutation in wanted}
        yield futures
        for future in futures.values():
            future.cancel()


@pytest.mark.timeout(300)  # a scan of all worlds takes half a minute
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_default_world_catches_it(
    mutation: Mutation, hunts: dict[str, Future[subprocess.CompletedProcess[str]]]
) -> None:
    ran = hunts[mutation.name].result()
    assert ran.returncode == 0, f"{ran.stdout}{ran.stderr}"
    assert ran.stdout.startswith("caught in seed "), ran.stdout + ran.stderr


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_its_line_stands_in_the_source_once(mutation: Mutation) -> None:
    text = ROOT.joinpath(*mutation.module.split(".")).with_suffix(".py").read_text("utf-8")
    assert text.count(mutation.old) == 1, f"{mutation.old!r} in {mutation.module}"


def test_names_tell_them_apart_and_seeds_are_default_ones() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 24
    assert all(0 <= mutation.seed < WORLDS for mutation in MUTATIONS)
