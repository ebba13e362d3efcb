"""What a meshd is told: flags, ``MESH_*`` variables and ``mesh.toml``, read once at start into one frozen value.

Owns every option, its check and its help. It must not know what the options do. A wrong setting is refused with all
others that are wrong, in one go; one that is not built yet is refused by name.
"""

from __future__ import annotations

import argparse
import difflib
import ipaddress
import os
import pwd
import re
import socket
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NoReturn

from mesh import __version__
from mesh.core.errors import MeshError
from mesh.node.options import LATER, LATER_TABLES, MESH_SETTINGS, OPTIONS, RUN, Option, Setting, join_address

EPILOG = """\
settings: a flag wins over a variable (MESH_SLOTS=4; lists with commas: MESH_PEER=a:1,b:2), a variable over
mesh.toml ($XDG_CONFIG_HOME/meshd/mesh.toml; its keys are the flags with underscores, lists are lists), mesh.toml
over the default. A list given in one place replaces the lists of the others. mesh.toml for example:

  mesh = "lab"
  slots = 4
  peer = ["10.0.0.5:7433"]
  label = { room = "east" }
  [mesh]                 of the whole mesh: what any node sets last counts everywhere
  durability = "one"     who must have it before it is acknowledged: local, one successor, or all of them
  lost_after = "30s"     how long a silent machine is waited for before its work is given to others

examples:
  meshd                                    one node on this machine, in the mesh "default"

  meshd --name a --state-dir /tmp/mesh/a   three nodes on this machine, each in its own terminal: they find
  meshd --name b --state-dir /tmp/mesh/b   each other within a second, by mDNS on the loopback interface
  meshd --name c --state-dir /tmp/mesh/c
  meshctl --address unix:/tmp/mesh/a/meshd.sock peers

  meshd --listen 192.168.1.10 --insecure                            two machines on a network where every machine
  meshd --listen 192.168.1.11 --insecure --peer 192.168.1.10:7433   is trusted; --peer where mDNS does not get through

  meshd --role worker --slots 2 --device cuda:0 --memory 16GiB --min-priority 5

Stop it with Ctrl-C or SIGTERM: it finishes what it can within --grace, hands over and leaves. A second one stops it
at once.
exit codes: 0 drained; 2 configuration; 73 state directory unwritable or in use; 76 duplicate identity; 98 port in use
"""
INSECURE = (
    "INSECURE: {address} is open to the network without authentication: anyone who can reach it can run programs "
    "as this user. Stop this node unless you trust every machine on that network."
)
RED, PLAIN = "\x1b[1;31m", "\x1b[0m"


class ConfigError(MeshError):
    """Settings are wrong. ``problems`` holds every one: where it stands, what is wrong, what to do."""

    exit_code = 2

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        count = "one setting is" if len(problems) == 1 else f"{len(problems)} settings are"
        super().__init__(f"{count} wrong", "; ".join(problems), "meshd --help lists them all")

    def __str__(self) -> str:
        return "\n".join([f"{self.what}:", *(f"  {problem}" for problem in self.problems), f"  ({self.hint})"])


@dataclass(frozen=True)
class Config:
    """Everything resolved; nothing is looked up later."""

    role: str
    mesh: str
    name: str
    host: str
    port: int  # 0: any that is free
    peers: tuple[str, ...]  # host:port
    rank: int
    state_dir: Path
    slots: int | None  # None: as many as there are usable cores
    devices: tuple[str, ...]  # empty: all that are found
    min_priority: int
    max_priority: int
    labels: tuple[tuple[str, str], ...]
    profile: str  # empty: as measured
    memory: int | None  # bytes; None: all of it
    store: int | None  # bytes of blobs that are kept; None: by what is free
    send_limit: int  # bytes of blobs per second; 0: no limit
    mdns: bool
    insecure: bool
    new_id: bool
    grace: float  # seconds
    log_level: str
    log_format: str
    settings: tuple[tuple[str, str], ...] = ()  # of the whole mesh, that this node is to set
    loopback: bool = True  # only this machine can reach it
    warnings: tuple[str, ...] = field(default=())

    def warning_in_red(self, stream: IO[str], environ: Mapping[str, str] = os.environ) -> str:
        """The line to show at every start that listens without authentication; empty where nothing is exposed."""
        if self.loopback:
            return ""
        text = INSECURE.format(address=join_address(self.host, self.port) if self.port else self.host)
        if environ.get("NO_COLOR") or not stream.isatty():
            return text
        return f"{RED}{text}{PLAIN}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError([message.removeprefix("argument ")])


def build_parser() -> argparse.ArgumentParser:
    """Every value stays text here: :func:`load` checks them all, and reports all that are wrong."""
    parser = _Parser(
        prog="meshd",
        usage="meshd [OPTION]...",
        description="One node of a mesh: run it on every machine, and the machines are one computer.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"meshd {__version__}")
    groups = {name: parser.add_argument_group(name) for name in dict.fromkeys(option.group for option in OPTIONS)}
    for option in OPTIONS:
        group = groups[option.group]
        if option.switch:
            group.add_argument(option.flag, action="store_true", default=None, help=option.help)
        else:
            action = "append" if option.repeats else "store"
            group.add_argument(option.flag, action=action, metavar=option.metavar, help=option.help)
    groups[RUN].add_argument("--config", metavar="FILE", help="read this file and not the usual mesh.toml")
    for name in LATER:
        parser.add_argument(f"--{name}", metavar="", help=argparse.SUPPRESS)
    return parser


def load(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> Config:
    """Raises :class:`ConfigError` with everything that is wrong. ``--help`` and ``--version`` print and exit."""
    return _Loading(argv, environ).config()


class _Loading:
    """One reading of all sources. Problems gather here, so that they come out together."""

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.problems: list[str] = []
        self.warnings: list[str] = []
        flags, extra = build_parser().parse_known_args(list(argv))
        self.flags: dict[str, Any] = vars(flags)
        self._refuse_extra(extra)
        self._judge_variables()
        self.file = Path()
        self.settings: dict[str, str] = {}
        self.table = self._read_table()

    def config(self) -> Config:
        got = {option.name: self._value(option) for option in OPTIONS}
        mesh, state_dir = got["mesh"], got["state_dir"]
        if got["min_priority"] > got["max_priority"]:
            self.problems.append(
                f"--min-priority {got['min_priority']} is above --max-priority {got['max_priority']}: "
                "nothing could ever run here"
            )
        host, port = got["listen"]
        host, loopback = self._resolve(host, insecure=got["insecure"])
        labels = self._labels(got["label"])
        if state_dir is None:
            state_dir = self._default_state_dir(mesh)
        if self.problems:
            raise ConfigError(self.problems)
        return Config(
            role=got["role"],
            mesh=mesh,
            name=got["name"] or socket.gethostname() or "node",
            host=host,
            port=port,
            peers=tuple(dict.fromkeys(join_address(*peer) for peer in got["peer"])),
            rank=got["rank"],
            state_dir=state_dir,
            slots=got["slots"],
            devices=tuple(dict.fromkeys(got["device"])),
            min_priority=got["min_priority"],
            max_priority=got["max_priority"],
            labels=labels,
            profile=got["profile"],
            memory=got["memory"],
            store=got["store"],
            send_limit=got["send_limit"] or 0,
            mdns=not got["no_mdns"],
            insecure=got["insecure"],
            new_id=got["new_id"],
            grace=got["grace"],
            log_level=got["log_level"],
            log_format=got["log_format"],
            settings=tuple(sorted(self.settings.items())),
            loopback=loopback,
            warnings=tuple(self.warnings),
        )

    # --- sources ---

    def _refuse_extra(self, extra: list[str]) -> None:
        known = [option.flag for option in OPTIONS]
        after_unknown = False
        for argument in extra:
            if argument.startswith("-"):
                flag = argument.partition("=")[0]
                self.problems.append(f"{flag}: there is no such option{_did_you_mean(flag, known)}")
            elif not after_unknown:  # otherwise it is that option's value
                self.problems.append(f"{argument}: not expected here; meshd takes options only")
            after_unknown = argument.startswith("-")

    def _judge_variables(self) -> None:
        known = [option.variable for option in OPTIONS]
        for name in LATER:
            if self.flags[name] is not None:
                self.problems.append(f"--{name}: {LATER[name]}")
            if self.environ.get(f"MESH_{name.upper()}"):
                self.problems.append(f"MESH_{name.upper()}: {LATER[name]}")
        for variable in sorted(set(self.environ) - set(known) - {"MESH_CONFIG"}):
            # Tasks and clients have MESH_ variables of their own, so an unknown one is no error; a near miss is a typo.
            near = difflib.get_close_matches(variable, known, n=1, cutoff=0.88)
            if variable.startswith("MESH_") and near:
                self.warnings.append(f"{variable} is not read; did you mean {near[0]}?")

    def _read_table(self) -> dict[str, Any]:
        given = self.flags["config"] or self.environ.get("MESH_CONFIG")
        base = _xdg(self.environ, "XDG_CONFIG_HOME", ".config")
        if given:
            self.file = Path(os.path.expanduser(given))
        elif base is not None:
            self.file = base / "meshd" / "mesh.toml"
        else:
            return {}
        try:
            return self._refuse_keys(tomllib.loads(self.file.read_text(encoding="utf-8")))
        except OSError as error:
            if given or not isinstance(error, FileNotFoundError | NotADirectoryError):
                self.problems.append(f"{self.file}: cannot be read: {error.strerror}")
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            self.problems.append(f"{self.file}: is not valid TOML: {error}")
        return {}

    def _refuse_keys(self, table: dict[str, Any]) -> dict[str, Any]:
        known = {option.name for option in OPTIONS}
        kept = {}
        for key, value in table.items():
            if key == "mesh" and isinstance(value, dict):
                # A mesh.toml with a [mesh] table has no other place for the name.
                kept.update({"mesh": value.pop("name")} if "name" in value else {})
                self._refuse_table(key, value)
            elif key in LATER_TABLES and key not in known:
                self._refuse_table(key, value)
            elif key in LATER:
                self.problems.append(f"{self.file}: {key}: {LATER[key]}")
            elif key == "config":
                self.problems.append(f"{self.file}: config: a file cannot name another; give --config")
            elif key not in known:
                near = _did_you_mean(key, [*known, *LATER_TABLES])
                self.problems.append(f"{self.file}: {key}: there is no such setting{near}")
            else:
                kept[key] = value
        return kept

    def _refuse_table(self, name: str, value: Any) -> None:
        later = LATER_TABLES[name]
        for key in value if isinstance(value, dict) else ():
            if name == "mesh" and key in MESH_SETTINGS:
                self._set(key, value[key])
            elif later and key not in later:
                near = _did_you_mean(key, [*later, *MESH_SETTINGS])
                self.problems.append(f"{self.file}: [{name}] {key}: there is no such setting{near}")
            else:
                self.problems.append(f"{self.file}: [{name}] {key}: not built yet; remove it")
        if name != "mesh" and not value:
            self.problems.append(f"{self.file}: [{name}]: not built yet; remove it")

    def _set(self, key: str, raw: Any) -> None:
        try:
            self.settings[key] = MESH_SETTINGS[key](str(raw))
        except ValueError as error:
            self.problems.append(f"{self.file}: [mesh] {key}: {error}")

    # --- values ---

    def _value(self, option: Option) -> Any:
        """Parsed, from the first source that has it. A wrong one leaves its problem, and the default goes on."""
        where, raw = self._raw(option)
        if raw is None:
            return option.default
        if where != option.flag and option.flag_only:
            self.problems.append(f"{where}: {option.flag_only}")
            return option.default
        try:
            texts = _texts(option, raw)
            values = [option.parse(text) for text in texts]
        except ValueError as error:
            self.problems.append(f"{where}: {error}")
            return option.default
        return values if option.repeats else values[-1]

    def _raw(self, option: Option) -> tuple[str, Any]:
        if (given := self.flags[option.name]) is not None:
            return option.flag, given
        if given := self.environ.get(option.variable):
            return option.variable, [item.strip() for item in given.split(",")] if option.repeats else given
        if option.name in self.table:
            return f"{self.file}: {option.name}", self.table[option.name]
        return "", None

    # --- judgements on several values ---

    def _resolve(self, host: str, *, insecure: bool) -> tuple[str, bool]:
        """The address of ``host``, and whether only this machine can reach it."""
        try:
            address = _address(host)
        except OSError as error:
            self.problems.append(
                f"--listen {host}: there is no such address ({error.strerror or error}); give one of this machine's"
            )
            return host, True
        loopback = address.is_loopback
        if not loopback and not insecure:
            self.problems.append(
                f"--listen {host}: other machines could reach it, and nothing authenticates them yet, so anyone on the "
                "network could run programs here; leave --listen out to stay on this machine, or add --insecure on a "
                "network where you trust every machine"
            )
        if loopback and insecure:
            self.warnings.append(f"--insecure has no effect: {address} can be reached from this machine only")
        return str(address), loopback

    def _labels(self, pairs: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        labels: dict[str, str] = {}
        for key, value in pairs:
            if labels.setdefault(key, value) != value:
                self.problems.append(f"--label {key}: given as {labels[key]!r} and as {value!r}; a label has one value")
        return tuple(sorted(labels.items()))

    def _default_state_dir(self, mesh: str) -> Path:
        base = _xdg(self.environ, "XDG_STATE_HOME", ".local/state")
        if base is None:
            self.problems.append("--state-dir: there is no home directory to put it in by default; give one")
            return Path()
        return base / "meshd" / mesh


def _texts(option: Option, raw: Any) -> list[str]:
    """A value as the texts that a command line would have held, so that every source is checked by the same rule."""
    if option.switch:
        if isinstance(raw, str) and raw.lower() in ("1", "true", "yes", "on"):
            return ["true"]
        if isinstance(raw, str) and raw.lower() in ("0", "false", "no", "off"):
            return [""]
        if isinstance(raw, bool):
            return ["true" if raw else ""]
        raise ValueError(f"{raw!r} is neither true nor false")
    if option.name == "label" and isinstance(raw, dict):
        raw = [f"{key}={_text(value)}" for key, value in raw.items()]
    if isinstance(raw, list):
        if not option.repeats:
            raise ValueError("takes one value, not a list")
        return [_text(item) for item in raw]
    return [_text(raw)]


def _text(value: Setting) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{value!r} is not a value for it")
    return str(value)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """IPv4 where a name has both. Raises OSError where there is none."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        if re.fullmatch(r"[0-9.]+", host):
            raise OSError("not an IP address") from None  # and no name either: do not ask a name server
    infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    found = [ipaddress.ip_address(str(info[4][0]).partition("%")[0]) for info in infos]
    return min(found, key=lambda address: address.version)


def _did_you_mean(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _xdg(environ: Mapping[str, str], variable: str, below_home: str) -> Path | None:
    """A relative value is to be ignored, says the XDG base directory specification."""
    path = Path(environ.get(variable, ""))
    if path.is_absolute():
        return path
    home = environ.get("HOME", "")
    if not home:
        try:
            home = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:  # a container's made-up user
            return None
    return Path(home) / below_home if home.startswith("/") else None
