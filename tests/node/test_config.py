"""Flags, variables and mesh.toml. Every test brings its own environment and configuration directory."""

from __future__ import annotations

import dataclasses
import io
import re
import socket
from pathlib import Path

import pytest

from mesh.node.config import Config, ConfigError, build_parser, load
from mesh.node.options import OPTIONS


class Home:
    """A home directory, and what meshd makes of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path / ".config" / "meshd" / "mesh.toml"
        self.file.parent.mkdir(parents=True)

    def load(self, *argv: str, toml: str | None = None, **environ: str) -> Config:
        if toml is not None:
            self.file.write_text(toml)
        return load(argv, {"HOME": str(self.path), **environ})

    def refused(self, *argv: str, toml: str | None = None, **environ: str) -> tuple[str, ...]:
        with pytest.raises(ConfigError) as raised:
            self.load(*argv, toml=toml, **environ)
        assert raised.value.exit_code == 2
        return raised.value.problems


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_defaults(home: Home) -> None:
    assert home.load() == Config(
        role="auto",
        mesh="default",
        name=socket.gethostname(),
        host="127.0.0.1",
        port=0,
        peers=(),
        rank=50,
        state_dir=home.path / ".local/state/meshd/default",
        slots=None,
        devices=(),
        min_priority=1,
        max_priority=10,
        labels=(),
        profile="",
        memory=None,
        store=None,
        send_limit=0,
        mdns=True,
        insecure=False,
        new_id=False,
        grace=30.0,
        log_level="info",
        log_format="text",
        loopback=True,
    )


# One good value for every option: what a source says, and what becomes of it.
GOOD = {
    "mesh": ("lab", {"mesh": "lab"}),
    "role": ("worker", {"role": "worker"}),
    "rank": ("07", {"rank": 7}),
    "peer": ("10.0.0.5:7001", {"peers": ("10.0.0.5:7001",)}),
    "no_mdns": ("true", {"mdns": False}),
    "name": ("big one", {"name": "big one"}),
    "listen": ("127.0.0.1:7001", {"host": "127.0.0.1", "port": 7001}),
    "insecure": ("true", {"insecure": True}),
    "state_dir": ("/var/lib/x", {"state_dir": Path("/var/lib/x")}),
    "new_id": ("true", {"new_id": True}),
    "slots": ("4", {"slots": 4}),
    "device": ("cuda:1", {"devices": ("cuda:1",)}),
    "memory": ("2GiB", {"memory": 2 << 30}),
    "store": ("200GiB", {"store": 200 << 30}),
    "send_limit": ("50MB", {"send_limit": 50_000_000}),
    "min_priority": ("3", {"min_priority": 3}),
    "max_priority": ("7", {"max_priority": 7}),
    "label": ("room=east", {"labels": (("room", "east"),)}),
    "profile": ("gpu_high", {"profile": "gpu_high"}),
    "grace": ("5", {"grace": 5.0}),
    "log_level": ("debug", {"log_level": "debug"}),
    "log_format": ("json", {"log_format": "json"}),
}
# One wrong value for every option that has one, and a word of the reason.
WRONG = {
    "mesh": ("../etc", "not a mesh name"),
    "role": ("boss", "auto, leader, worker, observer"),
    "rank": ("100", "0 to 99"),
    "peer": ("host:0", "port 0"),
    "name": ("a\nb", "printable"),
    "listen": ("127.0.0.1:99999", "port"),
    "state_dir": ("a\0b", "not a path"),
    "slots": ("0", "from 1"),
    "device": ("GPU 0", "not a device"),
    "memory": ("much", "not a size"),
    "store": ("all", "not a size"),
    "send_limit": ("fast", "not a size"),
    "min_priority": ("0", "1 to 10"),
    "max_priority": ("11", "1 to 10"),
    "label": ("room", "KEY=VALUE"),
    "profile": ("a b", "profile name"),
    "grace": ("-1", "not a time"),
    "log_level": ("loud", "debug, info"),
    "log_format": ("xml", "text, json"),
}


def test_the_tables_above_are_complete() -> None:
    names = {option.name for option in OPTIONS}
    assert set(GOOD) == names
    assert set(WRONG) == names - {option.name for option in OPTIONS if option.switch}


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


SOURCES = [(name, source) for name in sorted(GOOD) for source in ("flag", "variable", "file")]
SOURCES = [pair for pair in SOURCES if pair not in {("new_id", "variable"), ("new_id", "file")}]  # a flag only


@pytest.mark.parametrize(("name", "source"), SOURCES)
def test_every_option_from_every_source(home: Home, name: str, source: str) -> None:
    value, expected = GOOD[name]
    if source == "flag":
        config = home.load(flag(name), *(() if value == "true" else (value,)))
    elif source == "variable":
        config = home.load(**{f"MESH_{name.upper()}": value})
    else:
        config = home.load(toml=f"{name} = {value}" if value == "true" else f'{name} = "{value}"')
    assert {key: getattr(config, key) for key in expected} == expected


@pytest.mark.parametrize("name", sorted(WRONG))
@pytest.mark.parametrize("source", ["flag", "variable", "file"])
def test_every_wrong_value_is_refused_where_it_stands(home: Home, name: str, source: str) -> None:
    value, reason = WRONG[name]
    if source == "flag":
        problems, where = home.refused(f"{flag(name)}={value}"), flag(name)
    elif source == "variable":
        problems, where = home.refused(**{f"MESH_{name.upper()}": value}), f"MESH_{name.upper()}"
    else:
        quoted = value.replace("\n", "\\n").replace("\0", "\\u0000")
        problems, where = home.refused(toml=f'{name} = "{quoted}"'), f"{home.file}: {name}"
    assert len(problems) == 1
    assert problems[0].startswith(f"{where}: ")
    assert reason in problems[0]


def test_flag_over_variable_over_file_over_default(home: Home) -> None:
    toml = 'slots = 3\nmesh = "filed"\nrole = "worker"\npeer = ["a:1", "b:2"]'
    config = home.load("--slots", "1", "--peer", "d:4", toml=toml, MESH_SLOTS="2", MESH_MESH="var", MESH_PEER="c:3")
    assert (config.slots, config.mesh, config.role, config.rank) == (1, "var", "worker", 50)
    assert config.peers == ("d:4",)  # a list replaces the others
    assert config.state_dir.name == "var"


def test_all_errors_come_at_once(home: Home) -> None:
    problems = home.refused(
        "--slots", "x", "--rank", "200", "--slot", "4", "extra", "--min-priority", "9", "--max-priority", "2",
        "--listen", "0.0.0.0", "--join", "T", "--label", "a=1", "--label", "a=2",
        toml='colour = "red"\ngrace = "soon"\n[mlflow]\nuri = "x"\n[mesh]\nlost_after = 3',
        MESH_MEMORY="big", MESH_METRICS="a:1",
    )  # fmt: skip
    text = "\n".join(problems)
    for part in (
        "--slots: 'x'", "--rank: '200'", "--slot: there is no such option; did you mean --slots?",
        "--min-priority 9 is above --max-priority 2", "--listen 0.0.0.0:", "--join: joining by token is not built yet",
        "--label a:", "colour: there is no such setting", "grace: 'soon'", "[mlflow] uri: not built yet",
        "[mesh] lost_after: '3' is not between", "MESH_MEMORY: 'big'", "MESH_METRICS: serving metrics is not built yet",
    ):  # fmt: skip
        assert part in text
    assert len(problems) == 13 + 1  # and the stray word, which is no option's value
    with pytest.raises(ConfigError) as raised:
        home.load("--slots", "x", "--rank", "200", toml="")
    lines = str(raised.value).splitlines()
    assert [line.split(":")[0].strip() for line in lines[:3]] == ["2 settings are wrong", "--rank", "--slots"]


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["--slots"], "--slots: expected one argument"),
        (["--insecure=yes"], "--insecure"),
        (["--slo", "3"], "did you mean --slots?"),  # no abbreviations: a later option could change their meaning
        (["--state_dir", "x"], "did you mean --state-dir?"),
        (["--frobnicate"], "--frobnicate: there is no such option"),
        (["start"], "start: not expected here"),
        (["--join", "T"], "not built yet"),
        (["--metrics", "127.0.0.1:9"], "not built yet"),
        (["--config", "/nowhere/mesh.toml"], "/nowhere/mesh.toml: cannot be read"),
    ],
)
def test_usage_errors(home: Home, argv: list[str], part: str) -> None:
    problems = home.refused(*argv)
    assert len(problems) == 1
    assert part in problems[0]


def test_settings_of_the_whole_mesh_are_read_and_told_in_its_own_terms(home: Home) -> None:
    config = home.load(toml='[mesh]\nname = "lab"\ndurability = "all"\nlost_after = "2m"')
    assert (config.mesh, config.settings) == ("lab", (("durability", "all"), ("lost_after", "120")))


@pytest.mark.parametrize(
    ("toml", "part"),
    [
        ("slots = ", "is not valid TOML"),
        ("slot = 3", "slot: there is no such setting; did you mean slots?"),
        ("min-priority = 3", "did you mean min_priority?"),
        ('join = "T"', "join: joining by token is not built yet"),
        ('metrics = "a:1"', "metrics: serving metrics is not built yet"),
        ('config = "other.toml"', "a file cannot name another"),
        ("new_id = true", "only as a flag"),
        ("[mesh]\ndurability = 2", "[mesh] durability: '2' is none of local, one, all"),
        ("[mesh]\nlost_after = '1s'", "[mesh] lost_after: '1s' is not between 5 s and 7 days"),
        ("[mesh]\nforget_after = '30d'", "[mesh] forget_after: not built yet"),
        ("[mesh]\nlost_aftr = 2", "[mesh] lost_aftr: there is no such setting; did you mean lost_after?"),
        ("[mlflow]", "[mlflow]: not built yet"),
        ("[mlflow]\nuri = 'x'", "[mlflow] uri: not built yet"),
        ("slots = [1, 2]", "takes one value, not a list"),
        ("slots = true", "not a value"),
        ("slots = 1.5", "'1.5' is not a whole number"),
        ("peer = [1979-05-27]", "not a value"),
        ("no_mdns = 3", "neither true nor false"),
        ("mesh = ['a', 'b']", "takes one value, not a list"),
        ("label = {a = [1]}", "not a value"),
    ],
)
def test_file_errors(home: Home, toml: str, part: str) -> None:
    problems = home.refused(toml=toml)
    assert len(problems) == 1
    assert str(home.file) in problems[0]
    assert part in problems[0]


def test_a_file_that_is_not_text(home: Home) -> None:
    home.file.write_bytes(b"\xff\xfe\x00")
    assert "is not valid TOML" in home.refused()[0]


def test_forms_of_lists_and_labels(home: Home) -> None:
    config = home.load(toml='device = "mps"\nlabel = {room = "east", rack = 7}\npeer = ["a", "b:1", "a:7433"]')
    assert config.devices == ("mps",)
    assert config.labels == (("rack", "7"), ("room", "east"))
    assert config.peers == ("a:7433", "b:1")
    config = home.load(toml="", MESH_LABEL="a=1, b=2", MESH_DEVICE="cuda:0,cuda:1")
    assert config.labels == (("a", "1"), ("b", "2"))
    assert config.devices == ("cuda:0", "cuda:1")
    config = home.load("--label", "a=x=y", "--label", "a=x=y", "--label", "b=")
    assert config.labels == (("a", "x=y"), ("b", ""))


def test_the_mesh_table_can_hold_the_name(home: Home) -> None:
    assert home.load(toml='[mesh]\nname = "lab"').mesh == "lab"


@pytest.mark.parametrize(("value", "mdns"), [("1", False), ("yes", False), ("0", True), ("off", True), ("", True)])
def test_a_switch_as_a_variable(home: Home, value: str, mdns: bool) -> None:
    assert home.load(MESH_NO_MDNS=value).mdns is mdns
    assert "neither true nor false" in home.refused(MESH_NO_MDNS="maybe")[0]


def test_a_new_identity_is_drawn_by_a_flag_only(home: Home) -> None:
    assert "only as a flag" in home.refused(MESH_NEW_ID="1")[0]
    assert home.load("--new-id").new_id


def test_a_variable_with_a_typo_is_a_warning_and_others_are_nobodys_business(home: Home) -> None:
    config = home.load(MESH_SLOT="3", MESH_TASK_ID="t", MESH_ADDRESS="a:1", MESH_RUNNER="spawn", MESH_NODE="x")
    assert config.warnings == ("MESH_SLOT is not read; did you mean MESH_SLOTS?",)
    assert config.slots is None


def test_where_the_files_are(home: Home, tmp_path: Path) -> None:
    other = tmp_path / "other" / "meshd" / "mesh.toml"
    other.parent.mkdir(parents=True)
    other.write_text("slots = 9")
    assert home.load(XDG_CONFIG_HOME=str(tmp_path / "other")).slots == 9
    assert home.load("--config", str(other)).slots == 9
    assert home.load(MESH_CONFIG=str(other)).slots == 9
    assert home.load(XDG_CONFIG_HOME="relative").slots is None  # to be ignored, says the specification
    assert home.load("--mesh", "lab", XDG_STATE_HOME="/var/state").state_dir == Path("/var/state/meshd/lab")
    assert home.load("--state-dir", "here").state_dir == Path.cwd() / "here"
    assert home.load(toml='state_dir = "~/x"').state_dir == Path("~/x").expanduser()


@pytest.mark.parametrize(
    ("given", "host", "port"),
    [
        ("127.0.0.1", "127.0.0.1", 7433),
        ("127.0.0.1:0", "127.0.0.1", 0),
        ("localhost:7001", "127.0.0.1", 7001),
        ("[::1]:7001", "::1", 7001),
        ("[::1]", "::1", 7433),
        ("::1", "::1", 7433),
    ],
)
def test_listen(home: Home, given: str, host: str, port: int) -> None:
    config = home.load("--listen", given)
    assert (config.host, config.port, config.loopback) == (host, port, True)


NOWHERE = ["", ":7433", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:-1", "[::1", "[::1]7433", "[]", "a b", "300.1.1.1"]


@pytest.mark.parametrize("given", NOWHERE)
def test_listen_where_nobody_can(home: Home, given: str) -> None:
    problems = home.refused(f"--listen={given}")
    assert len(problems) == 1
    assert problems[0].startswith("--listen")


@pytest.mark.parametrize("given", ["0.0.0.0", "192.0.2.7:7433", "[::]:7433", "[2001:db8::1]:1"])
def test_an_address_that_others_reach_needs_insecure(home: Home, given: str) -> None:
    problem = home.refused("--listen", given)[0]
    assert "anyone on the network could run programs" in problem
    assert "--insecure" in problem
    config = home.load("--listen", given, "--insecure")
    assert not config.loopback
    assert config.warnings == ()


def test_insecure_on_loopback_is_said_to_be_without_effect(home: Home) -> None:
    config = home.load("--insecure")
    assert "has no effect" in config.warnings[0]
    assert config.warning_in_red(io.StringIO(), {}) == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_warning_is_red_on_a_terminal_alone(home: Home) -> None:
    config = home.load("--listen", "0.0.0.0:7001", "--insecure")
    red = config.warning_in_red(Terminal(), {})
    assert red.startswith("\x1b[1;31mINSECURE: 0.0.0.0:7001 ")
    assert red.endswith("\x1b[0m")
    for stream, environ in ((Terminal(), {"NO_COLOR": "1"}), (io.StringIO(), {})):
        assert config.warning_in_red(stream, environ) == red[len("\x1b[1;31m") : -len("\x1b[0m")]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("1024", 1024), ("1k", 1024), ("1KiB", 1024), ("1KB", 1000), ("1.5GiB", 3 << 29), ("16G", 16 << 30),
        ("16GB", 16_000_000_000), ("16gib", 16 << 30), ("2 TiB", 2 << 40), ("5B", 5),
    ],
)  # fmt: skip
def test_sizes(home: Home, given: str, expected: int) -> None:
    assert home.load("--memory", given).memory == expected


@pytest.mark.parametrize("given", ["0", "-1", "1.5.2G", "GiB", "1XB", "1e9", "inf", "0.1"])
def test_sizes_that_are_none(home: Home, given: str) -> None:
    assert "not a size" in home.refused(f"--memory={given}")[0]


@pytest.mark.parametrize(
    ("given", "expected"), [("0", 0.0), ("2.5", 2.5), ("30s", 30.0), ("5m", 300.0), ("1h", 3600.0)]
)
def test_grace(home: Home, given: str, expected: float) -> None:
    assert home.load("--grace", given).grace == expected


def test_numbers_are_plain_digits(home: Home) -> None:
    for given in ("+4", "4_0", "\N{ARABIC-INDIC DIGIT FOUR}", " 4", "4.0"):
        assert "not a whole number" in home.refused(f"--slots={given}")[0]


def test_the_configuration_is_frozen(home: Home) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        home.load().slots = 3  # type: ignore[misc]


def test_help_names_every_option_and_enough_to_start_by_hand() -> None:
    text = build_parser().format_help()
    for option in OPTIONS:
        assert re.search(rf"^  {option.flag}\b", text, re.MULTILINE), option.flag
    assert "--join" not in text  # what is not built is not offered
    for part in ("examples:", "--state-dir /tmp/mesh/b", "--insecure", "mesh.toml", "MESH_SLOTS", "exit codes:"):
        assert part in text


def test_the_examples_of_the_help_are_accepted(home: Home) -> None:
    examples = re.findall(r"^  meshd(.*?)(?:   .*)?$", build_parser().epilog or "", re.MULTILINE)
    assert len(examples) == 7
    for example in examples:
        home.load(*example.split())


def test_help_and_version_exit_with_0(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    for argument in ("--help", "--version"):
        with pytest.raises(SystemExit) as raised:
            home.load(argument)
        assert raised.value.code == 0
    assert "meshd" in capsys.readouterr().out


def test_without_a_home_directory_the_state_directory_must_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_: int) -> None:
        raise KeyError

    monkeypatch.setattr("pwd.getpwuid", nobody)
    with pytest.raises(ConfigError, match="--state-dir: there is no home directory"):
        load([], {})
    assert load(["--state-dir", "/x"], {}).state_dir == Path("/x")
