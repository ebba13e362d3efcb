"""Which functions are remembered, and when what was remembered no longer holds."""

from __future__ import annotations

import pickle
import types
from typing import Any

import pytest

from mesh.client.functions import Functions, dumps, kind_of


def made(source: str, name: str = "f", **around: Any) -> Any:
    """A function as a script would define it."""
    space: dict[str, Any] = {"__name__": "__main__", **around}
    exec(source, space)
    return space[name]


def test_a_function_by_value_is_pickled_once() -> None:
    functions, f = Functions(), made("def f(x): return x + 1")
    assert functions.dumps(f) is functions.dumps(f)
    assert pickle.loads(functions.dumps(f))(1) == 2


@pytest.mark.parametrize(
    ("source", "change"),
    [
        ("K = 1\ndef f(): return K", lambda f: f.__globals__.update(K=2)),
        ("def g(): return 1\ndef f(): return g()", lambda f: f.__globals__.update(g=made("def g(): return 2", "g"))),
        ("K = 1\ndef g(): return K\ndef f(): return g()", lambda f: f.__globals__.update(K=2)),
        ("K = 1\ndef f(): return [K for _ in range(1)][0]", lambda f: f.__globals__.update(K=2)),
        ("def f(k=1): return k", lambda f: setattr(f, "__defaults__", (2,))),
        ("def f(*, k=1): return k", lambda f: setattr(f, "__kwdefaults__", {"k": 2})),
        ("def f(): return 1", lambda f: setattr(f, "__code__", made("def f(): return 2").__code__)),
        ("K = [1]\ndef f(): return K[0]", lambda f: f.__globals__["K"].__setitem__(0, 2)),
        (
            "def make():\n  k = 1\n  def f(): return k\n  return f\nf = make()",
            lambda f: setattr(f.__closure__[0], "cell_contents", 2),
        ),
    ],
)
def test_a_change_of_anything_captured_is_seen(source: str, change: Any) -> None:
    functions, f = Functions(), made(source)
    before = pickle.loads(functions.dumps(f))()
    change(f)
    after = pickle.loads(functions.dumps(f))()
    assert f() == 2
    assert before == 1
    assert after == 2


def test_functions_that_call_each_other_end() -> None:
    f = made("def g(n): return f(n - 1) if n else 7\ndef f(n): return g(n)")
    functions = Functions()
    assert pickle.loads(functions.dumps(f))(3) == 7
    assert functions.dumps(f) is functions.dumps(f)


def test_importable_things_travel_by_name_and_quickly() -> None:
    assert dumps(types.SimpleNamespace) == pickle.dumps(types.SimpleNamespace, 5)
    assert len(Functions().dumps(pickle.loads)) < 60


def test_a_value_that_names_main_goes_by_value() -> None:
    assert pickle.loads(dumps(made("def f(): return 3")))() == 3
    assert pickle.loads(dumps(("__main__", 1))) == ("__main__", 1)


def test_what_cannot_be_pickled_says_so() -> None:
    import threading

    with pytest.raises(TypeError, match="lock"):
        dumps(threading.Lock())


def test_kinds_are_names() -> None:
    import functools

    assert kind_of(functools.partial(pickle.loads, b"")) == kind_of(pickle.loads)
    assert kind_of(made("def f(): pass")) == "__main__:f"


def test_no_more_functions_are_remembered_than_a_few() -> None:
    functions = Functions()
    for n in range(100):
        functions.dumps(made(f"def f(): return {n}"))
    assert len(functions._known) == 64
