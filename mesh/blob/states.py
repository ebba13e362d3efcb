"""Training states as blobs: nested dicts and lists of plain values, tensors and arrays, as segments, and back.

A state is a file of the safetensors layout, so whoever reads that reads its tensors; what is not a tensor stands in
the header's metadata as JSON. Nothing is pickled and nothing in a blob is ever run. The header is one segment and each
tensor another: what changes at every save (steps, metrics, NumPy scalars) is in the header alone, and a tensor that did
not change is the same chunks again. Tensors that share memory are stored once, and share it again when restored.

A tensor comes back on the CPU, row by row in memory: where it lay before is not kept, and neither are attributes set on
it. Below lie :mod:`mesh.blob.layout`, :mod:`mesh.blob.values` and :mod:`mesh.blob.tensors`.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import Any, NamedTuple, TypeAlias

from mesh.blob import layout
from mesh.blob.layout import Stored, corrupt
from mesh.blob.manifest import Buffer
from mesh.blob.tensors import Leaf, Memory, Source, load_leaf, load_scalar, scalar, source, without_torch
from mesh.blob.values import Encoder, decode

# Fills all of the buffer with the blob's bytes from that offset on, or raises.
Read: TypeAlias = Callable[[int, memoryview], object]

FORMAT = "computemesh state 1"


class Snapshot:
    """A copy of a state in memory, as one moment left it. May be read from any thread."""

    def __init__(self, header: bytes, sizes: Sequence[int], memory: mmap) -> None:
        self._header, self._sizes = header, sizes
        self._memory: mmap | None = memory

    @property
    def size(self) -> int:
        """Bytes of the blob."""
        return len(self._header) + sum(self._sizes)

    def segments(self) -> Iterator[Buffer]:
        """The header, then each tensor. Not to be read after this snapshot was given to :func:`snapshot` as spare."""
        if self._memory is None:
            raise ValueError("this snapshot's memory was given to another")
        yield self._header
        view = memoryview(self._memory)
        at = 0
        for size in self._sizes:
            yield view[at : at + size]
            at += size

    def _give(self) -> mmap:
        if self._memory is None:
            raise ValueError("this snapshot's memory was given to another")
        memory, self._memory = self._memory, None
        return memory


def snapshot(state: object, spare: Snapshot | None = None) -> Snapshot:
    """A copy of the state, taken now: afterwards training may go on.

    ``spare`` is an earlier snapshot that nobody reads any more; its memory is used again. That is several times faster
    than memory that the system must hand out first.

    Raises:
        TypeError: it holds values that a state cannot hold; names the place of each, and what to do.
        QuotaExceeded: what is not in tensors is larger than a header may be.
    """
    leaves = _Leaves()
    encoder = Encoder(leaves.number)
    value = encoder.encode(state)
    if encoder.wrong:
        raise TypeError("\n".join((f"{len(encoder.wrong)} of its values cannot be saved:", *encoder.wrong)))
    holders, described = leaves.place()
    stored = [Stored(leaves.names[n], *leaves.sources[n].stored) for n in holders]
    content = json.dumps({"leaves": described, "value": value}, separators=(",", ":"))
    header = layout.encode(stored, {"format": FORMAT, "state": content})
    sizes = [tensor.size for tensor in stored]
    total = sum(sizes)
    memory = spare._give() if spare is not None else None
    if memory is None or len(memory) < total:
        memory = None  # gone before its successor comes
        memory = mmap(-1, max(total, 1), flags=MAP_PRIVATE | MAP_ANONYMOUS)
    at = 0
    for n, size in zip(holders, sizes, strict=True):
        if size:
            leaves.sources[n].copy(memory, at)
        at += size
    return Snapshot(header, sizes, memory)


def restore(size: int, read: Read) -> Any:
    """The state that a blob of ``size`` bytes holds. Tensors' bytes are read right into their own memory, in order.

    Takes no more memory for tensors than the blob has bytes, and runs nothing that is in it.

    Raises:
        BlobCorrupt: no such state; says why.
        ImportError: it has tensors or arrays of a library that is not installed here. Where torch is not, tensors come
            back as arrays, if NumPy has their dtype.
    """
    length = bytearray(min(size, layout.LENGTH_BYTES))
    read(0, memoryview(length))
    header = bytearray(layout.header_size(bytes(length), size))
    read(layout.LENGTH_BYTES, memoryview(header))
    at = layout.LENGTH_BYTES + len(header)
    stored, metadata = layout.parse(bytes(header), size - at)
    if metadata.get("format") != FORMAT:
        corrupt("it is no state, or one of another version")
    content = layout.loads(metadata.get("state", ""), "the state in the header")
    if not isinstance(content, dict) or content.keys() != {"leaves", "value"}:
        corrupt("the header holds no leaves and value")
    leaves = _described(content["leaves"], stored)
    memories = []
    for tensor, of in zip(stored, _libraries(leaves, len(stored)), strict=True):
        memory = Memory(of, tensor.size)
        if tensor.size:
            read(at, memory.view())
        at += tensor.size
        memories.append(memory)
    seen = [memories[leaf.segment].see(leaf) if isinstance(leaf, Leaf) else load_scalar(*leaf) for leaf in leaves]
    used = set()

    def look(number: int) -> object:
        if number >= len(seen):
            corrupt(f"leaf {number} of {len(seen)}")
        used.add(number)
        return seen[number]

    try:
        state = decode(content["value"], look)
    except RecursionError:
        corrupt("it is nested too deeply")
    if len(used) != len(seen):
        corrupt(f"{len(seen) - len(used)} of {len(seen)} leaves are nowhere in the state")
    return state


class _Placed(NamedTuple):
    holder: int  # the source whose segment it lies in
    start: int  # bytes, there
    view: bool  # with its own strides; else row by row


class _Leaves:
    """The tensors, arrays and NumPy scalars of a state, in the order in which they were met."""

    def __init__(self) -> None:
        self.sources: list[Source] = []
        self.names: list[str] = []
        self._leaves: list[int | tuple[str, str]] = []  # the number of a source, or a scalar
        self._met: dict[int, int] = {}
        self._kept: list[object] = []  # so that no id is given to another object meanwhile
        self._taken = {layout.METADATA: 1}

    def number(self, value: object, path: tuple[object, ...]) -> int | str | None:
        if (known := self._met.get(id(value))) is not None:
            return known
        found = scalar(value)
        if found is None:
            described = source(value)
            if not isinstance(described, Source):
                return described
            self._leaves.append(len(self.sources))
            self.sources.append(described)
            self.names.append(self._name(path))
        elif isinstance(found, str):
            return found
        else:
            self._leaves.append(found)
        self._kept.append(value)
        return self._met.setdefault(id(value), len(self._leaves) - 1)

    def _name(self, path: tuple[object, ...]) -> str:
        """For those who read the tensors without the state; no two alike."""
        name = ".".join(map(str, path)).encode("utf-8", "replace").decode() or "state"
        while (count := self._taken.get(name, 0)) > 0:
            self._taken[name] = count + 1
            name = f"{name}#{count + 1}"
        self._taken[name] = 1
        return name

    def place(self) -> tuple[list[int], list[Any]]:
        """The sources that get a segment, in the order of the file, and all leaves, as JSON."""
        placed = _share(self.sources)
        holders = sorted(
            {place.holder for place in placed}, key=lambda n: (-layout.ITEM_BYTES[self.sources[n].stored[0]], n)
        )
        segment = {holder: n for n, holder in enumerate(holders)}
        described: list[Any] = []
        for leaf in self._leaves:
            if not isinstance(leaf, int):
                described.append(leaf)
                continue
            of, place = self.sources[leaf], placed[leaf]
            strides = of.strides if place.view else None
            described.append(Leaf(of.kind, segment[place.holder], of.dtype, of.grad, of.shape, strides, place.start))
        return holders, described


def _share(sources: Sequence[Source]) -> list[_Placed]:
    """Where each lies: in a segment of its own, or in that of one that shows all of the same memory.

    Views that overlap without one that holds them all are stored each for itself.
    """
    placed = [_Placed(n, 0, False) for n in range(len(sources))]
    same: dict[tuple[object, ...], _Placed] = {}
    widest: int | None = None  # of the memory that is looked at, what reaches farthest
    order = sorted(
        range(len(sources)),
        key=lambda n: (sources[n].memory, sources[n].start, -sources[n].end, not sources[n].dense, n),
    )
    for n in order:
        one = sources[n]
        if not one.size:
            continue
        if widest is not None and sources[widest].memory != one.memory:
            widest = None
        key = (one.memory, one.start, one.shape, one.strides, one.dtype)
        if key not in same:
            if widest is not None and _within(one, sources[widest]):
                same[key] = _Placed(widest, one.start - sources[widest].start, not one.dense)
            else:
                same[key] = placed[n]
                if one.dense:  # and reaches farther, else it would lie within
                    widest = n
        placed[n] = same[key]
    return placed


def _within(one: Source, other: Source) -> bool:
    aligned = not any(part % one.item for part in (one.start - other.start, *one.strides))
    return other.start <= one.start and one.end <= other.end and aligned and min(one.strides, default=0) >= 0


def _described(described: object, stored: Sequence[Stored]) -> list[Leaf | tuple[str, str]]:
    if not isinstance(described, list):
        corrupt("the leaves are no list")
    sizes = [tensor.size for tensor in stored]
    leaves: list[Leaf | tuple[str, str]] = []
    torch = True
    for fields in described:
        if isinstance(fields, list) and len(fields) == 2 and all(isinstance(field, str) for field in fields):
            leaves.append((fields[0], fields[1]))
            continue
        leaf = load_leaf(fields, sizes)
        if leaf.kind != "numpy" and torch:
            torch = importlib.util.find_spec("torch") is not None
        leaves.append(leaf if torch else without_torch(leaf, stored[leaf.segment].name))
    return leaves


def _libraries(leaves: Sequence[Leaf | tuple[str, str]], count: int) -> list[str]:
    """Of each segment, whose memory it becomes: torch's or NumPy's."""
    found: list[set[str]] = [set() for _ in range(count)]
    for leaf in leaves:
        if isinstance(leaf, Leaf):
            found[leaf.segment].add("numpy" if leaf.kind == "numpy" else "torch")
    if any(len(of) != 1 for of in found):
        corrupt("a tensor is nowhere in the state, or is torch's and NumPy's")
    return [of.pop() for of in found]
