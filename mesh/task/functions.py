"""Running a Python function: a pickled one, or ``module:function``.

Runs in the runner's main thread. Modules, globals and environment of a warm runner outlive an attempt; what a task
imported from its own working directory does not outlive a change of those files or of the directory.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import pickle
import sys
import traceback
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cloudpickle
from blake3 import blake3

from mesh.blob.manifest import Buffer
from mesh.blob.objects import Ref, segments
from mesh.core import reasons
from mesh.core.lattice import FAILED, SUCCEEDED
from mesh.core.work import FUNCTION

RECORD_BYTES = 16 << 10  # of a pickled result: a larger one is a blob. And so is each array that is larger, within it
EXCEPTION_LIMIT = 64 << 10
DETAIL_LIMIT = 32 << 10
MESSAGE_LIMIT = 2 << 10
CACHED_FUNCTIONS = 64

# Slow to import, and safe to fork after: what a zygote imports ahead. Others may start threads or touch cards. They
# read OMP_NUM_THREADS and the like when they are imported; later it takes threadpoolctl, so without it none is.
PRELOADABLE = frozenset(("numpy", "scipy", "pandas", "sklearn", "torch", "torchvision", "lightgbm", "xgboost"))

_NO_ARGUMENTS: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
_PLAIN = (type(None), bool, int, float, str, bytes)


class Stopped(BaseException):
    """Raised in a function that was asked to stop and does not look at ``task.should_stop()``."""


class Ended(NamedTuple):
    phase: int
    code: str = ""
    message: str = ""
    detail: str = ""
    result: bytes = b""  # with a blob: its manifest
    digest: str = ""
    blob: str = ""  # the result, where it is too large for a record
    large: Sequence[Buffer] = ()  # what that blob is to be made of
    log: str = ""  # the blob of what it printed, which is made later


class Functions:
    """What a runner remembers between function attempts."""

    def __init__(self) -> None:
        self._unpickled: OrderedDict[bytes, Callable[..., Any]] = OrderedDict()
        self._folder = ""
        self._files: dict[str, tuple[str, int, int]] = {}  # module -> file, mtime, size; those from _folder
        self._modules = len(sys.modules)
        self._told: set[str] = set()
        self._threads = ""

    def prepare(
        self, kind: str, target: str, function: bytes, arguments: bytes, fetched: Callable[[Ref], Any]
    ) -> Callable[[], Any]:
        """A callable without arguments. May run code of the user's: imports and unpickling.

        ``fetched``: the object that a ref among the arguments stands for.
        """
        if kind == FUNCTION:
            call = self._load(function)
            args, kwargs = pickle.loads(arguments) if arguments else _NO_ARGUMENTS
            if any(type(value) is Ref for value in (*args, *kwargs.values())):
                args = tuple(fetched(value) if type(value) is Ref else value for value in args)
                kwargs = {name: fetched(value) if type(value) is Ref else value for name, value in kwargs.items()}
            return lambda: call(*args, **kwargs)
        call, kwargs = _find(target), json.loads(arguments or b"{}")
        return lambda: call(**kwargs)

    def _load(self, function: bytes) -> Callable[..., Any]:
        call = self._unpickled.get(function)
        if call is None:
            call = self._unpickled[function] = pickle.loads(function)
            if len(self._unpickled) > CACHED_FUNCTIONS:
                self._unpickled.popitem(last=False)
        else:
            self._unpickled.move_to_end(function)
        return call

    def limit_threads(self, count: str) -> None:
        """What OMP_NUM_THREADS and the like would have done, had they stood there before these were imported."""
        if count == self._threads:
            return
        self._threads = count
        if count.isdecimal() and can_limit_threads() and not PRELOADABLE.isdisjoint(sys.modules):
            importlib.import_module("threadpoolctl").threadpool_limits(int(count))

    def enter(self, folder: str) -> None:
        """Make ``folder`` (empty: none) the place that modules come from, without those of another or an older one."""
        if folder == self._folder and not self._stale():
            return
        for name in self._files:
            sys.modules.pop(name, None)
        self._files.clear()
        self._unpickled.clear()
        importlib.invalidate_caches()
        if self._folder in sys.path:
            sys.path.remove(self._folder)
        if folder:
            sys.path.insert(0, folder)
        self._folder = folder
        self._modules = -1  # look at all modules again

    def _stale(self) -> bool:
        for file, mtime, size in self._files.values():
            try:
                stat = os.stat(file)
            except FileNotFoundError:
                return True
            if stat.st_mtime_ns != mtime or stat.st_size != size:
                return True
        return False

    def leave(self) -> list[str]:
        """After an attempt: the packages that a zygote could have imported ahead, each once."""
        if len(sys.modules) == self._modules:
            return []
        if self._folder:
            for name, module in list(sys.modules.items()):
                file = getattr(module, "__file__", None)
                if file and name not in self._files and file.startswith(self._folder + os.sep):
                    try:
                        stat = os.stat(file)
                    except FileNotFoundError:
                        continue  # removed since; it cannot become stale either
                    self._files[name] = (file, stat.st_mtime_ns, stat.st_size)
        self._modules = len(sys.modules)
        new = PRELOADABLE.intersection(sys.modules) - self._told
        self._told |= new
        return sorted(new)


def can_limit_threads() -> bool:
    return importlib.util.find_spec("threadpoolctl") is not None


def _find(target: str) -> Callable[..., Any]:
    module, colon, name = target.partition(":")
    if not colon or not name:
        raise ValueError(f"{target!r} does not name a function; write module:function")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    if not callable(found):
        raise TypeError(f"{target} is not callable but {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def succeeded(value: object) -> Ended:
    """The outcome of a function that returned ``value``."""
    beside: list[memoryview] = []

    def within(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes <= RECORD_BYTES:
            return True
        beside.append(raw)
        return False

    try:
        # The C pickler is ten times faster; only for what it writes exactly as cloudpickle would.
        dump = pickle.dumps if type(value) in _PLAIN else cloudpickle.dumps
        result = dump(value, protocol=pickle.HIGHEST_PROTOCOL, buffer_callback=within)
    except Exception as error:  # noqa: BLE001  __reduce__ and __getstate__ are the user's code
        return Ended(
            FAILED,
            "PickleError",
            f"the result cannot be sent back; {_name(error)}: {_text(error)}; it was {_shown(value)}",
            _traceback(error),
        )
    if beside or len(result) > RECORD_BYTES:
        return Ended(SUCCEEDED, large=segments(result, beside))
    return Ended(SUCCEEDED, result=result, digest=blake3(result).hexdigest())


def unkept(error: Exception, result: int) -> Ended:
    """The outcome of a function whose result, of so many bytes, this node's store did not take."""
    hint = (
        "give the store more room with meshd --store, return less, or write it to MESH_OUTPUT_DIR and return its path"
    )
    return Ended(
        FAILED,
        type(error).__name__,
        clean(f"its result of {reasons.size(result)} was lost: {error}; {hint}", MESSAGE_LIMIT),
    )


def failed(error: BaseException) -> Ended:
    """The outcome of a function that raised ``error``. Its pickle, where it survives pickling, is the result."""
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        return Ended(FAILED, f"exit {code}", f"the function called sys.exit({error.code!r})", _traceback(error))
    try:
        pickled = cloudpickle.dumps(error, protocol=pickle.HIGHEST_PROTOCOL)
        pickle.loads(pickled)  # an exception with a constructor of its own often fails only here
    except Exception:  # noqa: BLE001  the user's code; the outcome says all that matters without it
        pickled = b""
    if len(pickled) > EXCEPTION_LIMIT:
        pickled = b""
    return Ended(FAILED, _name(error), _text(error), _traceback(error), pickled)


def _name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _text(error: BaseException) -> str:
    try:
        return clean(str(error), MESSAGE_LIMIT)
    except Exception as broken:  # noqa: BLE001  __str__ is the user's code
        return f"(its __str__ raised {type(broken).__name__})"


def _shown(value: object) -> str:
    try:
        return clean(repr(value), 200)
    except Exception as broken:  # noqa: BLE001  __repr__ is the user's code
        return f"a {type(value).__name__} whose __repr__ raised {type(broken).__name__}"


def _traceback(error: BaseException) -> str:
    """From the user's first frame on."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("mesh.task."):
        trace = trace.tb_next
    return clean("".join(traceback.format_exception(type(error), error, trace)), DETAIL_LIMIT)


def clean(text: str, limit: int) -> str:
    """Text that every codec takes, with its middle left out where it is too long."""
    text = text.encode("utf-8", "replace").decode()
    if len(text) > limit:
        half = limit // 2
        text = f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"
    return text
