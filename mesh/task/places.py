"""The private directories of attempts, prepared once per runner so that a no-op costs none.

``STATE/attempts/ATTEMPT/`` holds what an attempt left: ``log``, and ``output``, a link to the directory it was given
as MESH_OUTPUT_DIR. That directory lies in ``STATE/outputs/`` and never moves, so a path which a task returned or
printed stays valid. One that is still empty afterwards goes to the next attempt. TMPDIR is one per runner, emptied
after each attempt; where the state path is long it lies in a short directory of this user, for sockets are made there.

``STATE/uncopied/`` has a link for each finished attempt whose log is not in the store and on its other node yet; it
points to what the blob will be called.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from blake3 import blake3

from mesh.blob import manifest as manifests
from mesh.core.ids import BlobId
from mesh.task import code, environments
from mesh.task.logs import LogReader, trim

# A Unix socket's path may have 104 bytes (macOS) or 108 (Linux). multiprocessing makes one that is 32 bytes longer than
# TMPDIR, and TMPDIR is up to 30 bytes longer than the directory that this limits.
SHORT_BYTES = 40


def short_directory(state: Path) -> Path:
    """Where sockets and TMPDIRs go: the state directory, or one in a private directory of this user if that is long.

    Raises:
        PermissionError: the private directory belongs to somebody else, or others may use it.
    """
    state.mkdir(parents=True, exist_ok=True)
    if len(os.fsencode(state)) <= SHORT_BYTES:
        return state
    base = Path(f"/tmp/meshd-{os.getuid()}")  # not XDG_RUNTIME_DIR: that is memory, and small
    base.mkdir(mode=0o700, exist_ok=True)
    stat = base.lstat()
    if stat.st_uid != os.getuid() or stat.st_mode & 0o077:
        raise PermissionError(
            f"{base} is not private; somebody else made it, or others may use it; remove it, or shorten the path of"
            " the state directory"
        )
    short = base / f"tasks-{blake3(os.fsencode(state)).hexdigest(4)}"
    short.mkdir(mode=0o700, exist_ok=True)
    owner = short / "state"
    if not owner.is_symlink():
        owner.symlink_to(state)
    for other in base.glob("tasks-*"):  # a meshd that is killed leaves its own until its state directory is gone
        if (other / "state").is_symlink() and not (other / "state").exists():
            shutil.rmtree(other, ignore_errors=True)
    return short


def attempt_folder(state: Path, attempt: str) -> Path:
    """Ids come from other nodes: whatever they hold, the folder lies in ``STATE/attempts``."""
    return state / "attempts" / ("_" + name if (name := quote(attempt, safe="")).startswith(".") else name)


def uncopied(state: Path) -> Path:
    return state / "uncopied"


def seal(state: Path, attempt: str) -> BlobId:
    """What the blob of all that a finished attempt printed is called, and the note that it is to be made.

    Empty where it printed nothing. Hashing is cheap (1 ms for a MiB); the blob itself costs syncs, and nobody waits.
    """
    folder = attempt_folder(state, attempt)
    log = LogReader(folder).rest()
    if not log:
        return ""
    chunks = (manifests.Chunk(manifests.digest(piece), len(piece)) for piece in manifests.cut([log]))
    blob = manifests.name(manifests.manifest_of(chunks).encode())
    with suppress(FileExistsError):  # its runner died between this and telling
        (uncopied(state) / folder.name).symlink_to(blob)
    return blob


class Place:
    """The directories of one runner. ``runner`` must be unique among all lives of this state directory.

    ``outputs``: of its output directories, so many are used up.
    """

    def __init__(self, state: Path, short: Path, runner: str, outputs: int = 0) -> None:
        self.state = state
        self.runner = runner
        self.home = short / "runners" / runner
        self.capture = state / "captures" / runner  # beside the logs, for it is renamed into one
        self.tmp = str(self.home / "tmp")
        self.outputs = outputs
        self.output = ""

    def prepare(self) -> None:
        self.capture.parent.mkdir(parents=True, exist_ok=True)
        self._make(self.tmp)
        self._next_output()

    def _next_output(self) -> None:
        self.outputs += 1
        self.output = str(self.state / "outputs" / f"{self.runner}.{self.outputs}")
        self._make(self.output)

    def _make(self, folder: str) -> None:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self._mark(folder)

    @staticmethod
    def _mark(folder: str) -> None:
        # Any entry made or removed moves this away from zero; asking that is six times cheaper than listing.
        os.utime(folder, ns=(0, 0))

    def after(self, attempt: str) -> None:
        """Keep the attempt's output directory if it holds anything, and empty TMPDIR."""
        try:
            if os.stat(self.output).st_mtime_ns:
                if os.listdir(self.output):
                    self._keep(attempt, self.output)
                    self._next_output()
                else:
                    self._mark(self.output)
            if os.stat(self.tmp).st_mtime_ns:
                empty(self.tmp)
                self._mark(self.tmp)
        except FileNotFoundError:  # the task removed a directory it was given
            self._make(self.tmp)
            self._make(self.output)

    def _keep(self, attempt: str, output: str) -> None:
        folder = attempt_folder(self.state, attempt)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "output").symlink_to(os.path.join("..", "..", "outputs", os.path.basename(output)))

    def keep_capture(self, attempt: str) -> None:
        """The capture file becomes the attempt's log. The runner must open a new one."""
        folder = attempt_folder(self.state, attempt)
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "log"
        self.capture.rename(log)
        trim(log)

    def salvage(self, attempt: str) -> None:
        """In meshd, after the runner died: what the attempt that it was running printed and left."""
        if attempt and self.capture.exists() and self.capture.stat().st_size:
            self.keep_capture(attempt)
        for output in sorted((self.state / "outputs").glob(f"{self.runner}.*"), key=lambda path: int(path.suffix[1:]))[
            -1:
        ]:
            if not os.listdir(output):
                output.rmdir()
            elif attempt and not os.path.lexists(attempt_folder(self.state, attempt) / "output"):
                self._keep(attempt, str(output))
        self.capture.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove TMPDIR and what is in it: may take a while."""
        shutil.rmtree(self.home, ignore_errors=True)


def sweep(state: Path, short: Path) -> None:
    """What a life that was killed left: TMPDIRs, captures and empty output directories."""
    for folder in (short / "runners", state / "captures"):
        folder.mkdir(parents=True, exist_ok=True)
        empty(str(folder))
    uncopied(state).mkdir(exist_ok=True)
    outputs = state / "outputs"
    outputs.mkdir(exist_ok=True)
    for output in outputs.iterdir():
        if not os.listdir(output):
            output.rmdir()
    code.tidy(state)
    environments.tidy(state)


def empty(folder: str) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                os.unlink(entry.path)
