"""A mapping in parts is a mapping, and its parts are about as large as one another."""

from __future__ import annotations

import random

import pytest

from mesh.core.shards import SHARDS, Shards


@pytest.mark.parametrize("seed", range(5))
def test_it_is_what_a_dict_is(seed: int) -> None:
    rng, shards, twin = random.Random(seed), Shards[str, int](), dict[str, int]()
    for step in range(2000):
        key = f"job.{rng.randrange(300)}"
        match rng.randrange(4):
            case 0 | 1:
                shards[key] = twin[key] = step
            case 2:
                assert shards.pop(key, None) == twin.pop(key, None)
            case 3:
                assert shards.setdefault(key, step) == twin.setdefault(key, step)
        assert (key in shards, shards.get(key), shards.get(key, -1)) == (key in twin, twin.get(key), twin.get(key, -1))
        assert len(shards) == len(twin)
    assert dict(shards) == twin
    assert sorted(shards) == sorted(twin)
    assert shards == twin
    with pytest.raises(KeyError):
        shards["other"]
    with pytest.raises(KeyError):
        del shards["other"]


def test_no_part_has_much_more_than_its_share() -> None:
    shards = Shards[str, None]()
    for number in range(100_000):
        shards[f"job.{number}"] = None
    assert max(map(len, shards._shards)) < 1.2 * len(shards) / SHARDS
