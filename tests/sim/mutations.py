"""A kept list of one-line breakages, each of which the default worlds must catch.

A rule that can be broken without a world noticing is a rule that nothing tests. A mutation is applied to the text of
one module while a fresh interpreter imports it: ``python -m tests.sim.mutations NAME`` plays the default seeds from 0
under it, and exits with 0 once a world fails.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import NamedTuple

WORLDS = 240  # within which each must be caught


class Mutation(NamedTuple):
    """``old`` stands in the module's source exactly once, and becomes ``new``."""

    name: str
    module: str
    old: str
    new: str
    seed: int = 0  # of a world that showed it: tried first


MUTATIONS = (
    # Claims: who is obeyed.
    Mutation("a lower term wins", "mesh.core.ids", "self.established, self.term,", "self.established, -self.term,"),
    Mutation("a claim is used before it is synced", "mesh.core.election", "self.out.when_durable(use)", "use()"),
    Mutation(
        "who was judged to go does not", "mesh.core.election", "elif verdict.yields == self.me.node:", "elif False:", 6
    ),
    Mutation("nobody settles", "mesh.core.election", "now - max(self.since, self.lagged_at) < steady", "False", 1),
    Mutation("lost leaderships are not counted", "mesh.core.election", "self.losses += 1", "self.losses += 0", 1),
    Mutation(
        "a slept leader still leads",
        "mesh.core.election",
        "self.claim = self.claim._replace(established=False)",
        "pass",
        4,
    ),
    Mutation("a broken journal leads on", "mesh.core.election", "self.abdicate(why, now)", "pass", 146),
    # Who is there.
    Mutation(
        "alive in one direction",
        "mesh.core.members",
        "now - peer.heard < window and now - peer.acked < window",
        "now - peer.heard < window",
        1,
    ),
    Mutation(
        "a timed out dial means gone", "mesh.core.members", "if gone and peer is not None", "if peer is not None", 193
    ),
    Mutation("doubles are welcome", "mesh.core.door", "or self._judge_double(mine, hello, event.dialed, now)", "", 39),
    # Checkpoints.
    Mutation(
        "what was lost has saved nothing",
        "mesh.core.leader",
        "phase=LOST, outcome=Outcome(code=code))",
        "phase=LOST, outcome=Outcome(code=code), saved=())",
        222,
    ),
    Mutation(
        "nobody goes on from a checkpoint",
        "mesh.core.leader",
        "decision.alternative, resume)",
        "decision.alternative)",
        174,
    ),
    # Merging.
    Mutation(
        "the first word on an attempt stays",
        "mesh.core.ledger",
        "if attempt <= known:",
        "if True:",
    ),
    Mutation(
        "the last word on an attempt wins",
        "mesh.core.ledger",
        "if attempt <= known:",
        "if attempt == known:",
    ),
    Mutation(
        "lost attempts stay open", "mesh.core.ledger", "if not a.ended and a.phase != LOST]", "if not a.ended]", 2
    ),
    Mutation(
        "records are not journaled", "mesh.core.outbox", "self._records[-1][1].extend(records)", "len(self._records)"
    ),
    Mutation("transfers stop after a slice", "mesh.core.puller", "if pulled.end:", "if True:"),
    # Promises wait for the disk.
    Mutation("nothing waits for the disk", "mesh.core.outbox", "if self.synced >= self.recorded:", "if True:"),
    Mutation(
        "answers do not wait for the disk",
        "mesh.core.leader",
        "self.out.when_safe(Answer(event.call, count=len(event.tasks)))",
        "self.out.do(Answer(event.call, count=len(event.tasks)))",
    ),
    Mutation(
        "acknowledged before it is on disk",
        "mesh.core.leader",
        "self.out.when_safe(lambda: self.out.send(sender, answer))",
        "self.out.send(sender, answer)",
    ),
    Mutation(
        "results are reported before they are on disk",
        "mesh.core.worker",
        "if ended and leader != self.me.node:",
        "if False:",
    ),
    Mutation(
        "endings are shown before they are on disk",
        "mesh.core.tasks",
        "self.out.when_safe(lambda: self._show(tasks, position))",
        "self._show(tasks, position)",
    ),
    # Copies: what is acknowledged or shown is on a successor's disk.
    Mutation("nothing waits for a copy", "mesh.core.copies", "elif positions:", "elif False:"),
    Mutation(
        "a pull tells what is not on disk yet",
        "mesh.core.puller",
        "self.out.when_durable(lambda: self._on_durable(sender, session, cursor, now))",
        "self._on_durable(sender, session, cursor, now)",
    ),
    Mutation(
        "answers do not wait for a copy",
        "mesh.core.leader",
        "self.out.when_safe(Answer(event.call, count=len(event.tasks)))",
        "self.out.when_durable(Answer(event.call, count=len(event.tasks)))",
    ),
    Mutation(
        "changes are shown as they stand",
        "mesh.core.tasks",
        "if self._shown_at.get(task) == position:\n                del self._shown_at[task]",
        "if self._shown_at.pop(task, None) is not None:\n                pass",
    ),
    # Orders: fence, numbering, repetition.
    Mutation(
        "orders of another session are obeyed",
        "mesh.core.worker",
        "if orders.session != self.session:",
        "if False:",
        51,
    ),
    Mutation("orders are applied again", "mesh.core.worker", "if orders.seq != self.applied + 1:", "if False:", 3),
    # Deletion and compaction.
    Mutation("a job's record outlives its tombstone", "mesh.core.ledger", "if job.id in self.deleted:", "if False:", 1),
    Mutation("tasks outlive their tombstone", "mesh.core.ledger", "if self.is_deleted(task.id):", "if False:", 1),
    Mutation(
        "a deletion is acknowledged before it is safe",
        "mesh.core.control",
        "self.on_deleted(name)\n            self.out.when_safe(",
        "self.on_deleted(name)\n            self.out.do(",
    ),
    Mutation(
        "results of deleted jobs are kept for ever",
        "mesh.core.leader",
        "if self.ledger.is_deleted(attempt.task):  # nothing",
        "if False:  # nothing",
    ),
    Mutation(
        "compaction drops results",
        "mesh.core.compaction",
        "attempt.phase == SUCCEEDED if attempt.ended",
        "attempt.phase > SUCCEEDED if attempt.ended",
        8,
    ),
    # Leases and losses.
    Mutation(
        "what is silent is lost at once",
        "mesh.core.losses",
        "if peer is not None and peer.gone else now + self.after)",
        "if True else 0.0)",
        5,
    ),
    Mutation(
        "what was not declared runs on",
        "mesh.core.leader",
        "if attempt.id not in declared and attempt.id not in session.open:",
        "if False:",
        3,
    ),
    # Hold tasks: what must not run twice.
    Mutation(
        "who does not own a hold task grants it", "mesh.core.owners", "if owns(ledger, node, task):", "if True:", 2
    ),
    Mutation("a lost hold task is granted again", "mesh.core.owners", "if nodes:", "if False:"),
    Mutation(
        "a hold task is granted before that is on disk",
        "mesh.core.leader",
        "self.out.when_durable(issue)",
        "issue()",
    ),
    Mutation(
        "who takes a submission of hold tasks owns them",
        "mesh.core.tasks",
        'self.out.record(Owner(job.id, "", 0, owner))',
        'self.out.record(Owner(job.id, "", 0, self.out.node))',
    ),
    Mutation("the first owner stays the owner", "mesh.core.ledger", "if owner <= known:", "if True:"),
)


class _Loader(SourceFileLoader):
    def __init__(self, mutation: Mutation, path: str) -> None:
        super().__init__(mutation.module, path)
        self.mutation = mutation

    def get_code(self, fullname: str) -> CodeType:
        """Of the changed text, past any bytecode that is cached."""
        text = self.get_source(fullname) or ""
        found = text.count(self.mutation.old)
        if found != 1:
            raise ImportError(
                f"{self.mutation.name}: {self.mutation.old!r} stands {found} times in {fullname}, not once"
            )
        return compile(text.replace(self.mutation.old, self.mutation.new), self.path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def __init__(self, mutation: Mutation) -> None:
        self.mutation = mutation

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path) if fullname == self.mutation.module else None
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(self.mutation, spec.origin)
        return spec


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.mutations", description=__doc__)
    parser.add_argument("name", choices=[mutation.name for mutation in MUTATIONS])
    parser.add_argument("--worlds", type=int, default=WORLDS)
    options = parser.parse_args()
    mutation = next(mutation for mutation in MUTATIONS if mutation.name == options.name)
    if any(name.startswith("mesh.core") for name in sys.modules):
        raise SystemExit("the core was imported before it could be changed")
    sys.meta_path.insert(0, _Finder(mutation))
    from tests.sim.run import build, play

    for seed in dict.fromkeys((mutation.seed, *range(options.worlds))):
        try:
            violations = play(build(seed)).violations
        except Exception as error:  # noqa: BLE001 - a core that breaks was caught as well
            violations = (f"{type(error).__name__}: {error}",)
        if violations:
            print(f"caught in seed {seed}: {violations[0]}")
            return 0
    print(f"not caught in {options.worlds} worlds")
    return 1


if __name__ == "__main__":
    sys.exit(main())
