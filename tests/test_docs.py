"""What the documents say exists does exist, and what exists is documented."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from bench.harness import daemon

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/ARCHITECTURE.md")]
README = DOCUMENTS[0].read_text(encoding="utf-8")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


@cache
def help_of(program: str, *command: str) -> str:
    script = Path(sys.executable).with_name(program)
    done = subprocess.run([script, *command, "--help"], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"{program} {' '.join(command)} --help exited with {done.returncode}:\n{done.stderr}"
    return done.stdout


def shown_commands(program: str) -> list[str]:
    """Lines of shell blocks, and code in tables and prose, that start with this program."""
    blocks = re.findall(r"```(?:sh|console)\n(.*?)```", README, re.DOTALL)
    lines = [line.removeprefix("$ ").partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    return [line for line in lines + re.findall(r"`([^`\n]+)`", prose) if re.match(rf"{program}\b", line)]


def documented(word: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", README) is not None


@cache
def meshctl_commands() -> tuple[str, ...]:
    """As `meshctl --help` lists them."""
    listed = help_of("meshctl").partition("COMMAND\n")[2].partition("\n\n")[0]
    return tuple(re.findall(r"^    ([a-z]+)\b", listed, re.MULTILINE))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    targets = [t for t in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in t]
    headings = {
        re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }
    for target in targets:
        if target.startswith("#"):
            assert target[1:] in headings
        else:
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_named_files_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    named = re.findall(r"`((?:mesh|tests|proto|sweeps|tools|bench|docs)/[\w./-]*)`", text)
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for document in DOCUMENTS:
        code = re.findall(r"```sh\n.*?```|`[^`\n]+`", document.read_text(encoding="utf-8"), re.DOTALL)
        used = {target for part in code for target in re.findall(r"(?:^|`)make ([a-z-]+)", part, re.MULTILINE)}
        assert used <= targets
    assert {"demo", "test", "check", "sim", "bench", "proto", "verify-proto", "help"} <= targets


def test_every_option_of_meshd_is_in_the_readme() -> None:
    options = set(FLAG.findall(help_of("meshd").partition("examples:")[0])) - {"--help", "--version"}
    assert len(options) > 15
    assert sorted(option for option in options if not documented(option)) == []


def test_the_readme_shows_only_options_that_meshd_has() -> None:
    shown = {flag for line in shown_commands("meshd") for flag in FLAG.findall(line)}
    table = README.partition("| `meshd` option |")[2].partition("\n\n")[0]
    assert {"--listen", "--mesh"} <= shown
    assert sorted((shown | set(FLAG.findall(table))) - set(FLAG.findall(help_of("meshd")))) == []


def test_every_command_of_meshctl_is_in_the_readme() -> None:
    table = README.partition("| command |")[2].partition("\n\n")[0]
    words = set(re.findall(r"[a-z]+", " ".join(re.findall(r"`([^`]+)`", table))))
    assert len(meshctl_commands()) > 15
    assert sorted(set(meshctl_commands()) - words) == []


def test_the_readme_shows_only_commands_and_options_that_meshctl_has() -> None:
    lines = [line.partition(" -- ")[0].split() for line in shown_commands("meshctl")]
    commands = [line for line in lines if len(line) > 1 and not line[1].startswith("-")]
    assert {"peers", "submit"} <= {line[1] for line in commands}
    for line in commands:
        assert line[1] in meshctl_commands()
        assert set(FLAG.findall(" ".join(line))) <= set(FLAG.findall(help_of("meshctl", line[1]))), line


PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_python_in_the_readme_compiles() -> None:
    assert len(PYTHON) >= 2
    for block in PYTHON:
        ast.parse(block)


@pytest.mark.e2e
def test_the_first_python_example_runs(tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(PYTHON[0], encoding="utf-8")
    with daemon("--slots", "2", "--name", "docs") as it:
        done = subprocess.run(
            [sys.executable, script], env=it.env, capture_output=True, text=True, timeout=60, check=False
        )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["18.0", str([x * x * 1.0 for x in range(10)]), "['docs']", "499999500000"]
