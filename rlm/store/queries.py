"""The queries that the cells of a run have made, and which of them have not been made again. Pure.

A query is known by what it asks, below the RLM whose cell asks it: threads of a cell ask in another order each time. Where
several ask the same, the first one that is left is taken.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable


class Queries:
    """Those of one run. A query is a node; nodes are numbered below their RLM, and no number is ever used again."""

    def __init__(self) -> None:
        self._latest: dict[str, int] = {}
        self._digests: dict[str, dict[int, bytes]] = {}  # by RLM and number
        self._left: dict[str, dict[bytes, list[int]]] = {}  # by RLM, not made again

    def latest(self, rlm: str) -> int:
        """The highest number that a query of this RLM has."""
        return self._latest.get(rlm, 0)

    def record(self, node: str, digest: bytes, *, stale: bool = False) -> None:
        """One of the record, which is left; of a stale one nothing is but its number."""
        rlm, number = _place(node)
        self._latest[rlm] = max(self.latest(rlm), number)
        if not stale:
            self._digests.setdefault(rlm, {})[number] = digest
            self._leave(rlm, number)

    def begin(self, rlm: str) -> None:
        """This RLM begins to work, perhaps once more: all its queries are left."""
        self._left.pop(rlm, None)
        for number in self._digests.get(rlm, ()):
            self._leave(rlm, number)

    def take(self, rlm: str, digest: bytes) -> str | None:
        """The first query that is left and asks this."""
        left = self._left.get(rlm, {})
        numbers = left.get(digest)
        if not numbers:
            return None
        number = numbers.pop(0)
        if not numbers:
            del left[digest]
        return f"{rlm}.{number}"

    def new(self, rlm: str, digest: bytes) -> str:
        """A query that is not in the record."""
        number = self._latest[rlm] = self.latest(rlm) + 1
        self._digests.setdefault(rlm, {})[number] = digest
        return f"{rlm}.{number}"

    def give_back(self, nodes: Iterable[str]) -> None:
        """These may be made again."""
        for node in nodes:
            self._leave(*_place(node))

    def left(self, rlm: str) -> list[str]:
        """The queries of this RLM that are left, in order."""
        numbers = sorted(number for each in self._left.get(rlm, {}).values() for number in each)
        return [f"{rlm}.{number}" for number in numbers]

    def forget(self, rlm: str, *, until: int | None = None) -> list[str]:
        """What is left of this RLM (up to a number) will not be made again, with all below it. Gives their nodes."""
        gone = []
        for node in self.left(rlm):
            _, number = _place(node)
            if until is None or number <= until:
                self._left[rlm][self._digests[rlm].pop(number)].remove(number)
                gone += [node, *self.forget(node)]
        return gone

    def digest(self, node: str) -> bytes:
        """Of what a query asks."""
        rlm, number = _place(node)
        return self._digests[rlm][number]

    def _leave(self, rlm: str, number: int) -> None:
        insort(self._left.setdefault(rlm, {}).setdefault(self._digests[rlm][number], []), number)


def _place(node: str) -> tuple[str, int]:
    """Of a query's node: the RLM that asked, and the number."""
    rlm, _, number = node.rpartition(".")
    return rlm, int(number)
