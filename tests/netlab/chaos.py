"""``make chaos``: real daemons, real clients, random faults, and then the proof that nothing was lost or doubled.

    python -m tests.netlab.chaos --hosts 5 --tasks 2000 --faults 60 --seed 1

Its last line is one JSON object with the counts. It exits with 0 where every promise was kept; with 1 where one was
broken, and says which, for which task, and where the logs and journals are kept; with 2 where there is no lab; with 75
where this machine was too busy for a verdict on something: repeat it on a quieter one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mesh.core.errors import MeshError
from tests.e2e.mesh import Daemon, mesh_of, until
from tests.netlab import books
from tests.netlab.disks import EXT4, TMPFS, can_break
from tests.netlab.injector import Injector
from tests.netlab.lab import Lab, NoLab, lab
from tests.netlab.network import can_delay
from tests.netlab.plan import NEED_EXT4, plan
from tests.netlab.starvation import Waits, Watch
from tests.netlab.timeline import Timeline
from tests.netlab.verdict import Evidence, verdict

ROOT = Path(__file__).resolve().parents[2]
SLOTS = 2
GRACE = 5  # seconds that a drained daemon's tasks have: some take longer, and are released
MEET, FINISH = 90.0, 180.0  # seconds from calm until all are one group; until every client has its answers
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
UNJUDGED = 75  # exit code
NO_ROOM = 73  # meshd's exit code where its state directory cannot be written
MAY_FAIL = 0.1  # of the tasks: where a disk is full or read-only, they do
SHOWN = 12  # sentences for each broken promise


class Chaos(NamedTuple):
    hosts: int
    tasks: int
    faults: int
    seed: int
    within: float = 0.0  # seconds for the clients to submit; 0: for as long as there are faults


class Run:
    """One run, in a directory of its own. ``say`` is told what happens, one line each."""

    def __init__(self, chaos: Chaos, directory: Path, say: Callable[[str], None]) -> None:
        self.chaos, self.directory = chaos, directory
        self.began = time.monotonic()
        self._say = say
        self.timeline = Timeline()
        self.waits = Waits()
        self.unjudged = False
        self.attempts = directory / "attempts"
        self.records = directory / "clients"
        self.clients: dict[str, subprocess.Popen[bytes]] = {}
        self.broken: dict[str, list[str]] = {}  # found on the way, before the books are read

    def say(self, text: str) -> None:
        self._say(f"{time.monotonic() - self.began:6.1f} s  {text}")

    def run(self) -> tuple[dict[str, Any], dict[str, list[str]]]:
        """The counts, and what is wrong by the name of each broken promise. Raises NoLab."""
        self.attempts.mkdir()
        self.records.mkdir()
        disk = EXT4 if can_break(self.directory) else TMPFS
        if disk == TMPFS:
            self.say("no loop devices with ext4 here: no disk gets stuck or turns read-only")
        with mesh_of(self.directory) as mesh, lab(self.chaos.hosts, mesh, disk=disk, clocks=True) as net:
            watch = Watch(self.waits, net.running)
            watch.start()
            try:
                told = self.disturb(net)
                asked, hosts = self.ask(net)
            finally:
                watch.stop()
                for client in self.clients.values():
                    client.kill()
                    client.wait()
            net.kill(*net.daemons)  # all at once: what was promised is on their disks
            ledgers = self.journals(net)
            self.logs(net)
        self.timeline.write(self.directory / "faults.jsonl")
        self.waits.write(self.directory / "waits.jsonl")
        (self.directory / "asked.json").write_text(json.dumps({"hosts": hosts, "tasks": list(asked.values())}))
        done = books.attempts(self.attempts)
        whole = books.joined(list(ledgers.values()))
        counts, broken, starved = verdict(Evidence(told, done, asked, ledgers, whole, hosts, self.timeline, self.waits))
        for sentence in starved[:SHOWN]:
            self.say(f"not judged, for this machine was too busy: {sentence}")
        self.unjudged = bool(starved)
        if counts["failed"] > counts["acknowledged"] * MAY_FAIL:
            self.broken["worked"] = [f"{counts['failed']} tasks failed: of work that is not done nothing can be lost"]
        return counts, {**broken, **self.broken}

    # What happens.

    def disturb(self, net: Lab) -> books.Told:
        names = "".join(net.hosts)
        daemons = net.start(slots=SLOTS, flags=["--grace", str(GRACE)])
        net.settled()
        without = NEED_EXT4 if net.disks["a"].kind == TMPFS else frozenset()
        faults = plan(self.chaos.seed, self.chaos.faults, names, without)
        span = self.chaos.within or max(10.0, max((fault.at + fault.seconds for fault in faults), default=0.0))
        self.say(f"{len(daemons)} daemons are one group; {len(faults)} faults over {span:.0f} s")
        self.submit(net, span)
        Injector(net, self.timeline, self.say).run(faults, lambda: self.look(net))
        net.calm()
        self.say("calm: healed, and every daemon is back")
        calm = time.monotonic()
        try:
            leader = net.settled(MEET)
            self.say(f"one group, led by {leader.name}, {time.monotonic() - calm:.1f} s after the calm")
        except AssertionError as error:
            self.broken["settled"] = [str(error)]
        end = calm + FINISH
        while (left := self.look(net)) and time.monotonic() < end:
            time.sleep(0.1)
        if left:
            self.broken["answered"] = [f"clients {', '.join(left)} had no answer {FINISH:.0f} s after the calm"]
        self.say(f"the clients have ended, {time.monotonic() - calm:.1f} s after the calm")
        return books.told(sorted(self.records.glob("*.jsonl")))

    def submit(self, net: Lab, span: float) -> None:
        """A client on each of up to four hosts calls functions, one more submits files with meshctl."""
        names = list(net.hosts)
        kinds = [f"functions-{name}" for name in names[:4]] + [f"sweeps-{names[-1]}"]
        share, rest = divmod(self.chaos.tasks, len(kinds))
        for number, client in enumerate(kinds):
            kind, home = client.split("-")
            # Every other one talks over the network to the daemon next door: then its calls meet the faults, too.
            there = names[(names.index(home) + number % 2) % len(names)]
            daemon = net.daemons[there]
            address = daemon.socket if there == home else f"{net.hosts[there].address}:7433"
            with (self.records / f"{client}.log").open("wb") as log:
                self.clients[client] = subprocess.Popen(
                    [
                        *net.hosts[home].before, sys.executable, "-m", "tests.netlab.load", kind,
                        "--address", address, "--tasks", str(share + (number < rest)),
                        "--seed", f"{self.chaos.seed} {client}", "--record", str(self.records / f"{client}.jsonl"),
                        "--attempts", str(self.attempts), "--span", str(span), "--within", str(span * 3 + FINISH),
                    ],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT,
                    env=net.mesh.env | {"PYTHONPATH": str(ROOT)},
                )  # fmt: skip

    def look(self, net: Lab) -> list[str]:
        """The clients that still run. A daemon that ended by itself is started again, as a service manager would.

        Raises AssertionError where a client failed.
        """
        for name, code in net.exited().items():
            self.say(f"{name} ended by itself with {code}")
            if code == NO_ROOM and net.disks[name].ballast.exists():  # as documented: it starts once there is room
                net.down.add(name)
                continue
            last = net.daemons[name].said().splitlines()[-1]
            self.broken.setdefault("exits", []).append(f"{name} ended by itself with {code}: {last}")
            span = self.timeline.begin("ended by itself", dead=name)
            net.restart(name)
            self.timeline.end(span)
        for client, process in self.clients.items():
            if process.poll():
                raise AssertionError(f"client {client} failed: {(self.records / f'{client}.log').read_text()}")
        return [client for client, process in self.clients.items() if process.poll() is None]

    # What is left of it.

    def ask(self, net: Lab) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        """Every task as ``meshctl tasks`` shows it, and which host is which node."""
        daemons = [net.daemons[name] for name in net.hosts]

        def tasks(at: Daemon) -> dict[str, dict[str, Any]]:
            return {task["id"]: task for task in net.mesh.ctl("tasks", at=at, within=60)}

        def all_ended() -> bool:
            counted = [job["tasks"] for job in net.mesh.client(daemons[0]).jobs()]
            return not any(tasks["pending"] or tasks["running"] for tasks in counted)

        try:
            until(all_ended, 30, "every task has ended")
        except AssertionError as error:
            self.say(str(error))  # which ones, the verdict says
        answers = {daemon.name: tasks(daemon) for daemon in daemons}
        first = answers[daemons[0].name]
        for name, answer in answers.items():
            if differing := sorted(task for task in {*first, *answer} if first.get(task) != answer.get(task)):
                self.broken["agreed"] = [f"{task}: {daemons[0].name} and {name} differ" for task in differing]
        self.say(f"the mesh shows {len(first)} tasks")
        return first, {daemon.id: daemon.name for daemon in daemons}

    def journals(self, net: Lab) -> dict[str, Any]:
        """Copied, for the disks go with the lab, and read."""
        found = {}
        for name, disk in net.disks.items():
            kept = self.directory / "journals" / name
            kept.mkdir(parents=True)
            for path in disk.state.glob("journal.sqlite*"):
                shutil.copy(path, kept)
            found[name] = books.ledger(kept / "journal.sqlite")
        return found

    def logs(self, net: Lab) -> None:
        said = {name: daemon.said() for name, daemon in net.daemons.items()}
        defects = [f"see the log of {name}" for name, text in said.items() if "Traceback" in text or "defect" in text]
        if defects:
            self.broken["defects"] = defects


def chaos(asked: Chaos, say: Callable[[str], None] = print) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """The document of the last line, and what is wrong. The directory is kept where something is. Raises NoLab."""
    began = time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix=f"meshchaos-{asked.seed}-"))
    kept = False
    try:
        run = Run(asked, directory, say)
        counts, broken = run.run()
        kept = bool(broken) or run.unjudged
    except (AssertionError, MeshError, OSError) as error:
        counts, broken = {}, {"run": [f"it could not go on: {type(error).__name__}: {error}"]}
        kept = True
    finally:
        if kept:
            say(f"logs, journals and records are kept in {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    document = {
        "seed": asked.seed, "hosts": asked.hosts, "tasks": asked.tasks, "faults": asked.faults, **counts,
        "broken": sorted(broken), "delay": "netem" if can_delay() else "left to the simulator: no netem in this kernel",
        "kept": str(directory) if kept else None, "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip
    return document, broken


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__.split("\n\n")[0])
    parser.add_argument("--hosts", type=int, default=5, choices=range(2, 27), metavar="2-26")
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--faults", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    for number in STOPS:
        signal.signal(number, _interrupted)
    try:
        document, broken = chaos(
            Chaos(args.hosts, args.tasks, args.faults, args.seed), lambda text: print(text, flush=True)
        )
    except NoLab as why:
        print(f"chaos: there is no lab: {why}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("chaos: interrupted; its namespaces, disks and processes are gone", file=sys.stderr)
        return 130
    for name, wrong in broken.items():
        print(f"\nBROKEN {name}: {len(wrong)}")
        for sentence in wrong[:SHOWN]:
            print(f"  {sentence}")
    print(json.dumps(document))
    return 1 if broken else UNJUDGED if document.get("starved") else 0


def _interrupted(number: int, frame: object) -> None:
    for each in STOPS:
        signal.signal(each, signal.SIG_IGN)  # once is enough: what follows is cleaning up
    raise KeyboardInterrupt


if __name__ == "__main__":
    os.umask(0o077)  # for the logs and journals that it keeps
    sys.exit(main())
