"""Transcripts: what a few machines say and do in the situations that matter, word for word.

A script in ``golden/`` is commands (the methods of :class:`tests.core.cluster.Cluster`), each followed by ``----`` and
the effects it had. ``pytest tests/core/test_golden.py --rewrite-golden`` writes the effects anew: read the difference
before you commit it.
"""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from tests.core.cluster import Cluster

GOLDEN = Path(__file__).parent / "golden"
SCRIPTS = sorted(GOLDEN.glob("*.txt"))


def play(text: str) -> str:
    """The script with what really happens."""
    cluster = Cluster()
    said: list[str] = []
    block: list[str] = []
    for line in [*text.splitlines(), ""]:
        if line == "----" or (line and not said_by_machine(block)):
            block.append(line)
        elif not line and block:
            said += [*perform(cluster, block), ""]
            block = []
    return "\n".join(said).rstrip("\n") + "\n"


def said_by_machine(block: list[str]) -> bool:
    return "----" in block


def perform(cluster: Cluster, block: list[str]) -> list[str]:
    commands = block[: block.index("----")] if "----" in block else block
    cluster.lines = []
    asked = [line for line in commands if not line.startswith("#")]
    for line in asked:
        name, *arguments = line.split()
        cluster.steps = 0
        getattr(cluster, name)(*arguments)
    return [*commands, *(["----", *cluster.lines] if asked else [])]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_transcript(script: Path, request: pytest.FixtureRequest) -> None:
    written = script.read_text()
    really = play(written)
    if request.config.getoption("--rewrite-golden"):
        script.write_text(really)
    elif really != written:
        changes = difflib.unified_diff(written.splitlines(), really.splitlines(), "written", "really", lineterm="", n=2)
        pytest.fail("\n".join([f"{script.name} is played otherwise", *changes]), pytrace=False)


def test_the_situations_that_matter_have_a_transcript() -> None:
    assert {path.stem for path in SCRIPTS} >= {
        "start_alone", "two_meet", "submit_and_run", "leader_lost", "yield", "duplicate_identity", "islands", "drain",
        "suspend", "slow_disk", "retry_and_cancel",
    }  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_same_events_have_the_same_effects(script: Path) -> None:
    text = script.read_text()
    assert play(text) == play(text)


def test_a_changed_effect_is_noticed() -> None:
    first = SCRIPTS[0].read_text()
    where = first.index("persists up to ")
    assert play(first[:where] + "forgets " + first[where:]) == play(first), "what a script claims is not believed"
