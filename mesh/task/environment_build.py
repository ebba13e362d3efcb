"""Building an environment: see :mod:`mesh.task.environments`. In a runner, which can be stopped meanwhile."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from blake3 import blake3

from mesh.core.lattice import FAILED, RELEASED
from mesh.task.environments import WHOLE, Own, python_of, usable
from mesh.task.functions import DETAIL_LIMIT, Ended, clean
from mesh.task.processes import end_session

LOOK = 0.05  # seconds between looks at a build, which takes seconds or minutes

_DISK_WORDS = ("No space left on device", "Disk quota exceeded", "Read-only file system")
_PATHS = "zz-mesh.pth"  # read after those of what was installed
_PIP = ("--disable-pip-version-check", "--no-input", "install", "--progress-bar", "off")


class Unbuilt(Exception):
    """There is no such environment on this node; ``ended`` is what becomes of an attempt that needs it."""

    def __init__(self, ended: Ended) -> None:
        super().__init__(ended.message)
        self.ended = ended


class Environments:
    """``env``: the variables of processes that build; ``pause`` waits so many seconds at most, and raises to stop."""

    def __init__(self, state: Path, own: Own, env: dict[str, str], pause: Callable[[float], None]) -> None:
        self._folder = state / "envs"
        self._own, self._env, self._pause = own, env, pause

    def home(self, requirements: str) -> Path:
        """Where it is; it is built if it is not there. Raises Unbuilt, and what ``pause`` raises."""
        home = self._folder / self._key(requirements)
        if usable(home):
            return home
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            before = _failure(home)
            with self._locked(home):
                if usable(home):
                    return home
                after = _failure(home)
                if after is not None and after != before:
                    raise Unbuilt(after[1])  # so it ended for somebody else while this waited
                self._build(home, requirements)
        except OSError as error:
            raise Unbuilt(_refused(f"{error}")) from error
        return home

    def _key(self, requirements: str) -> str:
        decides = (requirements, sys.version, sysconfig.get_platform(), *self._own.paths, self._own.python)
        return blake3("\0".join(decides).encode("utf-8", "surrogateescape")).hexdigest(16)

    @contextmanager
    def _locked(self, home: Path) -> Iterator[None]:
        """Alone with it; the lock is let go of when this process ends, however it does."""
        with open(f"{home}.lock", "w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    self._pause(LOOK)
            yield

    def _build(self, home: Path, requirements: str) -> None:
        if home.exists():
            shutil.rmtree(home)  # a build that was cut short, or its Python is gone
        scratch = Path(f"{home}.tmp")  # wheels are unpacked there; a runner's TMPDIR may be in memory
        scratch.mkdir(exist_ok=True)
        try:
            with open(f"{home}.log", "wb") as log:
                self._install(home, requirements, log, self._env | {"TMPDIR": str(scratch)})
            os.sync()  # or a power cut leaves empty files in what looks whole
            (home / WHOLE).touch()
            Path(f"{home}.failed").unlink(missing_ok=True)
        except Unbuilt as error:
            Path(f"{home}.failed").write_text(json.dumps(error.ended[:4]))
            raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            if not (home / WHOLE).exists():
                shutil.rmtree(home, ignore_errors=True)  # its log says all that can be known of it

    def _install(self, home: Path, requirements: str, log: IO[bytes], env: dict[str, str]) -> None:
        python, own_python = python_of(home), self._own.python

        def run(*argv: str) -> bool:
            log.write(f"$ {shlex.join(argv)}\n".encode("utf-8", "replace"))
            log.flush()
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env=env,
                start_new_session=True,
            )
            try:
                while process.poll() is None:
                    self._pause(LOOK)
            finally:
                end_session(process)
            return process.returncode == 0

        if uv := shutil.which("uv", path=env.get("PATH")):
            made = run(uv, "venv", "--quiet", "--python", own_python, str(home))
            installer = [uv, "pip", "install", "--python", python]
        elif run(own_python, "-m", "pip", "--version"):
            made = run(own_python, "-m", "venv", "--without-pip", str(home))  # a pip of its own takes seconds
            installer = [own_python, "-m", "pip", "--python", python, *_PIP]
        else:
            made = run(own_python, "-m", "venv", str(home))
            installer = [python, "-m", "pip", *_PIP]
        if not made:  # nothing that was required has a part in it
            raise Unbuilt(_refused(_told(f"{home}.log")[0]))
        (home / "requirements.txt").write_text(requirements + "\n", encoding="utf-8")
        if not run(*installer, "-r", str(home / "requirements.txt")):
            self._fail(home, "its requirements could not be installed")
        site = sysconfig.get_path("purelib", "venv", {"base": str(home)})
        (Path(site) / _PATHS).write_text("".join(f"{path}\n" for path in self._own.paths))
        if not run(python, "-P", "-c", "import mesh.task.runner"):
            self._fail(home, "no runner works with what it requires")

    @staticmethod
    def _fail(home: Path, what: str) -> None:
        """A full disk is this node's matter, and another may have room. What else it may be (no such package, no
        way to the index) looks the same from here on every node, so it is the task's, whose retries apply."""
        last, tail = _told(f"{home}.log")
        if any(words in tail for words in _DISK_WORDS):
            raise Unbuilt(_refused(last))
        raise Unbuilt(Ended(FAILED, "environment", f"{what}: {last}; all of it is in {home}.log on this node", tail))


def _refused(why: str) -> Ended:
    return Ended(RELEASED, "refused", f"its environment cannot be built here: {why}")


def _told(log: str) -> tuple[str, str]:
    """The last lines, as one, and the end of a build's log."""
    with open(log, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - DETAIL_LIMIT))
        tail = clean(file.read().decode("utf-8", "replace"), DETAIL_LIMIT)
    return clean(" | ".join([line.strip() for line in tail.splitlines() if line.strip()][-3:]), 500), tail


def _failure(home: Path) -> tuple[int, Ended] | None:
    """How the last build failed, with when."""
    try:
        with open(f"{home}.failed") as file:
            return os.fstat(file.fileno()).st_mtime_ns, Ended(*json.load(file))
    except (FileNotFoundError, ValueError):  # ValueError: it was cut short
        return None
