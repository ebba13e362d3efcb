"""Every mutation is caught by a default seed: an invariant that nothing can violate would be noticed here."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from tests.sim.mutations import MUTATIONS, SEEDS, Hunt, Mutation, hunts


@pytest.fixture(scope="module")
def found(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Hunt]]]:
    """The hunts for those that were asked for, two at a time, while the tests wait for one after the other."""
    wanted = [
        item.callspec.params["mutation"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.originalname == test_a_default_seed_catches_it.__name__
    ]
    futures = hunts(wanted)
    yield futures
    for future in futures.values():
        future.cancel()


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_its_line_is_there_once(mutation: Mutation) -> None:
    source = mutation.path.read_text(encoding="utf-8")
    assert mutation.apply_to(source) != source


@pytest.mark.timeout(300)  # a scan of all seeds takes a minute
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_default_seed_catches_it(mutation: Mutation, found: dict[str, Future[Hunt]]) -> None:
    hunt = found[mutation.name].result()
    if not hunt.violation:
        pytest.fail(f"none of the first {len(SEEDS)} worlds shows that {mutation.why}", pytrace=False)
    if hunt.seed != mutation.seed:
        warnings.warn(f"{mutation.name}: its seed is now {hunt.seed}, not {mutation.seed}", stacklevel=1)


def test_names_tell_them_apart() -> None:
    names = [mutation.name for mutation in MUTATIONS]
    assert len(set(names)) == len(names) >= 24
