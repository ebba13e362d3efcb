"""``@client.task(gpus=1)``: a function that still can be called here, and has ``submit`` and ``map`` besides."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from mesh.client.calls import Options
from mesh.core.errors import InvalidSpec, Problem

if TYPE_CHECKING:
    from mesh.client.futures import TaskFuture

P = ParamSpec("P")
T = TypeVar("T")

RESOURCES = ("cpus", "memory", "gpus", "gpu_memory", "device", "labels", "profile")


def options_of(given: dict[str, Any]) -> Options:
    """Options written flat, ``gpus=1, retries=3``; resources may also stand under ``resources``."""
    flat = {key: value for key, value in given.items() if key in RESOURCES}
    rest = {key: value for key, value in given.items() if key not in RESOURCES}
    unknown = [key for key in rest if key not in Options._fields]
    problems = [Problem(f"there is no option {key!r}") for key in unknown]
    if flat and rest.get("resources") is not None:
        problems.append(Problem(f"{', '.join(flat)} and resources= are both given; write one of them"))
    if problems:
        raise InvalidSpec("the options are wrong", tuple(problems))
    return Options(**{"resources": flat or None, **rest})


class RemoteFunction(Generic[P, T]):
    """Call it and it runs here; ``submit`` takes the same arguments and runs it in the mesh."""

    def __init__(self, client: Any, function: Callable[P, T], options: Options) -> None:
        functools.update_wrapper(self, function)
        self._client, self._function, self._options = client, function, options

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._function(*args, **kwargs)

    def __reduce__(self) -> tuple[Callable[[Any], Any], tuple[Any]]:
        # A task that names a decorated function means the function: clients do not travel.
        return _itself, (self._function,)

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> TaskFuture[T]:
        future: TaskFuture[T] = self._client.submit_with(self._function, args, kwargs, self._options)
        return future

    def map(self, *iterables: Iterable[Any], **how: Any) -> Any:
        """As the client's ``map``; ``how`` is ``chunksize`` and ``window``."""
        return self._client.map(self._function, *iterables, **how, **self._options._asdict())


def _itself(function: Any) -> Any:
    return function


def decorate(client: Any, given: dict[str, Any]) -> Callable[[Callable[P, T]], RemoteFunction[P, T]]:
    options = options_of(given)
    return lambda function: RemoteFunction(client, function, options)
