"""Hypothesis strategies for the core's tuples, built from their annotations, so that a new field is tried at once."""

from __future__ import annotations

from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

INT64 = st.one_of(st.sampled_from([0, 1, -1, 2**63 - 1, -(2**63)]), st.integers(-(2**63), 2**63 - 1))
SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: INT64,
    str: st.text(max_size=40),
    bytes: st.binary(max_size=40),
    NoneType: st.none(),
}


def fields(kind: type) -> dict[str, Any]:
    """Names and annotations of a NamedTuple."""
    hints = get_type_hints(kind)
    return {name: hints[name] for name in kind._fields}  # type: ignore[attr-defined]


@cache
def values(annotation: Any) -> st.SearchStrategy[Any]:
    """Any value of this type: a scalar, a NamedTuple, a tuple of them, or a union of them."""
    if annotation in SCALARS:
        return SCALARS[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (UnionType, Union):
        read = [argument for argument in arguments if argument is not bytes]  # what is encoded already is read decoded
        return st.one_of(*map(values, read))
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(values(arguments[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values, arguments))
    return st.builds(annotation, **{name: values(hint) for name, hint in fields(annotation).items()})
