"""The ``mesh:`` block of a file: how its tasks are run, in the ledger's own terms."""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from dataclasses import dataclass

import yaml

from mesh.core.checkpoints import MOST_KEPT
from mesh.core.lattice import USUAL, Checkpointing, Resources, Retries
from mesh.spec.environment import Load, python_problem, requirements_of_file, variable_problem
from mesh.spec.reader import BAD, Reader, close_to, show
from mesh.spec.units import duration_ms, size

_KEYS = (
    "priority",
    "resources",
    "retries",
    "timeout",
    "on_lost",
    "max_parallel",
    "files",
    "env",
    "checkpoints",
    "search",
)
_RESOURCES = ("cpus", "memory", "gpus", "gpu_memory", "device", "labels", "profile")
_DEVICES = ("any", "cpu", "cuda", "mps")
_RETRIES = ("max", "backoff", "factor", "max_delay", "not_on")

_NO_RETRIES = Retries()

LARGEST_COUNT = 1_000_000  # of cores, cards, retries, parallel tasks: beyond it is a slip of the hand


@dataclass(frozen=True)
class Options:
    priority: int = 5
    alternatives: tuple[Resources, ...] = (Resources(),)
    retries: Retries = _NO_RETRIES
    timeout_ms: int = 0  # 0: none
    max_parallel: int = 0  # 0: as many as fit
    files: str = ""  # the directory to be shipped, as it is written: relative to the file's own; empty: none
    env: tuple[tuple[str, str], ...] = ()
    python: str = ""  # the minor version; empty: whichever meshd has
    requirements: str = ""  # what is to be installed, one requirement per line
    hold: bool = False  # on_lost: hold
    checkpoints: Checkpointing = USUAL  # its metric is the sweep's
    seed: int | None = None  # of random search; None: the job's id


def read_options(reader: Reader, node: yaml.Node, method: str, load: Load) -> Options:
    """What is wrong becomes a problem, and its default stands in for it. ``load`` reads a file of requirements."""
    if _is_null(node):
        return Options()
    entries = reader.mapping(node, "mesh")
    reader.only(entries, _KEYS, "mesh")
    nodes = {name: entry.value for name, entry in entries.items()}
    env, python, requirements = _read_env(reader, nodes["env"], load) if "env" in nodes else ((), "", "")
    return Options(
        priority=_integer(reader, nodes, "mesh.priority", 1, 10, 5),
        alternatives=_alternatives(reader, nodes["resources"]) if "resources" in nodes else (Resources(),),
        retries=_read_retries(reader, nodes["retries"]) if "retries" in nodes else _NO_RETRIES,
        timeout_ms=_unit(reader, nodes, "mesh.timeout", duration_ms, 0, positive=True),
        max_parallel=_integer(reader, nodes, "mesh.max_parallel", 1, LARGEST_COUNT, 0),
        files=_read_files(reader, nodes["files"]) if "files" in nodes else "",
        env=env,
        python=python,
        requirements=requirements,
        hold="on_lost" in nodes and _read_on_lost(reader, nodes["on_lost"]),
        checkpoints=_read_checkpoints(reader, nodes["checkpoints"]) if "checkpoints" in nodes else USUAL,
        seed=_read_search(reader, nodes["search"], method) if "search" in nodes else None,
    )


def _is_null(node: yaml.Node) -> bool:
    return node.tag == "tag:yaml.org,2002:null"


def _last(where: str) -> str:
    return where.rpartition(".")[2]


def _integer(reader: Reader, nodes: dict[str, yaml.Node], where: str, low: int, high: int | None, default: int) -> int:
    if _last(where) not in nodes:
        return default
    found = reader.integer(nodes[_last(where)], where, low, high)
    return default if found is None else found


def _unit(
    reader: Reader,
    nodes: dict[str, yaml.Node],
    where: str,
    convert: Callable[[object], int],
    default: int,
    positive: bool = False,
) -> int:
    if _last(where) not in nodes:
        return default
    node = nodes[_last(where)]
    written = reader.scalar(node, where)
    if written is BAD:
        return default
    try:
        found = convert(written)
    except ValueError as error:
        reader.refuse(node, f"{where}: {error}")
        return default
    if positive and found == 0:
        reader.refuse(node, f"{where} must be more than nothing; leave it out for no limit")
    return found


def _thousandths(reader: Reader, nodes: dict[str, yaml.Node], where: str, default: int) -> int:
    if _last(where) not in nodes:
        return default
    node = nodes[_last(where)]
    found = reader.number(node, where)
    if found is None:
        return default
    if not 0 <= found <= LARGEST_COUNT:
        reader.refuse(node, f"{where} must be from 0 to {LARGEST_COUNT}, not {found!r}")
        return default
    if 0 < found < 0.001:
        reader.refuse(node, f"{where}: {found!r} is less than a thousandth, the smallest share")
    return round(found * 1000)


def _read_on_lost(reader: Reader, node: yaml.Node) -> bool:
    choice = reader.text(node, "mesh.on_lost")
    if choice not in (None, "retry", "hold"):
        reader.refuse(node, f"mesh.on_lost must be retry or hold, not {choice!r}")
    return choice == "hold"


def _read_files(reader: Reader, node: yaml.Node) -> str:
    return "" if _is_null(node) else reader.text(node, "mesh.files") or ""


def _alternatives(reader: Reader, node: yaml.Node) -> tuple[Resources, ...]:
    if not isinstance(node, yaml.SequenceNode):
        return (_read_resources(reader, node, "mesh.resources"),)
    items = reader.items(node, "mesh.resources") or []
    if not items:
        reader.refuse(node, "mesh.resources is an empty list; leave it out for one core")
        return (Resources(),)
    return tuple(_read_resources(reader, item, f"mesh.resources[{n}]") for n, item in enumerate(items))


def _read_resources(reader: Reader, node: yaml.Node, where: str) -> Resources:
    """One alternative. Asking for GPU memory or for cuda or mps asks for one GPU where ``gpus`` is not given."""
    entries = reader.mapping(node, where)
    reader.only(entries, _RESOURCES, where)
    nodes = {name: entry.value for name, entry in entries.items()}
    device = "any"
    if "device" in nodes:
        given = reader.text(nodes["device"], f"{where}.device")
        if given in _DEVICES:
            device = given
        elif given is not None:
            hint = close_to(given, _DEVICES)
            reader.refuse(nodes["device"], f"{where}.device must be any, cpu, cuda or mps, not {given!r}{hint}")
    gpu_memory = _unit(reader, nodes, f"{where}.gpu_memory", size, 0)
    milligpus = _thousandths(reader, nodes, f"{where}.gpus", 1000 if gpu_memory or device in ("cuda", "mps") else 0)
    if milligpus > 1000 and milligpus % 1000:
        reader.refuse(nodes["gpus"], f"{where}.gpus must be a share of one GPU (0.5) or whole GPUs (2)")
    if milligpus == 0 and gpu_memory:
        reader.refuse(nodes["gpu_memory"], f"{where}.gpu_memory needs a GPU, but gpus is 0")
    if milligpus == 0 and device in ("cuda", "mps"):
        reader.refuse(nodes["device"], f"{where}.device {device} needs a GPU, but gpus is 0")
    if milligpus and device == "cpu":
        reader.refuse(nodes["device"], f"{where}.device cpu has no GPU; leave out gpus and gpu_memory")
    profile = reader.text(nodes["profile"], f"{where}.profile") if "profile" in nodes else ""
    return Resources(
        millicpus=_thousandths(reader, nodes, f"{where}.cpus", 1000),
        memory=_unit(reader, nodes, f"{where}.memory", size, 0),
        milligpus=milligpus,
        gpu_memory=gpu_memory,
        device=device,
        labels=_texts(reader, nodes["labels"], f"{where}.labels") if "labels" in nodes else (),
        profile=profile or "",
    )


def _texts(reader: Reader, node: yaml.Node, where: str) -> tuple[tuple[str, str], ...]:
    """A mapping of texts as they are written (``yes`` stays yes), sorted by key."""
    if _is_null(node):
        return ()
    found = []
    for name, entry in reader.mapping(node, where).items():
        if isinstance(entry.value, yaml.ScalarNode) and not entry.value.value and not _is_null(entry.value):
            found.append((name, ""))
        elif (text := reader.text(entry.value, f"{where}.{name}")) is not None:
            found.append((name, text))
    return tuple(sorted(found))


def _read_retries(reader: Reader, node: yaml.Node) -> Retries:
    entries = reader.mapping(node, "mesh.retries")
    reader.only(entries, _RETRIES, "mesh.retries")
    nodes = {name: entry.value for name, entry in entries.items()}
    if isinstance(node, yaml.MappingNode) and "max" not in nodes:
        reader.refuse(node, "mesh.retries needs max: how often a failed task is tried again")
    factor_milli = _thousandths(reader, nodes, "mesh.retries.factor", _NO_RETRIES.factor_milli)
    if factor_milli < 1000:
        reader.refuse(nodes["factor"], "mesh.retries.factor must be 1 or more")
    return Retries(
        max=_integer(reader, nodes, "mesh.retries.max", 0, LARGEST_COUNT, 0),
        backoff_ms=_unit(reader, nodes, "mesh.retries.backoff", duration_ms, _NO_RETRIES.backoff_ms),
        factor_milli=factor_milli,
        max_delay_ms=_unit(reader, nodes, "mesh.retries.max_delay", duration_ms, _NO_RETRIES.max_delay_ms),
        not_on=_read_not_on(reader, nodes["not_on"]) if "not_on" in nodes else (),
    )


def _read_not_on(reader: Reader, node: yaml.Node) -> tuple[str, ...]:
    items = reader.items(node, "mesh.retries.not_on") or []
    texts = [reader.text(item, "mesh.retries.not_on") for item in items]
    return tuple(text for text in texts if text is not None)


def _read_checkpoints(reader: Reader, node: yaml.Node) -> Checkpointing:
    if _is_null(node):
        return USUAL
    entries = reader.mapping(node, "mesh.checkpoints")
    reader.only(entries, ("every", "keep", "copies"), "mesh.checkpoints")
    nodes = {name: entry.value for name, entry in entries.items()}
    return Checkpointing(
        every_ms=_unit(reader, nodes, "mesh.checkpoints.every", duration_ms, USUAL.every_ms),
        keep=_integer(reader, nodes, "mesh.checkpoints.keep", 1, MOST_KEPT, USUAL.keep),
        copies=_integer(reader, nodes, "mesh.checkpoints.copies", 1, LARGEST_COUNT, USUAL.copies),
    )


def _read_env(reader: Reader, node: yaml.Node, load: Load) -> tuple[tuple[tuple[str, str], ...], str, str]:
    """Variables, Python and requirements."""
    if _is_null(node):
        return (), "", ""
    entries = reader.mapping(node, "mesh.env")
    reader.only(entries, ("python", "requirements", "vars"), "mesh.env")
    nodes = {name: entry.value for name, entry in entries.items()}
    return (
        _read_vars(reader, nodes["vars"]) if "vars" in nodes else (),
        _read_python(reader, nodes["python"]) if "python" in nodes else "",
        _read_requirements(reader, nodes["requirements"], load) if "requirements" in nodes else "",
    )


def _read_vars(reader: Reader, node: yaml.Node) -> tuple[tuple[str, str], ...]:
    found = _texts(reader, node, "mesh.env.vars")
    for name, entry in reader.mapping(node, "mesh.env.vars").items() if found else ():
        if problem := variable_problem(name):
            reader.refuse(entry.key, f"mesh.env.vars: {problem}")
    return found


def _read_python(reader: Reader, node: yaml.Node) -> str:
    version = reader.text(node, "mesh.env.python")
    if version and (problem := python_problem(version)):
        reader.refuse(node, f"mesh.env.python: {problem}")
    return version or ""


def _read_requirements(reader: Reader, node: yaml.Node, load: Load) -> str:
    name = None if _is_null(node) else reader.text(node, "mesh.env.requirements")
    if name is None:
        return ""
    text, problems = requirements_of_file(posixpath.join(posixpath.dirname(reader.path), name), load)
    for problem in problems:
        reader.refuse(node, f"mesh.env.requirements: {problem}")
    return text


def _read_search(reader: Reader, node: yaml.Node, method: str) -> int | None:
    if _is_null(node):
        return None
    entries = reader.mapping(node, "mesh.search")
    reader.only(entries, ("seed", "sampler", "pruner"), "mesh.search", ("engine",))
    for name, accepted in (("sampler", method), ("pruner", "none")):
        if name in entries:
            value = entries[name].value
            given = reader.text(value, f"mesh.search.{name}")
            if given not in (None, accepted):
                reader.refuse(value, f"not built yet: mesh.search.{name} {show(given)}")
    return reader.integer(entries["seed"].value, "mesh.search.seed", 0) if "seed" in entries else None
