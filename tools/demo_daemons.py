"""What the demos share: daemons of their own on this machine, met by mDNS, asked by ``meshctl`` and always stopped.

Owns processes and how they end; must not know what a demo shows.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

import psutil
from rich import box
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("node-a", "node-b", "node-c")
MEET_WITHIN = 30.0  # seconds; mDNS needs 1.2, most of it the probing that its standard asks for
STOP_WITHIN = 6.0  # after that SIGKILL: the daemons were given two seconds for what they run


class DemoFailed(Exception):
    """What went wrong, for the last line on stderr."""


class Stopped(BaseException):
    """A signal asked for the end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Interrupts:
    """Ctrl-C, SIGTERM and a closed terminal become one :class:`Stopped`, so that one ``finally`` stops the daemons."""

    def __init__(self) -> None:
        self._holding, self._number = False, 0
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(each, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # Once: what stops the daemons is bounded, and an impatient second Ctrl-C must not leave one behind.
        if not self._number:
            self._number = number
            if not self._holding:
                raise Stopped(number)

    def ignore(self) -> None:
        """From here on nothing interrupts: what is left to do is bounded."""
        self._number = -1

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Nothing interrupts between starting a process and knowing its pid."""
        self._holding = True
        yield
        self._holding = False
        if self._number:
            raise Stopped(self._number)


class Node:
    """One daemon, with all it writes under ``home``."""

    def __init__(self, name: str, home: Path, mesh: str, env: dict[str, str]) -> None:
        self.name, self.state, self.log = name, home / name, home / f"{name}.log"
        self.killed = False
        arguments = ["--mesh", mesh, "--name", name, "--state-dir", str(self.state), "--slots", "1", "--grace", "2"]
        # In its own process group: Ctrl-C reaches the demo alone, which then stops the daemons in order.
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [program("meshd"), *arguments, "--listen", "127.0.0.1:0"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                cwd=ROOT,
                process_group=0,
            )

    def address(self) -> str:
        """Where it listens; empty while it has not said so."""
        try:
            return str(json.loads((self.state / "meshd.json").read_text(encoding="utf-8"))["address"])
        except FileNotFoundError:
            return ""

    def check(self) -> None:
        if not self.killed and (code := self.process.poll()) is not None:
            raise DemoFailed(f"{self.name} exited with {code}; see its log above")

    def kill(self) -> None:
        """SIGKILL to it and to all that it runs, as if the machine had lost its power."""
        self.killed = True
        running = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        for each in running:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        self.process.wait()
        psutil.wait_procs(running, timeout=STOP_WITHIN)

    def last_lines(self, count: int = 15) -> str:
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-count:])


# Fills the list of nodes as daemons start, for whoever has to stop them; returns what the last line of output says.
Run: TypeAlias = Callable[[Console, Path, list[Node], Interrupts], dict[str, Any]]


def program(name: str) -> str:
    """The command of the environment this runs in, whatever PATH says."""
    return str(Path(sys.executable).with_name(name))


def clean_environment(home: Path) -> dict[str, str]:
    """The caller's own mesh, its variables, its configuration file and its daemons stay out of this."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("MESH_")}
    run = home / "run"
    run.mkdir(mode=0o700)
    return env | {"XDG_RUNTIME_DIR": str(run), "XDG_CONFIG_HOME": str(home), "XDG_STATE_HOME": str(home)}


def meshctl(
    env: dict[str, str],
    *arguments: str,
    within: float = 20.0,
    accept: tuple[int, ...] = (0,),
    watched: Sequence[Node] = (),
    quiet: bool = False,
) -> Any:
    """Run a command with ``-o json``: the last document it printed, None where it exited with another accepted code.

    What it writes to stderr, progress too, is shown unless ``quiet``. It is stopped when one of the ``watched`` ends.
    """
    command = [program("meshctl"), "-o", "json", *arguments]
    stderr = subprocess.DEVNULL if quiet else None
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, env=env, cwd=ROOT) as process:
        try:
            output = output_of(process, within, watched)
        except BaseException:
            process.kill()
            raise
    if process.returncode not in accept:
        raise DemoFailed(f"`meshctl {' '.join(arguments)}` exited with {process.returncode}")
    return json.loads(output.splitlines()[-1]) if process.returncode == 0 else None


def output_of(process: subprocess.Popen[bytes], within: float, watched: Sequence[Node]) -> bytes:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            return process.communicate(timeout=0.2)[0]
        except subprocess.TimeoutExpired:
            for node in watched:
                node.check()
    raise DemoFailed(f"meshctl did not end within {within:.0f} s")


def start_mesh(
    console: Console, home: Path, nodes: list[Node], interrupts: Interrupts
) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Three daemons that have met: the environment of commands that ask them, and the members as they see them."""
    started = time.monotonic()
    mesh, env = f"demo-{secrets.token_hex(4)}", clean_environment(home)
    console.print(f"[bold]1.[/] three daemons, one mesh [cyan]{mesh}[/], found by mDNS on loopback")
    with interrupts.held():
        nodes.extend(Node(name, home, mesh, env) for name in NAMES)
    peers = wait_until_met(nodes, env)
    console.print(f"   met after {time.monotonic() - started:.1f} s\n")
    show_peers(console, peers)
    return env, peers


def wait_until_met(nodes: list[Node], env: dict[str, str]) -> list[dict[str, Any]]:
    """All nodes alive and one of them leading, as each of them sees it: the members."""
    deadline = time.monotonic() + MEET_WITHIN
    while time.monotonic() < deadline:
        leaders = set()
        for node in nodes:
            node.check()
            members = alive_members(node, env)
            leading = [peer["id"] for peer in members if peer["leader"]]
            if len(members) < len(nodes) or len(leading) != 1:
                break
            leaders.add(leading[0])
        else:
            if len(leaders) == 1:
                return members
        time.sleep(0.1)
    raise DemoFailed(f"the daemons did not form one mesh within {MEET_WITHIN:.0f} s; is multicast off on this machine?")


def alive_members(node: Node, env: dict[str, str]) -> list[dict[str, Any]]:
    """As this node sees them; none while it does not answer yet (69) or nobody leads yet (75)."""
    if not (address := node.address()):
        return []
    peers = meshctl(env | {"MESH_ADDRESS": address}, "peers", accept=(0, 69, 75), quiet=True)
    return [peer for peer in peers or [] if peer["state"] == "alive"]


def show_peers(console: Console, peers: list[dict[str, Any]]) -> None:
    table = Table("node", "id", "address", "slots", "", title="meshctl peers", title_justify="left", box=box.SIMPLE)
    for peer in sorted(peers, key=lambda peer: peer["id"]):
        mark = "[bold green]leader[/]" if peer["leader"] else ""
        table.add_row(peer["name"], peer["id"], peer["address"], str(peer["slots"]), mark)
    console.print(table)


def stop(nodes: list[Node]) -> None:
    """SIGTERM to all, then SIGKILL to whoever is left; by pid, and only what was started here."""
    for node in nodes:
        if node.process.poll() is None:
            node.process.terminate()
    deadline = time.monotonic() + STOP_WITHIN
    for node in nodes:
        try:
            node.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            node.process.kill()
            node.process.wait()


def show_logs(nodes: list[Node]) -> None:
    for node in nodes:
        print(f"--- the end of {node.name}'s log\n{node.last_lines()}", file=sys.stderr)


def play(run: Run) -> int:
    """A demo from beginning to end: its exit code, after the JSON line of what ``run`` returned."""
    console = Console(highlight=False)
    interrupts = Interrupts()
    nodes: list[Node] = []
    with tempfile.TemporaryDirectory(prefix="mesh-demo-", ignore_cleanup_errors=True) as home:
        try:
            result = run(console, Path(home), nodes, interrupts)
            stop(nodes)
            codes = {node.name: node.process.returncode for node in nodes if not node.killed}
            if any(codes.values()):
                raise DemoFailed(f"not every daemon drained and exited with 0: {codes}")
        except Stopped as stopped:
            print(f"demo: stopped by {stopped}", file=sys.stderr)
            return 128 + stopped.number
        except DemoFailed as error:
            show_logs(nodes)
            print(f"demo: {error}", file=sys.stderr)
            return 1
        except Exception:
            show_logs(nodes)
            raise
        finally:
            interrupts.ignore()
            stop(nodes)
    print(json.dumps(result))
    return 0
