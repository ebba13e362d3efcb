"""What Python does not offer of the system: who descends from whom, ending all of them, holes in files.

Linux is asked through /proc, for a zygote and its runners should not pay for importing psutil; elsewhere psutil is.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

LINUX = sys.platform.startswith("linux")

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)
_libc_prctl = _libc.prctl if LINUX else None


def flush_c_streams() -> None:
    """What C code printed through stdio would otherwise appear in a later attempt's output."""
    _libc.fflush(None)


def punch_hole(file: int, offset: int, size: int) -> None:
    """Free these bytes of a file without moving the others; they read as zeros. Where that is unknown, nothing."""
    if LINUX:
        _libc.fallocate(file, 3, ctypes.c_int64(offset), ctypes.c_int64(size))  # PUNCH_HOLE | KEEP_SIZE


def become_subreaper() -> None:
    """From now on, a descendant whose parent ends becomes a child of this process. Linux only, elsewhere nothing."""
    if _libc_prctl is not None and _libc_prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def die_with_parent() -> None:
    """SIGKILL this process when the thread that started it ends. Linux only; undone by fork, kept by exec."""
    if _libc_prctl is not None:
        _libc_prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def _stat(pid: int) -> tuple[int, str] | None:
    """(parent, state), or None where the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()  # a program's name may hold anything
    return int(fields[1]), fields[0]


def _all_parents() -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (stat := _stat(int(name))) is not None:
            children.setdefault(stat[0], []).append(int(name))
    return children


def _children_of_threads(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
    except ProcessLookupError:
        return []
    return found


def children(pid: int) -> list[int]:
    """Direct children, zombies included. Linux only."""
    try:
        return _children_of_threads(pid)
    except FileNotFoundError:
        if not os.path.exists(f"/proc/{pid}"):
            return []
        return _all_parents().get(pid, [])  # a thread ended meanwhile, or a kernel without CONFIG_PROC_CHILDREN


def _walk(pid: int) -> Iterator[int]:
    for child in children(pid):
        yield child
        yield from _walk(child)


def descendants(pid: int) -> list[int]:
    """Every live process below ``pid``, parents first, without zombies."""
    if not LINUX:
        import psutil

        try:
            return [child.pid for child in psutil.Process(pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
    return [child for child in _walk(pid) if (stat := _stat(child)) is not None and stat[1] not in "ZX"]


def send_signal(pids: Iterable[int], number: int) -> list[int]:
    """Signal each; returns those that may not be signalled (they run as another user)."""
    refused = []
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
        except PermissionError:
            refused.append(pid)
    return refused


def kill_below(pid: int) -> None:
    """SIGKILL all descendants, also those that are forked while this runs: until a look finds nobody new."""
    seen: set[int] = set()
    while new := [child for child in descendants(pid) if child not in seen]:
        send_signal(new, signal.SIGKILL)
        seen.update(new)


def kill_tree(pid: int) -> None:
    """SIGKILL ``pid`` and all below it. It is stopped first, so that it cannot start more meanwhile."""
    send_signal([pid], signal.SIGSTOP)
    kill_below(pid)
    send_signal([pid], signal.SIGKILL)


def end_children() -> None:
    """Kill and reap every descendant of this process, which must be a subreaper to find those that detached."""
    refused: set[int] = set()
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid:
            continue
        alive = [child for child in descendants(os.getpid()) if child not in refused]
        if not alive:
            if refused:
                return  # nothing is left but what runs as another user: no signal of ours reaches it
            continue  # zombies by now
        refused.update(send_signal(alive, signal.SIGKILL))
        if not refused.issuperset(alive):
            os.waitpid(-1, 0)


def end_session(process: subprocess.Popen[bytes]) -> None:
    """End a process that was started in a session of its own, and all that is left of its tree."""
    if process.poll() is None:
        process.kill()
        process.wait()
    if LINUX:
        if has_children():
            end_children()
        return
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return  # nobody is left in it; macOS answers EPERM where only zombies are


def has_children() -> bool:
    """Whether this process has a child, dead or alive. About a microsecond, so it may be asked after every attempt."""
    if not hasattr(os, "waitid"):
        return bool(descendants(os.getpid()))
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def exit_words(status: int) -> tuple[str, str]:
    """(code, message) of a returncode as subprocess writes it: negative for a signal."""
    if status >= 0:
        return f"exit {status}", f"exit code {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = "a real-time signal"
    hint = "; this is how Linux ends a process when the machine runs out of memory" if status == -signal.SIGKILL else ""
    return f"signal {-status}", f"signal {-status} ({name}){hint}"
