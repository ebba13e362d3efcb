"""The tensors that several processes save together and load again."""

from __future__ import annotations

import torch

SHAPE = (300, 1001)  # more than a chunk in each shard, and no multiple of anything


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "sharded": torch.randn(SHAPE, generator=generator),
        "all": torch.randn(5, 7, generator=generator).to(torch.bfloat16),
    }
