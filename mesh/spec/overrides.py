"""``--set a.b=value``: replaces one value in a file's nodes, before anything is checked."""

from __future__ import annotations

import yaml

from mesh.core.errors import Problem
from mesh.spec.reader import DEEPEST, Reader


def apply(reader: Reader, root: yaml.Node, overrides: tuple[str, ...]) -> yaml.Node:
    """The root with every override applied in order. The given nodes are not changed: aliases share them.

    Where keys hold dots, the longest existing key wins, so ``parameters.optimizer.lr.value=1`` finds a parameter
    that is named ``optimizer.lr``. A position in a list is its number, from 0. Problems with the value are reported
    without a place in the file, by the override's own text.
    """
    for override in overrides:
        path, equals, written = override.partition("=")
        if not equals or not path or "" in path.split(".") or path.count(".") >= DEEPEST:
            reader.add(Problem(f"--set {override}: write it as key=value or key.key=value"))
            continue
        try:
            value = yaml.compose(written, Loader=yaml.SafeLoader)
        except (yaml.YAMLError, RecursionError):
            reader.add(Problem(f"--set {override}: the value is not valid YAML; put it in quotes if it is text"))
            continue
        mark = yaml.Mark(f"--set {override}", 0, -1, -1, None, 0)
        if value is None:
            value = yaml.ScalarNode("tag:yaml.org,2002:str", "", mark, mark, style='"')
        _mark(value, mark, set())
        root = _replace(reader, root, path.split("."), value, mark)
    return root


def _mark(node: yaml.Node, mark: yaml.Mark, seen: set[int]) -> None:
    if id(node) in seen:
        return
    seen.add(id(node))
    node.start_mark = node.end_mark = mark
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            _mark(key, mark, seen)
            _mark(value, mark, seen)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _mark(item, mark, seen)


def _replace(reader: Reader, node: yaml.Node, path: list[str], value: yaml.Node, mark: yaml.Mark) -> yaml.Node:
    if not path:
        return value
    if isinstance(node, yaml.SequenceNode):
        if not path[0].isdigit() or int(path[0]) >= len(node.value):
            reader.add(Problem(f"{mark.name}: {path[0]!r} is no position in a list of {len(node.value)}, from 0"))
            return node
        items = list(node.value)
        items[int(path[0])] = _replace(reader, items[int(path[0])], path[1:], value, mark)
        return yaml.SequenceNode(node.tag, items, node.start_mark, node.end_mark, node.flow_style)
    if not isinstance(node, yaml.MappingNode):
        node = yaml.MappingNode("tag:yaml.org,2002:map", [], mark, mark)
    pairs = list(node.value)
    for length in range(len(path), 0, -1):
        name = ".".join(path[:length])
        for position, (key, child) in enumerate(pairs):
            if key.value == name:
                pairs[position] = (key, _replace(reader, child, path[length:], value, mark))
                return yaml.MappingNode(node.tag, pairs, node.start_mark, node.end_mark, node.flow_style)
    new = yaml.ScalarNode("tag:yaml.org,2002:str", path[0], mark, mark)
    nothing = yaml.MappingNode("tag:yaml.org,2002:map", [], mark, mark)
    pairs.append((new, _replace(reader, nothing, path[1:], value, mark)))
    return yaml.MappingNode(node.tag, pairs, node.start_mark, node.end_mark, node.flow_style)
