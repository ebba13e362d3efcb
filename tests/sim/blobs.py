"""Blobs in a world: stores that survive crashes, people who put and fetch, and whether what they are told is so.

A blob here is a name; fetching it takes a moment and a holder that can be reached.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from mesh.core import effects as do
from mesh.core import events as ev
from mesh.core.ids import BlobId
from mesh.core.spare import referred
from tests.sim.clients import CAUGHT_UP

if TYPE_CHECKING:
    from tests.sim.world import Host, World

ROOM = 1 << 40  # bytes that every store takes yet
SIZE = 1 << 20
COPIES = 2


class Blobs:
    def __init__(self, world: World) -> None:
        self.world = world
        self.stored: dict[int, set[BlobId]] = {}  # by host's index
        self.putting: dict[BlobId, Host] = {}  # not answered yet
        self.fetching: dict[tuple[int, BlobId], None] = {}
        self.made: list[BlobId] = []
        self.kept: set[BlobId] = set()  # whose put was answered: before, the leader may not know of them

    # -- people ------------------------------------------------------------------------------------------------------

    def put(self, host: Host) -> None:
        if not host.up:
            return
        blob = blake2b(f"{self.world.seed}/{len(self.made)}".encode(), digest_size=32).hexdigest()
        self.made.append(blob)
        self.putting[blob] = host
        self._store(host, blob)
        self.world.feed(host, ev.BlobSought(blob, SIZE, COPIES))

    def fetch(self, host: Host) -> None:
        """One of those that were put before, if it is not here."""
        if host.up and self.made:
            blob = self.world.rng.choice(self.made)
            if blob not in self._of(host):
                self.fetching[host.index, blob] = None
                self.world.feed(host, ev.BlobSought(blob))

    def doubt(self) -> None:
        """Every host is short of room: which checkpoints may go?"""
        saved = sorted({checkpoint.blob for of in self.world.runners.saved.values() for checkpoint in of})
        for host in self.world.hosts:
            if host.up:
                self.world.feed(host, ev.BlobsDoubted(tuple(saved[:1000])))

    def unsettled(self) -> str:
        """What somebody still waits for, though everything is well."""
        for blob, host in self.putting.items():
            return f"{host.name} put {blob[:6]} and was not answered"
        for index, blob in self.fetching:
            return f"h{index} seeks {blob[:6]} and was not told where it is"
        return ""

    # -- hosts -------------------------------------------------------------------------------------------------------

    def started(self, host: Host) -> None:
        self.world.feed(host, ev.BlobsChanged(tuple((blob, SIZE) for blob in sorted(self._of(host))), (), ROOM))

    def crashed(self, host: Host) -> None:
        """Who waited there is gone as well."""
        self.putting = {blob: other for blob, other in self.putting.items() if other is not host}
        self.fetching = {key: None for key in self.fetching if key[0] != host.index}

    def ruined(self, host: Host) -> None:
        self._of(host).clear()

    def _of(self, host: Host) -> set[BlobId]:
        return self.stored.setdefault(host.index, set())

    def _store(self, host: Host, blob: BlobId) -> None:
        self._of(host).add(blob)
        self.world.feed(host, ev.BlobsChanged(((blob, SIZE),), (), ROOM))

    # -- what machines say -------------------------------------------------------------------------------------------

    def found(self, host: Host, found: do.BlobFound) -> None:
        holders = [other for other in self.world.hosts if other.node in {node for node, _ in found.holders}]
        spoilt = {other.node for _, other in self.world.ruined}
        for node, _ in found.holders:  # a copied state directory is of two hosts
            if node not in spoilt and not any(
                other.node == node and found.blob in self._of(other) for other in holders
            ):
                self.world.violate(f"{host.name} hears that {node} has {found.blob[:6]}, which never had it")
        if self.putting.get(found.blob) is host:
            if found.enough:
                del self.putting[found.blob]
                self.kept.add(found.blob)
                self.world.after(0.0, self.world.feed, host, ev.BlobSettled(found.blob))
                if not holders:
                    self._check_alone(host, found)
        elif (host.index, found.blob) in self.fetching:
            self._fetch(host, found, holders)

    def _check_alone(self, host: Host, found: do.BlobFound) -> None:
        """Told that no other node has it: then none could."""
        if self.world.calm_for <= CAUGHT_UP:
            return
        able = [other.name for other in self.world.hosts if other is not host and self._could(host, other)]
        if able:
            self.world.violate(f"{host.name} is told that nobody else takes {found.blob[:6]}, and {able} are there")

    def _could(self, host: Host, other: Host) -> bool:
        """Whether both follow one leader that has known them for a while."""
        if not other.up or other.plan.role == "observer" or host.machine is None or other.machine is None:
            return False
        claims = host.machine.election.announced(), other.machine.election.announced()
        leader = next((each for each in self.world.hosts if each.node == claims[0].leader), None)
        if claims[0] != claims[1] or leader is None or leader.machine is None:
            return False
        stock = leader.machine.holdings.stocks.get(other.node)
        return stock is not None and stock.complete

    def _fetch(self, host: Host, found: do.BlobFound, holders: list[Host]) -> None:
        reachable = [o for o in holders if o.up and not self.world.net.is_cut(host, o) and found.blob in self._of(o)]
        if reachable:
            self.world.after(self.world.rng.uniform(0.01, 1.0), self._arrive, host, host.machine, found.blob)
        elif found.sure and not holders:
            del self.fetching[host.index, found.blob]
            self.world.after(0.0, self.world.feed, host, ev.BlobSettled(found.blob))
            self._check_missing(host, found.blob)

    def _check_missing(self, host: Host, blob: BlobId) -> None:
        """Told that nobody has it: then nobody who could be asked does."""
        if self.world.calm_for > CAUGHT_UP and blob in self.kept:
            having = [
                o.name for o in self.world.hosts if o is not host and blob in self._of(o) and self._could(host, o)
            ]
            if having:
                self.world.violate(f"{host.name} is told that nobody has {blob[:6]}, and {having} have it")

    def spared(self, host: Host, spared: do.BlobsSpared) -> None:
        """In quiet times nothing may go that any leader's ledger refers to."""
        if self.world.calm_for <= CAUGHT_UP:
            return
        for leader in self.world.leaders():
            assert leader.machine is not None
            for job in leader.machine.ledger.jobs.values():
                for task in job.tasks:
                    needed = set(referred(leader.machine.ledger.tasks[task])) & set(spared.blobs)
                    if needed:
                        self.world.violate(f"{host.name} is told that {needed} may go, which {task} refers to")

    def copy(self, host: Host, copy: do.CopyBlob) -> None:
        named = {node for node, _ in copy.holders}
        holders = [other for other in self.world.hosts if other.node in named and copy.blob in self._of(other)]
        if any(other.up and not self.world.net.is_cut(host, other) for other in holders):
            self.world.after(self.world.rng.uniform(0.01, 1.0), self._arrive, host, host.machine, copy.blob)
        else:
            self.world.after(1.0, self._refuse, host, host.machine, copy.blob)

    def _arrive(self, host: Host, machine: object, blob: BlobId) -> None:
        if host.machine is machine and machine is not None:
            self._store(host, blob)
            self.fetching.pop((host.index, blob), None)
            self.world.feed(host, ev.BlobSettled(blob))

    def _refuse(self, host: Host, machine: object, blob: BlobId) -> None:
        if host.machine is machine and machine is not None:
            self.world.feed(host, ev.CopyRefused(blob, "nobody who has it can be reached"))
