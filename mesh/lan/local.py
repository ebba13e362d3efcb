"""Where the daemons of one machine and user stand for local clients to find.

Owns the runtime directory (``$XDG_RUNTIME_DIR/meshd``, else ``/tmp/meshd-UID``): one JSON file per daemon, which the
daemon keeps locked for as long as it lives. The lock says who is alive, because the kernel drops it with the process
however that ends, while a pid is given to somebody else. It must not know what a daemon does.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from mesh.core.errors import MeshError

SUFFIX = ".json"
MAX_BYTES = 64 * 1024  # a registration is under 1 KiB; whatever is larger is not one


class UnsafeDirectory(MeshError):
    """The runtime directory belongs to somebody else, or others may write to it."""

    exit_code = 73


@dataclass(frozen=True)
class LocalDaemon:
    """A daemon on this machine, as it registered itself."""

    id: str
    name: str
    mesh: str
    pid: int
    address: str  # host:port
    socket: str  # path of its Unix socket


class Registration:
    """A daemon's entry in the runtime directory: it lasts until :meth:`close`, or until the process ends."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def close(self) -> None:
        """Remove the entry. Calling it again does nothing."""
        if self._descriptor < 0:
            return
        self.path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = -1


def runtime_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Where daemons register. The daemon and its clients agree on it as long as both see the same environment."""
    base = Path(environ.get("XDG_RUNTIME_DIR", ""))
    # An unset or relative value, or one left over from another login, must not send daemon and client apart.
    if base.is_absolute() and base.is_dir():
        return base / "meshd"
    return Path(f"/tmp/meshd-{os.getuid()}")


def prepare_runtime_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Create the runtime directory with mode 0700. Raises :class:`UnsafeDirectory` where it is not ours alone."""
    path = runtime_directory(environ)
    try:
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise UnsafeDirectory(
            f"cannot create the runtime directory {path}",
            error.strerror or str(error),
            "make it writable, or set XDG_RUNTIME_DIR to a directory of your own",
        ) from error
    _check_ours(path)
    return path


def register(daemon: LocalDaemon, label: str, environ: Mapping[str, str] = os.environ) -> Registration:
    """Let local clients find this daemon, and remove what dead ones left. ``label`` is unique: the life of a node."""
    directory = prepare_runtime_directory(environ)
    for path, _, alive in _entries(directory):
        if not alive:
            path.unlink(missing_ok=True)
    path = directory / f"{daemon.pid}-{label}{SUFFIX}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        # Locked before it says anything: an entry with contents and without a lock is a dead one.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.write(descriptor, json.dumps(asdict(daemon)).encode())
    except BaseException:
        path.unlink(missing_ok=True)
        os.close(descriptor)
        raise
    return Registration(path, descriptor)


def local_daemons(environ: Mapping[str, str] = os.environ) -> list[LocalDaemon]:
    """The daemons of this user that are alive here, ordered by mesh, name and id; dead ones are left out.

    Raises :class:`UnsafeDirectory` where the directory belongs to another user, who could have planted entries.
    """
    directory = runtime_directory(environ)
    try:
        _check_ours(directory)
    except FileNotFoundError:
        return []
    found = [daemon for _, daemon, alive in _entries(directory) if alive]
    return sorted(found, key=lambda daemon: (daemon.mesh, daemon.name, daemon.id))


def _check_ours(path: Path) -> None:
    status = path.lstat()
    why = ""
    if not stat.S_ISDIR(status.st_mode):
        why = "it is not a directory"
    elif status.st_uid != os.getuid():
        why = f"it belongs to user {status.st_uid}, not to user {os.getuid()}"
    elif status.st_mode & 0o077:
        why = f"others may enter it (mode {stat.S_IMODE(status.st_mode):04o})"
    if why:
        raise UnsafeDirectory(
            f"will not use the runtime directory {path}",
            why,
            "remove it or make it yours with mode 0700, or set XDG_RUNTIME_DIR to a directory of your own",
        )


def _entries(directory: Path) -> Iterator[tuple[Path, LocalDaemon, bool]]:
    """Every complete entry, and whether its daemon lives."""
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue  # gone since it was listed, or not a plain file: not an entry
        try:
            # Read first, then look at the lock: contents appear only under it.
            daemon = _parse(os.read(descriptor, MAX_BYTES))
            if daemon is not None:
                yield path, daemon, _locked(descriptor)
        finally:
            os.close(descriptor)


def _parse(body: bytes) -> LocalDaemon | None:
    with contextlib.suppress(ValueError):
        value = json.loads(body)
        if isinstance(value, dict) and all(isinstance(value.get(f.name), _TYPES[str(f.type)]) for f in _FIELDS):
            return LocalDaemon(**{f.name: value[f.name] for f in _FIELDS})
    return None


_FIELDS = fields(LocalDaemon)
_TYPES: dict[str, type] = {"str": str, "int": int}


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False
