"""The queries of a run's cells, and which of them are pending: recorded, but not made again yet. Pure.

A query is identified by its RLM and its digest, because a cell's threads ask in a different order each time. Among queries
with equal digests, the first pending one is taken.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable


class Queries:
    """The queries of one run. A query is a node, numbered below its RLM. No number is used twice."""

    def __init__(self) -> None:
        self._latest: dict[str, int] = {}
        self._digests: dict[str, dict[int, bytes]] = {}  # by RLM and number
        self._pending: dict[str, dict[bytes, list[int]]] = {}  # by RLM

    def latest(self, rlm: str) -> int:
        """The highest number of this RLM's queries; 0 without any."""
        return self._latest.get(rlm, 0)

    def record(self, node: str, digest: bytes, *, stale: bool = False) -> None:
        """Add a recorded query as pending. For a stale one, only the number is kept."""
        rlm, number = _place(node)
        self._latest[rlm] = max(self.latest(rlm), number)
        if not stale:
            self._digests.setdefault(rlm, {})[number] = digest
            self._mark_pending(rlm, number)

    def begin(self, rlm: str) -> None:
        """Make all queries of an RLM pending, because it begins its work, perhaps again."""
        self._pending.pop(rlm, None)
        for number in self._digests.get(rlm, ()):
            self._mark_pending(rlm, number)

    def take(self, rlm: str, digest: bytes) -> str | None:
        """Return the first pending query with this digest, which is no longer pending; None without one."""
        pending = self._pending.get(rlm, {})
        numbers = pending.get(digest)
        if not numbers:
            return None
        number = numbers.pop(0)
        if not numbers:
            del pending[digest]
        return f"{rlm}.{number}"

    def add(self, rlm: str, digest: bytes) -> str:
        """Add a query that is not in the record. It is not pending."""
        number = self._latest[rlm] = self.latest(rlm) + 1
        self._digests.setdefault(rlm, {})[number] = digest
        return f"{rlm}.{number}"

    def mark_pending(self, nodes: Iterable[str]) -> None:
        """Make these queries pending again."""
        for node in nodes:
            self._mark_pending(*_place(node))

    def pending(self, rlm: str) -> list[str]:
        """The pending queries of this RLM, in order."""
        numbers = sorted(number for each in self._pending.get(rlm, {}).values() for number in each)
        return [f"{rlm}.{number}" for number in numbers]

    def discard(self, rlm: str, *, until: int | None = None) -> list[str]:
        """Drop the pending queries of this RLM (up to a number), with all below them, and return their nodes."""
        discarded = []
        for node in self.pending(rlm):
            _, number = _place(node)
            if until is None or number <= until:
                self._pending[rlm][self._digests[rlm].pop(number)].remove(number)
                discarded += [node, *self.discard(node)]
        return discarded

    def digest(self, node: str) -> bytes:
        """The digest of a query."""
        rlm, number = _place(node)
        return self._digests[rlm][number]

    def _mark_pending(self, rlm: str, number: int) -> None:
        insort(self._pending.setdefault(rlm, {}).setdefault(self._digests[rlm][number], []), number)


def _place(node: str) -> tuple[str, int]:
    """The RLM and the number of a query's node."""
    rlm, _, number = node.rpartition(".")
    return rlm, int(number)
