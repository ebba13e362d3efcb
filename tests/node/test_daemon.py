"""Which measurements are worth a bid."""

from __future__ import annotations

import pytest

from mesh.core.messages import Device, Offer
from mesh.node.daemon import worth_telling

GIB = 1 << 30
CARD = Device("cuda:0", "cuda", "RTX 4090", 24 * GIB, 20 * GIB)
OFFER = Offer(4, 4000, 64 * GIB, 32 * GIB, (CARD,))


@pytest.mark.parametrize(
    ("now", "worth"),
    [
        (OFFER, False),
        (OFFER._replace(free_memory=31 * GIB), False),
        (OFFER._replace(free_memory=28 * GIB), True),
        (OFFER._replace(devices=(CARD._replace(free_memory=19 * GIB),)), False),
        (OFFER._replace(devices=(CARD._replace(free_memory=2 * GIB),)), True),
        (OFFER._replace(devices=()), True),
        (OFFER._replace(devices=(CARD._replace(name="RTX 5090"),)), True),
        (OFFER._replace(unwilling="on battery"), True),
    ],
)
def test_only_what_matters_is_told(now: Offer, worth: bool) -> None:
    assert worth_telling(OFFER, now) is worth


def test_first_measurement_is_told() -> None:
    assert worth_telling(None, OFFER)
