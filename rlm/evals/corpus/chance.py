"""Seeded draws that are the same on every machine and with every Python.

Python promises for its generator that `random()` gives the same numbers for the same seed in every version; `sample`,
`choices` and `randrange` may change. So every draw here is made from `random()` alone, and the seed from a SHA-256 of
the names that the draws belong to.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")

_SEPARATOR = "\x1f"  # in no name


class Chance:
    """Draws that are a function of `names`, such as a task, a length, a seed and an index."""

    def __init__(self, *names: object) -> None:
        digest = hashlib.sha256(_SEPARATOR.join(map(str, names)).encode()).digest()
        self._random = random.Random(int.from_bytes(digest, "big")).random  # noqa: S311 - not for secrets

    def share(self) -> float:
        """A number from 0 to below 1."""
        return self._random()

    def below(self, limit: int) -> int:
        """A whole number from 0 to below `limit`, which is far smaller than 2^53."""
        return int(self._random() * limit)

    def between(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both of them included."""
        return low + self.below(high - low + 1)

    def bits(self, count: int) -> int:
        """A whole number of so many random bits, a multiple of 32."""
        number = 0
        for _ in range(count // 32):
            number = number << 32 | self.below(1 << 32)
        return number

    def choice(self, items: Sequence[Item]) -> Item:
        return items[self.below(len(items))]

    def choices(self, items: Sequence[Item], count: int) -> list[Item]:
        """So many draws with replacement."""
        number, draw = len(items), self._random
        return [items[int(draw() * number)] for _ in range(count)]

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        """All items in a random order."""
        return self.sample(items, len(items))

    def sample(self, items: Sequence[Item], count: int) -> list[Item]:
        """So many draws without replacement, in the order drawn.

        Raises:
            ValueError: there are not that many items.
        """
        if count > len(items):
            raise ValueError(f"{count} of {len(items)} items cannot be drawn without replacement.")
        if count * 4 < len(items):  # few of many: no copy of a long range for two places in it
            places: dict[int, None] = {}
            while len(places) < count:
                places.setdefault(self.below(len(items)))
            return [items[place] for place in places]
        pool = list(items)
        for place in range(count):
            other = self.between(place, len(pool) - 1)
            pool[place], pool[other] = pool[other], pool[place]
        return pool[:count]
