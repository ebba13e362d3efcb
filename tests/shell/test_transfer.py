"""Blobs moved over real gRPC on loopback, between stores in memory."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

import grpc
import grpc.aio
import pytest

from mesh.blob.manifest import CHUNK_BYTES, Chunk, Manifest, digest, manifest_of, name, parse
from mesh.core.errors import BlobCorrupt, BlobMissing, QuotaExceeded
from mesh.core.exchange import MOST_FLYING, SECOND_SHARE, members
from mesh.core.ids import BlobId
from mesh.shell.transfer import Transfer
from mesh.shell.transfer_fetch import Patience
from mesh.shell.transfer_serve import BURST, Bucket
from mesh.wire.blob import SERVICE, encode_name, encode_numbers

WITHIN = 20.0
BRISK = Patience(
    answer=2.0, manifest=2.0, stall=0.5, again=0.01, again_limit=0.05, tries=4, forgive=0.2, names=0.05, tick=0.02
)


class Memory:
    """A store. Counts what is written how often; ``gate`` holds up what is read of it, ``full`` what is written."""

    def __init__(self) -> None:
        self.manifests: dict[BlobId, bytes] = {}
        self.parsed: dict[BlobId, Manifest] = {}
        self.chunks: dict[BlobId, dict[int, bytes]] = {}
        self.finished: list[BlobId] = []
        self.writes: Counter[int] = Counter()
        self.read_by: set[int] = set()  # threads
        self.held = Counter[BlobId]()
        self.full = False
        self.gate: Callable[[int], None] = lambda index: None
        self.lock = threading.Lock()

    def put(self, chunks: Sequence[bytes], here: Sequence[int] | None = None) -> BlobId:
        encoded = manifest_of(Chunk(digest(chunk), len(chunk)) for chunk in chunks).encode()
        blob = name(encoded)
        self.begin(encoded)
        self.chunks[blob] = {index: chunks[index] for index in (range(len(chunks)) if here is None else here)}
        return blob

    def manifest(self, blob: BlobId) -> bytes | None:
        return self.manifests.get(blob)

    def have(self, blob: BlobId) -> int:
        with self.lock:
            return sum(1 << index for index in self.chunks.get(blob, ()))

    def begin(self, manifest: bytes) -> int:
        if self.full:
            raise QuotaExceeded("the store is full")
        blob = name(manifest)
        self.parsed[blob] = parse(manifest, blob)
        self.manifests[blob] = manifest
        self.chunks.setdefault(blob, {})
        return self.have(blob)

    def read(self, blob: BlobId, index: int) -> bytes:
        self.read_by.add(threading.get_ident())
        self.gate(index)
        try:
            return self.chunks[blob][index]
        except KeyError:
            raise BlobMissing(f"chunk {index} is not here") from None

    def write(self, blob: BlobId, index: int, data: bytes) -> None:
        self.gate(index)
        if (digest(data), len(data)) != self.parsed[blob].chunks[index]:
            raise BlobCorrupt(f"chunk {index} is not what it should be")
        with self.lock:
            self.writes[index] += 1
            self.chunks[blob][index] = data

    def finish(self, blob: BlobId) -> None:
        assert len(self.chunks[blob]) == len(self.parsed[blob].chunks)
        self.finished.append(blob)

    @contextlib.contextmanager
    def reading(self, blob: BlobId) -> Iterator[None]:
        if blob not in self.chunks:
            raise BlobMissing(f"nothing of blob {blob[:12]} is here")
        self.held[blob] += 1
        yield
        self.held[blob] -= 1


class Node:
    def __init__(self, name: str, limit: float = 0.0, patience: Patience = BRISK) -> None:
        self.name, self.store = name, Memory()
        self.transfer = Transfer(name, self.store, limit, patience)

    async def start(self) -> Node:
        self.server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        self.server.add_generic_rpc_handlers((self.transfer.handlers(),))
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        await self.server.start()
        return self

    @property
    def pair(self) -> tuple[str, str]:
        return self.name, self.address

    async def close(self) -> None:
        await self.transfer.close()
        await self.server.stop(None)

    async def fetch(self, blob: BlobId, *holders: Node | Link | tuple[str, str], **options: Any) -> None:
        async with asyncio.timeout(WITHIN):
            await self.transfer.fetch(blob, known(*holders), **options)


def known(*holders: Node | Link | tuple[str, str]) -> Callable[[], Awaitable[Sequence[tuple[str, str]]]]:
    async def named() -> Sequence[tuple[str, str]]:
        return [holder if isinstance(holder, tuple) else holder.pair for holder in holders]

    return named


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., Any]]:
    nodes: list[Node] = []

    async def start(name: str, **options: Any) -> Node:
        nodes.append(Node(name, **options))
        return await nodes[-1].start()

    yield start
    for node in nodes:
        await node.close()
        assert not +node.store.held, "whoever began to read has ended"


class Link:
    """A TCP connection's middle: everything passes until it is cut."""

    def __init__(self, to: Node) -> None:
        self._to = to.address.rpartition(":")[::2]
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.cut_after: int | None = None  # bytes towards the fetcher, once
        self.passed = 0

    async def start(self) -> Link:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.pair = ("50-holder", f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}")
        return self

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, towards = await asyncio.open_connection(*self._to)
        self._writers += [writer, towards]
        await asyncio.gather(self._pass(reader, towards, False), self._pass(there, writer, True))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counts: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
                if counts:
                    self.passed += len(data)
                    if self.cut_after is not None and self.passed >= self.cut_after:
                        self.cut_after = None
                        self.cut()
        writer.close()

    def cut(self) -> None:
        writers, self._writers = self._writers, []
        for writer in writers:
            writer.transport.abort()

    async def close(self) -> None:
        self._server.close()
        self.cut()


def some(count: int, size: int = 20_000) -> list[bytes]:
    """Chunks, each unlike the others."""
    return [bytes([index % 251, index // 251]) * (size // 2) for index in range(count)]


def wait_for(event: threading.Event) -> Callable[[int], None]:
    def wait(index: int) -> None:
        event.wait(WITHIN)

    return wait


def chunks_of(channel: grpc.aio.Channel) -> Any:
    method: Any = channel.stream_stream
    return method(f"/{SERVICE}/Chunks")()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN):
        while not true():  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.001)


async def test_a_blob_is_fetched_from_one_holder(make: Callable[..., Any]) -> None:
    holder, node = await make("50-holder"), await make("50-node")
    chunks = [*some(20, CHUNK_BYTES), *some(3)]
    blob = holder.store.put(chunks)
    told: list[tuple[int, int]] = []
    await node.fetch(blob, holder, progress=lambda *now: told.append(now))
    total = sum(map(len, chunks))
    assert node.store.chunks[blob] == dict(enumerate(chunks))
    assert node.store.finished == [blob]
    assert (told[0], told[-1]) == ((0, total), (total, total))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert holder.transfer.traffic.sent == node.transfer.traffic.received == total
    assert node.transfer.traffic.wasted == 0
    assert threading.get_ident() not in holder.store.read_by


async def test_what_is_complete_already_needs_nobody(make: Callable[..., Any]) -> None:
    node = await make("50-node")
    blob = node.store.put(some(3))
    await node.fetch(blob)
    assert node.store.finished == [blob]
    empty = node.store.put([])
    await node.fetch(empty)


async def test_three_holders_give_at_once_each_what_it_has(make: Callable[..., Any]) -> None:
    chunks = some(90)
    holders = [await make(f"50-{number}") for number in range(3)]
    for number, holder in enumerate(holders):
        blob = holder.store.put(chunks, range(number * 30, number * 30 + 30))
    node = await make("50-node")
    await node.fetch(blob, *holders)
    assert [holder.transfer.traffic.sent for holder in holders] == [30 * 20_000] * 3
    assert set(node.store.writes.values()) == {1}


async def test_who_fetches_gives_what_it_has_meanwhile(make: Callable[..., Any]) -> None:
    """The second knows only the first, which fetches too."""
    holder, first, second = await make("50-holder", limit=2e6), await make("50-a"), await make("50-b")
    chunks = some(40)
    blob = holder.store.put(chunks)
    await asyncio.gather(first.fetch(blob, holder), second.fetch(blob, first))
    assert second.store.chunks[blob] == dict(enumerate(chunks))
    assert holder.transfer.traffic.sent == first.transfer.traffic.sent == 40 * 20_000


async def test_a_holder_that_lies_is_dropped_and_the_rest_comes_from_others(make: Callable[..., Any]) -> None:
    chunks = some(200)
    liar, honest, node = await make("50-liar"), await make("50-honest", limit=4e6), await make("50-node")
    blob = honest.store.put(chunks)
    liar.store.put(chunks)
    liar.store.chunks[blob] = dict.fromkeys(range(200), b"wrong" * 4000)
    await node.fetch(blob, liar, honest)
    assert node.store.chunks[blob] == dict(enumerate(chunks))
    assert node.transfer.traffic.dropped == {"lying": 1}
    assert 0 < node.transfer.traffic.wasted <= liar.transfer.traffic.sent


async def test_where_every_holder_lies_the_blob_is_corrupt(make: Callable[..., Any]) -> None:
    holder, other, node = await make("50-holder"), await make("50-other"), await make("50-node")
    blob = holder.store.put(some(4))
    holder.store.chunks[blob][2] = b"wrong"
    other.store.manifests[blob] = holder.store.manifests[blob][:-1]
    with pytest.raises(
        BlobCorrupt, match=r"every holder gave wrong bytes; 50-holder: .*chunk 2; 50-other: its manifest"
    ):
        await node.fetch(blob, other, holder)
    assert sorted(node.store.chunks[blob]) == [0, 1, 3]


async def test_what_nobody_has_is_told_with_every_holders_reason(make: Callable[..., Any]) -> None:
    partial, node = await make("50-partial"), await make("50-node")
    stranger, gone = await make("50-stranger"), await make("50-gone")
    blob = partial.store.put(some(6), [0, 1, 3, 4])
    await gone.close()
    with pytest.raises(BlobMissing) as caught:
        await node.fetch(blob, partial, stranger, gone)
    text = str(caught.value)
    assert "chunk 2 (2 of 6 are missing)" in text
    assert "50-partial: does not have it" in text
    assert "50-stranger: not found: nothing of blob" in text
    assert "50-gone: unavailable" in text
    assert list(members(node.store.have(blob))) == [0, 1, 3, 4]
    with pytest.raises(BlobMissing, match="no reachable holder has its manifest; no node is known to hold it"):
        await node.fetch("ab" * 32)


async def test_a_holder_that_hangs_is_dropped_as_stalled(make: Callable[..., Any]) -> None:
    chunks = some(200)
    hanging, other, node = await make("50-hanging"), await make("50-other"), await make("50-node")
    blob = hanging.store.put(chunks)
    other.store.put(chunks)
    asked, release = threading.Event(), threading.Event()

    def hang(index: int) -> None:
        asked.set()
        release.wait(WITHIN)

    hanging.store.gate, other.store.gate = hang, wait_for(asked)
    try:
        await node.fetch(blob, hanging, other)
        assert node.transfer.traffic.dropped == {"stalled": 1}
        alone = await make("50-alone")
        with pytest.raises(BlobMissing, match="50-hanging: dropped, it delivered nothing for too long"):
            await alone.fetch(blob, hanging)
    finally:
        release.set()


async def test_a_holder_that_accepts_and_says_nothing_is_given_up(make: Callable[..., Any]) -> None:
    node = await make("50-node", patience=Patience(answer=0.1, again=0.01, tries=2, names=0.05, tick=0.02))
    silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    address = f"127.0.0.1:{silent.sockets[0].getsockname()[1]}"
    with pytest.raises(BlobMissing, match="50-silent: "):
        await node.fetch("ab" * 32, ("50-silent", address))
    silent.close()


async def test_after_a_cut_nothing_that_arrived_is_moved_again(make: Callable[..., Any]) -> None:
    holder, node = await make("50-holder", limit=40e6), await make("50-node")
    chunks = some(400)
    blob = holder.store.put(chunks)
    link = await Link(holder).start()
    cuts = 0

    def progress(done: int, total: int) -> None:
        nonlocal cuts
        if done >= (cuts + 1) * total // 6 and cuts < 5:
            cuts += 1
            link.cut()

    await node.fetch(blob, link, progress=progress)
    assert cuts == 5
    assert set(node.store.writes.values()) == {1}
    assert node.store.chunks[blob] == dict(enumerate(chunks))
    assert node.transfer.traffic.received == 400 * 20_000
    assert not node.transfer.traffic.dropped
    await link.close()


async def test_a_fetch_that_failed_goes_on_where_it_was(make: Callable[..., Any]) -> None:
    holder, node = await make("50-holder"), await make("50-node")
    chunks = some(30)
    blob = holder.store.put(chunks, range(20))
    with pytest.raises(BlobMissing):
        await node.fetch(blob, holder)
    holder.store.put(chunks)
    await node.fetch(blob, holder)
    assert set(node.store.writes.values()) == {1}
    assert holder.transfer.traffic.sent == 30 * 20_000


async def test_a_holder_that_appears_during_the_fetch_is_used(make: Callable[..., Any]) -> None:
    partial, late, node = await make("50-partial"), await make("50-late"), await make("50-node")
    chunks = some(10)
    blob = partial.store.put(chunks, range(5))
    late.store.put(chunks)

    async def holders() -> list[tuple[str, str]]:
        return [partial.pair] if not node.store.writes else [late.pair]

    async with asyncio.timeout(WITHIN):
        await node.transfer.fetch(blob, holders)
    assert node.store.finished == [blob]


async def test_what_the_feed_raises_is_raised(make: Callable[..., Any]) -> None:
    node = await make("50-node")

    async def holders() -> list[tuple[str, str]]:
        raise ZeroDivisionError("a defect")

    with pytest.raises(ZeroDivisionError):
        await node.transfer.fetch("ab" * 32, holders)


async def test_a_full_disk_ends_it_and_keeps_what_arrived(make: Callable[..., Any]) -> None:
    holder, node = await make("50-holder"), await make("50-node")
    blob = holder.store.put(some(10))

    def full(index: int) -> None:
        if index == 7:
            raise QuotaExceeded("the disk is full")

    node.store.gate = full
    with pytest.raises(QuotaExceeded):
        await node.fetch(blob, holder)
    node.store.gate = lambda index: None
    await node.fetch(blob, holder)
    assert set(node.store.writes.values()) == {1}
    node.store.full = True
    with pytest.raises(QuotaExceeded):
        await node.fetch(holder.store.put(some(2)), holder)


async def test_callers_share_one_fetch_and_it_ends_with_the_last(make: Callable[..., Any]) -> None:
    holder, node = await make("50-holder"), await make("50-node")
    blob = holder.store.put(some(50))
    hold = threading.Event()
    holder.store.gate = wait_for(hold)
    first, second = (asyncio.ensure_future(node.fetch(blob, holder)) for _ in range(2))
    await until(lambda: bool(holder.store.read_by))
    first.cancel()
    await asyncio.wait({first})
    hold.set()
    await second
    assert holder.transfer.traffic.sent == 50 * 20_000

    again = await make("50-again")
    hold.clear()
    callers = [asyncio.ensure_future(again.fetch(blob, holder)) for _ in range(2)]
    await until(lambda: again.store.have(blob) == 0 and bool(again.store.manifests))
    for caller in callers:
        caller.cancel()
    await asyncio.wait(callers)
    hold.set()
    assert all(caller.cancelled() for caller in callers)
    assert not again.store.finished
    await again.fetch(blob, holder)


async def test_what_is_in_memory_is_bounded(make: Callable[..., Any]) -> None:
    """The disk takes nothing: the holder soon stops sending, though it is asked for 100 MiB."""
    holders = [await make(f"50-{number}") for number in range(8)]
    node = await make("50-node", patience=Patience(tick=0.01))
    chunk = some(100, CHUNK_BYTES)
    for holder in holders:
        blob = holder.store.put(chunk)
    hold = threading.Event()
    node.store.gate = wait_for(hold)
    fetching = asyncio.ensure_future(node.fetch(blob, *holders))

    def sent() -> int:
        return sum(holder.transfer.traffic.sent for holder in holders)

    await until(lambda: node.transfer.traffic.received > MOST_FLYING - 8 * CHUNK_BYTES)
    before = -1
    while sent() != before:
        before = sent()
        await asyncio.sleep(0.1)
    assert before <= MOST_FLYING + CHUNK_BYTES
    hold.set()
    await fetching
    written = node.store.writes.values()  # what a holder that had no core for a while owes may be asked of another
    assert len(written) == 100
    assert sum(written) <= 100 + 100 // SECOND_SHARE


async def test_a_fetcher_that_does_not_read_is_not_read_ahead_for(make: Callable[..., Any]) -> None:
    holder = await make("50-holder")
    blob = holder.store.put(some(100, CHUNK_BYTES))
    reads = 0

    def count(index: int) -> None:
        nonlocal reads
        reads += 1

    holder.store.gate = count
    async with grpc.aio.insecure_channel(holder.address) as channel:
        call = chunks_of(channel)
        await call.write(encode_name(blob))
        await call.write(encode_numbers(range(100)))
        assert len(await call.read()) == CHUNK_BYTES
        before = -1
        while reads != before:
            before = reads
            await asyncio.sleep(0.05)
        assert reads < 40  # most of it in gRPC's own window
        assert holder.store.held[blob] == 1
        call.cancel()
    await until(lambda: not holder.store.held[blob])


async def test_what_a_holder_has_no_more_or_finds_corrupt_is_an_empty_answer(make: Callable[..., Any]) -> None:
    holder = await make("50-holder")
    blob = holder.store.put(some(3))
    del holder.store.chunks[blob][1]

    def rotten(index: int) -> None:
        if index == 2:
            raise BlobCorrupt("chunk 2 is not what it was")

    holder.store.gate = rotten
    async with grpc.aio.insecure_channel(holder.address) as channel:
        call = chunks_of(channel)
        await call.write(encode_name(blob))
        await call.write(encode_numbers([1, 0, 2, 99]))
        assert [len(await call.read()) for _ in range(4)] == [0, 20_000, 0, 0]
        await call.done_writing()
        assert await call.code() == grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([b"short"], grpc.StatusCode.INVALID_ARGUMENT),
        ([b"x" * 32], grpc.StatusCode.NOT_FOUND),
        ([None, b"odd"], grpc.StatusCode.INVALID_ARGUMENT),
        ([None, bytes(4 * 5000)], grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_what_is_no_question_is_refused(
    make: Callable[..., Any], frames: list[bytes | None], code: grpc.StatusCode
) -> None:
    holder = await make("50-holder")
    blob = holder.store.put(some(1))
    async with grpc.aio.insecure_channel(holder.address) as channel:
        call = chunks_of(channel)
        for frame in frames:
            await call.write(encode_name(blob) if frame is None else frame)
        assert await call.code() == code


async def test_sending_is_limited_for_all_streams_together(make: Callable[..., Any]) -> None:
    holder = await make("50-holder", limit=4e6)
    blob = holder.store.put(some(50))
    nodes = [await make(f"50-{number}") for number in range(2)]
    began = time.monotonic()
    await asyncio.gather(*(node.fetch(blob, holder) for node in nodes))
    least = 2 * 50 * 20_000 / 4e6 - BURST - 20_000 / 4e6
    assert time.monotonic() - began >= least


def test_a_bucket_lets_pass_its_rate_and_a_short_burst() -> None:
    bucket, now = Bucket(1000.0), 50.0
    waits = [bucket.take(100, now) for _ in range(10)]
    assert waits[-1] == pytest.approx(0.9 - BURST)
    assert bucket.take(100, now + 10.0) == 0.0
    assert Bucket(0.0).take(10**9, now) == 0.0


async def test_close_ends_what_is_under_way(make: Callable[..., Any]) -> None:
    holder, node = await make("50-holder"), await make("50-node")
    blob = holder.store.put(some(500, CHUNK_BYTES // 4))
    fetching = asyncio.ensure_future(node.fetch(blob, holder))
    await until(lambda: node.transfer.traffic.received > 0)
    await asyncio.gather(node.transfer.close(), holder.transfer.close())
    with pytest.raises(asyncio.CancelledError):
        await fetching
    written = node.store.writes.total()
    await asyncio.sleep(0)
    assert node.store.writes.total() == written
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("blob from")]
