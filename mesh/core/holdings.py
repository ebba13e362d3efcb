"""The leader's view of blobs: who holds which, who fetches which, and the copies that it has made.

None of it is in the ledger: nodes declare what they hold to every new leader, and who seeks something asks again. So
it is lost with a leader and whole again a moment later.

Copies go to nodes that hold data (all but observers) and are alive: first those with room, of them first another
machine than those which have the blob, then who has one that is much the same, then where most is free.

Must not know: which blobs matter and why, how one travels.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TypeAlias

from mesh.core.ids import NO_CLAIM, BlobId, Claim, Life, NodeId
from mesh.core.members import NEVER, Members
from mesh.core.messages import Copy, CopyFailed, Found, Holds, HoldsSeen, Seek
from mesh.core.outbox import Outbox
from mesh.core.params import Params

MOST_NAMED = 16  # holders, and as many who fetch, in one answer: of 1,000 that fetch one blob each hears of a few
ROOM = 64 << 20  # bytes that stay free on a node with room for a copy
ROUGHLY = 30  # free space is compared in whole GiB: it changes all the time

Named: TypeAlias = tuple[tuple[NodeId, str], ...]


def _mixed(one: str, other: str) -> bytes:
    """An order of its own for everyone: not all choose the same."""
    return blake2b(f"{one} {other}".encode(), digest_size=8).digest()


class Stock:
    """What one node holds, as it told in this session of its."""

    __slots__ = ("blobs", "complete", "free", "life", "seq", "session")

    def __init__(self, life: Life, session: int) -> None:
        self.life, self.session = life, session
        self.seq = self.free = 0
        self.complete = False  # it has declared all
        self.blobs: set[BlobId] = set()


class Holdings:
    def __init__(self, node: NodeId, address: str, role: str, params: Params, members: Members, out: Outbox) -> None:
        self.node, self.address, self.role = node, address, role
        self.params, self.members, self.out = params, members, out
        self.claim: Claim = NO_CLAIM
        self.stocks: dict[NodeId, Stock] = {}
        self.holders: dict[BlobId, set[NodeId]] = {}
        self.sizes: dict[BlobId, int] = {}  # bytes, of those that somebody has
        self._fetching: dict[BlobId, dict[NodeId, float]] = {}  # and when each asked last
        self._asked: dict[BlobId, dict[NodeId, float]] = {}  # whom we asked to copy, and when
        self._failed: dict[BlobId, dict[NodeId, tuple[float, str]]] = {}  # who could not, when, and why
        self._unsatisfied: dict[BlobId, dict[NodeId, tuple[float, Seek]]] = {}  # who waits for copies, and asked when
        self._prompted: dict[NodeId, float] = {}  # asked to declare

    def open(self, claim: Claim) -> None:
        self.close()
        self.claim = claim

    def close(self) -> None:
        self.claim = NO_CLAIM
        for known in (
            self.stocks, self.holders, self.sizes, self._fetching, self._asked, self._failed, self._unsatisfied,
            self._prompted,
        ):  # fmt: skip
            known.clear()

    # -- what nodes say ---------------------------------------------------------------------------------------------

    def on_heartbeat(self, node: NodeId, follows: Claim, now: float) -> None:
        """Who follows and never declared, as far as is known, is asked to: it may have, to a life that is over."""
        if follows == self.claim and self.claim != NO_CLAIM and node not in self.stocks:
            self._prompt(node, now)

    def _prompt(self, node: NodeId, now: float) -> None:
        if now - self._prompted.get(node, -self.params.resend_after) >= self.params.resend_after:
            self._prompted[node] = now
            self.out.send(node, HoldsSeen(self.claim, 0, 0))

    def on_holds(self, node: NodeId, holds: Holds, now: float) -> None:
        if holds.claim != self.claim:
            return
        stock = self.stocks.get(node)
        if stock is None or (stock.life, stock.session) != (holds.life, holds.session):
            if stock is not None and stock.life == holds.life and stock.session > holds.session:
                return  # of a session that is over
            if holds.seq != 1:
                self._prompt(node, now)  # the beginning of it is not known here: lost on its way, or with a leader
                return
            self._drop(node)
            stock = self.stocks[node] = Stock(holds.life, holds.session)
        if holds.seq == stock.seq + 1:
            stock.seq, stock.free = holds.seq, holds.free
            stock.complete |= not holds.more
            for blob, size in holds.gained:
                self.sizes[blob] = size
                self._gain(node, stock, blob)
            for blob in holds.lost:
                stock.blobs.discard(blob)
                self._lose(node, blob)
            for blob, _ in holds.gained:
                self._answer_again(blob, now)
        self.out.send(node, HoldsSeen(self.claim, stock.session, stock.seq))

    def _answer_again(self, blob: BlobId, now: float) -> None:
        """Who waits for copies hears of one at once: an attempt's end may wait for it."""
        for node, (asked, seek) in list(self._unsatisfied.pop(blob, {}).items()):
            if now - asked < 3 * self.params.seek_again:  # else it would have asked again
                self.on_seek(node, seek, now)
                if node in (waiting := self._unsatisfied.get(blob, {})):
                    waiting[node] = asked, seek

    def on_gone(self, node: NodeId) -> None:
        """Its process does not exist: what it held it declares when it is back."""
        self._drop(node)

    def _gain(self, node: NodeId, stock: Stock, blob: BlobId) -> None:
        stock.blobs.add(blob)
        self.holders.setdefault(blob, set()).add(node)
        for book in (self._fetching, self._asked, self._failed):
            if blob in book and book[blob].pop(node, None) is not None and not book[blob]:
                del book[blob]

    def _lose(self, node: NodeId, blob: BlobId) -> None:
        holders = self.holders.get(blob, set())
        holders.discard(node)
        if not holders:
            self.holders.pop(blob, None)
            self.sizes.pop(blob, None)

    def _drop(self, node: NodeId) -> None:
        stock = self.stocks.pop(node, None)
        for blob in stock.blobs if stock is not None else ():
            self._lose(node, blob)

    # -- seeking ----------------------------------------------------------------------------------------------------

    def on_seek(self, node: NodeId, seek: Seek, now: float) -> None:
        if seek.claim != self.claim:
            return
        sure, enough, why = self.sure(now), True, ""
        holders = self.alive_holders(seek.blob, now)
        if seek.copies:
            holders = sorted({*holders, node})
            enough, why = self._copy(seek, holders, sure, now)
            waiting = self._unsatisfied.setdefault(seek.blob, {})
            waiting[node] = now, seek
            if enough:
                del waiting[node]
            if not waiting:
                del self._unsatisfied[seek.blob]
        fetching = [other for other in self._fetchers(seek.blob, now) if other not in holders]
        told = [node]
        if not seek.copies:
            if node not in fetching:  # those who fetch it should not wait to hear of another for as long as they ask
                told += self._few(node, fetching)
                fetching.append(node)
            self._fetching.setdefault(seek.blob, {})[node] = now
        for other in told:
            found = Found(
                self.claim, seek.blob, self._named(other, holders), self._named(other, fetching), sure, enough, why
            )
            self.out.send(other, found)

    def alive_holders(self, blob: BlobId, now: float) -> list[NodeId]:
        """By id."""
        return sorted(node for node in self.holders.get(blob, ()) if self._alive(node, now))

    def sure(self, now: float) -> bool:
        """Whether all that are alive have said what they hold: also who, by its last heartbeat, follows another yet."""
        return all(self._declared(node) for node in (self.node, *(peer.node for peer in self.members.living(now))))

    def _declared(self, node: NodeId) -> bool:
        stock = self.stocks.get(node)
        return stock is not None and stock.complete

    def _alive(self, node: NodeId, now: float) -> bool:
        return node == self.node or self.members.is_alive(node, now)

    def _fetchers(self, blob: BlobId, now: float) -> list[NodeId]:
        """Who asked for it lately."""
        asked = self._fetching.get(blob, {})
        for node in [node for node, at in asked.items() if now - at >= 3 * self.params.seek_again]:
            del asked[node]
        if not asked:
            self._fetching.pop(blob, None)
        return sorted(asked)

    def _named(self, node: NodeId, others: list[NodeId]) -> Named:
        """A few of them, with their addresses; not itself."""
        addressed = ((other, self._address(other)) for other in self._few(node, [o for o in others if o != node]))
        return tuple((other, address) for other, address in addressed if address)

    def _few(self, node: NodeId, others: list[NodeId]) -> list[NodeId]:
        """Others for every node."""
        if len(others) > MOST_NAMED:
            others = sorted(others, key=lambda other: _mixed(node, other))
        return others[:MOST_NAMED]

    def _address(self, node: NodeId) -> str:
        if node == self.node:
            return self.address
        peer = self.members.peers.get(node)
        return "" if peer is None else peer.address

    # -- copying ----------------------------------------------------------------------------------------------------

    def _copy(self, seek: Seek, holders: list[NodeId], sure: bool, now: float) -> tuple[bool, str]:
        """See that enough nodes have it: whether they do, or no more can, and why not more."""
        asked = self._asked.get(seek.blob, {})
        for node in [node for node in asked if not self._alive(node, now)]:
            del asked[node]
        missing = seek.copies - len(holders) - len(asked)
        targets = self._targets(seek, holders, asked, now)
        for node in targets[: max(0, missing)]:
            asked = self._asked.setdefault(seek.blob, {})
            asked[node] = NEVER
        named = self._named("", holders)  # one list for all: none of them is among the holders
        for node, at in asked.items():
            if now - at >= self.params.copy_again:
                asked[node] = now
                self.out.send(node, Copy(self.claim, seek.blob, seek.size, named))
        if len(holders) >= seek.copies:
            return True, ""
        if asked or not sure:
            return False, ""
        return True, self._why_no_more(seek, holders, now)

    def _targets(self, seek: Seek, holders: list[NodeId], asked: dict[NodeId, float], now: float) -> list[NodeId]:
        """Who may be asked to copy it, the best first."""
        hosts = {self._host(node) for node in holders}
        failed = self._failed.get(seek.blob, {})
        for node in [node for node, (at, _) in failed.items() if now - at >= self.params.copy_pardon]:
            del failed[node]
        able = [
            node
            for node, stock in self.stocks.items()
            if stock.complete and self._alive(node, now) and self._keeps(node) and node not in holders
            and node not in asked and node not in failed
        ]  # fmt: skip

        alike = self.holders.get(seek.like, ())

        def worse(node: NodeId) -> tuple[bool, bool, bool, int, bytes]:
            free = self.stocks[node].free  # where it is too little, old blobs may go: that node decides
            return (
                free < seek.size + ROOM, self._host(node) in hosts, node not in alike, -(free >> ROUGHLY),
                _mixed(seek.blob, node),
            )  # fmt: skip

        return sorted(able, key=worse)

    def _keeps(self, node: NodeId) -> bool:
        peer = self.members.peers.get(node)
        role = self.role if node == self.node else "" if peer is None else peer.role
        return role != "observer"

    def _host(self, node: NodeId) -> str:
        return self._address(node).rpartition(":")[0]

    def _why_no_more(self, seek: Seek, holders: list[NodeId], now: float) -> str:
        failed = self._failed.get(seek.blob, {})
        whys = []
        for node in sorted(failed):  # all others that are alive would have been asked
            if node in holders or not self._alive(node, now):
                continue
            peer = self.members.peers.get(node)
            name = peer.name if peer is not None and peer.name else node
            whys.append(f"{name}: {failed[node][1]}")
        return "; ".join(whys) or "no other node that keeps blobs is alive"

    def on_copy_failed(self, node: NodeId, failure: CopyFailed, now: float) -> None:
        if failure.claim != self.claim:
            return
        asked = self._asked.get(failure.blob, {})
        if asked.pop(node, None) is not None:
            self._failed.setdefault(failure.blob, {})[node] = now, failure.reason
        if not asked:
            self._asked.pop(failure.blob, None)
        self._answer_again(failure.blob, now)
