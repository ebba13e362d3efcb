"""Starts a daemon of its own on loopback, measures processes, and publishes one JSON line per figure.

A daemon of a benchmark has a temporary state directory, a mesh name nobody else has and a free port; the caller's own
mesh is never touched. Lines go to stdout and, appended, to ``bench/results/NAME.jsonl``: raw results are kept.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from mesh import __version__

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
READY_WITHIN = 20.0
STOP_WITHIN = 10.0
POLL = 0.001  # seconds; start-up is measured in milliseconds


class Daemon(NamedTuple):
    process: subprocess.Popen[bytes]
    state: Path
    env: dict[str, str]  # for meshctl
    started: float  # perf_counter just before the process was made
    mesh: str = ""

    @property
    def address(self) -> str:
        return str(json.loads((self.state / "meshd.json").read_text(encoding="utf-8"))["address"])

    @property
    def target(self) -> str:
        """What a local client uses: the Unix socket."""
        return f"unix:{json.loads((self.state / 'meshd.json').read_text(encoding='utf-8'))['socket']}"


@contextlib.contextmanager
def daemon(
    *arguments: str,
    mdns: bool = False,
    mesh_of: Daemon | None = None,
    prepare: Callable[[Path], None] = lambda state: None,
    within: float = READY_WITHIN,
) -> Iterator[Daemon]:
    """A meshd that has written its ``meshd.json``; stopped, with all it started, at the end.

    ``mesh_of``: one of whose mesh it is to be a member; else it has a mesh name that nobody else has. ``prepare`` is
    called before it starts, with the path of its state directory, which does not exist yet.
    """
    with tempfile.TemporaryDirectory(prefix="mesh-bench-", ignore_cleanup_errors=True) as directory:
        home = Path(directory)
        env = {key: value for key, value in os.environ.items() if not key.startswith("MESH_")}
        (home / "run").mkdir(mode=0o700)
        env |= {"XDG_RUNTIME_DIR": str(home / "run"), "XDG_CONFIG_HOME": str(home), "XDG_STATE_HOME": str(home)}
        state, log = home / "state", home / "log"
        mesh = f"bench-{secrets.token_hex(4)}" if mesh_of is None else mesh_of.mesh
        command = [program("meshd"), "--mesh", mesh, "--state-dir", str(state)]
        command += ["--listen", "127.0.0.1:0", "--grace", "1", *([] if mdns else ["--no-mdns"]), *arguments]
        prepare(state)
        with log.open("wb") as out:
            started = time.perf_counter()
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, cwd=ROOT)
        try:
            wait_for((state / "meshd.json").exists, process, log, within)
            it = Daemon(process, state, env, started, mesh)
            env["MESH_ADDRESS"] = it.address
            yield it
        finally:
            process.terminate()
            try:
                process.wait(STOP_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(
    condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, within: float = READY_WITHIN
) -> None:
    deadline = time.monotonic() + within
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            text = log.read_text(encoding="utf-8", errors="replace")
            raise RuntimeError(f"meshd did not start (exit code {process.poll()}):\n{text[-2000:]}")
        time.sleep(POLL)


def program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def meshctl(env: dict[str, str], *arguments: str, within: float = 300.0) -> Any:
    """The last document that the command prints."""
    command = [program("meshctl"), "-o", "json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=within, check=False)
    if done.returncode:
        raise RuntimeError(f"meshctl {arguments[0]} exited with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def tree(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def memory(pid: int) -> int:
    """Bytes of a process and its descendants: proportional set size; where there is none (macOS) resident size."""
    total = 0
    for process in tree(pid):
        rollup = Path(f"/proc/{process.pid}/smaps_rollup")
        if rollup.exists():
            line = next(line for line in rollup.read_text().splitlines() if line.startswith("Pss:"))
            total += int(line.split()[1]) * 1024
        else:
            total += process.memory_info().rss
    return total


def cpu_seconds(pid: int) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in tree(pid))


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(values: list[float]) -> float:
    return statistics.median(values)


def publish(bench: str, figures: dict[str, Any]) -> None:
    """Print one line and keep it. Figures are in the units their names say."""
    line = json.dumps({"bench": bench, **figures, **machine()})
    print(line, flush=True)
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{bench}.jsonl").open("a", encoding="utf-8") as out:
        out.write(line + "\n")


def machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "version": __version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
