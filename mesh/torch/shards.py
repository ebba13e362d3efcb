"""Storage of ``torch.distributed.checkpoint`` on the node's own blob store: no file system need be shared.

Each process writes its shards as chunks into the store of the node that all of them run on. The coordinator makes one
blob of them: an index, then the shards, each beginning a chunk, so a shard that did not change is not stored again.
From there it is a checkpoint like any other: copied to other nodes, and loaded on any, by any number of processes.

Tensors are stored as their bytes. Values that are no tensors come from torch's planners as pickles; what they hold is
stored as a state, and pickled again here for the planner that reads it. So no pickle is in a blob, and none from one is
ever loaded.
"""

from __future__ import annotations

import dataclasses
import io
import pickle
from collections.abc import Iterator
from math import prod
from typing import Any

import torch
from torch.distributed.checkpoint import StorageReader, StorageWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import (
    LoadItemType,
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from mesh.blob.files import write_blob
from mesh.blob.manifest import CHUNK_BYTES, Buffer, Chunk, manifest_of, name, parse
from mesh.blob.states import restore, snapshot
from mesh.core.errors import BlobCorrupt, BlobMissing, Conflict, MeshError, NotFound
from mesh.task import checkpoints
from mesh.task.store import Reading
from mesh.torch import index
from mesh.torch.index import Index, Place

_DIGEST_BYTES = 32


class CheckpointWriter(StorageWriter):
    """``dcp.save(state, storage_writer=CheckpointWriter(step=step, metrics={"loss": loss}))``, in all processes.

    Step and metrics are as of ``task.checkpoint.save``; those of the coordinator count. ``dcp.save`` returns when all
    is in this node's store, ``dcp.async_save`` when it is copied in memory. Outside a mesh task nothing is kept.
    """

    def __init__(self, step: int | None = None, metrics: dict[str, Any] | None = None) -> None:
        """Raises TypeError or ValueError: step or metrics are no numbers."""
        self._attempt = checkpoints.current()
        self._attempt.checked(step, metrics)
        self._step, self._metrics = step, metrics

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: object) -> bool:
        return False  # none is found by a path

    def reset(self, checkpoint_id: object = None) -> None:
        _refuse_id(checkpoint_id)

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        if not kwargs.get("use_collectives", True):
            raise MeshError("a checkpoint of a task is of all its processes", "", "leave use_collectives as it is")

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Raises TypeError: a value is none that a state can hold. And what writing raises."""
        sizes: list[int] = []

        def segments() -> Iterator[Buffer]:
            for item in plan.items:
                data = _bytes_of(item, planner)
                sizes.append(len(data))
                yield data

        store = self._attempt.store
        if store is None:
            chunks: Iterator[Chunk] = iter(())
            for _ in segments():
                pass  # what cannot be saved shows here too
        else:
            manifest = write_blob(store.writing(), segments())
            chunks = iter(parse(manifest, name(manifest)).chunks)
        results = []
        for item, size in zip(plan.items, sizes, strict=True):
            digests = b"".join(chunk.digest for _, chunk in zip(range(-(-size // CHUNK_BYTES)), chunks, strict=False))
            results.append(WriteResult(item.index, size, digests))
        return _done(results)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        written = [result for of_rank in results for result in of_rank]
        head = index.encode(metadata, [(result.index, result.size_in_bytes) for result in written])
        attempt = self._attempt
        with attempt.lock:
            step, metrics = attempt.checked(self._step, self._metrics)
            attempt.settle()
            if attempt.store is None:
                attempt.tell()
            else:
                manifest = write_blob(attempt.store.writing(), [head])
                chunks = list(parse(manifest, name(manifest)).chunks)
                for result in written:
                    chunks += _chunks(result.storage_data, result.size_in_bytes)
                attempt.store.keep(manifest_of(chunks).encode(), step, metrics)
            attempt.next = step + 1


class CheckpointReader(StorageReader):
    """The newest checkpoint, of this or any other number of processes; all processes make one.

    ::

        reader = CheckpointReader()
        if reader.step is not None:
            dcp.load(state, storage_reader=reader)
    """

    def __init__(self) -> None:
        """Raises BlobMissing: there is one, and no reachable machine holds it. MeshError: it holds no shards."""
        attempt = checkpoints.current()
        self._store = attempt.store
        with attempt.lock:
            attempt.settle()
            loaded = None if self._store is None else self._store.load(_open)
            self._opened: tuple[Reading, Index] | None = None
            self.step: int | None = None  # of the checkpoint; None: there is none
            if loaded is not None:
                self.step, self._opened = loaded[0].step, loaded[1]
                attempt.next = self.step + 1

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: object) -> bool:
        return False  # none is found by a path

    def reset(self, checkpoint_id: object = None) -> None:
        _refuse_id(checkpoint_id)

    def read_metadata(self) -> Metadata:
        return self._there()[1].metadata

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool) -> None:
        """Nothing: it is open."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        blob = self._there()[0].found.blob
        return [dataclasses.replace(plan, storage_data=blob) for plan in plans]

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Raises Conflict: the coordinator opened another checkpoint. BlobCorrupt, BlobMissing."""
        reading, places = self._there()[0], self._there()[1].places
        if plan.storage_data != reading.found.blob:
            raise Conflict("the processes opened different checkpoints", "one was saved meanwhile", "make new readers")
        for item in sorted(plan.items, key=lambda item: places[item.storage_index].at):
            place = places[item.storage_index]
            if item.type == LoadItemType.BYTE_IO:
                self._read_value(place, item, planner)
            else:
                self._read_tensor(place, item, planner)
        return _done(None)

    def _read_value(self, place: Place, item: ReadItem, planner: LoadPlanner) -> None:
        value = restore(place.size, lambda offset, into: self._read(place.at + offset, into))
        pickled = io.BytesIO()
        torch.save(value, pickled)
        pickled.seek(0)
        planner.load_bytes(item, pickled)

    def _read_tensor(self, place: Place, item: ReadItem, planner: LoadPlanner) -> None:
        """Of the shard only the rows that are wanted are read."""
        target = planner.resolve_tensor(item).detach()
        offsets, lengths = tuple(item.storage_offsets), tuple(item.lengths)
        rows = (lengths[0], *place.shape[1:]) if place.shape else ()
        row = prod(place.shape[1:]) * place.dtype.itemsize
        data = bytearray(prod(rows) * place.dtype.itemsize)
        self._read(place.at + (offsets[0] * row if offsets else 0), memoryview(data))
        part = _tensor(data, place.dtype, rows)
        for dimension in range(1, len(rows)):
            part = part.narrow(dimension, offsets[dimension], lengths[dimension])
        if part.shape != target.shape:
            raise ValueError(f"{item.dest_index.fqn} has the shape {tuple(target.shape)}, not {tuple(part.shape)}")
        target.copy_(part)
        planner.commit_tensor(item, target)

    def _read(self, at: int, into: memoryview) -> None:
        reading, shards = self._there()
        try:
            reading.read(at, into)
        except (BlobCorrupt, BlobMissing):
            assert self._store is not None  # it was opened there
            found = self._store.newest(reading.found.blob)
            if found is None or found.blob != reading.found.blob:  # the other processes read this one
                raise
            self._opened = Reading(found), shards
            self._opened[0].read(at, into)

    def _there(self) -> tuple[Reading, Index]:
        if self._opened is None:
            raise NotFound("there is no checkpoint", "", "load only if the step of the reader is not None")
        return self._opened


def _open(reading: Reading) -> tuple[Reading, Index]:
    return reading, index.read(reading.size, reading.read)


def _bytes_of(item: WriteItem, planner: SavePlanner) -> bytes | bytearray:
    data = planner.resolve_data(item)
    if item.type == WriteItemType.BYTE_IO:
        data.seek(0)
        try:
            value = torch.load(data, map_location="cpu", weights_only=True)
            return b"".join(snapshot(value).segments())
        except pickle.UnpicklingError as error:
            why = "it is neither a tensor nor a plain value; convert it to numbers, text or tensors"
            raise TypeError(f"{item.index.fqn} cannot be saved: {why}") from error
        except TypeError as error:
            raise TypeError(f"{item.index.fqn} cannot be saved: {error}") from None
    tensor = data.detach()
    copy = bytearray(tensor.numel() * tensor.element_size())
    _tensor(copy, tensor.dtype, tuple(tensor.shape)).copy_(tensor)
    return copy


def _tensor(data: bytearray, dtype: Any, shape: tuple[int, ...]) -> Any:
    """In this memory, row by row."""
    if not data:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(data, dtype=torch.uint8).view(dtype).view(shape)


def _chunks(digests: bytes, size: int) -> Iterator[Chunk]:
    for number, at in enumerate(range(0, len(digests), _DIGEST_BYTES)):
        yield Chunk(digests[at : at + _DIGEST_BYTES], min(CHUNK_BYTES, size - number * CHUNK_BYTES))


def _done(value: Any) -> Any:
    future: Any = Future()
    future.set_result(value)
    return future


def _refuse_id(checkpoint_id: object) -> None:
    if checkpoint_id is not None:
        raise MeshError("a checkpoint of a task has no id", f"{checkpoint_id!r} was given", "leave checkpoint_id out")
