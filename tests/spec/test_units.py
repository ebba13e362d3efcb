from __future__ import annotations

import pytest

from mesh.spec.units import duration_ms, size


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("4GiB", 4 * 2**30),
        ("512MB", 512_000_000),
        ("512 MiB", 512 * 2**20),
        ("1.5KiB", 1536),
        ("1TB", 10**12),
        ("0.1GB", 100_000_000),  # exactly: no binary fraction in between
        ("7", 7),
        ("7B", 7),
        (0, 0),
        (123456, 123456),
        ("1gb", 10**9),
    ],
)
def test_sizes(written: object, found: int) -> None:
    assert size(written) == found


@pytest.mark.parametrize(
    "written", ["", "GiB", "4Gi", "4 potatoes", "-1GB", -1, 1.5, True, None, [], "99999999TB", "1e3"]
)
def test_what_is_no_size_is_refused_with_its_own_words(written: object) -> None:
    with pytest.raises(ValueError, match=r"size|unit|between") as caught:
        size(written)
    assert repr(written) in str(caught.value)


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("1s", 1000),
        ("250ms", 250),
        ("5m", 300_000),
        ("6h", 21_600_000),
        ("2d", 172_800_000),
        ("1h30m", 5_400_000),
        ("0.5s", 500),
        (2, 2000),
        (0.25, 250),
        (0, 0),
    ],
)
def test_durations(written: object, found: int) -> None:
    assert duration_ms(written) == found


@pytest.mark.parametrize("written", ["", "s", "5", "5 parsecs", "-1s", -1, "1s!", True, None, {}, "4000d", 1e300])
def test_what_is_no_duration_is_refused_with_its_own_words(written: object) -> None:
    with pytest.raises(ValueError, match=r"duration|between") as caught:
        duration_ms(written)
    assert repr(written) in str(caught.value)
