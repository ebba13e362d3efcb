"""A real meshd on loopback: how it starts, answers, refuses, drains and comes back."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from mesh.client.sync import MeshClient
from mesh.v1 import client_pb2 as pb
from mesh.v1.client_pb2_grpc import ClientStub

pytestmark = pytest.mark.e2e

PATIENCE = 30.0  # seconds: a loaded machine is slow, a hung daemon is for ever


class Meshd:
    def __init__(self, directory: Path, name: str, flags: tuple[str, ...], mesh: str) -> None:
        self.state = directory / name
        self.log = directory / f"{secrets.token_hex(4)}.log"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MESH_")}
        environment |= {"XDG_RUNTIME_DIR": str(directory), "XDG_CONFIG_HOME": str(directory), "HOME": str(directory)}
        self.command = [
            sys.executable, "-m", "mesh.cli.meshd", "--state-dir", str(self.state), "--mesh", mesh, "--name", name,
            "--no-mdns", "--slots", "2", *flags,
        ]  # fmt: skip
        self.environment = environment
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stderr=log, env=self.environment)

    def ready(self) -> dict[str, Any]:
        """What stands in meshd.json, once this process has written it."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                found: dict[str, Any] = json.loads((self.state / "meshd.json").read_text())
            except FileNotFoundError:
                found = {}
            if found.get("pid") == self.process.pid:
                return found
            assert self.process.poll() is None, f"it ended with {self.process.returncode}: {self.said()}"
            time.sleep(0.01)
        raise AssertionError(f"not ready in {PATIENCE} s: {self.said()}")

    def said(self) -> str:
        return self.log.read_text()

    def status(self) -> dict[str, Any]:
        with grpc.insecure_channel(f"unix:{self.ready()['socket']}") as channel:
            return json.loads(ClientStub(channel).Status(pb.Nothing(), timeout=PATIENCE).json)  # type: ignore[no-any-return]

    def results(self, job: str) -> dict[str, tuple[str, bytes]]:
        """State and result of every task that has ended; asked again until a leader answers."""
        results: dict[str, tuple[str, bytes]] = {}
        end = time.monotonic() + PATIENCE
        with grpc.insecure_channel(f"unix:{self.ready()['socket']}") as channel:
            while True:
                stream = ClientStub(channel).Watch(
                    pb.WatchRequest(job=job, results=True), timeout=PATIENCE, wait_for_ready=True
                )
                try:
                    for reply in stream:
                        results.update((result.id, (result.state, result.result)) for result in reply.results)
                        if reply.state == "succeeded" and not reply.results:
                            stream.cancel()
                            return results
                except grpc.RpcError as error:  # for its first milliseconds nobody leads
                    if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > end:
                        raise
                    time.sleep(0.05)

    def ends(self) -> int:
        return self.process.wait(PATIENCE)

    def stop(self) -> int:
        self.process.terminate()
        return self.ends()


@pytest.fixture
def meshd(tmp_path: Path) -> Iterator[Callable[..., Meshd]]:
    started: list[Meshd] = []
    mesh = f"test-{secrets.token_hex(4)}"

    def start(name: str, *flags: str, mesh: str = mesh) -> Meshd:
        started.append(Meshd(tmp_path, name, flags, mesh))
        return started[-1]

    yield start
    for daemon in started:
        daemon.process.kill()
        daemon.process.wait()


def client(daemon: Meshd) -> MeshClient:
    return MeshClient(f"unix:{daemon.ready()['socket']}")


def until(true: Callable[[], Any]) -> Any:
    end = time.monotonic() + PATIENCE
    while not (found := true()):
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.05)
    return found


def test_starts_answers_and_drains(meshd: Callable[..., Meshd]) -> None:
    daemon = meshd("a", "--rank", "10")
    found = daemon.ready()
    assert found.keys() == {"id", "name", "pid", "address", "socket"}
    assert (found["name"], found["id"][:3]) == ("a", "10-")
    assert stat.S_IMODE(os.stat(found["socket"]).st_mode) == 0o600
    status = daemon.status()
    assert status["id"] == found["id"]
    assert status["steps"] > 0
    with grpc.insecure_channel(found["address"]) as channel:
        ClientStub(channel).Status(pb.Nothing(), timeout=PATIENCE)
    assert daemon.stop() == 0
    assert not (daemon.state / "meshd.json").exists()
    assert not Path(found["socket"]).exists()


def test_results_and_tasks_survive_sigkill(meshd: Callable[..., Meshd]) -> None:
    daemon = meshd("a")
    with client(daemon) as mesh:
        futures = [mesh.submit(pow, 2, power) for power in range(20)]
        assert [future.result(timeout=PATIENCE) for future in futures] == [2**power for power in range(20)]
    job = futures[0].task_id.partition(".")[0]
    before = daemon.results(job)
    identity = daemon.ready()["id"]
    daemon.process.kill()
    daemon.process.wait()
    daemon.start()
    assert daemon.ready()["id"] == identity
    assert daemon.results(job) == before
    assert set(before) == {future.task_id for future in futures}
    assert all(state == "succeeded" and result for state, result in before.values())


def test_drain_waits_for_what_runs(meshd: Callable[..., Meshd], tmp_path: Path) -> None:
    daemon = meshd("a")
    began, done = tmp_path / "began", tmp_path / "done"
    with client(daemon) as mesh:
        mesh.submit(slowly, str(began), str(done), 1.0)
        until(began.exists)
        assert daemon.stop() == 0
    assert done.exists()


def test_second_sigterm_stops_at_once_and_kills_what_runs(meshd: Callable[..., Meshd], tmp_path: Path) -> None:
    daemon = meshd("a", "--grace", "60")
    began, done = tmp_path / "began", tmp_path / "done"
    with client(daemon) as mesh:
        mesh.submit(slowly, str(began), str(done), 60.0)
        until(began.exists)
        daemon.process.terminate()
        until(lambda: "draining" in daemon.said())
        assert daemon.process.poll() is None
        daemon.process.terminate()
        start = time.monotonic()
        assert daemon.ends() == 128 + signal.SIGTERM
        assert time.monotonic() - start < 10
    runner = int(began.read_text())
    until(lambda: not Path(f"/proc/{runner}").exists())
    assert not done.exists()


def slowly(began: str, done: str, seconds: float) -> None:
    import os
    import time
    from pathlib import Path

    draft = Path(began + ".draft")
    draft.write_text(str(os.getpid()))
    draft.rename(began)
    time.sleep(seconds)
    Path(done).write_text("")


def test_port_in_use_is_98(meshd: Callable[..., Meshd]) -> None:
    port = meshd("a").ready()["address"].rpartition(":")[2]
    other = meshd("b", "--listen", f"127.0.0.1:{port}")
    assert other.ends() == 98
    assert f"meshd: cannot listen on 127.0.0.1:{port}; another process listens there; stop it" in other.said()


def test_held_state_directory_is_73(meshd: Callable[..., Meshd], tmp_path: Path) -> None:
    first = meshd("a")
    found = first.ready()
    second = Meshd(tmp_path, "a", (), "other")
    assert second.ends() == 73
    assert f"is held by another meshd (pid {found['pid']})" in second.said()
    assert first.status()["id"] == found["id"]  # which it did not disturb
    assert (first.state / "meshd.json").exists()


def test_unwritable_state_directory_is_73(meshd: Callable[..., Meshd], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    daemon = meshd("file/below")
    assert daemon.ends() == 73
    assert "cannot write to the state directory" in daemon.said()


def test_damaged_journal_is_set_aside(meshd: Callable[..., Meshd], tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o700)
    journal = tmp_path / "a" / "journal.sqlite"
    journal.write_bytes(b"this is no database" * 100)
    daemon = meshd("a")
    daemon.ready()
    (aside,) = journal.parent.glob("journal.sqlite.damaged-*")
    assert aside.read_bytes() == b"this is no database" * 100
    assert daemon.status()["damaged_journals"] == [str(aside)]
    daemon.stop()
    assert "is damaged" in daemon.said()
    assert str(aside) in daemon.said()


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--listen", "0.0.0.0"), "--insecure"),
        (("--listen", "192.0.2.1", "--insecure"), "cannot listen on 192.0.2.1:7433"),
        (("--slots", "none"), "--slots"),
        (("--device", "cuda:99"), "this machine has no such accelerator"),
        (("--metrics", "127.0.0.1:1"), "not built yet"),
    ],
)
def test_wrong_settings_are_2(meshd: Callable[..., Meshd], flags: tuple[str, ...], text: str) -> None:
    daemon = meshd("a", *flags)
    assert daemon.ends() == 2
    assert text in daemon.said()


def test_exposed_address_is_warned_about(meshd: Callable[..., Meshd]) -> None:
    daemon = meshd("a", "--listen", "0.0.0.0:0", "--insecure")
    address = daemon.ready()["address"]
    assert not address.startswith("0.0.0.0")
    assert "INSECURE" in daemon.said()


def test_readiness_is_told_to_the_service_manager(meshd: Callable[..., Meshd], tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(PATIENCE)
        before, os.environ["NOTIFY_SOCKET"] = os.environ.get("NOTIFY_SOCKET"), str(path)
        try:
            daemon = meshd("a")
        finally:
            del os.environ["NOTIFY_SOCKET"]
            if before is not None:
                os.environ["NOTIFY_SOCKET"] = before
        told = manager.recv(1000).decode()
        assert told == f"READY=1\nSTATUS=listening on {daemon.ready()['address']}"
        daemon.stop()
        assert manager.recv(1000) == b"STOPPING=1"


def test_json_log_has_the_promised_keys(meshd: Callable[..., Meshd]) -> None:
    daemon = meshd("a", "--log-format", "json")
    found = daemon.ready()
    daemon.stop()
    lines = [json.loads(line) for line in daemon.said().splitlines()]
    assert all(list(line)[:6] == ["ts", "level", "node", "term", "event", "msg"] for line in lines)
    (ready,) = [line for line in lines if line["event"] == "ready"]
    assert (ready["node"], ready["address"]) == (found["id"], found["address"])


def test_copied_state_directory_is_76(meshd: Callable[..., Meshd], tmp_path: Path) -> None:
    first = meshd("a")
    address = first.ready()["address"]
    until(lambda: first.status()["steps"] > 5)
    (tmp_path / "b").mkdir(mode=0o700)
    (tmp_path / "b" / "identity.json").write_bytes((first.state / "identity.json").read_bytes())
    copy = meshd("b", "--peer", address)
    assert copy.ends() == 76
    assert "--new-id" in copy.said()
    assert first.process.poll() is None
    again = meshd("b", "--peer", address, "--new-id")
    assert again.ready()["id"] != first.ready()["id"]


def test_two_daemons_are_one_mesh(meshd: Callable[..., Meshd]) -> None:
    first = meshd("a")
    second = meshd("b", "--peer", first.ready()["address"])
    ids = {first.ready()["id"], second.ready()["id"]}

    def members(daemon: Meshd) -> set[str]:
        with client(daemon) as mesh:
            return {peer["id"] for peer in mesh.peers() if peer["state"] == "alive"}

    until(lambda: members(first) == members(second) == ids)
    with client(second) as mesh:
        nodes = {mesh.submit(where).result(timeout=PATIENCE) for _ in range(3)}
    assert nodes <= ids


def where() -> str:
    import os

    return os.environ["MESH_NODE"]
