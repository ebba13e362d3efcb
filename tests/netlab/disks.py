"""A small disk per host, for its state directory: it can be full, read-only or stuck.

A tmpfs is always there and is enough to be full. ``ext4``, an image in memory behind a loop device, can also turn
read-only as real disks do (its own error handling does it, though files are open) and stand still (frozen: every write
and fsync waits until it is thawed).
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from tests.netlab.network import command, ownerless

MEBIBYTE = 1024 * 1024
OWNER = f"meshlab-p{os.getpid()}"
TMPFS, EXT4 = "tmpfs", "ext4"
BUSY = 10.0  # seconds after which something else than a process that ends must use a disk


class Disk:
    """Mounted at ``path`` until it is closed."""

    def __init__(self, path: Path, kind: str = TMPFS, mebibytes: int = 64) -> None:
        self.path, self.kind = path, kind
        self._image = path.with_suffix(".img")
        self.stalled = False
        path.mkdir(mode=0o700)
        if kind == TMPFS:
            command("mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=0700", OWNER, str(path))
        else:
            # Hosts have mount namespaces of their own; what is unmounted under a shared mount goes there, too.
            command("mount", "-t", "tmpfs", "-o", "size=64k,mode=0700", OWNER, str(path))
            command("mount", "--make-shared", str(path))
            self.path = path / "ext4"
            self.path.mkdir(mode=0o700)
            # In memory where that is possible: a real disk's own fsync is not what is tried here.
            room = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else path.parent
            with tempfile.NamedTemporaryFile(prefix=f"{OWNER}-", suffix=".img", dir=room, delete=False) as image:
                image.truncate(mebibytes * MEBIBYTE)
            self._image = Path(image.name)
            command("mkfs.ext4", "-q", "-F", "-m", "0", str(self._image))
            self._mount()
        self.ballast = self.path / "ballast"

    @property
    def state(self) -> Path:
        """Where the state directory goes."""
        return self.path / "state"

    def _mount(self) -> None:
        command("mount", "-o", "loop,errors=remount-ro", str(self._image), str(self.path))

    def fill(self) -> None:
        """Until not one byte more goes in."""
        handle = os.open(self.ballast, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            for size in (MEBIBYTE, 4096, 1):
                block = bytes(size)
                with suppress(OSError):
                    while os.write(handle, block):  # bounded by the disk
                        pass
        finally:
            os.close(handle)

    def empty(self) -> None:
        """Remove what filled it."""
        self.ballast.unlink(missing_ok=True)

    def break_(self) -> None:
        """Read-only from now on, as after an error of the disk. Only an unmounted one can be mended."""
        assert self.kind == EXT4, "a tmpfs cannot become read-only while files are open"
        device = Path(command("findmnt", "-n", "-o", "SOURCE", str(self.path)).strip()).name
        Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("1")

    def mend(self) -> None:
        """Checked and mounted again. Whoever uses it has ended or is about to, as runners whose daemon was killed."""
        end = time.monotonic() + BUSY
        while True:
            try:
                command("umount", str(self.path))
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
            else:
                break
        with suppress(OSError):  # its exit code says that there was something to correct
            command("e2fsck", "-fy", str(self._image))
        self._mount()

    def stall(self) -> None:
        """Whoever writes waits, and cannot even be killed, until it goes on."""
        assert self.kind == EXT4, "a tmpfs cannot be frozen"
        command("fsfreeze", "--freeze", str(self.path))
        self.stalled = True

    def go_on(self) -> None:
        if self.stalled:
            command("fsfreeze", "--unfreeze", str(self.path))
            self.stalled = False

    def close(self) -> None:
        with suppress(OSError):
            self.go_on()
        with suppress(OSError):
            command("umount", "--lazy", str(self.path))
        if self.kind == EXT4:
            command("umount", "--lazy", str(self.path.parent))
            self._image.unlink(missing_ok=True)


def sweep() -> None:
    """Unmount the disks of labs whose process was killed before it could."""
    for line in Path("/proc/mounts").read_text().splitlines():
        source, path = line.split()[:2]
        image = Path(f"/sys/block/{Path(source).name}/loop/backing_file")
        name = image.read_text().strip() if image.exists() else source
        if "meshlab-p" in name and ownerless(f"{name}-"):
            for undo in (["fsfreeze", "--unfreeze", path], ["umount", "--lazy", path]):
                with suppress(OSError):
                    command(*undo)
            if image.exists():
                Path(name).unlink(missing_ok=True)


def can_break(directory: Path) -> bool:
    """Whether there are loop devices and ext4 here."""
    if shutil.which("mkfs.ext4") is None or shutil.which("fsfreeze") is None:
        return False
    try:
        Disk(directory / "probe", EXT4, 8).close()
    except OSError:
        return False
    return True
