"""A training loop that goes on where the attempt before it was, to the last bit.

Owns what belongs to a loop's state and when it is saved; how, is :mod:`mesh.task.checkpoints`'.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch

from mesh.core.errors import MeshError
from mesh.task.api import report, should_stop
from mesh.task.checkpoints import checkpoint

EVERY = 60.0  # seconds between checkpoints, where the job does not say
FORMAT = "computemesh loop 1"


def resumable(steps: int, /, **objects: Any) -> Loop:
    """The steps of a loop that are still to be done, after the newest checkpoint was loaded into ``objects``.

    ::

        from mesh.torch import resumable

        for step in (loop := resumable(1000, model=model, optimizer=optimizer, scheduler=scheduler)):
            ...  # as before
            loop.report(loss=loss.item())  # or not

    ``objects`` are all that a step changes: whatever has ``state_dict()`` and ``load_state_dict()``, and dicts of what
    a checkpoint can hold, which are changed in place. The random states of Python, NumPy and torch on all its devices
    are kept as well. So a step does the same whether the loop was interrupted before it or not, if it draws all it
    needs within itself: an epoch over a shuffled DataLoader may be a step; iterators that outlive steps cannot be kept.

    A checkpoint is saved after a step as often as the job says (``MESH_CHECKPOINT_EVERY`` seconds; 60), after the last
    one, and when the task is asked to stop: then the program ends there, by SystemExit, and what comes after the loop
    is left to the attempt that does finish it. A loop that is left by ``break`` or an error saves nothing more.

    Raises:
        TypeError: one of the objects cannot be saved; all that are wrong.
    """
    return Loop(steps, objects)


class Loop:
    """See :func:`resumable`."""

    def __init__(self, steps: int, objects: dict[str, Any]) -> None:
        wrong = [f"{name} is a {type(value).__name__}" for name, value in objects.items() if not _can(value)]
        if wrong:
            hint = "give what has state_dict() and load_state_dict(), or a dict"
            raise TypeError(f"resumable cannot keep all of this: {', '.join(wrong)}; {hint}")
        self.steps = steps
        self.step = 0
        self._objects = objects
        self._metrics: dict[str, Any] = {}

    def report(self, **metrics: Any) -> None:
        """Tell the mesh how it goes, as :func:`mesh.task.report` does; the next checkpoint keeps it too."""
        report(step=self.step, **metrics)
        self._metrics = metrics

    def __iter__(self) -> Iterator[int]:
        distributed = torch.distributed
        if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
            raise MeshError(
                "resumable is for loops of one process",
                f"this one has {distributed.get_world_size()}",
                "save with torch.distributed.checkpoint and mesh.torch.CheckpointWriter",
            )
        every = float(os.environ.get("MESH_CHECKPOINT_EVERY", EVERY))
        first = self._load()
        saved = time.monotonic()
        for step in range(first, self.steps):
            self.step = step
            yield step
            stop = should_stop()
            due = time.monotonic() - saved >= every and not checkpoint.writing  # else training would wait for it
            if stop or due or step == self.steps - 1:
                self._save()
                saved = time.monotonic()
            if stop:
                raise SystemExit(128 + signal.SIGTERM)

    def _save(self) -> None:
        states = {name: value if _plain(value) else value.state_dict() for name, value in self._objects.items()}
        state = {"format": FORMAT, "done": self.step + 1, "objects": states, "random": _random_states()}
        checkpoint.save(state, self.step, self._metrics)

    def _load(self) -> int:
        """The first step that is not done yet."""
        state = checkpoint.load()
        if state is None:
            return 0
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise MeshError("the newest checkpoint was not saved by resumable", "", "load it with task.checkpoint.load")
        states = state["objects"]
        if states.keys() != self._objects.keys():
            saved, named = ", ".join(sorted(states)) or "nothing", ", ".join(sorted(self._objects)) or "nothing"
            hint = "give it the same objects, or start a new job"
            raise MeshError("the newest checkpoint is one of another loop", f"it keeps {saved}, and not {named}", hint)
        for name, value in self._objects.items():
            if _plain(value):
                value.clear()
                value.update(states[name])
            else:
                value.load_state_dict(states[name])
        _restore_random(state["random"])
        return int(state["done"])


def _plain(value: object) -> bool:
    return isinstance(value, dict)


def _can(value: object) -> bool:
    return _plain(value) or all(callable(getattr(value, name, None)) for name in ("state_dict", "load_state_dict"))


def _random_states() -> dict[str, Any]:
    states: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if "numpy" in sys.modules:
        states["numpy"] = sys.modules["numpy"].random.get_state()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def _restore_random(states: dict[str, Any]) -> None:
    """As far as this machine has what drew them."""
    random.setstate(states["python"])
    torch.set_rng_state(states["torch"])
    if "numpy" in states:
        import numpy

        numpy.random.set_state(states["numpy"])
    if torch.cuda.is_available():
        for device, state in zip(range(torch.cuda.device_count()), states.get("cuda", ()), strict=False):
            torch.cuda.set_rng_state(state, device)
    if "mps" in states and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"])
