"""One daemon's life: everything is opened in order, joined, run, drained and closed in reverse.

Owns the wiring, the signals, what is announced and the exit code. It must not decide anything that the machine could.

A daemon is ready (``meshd.json``, sd_notify) once it answers; it is found by mDNS and has measured its hardware a
moment later, for neither is waited for.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Coroutine
from functools import partial
from typing import Any

from ulid import ULID

from mesh import __version__
from mesh.core import params
from mesh.core.effects import LeaderChanged
from mesh.core.errors import MeshError
from mesh.core.events import AddressFound, DrainAsked, JournalFailed, Measured
from mesh.core.identity import Me
from mesh.core.ids import JobId, NodeId, TaskId, node_id
from mesh.core.machine import Machine
from mesh.core.messages import Hello, Offer
from mesh.lan.interfaces import dialable
from mesh.node.answers import Answers
from mesh.node.blobs import NodeBlobs
from mesh.node.compaction import compacted
from mesh.node.config import Config
from mesh.node.driver import Driver, Ports, SystemClock
from mesh.node.garbage import WALKED, Collector
from mesh.node.logbook import Book, Context
from mesh.node.options import join_address
from mesh.node.state import State
from mesh.shell.blobs import Blobs
from mesh.shell.journal import Journal
from mesh.shell.journal_file import JournalCorrupt, JournalError
from mesh.shell.journal_salvage import finish, salvage, set_aside
from mesh.shell.links import Links, PortInUse
from mesh.shell.runners import RunnerOptions, Runners
from mesh.shell.server import Server
from mesh.shell.transfer import Transfer
from mesh.wire.work import decode_work

log = logging.getLogger("mesh")

MEASURE_EVERY = 2.0  # seconds
MEASURE_CHANGE = 0.05  # of the total: free memory never stands still, and a bid is worth sending for more than noise
LAST_CALLS = 1.0  # seconds
OF_FREE = 0.8  # of what the disk has free is for blobs, if nobody says how much
LATE_DRAIN = 5.0  # seconds beyond the grace; then the process ends without the machine's word


class Refused(MeshError):
    """The daemon cannot start. ``exit_code`` says why to a service manager."""

    def __init__(self, exit_code: int, what: str, why: str = "", hint: str = "") -> None:
        super().__init__(what, why, hint)
        self.exit_code = exit_code


async def run(config: Config, state: State, book: Book, context: Context) -> int:
    """Until drained or stopped; the exit code. Raises MeshError with an ``exit_code`` where it cannot start."""
    daemon = Daemon(config, state, book, context)
    try:
        await daemon.start()
        return await daemon.wait()
    finally:
        await daemon.close()


class Daemon:
    """Watches the machine for the log and for those who call: the driver's WatchersPort."""

    def __init__(self, config: Config, state: State, book: Book, context: Context) -> None:
        self._config, self._state, self._book, self._context = config, state, book, context
        self._loop = asyncio.get_running_loop()
        self._clock = SystemClock()
        self._driver = Driver(self._clock)
        self._journal: Journal | None = None
        self._machine: Machine | None = None
        self._runners: Runners | None = None
        self._server: Server | None = None
        self._blobs: NodeBlobs | None = None
        self._links = Links(self._driver.post, self._hello)
        self._tasks: set[asyncio.Task[None]] = set()
        self._signalled = 0
        self._offer: Offer | None = None
        self._collector: Collector

    async def start(self) -> None:
        config, state = self._config, self._state
        node = self._context.node = node_id(config.rank, state.ulid)
        self._open_journal()
        blobs = self._blobs = self._open_blobs(node)
        runner_options = RunnerOptions(state.path, node, config.name)
        try:
            runners = self._runners = Runners(
                runner_options, self._driver.post_now, decode_work, lambda: time.time_ns() // 1_000_000, blobs
            )
        except ValueError as error:
            raise Refused(2, str(error)) from error
        except OSError as error:
            raise Refused(73, f"cannot prepare {state.path}", str(error), "is it writable, with space left?") from error
        damaged = partial(set_aside, state.journal)
        answers = Answers(self._driver, self._clock, self._links, runners, self._book, blobs, damaged)
        server = self._server = Server(answers, answers, answers, blobs)
        port = self._bind(server)
        address = join_address(dialable(config.host), port)
        me = Me(
            node, state.life, config.name, config.role, address, config.mesh, str(ULID()), __version__, config.settings
        )
        self._collector = Collector(self._clock.now())
        journal, machine = self._read_journal(me)
        answers.machine = machine
        journal.start(self._loop.call_soon_threadsafe, self._driver.on_synced, self._on_failed)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_signal, number)
        self._driver.start(machine, Ports(journal, self._links, runners, self, blobs), journal.position)
        for peer in config.peers:
            self._driver.post(AddressFound(peer))
        await self._links.start()
        self._spawn(blobs.tidy())
        os.environ["MESH_ADDRESS"] = f"unix:{state.socket}"  # inherited by tasks: a client in one talks to its own node
        state.publish(id=node, name=config.name, mesh=config.mesh, address=address)
        self._say_ready(address)
        self._spawn(self._measure())
        if config.mdns:
            self._spawn(self._announce(node, port))

    async def wait(self) -> int:
        return await self._driver.finished

    async def close(self) -> None:
        """In the order of dependence: what could still tell something, then those who would hear it, then the disk."""
        _notify("STOPPING=1")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._runners is not None:
            await self._runners.close(0.0)
        self._driver.stop()
        if self._blobs is not None:
            await self._blobs.close()
        if self._server is not None:
            await self._server.close()
        await self._links.close()
        if self._journal is not None:
            self._journal.close()
        # Calls of gRPC's that were cancelled now: one that the end of the loop cancels again prints a traceback.
        if calls := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(calls, timeout=LAST_CALLS)

    # What the machine says.

    def tasks_changed(self, tasks: tuple[TaskId, ...]) -> None:
        assert self._server is not None
        self._server.tasks_changed(tasks)

    def jobs_changed(self, jobs: tuple[JobId, ...]) -> None:
        assert self._server is not None
        self._server.jobs_changed(jobs)

    def leader_changed(self, effect: LeaderChanged) -> None:
        assert self._server is not None
        self._context.term = effect.claim.term
        self._server.leader_changed(effect.address)

    def _hello(self) -> Hello:
        assert self._machine is not None, "links are opened after the machine was made"
        return self._machine.hello(self._clock.now())

    # Beginnings.

    def _open_journal(self) -> None:
        state = self._state
        try:
            finish(state.journal)
            try:
                self._journal = Journal.open(state.journal)
            except JournalCorrupt as error:
                self._journal = self._begin_anew(error)
        except JournalError as error:
            raise Refused(73, error.what, error.why, error.hint) from error

    def _open_blobs(self, node: NodeId) -> NodeBlobs:
        directory = self._state.path / "blobs"
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            store = Blobs.open(directory, self._config.store or 0)
            if self._config.store is None:
                store.quota = store.claimed + int(shutil.disk_usage(directory).free * OF_FREE)
        except MeshError as error:
            raise Refused(73, error.what, error.why, error.hint) from error
        except OSError as error:
            raise Refused(73, f"cannot prepare {directory}", str(error), "is it writable, with space left?") from error
        blobs = NodeBlobs(node, store, Transfer(node, store, self._config.send_limit), self._driver)
        blobs.declare()
        return blobs

    def _read_journal(self, me: Me) -> tuple[Journal, Machine]:
        """All of it, once; where that meets damage, what is before it."""
        assert self._journal is not None
        try:
            try:
                machine = self._join(me, self._journal)
                smaller = compacted(self._state.journal, self._journal, machine.ledger)
                if smaller is not None:
                    self._journal = smaller
                    machine = self._join(me, smaller)
            except JournalCorrupt as error:
                self._journal.close()
                self._journal = self._begin_anew(error)
                machine = self._join(me, self._journal)
        except JournalError as error:
            raise Refused(73, error.what, error.why, error.hint) from error
        self._machine = machine
        return self._journal, machine

    def _join(self, me: Me, journal: Journal) -> Machine:
        return Machine(me, params.lan(), journal.records(), self._clock.now(), journal.own(), journal.cursors())

    def _begin_anew(self, error: JournalCorrupt) -> Journal:
        path = self._state.journal
        aside, records = salvage(path, time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()))
        log.warning(
            "%s: %s. It lies at %s now; %d records before the damage were kept, other members' journals have the rest",
            error.what,
            error.why,
            aside,
            records,
            extra={"event": "journal_damaged", "fields": {"why": error.why, "aside": str(aside), "kept": records}},
        )
        return Journal.open(path)

    def _bind(self, server: Server) -> int:
        host, port = self._config.host, self._config.port
        try:
            assert self._blobs is not None
            return self._links.bind(host, port, self._state.socket, (server.handlers(), self._blobs.handlers()))
        except PortInUse as error:
            raise Refused(
                98,
                f"cannot listen on {join_address(host, port)}",
                "another process listens there",
                "stop it, or choose another port with --listen HOST:PORT",
            ) from error
        except OSError as error:
            raise Refused(
                2,
                f"cannot listen on {join_address(host, port)}",
                error.strerror or str(error),
                "give an address of this machine with --listen",
            ) from error

    def _say_ready(self, address: str) -> None:
        config = self._config
        fields = {"address": address, "socket": str(self._state.socket), "mesh": config.mesh, "pid": os.getpid()}
        log.info(
            "node %s of mesh '%s' listens on %s and on %s",
            config.name,
            config.mesh,
            address,
            self._state.socket,
            extra={"event": "ready", "fields": fields},
        )
        _notify(f"READY=1\nSTATUS=listening on {address}")

    def _on_failed(self, reason: str) -> None:
        self._driver.post(JournalFailed(reason))

    # Signals.

    def _on_signal(self, number: signal.Signals) -> None:
        self._signalled += 1
        if self._signalled == 1:
            grace = self._config.grace
            log.info("%s: leaving within %g s", number.name, grace, extra={"event": "draining"})
            self._driver.post(DrainAsked(grace))
            self._loop.call_later(grace + LATE_DRAIN, self._end, 1, "not drained in time; stopping all the same")
        else:
            self._end(128 + number, f"{number.name} again: stopping at once")

    def _end(self, code: int, reason: str) -> None:
        if not self._driver.finished.done():
            log.warning("%s", reason, extra={"event": "stopping"})
            self._driver.finished.set_result(code)

    # Beside the loop.

    async def _announce(self, node: NodeId, port: int) -> None:
        """mDNS, in the background: importing it takes as long as all the rest of the start."""
        discovery = await asyncio.to_thread(_import_discovery)
        lan = discovery.Lan(
            self._config.mesh,
            self._config.host,
            on_found=lambda address, announcement: self._driver.post(AddressFound(address, announcement.node)),
            on_removed=lambda address, announcement: log.debug("%s left mDNS", announcement.node),
            on_ignored=lambda name, reason: log.info("%s: %s", name, reason, extra={"event": "mdns_ignored"}),
            on_trouble=_on_mdns_trouble,
            seeking=self._seeking,
        )
        self._driver.on_resumed = lambda: self._spawn(lan.ask())
        try:
            await lan.start()
            await lan.announce(node, self._state.life, port)
            await asyncio.Event().wait()
        finally:
            await lan.close()

    def _seeking(self) -> bool:
        """Two groups that never met can meet only if somebody in one of them asks: who leads it, or has no leader."""
        assert self._machine is not None, "it announces itself once its links are open"
        election = self._machine.election
        return election.leading or not election.heard_leader(self._clock.now())

    async def _measure(self) -> None:
        """The detectors, in a thread: some ask drivers that may take seconds."""
        config = self._config
        detect = await asyncio.to_thread(_import_detect)
        options = detect.Options(
            slots=config.slots,
            devices=config.devices,
            memory=config.memory,
            min_priority=config.min_priority,
            max_priority=config.max_priority,
            labels=config.labels,
            profile=config.profile,
        )
        detection = await asyncio.to_thread(detect.Detection.with_plugins, options)
        faults: tuple[Any, ...] = ()
        while True:
            try:
                offer = await asyncio.to_thread(detection.measure)
            except detect.NotOffered as error:
                self._fail(error)
                return
            if detection.faults != faults:
                faults = detection.faults
                for fault in faults:
                    log.warning("%s: %s", fault.detector, fault.reason, extra={"event": "detector_fault"})
            if worth_telling(self._offer, offer):
                self._offer = offer
                self._driver.post(Measured(offer))
            assert self._machine is not None
            idle = self._machine.worker.idle and len(self._machine.ledger.tasks) <= WALKED
            self._collector.tidy(idle, self._clock.now())
            await asyncio.sleep(MEASURE_EVERY)

    def _fail(self, error: MeshError) -> None:
        print(f"meshd: {error}", file=sys.stderr)
        if not self._driver.finished.done():
            self._driver.finished.set_result(2)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a part of this node stopped working", exc_info=error, extra={"event": "defect"})


def worth_telling(before: Offer | None, now: Offer) -> bool:
    """Whether an offer differs by more than the noise of free memory."""
    if before is None:
        return True
    devices = tuple(device._replace(free_memory=0) for device in now.devices)
    if before._replace(free_memory=0, devices=()) != now._replace(free_memory=0, devices=()):
        return True
    if devices != tuple(device._replace(free_memory=0) for device in before.devices):
        return True
    pairs = [(before.free_memory, now.free_memory, now.memory)]
    pairs += [(a.free_memory, b.free_memory, b.memory) for a, b in zip(before.devices, now.devices, strict=True)]
    return any(abs(a - b) > MEASURE_CHANGE * total for a, b, total in pairs)


def _on_mdns_trouble(where: str, text: str) -> None:
    if text:
        log.warning("%s", text, extra={"event": "mdns_trouble"})
    else:
        log.info("mDNS works again on %s", where, extra={"event": "mdns_works"})


def _import_discovery() -> Any:
    from mesh.lan import discovery

    return discovery


def _import_detect() -> Any:
    from mesh.shell import detect

    return detect


def _notify(text: str) -> None:
    """Tell the service manager, if one asked for it (sd_notify)."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect("\0" + path[1:] if path.startswith("@") else path)
            sock.sendall(text.encode())
    except OSError as error:
        log.warning("cannot tell NOTIFY_SOCKET %s: %s", path, error, extra={"event": "notify_failed"})
