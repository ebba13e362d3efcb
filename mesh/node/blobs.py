"""This node's blobs: the meeting of the store, what moves them, the machine that knows who has which, and who asks.

Owns what is under way here: fetches that wait to hear who has a blob, puts that wait until enough nodes have it, copies
that the leader asked for. It must not decide who copies what, nor know how bytes travel or lie.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from mesh.blob.manifest import is_name, name, parse
from mesh.core.effects import BlobFound, BlobsSpared, CopyBlob
from mesh.core.errors import BlobCorrupt, BlobMissing, MeshError, NoLeader, QuotaExceeded
from mesh.core.events import BlobsChanged, BlobsDoubted, BlobSettled, BlobSought, CopyRefused, Event
from mesh.core.ids import BlobId, NodeId
from mesh.shell.blobs import Blobs
from mesh.shell.transfer import Transfer
from mesh.shell.transfer_serve import Handlers
from mesh.wire.parts import Progress, Stored

log = logging.getLogger("mesh")

PATIENCE = 30.0  # seconds that a fetch waits for a leader that says who has a blob
PROGRESS_EVERY = 0.1  # seconds
DOUBTED = 1000  # blobs that the leader is asked about at a time, those first that were not used for longest

T = TypeVar("T")


class Poster(Protocol):
    def post(self, event: Event) -> None: ...


class _Sought:
    """What is asked for on behalf of somebody here, and the last answer."""

    def __init__(self, copies: int) -> None:
        self.copies = copies
        self.users = 0
        self.found: BlobFound | None = None
        self.news = asyncio.Event()


def _enough(found: BlobFound, copies: int) -> bool:
    """An answer to one who asked for fewer copies, or for none, says nothing of so many."""
    return found.enough and (1 + len(found.holders) >= copies or bool(found.why))


class Lease:
    """Keeps something in the store until it is released."""

    def __init__(self, held: AbstractContextManager[None], loop: asyncio.AbstractEventLoop) -> None:
        self._held, self._loop = held, loop

    def release(self) -> None:
        """At once for whoever asks; files that were doomed meanwhile go in a thread."""
        self._loop.run_in_executor(None, self._held.__exit__, None, None, None)


class Held(Lease):
    """A blob that stays in the store until it is released."""

    def __init__(
        self, manifest: bytes, directory: str, reading: AbstractContextManager[None], loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(reading, loop)
        self.manifest, self.directory = manifest, directory


class NodeBlobs:
    """Implements the server's Keeper and the driver's BlobsPort."""

    def __init__(self, node: NodeId, store: Blobs, transfer: Transfer, driver: Poster) -> None:
        self._node, self._store, self._transfer, self._driver = node, store, transfer, driver
        self._loop = asyncio.get_running_loop()
        self._sought: dict[BlobId, _Sought] = {}
        self._arriving: Counter[BlobId] = Counter()  # how many bring chunks of it
        self._entering = asyncio.Lock()
        self._closing = False
        self._making_room: asyncio.Task[str] | None = None
        self._spared: asyncio.Future[BlobsSpared] | None = None
        self._copying: set[asyncio.Task[None]] = set()

    def handlers(self) -> Handlers:
        return self._transfer.handlers()

    def declare(self) -> None:
        """Tell the machine what is here: before its first step, or its leader would hear that it is nothing."""
        self._store.tell(self._on_lost)
        self._store.offer(())  # until its leader says so nothing goes
        self._changed([(entry.blob, entry.size) for entry in self._store.listing() if entry.complete])
        if self._store.damage:
            log.warning("%s", self._store.damage, extra={"event": "blobs_damaged"})

    async def tidy(self) -> None:
        """Remove what a life that was killed left."""
        swept = await asyncio.to_thread(self._store.sweep)
        if swept:
            log.info("%d files of unfinished blobs were removed", swept, extra={"event": "blobs_swept"})

    def vitals(self) -> dict[str, Any]:
        """For ``status``: what was moved since the start, and which holders were dropped for what."""
        traffic = self._transfer.traffic
        return {
            "blob_quota": self._store.quota,
            "blob_bytes": self._store.claimed,
            "blob_bytes_sent": traffic.sent,
            "blob_bytes_received": traffic.received,
            "blob_bytes_wasted": traffic.wasted,
            "dropped_holders": dict(traffic.dropped),
        }

    async def close(self) -> None:
        self._closing = True
        for task in self._copying:
            task.cancel()
        await asyncio.gather(*self._copying, return_exceptions=True)
        await self._transfer.close()
        await asyncio.to_thread(self._store.close)

    # What the machine says.

    def found(self, found: BlobFound) -> None:
        if (sought := self._sought.get(found.blob)) is not None:
            sought.found = found
            sought.news.set()

    def copy(self, copy: CopyBlob) -> None:
        task = self._loop.create_task(self._copy(copy))
        self._copying.add(task)
        task.add_done_callback(self._copying.discard)

    async def _copy(self, copy: CopyBlob) -> None:
        try:
            if await asyncio.to_thread(self._store.complete, copy.blob):
                await self._declared(copy.blob)  # it was here before, and the leader does not know
            else:
                await self._fetch(copy.blob, lambda here, size: None, copy.holders)
        except Exception as error:
            if not isinstance(error, MeshError):
                log.error("a copy failed; this is a defect", exc_info=error, extra={"event": "defect"})
            log.warning("blob %s is not copied here: %s", copy.blob[:12], error, extra={"event": "copy_failed"})
            self._driver.post(CopyRefused(copy.blob, str(error) or type(error).__name__))

    # What clients ask.

    async def begin(self, manifest: bytes) -> int:
        blob = name(manifest)
        await self._enter(blob)
        beginning = asyncio.ensure_future(self._with_room(partial(asyncio.to_thread, self._store.begin, manifest)))
        try:
            return await asyncio.shield(beginning)
        except BaseException:
            await asyncio.wait({beginning})  # or it begins after it was left
            await self.leave(blob)
            raise

    async def leave(self, blob: BlobId) -> None:
        async with self._entering:
            self._arriving[blob] -= 1
            if not self._arriving[blob]:
                del self._arriving[blob]
                await asyncio.to_thread(self._store.leave, blob)

    async def _enter(self, blob: BlobId) -> None:
        """Somebody brings chunks of it. The last to leave ends it, and meanwhile nobody begins."""
        if self._closing:
            raise NoLeader("this node is stopping", "", "ask another node")
        async with self._entering:
            self._arriving[blob] += 1

    async def write(self, blob: BlobId, index: int, data: bytes) -> None:
        await asyncio.to_thread(self._store.write, blob, index, data)

    async def keep(self, blob: BlobId, copies: int) -> Stored:
        await asyncio.to_thread(self._store.finish, blob)
        return await self._spread(blob, copies, "")

    async def _spread(self, blob: BlobId, copies: int, like: BlobId) -> Stored:
        # Held until it is where it should be: until then it is the least recently used one soon.
        async with self._held(blob), self._seeking(blob, await self._declared(blob), copies, like) as sought:
            while (found := sought.found) is None or not _enough(found, copies):
                sought.news.clear()
                await sought.news.wait()
            return Stored((self._node, *(node for node, _ in found.holders)), found.why)

    async def fetch(self, blob: BlobId) -> AsyncGenerator[Progress, None]:
        told = Progress(0, 0)

        def listen(here: int, size: int) -> None:
            nonlocal told
            told = Progress(here, size)

        fetching = asyncio.ensure_future(self._fetch(blob, listen))
        try:
            last = told
            while not fetching.done():
                await asyncio.wait({fetching}, timeout=PROGRESS_EVERY)
                if told != last:
                    last = told
                    yield told
            fetching.result()
        finally:
            fetching.cancel()
            await asyncio.wait({fetching})

    async def read(self, blob: BlobId, first: int) -> AsyncGenerator[bytes, None]:
        async with self._held(blob):
            manifest = await asyncio.to_thread(self._store.manifest, blob)
            if manifest is None:
                raise BlobMissing(f"blob {blob[:12]} was deleted while it was read", "", "put it again")
            yield manifest
            for index in range(first, len((await asyncio.to_thread(parse, manifest, blob)).chunks)):
                try:
                    data = await asyncio.to_thread(self._store.read, blob, index)
                except (BlobCorrupt, BlobMissing):  # it was damaged here, and is gone now: another has it
                    await self._fetch(blob, lambda here, size: None)
                    data = await asyncio.to_thread(self._store.read, blob, index)
                yield data

    # What runners ask.

    @property
    def directory(self) -> Path:
        return self._store.files.directory

    async def writing(self) -> Lease:
        writing = self._store.writing()
        await asyncio.to_thread(writing.__enter__)
        return Lease(writing, self._loop)

    async def commit(self, manifest: bytes) -> tuple[BlobId, int]:
        blob = await self._with_room(partial(asyncio.to_thread, self._store.commit, manifest))
        return blob, await self._declared(blob)

    async def spread(self, blob: BlobId, copies: int, like: BlobId) -> str:
        return (await self._spread(blob, copies, like)).why

    async def hold(self, blob: BlobId, damaged: bool) -> Held:
        if not is_name(blob):
            raise BlobMissing(f"{blob[:80]!r} is no blob's id", "", "an id has 64 hexadecimal digits")
        if damaged:
            await asyncio.to_thread(self._look_through, blob)
        await self._fetch(blob, lambda here, size: None)
        reading = self._store.reading(blob)
        await asyncio.to_thread(reading.__enter__)
        try:
            manifest = await asyncio.to_thread(self._store.manifest, blob)
            if manifest is None:  # deleted in between
                raise BlobMissing(f"blob {blob[:12]} was deleted", "", "put it again")
        except BaseException:
            await asyncio.to_thread(reading.__exit__, None, None, None)
            raise
        return Held(manifest, str(self._store.files.directory), reading, self._loop)

    def _look_through(self, blob: BlobId) -> None:
        """Somebody found a chunk of it damaged: what is, goes."""
        manifest = self._store.manifest(blob)
        for index in range(len(parse(manifest, blob).chunks) if manifest is not None else 0):
            with suppress(BlobCorrupt, BlobMissing):
                self._store.read(blob, index)

    # Room.

    async def _with_room(self, store: Callable[[], Awaitable[T]]) -> T:
        """Where the store is full once more, after what nobody needs was offered."""
        try:
            return await store()
        except QuotaExceeded as error:
            why = await self._make_room()
            if why:
                raise QuotaExceeded(error.what, f"{error.why}; {why}", error.hint) from error
        return await store()

    async def _make_room(self) -> str:
        """Offer what the ledger refers to no more; why nothing was. One question at a time, for all who need room."""
        if self._making_room is None:
            self._making_room = self._loop.create_task(self._offer())
            self._making_room.add_done_callback(self._room_made)
        return await asyncio.shield(self._making_room)

    def _room_made(self, task: asyncio.Task[str]) -> None:
        self._making_room = None

    async def _offer(self) -> str:
        entries = await asyncio.to_thread(self._store.listing)
        oldest = sorted((entry.used, entry.blob) for entry in entries if entry.complete and not entry.pinned)
        if not oldest:
            return ""
        self._spared = self._loop.create_future()
        self._driver.post(BlobsDoubted(tuple(blob for _, blob in oldest[:DOUBTED])))
        try:
            async with asyncio.timeout(PATIENCE):
                spared = await self._spared
        except TimeoutError:
            return "no leader says which blobs are needed no more"
        finally:
            self._spared = None
        used = {entry.blob: entry.used for entry in await asyncio.to_thread(self._store.listing)}
        asked = {blob: at for at, blob in oldest}
        self._store.offer([blob for blob in spared.blobs if used.get(blob) == asked[blob]])
        return spared.why

    def spared(self, spared: BlobsSpared) -> None:
        if self._spared is not None and not self._spared.done():
            self._spared.set_result(spared)

    # Under way.

    async def _fetch(
        self, blob: BlobId, progress: Callable[[int, int], None], known: Iterable[tuple[NodeId, str]] = ()
    ) -> None:
        """Until all of it is here: at once where it is."""
        if await asyncio.to_thread(self._store.complete, blob):
            return
        async with self._seeking(blob, 0, 0) as sought:

            async def holders() -> Sequence[tuple[NodeId, str]]:
                await self._heard(sought)
                found = sought.found
                return [*known, *(found.holders if found else ()), *(found.fetching if found else ())]

            await self._enter(blob)
            try:
                await self._with_room(partial(self._transfer.fetch, blob, holders, progress))
            finally:
                await self.leave(blob)
        await self._declared(blob)

    async def _heard(self, sought: _Sought) -> None:
        """Until somebody is known to have it, or it is known that nobody does."""
        try:
            async with asyncio.timeout(PATIENCE):
                while (found := sought.found) is None or not (found.sure or found.holders or found.fetching):
                    sought.news.clear()
                    await sought.news.wait()
        except TimeoutError:
            return  # the fetch says that no node is known to hold it

    async def _declared(self, blob: BlobId) -> int:
        """Tell the machine that it is here; its size. Raises BlobMissing: it is not, or not any more."""
        entry = await asyncio.to_thread(self._store.info, blob)
        if entry is None or not entry.complete:
            raise BlobMissing(f"blob {blob[:12]} had to go for another one", "the store is full", "raise meshd --store")
        self._changed([(blob, entry.size)])
        return entry.size

    @asynccontextmanager
    async def _held(self, blob: BlobId) -> AsyncIterator[None]:
        """It stays meanwhile. Entered and left whole, whoever is cancelled when."""
        reading = self._store.reading(blob)
        entering = asyncio.ensure_future(asyncio.to_thread(reading.__enter__))
        try:
            await asyncio.shield(entering)
            yield
        finally:
            await asyncio.wait({entering})
            if entering.exception() is None:
                await asyncio.shield(asyncio.to_thread(reading.__exit__, None, None, None))

    @asynccontextmanager
    async def _seeking(self, blob: BlobId, size: int, copies: int, like: BlobId = "") -> AsyncIterator[_Sought]:
        """The machine asks its leader meanwhile, for all who seek the same blob here: as many copies as any of them."""
        sought = self._sought.get(blob)
        if sought is None:
            sought = self._sought[blob] = _Sought(copies)
            self._driver.post(BlobSought(blob, size, copies, like))
        elif copies > sought.copies:
            sought.copies = copies
            self._driver.post(BlobSought(blob, size, copies, like))
        sought.users += 1
        try:
            yield sought
        finally:
            sought.users -= 1
            if not sought.users and self._sought.get(blob) is sought:
                del self._sought[blob]
                self._driver.post(BlobSettled(blob))

    def _changed(self, gained: Iterable[tuple[BlobId, int]]) -> None:
        self._driver.post(BlobsChanged(tuple(gained), (), self._store.free))

    def _on_lost(self, blobs: list[BlobId]) -> None:
        """In any thread."""
        self._loop.call_soon_threadsafe(self._lost, tuple(blobs))

    def _lost(self, blobs: tuple[BlobId, ...]) -> None:
        self._driver.post(BlobsChanged((), blobs, self._store.free))
