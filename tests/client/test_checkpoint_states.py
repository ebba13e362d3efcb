"""What a client makes of a checkpoint's bytes."""

from __future__ import annotations

import numpy as np
import pytest

from mesh.blob.states import snapshot
from mesh.client.blobs import state_of
from mesh.core.errors import BlobCorrupt

BLOB = "0f" * 32


def test_a_state_comes_back() -> None:
    weights = np.arange(5.0)
    data = bytearray().join(snapshot({"weights": weights, "step": 3}).segments())
    back = state_of(BLOB, data)
    assert back["step"] == 3
    assert (back["weights"] == weights).all()


@pytest.mark.parametrize("data", [b"", b"no state at all", bytes(100)])
def test_what_holds_no_state_says_so_and_what_to_do(data: bytes) -> None:
    with pytest.raises(BlobCorrupt, match=r"holds no state.*meshctl get"):
        state_of(BLOB, bytearray(data))


def test_a_state_that_is_cut_short_is_none() -> None:
    data = bytearray().join(snapshot({"weights": np.arange(5.0)}).segments())
    with pytest.raises(BlobCorrupt, match="holds no state"):
        state_of(BLOB, data[:-8])
