"""Machines to break: a network, a daemon on each host, a small disk and a clock of its own, and faults by name.

    with lab(5, mesh) as net:
        net.up()
        net.isolate("a")
        net.kill("b")
        ...
        net.calm()

What a fault of the network does stands in :mod:`tests.netlab.network`, of a disk in :mod:`tests.netlab.disks`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from tests.e2e.mesh import PATIENCE, Daemon, Mesh, until
from tests.netlab import disks, network
from tests.netlab.disks import Disk
from tests.netlab.network import Network

COMMANDS = {"ip": "iproute2", "tc": "iproute2", "iptables-restore": "iptables", "setpriv": "util-linux"}
FAKETIME = "faketime/libfaketimeMT.so.1"


class NoLab(Exception):
    """Why there can be none on this machine."""


@lru_cache(maxsize=1)
def why_no_lab() -> str:
    """What is missing here and how to get it; empty where nothing is."""
    if not sys.platform.startswith("linux"):
        return "network namespaces need Linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = {package for name, package in COMMANDS.items() if shutil.which(name) is None}
    if faketime() is None:
        missing.add("libfaketime")
    if missing:
        return f"not installed: {' '.join(sorted(missing))} (apt install {' '.join(sorted(missing))})"
    return network.why_not()


def faketime() -> Path | None:
    return next(iter(sorted(Path("/usr/lib").glob(f"*/{FAKETIME}"))), None)


class Lab(Network):
    """Daemons by the name of their host. None is running until :meth:`start` or :meth:`up`."""

    def __init__(self, count: int, mesh: Mesh | None, disk: str, mebibytes: int, clocks: bool) -> None:
        super().__init__(count)
        self._mesh, self._clocks = mesh, clocks
        self.daemons: dict[str, Daemon] = {}
        self.disks: dict[str, Disk] = {}
        self.paused: set[str] = set()
        self.down: set[str] = set()  # whose daemon was stopped, and not started again
        try:
            for name in self.hosts if disk else ():
                self.disks[name] = Disk(self.mesh.directory / f"disk-{name}", disk, mebibytes)
        except BaseException:
            self.close()
            raise

    @property
    def mesh(self) -> Mesh:
        assert self._mesh is not None, "this lab is a network without daemons: lab(count, mesh)"
        return self._mesh

    # Daemons.

    def start(self, *names: str, slots: int = 2, flags: Sequence[str] = ()) -> list[Daemon]:
        """One on each of these hosts, or on every host; found by mDNS alone."""
        started = []
        for name in "".join(names) or "".join(self.hosts):
            host, state = self.hosts[name], self.disks[name].state if name in self.disks else None
            self.daemons[name] = self.mesh.start(
                name, "--listen", host.address, "--insecure", *flags,
                mdns=True, slots=slots, state=state, before=host.before, env=self._clock_of(name),
            )  # fmt: skip
            started.append(self.daemons[name])
        return started

    def up(self, slots: int = 2, flags: Sequence[str] = ()) -> list[Daemon]:
        """All of them, met, and led by ``a``."""
        (first,) = self.start("a", slots=slots, flags=["--rank", "10", *flags])
        first.ready()  # or the others have met before it is there, and it leads only after 10 s
        others = self.start(*[name for name in self.hosts if name != "a"], slots=slots, flags=flags)
        self.mesh.met(first, *others, leader=first)
        return [first, *others]

    def settled(self, within: float = PATIENCE) -> Daemon:
        """Until all follow one of them and it hears all: the leader. (Beyond it and its successors, nodes need not hear
        one another.)"""

        def led() -> Daemon | None:
            said = {daemon.id: (daemon, daemon.status()) for daemon in self.daemons.values()}
            leaders = {status["leader"] for _, status in said.values()}
            leading = said.get(leaders.pop()) if len(leaders) == 1 else None
            return leading[0] if leading is not None and leading[1]["alive"] == len(said) else None

        found = until(led, within, "all follow one leader that hears all")
        assert found is not None
        return found

    # Faults of processes.

    def kill(self, *names: str) -> None:
        """SIGKILL to meshd. The host answers that nobody listens there."""
        for name in "".join(names):
            self.daemons[name].kill()
            self.paused.discard(name)
            self.down.add(name)

    def power_off(self, *names: str) -> None:
        """The whole machine: nobody answers any more, not even to say so."""
        self.unplug(*names)
        self.kill(*names)

    def drain(self, name: str) -> int:
        """SIGTERM, and its exit code."""
        self.terminate(name)
        return self.ended(name)

    def terminate(self, name: str) -> None:
        self.daemons[name].terminate()
        self.down.add(name)

    def ended(self, name: str, within: float = 45.0) -> int:
        """Its exit code; the kill's where it does not end by itself. (The default grace is 30 s and 5 s more.)"""
        try:
            return self.daemons[name].ends(within)
        except subprocess.TimeoutExpired:
            self.kill(name)
            return -signal.SIGKILL

    def restart(self, *names: str) -> None:
        """Start again, on what is on its disk, what was killed, drained or powered off."""
        for name in "".join(names):
            self.plug(name)
            self.daemons[name].start()
            self.down.discard(name)

    def pause(self, name: str, whole: bool = False) -> None:
        """SIGSTOP to meshd alone, or to every process of its host."""
        pids = self._pids(name) if whole else [self.daemons[name].process.pid]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        self.paused.add(name)

    def resume(self, *names: str) -> None:
        for name in "".join(names):
            for pid in self._pids(name):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            self.paused.discard(name)

    def exited(self) -> dict[str, int]:
        """The exit codes of daemons that ended though nobody stopped them."""
        codes = {name: daemon.process.poll() for name, daemon in self.daemons.items() if name not in self.down}
        return {name: code for name, code in codes.items() if code is not None}

    def running(self) -> dict[str, int]:
        """The process of every daemon that nobody stopped."""
        return {name: daemon.process.pid for name, daemon in list(self.daemons.items()) if name not in self.down}

    def _pids(self, name: str) -> list[int]:
        return self.daemons[name].pids()

    # Clocks.

    def skew(self, name: str, seconds: float) -> None:
        """The host's wall clock is off by this much within 1 s, now or once its daemon starts; nothing else is."""
        assert self._clocks, "this lab's hosts have the machine's clock: lab(count, mesh, clocks=True)"
        draft = self._clock(name).with_suffix(".draft")
        draft.write_text(f"{seconds:+g}s\n")
        draft.rename(self._clock(name))

    def _clock(self, name: str) -> Path:
        return self.mesh.directory / f"clock-{name}"

    def _clock_of(self, name: str) -> dict[str, str]:
        if not self._clocks:
            return {}
        if not self._clock(name).exists():
            self.skew(name, 0)
        return {
            "LD_PRELOAD": str(faketime()),
            "FAKETIME_TIMESTAMP_FILE": str(self._clock(name)),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DISABLE_SHM": "1",  # it would be shared by processes that this lab must not touch
        }

    # The end of all faults.

    def calm(self) -> None:
        """Healed, resumed, emptied, and every daemon that was stopped starts again."""
        self.heal()
        for disk in self.disks.values():
            disk.go_on()
            disk.empty()
        self.resume(*self.paused)
        self.restart(*sorted(self.down))

    def close(self) -> None:
        for disk in self.disks.values():
            disk.go_on()  # or those who wait for it outlive their own SIGKILL
        super().close()
        for daemon in self.daemons.values():
            daemon.ends()
        for disk in self.disks.values():
            disk.close()


@contextmanager
def lab(
    hosts: int, mesh: Mesh | None = None, *, disk: str = "", mebibytes: int = 64, clocks: bool = False
) -> Iterator[Lab]:
    """``disk``: each host has a small one (``tmpfs`` or ``ext4``) for its state. ``clocks``: each has its own.

    Raises NoLab with the reason where this machine has none to give.
    """
    if why := why_no_lab():
        raise NoLab(why)
    network.sweep()
    disks.sweep()
    made = Lab(hosts, mesh, disk, mebibytes, clocks)
    try:
        yield made
    finally:
        made.close()
