"""Seeded random draws that are the same on every machine and with every version of Python.

Python guarantees the sequence of `random()` for a seed, but not that of `sample`, `choices` or `randrange`. So all draws
here use `random()` alone. The seed is the SHA-256 of the names that the draws belong to.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")

_SEPARATOR = "\x1f"  # occurs in no name


class SeededRandom:
    """Random draws that depend only on `names`, such as a task, a length, a seed and an index."""

    def __init__(self, *names: object) -> None:
        digest = hashlib.sha256(_SEPARATOR.join(map(str, names)).encode()).digest()
        self._random = random.Random(int.from_bytes(digest, "big")).random  # noqa: S311 - not for secrets

    def random(self) -> float:
        """A float in [0, 1)."""
        return self._random()

    def below(self, limit: int) -> int:
        """An integer in [0, limit); `limit` must be far below 2^53."""
        return int(self._random() * limit)

    def between(self, low: int, high: int) -> int:
        """An integer in [low, high]."""
        return low + self.below(high - low + 1)

    def bits(self, count: int) -> int:
        """An integer of `count` random bits; `count` must be a multiple of 32."""
        number = 0
        for _ in range(count // 32):
            number = number << 32 | self.below(1 << 32)
        return number

    def choice(self, items: Sequence[Item]) -> Item:
        """One item."""
        return items[self.below(len(items))]

    def choices(self, items: Sequence[Item], count: int) -> list[Item]:
        """`count` items, drawn with replacement."""
        number, draw = len(items), self._random
        return [items[int(draw() * number)] for _ in range(count)]

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        """All items in random order."""
        return self.sample(items, len(items))

    def sample(self, items: Sequence[Item], count: int) -> list[Item]:
        """`count` items, drawn without replacement, in the order drawn.

        Raises:
            ValueError: `count` exceeds the number of items.
        """
        if count > len(items):
            raise ValueError(f"Cannot draw {count} of {len(items)} items without replacement.")
        if count * 4 < len(items):  # avoids a copy of a long range for a few draws
            places: dict[int, None] = {}
            while len(places) < count:
                places.setdefault(self.below(len(items)))
            return [items[place] for place in places]
        pool = list(items)
        for place in range(count):
            other = self.between(place, len(pool) - 1)
            pool[place], pool[other] = pool[other], pool[place]
        return pool[:count]
