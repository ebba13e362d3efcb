"""What this machine offers, as a table of small detectors.

Owns the table, the merging of what they say, and what the owner withholds (:class:`Options`). A detector is a callable
without arguments that returns a mapping of some facts: those in ``_CHECKS``, of which ``faults`` are the reasons for
what it could not find out. Anybody adds one by the entry point group ``computemesh.detectors``; one that fails, hangs
or says nonsense is reported by name and the others go on. It must not know about bids or tasks.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, NamedTuple, TypeAlias

from mesh.core.errors import MeshError
from mesh.core.messages import Device, Offer
from mesh.shell.detectors.builtin import BUILTIN

GROUP = "computemesh.detectors"
PATIENCE = 5.0  # seconds for one detector; asking a card that fell off its bus can take for ever
GIB = 1 << 30
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")

Facts: TypeAlias = Mapping[str, Any]
Detector: TypeAlias = Callable[[], Facts]


class NotOffered(MeshError):
    """The owner wants to offer what this machine does not have."""

    exit_code = 2


class _Failed(Exception):
    """A detector that gave no facts; the text says why."""


class Fault(NamedTuple):
    """A detector that said nothing usable, or one thing in what it said."""

    detector: str
    reason: str


@dataclass(frozen=True)
class Options:
    """What the owner decides. None and empty: as measured."""

    slots: int | None = None
    devices: tuple[str, ...] = ()  # ids; "cpu" alone: no accelerator
    memory: int | None = None  # bytes
    min_priority: int = 1
    max_priority: int = 10
    labels: tuple[tuple[str, str], ...] = ()
    profile: str = ""


@dataclass
class Detection:
    """The detectors of one daemon. :meth:`measure` blocks for milliseconds, at worst seconds: call it in a thread."""

    options: Options
    detectors: Sequence[tuple[str, Detector]] = BUILTIN
    faults: tuple[Fault, ...] = ()  # of the last measurement, and of loading
    _loading: tuple[Fault, ...] = ()
    _hung: dict[str, threading.Thread] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)
    _measured: bool = False

    @classmethod
    def with_plugins(cls, options: Options) -> Detection:
        """The built-in detectors, and those that installed distributions add, in order of their names."""
        added: list[tuple[str, Detector]] = []
        faults = []
        for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
            try:
                detector = entry.load()
            except Exception as error:  # noqa: BLE001 - whatever importing somebody's module may raise
                faults.append(Fault(entry.name, f"cannot be loaded from {entry.value}: {_said(error)}"))
                continue
            if callable(detector):
                added.append((entry.name, detector))
            else:
                faults.append(Fault(entry.name, f"{entry.value} is not callable"))
        return cls(options, (*BUILTIN, *added), tuple(faults), tuple(faults))

    def measure(self) -> Offer:
        """Raises :class:`NotOffered` where the owner chose what has never been there."""
        merged = _Merged()
        for name, detector in self.detectors:
            try:
                merged.add(name, self._run(name, detector))
            except _Failed as error:
                merged.faults.append(Fault(name, str(error)))
            except Exception as error:  # noqa: BLE001 - a mapping of somebody's own making may do anything
                merged.faults.append(Fault(name, _said(error)))
        devices = self._chosen(merged)
        offer = self._offer(merged, devices)
        self.faults = (*self._loading, *merged.faults)
        self._measured = True
        return offer

    def _run(self, name: str, detector: Detector) -> Facts:
        """In a thread of its own, which is left behind when it hangs: nothing can end it."""
        if (hung := self._hung.get(name)) is not None and hung.is_alive():
            raise _Failed("it still hangs")
        outcome: list[Facts | BaseException] = []

        def work() -> None:
            try:
                outcome.append(detector())
            except BaseException as error:  # noqa: BLE001 - SystemExit too: it would end the thread without a word
                outcome.append(error)

        thread = threading.Thread(target=work, name=f"detect-{name}", daemon=True)
        thread.start()
        thread.join(PATIENCE)
        if not outcome:
            self._hung[name] = thread
            raise _Failed(f"it did not answer within {PATIENCE:g} s")
        if isinstance(outcome[0], BaseException):
            raise _Failed(_said(outcome[0])) from outcome[0]
        return outcome[0]

    def _chosen(self, merged: _Merged) -> tuple[Device, ...]:
        found = {device.id: device for device in merged.devices}
        if not self.options.devices:
            return tuple(found.values())
        wanted = [one for one in self.options.devices if one != "cpu"]
        self._seen.update(found)
        unknown = [one for one in wanted if one not in self._seen]
        if unknown:
            exists = ", ".join(f"{device.id} ({device.name})" for device in found.values()) or "none"
            why = "".join(f"; {fault.detector}: {fault.reason}" for fault in merged.faults)
            raise NotOffered(
                f"--device {', '.join(unknown)}: this machine has no such accelerator",
                f"it has: {exists}{why}",
                "choose from these, or leave --device out to offer all of them",
            )
        # It was there at the start: cards fall off their bus, and the rest of the machine is still good.
        merged.faults.extend(Fault("device", f"{one} is gone") for one in wanted if one not in found)
        return tuple(found[one] for one in wanted if one in found)

    def _offer(self, merged: _Merged, devices: tuple[Device, ...]) -> Offer:
        options = self.options
        memory, free = merged.memory, merged.free_memory
        if options.memory is not None:
            if not memory:  # its detector failed: then the owner knows it best
                memory = free = options.memory
            if options.memory > memory and not self._measured:
                raise NotOffered(
                    f"--memory {options.memory} is more than this machine has",
                    f"it has {memory} bytes ({memory / GIB:.1f} GiB)",
                    "give less, or leave --memory out to offer all of it",
                )
            memory, free = min(memory, options.memory), min(free, options.memory)
        slots = options.slots or max(1, merged.millicpus // 1000)
        return Offer(
            slots=slots,
            # An owner who gives more slots than cores wants that many tasks at a time, each of which asks for a core.
            millicpus=max(merged.millicpus, 1000 * slots if options.slots else 0),
            memory=memory,
            free_memory=free,
            devices=devices,
            labels=tuple(sorted({**merged.labels, **dict(options.labels)}.items())),
            profile=options.profile or merged.profile or profile(merged.machine, devices),
            cpu=merged.cpu,
            python=f"{sys.version_info.major}.{sys.version_info.minor}",
            min_priority=options.min_priority,
            max_priority=options.max_priority,
        )


def measure(options: Options) -> Offer:
    """One measurement with everything installed. Faults are not seen here: keep a :class:`Detection` for them."""
    return Detection.with_plugins(options).measure()


def profile(machine: str, devices: Sequence[Device]) -> str:
    """The hardware profile: by the largest CUDA card, else by the processor.

    Sizes are rounded to whole GiB, because a card sold as 8 GB reports 8188 MiB and one sold as 16 GB 16376 MiB.
    """
    largest = max((round(device.memory / GIB) for device in devices if device.kind == "cuda"), default=0)
    if largest > 16:
        return "gpu_high"
    if largest >= 8:
        return "gpu_standard"
    return "cpu_arm_high" if machine.lower() in ("arm64", "aarch64") else "cpu_x86"


class _Merged:
    """What was said so far. Later detectors win; devices and labels add up."""

    def __init__(self) -> None:
        self.cpu, self.machine, self.profile = "", "", ""
        self.millicpus, self.memory, self.free_memory = 1000, 0, 0
        self.devices: list[Device] = []
        self.labels: dict[str, str] = {}
        self.faults: list[Fault] = []

    def add(self, name: str, facts: Facts) -> None:
        """Each fact by itself: a wrong one leaves its fault, and the others count."""
        if not isinstance(facts, Mapping):
            raise _Failed(f"it returned {type(facts).__name__}, not a mapping of facts")
        for key, value in facts.items():
            if key not in _CHECKS:
                self.faults.append(Fault(name, f"there is no fact {key!r}; there are {', '.join(sorted(_CHECKS))}"))
            elif not _CHECKS[key](value):
                self.faults.append(Fault(name, f"{key} cannot be {value!r:.60}"))
            elif key == "faults":
                self.faults.extend(Fault(name, reason) for reason in value)
            elif key == "devices":
                # Of two detectors that name the same card, the later knows more about it.
                ids = {device.id for device in value}
                self.devices = [device for device in self.devices if device.id not in ids] + list(value)
            elif key == "labels":
                self.labels.update(value)
            else:
                setattr(self, key, value)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(NAME.fullmatch(value))


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and len(value) <= 128


def _is_bytes(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_device(value: object) -> bool:
    return (
        isinstance(value, Device)
        and re.fullmatch(r"[a-z][a-z0-9_]*(:\d{1,3})?", str(value.id)) is not None
        and _is_name(value.kind)
        and _is_text(value.name)
        and _is_bytes(value.memory)
        and _is_bytes(value.free_memory)
    )


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "cpu": _is_text,
    "machine": _is_name,
    "profile": _is_name,
    "millicpus": lambda value: _is_bytes(value) and value > 0,
    "memory": _is_bytes,
    "free_memory": _is_bytes,
    "devices": lambda value: isinstance(value, list | tuple) and all(map(_is_device, value)),
    "faults": lambda value: isinstance(value, list | tuple) and all(isinstance(one, str) for one in value),
    "labels": lambda value: (
        isinstance(value, Mapping) and all(_is_name(key) and _is_text(worth) for key, worth in value.items())
    ),
}


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
