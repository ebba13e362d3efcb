"""Each fault of the lab does what its name says, and nothing else; no daemon is needed to see it."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.mesh import alive, until
from tests.netlab.disks import EXT4, Disk, can_break
from tests.netlab.lab import Lab, faketime, lab
from tests.netlab.network import can_delay

pytestmark = pytest.mark.netlab

SHORT = 0.2  # seconds: nothing here is further away than microseconds


def passes(net: Lab, sender: str, receiver: str) -> bool:
    """Whether a datagram arrives."""
    with closing(net.hosts[receiver].socket(socket.SOCK_DGRAM)) as there:
        there.bind((net.hosts[receiver].address, 0))
        there.settimeout(SHORT)
        with closing(net.hosts[sender].socket(socket.SOCK_DGRAM)) as here:
            here.sendto(b"x", there.getsockname())
        try:
            return there.recv(1) == b"x"
        except TimeoutError:
            return False


def connects(net: Lab, sender: str, receiver: str) -> bool:
    with closing(net.hosts[receiver].socket()) as there, closing(net.hosts[sender].socket()) as here:
        there.bind((net.hosts[receiver].address, 0))
        there.listen()
        here.settimeout(SHORT)
        try:
            here.connect(there.getsockname())
        except TimeoutError:
            return False
        return True


def reached(net: Lab) -> set[str]:
    """Every pair, sender first, between which a datagram passes."""
    return {f"{a}{b}" for a in net.hosts for b in net.hosts if a != b and passes(net, a, b)}


def heard(net: Lab) -> set[str]:
    """As :func:`reached`, and it is what the lab itself believes."""
    found = reached(net)
    assert found == {f"{a}{b}" for a in net.hosts for b in net.hosts if a != b and net.heard(a, b)}
    return found


def both(*pairs: str) -> set[str]:
    return {*pairs, *(pair[::-1] for pair in pairs)}


def test_partitions_in_all_shapes() -> None:
    with lab(3) as net:
        whole = both("ab", "ac", "bc")
        assert heard(net) == whole
        net.isolate("a")
        assert heard(net) == both("bc")
        net.heal()
        net.split("ab", "c")
        assert heard(net) == both("ab")
        net.heal()
        net.split("a", "b")  # and c sees both
        assert heard(net) == both("ac", "bc")
        net.heal()
        net.unplug("b")
        assert heard(net) == both("ac")
        net.heal()
        # The kernel takes up to 1 s to notice that the carrier is back, and as long to ask for an address again.
        until(lambda: reached(net) == whole, what="all hear all")


def test_one_way_link() -> None:
    """A datagram passes one way; a connection needs both."""
    with lab(3) as net:
        net.one_way("a", "b")
        assert heard(net) == both("ac", "bc") | {"ab"}
        assert not connects(net, "a", "b")
        assert not connects(net, "b", "a")
        assert connects(net, "a", "c")
        net.heal()
        assert connects(net, "b", "a")


def test_cut_hosts_refuse_nobody() -> None:
    """Silence is all that can be heard of them: a refused connection would say that their process is gone."""
    with lab(2) as net, closing(net.hosts["a"].socket()) as here:
        here.settimeout(5)
        with pytest.raises(ConnectionRefusedError):
            here.connect((net.hosts["b"].address, 9))
        net.isolate("b")
        with closing(net.hosts["a"].socket()) as again:
            again.settimeout(SHORT)
            with pytest.raises(TimeoutError):
                again.connect((net.hosts["b"].address, 9))


def test_loss() -> None:
    with lab(3) as net:
        net.lose("a", 0.4)
        assert 80 < arrived(net, "a", "b", 200) < 160
        assert 80 < arrived(net, "b", "a", 200) < 160
        assert arrived(net, "b", "c", 200) == 200
        net.heal()
        assert arrived(net, "a", "b", 200) == 200


def arrived(net: Lab, sender: str, receiver: str, sent: int) -> int:
    with closing(net.hosts[receiver].socket(socket.SOCK_DGRAM)) as there:
        there.bind((net.hosts[receiver].address, 0))
        with closing(net.hosts[sender].socket(socket.SOCK_DGRAM)) as here:
            for _ in range(sent):
                here.sendto(b"x", there.getsockname())
        there.settimeout(SHORT)
        count = 0
        try:
            while there.recv(1):
                count += 1
        except TimeoutError:
            return count
    return count


def test_bandwidth() -> None:
    """A quarter of a megabyte at 4 Mbit/s takes half a second, either way, less the bucket of 32 KiB."""
    with lab(2) as net:
        assert took(net, "a", "b") < 0.2
        net.limit("a", "4mbit")
        assert took(net, "a", "b") > 0.3
        assert took(net, "b", "a") > 0.3
        net.heal()
        assert took(net, "a", "b") < 0.2


def took(net: Lab, sender: str, receiver: str, size: int = 1 << 18) -> float:
    with closing(net.hosts[receiver].socket()) as there, closing(net.hosts[sender].socket()) as here:
        there.bind((net.hosts[receiver].address, 0))
        there.listen()
        here.connect(there.getsockname())
        accepted, _ = there.accept()
        sending = threading.Thread(target=here.sendall, args=(bytes(size),))
        began = time.monotonic()
        sending.start()
        with closing(accepted):
            left = size
            while left:
                left -= len(accepted.recv(1 << 16))
        sending.join()
        return time.monotonic() - began


def test_delay() -> None:
    if not can_delay():
        pytest.skip("this kernel has no netem: delay is left to the simulator")
    with lab(2) as net:
        net.delay("a", 100)
        began = time.monotonic()
        assert connects(net, "b", "a")
        assert time.monotonic() - began > 0.09


def test_disk_full(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "disk", mebibytes=4)
    try:
        kept = disk.path / "kept"
        kept.write_text("kept")
        disk.fill()
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            (disk.path / "more").write_bytes(b"x")
        assert kept.read_text() == "kept"
        disk.empty()
        (disk.path / "more").write_bytes(bytes(1 << 20))
    finally:
        disk.close()


def test_disk_read_only_and_stuck(tmp_path: Path) -> None:
    if not can_break(tmp_path):
        pytest.skip("this machine has no loop devices with ext4")
    disk = Disk(tmp_path / "disk", EXT4, 8)
    try:
        with (disk.path / "file").open("wb") as file:
            wrote = threading.Thread(target=lambda: (disk.path / "slow").write_text("at last"))
            disk.stall()
            wrote.start()
            wrote.join(SHORT)
            assert wrote.is_alive()
            disk.go_on()
            wrote.join(5)
            with (disk.path / "slow").open() as slow:
                assert slow.read() == "at last"
                os.fsync(slow.fileno())  # what no one synced, such an error may lose
            disk.break_()
            with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
                os.write(file.fileno(), b"x")
        disk.mend()
        (disk.path / "file").write_text("writable")
        assert (disk.path / "slow").exists()
    finally:
        disk.close()


def test_clock_skew() -> None:
    """The wall clock is off, the monotonic one is not."""
    code = "import time; print(time.time(), time.monotonic())"
    env = {"LD_PRELOAD": str(faketime()), "FAKETIME": "+3600s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    wall, monotonic = map(float, done.stdout.split())
    assert wall - time.time() == pytest.approx(3600, abs=5)
    assert monotonic - time.monotonic() == pytest.approx(0, abs=5)


def test_nothing_is_left() -> None:
    with lab(2) as net:
        namespaces = [net.switch, *(host.namespace for host in net.hosts.values())]
        child = subprocess.Popen([*net.hosts["a"].before, "sleep", "60"])
        assert all(Path("/run/netns", name).exists() for name in namespaces)
    child.wait(5)
    assert not any(Path("/run/netns", name).exists() for name in namespaces)


def test_what_a_killed_lab_left_is_removed_by_the_next(tmp_path: Path) -> None:
    code = f"""if True:
        import os, pathlib, signal, subprocess
        from tests.netlab.disks import Disk
        from tests.netlab.lab import lab
        with lab(1) as net:
            Disk(pathlib.Path({str(tmp_path / "disk")!r}), mebibytes=1)
            sleeper = [*net.hosts["a"].before, "sh", "-c", "echo there; exec sleep 60"]
            child = subprocess.Popen(sleeper, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            child.stdout.readline()  # before, it would not be told of the death of its parent
            print(net.prefix, child.pid, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    prefix, pid = done.stdout.split()
    assert os.path.ismount(tmp_path / "disk")
    with lab(1):
        assert not [path for path in Path("/run/netns").iterdir() if path.name.startswith(prefix)]
        assert not os.path.ismount(tmp_path / "disk")
    until(lambda: not alive(int(pid)), what="its processes ended with it")
