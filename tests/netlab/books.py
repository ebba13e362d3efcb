"""What the parties of a chaos run wrote down: the clients, the attempts, and the journals of the nodes."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mesh.core.lattice import Attempt
from mesh.core.ledger import Ledger
from mesh.shell.journal import Journal


class Shown(NamedTuple):
    """What a client was told of a task's end."""

    client: str
    task: str
    state: str
    attempt: str = ""
    nonce: int | None = None
    why: str = ""


class Done(NamedTuple):
    """What an attempt wrote of itself. ``ended``: None where it never came to its end."""

    attempt: str
    task: str
    node: str
    began: float
    ended: float | None = None
    stopped: float | None = None  # it was asked to stop, or raised
    nonce: int | None = None

    @property
    def leader(self) -> str:
        """The node that granted it, as its id says: term, leader, life, number."""
        return self.attempt.split(".")[1]


class Told(NamedTuple):
    """All that the clients were told."""

    acknowledged: dict[str, str]  # task -> client
    shown: list[Shown]
    gave_up: list[str]
    waiting: list[str]  # acknowledged or not, it had not ended when its client's time was over


def told(paths: list[Path]) -> Told:
    found = Told({}, [], [], [])
    for path in paths:
        client = path.stem
        for line in _lines(path):
            for task in line.get("acknowledged", ()):
                found.acknowledged[task] = client
            if "shown" in line:
                found.shown.append(
                    Shown(
                        client, line["shown"], line["state"], line.get("attempt", ""), line.get("nonce"),
                        str(line.get("why") or ""),
                    )
                )  # fmt: skip
            if "gave_up" in line:
                found.gave_up.append(f"{client}: {line['gave_up']}: {line['why']}")
            found.waiting.extend(line.get("waiting", ()))
    return found


def attempts(directory: Path) -> dict[str, Done]:
    found = {}
    for path in sorted(directory.iterdir()):
        lines = list(_lines(path))
        if not lines:  # killed between making the file and writing into it
            continue
        done = Done(path.name, lines[0]["task"], lines[0]["node"], lines[0]["began"])
        for line in lines[1:]:
            if "ended" in line:
                done = done._replace(ended=line["ended"], nonce=line["nonce"])
            else:
                done = done._replace(stopped=line["at"])
        found[path.name] = done
    return found


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The last line may be cut off where its writer was killed."""
    for line in path.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)


def ledger(path: Path) -> Ledger:
    """Everything that this journal holds, joined. Raises JournalError, or AssertionError where it does not fit."""
    joined = Ledger()
    journal = Journal.open(path)
    try:
        for record in journal.records():
            joined.join(record)
    finally:
        journal.close()
    joined.check(whole=True)
    return joined


def joined(ledgers: list[Ledger]) -> Ledger:
    """What all journals hold together, as if every machine had met every other."""
    whole = Ledger()
    for each in ledgers:
        for record in each.records():
            whole.join(record)
    whole.check(whole=True)
    return whole


def nonce_of(attempt: Attempt) -> int | None:
    """The nonce in the result that this attempt's holder recorded."""
    if attempt.outcome.result:
        value = pickle.loads(attempt.outcome.result)
        return value["nonce"] if isinstance(value, dict) else None
    return json.loads(attempt.outcome.metrics or b"{}").get("nonce")  # type: ignore[no-any-return]
