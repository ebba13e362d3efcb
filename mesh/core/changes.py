"""Which accounts changed since somebody last looked, so that a round of 1,000 nodes looks at the three that did."""

from __future__ import annotations

from mesh.core.ids import NodeId


class Changes:
    """``count`` counts all changes so far; who looks remembers it, and asks for what came :meth:`since`."""

    __slots__ = ("_last", "count")

    def __init__(self) -> None:
        self.count = 0
        self._last: dict[NodeId, int] = {}  # the number of each node's last change, in order

    def touch(self, node: NodeId) -> None:
        self.count += 1
        self._last.pop(node, None)
        self._last[node] = self.count

    def since(self, count: int) -> list[NodeId]:
        """The nodes with a later change, each once. O(those nodes)."""
        found = []
        for node in reversed(self._last):
            if self._last[node] <= count:
                break
            found.append(node)
        return found


class Fastest:
    """Of one kind of work: how long each node takes, and the fastest of them."""

    __slots__ = ("_least", "_micros")

    def __init__(self) -> None:
        self._micros: dict[NodeId, int] = {}
        self._least: int | None = None  # None: to be found

    def tell(self, node: NodeId, micros: int | None) -> None:
        """None: the node is gone."""
        old = self._micros.pop(node, None)
        if micros is not None:
            self._micros[node] = micros
        if self._least is not None:
            if micros is not None and micros <= self._least:
                self._least = micros
            elif old == self._least:
                self._least = None

    def least(self) -> int | None:
        """Microseconds; None: nobody has measured it. Looks at all only after the fastest became slower or left."""
        if self._least is None:
            self._least = min(self._micros.values(), default=None)
        return self._least
