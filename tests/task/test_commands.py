from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from mesh.core.lattice import SUCCEEDED
from mesh.task.commands import Command, MetricLines


def test_output_that_cannot_be_kept_does_not_end_the_command(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    control, other = socket.socketpair()
    with control, other:
        script = ["sh", "-c", """echo out; echo err >&2; echo '{"a": 1}'"""]
        command = Command(script, str(tmp_path), dict(os.environ), "", tmp_path / "file" / "no", "")
        ended = command.run(control.fileno(), lambda: 0, lambda values: None)
    assert (ended.phase, ended.message) == (SUCCEEDED, "its output was not kept: Not a directory")
    assert command.metrics.values == {"a": 1}


def parsed(name: str, *pieces: bytes) -> dict[str, int | float | None]:
    lines = MetricLines(name)
    for piece in pieces:
        lines.feed(piece)
    lines.end()
    return lines.values


def test_lines_are_found_however_they_are_cut() -> None:
    text = b'epoch 1\n{"acc": 0.5, "epoch": 1}\r\n  {"acc": 0.75, "epoch": 2}  \n'
    for cut in range(len(text)):
        assert parsed("acc", text[:cut], text[cut:]) == {"acc": 0.75, "epoch": 2}


@pytest.mark.parametrize(
    "line",
    [
        b"acc 0.5",
        b'{"acc": "0.5"}',
        b'{"acc": true}',
        b'{"loss": 1}',
        b'{"acc": 0.5',
        b"{acc: 0.5}",
        b'["acc", 0.5]',
        b'{"acc": 0.5, "pad": "' + b"x" * (1 << 16) + b'"}',
        b'{"acc": 1, "deep": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    ],
    ids=lambda line: line[:20].decode(),
)
def test_other_lines_are_output(line: bytes) -> None:
    assert parsed("acc", line) == {}


def test_without_a_name_every_object_counts() -> None:
    assert parsed("", b'{"a": 1}\n{"b": 2}\n{"a": 3}') == {"a": 3, "b": 2}


def test_what_no_float_holds_becomes_null() -> None:
    assert parsed("", b'{"a": NaN, "b": -Infinity, "c": 1' + b"0" * 400 + b', "d": 1}') == {
        "a": None,
        "b": None,
        "c": None,
        "d": 1,
    }
