"""What this node holds and seeks of blobs, and the leader that hears of it.

Everything held is declared under every new claim, then what changes; all of it numbered and repeated until the leader
has seen it, for a holder that is not known of is no holder. What is sought is asked for again and again: holders come
and go, and whoever asks is known as one who fetches.

Must not know: who else holds what; how a blob is stored or travels.
"""

from __future__ import annotations

from collections import deque

from mesh.core.effects import BlobFound, BlobsSpared, CopyBlob
from mesh.core.events import BlobsChanged, BlobSought
from mesh.core.ids import NO_CLAIM, BlobId, Claim, Life
from mesh.core.messages import Copy, CopyFailed, Found, Holds, HoldsSeen, Seek, Spare, Spared
from mesh.core.outbox import Outbox
from mesh.core.params import Params


class Sought:
    __slots__ = ("copies", "like", "size", "told")

    def __init__(self, size: int, copies: int, like: BlobId) -> None:
        self.size, self.copies, self.like = size, copies, like
        self.told: float | None = None  # when the leader was last asked


class Holder:
    def __init__(self, life: Life, params: Params, out: Outbox) -> None:
        self.life, self.params, self.out = life, params, out
        self.held: dict[BlobId, int] = {}  # and their sizes
        self.free = 0
        self.sought: dict[BlobId, Sought] = {}
        self.copying: set[BlobId] = set()  # that the leader asked for
        self.claim: Claim = NO_CLAIM
        self.session = 0
        self._seq = 0
        self._unseen: deque[Holds] = deque()
        self._sent_at = 0.0
        self._declare = False
        self._doubted: tuple[BlobId, ...] = ()  # of which is asked whether they may go
        self._questions = 0
        self._asked_at: float | None = None
        self._gained: dict[BlobId, int] = {}  # not told yet
        self._lost: dict[BlobId, None] = {}

    # -- what happens -----------------------------------------------------------------------------------------------

    def on_claim(self, claim: Claim) -> None:
        """Follow this claim from now on, or the same one over a new link."""
        self.claim, self._declare = claim, claim != NO_CLAIM
        for sought in self.sought.values():
            sought.told = None
        self._asked_at = None

    def on_changed(self, event: BlobsChanged) -> None:
        self.free = event.free
        for blob, size in event.gained:
            self.copying.discard(blob)
            if blob not in self.held:
                self.held[blob] = self._gained[blob] = size
                self._lost.pop(blob, None)
        for blob in event.lost:
            if blob in self.held:
                del self.held[blob]
                self._lost[blob] = None
                self._gained.pop(blob, None)

    def on_sought(self, event: BlobSought) -> None:
        self.sought[event.blob] = Sought(event.size, event.copies, event.like)

    def on_settled(self, blob: BlobId) -> None:
        self.sought.pop(blob, None)

    def on_doubted(self, blobs: tuple[BlobId, ...]) -> None:
        self._doubted, self._asked_at = blobs, None
        self._questions += 1

    def on_refused_copy(self, blob: BlobId, reason: str) -> None:
        self.copying.discard(blob)
        if self.claim != NO_CLAIM:
            self.out.send(self.claim.leader, CopyFailed(self.claim, blob, reason))

    def on_message(self, message: HoldsSeen | Found | Copy | Spared, now: float) -> None:
        if message.claim != self.claim:
            return
        match message:
            case HoldsSeen():
                self._on_seen(message, now)
            case Found() if message.blob in self.sought:
                self.out.do(BlobFound(*message[1:]))
            case Spared() if self._doubted and message.number == self._questions:
                self._doubted = ()
                self.out.do(BlobsSpared(message.blobs, message.why))
            case Copy() if message.blob not in self.held and message.blob not in self.copying:
                self.copying.add(message.blob)
                self.out.do(CopyBlob(message.blob, message.size, message.holders))

    def _on_seen(self, seen: HoldsSeen, now: float) -> None:
        if seen.session == 0:
            self._declare |= now - self._sent_at >= self.params.resend_after  # else a declaration is under way
        elif seen.session == self.session:
            while self._unseen and self._unseen[0].seq <= seen.seq:
                self._unseen.popleft()

    # -- at the end of every step -----------------------------------------------------------------------------------

    def flush(self, now: float) -> None:
        if self.claim == NO_CLAIM:
            return
        if self._declare:
            self._declare = False
            self.session, self._seq = self.session + 1, 0
            self._unseen.clear()
            self._lost.clear()
            self._gained = dict(self.held)
            self._tell(now, declares=True)
        elif self._gained or self._lost:
            self._tell(now, declares=False)
        if self._unseen and now - self._sent_at >= self.params.resend_after:
            self._sent_at = now
            for holds in self._unseen:
                self.out.send(self.claim.leader, holds)
        for blob, sought in self.sought.items():
            if sought.told is None or now - sought.told >= self.params.seek_again:
                sought.told = now
                self.out.send(self.claim.leader, Seek(self.claim, blob, sought.size, sought.copies, sought.like))

        if self._doubted and (self._asked_at is None or now - self._asked_at >= self.params.seek_again):
            self._asked_at = now
            self.out.send(self.claim.leader, Spare(self.claim, self._questions, self._doubted))

    def _tell(self, now: float, *, declares: bool) -> None:
        gained, lost, size = list(self._gained.items()), list(self._lost), self.params.slice_records
        self._gained, self._lost = {}, {}
        if not self._unseen:
            self._sent_at = now
        while True:
            part, gained, dropped, lost = tuple(gained[:size]), gained[size:], tuple(lost[:size]), lost[size:]
            self._seq += 1
            more = declares and bool(gained)
            holds = Holds(self.claim, self.life, self.session, self._seq, part, dropped, self.free, more)
            self._unseen.append(holds)
            self.out.send(self.claim.leader, holds)
            if not gained and not lost:
                return

    def deadline(self) -> float | None:
        if self.claim == NO_CLAIM:
            return None
        times = [
            0.0 if sought.told is None else sought.told + self.params.seek_again for sought in self.sought.values()
        ]
        if self._unseen:
            times.append(self._sent_at + self.params.resend_after)
        if self._doubted:
            times.append(0.0 if self._asked_at is None else self._asked_at + self.params.seek_again)
        return min(times, default=None)
