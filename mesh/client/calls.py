"""A function call as what is submitted: its shape and its payload. Usable from any thread; sends nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mesh.blob.objects import Ref
from mesh.client.chunks import run_chunk
from mesh.client.environment import Environment
from mesh.client.functions import LIMIT, Functions, dumps, kind_of
from mesh.client.options import Wanted, check_priority, function_shape
from mesh.core.errors import QuotaExceeded
from mesh.core.ids import BlobId
from mesh.core.lattice import Shape
from mesh.core.valid import MOST_NEEDED
from mesh.core.work import FUNCTION, Work
from mesh.wire.work import encode_work

_REMEMBERED = 1024  # distinct shapes


class Options(NamedTuple):
    """What a caller may say beside the arguments.

    ``resources``: ``cpus`` and ``gpus`` (numbers), ``memory`` and ``gpu_memory`` (bytes, or ``"4GiB"``), ``device``
    (any, cpu, cuda, mps), ``labels``; or a list of alternatives. ``priority``: 1 to 10, higher first. ``retries``:
    further attempts after a failure, or a mapping with ``max, backoff, factor, max_delay, not_on``. ``timeout``:
    seconds (or ``"6h"``) that one attempt may run. ``env``: ``requirements``, a list of lines as pip reads them, which
    each machine installs once into an environment of their own; ``vars``, variables. ``on_lost``: ``"hold"`` where it
    must never run twice: then a task whose machine is lost waits for it, or for a person (``meshctl retry TASK
    --force``). ``checkpoints``: a mapping with ``every`` (seconds, or ``"5m"``), ``keep`` (so many of the newest) and
    ``copies`` (nodes that shall have each), and ``metric`` (its name) and ``goal`` (minimize, maximize), by which the
    best one is kept too.
    """

    resources: Wanted = None
    priority: int = 5
    retries: int | Mapping[str, Any] = 0
    timeout: float | str | None = None
    env: Mapping[str, Any] | None = None
    on_lost: str = "retry"
    checkpoints: Mapping[str, Any] | None = None


class Calls:
    """Encodes calls; remembers the bytes of functions and the shapes of options."""

    def __init__(self) -> None:
        self._functions = Functions()
        self._shapes: dict[Any, Shape] = {}

    def check(self, function: Callable[..., Any], options: Options) -> Shape:
        """The shape of this function's tasks. Raises ``InvalidSpec`` for wrong options."""
        if not callable(function):
            raise TypeError(f"{function!r} is not a function")
        check_priority(options.priority)
        kind = kind_of(function)
        key = (
            kind, _frozen(options.resources), _frozen(options.retries), options.timeout, options.on_lost,
            _frozen(options.checkpoints),
        )  # fmt: skip
        shape = self._shapes.get(key)
        if shape is None:
            shape = function_shape(
                kind, options.resources, options.retries, options.timeout, options.on_lost, options.checkpoints
            )
            if len(self._shapes) < _REMEMBERED:
                self._shapes[key] = shape
        return shape

    def pickle(self, function: Callable[..., Any]) -> bytes:
        return self._functions.dumps(function)

    def payload(
        self, function: bytes, args: tuple[Any, ...], kwargs: dict[str, Any], environment: Environment
    ) -> bytes:
        """Raises ``QuotaExceeded`` where function and arguments are too large to travel inside a task."""
        arguments = dumps((args, kwargs))
        total = len(function) + len(arguments)
        if total > LIMIT:
            raise QuotaExceeded(
                f"this call has {total:,} bytes of pickled function and arguments; a task carries at most {LIMIT:,}",
                f"function {len(function):,}, arguments {len(arguments):,}",
                "put larger data once, client.put(value), and pass what it returns; or pass a path",
            )
        requirements, variables = environment
        return encode_work(
            Work(FUNCTION, function=function, arguments=arguments, env=variables, requirements=requirements)
        )


def needs_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[BlobId, ...]:
    """The blobs that a call with these reads, each once. Raises ``QuotaExceeded``: too many."""
    found = [value.blob for value in args if type(value) is Ref]
    if kwargs:
        found += (value.blob for value in kwargs.values() if type(value) is Ref)
    if not found:
        return ()
    if len(found) > MOST_NEEDED:
        raise QuotaExceeded(
            f"this call is given {len(found):,} objects that were put; a task reads at most {MOST_NEEDED:,}",
            "",
            "put what belongs together as one object",
        )
    return tuple(dict.fromkeys(found))


CHUNK = dumps(run_chunk)


def chunk_call(function: bytes, calls: list[tuple[Any, ...]]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with which :func:`run_chunk` does these calls."""
    return (_Pickled(function), calls), {}


class _Pickled:
    """Stands for bytes that unpickle to a function: pickled once, sent in many chunks."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce__(self) -> tuple[Callable[[bytes], Any], tuple[bytes]]:
        from pickle import loads

        return loads, (self.data,)


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return tuple((key, _frozen(inner)) for key, inner in value.items())
    if isinstance(value, list | tuple):
        return tuple(_frozen(inner) for inner in value)
    return value
