"""What a node does for its blobs between store, transfer and machine: a store in memory, the other two by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from mesh.blob.manifest import Chunk, digest, manifest_of, name
from mesh.core.effects import BlobFound, BlobsSpared, CopyBlob
from mesh.core.errors import BlobMissing, NoLeader, QuotaExceeded
from mesh.core.events import BlobsChanged, BlobsDoubted, BlobSettled, BlobSought, CopyRefused, Event
from mesh.node.blobs import NodeBlobs
from mesh.shell.blobs_memory import MemoryBlobs
from mesh.wire.parts import Stored

A, B = "50-A", "50-B"
PARTS = [b"one", b"two two"]
MANIFEST = manifest_of(Chunk(digest(part), len(part)) for part in PARTS).encode()
BLOB, SIZE = name(MANIFEST), 10
QUOTA = 1000


class Transfer:
    """Fetches once somebody is named; ``error`` instead."""

    def __init__(self, store: MemoryBlobs) -> None:
        self.store = store
        self.named: list[tuple[str, str]] = []
        self.error: Exception | None = None
        self.closed = False

    async def fetch(self, blob: str, holders: Callable[[], Any], progress: Callable[[int, int], None]) -> None:
        self.named = list(await holders())
        if self.error:
            raise self.error
        if not self.named:
            raise BlobMissing("it cannot be fetched", "no node is known to hold it")
        self.store.begin(MANIFEST)
        for index, part in enumerate(PARTS):
            self.store.write(blob, index, part)
            progress(sum(map(len, PARTS[: index + 1])), SIZE)
            await asyncio.sleep(0)
        self.store.finish(blob)

    async def close(self) -> None:
        self.closed = True


class Rig:
    def __init__(self) -> None:
        self.store = MemoryBlobs(QUOTA)
        self.transfer = Transfer(self.store)
        self.posted: list[Event] = []
        self.blobs = NodeBlobs(A, self.store, self.transfer, self)  # type: ignore[arg-type]

    def post(self, event: Event) -> None:
        self.posted.append(event)

    def found(self, *holders: str, fetching: Sequence[str] = (), enough: bool = True, why: str = "") -> None:
        named = tuple((node, f"{node}:1") for node in holders)
        self.blobs.found(BlobFound(BLOB, named, tuple((node, f"{node}:1") for node in fetching), True, enough, why))

    async def until(self, *events: Event) -> None:
        """Until these were posted, in this order and no others; they are forgotten."""
        async with asyncio.timeout(5):
            while len(self.posted) < len(events):  # noqa: ASYNC110 - threads of the store come between
                await asyncio.sleep(0.001)
        assert self.posted == list(events)
        self.posted.clear()

    async def put(self) -> None:
        await self.blobs.begin(MANIFEST)
        for index, part in enumerate(PARTS):
            await self.blobs.write(BLOB, index, part)


@pytest.fixture
async def rig() -> Rig:
    return Rig()


GAINED = BlobsChanged(((BLOB, SIZE),), (), QUOTA - SIZE)


async def test_what_is_put_is_kept_once_enough_nodes_have_it(rig: Rig) -> None:
    await rig.put()
    keeping = asyncio.ensure_future(rig.blobs.keep(BLOB, 2))
    await rig.until(GAINED, BlobSought(BLOB, SIZE, 2))
    rig.found(enough=False)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not keeping.done()
    rig.found(B, enough=True)
    assert await keeping == Stored((A, B), "")
    await rig.until(BlobSettled(BLOB))


async def test_why_no_more_have_it_is_told(rig: Rig) -> None:
    await rig.put()
    keeping = asyncio.ensure_future(rig.blobs.keep(BLOB, 2))
    await rig.until(GAINED, BlobSought(BLOB, SIZE, 2))
    rig.found(why="nobody else is there")
    assert await keeping == Stored((A,), "nobody else is there")


async def test_who_asks_for_more_copies_is_not_answered_as_who_asked_for_fewer(rig: Rig) -> None:
    await rig.put()
    two = asyncio.ensure_future(rig.blobs.keep(BLOB, 2))
    await rig.until(GAINED, BlobSought(BLOB, SIZE, 2))
    three = asyncio.ensure_future(rig.blobs.keep(BLOB, 3))
    await rig.until(GAINED, BlobSought(BLOB, SIZE, 3))
    rig.found(B, enough=True)  # the answer to the first question, late
    assert await two == Stored((A, B), "")
    for _ in range(5):
        await asyncio.sleep(0)
    assert not three.done()
    rig.found(B, "50-C", enough=True)
    assert await three == Stored((A, B, "50-C"), "")


async def test_a_defect_in_a_copy_is_told_to_the_leader(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.transfer.error = OSError("the disk is gone")
    rig.blobs.copy(CopyBlob(BLOB, SIZE, ()))
    await rig.until(BlobSought(BLOB, 0, 0))
    rig.found(B)
    await rig.until(BlobSettled(BLOB), CopyRefused(BLOB, "the disk is gone"))
    assert "this is a defect" in caplog.text


async def test_what_is_given_up_half_way_ends_with_the_last_who_brings_it(rig: Rig) -> None:
    for _ in range(2):
        await rig.blobs.begin(MANIFEST)
    await rig.blobs.write(BLOB, 0, PARTS[0])
    await rig.blobs.leave(BLOB)
    await rig.blobs.write(BLOB, 1, PARTS[1])
    await rig.blobs.leave(BLOB)
    with pytest.raises(BlobMissing):
        await rig.blobs.write(BLOB, 1, PARTS[1])
    assert await rig.blobs.begin(MANIFEST) == 0b11


async def test_who_puts_half_of_it_keeps_nothing(rig: Rig) -> None:
    await rig.blobs.begin(MANIFEST)
    await rig.blobs.write(BLOB, 0, PARTS[0])
    with pytest.raises(BlobMissing):
        await rig.blobs.keep(BLOB, 2)
    assert rig.posted == []


async def test_two_who_put_the_same_ask_once_and_go_on_until_the_last_has_left(rig: Rig) -> None:
    await rig.put()
    first = asyncio.ensure_future(rig.blobs.keep(BLOB, 2))
    await rig.until(GAINED, BlobSought(BLOB, SIZE, 2))
    second = asyncio.ensure_future(rig.blobs.keep(BLOB, 2))
    await rig.until(GAINED)
    for _ in range(3):
        await asyncio.sleep(0.001)
    first.cancel()
    await asyncio.wait({first})
    assert rig.posted == []
    rig.found(B)
    assert await second == Stored((A, B), "")
    await rig.until(BlobSettled(BLOB))


async def test_what_is_fetched_comes_from_those_who_are_found(rig: Rig) -> None:
    told = asyncio.ensure_future(_all(rig.blobs.fetch(BLOB)))
    await rig.until(BlobSought(BLOB, 0, 0))
    rig.found(B, fetching=["50-C"])
    await told
    assert rig.transfer.named == [(B, "50-B:1"), ("50-C", "50-C:1")]
    await rig.until(BlobSettled(BLOB), GAINED)
    assert [data async for data in rig.blobs.read(BLOB, 0)] == [MANIFEST, *PARTS]
    assert [data async for data in rig.blobs.read(BLOB, 1)] == [MANIFEST, PARTS[1]]


async def test_what_is_here_is_not_sought(rig: Rig) -> None:
    await rig.put()
    await asyncio.to_thread(rig.store.finish, BLOB)
    await _all(rig.blobs.fetch(BLOB))
    assert rig.posted == []


async def test_what_nobody_has_is_missing_and_not_sought_any_more(rig: Rig) -> None:
    fetching = asyncio.ensure_future(_all(rig.blobs.fetch(BLOB)))
    await rig.until(BlobSought(BLOB, 0, 0))
    rig.found()
    with pytest.raises(BlobMissing, match="no node is known"):
        await fetching
    await rig.until(BlobSettled(BLOB))


async def test_nobody_being_named_is_no_answer_before_it_is_sure(rig: Rig) -> None:
    fetching = asyncio.ensure_future(_all(rig.blobs.fetch(BLOB)))
    await rig.until(BlobSought(BLOB, 0, 0))
    rig.blobs.found(BlobFound(BLOB, (), (), False, True, ""))
    for _ in range(5):
        await asyncio.sleep(0.001)
    assert not fetching.done()
    rig.found(B)
    await fetching


async def test_a_copy_is_fetched_from_those_who_were_named_with_it(rig: Rig) -> None:
    rig.blobs.copy(CopyBlob(BLOB, SIZE, ((B, "b:7"),)))
    await rig.until(BlobSought(BLOB, 0, 0))
    rig.found(B)
    await rig.until(BlobSettled(BLOB), GAINED)
    assert rig.transfer.named[0] == (B, "b:7")


async def test_a_copy_that_is_here_already_is_declared_once_more(rig: Rig) -> None:
    await rig.put()
    await asyncio.to_thread(rig.store.finish, BLOB)
    rig.blobs.copy(CopyBlob(BLOB, SIZE, ((B, "b:7"),)))
    await rig.until(GAINED)


async def test_what_is_being_kept_does_not_go_for_another(rig: Rig) -> None:
    await rig.put()
    keeping = asyncio.ensure_future(rig.blobs.keep(BLOB, 2))
    await rig.until(GAINED, BlobSought(BLOB, SIZE, 2))
    assert await asyncio.to_thread(rig.store.collect, QUOTA) == 0
    rig.found(B)
    await keeping
    assert await asyncio.to_thread(rig.store.collect, QUOTA) == SIZE


async def test_who_leaves_while_it_begins_leaves_nothing_behind(rig: Rig) -> None:
    beginning = asyncio.ensure_future(rig.blobs.begin(MANIFEST))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    beginning.cancel()
    await asyncio.wait({beginning})
    assert await asyncio.to_thread(rig.store.collect, QUOTA) == SIZE, "no fetch of it is open"


async def test_a_node_that_stops_says_so(rig: Rig) -> None:
    await rig.blobs.close()
    with pytest.raises(NoLeader, match="this node is stopping"):
        await rig.blobs.begin(MANIFEST)


async def test_a_copy_that_cannot_be_made_is_refused_with_the_reason(rig: Rig) -> None:
    rig.transfer.error = QuotaExceeded("there is no room", "1 byte is left", "delete something")
    rig.blobs.copy(CopyBlob(BLOB, SIZE, ()))
    await rig.until(BlobSought(BLOB, 0, 0))
    rig.found(B)
    await rig.until(BlobSettled(BLOB), CopyRefused(BLOB, "there is no room; 1 byte is left; delete something"))


async def test_what_is_here_at_the_start_is_told_and_what_is_lost_later(rig: Rig) -> None:
    await rig.put()
    await asyncio.to_thread(rig.store.finish, BLOB)
    rig.blobs.declare()
    await rig.until(GAINED)
    await asyncio.to_thread(rig.store.delete, BLOB)
    await rig.until(BlobsChanged((), (BLOB,), QUOTA))


async def test_what_is_read_stays_until_it_was_read(rig: Rig) -> None:
    await rig.put()
    await asyncio.to_thread(rig.store.finish, BLOB)
    reading = rig.blobs.read(BLOB, 0)
    assert await anext(reading) == MANIFEST
    await asyncio.to_thread(rig.store.delete, BLOB)
    assert [data async for data in reading] == PARTS
    with pytest.raises(BlobMissing):
        await anext(rig.blobs.read(BLOB, 0))


async def test_what_was_damaged_here_is_had_again_while_it_is_read(rig: Rig) -> None:
    await rig.put()
    await asyncio.to_thread(rig.store.finish, BLOB)
    rig.store.files.settled[digest(PARTS[1])] = b"rot"
    reading = asyncio.ensure_future(_all(rig.blobs.read(BLOB, 0)))
    await rig.until(BlobSought(BLOB, 0, 0))
    rig.found(B)
    assert await reading == [MANIFEST, *PARTS]


async def test_closing_ends_what_is_under_way(rig: Rig) -> None:
    rig.blobs.copy(CopyBlob(BLOB, SIZE, ()))
    await rig.until(BlobSought(BLOB, 0, 0))
    await rig.blobs.close()
    assert rig.transfer.closed
    await rig.until(BlobSettled(BLOB))


async def _all(progress: Any) -> list[Any]:
    return [each async for each in progress]


# -- room


def filled(rig: Rig) -> str:
    """Another blob, which leaves no room; its id."""
    part = b"x" * (QUOTA - SIZE + 1)
    manifest = manifest_of([Chunk(digest(part), len(part))]).encode()
    with rig.store.writing():
        rig.store.files.settle([rig.store.files.put(part)])
        rig.store.commit(manifest)
    rig.blobs.declare()
    rig.posted.clear()
    return name(manifest)


async def test_a_full_store_lets_go_of_what_its_leader_says_is_needed_no_more(rig: Rig) -> None:
    other = filled(rig)
    beginning = asyncio.ensure_future(rig.blobs.begin(MANIFEST))
    await rig.until(BlobsDoubted((other,)))
    rig.blobs.spared(BlobsSpared((other,), ""))
    await beginning
    assert not rig.store.complete(other)


async def test_a_full_store_of_what_is_needed_says_so_and_loses_nothing(rig: Rig) -> None:
    other = filled(rig)
    beginning = asyncio.ensure_future(rig.blobs.begin(MANIFEST))
    await rig.until(BlobsDoubted((other,)))
    rig.blobs.spared(BlobsSpared((), ""))
    with pytest.raises(QuotaExceeded, match="does not fit"):
        await beginning
    beginning = asyncio.ensure_future(rig.blobs.begin(MANIFEST))
    await rig.until(BlobsDoubted((other,)))
    rig.blobs.spared(BlobsSpared((), "the leader is still gathering journals"))
    with pytest.raises(QuotaExceeded, match="the leader is still gathering journals"):
        await beginning
    assert rig.store.complete(other)


async def test_what_was_used_since_it_was_asked_about_stays(rig: Rig) -> None:
    other = filled(rig)
    beginning = asyncio.ensure_future(rig.blobs.begin(MANIFEST))
    await rig.until(BlobsDoubted((other,)))
    with rig.store.reading(other):
        pass
    rig.blobs.spared(BlobsSpared((other,), ""))
    with pytest.raises(QuotaExceeded):
        await beginning
    assert rig.store.complete(other)


async def test_two_that_need_room_ask_once(rig: Rig) -> None:
    other = filled(rig)
    beginnings = [asyncio.ensure_future(rig.blobs.begin(MANIFEST)) for _ in range(2)]
    await rig.until(BlobsDoubted((other,)))
    rig.blobs.spared(BlobsSpared((other,), ""))
    await asyncio.gather(*beginnings)
    assert not any(isinstance(event, BlobsDoubted) for event in rig.posted)
