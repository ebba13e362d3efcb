"""Tasks that write down that they began and go on when the test opens their gate, so that no test needs a duration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from tests.e2e.mesh import until

# The draft is renamed so that a file that is there is complete.
SCRIPT = """\
x=${1#--x=}
file="$DIR/$MESH_TASK_ID@$MESH_ATTEMPT"
echo "$$ $PPID $MESH_NODE $MESH_TASK_ID $MESH_ATTEMPT $x" > "$DIR/.$MESH_ATTEMPT" && mv "$DIR/.$MESH_ATTEMPT" "$file"
while [ ! -e "$DIR/open" ] && [ ! -e "$DIR/open-$x" ]; do sleep 0.1; done
echo "{\\"score\\": $x}"
"""


class Began(NamedTuple):
    pid: int
    runner: int  # the process that started it
    node: str
    task: str
    attempt: str
    x: int


class Gated:
    """One sweep over ``x``; its score is its ``x``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "gated"
        self.directory.mkdir()
        (self.directory / "gated.sh").write_text(SCRIPT)

    def sweep(self, count: int, **options: Any) -> str:
        """A file of ``count`` trials; ``options`` are those under ``mesh:``."""
        retries = {"max": 2, "backoff": "100ms"}
        document = {
            "name": "gated",
            "command": ["sh", "gated.sh", "${args}"],
            "method": "grid",
            "metric": {"name": "score", "goal": "maximize"},
            "parameters": {"x": {"values": list(range(count))}},
            "mesh": {"retries": retries, "env": {"vars": {"DIR": str(self.directory)}}} | options,
        }
        path = self.directory / "sweep.yaml"
        path.write_text(json.dumps(document))  # JSON is YAML
        return str(path)

    def began(self) -> list[Began]:
        """Every attempt that has begun so far, in the order of the trials."""
        found = []
        for path in self.directory.glob("*@*"):
            pid, runner, node, task, attempt, x = path.read_text().split()
            found.append(Began(int(pid), int(runner), node, task, attempt, int(x)))
        return sorted(found, key=lambda began: (began.x, began.attempt))

    def until_began(self, count: int) -> list[Began]:
        return until(lambda: found if len(found := self.began()) >= count else [], what=f"{count} attempts began")

    def opened(self, x: int) -> bool:
        return (self.directory / f"open-{x}").exists()

    def open(self, x: int | None = None) -> None:
        """Let all go on, or those with this ``x``."""
        (self.directory / ("open" if x is None else f"open-{x}")).touch()
