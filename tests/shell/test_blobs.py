"""One contract, two blob stores: the one on disk and its memory twin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.blob.manifest import Chunk, Manifest, manifest_of, name
from mesh.core.errors import BlobCorrupt, BlobMissing, MeshError, QuotaExceeded
from tests.shell.blobs_bench import AnyBlobs, Bench, FileBench, Given, MemoryBench

QUOTA = 100  # bytes
ONE = Given(b"a" * 10, b"shared" * 5, b"b" * 10)
TWO = Given(b"shared" * 5, b"c" * 20)
THREE = Given(b"d" * 40)


@pytest.fixture(params=["file", "memory"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    return FileBench(tmp_path / "blobs", QUOTA) if request.param == "file" else MemoryBench(QUOTA)


@pytest.fixture
def store(bench: Bench) -> AnyBlobs:
    return bench.open()


def ids(store: AnyBlobs) -> set[str]:
    return {entry.blob for entry in store.listing()}


def lives(bench: Bench, store: AnyBlobs) -> Iterator[AnyBlobs]:
    """This one, and the next."""
    yield store
    yield bench.open()


# Whole blobs


def test_what_was_put_is_there_whole_and_stays(bench: Bench) -> None:
    store = bench.open()
    assert ONE.put(store) == ONE.id
    for found in lives(bench, store):
        assert found.complete(ONE.id)
        assert found.manifest(ONE.id) == ONE.manifest
        assert found.have(ONE.id) == ONE.whole
        assert ONE.read(found) == ONE.parts
        (entry,) = found.listing()
        assert entry == found.info(ONE.id)
        assert (entry.blob, entry.size, entry.complete, entry.pinned) == (ONE.id, 50, True, False)


def test_what_was_fetched_is_there_whole_and_stays(bench: Bench) -> None:
    store = bench.open()
    ONE.fetch(store, [0, 2])
    assert not store.complete(ONE.id)
    with pytest.raises(BlobMissing, match="not whole"):
        store.finish(ONE.id)
    store.write(ONE.id, 1, ONE.parts[1])
    assert store.have(ONE.id) == ONE.whole
    assert not store.complete(ONE.id)
    store.finish(ONE.id)
    for found in lives(bench, store):
        assert found.complete(ONE.id)
        assert ONE.read(found) == ONE.parts


def test_a_blob_of_nothing_is_one(store: AnyBlobs) -> None:
    nothing = Given()
    nothing.put(store)
    assert store.complete(nothing.id)
    store.delete(nothing.id)
    assert store.begin(nothing.manifest) == 0
    store.finish(nothing.id)
    assert store.complete(nothing.id)


def test_what_is_not_there_is_said_so(store: AnyBlobs) -> None:
    assert not store.complete(ONE.id)
    assert store.manifest(ONE.id) is None
    assert store.info(ONE.id) is None
    assert store.have(ONE.id) == 0
    assert not store.delete(ONE.id)
    store.abandon(ONE.id)
    calls: list[Callable[[], Any]] = [
        lambda: store.read(ONE.id, 0),
        lambda: store.reading(ONE.id).__enter__(),
        lambda: store.write(ONE.id, 0, ONE.parts[0]),
        lambda: store.finish(ONE.id),
        lambda: store.pin(ONE.id),
        lambda: store.unpin(ONE.id),
        lambda: store.commit(ONE.manifest),
    ]
    for call in calls:
        with pytest.raises(BlobMissing, match=ONE.id[:12]):
            call()
    assert store.listing() == []


def test_doing_it_again_changes_nothing(store: AnyBlobs) -> None:
    ONE.put(store)
    ONE.put(store)
    assert store.begin(ONE.manifest) == ONE.whole
    store.write(ONE.id, 0, b"whatever")  # it is not asked for any more
    store.finish(ONE.id)
    store.abandon(ONE.id)
    assert store.complete(ONE.id)
    assert ONE.read(store) == ONE.parts
    assert store.claimed == store.stored == 50


def test_an_index_that_is_none_is_said_so(store: AnyBlobs) -> None:
    ONE.put(store)
    TWO.fetch(store, [])
    for index in (-1, 3):
        with pytest.raises(BlobMissing, match="has no chunk"):
            store.read(ONE.id, index)
        with pytest.raises(BlobMissing, match="has no chunk"):
            store.write(TWO.id, index, b"x")


# Wrong input


@pytest.mark.parametrize("data", [b"A" * 10, b"a" * 9, b"a" * 11, b""])
def test_a_chunk_that_is_wrong_is_refused_and_not_stored(bench: Bench, data: bytes) -> None:
    store = bench.open()
    store.begin(ONE.manifest)
    with pytest.raises(BlobCorrupt, match=ONE.chunks[0].digest.hex()[:12]):
        store.write(ONE.id, 0, data)
    assert store.have(ONE.id) == 0
    assert bench.files() == set()
    with pytest.raises(BlobMissing):
        store.read(ONE.id, 0)


@pytest.mark.parametrize("manifest", [b"", b"nonsense", ONE.manifest[:-1], Manifest(49, tuple(ONE.chunks)).encode()])
def test_a_manifest_that_is_none_is_refused(store: AnyBlobs, manifest: bytes) -> None:
    for call in (store.begin, store.commit):
        with pytest.raises(BlobCorrupt):
            call(manifest)
    assert store.listing() == []


@pytest.mark.parametrize("size", [9, 11])
def test_a_manifest_that_lies_about_a_size_harms_nobody(store: AnyBlobs, size: int) -> None:
    liar = manifest_of([Chunk(ONE.chunks[0].digest, size)]).encode()
    with pytest.raises(BlobMissing):
        store.commit(liar)
    assert store.begin(liar) == 0
    ONE.put(store)
    with pytest.raises(BlobCorrupt):
        store.write(name(liar), 0, ONE.parts[0])
    with pytest.raises(BlobMissing):
        store.read(name(liar), 0)
    with pytest.raises(BlobMissing):
        store.finish(name(liar))
    assert store.stored == 50
    assert store.claimed == 50 + size
    store.abandon(name(liar))
    assert store.complete(ONE.id)
    assert ONE.read(store) == ONE.parts
    assert store.stored == store.claimed == 50


def test_a_local_write_that_is_not_all_there_is_no_blob(store: AnyBlobs) -> None:
    store.files.settle([store.files.put(ONE.parts[0])])
    store.files.put(ONE.parts[1])  # not settled
    with pytest.raises(BlobMissing, match="2 "):
        store.commit(ONE.manifest)
    assert store.listing() == []


# Damage


@pytest.mark.parametrize("how", ["bit", "short", "long", "gone"])
def test_a_damaged_chunk_is_never_handed_out_and_can_be_had_again(bench: Bench, how: str) -> None:
    store = bench.open()
    ONE.put(store)
    TWO.put(store)
    part = ONE.parts[1]
    spoilt = {"bit": bytes([part[0] ^ 1]) + part[1:], "short": part[:-1], "long": part + b"x", "gone": None}[how]
    bench.spoil(ONE.chunks[1], spoilt)
    with pytest.raises(BlobMissing if how == "gone" else BlobCorrupt, match=ONE.chunks[1].digest.hex()[:12]):
        store.read(ONE.id, 1)
    for blob in (ONE, TWO):  # both list it
        assert not store.complete(blob.id)
        with pytest.raises(BlobMissing, match="is not here"):
            store.read(blob.id, blob.chunks.index(ONE.chunks[1]))
    assert store.have(ONE.id) == 0b101
    assert store.stored == store.claimed - 30
    assert store.read(ONE.id, 0) == ONE.parts[0]
    store = bench.open()
    assert store.begin(ONE.manifest) == 0b101
    store.write(ONE.id, 1, part)
    store.finish(ONE.id)
    assert store.begin(TWO.manifest) == TWO.whole
    store.finish(TWO.id)
    assert ONE.read(store) + TWO.read(store) == ONE.parts + TWO.parts
    assert store.stored == store.claimed


def test_whoever_asked_is_told_of_blobs_that_are_not_whole_any_more(bench: Bench) -> None:
    store, lost = bench.open(), list[str]()
    store.tell(lost.extend)
    ONE.put(store)
    THREE.put(store)
    store.delete(THREE.id)
    assert lost == [THREE.id]
    bench.spoil(ONE.chunks[0], None)
    with pytest.raises(BlobMissing):
        store.read(ONE.id, 0)
    assert lost == [THREE.id, ONE.id]
    ONE.fetch(store)
    TWO.put(store)
    store.collect(QUOTA)
    assert sorted(lost[2:]) == sorted([ONE.id, TWO.id])


def test_a_chunk_damaged_during_a_fetch_is_missing_again(bench: Bench) -> None:
    store = bench.open()
    TWO.put(store)
    assert store.begin(ONE.manifest) == 0b010
    bench.spoil(TWO.chunks[0], b"rot")
    with pytest.raises(BlobCorrupt):
        store.read(ONE.id, 1)
    assert store.have(ONE.id) == 0
    ONE.fetch(store)
    store.write(ONE.id, 1, ONE.parts[1])
    store.finish(ONE.id)
    assert ONE.read(store) == ONE.parts
    assert store.begin(TWO.manifest) == TWO.whole


# Resuming


def test_a_fetch_goes_on_where_it_was(bench: Bench) -> None:
    store = bench.open()
    ONE.fetch(store, [1])
    store.leave(ONE.id)
    with pytest.raises(BlobMissing, match="no fetch"):
        store.write(ONE.id, 0, ONE.parts[0])
    assert store.have(ONE.id) == 0b010
    assert store.begin(ONE.manifest) == 0b010
    store = bench.open()
    assert store.have(ONE.id) == 0  # nobody has looked yet
    assert store.begin(ONE.manifest) == 0b010
    assert store.read(ONE.id, 1) == ONE.parts[1]
    assert store.stored == 30
    ONE.fetch(store, [0, 2])
    store.finish(ONE.id)
    assert ONE.read(store) == ONE.parts


def test_what_another_blob_has_need_not_arrive(store: AnyBlobs) -> None:
    ONE.put(store)
    assert store.begin(TWO.manifest) == 0b01
    store.write(TWO.id, 1, TWO.parts[1])
    store.finish(TWO.id)
    assert TWO.read(store) == TWO.parts


def test_a_chunk_that_arrives_for_one_fetch_is_there_for_all(store: AnyBlobs) -> None:
    twice = Given(b"same", b"other", b"same")
    store.begin(TWO.manifest)
    store.begin(ONE.manifest)
    store.write(TWO.id, 0, TWO.parts[0])
    assert store.have(ONE.id) == 0b010
    store.begin(twice.manifest)
    store.write(twice.id, 2, b"same")
    assert store.have(twice.id) == 0b101
    store.abandon(TWO.id)
    assert store.have(ONE.id) == 0b010
    ONE.fetch(store)
    store.write(ONE.id, 0, ONE.parts[0])
    store.write(ONE.id, 2, ONE.parts[2])
    store.finish(ONE.id)
    assert ONE.read(store) == ONE.parts


def test_a_local_write_completes_what_was_being_fetched(store: AnyBlobs) -> None:
    ONE.fetch(store, [0])
    ONE.put(store)
    assert store.complete(ONE.id)
    store.write(ONE.id, 1, ONE.parts[1])
    store.finish(ONE.id)
    assert store.stored == store.claimed == 50
    assert store.collect(50) == 50  # no fetch of it is in the way


# What goes


def test_what_was_given_up_leaves_nothing(bench: Bench) -> None:
    store = bench.open()
    ONE.fetch(store, [0, 1])
    store.abandon(ONE.id)
    assert bench.files() == set()
    assert store.claimed == store.stored == 0
    with pytest.raises(BlobMissing):
        store.write(ONE.id, 2, ONE.parts[2])
    assert bench.files() == set()


def test_of_two_blobs_that_share_one_can_go(bench: Bench) -> None:
    store = bench.open()
    ONE.put(store)
    TWO.put(store)
    assert store.stored == store.claimed == 70
    assert store.delete(ONE.id)
    assert TWO.read(store) == TWO.parts
    assert store.stored == store.claimed == 50
    assert bench.files() == {chunk.digest for chunk in TWO.chunks}
    store.delete(TWO.id)
    assert bench.files() == set()
    assert store.stored == store.claimed == 0


def test_deleted_under_a_reader_it_is_hidden_and_stays_for_that_reader(bench: Bench) -> None:
    store = bench.open()
    ONE.put(store)
    TWO.put(store)
    with store.reading(ONE.id):
        with store.reading(ONE.id):
            assert store.delete(ONE.id)
            store.delete(TWO.id)  # the chunk they share has no other reason to stay than the reader
            assert store.manifest(ONE.id) is None
            with pytest.raises(BlobMissing), store.reading(ONE.id):
                pass
            assert store.claimed == 0
        assert ONE.read(store) == ONE.parts
        assert bench.files() == {chunk.digest for chunk in ONE.chunks}
    assert bench.files() == set()
    with pytest.raises(BlobMissing):
        store.read(ONE.id, 0)


def test_put_again_under_the_reader_of_a_deleted_one_it_stays(bench: Bench) -> None:
    store = bench.open()
    ONE.put(store)
    with store.reading(ONE.id):
        store.delete(ONE.id)
        ONE.put(store)
    assert ONE.read(store) == ONE.parts
    assert store.complete(ONE.id)


def test_nothing_goes_while_somebody_writes(bench: Bench) -> None:
    store = bench.open()
    ONE.put(store)
    with store.writing():
        with store.writing():
            assert store.files.has(ONE.chunks[1])  # so the writer of TWO leaves it out
            store.delete(ONE.id)
        assert store.sweep() >= 0
        TWO.put(store)
    assert TWO.read(store) == TWO.parts
    assert bench.files() == {chunk.digest for chunk in TWO.chunks}


def test_what_a_killed_process_left_is_swept(bench: Bench) -> None:
    store = bench.open()
    TWO.put(store)
    store.files.settle([store.files.put(b"settled, not committed")])
    store.files.put(b"not settled")
    with store.writing():
        store.delete(TWO.id)
        store = bench.open()  # killed before the files went
    ONE.fetch(store, [0])
    assert store.sweep() == 4 - 1  # of the two that TWO had, ONE wants one
    assert bench.files() == {chunk.digest for chunk in ONE.chunks[:2]}
    assert store.sweep() == 0


# The quota


def test_the_least_recently_used_go_first(store: AnyBlobs) -> None:
    blobs = [Given(bytes([n]) * 25) for n in range(6)]
    for blob in blobs[:4]:
        blob.put(store)
    with store.reading(blobs[0].id):
        pass
    blobs[4].put(store)
    assert ids(store) == {blobs[n].id for n in (0, 2, 3, 4)}
    blobs[5].fetch(store)
    assert ids(store) == {blobs[n].id for n in (0, 3, 4, 5)}
    assert store.claimed == store.stored == 100


def test_used_is_remembered_from_life_to_life(bench: Bench) -> None:
    store = bench.open()
    blobs = [Given(bytes([n]) * 25) for n in range(4)]
    for blob in blobs:
        blob.put(store)
    with store.reading(blobs[0].id):
        pass
    store.pin(blobs[3].id)  # any change takes it along
    store = bench.open()
    Given(b"x" * 25).put(store)
    assert ids(store) >= {blobs[0].id, blobs[2].id, blobs[3].id}


def test_what_is_needed_is_not_collected(store: AnyBlobs) -> None:
    pinned, needed, read, fetched, free = (Given(bytes([n]) * 20) for n in range(5))
    for blob in (pinned, needed, read, free):
        blob.put(store)
    fetched.fetch(store, [0])
    store.pin(pinned.id)
    store.offer({pinned.id, read.id, free.id})
    with store.reading(read.id):
        with pytest.raises(QuotaExceeded, match="does not fit"):
            store.begin(Given(b"x" * 21).manifest)
        assert ids(store) == {blob.id for blob in (pinned, needed, read, fetched, free)}, "nothing was changed"
        with store.reading(free.id):
            assert free.read(store) == free.parts
        assert store.collect(1000) == 0, "it was used since it was offered"
        store.offer({pinned.id, read.id, free.id})
        assert store.collect(1000) == 20
        assert ids(store) == {blob.id for blob in (pinned, needed, read, fetched)}
    store.unpin(pinned.id)
    store.offer(None)
    store.leave(fetched.id)
    assert store.collect(41) == 60
    assert store.collect(1000) == 20
    assert store.listing() == []


def test_two_fetches_are_not_promised_the_same_room(store: AnyBlobs) -> None:
    big, other = Given(b"x" * 60), Given(b"y" * 41)
    store.begin(big.manifest)
    with pytest.raises(QuotaExceeded):
        store.begin(other.manifest)
    assert store.stored == 0
    store.abandon(big.id)
    other.fetch(store)
    assert store.complete(other.id)


def test_what_is_shared_needs_no_room(store: AnyBlobs) -> None:
    base, more = Given(b"a" * 60, b"b" * 20), Given(b"a" * 60, b"c" * 20)
    base.put(store)
    more.put(store)
    assert store.claimed == 100
    assert store.complete(base.id)
    Given(b"a" * 60, b"d" * 20).put(store)  # of base 20 bytes go, the rest is shared
    assert ids(store) == {more.id, Given(b"a" * 60, b"d" * 20).id}
    assert store.claimed == store.stored == 100


def test_a_local_write_without_room_leaves_the_others(bench: Bench) -> None:
    store = bench.open()
    ONE.put(store)
    store.pin(ONE.id)
    for blob in (Given(b"z" * 51), Given(ONE.parts[0], b"z" * 51)):
        with pytest.raises(QuotaExceeded):
            blob.put(store)
        assert bench.files() == {chunk.digest for chunk in ONE.chunks}
    assert ONE.read(store) == ONE.parts


# All of it at once

PARTS = [bytes([n]) * (n + 1) for n in range(6)]
blobs = st.lists(st.sampled_from(PARTS), max_size=4).map(lambda parts: Given(*parts))
operations = st.one_of(
    st.tuples(st.sampled_from(["put", "fetch", "finish", "leave", "abandon", "delete", "pin", "unpin"]), blobs),
    st.tuples(st.sampled_from(["arrive", "read", "spoil", "uncommitted"]), blobs, st.integers(0, 3)),
    st.tuples(st.just("offer"), st.none() | st.lists(blobs, max_size=2)),
    st.tuples(st.just("collect"), st.integers(0, 12)),
    st.tuples(st.sampled_from(["sweep", "open", "close readers", "close writers", "write"])),
    st.tuples(st.just("reader"), blobs),
)


class Player:
    """Does to one store what it is told."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.store = bench.open()
        self.readers, self.writers = ExitStack(), ExitStack()

    def do(self, what: str, *given: Any) -> object:
        try:
            return self._do(what, *given)
        except MeshError as error:
            return type(error)

    def _do(self, what: str, *given: Any) -> object:
        store = self.store
        match what, given:
            case "put", (blob,):
                return blob.put(store)
            case "fetch", (blob,):
                return store.begin(blob.manifest)
            case (("finish" | "leave" | "abandon" | "delete" | "pin" | "unpin"), (blob,)):
                return getattr(store, what)(blob.id)
            case "arrive", (blob, index):
                return index < len(blob.parts) and store.write(blob.id, index, blob.parts[index])
            case "read", (blob, index):
                return store.read(blob.id, index)
            case "spoil", (blob, index):
                if store.complete(blob.id) and index < len(blob.parts) and store.files.has(blob.chunks[index]):
                    self.bench.spoil(blob.chunks[index], b"")
                    return store.read(blob.id, index)
            case "uncommitted", (blob, index):
                store.files.settle([store.files.put(part) for part in blob.parts[:index]])
            case "offer", (listed,):
                store.offer(None if listed is None else {blob.id for blob in listed})
            case "collect", (wanted,):
                return store.collect(wanted)
            case "sweep", ():
                return store.sweep()
            case "reader", (blob,):
                self.readers.enter_context(store.reading(blob.id))
            case "close readers", ():
                self.readers.close()
            case "write", ():
                self.writers.enter_context(store.writing())
            case "close writers", ():
                self.writers.close()
            case "open", ():
                self.readers.close()
                self.writers.close()
                store.close()
                self.store = self.bench.open()
        return None

    def seen(self) -> object:
        store = self.store
        entries = store.listing()
        order = [entry.blob for entry in sorted(entries, key=lambda entry: entry.used)]
        haves = [store.have(entry.blob) for entry in entries]
        listed = [entry._replace(used=0) for entry in entries]
        return listed, order, haves, store.claimed, store.stored, sorted(self.bench.files())


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> FileBench:
    return FileBench(tmp_path_factory.mktemp("blobs"), 20)


@settings(max_examples=100, deadline=None)
@given(st.lists(operations, max_size=30))
def test_the_twin_and_the_disk_do_the_same(on_disk: FileBench, done: list[tuple[Any, ...]]) -> None:
    on_disk.clear()
    disk, twin = Player(on_disk), Player(MemoryBench(20))
    for operation in done:
        assert disk.do(*operation) == twin.do(*operation), operation
        assert disk.seen() == twin.seen(), operation
        assert disk.store.claimed <= 20
        for entry in disk.store.listing():
            if entry.complete:
                assert len(disk.store.manifest(entry.blob) or b"") == 31 + 36 * disk.store.have(entry.blob).bit_count()
    disk.do("open")
