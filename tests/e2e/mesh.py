"""A mesh of real daemons for one test: started, asked, killed and cleaned up, each wait bounded.

Every process that it starts carries ``MARK`` in its environment, as do all that descend from one, so what is left at
the end is found whatever it did to its parents, and is killed by its pid. Nothing of the caller's own mesh is touched.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc
import psutil

from mesh.client.sync import MeshClient
from mesh.core.errors import NoLeader, NoMeshFound
from mesh.v1 import client_pb2 as pb
from mesh.v1.client_pb2_grpc import ClientStub

T = TypeVar("T")

PATIENCE = 20.0  # seconds: a loaded machine is slow, a defect is for ever
MARK = "MESHTEST_OF"  # no MESH_ variable, or runners would take it away
BIN = Path(sys.executable).parent


def until(true: Callable[[], T], within: float = PATIENCE, what: str = "") -> T:
    """Ask every 50 ms until the answer is true, and return it."""
    end = time.monotonic() + within
    while not (found := true()):
        if time.monotonic() >= end:
            raise AssertionError(f"not within {within:g} s: {what or true.__name__}; last answer {found!r}")
        time.sleep(0.05)
    return found


def alive(pid: int) -> bool:
    """Whether it runs: a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def one_leader(daemons: Sequence[Daemon]) -> Daemon | None:
    """The one of these that all of these follow, if all and only these are alive to each other."""
    seen = {(status["leader"], status["alive"]) for status in (daemon.status() for daemon in daemons)}
    return next((daemon for daemon in daemons if seen == {(daemon.id, len(daemons))}), None)


class Daemon:
    """One meshd: this life of it, and what it leaves behind."""

    def __init__(self, mesh: Mesh, name: str, state: Path, command: Sequence[str], env: dict[str, str]) -> None:
        self.mesh, self.name, self.state = mesh, name, state
        self.log = mesh.directory / f"{name}-{secrets.token_hex(2)}.log"
        self.command, self.env = list(command), env
        self._ready: dict[str, Any] | None = None
        self.process: subprocess.Popen[bytes]
        self.start()

    def start(self) -> Daemon:
        """Also: start it again on its directory."""
        self._ready = None
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env, cwd=self.mesh.directory
            )
        return self

    # What it says of itself.

    def ready(self) -> dict[str, Any]:
        """``meshd.json``, once this life of it has written it."""

        # A command in front (a namespace) has another pid than meshd itself.
        if self._ready is not None:
            return self._ready

        def written() -> dict[str, Any] | None:
            code = self.process.poll()
            assert code is None, f"{self.name} ended with {code} instead of becoming ready"
            try:
                found: dict[str, Any] = json.loads((self.state / "meshd.json").read_text())
            except (FileNotFoundError, json.JSONDecodeError):  # empty: of a life whose disk lost what was not synced
                return None
            return found if found["pid"] in self.pids() else None  # else: of a life that was killed

        self._ready = until(written, what=f"{self.name} is ready")
        assert self._ready is not None
        return self._ready

    def pids(self) -> list[int]:
        """The process that was started, and all below it."""
        try:
            process = psutil.Process(self.process.pid)
            return [process.pid, *(child.pid for child in process.children(recursive=True))]
        except psutil.NoSuchProcess:
            return []

    @property
    def id(self) -> str:
        return str(self.ready()["id"])

    @property
    def address(self) -> str:
        return str(self.ready()["address"])

    @property
    def socket(self) -> str:
        return f"unix:{self.ready()['socket']}"

    def status(self) -> dict[str, Any]:
        """Its own standing, as it sees it: no other node is asked."""
        with grpc.insecure_channel(self.socket) as channel:
            answer = ClientStub(channel).Status(pb.Nothing(), timeout=PATIENCE, wait_for_ready=True)
        return json.loads(answer.json)  # type: ignore[no-any-return]

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    # How it ends.

    def ends(self, within: float = PATIENCE) -> int:
        """Its exit code."""
        return self.process.wait(within)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def stop(self, within: float = PATIENCE) -> int:
        self.terminate()
        return self.ends(within)

    def kill(self) -> None:
        """SIGKILL, to meshd alone."""
        self.process.kill()
        self.process.wait()


class Mesh:
    """All daemons of one test, of one mesh name that nobody else has unless a test says otherwise."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.name = f"e2e-{secrets.token_hex(4)}"
        self.mark = secrets.token_hex(8)
        self.daemons: list[Daemon] = []
        self._clients: dict[str, MeshClient] = {}
        self._begun: list[subprocess.Popen[str]] = []
        run = directory / "run"
        run.mkdir(mode=0o700)
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("MESH_", "XDG_"))}
        home = str(directory)
        self.env = kept | {
            "XDG_RUNTIME_DIR": str(run), "XDG_CONFIG_HOME": home, "XDG_STATE_HOME": home, "HOME": home, MARK: self.mark,
        }  # fmt: skip

    # Daemons.

    def start(
        self,
        name: str,
        *flags: str,
        peers: Sequence[Daemon] = (),
        mdns: bool = False,
        slots: int = 1,
        mesh: str = "",
        state: Path | None = None,
        before: Sequence[str] = (),
        env: dict[str, str] | None = None,
    ) -> Daemon:
        """``peers``: dialled at start. ``before``: a command that runs meshd, as ``ip netns exec`` does."""
        state = state or self.directory / name
        command = [
            *before, str(BIN / "meshd"), "--mesh", mesh or self.name, "--name", name, "--state-dir", str(state),
            "--slots", str(slots), *([] if mdns else ["--no-mdns"]), *flags,
        ]  # fmt: skip
        for peer in peers:
            command += ["--peer", peer.address]
        self.daemons.append(Daemon(self, name, state, command, self.env | (env or {})))
        return self.daemons[-1]

    def start_all(self, *names: str, slots: int = 1, flags: Sequence[str] = ()) -> list[Daemon]:
        """One mesh of these, led by the first (its rank is lower), and met."""
        first = self.start(names[0], "--rank", "10", *flags, slots=slots)
        found = [first, *(self.start(name, *flags, peers=[first], slots=slots) for name in names[1:])]
        self.met(*found, leader=first)
        return found

    def met(self, *daemons: Daemon, leader: Daemon | None = None, within: float = PATIENCE) -> Daemon:
        """Until all of them follow the same one of them, and it has a bid of each that works: the leader."""
        ids = {daemon.id for daemon in daemons}

        def one_group() -> Daemon | None:
            leading = one_leader(daemons)
            if leading is None or leader not in (None, leading):
                return None
            peers = [peer for peer in self.peers(leading) if peer["state"] == "alive"]
            bidding = all(peer["bid"] is not None for peer in peers if peer["role"] in ("auto", "worker"))
            return leading if {peer["id"] for peer in peers} == ids and bidding else None

        found = until(one_group, within, f"{[daemon.name for daemon in daemons]} are one group")
        assert found is not None
        return found

    def met_among(self, daemons: Sequence[Daemon], within: float = PATIENCE) -> Daemon:
        """Until these follow the same one of themselves, whoever else they know."""
        found = until(lambda: one_leader(daemons), within, f"{[daemon.name for daemon in daemons]} have a leader")
        assert found is not None
        return found

    def copied(self, leader: Daemon, copies: int) -> None:
        """Until that many successors hold all it recorded: a grant that is on no copy yet may be made again."""

        def level() -> bool:
            found = [peer["copy"] for peer in self.peers(leader) if peer["copy"] is not None]
            return len(found) == copies and all(copy["counts"] and copy["records"] == copy["of"] for copy in found)

        until(level, what=f"{copies} successors hold all that {leader.name} recorded")

    def peers(self, daemon: Daemon) -> list[dict[str, Any]]:
        """What ``meshctl peers`` shows through this daemon; nothing while nobody leads."""
        try:
            return self.client(daemon).peers()
        except (NoLeader, NoMeshFound):
            return []

    # Asking.

    def client(self, daemon: Daemon) -> MeshClient:
        """An SDK client at this daemon's socket, for waiting: cheaper than a process for every look."""
        found = self._clients.get(daemon.socket)
        if found is None:
            found = self._clients[daemon.socket] = MeshClient(daemon.socket, patience=PATIENCE)
        return found

    def tasks(self, job: str, at: Daemon) -> list[dict[str, Any]]:
        return self.client(at).job(job).tasks()

    def until_state(self, job: str, *states: str, at: Daemon, within: float = PATIENCE) -> dict[str, Any]:
        """The job, once it is in one of these states."""

        def reached() -> dict[str, Any] | None:
            found = self.client(at).job(job).status()
            return found if found["state"] in states else None

        found = until(reached, within, f"job {job} is {' or '.join(states)}")
        assert found is not None
        return found

    def run(
        self, *arguments: str, at: Daemon | None = None, within: float = PATIENCE, json_too: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """``meshctl`` as a user runs it."""
        env = self.env | ({"MESH_ADDRESS": at.socket} if at is not None else {})
        output = ["-o", "json"] if json_too else []
        return subprocess.run(
            [str(BIN / "meshctl"), *output, *arguments], capture_output=True, text=True, env=env, cwd=self.directory,
            timeout=within, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def ctl(self, *arguments: str, at: Daemon | None = None, code: int = 0, within: float = PATIENCE) -> Any:
        """The last document that ``meshctl -o json`` prints; its exit code must be ``code``."""
        done = self.run(*arguments, at=at, within=within)
        assert done.returncode == code, f"meshctl {arguments} exited with {done.returncode}: {done.stdout}{done.stderr}"
        return json.loads(done.stdout.splitlines()[-1]) if done.stdout else None

    def begin(self, *arguments: str, at: Daemon) -> subprocess.Popen[str]:
        """``meshctl`` in the background; killed at the end of the test if it still runs."""
        self._begun.append(
            subprocess.Popen(
                [str(BIN / "meshctl"), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                env=self.env | {"MESH_ADDRESS": at.socket}, cwd=self.directory, stdin=subprocess.DEVNULL,
            )
        )  # fmt: skip
        return self._begun[-1]

    # The end.

    def survivors(self) -> dict[int, str]:
        """Every process with this mesh's mark that runs, whoever its parent is by now: pid -> command line."""
        found = {}
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found[process.pid] = " ".join(process.cmdline())
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def logs(self) -> Iterator[tuple[str, str]]:
        for daemon in self.daemons:
            yield daemon.name, daemon.said()

    def close(self) -> None:
        for client in self._clients.values():
            client.close(flush=False)
        for process in (*self._begun, *(daemon.process for daemon in self.daemons)):
            process.kill()
            process.wait()
        for process in self._begun:
            process.communicate()  # closes its pipes
        end = time.monotonic() + 10
        while (left := self.survivors()) and time.monotonic() < end:
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue


@contextmanager
def mesh_of(directory: Path) -> Iterator[Mesh]:
    mesh = Mesh(directory)
    try:
        yield mesh
    finally:
        mesh.close()
