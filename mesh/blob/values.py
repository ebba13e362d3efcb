"""The values of a state that are not tensors, as JSON, and back. Knows neither torch nor NumPy: leaves are numbered.

None, truths, text, finite floats and integers of up to 63 bits are themselves; a list is an array. Everything else is
an object of one field, whose name says what it is: ``i`` a larger integer (hexadecimal), ``f`` a float by its bits (NaN
has many), ``b`` bytes (base64), ``t`` a tuple, ``d`` a dict, ``o`` an OrderedDict with its ``_metadata`` (as modules'
``state_dict()`` has), ``c`` a Counter (as schedulers have), ``x`` the leaf of that number. Dicts are flat arrays of
keys and values, so keys keep type and order.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

from mesh.blob.layout import corrupt, whole

# Deeper states are mistakes, such as one that contains itself; and Python's own stack ends at a thousand calls.
DEPTH = 100

_PLAIN = (type(None), bool, str)
_INT = 1 << 63
_DOUBLE = struct.Struct(">d")
_TAGS: dict[type, str] = {dict: "d", OrderedDict: "o", Counter: "c"}
_METADATA = "_metadata"

_CONVERT = {
    "set": "save sorted(...) of it",
    "frozenset": "save sorted(...) of it",
    "complex": "save its real and its imaginary part",
    "deque": "save list(...) of it",
    "defaultdict": "save dict(...) of it",
    "Size": "save tuple(...) of it",
    "dtype": "save str(...) of it",
    "device": "save str(...) of it",
    "Module": "save its state_dict()",
    "Optimizer": "save its state_dict()",
    "Generator": "save its get_state(), or its bit_generator.state",
    "RandomState": "save its get_state()",
}


class Encoder:
    """Encodes one state. ``leaf`` numbers what is a tensor or an array; it answers a text where it cannot, why and what
    to do, and None for what is none. ``wrong`` holds the path of each value that a state cannot hold, and why."""

    def __init__(self, leaf: Callable[[object, tuple[object, ...]], int | str | None]) -> None:
        self._leaf = leaf
        self.wrong: list[str] = []

    def encode(self, value: object, path: tuple[object, ...] = ()) -> Any:
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is int or kind is float or kind is bytes:
            return _scalar(value)
        if kind is list or kind is tuple or kind in _TAGS:
            if len(path) >= DEPTH:
                self._refuse(path, f"lies deeper than {DEPTH} levels", "does the state contain itself? else flatten it")
                return None
            return self._container(value, path)
        number = self._leaf(value, path)
        if isinstance(number, int):
            return {"x": number}
        if number is not None:
            self.wrong.append(f"{shown(path)} {number}")
            return None
        what, hint = _described(value)
        self._refuse(path, what, hint)
        return None

    def _container(self, value: Any, path: tuple[object, ...]) -> Any:
        if isinstance(value, list | tuple):
            items = [self.encode(item, (*path, n)) for n, item in enumerate(value)]
            return items if isinstance(value, list) else {"t": items}
        flat = []
        for key, item in value.items():
            flat.append(self._key(key, path))
            flat.append(self.encode(item, (*path, key)))
        if type(value) is not OrderedDict:
            return {_TAGS[type(value)]: flat}
        attributes = vars(value)
        for name in attributes.keys() - {_METADATA}:
            self._refuse(path, f"has the attribute {name}", "save it beside, and not in an attribute")
        extra = [self.encode(attributes[_METADATA], (*path, _METADATA))] if _METADATA in attributes else []
        return {"o": [flat, *extra]}

    def _key(self, key: object, path: tuple[object, ...]) -> Any:
        if type(key) is tuple:
            return {"t": [self._key(part, path) for part in key]}
        if type(key) in _PLAIN:
            return key
        if type(key) in (int, float, bytes):
            return _scalar(key)
        self._refuse(path, f"has the key {key!r:.60}, {_described(key)[0]}", "make keys of text and numbers")
        return None

    def _refuse(self, path: tuple[object, ...], what: str, hint: str) -> None:
        self.wrong.append(f"{shown(path)} {what}; {hint}")


def decode(value: Any, leaf: Callable[[int], object]) -> Any:
    """The state that :class:`Encoder` encoded; ``leaf`` answers what each number stands for.

    Raises:
        BlobCorrupt: nothing that it encodes.
    """
    if value is None or isinstance(value, bool | int | float | str):
        if type(value) is float and not math.isfinite(value):
            corrupt("a number is too large")
        return value
    if isinstance(value, list):
        return [decode(item, leaf) for item in value]
    if not isinstance(value, dict) or len(value) != 1:
        corrupt(f"{value!r:.80} is no value")
    ((tag, content),) = value.items()
    if tag == "x" and whole(content):
        return leaf(content)
    if tag in ("i", "f", "b") and isinstance(content, str):
        return _text(tag, content)
    if not isinstance(content, list):
        corrupt(f"{value!r:.80} is no value")
    if tag == "t":
        return tuple([decode(item, leaf) for item in content])
    if tag == "d":
        return _pairs({}, content, leaf)
    if tag == "c":
        return _pairs(Counter(), content, leaf)
    if tag == "o" and 1 <= len(content) <= 2 and isinstance(content[0], list):
        ordered = _pairs(OrderedDict(), content[0], leaf)
        for extra in content[1:]:
            ordered._metadata = decode(extra, leaf)
        return ordered
    return corrupt(f"{value!r:.80} is no value")


def shown(path: tuple[object, ...]) -> str:
    """``state['model'][3]``; the middle of a long path is left out."""
    steps = [f"[{step!r}]" for step in path]
    return "state" + "".join(steps if len(steps) <= 12 else [*steps[:5], "[...]", *steps[-5:]])


def _scalar(value: Any) -> Any:
    if isinstance(value, int):
        return value if -_INT <= value < _INT else {"i": hex(value)}
    if isinstance(value, float):
        return value if math.isfinite(value) else {"f": _DOUBLE.pack(value).hex()}
    return {"b": base64.b64encode(value).decode()}


def _text(tag: str, content: str) -> Any:
    try:
        if tag == "i":
            return int(content, 16)
        if tag == "f":
            return _DOUBLE.unpack(bytes.fromhex(content))[0]
        return base64.b64decode(content, validate=True)
    except (ValueError, binascii.Error, struct.error):
        return corrupt(f"{content!r:.80} is no {tag}")


def _pairs(into: Any, flat: list[Any], leaf: Callable[[int], object]) -> Any:
    if len(flat) % 2:
        corrupt("a dict has a key without a value")
    for key, item in zip(flat[::2], flat[1::2], strict=True):
        into[_decoded_key(key)] = decode(item, leaf)
    if len(into) != len(flat) // 2:
        corrupt("a dict has a key twice")
    return into


def _decoded_key(key: Any) -> Any:
    if isinstance(key, dict) and key.keys() == {"t"} and isinstance(key["t"], list):
        return tuple([_decoded_key(part) for part in key["t"]])
    decoded = decode(key, lambda number: corrupt(f"leaf {number} is a key"))
    if type(decoded) not in (*_PLAIN, int, float, bytes):
        corrupt(f"{key!r:.80} is no key")
    return decoded


def _described(value: object) -> tuple[str, str]:
    """What it is, and what to do about it."""
    for kind in type(value).__mro__:
        if kind is tuple and hasattr(value, "_fields"):
            return f"is the named tuple {type(value).__name__}", "save its _asdict()"
        if kind.__name__ in _CONVERT:
            return f"is {_article(kind)}", _CONVERT[kind.__name__]
    if isinstance(value, str | bytes | int | float | list | tuple | dict):
        plain = next(kind.__name__ for kind in type(value).__mro__ if kind.__module__ == "builtins")
        return f"is {_article(type(value))}, a kind of {plain}", f"save {plain}(...) of it"
    return f"is {_article(type(value))}", "convert it to numbers, text or tensors, or save it as a file"


def _article(kind: type) -> str:
    return f"{'an' if kind.__name__[0] in 'aeiouAEIOU' else 'a'} {kind.__name__}"
