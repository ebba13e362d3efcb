"""The state directory: who this node is, and that no other process is it at the same time.

Owns the directory (made with mode 0700), its lock, the identity, the life, the path of the Unix socket and
``meshd.json``. What stands in the journal is not its business: ``--new-id`` draws a new identity and leaves the
journal where it is, so its records stay in the mesh and only their holder is another node. The journal takes an id of
its own at each start anyway, so that of a copied directory goes its own way from there.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

from ulid import ULID

from mesh.core.errors import MeshError
from mesh.lan.local import LocalDaemon, Registration, prepare_runtime_directory, register

IDENTITY, LOCK, READY, SOCKET, JOURNAL = "identity.json", "lock", "meshd.json", "meshd.sock", "journal.sqlite"
IDENTITY_VERSION = 1
# sockaddr_un holds 108 bytes on Linux and 104 on macOS, the closing zero included.
SOCKET_LIMIT = 107 if sys.platform.startswith("linux") else 103
ULID_TEXT = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")


class StateError(MeshError):
    """The state directory cannot be used: unwritable, damaged, or held by another meshd."""

    exit_code = 73


class State:
    """An open state directory. It stays locked until :meth:`close`, or until the process ends."""

    def __init__(self, path: Path, lock: int, ulid: str, socket: Path, environ: Mapping[str, str]) -> None:
        self.path = path
        self.ulid = ulid
        self.life = secrets.token_hex(4)
        self.socket = socket  # where the Unix socket goes; nothing stands there yet
        self._lock = lock
        self._environ = environ
        self._registration: Registration | None = None

    @property
    def journal(self) -> Path:
        return self.path / JOURNAL

    @classmethod
    def open(cls, path: Path, *, new_id: bool = False, environ: Mapping[str, str] = os.environ) -> State:
        """Take the directory. Raises :class:`StateError` where that cannot be, leaving what is in it as it was."""
        path = path.absolute()
        _make(path)
        lock = _take(path)
        try:
            ulid = _identity(path, new_id)
            # A life that was killed may have left these; holding the lock, nobody else uses them.
            (path / READY).unlink(missing_ok=True)
            socket = _socket(path, environ)
            socket.unlink(missing_ok=True)
        except OSError as error:
            os.close(lock)
            raise _unwritable(path, error) from error
        except BaseException:
            os.close(lock)
            raise
        return cls(path, lock, ulid, socket, environ)

    def publish(self, *, id: str, name: str, mesh: str, address: str) -> None:
        """Say that the daemon is ready: write ``meshd.json`` and let local clients find it."""
        daemon = LocalDaemon(id, name, mesh, os.getpid(), address, str(self.socket))
        body = {"id": id, "name": name, "pid": daemon.pid, "address": address, "socket": daemon.socket}
        try:
            _write(self.path / READY, json.dumps(body) + "\n", durable=False)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        self._registration = register(daemon, self.life, self._environ)

    def close(self) -> None:
        """Withdraw what :meth:`publish` said and give the directory free. Calling it again does nothing."""
        if self._lock < 0:
            return
        if self._registration is not None:
            self._registration.close()
        (self.path / READY).unlink(missing_ok=True)
        self.socket.unlink(missing_ok=True)
        os.close(self._lock)
        self._lock = -1


def _make(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except OSError as error:
        raise _unwritable(path, error) from error
    why = ""
    if status.st_uid != os.geteuid():
        why = f"it belongs to user {status.st_uid}, not to user {os.geteuid()}"
    elif status.st_mode & 0o022:
        why = f"others may write to it (mode {stat.S_IMODE(status.st_mode):04o})"
    if why:
        raise StateError(
            f"will not use the state directory {path}",
            why,
            "give --state-dir a directory of your own that only you may write to (chmod go-w)",
        )


def _take(path: Path) -> int:
    """Lock the directory; the lock file is never removed, or two processes could each hold one of two."""
    try:
        lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError as error:
        holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
        os.close(lock)
        raise StateError(
            f"the state directory {path} is held by another meshd" + (f" (pid {holder})" if holder else ""),
            "one directory is one node, and two processes cannot be the same node",
            "stop that one, or give this one its own --state-dir",
        ) from error
    except OSError as error:
        os.close(lock)
        if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise StateError(
                f"cannot lock the state directory {path}",
                error.strerror or str(error),
                "its file system has no locks: give --state-dir a directory on a local disk",
            ) from error
        raise _unwritable(path, error) from error
    return lock


def _identity(path: Path, new_id: bool) -> str:
    file = path / IDENTITY
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        return _draw(file)
    if new_id:
        # Kept, so that nothing is lost where --new-id was given by mistake.
        number = 1
        while (aside := file.with_name(f"{IDENTITY}.old-{number}")).exists():
            number += 1
        file.rename(aside)
        return _draw(file)
    return _parse(file, text)


def _draw(file: Path) -> str:
    ulid = str(ULID())
    _write(file, json.dumps({"version": IDENTITY_VERSION, "ulid": ulid}) + "\n", durable=True)
    return ulid


def _parse(file: Path, text: bytes) -> str:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    ulid = value.get("ulid") if isinstance(value, dict) else None
    version = value.get("version") if isinstance(value, dict) else None
    if isinstance(version, int) and version > IDENTITY_VERSION:
        why = f"it was written by a newer meshd (version {version}, this one knows {IDENTITY_VERSION})"
    elif version == IDENTITY_VERSION and isinstance(ulid, str) and ULID_TEXT.fullmatch(ulid):
        return ulid
    else:
        why = "it does not hold a ULID, so it is damaged"
    raise StateError(
        f"cannot read the identity {file}",
        why,
        "restore it from a backup, or start once with --new-id: this machine then joins as a new node "
        "(the file is kept beside the new one)",
    )


def _socket(path: Path, environ: Mapping[str, str]) -> Path:
    """In the state directory, if only its owner can get there and the path is short enough; else in a 0700 one."""
    inside = path / SOCKET
    if len(os.fsencode(inside)) <= SOCKET_LIMIT and not path.stat().st_mode & 0o077:
        return inside
    # Named after the directory and not after the identity, which a copied directory shares with its original.
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16] + ".sock"
    short = prepare_runtime_directory(environ) / name
    if len(os.fsencode(short)) > SOCKET_LIMIT:
        short = prepare_runtime_directory({}) / name
    return short


def _write(file: Path, text: str, *, durable: bool) -> None:
    """All of it or nothing. ``durable``: on disk when this returns, which takes milliseconds."""
    draft = file.with_name(f".{file.name}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        if durable:
            os.fsync(stream.fileno())
    draft.rename(file)
    if not durable:
        return
    directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _unwritable(path: Path, error: OSError) -> StateError:
    return StateError(
        f"cannot write to the state directory {path}",
        error.strerror or str(error),
        "make it a directory that this user may write to, or give another with --state-dir",
    )
