"""One blob's fetch: connects to its holders, asks them as the exchange decides, and has the store keep what comes.

Owns the holders' connections, when they are tried again and given up, and how it all ends. It must not decide which
chunk is asked of whom. Everything here runs in the event loop; the store's work runs in the pool's threads.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias, TypeVar

from mesh.blob.manifest import name, parse
from mesh.core.errors import BlobCorrupt, BlobMissing, MeshError
from mesh.core.exchange import LYING, Exchange, members
from mesh.core.ids import BlobId, NodeId
from mesh.shell.transfer_source import Asking, Came, Source, Unanswered
from mesh.shell.transfer_store import Store, Traffic

MOST_HOLDERS = 12  # connected at once: with two chunks under way from each there is room left for the fast ones
REASONS_TOLD = 8
UNREACHABLE = "unreachable"

Holders: TypeAlias = Callable[[], Awaitable[Sequence[tuple[NodeId, str]]]]
Progress: TypeAlias = Callable[[int, int], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """Seconds, but for ``tries``."""

    answer: float = 3.0  # that a holder may take to say what it has
    manifest: float = 60.0  # to send a manifest: one of 32 MiB takes 30 s at 10 Mbit/s
    stall: float = 10.0  # that it may deliver nothing although it was asked
    again: float = 0.1  # before it is tried again, doubled each time
    again_limit: float = 5.0
    tries: int = 6  # in a row that brought nothing; then it is given up
    forgive: float = 10.0  # until one that was given up is tried again, if it is still named
    names: float = 0.25  # between two looks at who has it
    tick: float = 0.25  # between two looks at who is slow


class Failed(NamedTuple):
    why: str
    reason: str  # for the counters
    until: float  # when it may be tried again


FOR_GOOD = float("inf")


class Fetch:
    """:meth:`run` it once; callers may come and go meanwhile in ``feeds`` and ``listeners``."""

    def __init__(
        self,
        blob: BlobId,
        node: NodeId,
        store: Store,
        pool: Executor,
        traffic: Traffic,
        gained: Callable[[], None],
        patience: Patience,
    ) -> None:
        self.feeds: list[Holders] = []
        self.listeners: list[Progress] = []
        self._blob, self._node, self._store, self._pool = blob, node, store, pool
        self._traffic, self._gained, self._patience = traffic, gained, patience
        self._clock = asyncio.get_running_loop().time
        self._exchange = Exchange(node, (), 0, patience.stall)  # until the manifest is here
        self._sizes: list[int] = []
        self._bytes = self._total = 0  # here, and in all
        self._named: dict[NodeId, str] = {}
        self._begun = self._looks = 0  # looks at who has it: the last that was begun, and that ended
        self._stuck: int | None = None  # the last that was begun when nothing was left to do
        self._look_now = asyncio.Event()
        self._tasks: dict[NodeId, asyncio.Task[None]] = {}
        self._sources: dict[NodeId, Source] = {}  # of those that said what they have
        self._growing: set[NodeId] = set()  # connected, and may have more soon
        self._failed: dict[NodeId, Failed] = {}
        self._moved = self._clock()  # when anything came, or a holder gained anything
        self._closing: set[asyncio.Task[None]] = set()
        self._wanted: set[tuple[NodeId, int]] = set()  # being written, and not here from another
        self._defect: BaseException | None = None
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Until all is there and durable. Raises BlobMissing, BlobCorrupt, QuotaExceeded, and what a feed raises."""
        looking = asyncio.ensure_future(self._look())
        try:
            known = await self._thread(partial(self._store.manifest, self._blob))
            manifest = known or await self._ask_manifest()
            self._sizes = await self._thread(partial(_sizes, manifest, self._blob))
            here = await self._thread(partial(self._store.begin, manifest))
            self._exchange = Exchange(self._node, self._sizes, here, self._patience.stall)
            self._bytes = await self._thread(lambda: sum(self._sizes[index] for index in members(here)))
            self._total = sum(self._sizes)
            self._tell()
            while not self._exchange.done:
                self._connect()
                for source in tuple(self._sources.values()):
                    source.deliver()  # what arrived and waits for the disk is not late
                for node in self._exchange.slow(self._clock()):
                    why = self._exchange.dropped[node]
                    self._give_up(node, f"dropped, it {_SLOWNESS[why]}", why, FOR_GOOD)
                self._pump()
                if self._hopeless():
                    raise self._failure()
                await self._pause(self._patience.tick)
            await self._thread(partial(self._store.finish, self._blob))
        finally:
            # What arrived is kept, and nothing is written any more once this has ended.
            await asyncio.shield(asyncio.ensure_future(self._wind_up(looking)))

    async def _wind_up(self, looking: asyncio.Task[None]) -> None:
        tasks = [looking, *self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        if self._closing:
            await asyncio.wait(set(self._closing))

    def _thread(self, work: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def _pause(self, seconds: float) -> None:
        """Until something changed, or so long. Raises what went wrong elsewhere."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()
        if self._defect is not None:
            raise self._defect

    def _fail(self, error: BaseException) -> None:
        self._defect = self._defect or error
        self._wake.set()

    def _tell(self) -> None:
        for listener in tuple(self.listeners):
            listener(self._bytes, self._total)

    # Who has it.

    async def _look(self) -> None:
        try:
            while True:
                self._begun += 1
                self._look_now.clear()
                found: dict[NodeId, str] = {}
                for feed in tuple(self.feeds):
                    found |= dict(await feed())
                found.pop(self._node, None)
                self._named = found
                self._looks = self._begun
                self._wake.set()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._patience.names):
                        await self._look_now.wait()
        except Exception as error:  # noqa: BLE001 - it is the fetch's own end
            self._fail(error)

    def _candidates(self) -> list[NodeId]:
        """Those to try now, in an order of our own: else all fetchers crowd round the same ones."""
        now = self._clock()
        found = [
            node for node in self._named
            if node not in self._tasks and (node not in self._failed or self._failed[node].until <= now)
        ]  # fmt: skip
        return sorted(found, key=lambda node: name(f"{self._node} {node}".encode()))

    async def _ask_manifest(self) -> bytes:
        """From the first that has it, one after the other: that of a large blob is large."""
        wait = self._patience.again
        for _ in range(self._patience.tries):
            while not self._looks:
                await self._pause(self._patience.tick)
            for node in self._candidates():
                try:
                    async with Asking(self._blob, self._named[node], self._patience.answer) as asking:
                        manifest = await asking.manifest(self._patience.manifest)
                except Unanswered as error:
                    self._failed[node] = Failed(str(error), UNREACHABLE, 0.0)
                    continue
                if await self._thread(partial(name, manifest)) == self._blob:
                    self._failed.pop(node, None)
                    return manifest
                self._give_up(node, "its manifest is another blob's", LYING, FOR_GOOD)
            if not self._candidates():
                break
            await asyncio.sleep(wait)
            wait = min(2 * wait, self._patience.again_limit)
        raise self._failure()

    def _connect(self) -> None:
        """As many as may be; more, while there are chunks that none of those has."""
        room = MOST_HOLDERS if self._exchange.missing() else MOST_HOLDERS - len(self._tasks)
        for node in self._candidates()[: max(0, room)]:
            self._failed.pop(node, None)
            self._tasks[node] = asyncio.ensure_future(self._use(node, self._named[node]))

    async def _use(self, node: NodeId, address: str) -> None:
        """Until it is given up: a stream that dies is opened again, later each time while that brings nothing."""
        tries = 0
        try:
            while tries < self._patience.tries:
                if tries:
                    await asyncio.sleep(min(self._patience.again * 2 ** (tries - 1), self._patience.again_limit))
                began = self._traffic.received
                why = await self._session(node, address)
                tries = 1 if self._traffic.received > began else tries + 1
            self._give_up(node, why, UNREACHABLE, self._clock() + self._patience.forgive)
        except Exception as error:  # noqa: BLE001 - it is the fetch's own end
            self._fail(error)
        finally:
            del self._tasks[node]
            self._wake.set()

    async def _session(self, node: NodeId, address: str) -> str:
        """One connection to it, while it lasts. Says why it ended."""
        async with Asking(self._blob, address, self._patience.answer) as asking:
            ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            write = partial(self._store.write, self._blob)
            source = Source(self._blob, address, self._pool, write, partial(self._on_came, node), ended.set_result)
            following = asyncio.ensure_future(self._follow(node, asking, source))
            try:
                await asyncio.wait({following, ended}, return_when=asyncio.FIRST_COMPLETED)
                return await (following if following.done() else ended)
            finally:
                following.cancel()
                self._sources.pop(node, None)
                self._growing.discard(node)
                closing = asyncio.ensure_future(self._close(node, source))
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
                await asyncio.shield(closing)

    async def _close(self, node: NodeId, source: Source) -> None:
        await source.close()  # what it delivered until then counts
        self._exchange.on_gone(node)
        self._wake.set()

    async def _follow(self, node: NodeId, asking: Asking, source: Source) -> str:
        """What it has, and gains. Says why that is not known any more."""
        try:
            while True:
                had = 0
                async for chunks in asking.have():
                    had |= chunks
                    self._growing.add(node)
                    self._sources[node] = source
                    self._moved = self._clock()
                    self._exchange.on_have(node, chunks, self._moved)
                    self._pump()
                self._growing.discard(node)
                self._wake.set()
                if had.bit_count() == len(self._sizes):
                    await asyncio.Event().wait()  # the stream of chunks will tell when it goes
                await asyncio.sleep(self._patience.names)
        except Unanswered as error:
            return str(error)

    def _give_up(self, node: NodeId, why: str, reason: str, until: float) -> None:
        if node not in self._failed or self._failed[node].until < until:
            self._failed[node] = Failed(why, reason, until)
            self._traffic.dropped[reason] += 1
        task = self._tasks.get(node)
        if task is not None and until == FOR_GOOD:
            task.cancel()
        self._wake.set()

    # What came.

    def _pump(self) -> None:
        now = self._clock()
        for node in self._exchange.order():
            source = self._sources.get(node)  # none: it is being closed
            numbers = self._exchange.next(node, now) if source is not None else ()
            if source is not None and numbers:
                source.ask(numbers)

    def _on_came(self, node: NodeId, found: list[Came]) -> None:
        for came in found:
            if came.kept:
                self._on_written(node, came)
            elif not came.size:
                self._exchange.on_lacking(node, came.number, came.at)
            else:
                self._traffic.received += came.size
                if self._exchange.on_arrived(node, came.number, came.at):
                    self._wanted.add((node, came.number))
                else:
                    self._traffic.wasted += came.size
        self._tell()
        self._pump()

    def _on_written(self, node: NodeId, came: Came) -> None:
        wanted = (node, came.number) in self._wanted
        self._wanted.discard((node, came.number))
        if isinstance(came.error, BlobCorrupt):
            self._traffic.wasted += came.size if wanted else 0
            if wanted:
                self._exchange.on_wrong(node, came.number)
            self._exchange.drop(node, LYING)
            self._give_up(node, f"dropped, it sent a wrong chunk {came.number}", LYING, FOR_GOOD)
        elif came.error is not None:
            self._fail(came.error)
        elif wanted:
            self._exchange.on_kept(came.number)
            self._moved = self._clock()
            self._bytes += came.size
            self._gained()
            if self._exchange.done:
                self._wake.set()

    # How it ends otherwise.

    def _hopeless(self) -> bool:
        """Chunks are missing that nobody has who is connected, is being tried, or is named when that is asked anew."""
        trying = any(node not in self._sources for node in self._tasks) or self._candidates()
        growing = self._growing and self._clock() - self._moved < self._patience.stall
        if trying or growing or not self._exchange.idle or not self._exchange.missing():
            self._stuck = None
        elif self._stuck is None:
            self._stuck = self._begun
            self._look_now.set()
        return self._stuck is not None and self._looks > self._stuck

    def _failure(self) -> MeshError:
        reasons = [f"{node}: {failed.why}" for node, failed in sorted(self._failed.items())]
        if len(reasons) > REASONS_TOLD:
            reasons[REASONS_TOLD:] = [f"and {len(reasons) - REASONS_TOLD} more"]
        reasons += [f"{node}: does not have it" for node in sorted(self._sources)]
        what = f"blob {self._blob[:12]} cannot be fetched"
        if self._failed and not self._sources and all(failed.reason == LYING for failed in self._failed.values()):
            return BlobCorrupt(
                what, "; ".join(["every holder gave wrong bytes", *reasons]), "restore it from its source"
            )
        missing = list(members(self._exchange.missing()))
        lacking = (
            f"chunk {missing[0]} ({len(missing)} of {len(self._sizes)} are missing)" if missing else "its manifest"
        )
        why = "; ".join([f"no reachable holder has {lacking}", *(reasons or ["no node is known to hold it"])])
        return BlobMissing(what, why, "start a node that holds it and try again: what arrived is kept")


_SLOWNESS = {"stalled": "delivered nothing for too long", "slow": "was far slower than the others"}


def _sizes(manifest: bytes, blob: BlobId) -> list[int]:
    return [chunk.size for chunk in parse(manifest, blob).chunks]
