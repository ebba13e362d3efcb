"""Whether two states are the same to the bit, types, order of keys and sharing of memory included."""

from __future__ import annotations

import struct
from collections import OrderedDict
from typing import Any

import numpy as np
import torch

from mesh.blob.states import restore, snapshot


def written(state: object) -> bytes:
    return b"".join(snapshot(state).segments())


def read(blob: bytes) -> Any:
    def into(offset: int, buffer: memoryview) -> None:
        assert offset + len(buffer) <= len(blob), "it reads past the end"
        buffer[:] = blob[offset : offset + len(buffer)]

    return restore(len(blob), into)


def again(state: object) -> Any:
    return read(written(state))


def alike(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return (
            (one.dtype, one.shape, one.requires_grad) == (other.dtype, other.shape, other.requires_grad)
            and other.is_contiguous() == one.is_contiguous()
            and tensor_bytes(one) == tensor_bytes(other)
        )
    if isinstance(one, np.ndarray | np.generic):
        return (one.dtype.str, one.shape, one.tobytes()) == (other.dtype.str, other.shape, other.tobytes())
    if isinstance(one, dict):
        extra = isinstance(one, OrderedDict) and not alike(vars(one), vars(other))
        return not extra and alike(list(one.items()), list(other.items()))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float):
        return struct.pack("d", one) == struct.pack("d", other)
    return bool(one == other)


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous().flatten()
    return bytes(plain.view(torch.uint8).tolist())
