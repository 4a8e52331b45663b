"""Two evaluations beside each other: whether they differ, by how much, or that the data cannot tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from statistics import pstdev
from typing import Final

from rlm.errors import ConfigError

from .report import of_interval, tells, value
from .results import Results, Row
from .stats import Comparison, compare

ALL: Final = "all tasks"
SEEN: Final = 7.85  # (z of 97.5 % + z of 80 %)^2: what a difference takes to be seen in four of five evaluations


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One line: a task (or all), and how second minus first came out on the instances that both have."""

    task: str
    found: Comparison
    spread: float

    def __str__(self) -> str:
        found = self.found
        size = f"{of_interval(found.difference)}, p = {found.p_value:.2g}, {found.count} pairs, {found.test}"
        if tells(found):
            return f"{self.task}: the second is {'better' if found.difference.mean > 0 else 'worse'} by {size}"
        if found.difference.mean and self.spread:
            needed = ceil(SEEN * (self.spread / found.difference.mean) ** 2)
            return f"{self.task}: the data cannot tell ({size}); a difference of this size takes about {needed:,} pairs"
        return f"{self.task}: no difference was seen ({size})"


def differences(first: Results, second: Results, *, method: str | None = None) -> Iterator[Difference]:
    """Line by line, all tasks together last.

    The rows of a method are compared with those of the same method; where each evaluation has but one, these are.

    Raises:
        ConfigError: they share no instance, or an instance is another one in the second.
    """
    a, b = _scores(first, method), _scores(second, method)
    one_each = len({way for *_, way in a}) == 1 == len({way for *_, way in b})
    if one_each:
        a = {(*key[:-1], ""): row for key, row in a.items()}
        b = {(*key[:-1], ""): row for key, row in b.items()}
    shared = [key for key in a if key in b]
    if not shared:
        raise ConfigError("The two evaluations share no instance of the same method: give others, or --method.")
    for key in shared:
        if a[key].digest and b[key].digest and a[key].digest != b[key].digest:
            raise ConfigError(f"Instance {key[3]} of {key[0]} is not the same in both: they were made from other data.")
    for task in [*dict.fromkeys(key[0] for key in shared), ALL]:
        keys = [key for key in shared if task in (key[0], ALL)]
        before = {key: value(a[key], "strict") for key in keys}
        after = {key: value(b[key], "strict") for key in keys}
        spread = pstdev([after[key] - before[key] for key in keys])
        yield Difference(task=task, found=compare(after, before), spread=spread)


def _scores(results: Results, method: str | None) -> Mapping[tuple[str, int, int, int, str], Row]:
    return {
        (key.task, key.length, key.seed, key.index, key.method): row
        for key, row in results.rows.items()
        if method in (None, key.method)
    }
