"""What a sweep varies: the parameters, their distributions, and drawing from them.

The schema is that of Weights & Biases. Differences, each because the original would surprise: a wrong parameter is
an error and not a warning, and the grid walks the parameters in the order of the file (the last one fastest), where
theirs sorts them by name.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import yaml

from mesh.spec.reader import BAD, Entry, Reader, close_to, show

CONSTANT, CATEGORICAL = "constant", "categorical"
INT_UNIFORM, UNIFORM, LOG_UNIFORM_VALUES = "int_uniform", "uniform", "log_uniform_values"

_NEEDS = {
    CONSTANT: ("value",),
    CATEGORICAL: ("values",),
    INT_UNIFORM: ("min", "max"),
    UNIFORM: ("min", "max"),
    LOG_UNIFORM_VALUES: ("min", "max"),
}
_DISTRIBUTIONS_NOT_BUILT = (
    "categorical_w_probabilities",
    "q_uniform",
    "log_uniform",
    "q_log_uniform",
    "q_log_uniform_values",
    "inv_log_uniform",
    "inv_log_uniform_values",
    "normal",
    "q_normal",
    "log_normal",
    "q_log_normal",
    "beta",
    "q_beta",
)
_SPACE = ("value", "values", "min", "max")
_KEYS = (*_SPACE, "distribution", "parameters")
_KEYS_NOT_BUILT = ("probabilities", "mu", "sigma", "q", "a", "b")

DEEPEST = 20


@dataclass(frozen=True)
class Parameter:
    """One leaf. ``path`` has more than one name where it is nested in others.

    ``values`` holds what is chosen from (constant: the one); ``low`` and ``high`` (inclusive) bound the others.
    """

    path: tuple[str, ...]
    distribution: str
    values: tuple[Any, ...] = ()
    low: int | float = 0
    high: int | float = 0

    @property
    def continuous(self) -> bool:
        return self.distribution in (UNIFORM, LOG_UNIFORM_VALUES)

    @property
    def size(self) -> int:
        """How many values a grid walks. Never builds them: a range may hold billions."""
        return int(self.high) - int(self.low) + 1 if self.distribution == INT_UNIFORM else len(self.values)

    def at(self, position: int) -> Any:
        return int(self.low) + position if self.distribution == INT_UNIFORM else self.values[position]

    def draw(self, share: float) -> Any:
        """The value at ``share``, from 0 up to but not 1, of the distribution."""
        match self.distribution:
            case "uniform":
                found = self.low + (self.high - self.low) * share
            case "log_uniform_values":
                low = math.log(self.low)
                found = math.exp(low + (math.log(self.high) - low) * share)
            case _:
                return self.at(min(int(share * self.size), self.size - 1))
        return min(max(found, float(self.low)), float(self.high))  # rounding must not leave the bounds

    def describe(self) -> dict[str, Any]:
        """As the sweep file's schema says it, with the distribution spelled out."""
        if self.distribution == CONSTANT:
            return {"distribution": CONSTANT, "value": self.values[0]}
        if self.distribution == CATEGORICAL:
            return {"distribution": CATEGORICAL, "values": list(self.values)}
        return {"distribution": self.distribution, "min": self.low, "max": self.high}


def identity(value: Any) -> str:
    """Equal for values that are the same point of a grid: 3.0 and 3 are, True and 1 are not."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, sort_keys=True)


def name_fault(name: str) -> str:
    """Why a parameter cannot have this name; empty if it can."""
    if not name or name.startswith("-") or "=" in name or any(c.isspace() or not c.isprintable() for c in name):
        return f"{name!r} cannot be a parameter's name: it must not start with '-' nor hold '=' or white space"
    return ""


def read_parameters(
    reader: Reader, node: yaml.Node, grid: bool, where: str = "parameters", path: tuple[str, ...] = ()
) -> list[Parameter]:
    """All leaves below ``node``, in the order of the file; what is wrong becomes a problem."""
    if len(path) > DEEPEST:
        reader.stop(node, f"{where} is nested too deeply, or contains itself")
    entries = reader.mapping(node, where)
    if not entries and isinstance(node, yaml.MappingNode):
        reader.refuse(node, f"{where} is empty; it needs at least one parameter")
    found: list[Parameter] = []
    for name, entry in entries.items():
        fault = name_fault(name)
        if fault:
            reader.refuse(entry.key, fault)
        found += _read_parameter(reader, entry.value, grid, f"{where}.{name}", (*path, name))
    return found


def _read_parameter(reader: Reader, node: yaml.Node, grid: bool, where: str, path: tuple[str, ...]) -> list[Parameter]:
    if not isinstance(node, yaml.MappingNode):
        form = "values: [...]" if isinstance(node, yaml.SequenceNode) else "value: ..."
        reader.refuse(node, f"{where} must be a mapping; write {path[-1]}: {{{form}}}")
        return []
    entries = reader.mapping(node, where)
    reader.only(entries, _KEYS, where, _KEYS_NOT_BUILT)
    if "parameters" in entries:
        for name, entry in entries.items():
            if name in _KEYS and name != "parameters":
                reader.refuse(entry.key, f"{where}: {name} does not go with nested parameters")
        return read_parameters(reader, entries["parameters"].value, grid, where, path)
    distribution = _distribution(reader, node, entries, where)
    if distribution is None:
        return []
    needed = _NEEDS[distribution]
    missing = [name for name in needed if name not in entries]
    for name in missing:
        reader.refuse(node, f"{where}: {distribution} needs {name}")
    for name in _SPACE:
        if name in entries and name not in needed:
            reader.refuse(entries[name].key, f"{where}: {name} does not go with {distribution}")
    if missing:
        return []
    if distribution in (CONSTANT, CATEGORICAL):
        parameter = _listed(reader, entries[needed[0]].value, distribution, grid, f"{where}.{needed[0]}", path)
    else:
        parameter = _bounded(reader, entries["min"].value, entries["max"].value, distribution, where, path)
    if grid and parameter is not None and parameter.continuous:
        hint = "give values, or use method: random"
        reader.refuse(node, f"{where}: a grid cannot walk the continuous {distribution}; {hint}")
    return [parameter] if parameter is not None else []


def _distribution(reader: Reader, node: yaml.Node, entries: dict[str, Entry], where: str) -> str | None:
    """The named one, or the inferred: value, values, whole-number bounds, other bounds."""
    if "distribution" in entries:
        given = entries["distribution"].value
        name = reader.text(given, f"{where}.distribution")
        if name is None or name in _NEEDS:
            return name
        if name in _DISTRIBUTIONS_NOT_BUILT:
            reader.refuse(given, f"not built yet: distribution {name} ({where})")
        else:
            hint = close_to(name, [*_NEEDS, *_DISTRIBUTIONS_NOT_BUILT])
            reader.refuse(given, f"{where}: unknown distribution {name!r}{hint}")
        return None
    if "value" in entries:
        return CONSTANT
    if "values" in entries:
        return CATEGORICAL
    if "min" in entries or "max" in entries:
        bounds = [reader.scalar(entries[name].value, f"{where}.{name}") for name in ("min", "max") if name in entries]
        return INT_UNIFORM if all(isinstance(bound, int) for bound in bounds) else UNIFORM
    if all(name in _KEYS for name in entries):  # an unknown key is told already, and is what was meant
        reader.refuse(node, f"{where} needs value, values, or min and max")
    return None


def _listed(
    reader: Reader, node: yaml.Node, distribution: str, grid: bool, where: str, path: tuple[str, ...]
) -> Parameter | None:
    nodes = [node] if distribution == CONSTANT else reader.items(node, where)
    if nodes is None:
        return None
    if not nodes:
        reader.refuse(node, f"{where} is empty; it needs at least one value")
        return None
    values: list[Any] = []
    seen: set[str] = set()
    for item in nodes:
        value = reader.value(item, where)
        if value is BAD:
            continue
        if value is None:
            reader.warn(item, f"{where}: nothing (null) reaches a program's arguments as the text None")
        key = identity(value)
        if grid and key in seen:
            reader.warn(item, f"{where}: {show(value)} stands there already; a grid runs it once")
            continue
        seen.add(key)
        values.append(value)
    return Parameter(path, distribution, tuple(values)) if values else None


def _bounded(
    reader: Reader, low_node: yaml.Node, high_node: yaml.Node, distribution: str, where: str, path: tuple[str, ...]
) -> Parameter | None:
    low, high = reader.number(low_node, f"{where}.min"), reader.number(high_node, f"{where}.max")
    if low is None or high is None:
        return None
    if distribution == INT_UNIFORM:
        fractions = [(n, v) for n, v in ((low_node, low), (high_node, high)) if not isinstance(v, int)]
        for node, bound in fractions:
            reader.refuse(node, f"{where}: int_uniform needs whole numbers, not {bound!r}")
        if fractions:
            return None
        if max(abs(low), abs(high)) >= 2**63:
            reader.refuse(low_node, f"{where}: the bounds must fit 64 bits")
            return None
    elif not math.isfinite(_as_float(high) - _as_float(low)):
        reader.refuse(low_node, f"{where}: the range from {low!r} to {high!r} is too wide")
        return None
    if low >= high:
        reader.refuse(low_node, f"{where}: min {low!r} must be less than max {high!r}")
        return None
    if distribution == LOG_UNIFORM_VALUES and low <= 0:
        reader.refuse(low_node, f"{where}: log_uniform_values needs a min above 0, not {low!r}")
        return None
    return Parameter(path, distribution, (), low, high)


def _as_float(bound: int | float) -> float:
    try:
        return float(bound)
    except OverflowError:
        return math.inf
