"""One of several processes that save or load a sharded state: ``shards_child.py save|load RANK OF FILE DIMENSION``."""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from mesh.torch import CheckpointReader, CheckpointWriter
from tests.torch.sharded import SHAPE, tensors


def main(action: str, rank: int, count: int, file: str, dimension: int) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=count)
    devices = init_device_mesh("cpu", (count,))
    full = tensors()
    if action == "save":
        state = {
            "model": {"sharded": distribute_tensor(full["sharded"], devices, [Shard(dimension)]), "all": full["all"]},
            "optimizer": {"lr": 0.5, "betas": (0.9, 0.99)},
        }
        dcp.save(state, storage_writer=CheckpointWriter(7, {"loss": 0.25} if rank == 0 else None))
    else:
        state = {
            "model": {
                "sharded": distribute_tensor(torch.zeros(SHAPE), devices, [Shard(dimension)]),
                "all": torch.zeros_like(full["all"]),
            },
            "optimizer": {"lr": 0.0, "betas": ()},
        }
        reader = CheckpointReader()
        assert reader.step == 7
        dcp.load(state, storage_reader=reader)
        assert torch.equal(state["model"]["sharded"].full_tensor(), full["sharded"])
        assert torch.equal(state["model"]["all"], full["all"])
        assert state["optimizer"] == {"lr": 0.5, "betas": (0.9, 0.99)}
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
