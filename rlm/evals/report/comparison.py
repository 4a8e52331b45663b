"""Two evaluations beside each other: whether they differ, by how much, or that the data cannot tell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from statistics import pstdev
from typing import Final

from rlm.errors import ConfigError
from rlm.evals.results import Results, Row

from .report import TELLS_AT, of_difference
from .stats import Comparison, compare, holm

ALL: Final = "all tasks"
SEEN: Final = 7.85  # (z of 97.5 % + z of 80 %)^2: what a difference takes to be seen in four of five evaluations

_Place = tuple[str, int, int, int]  # task, length, seed, index: of an instance
_Pair = tuple[Row, Row]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One line: how second minus first came out for a method, on a task's instances (or all tasks') that both have.

    `adjusted` is the p-value for that one of `lines` such comparisons is looked at (Holm).
    """

    task: str
    method: str
    found: Comparison
    spread: float
    adjusted: float
    lines: int

    def __str__(self) -> str:
        found = self.found
        of_all = f" ({self.adjusted:.2g} for {self.lines} lines)" if self.lines > 1 else ""
        size = f"{of_difference(found)}, p = {found.p_value:.2g}{of_all}, {found.count} pairs, {found.test}"
        where = f"{self.task}, {self.method}"
        if self.adjusted < TELLS_AT:
            return f"{where}: the second is {'better' if found.difference > 0 else 'worse'} by {size}"
        if found.difference and self.spread:
            needed = ceil(SEEN * (self.spread / found.difference) ** 2)
            return f"{where}: the data cannot tell ({size}); a difference of this size takes about {needed:,} pairs"
        return f"{where}: no difference was seen ({size})"


def differences(first: Results, second: Results, *, method: str | None = None) -> Iterator[Difference]:
    """A line for each method and task that both have, and one for all tasks of a method where it has several.

    The rows of a method are compared with those of the same method; where each evaluation has but one, these are.

    Raises:
        ConfigError: they share no instance, or an instance is another one in the second.
    """
    lines = [
        (task, way, chosen) for way, pairs in _pairs(first, second, method).items() for task, chosen in _by_task(pairs)
    ]
    if not lines:
        raise ConfigError("The two evaluations share no instance of the same method: give others, or --method.")
    compared = [
        compare(_scores(after for _, after in pairs), _scores(before for before, _ in pairs)) for *_, pairs in lines
    ]
    adjusted = holm([found.p_value for found in compared])
    for (task, way, pairs), found, p_value in zip(lines, compared, adjusted, strict=True):
        spread = pstdev([after.value("strict") - before.value("strict") for before, after in pairs])
        yield Difference(task=task, method=way, found=found, spread=spread, adjusted=p_value, lines=len(lines))


def _pairs(first: Results, second: Results, method: str | None) -> Mapping[str, list[_Pair]]:
    """By method, the rows of the same instance in both."""
    a, b = _by_method(first, method), _by_method(second, method)
    if len(a) == 1 == len(b) and a.keys() != b.keys():
        (one, rows), (other, others) = *a.items(), *b.items()
        both = f"{one} and then {other}"
        a, b = {both: rows}, {both: others}
    found = {way: [(row, b[way][place]) for place, row in a[way].items() if place in b[way]] for way in a if way in b}
    for before, after in (pair for pairs in found.values() for pair in pairs):
        if before.digest and after.digest and before.digest != after.digest:
            raise ConfigError(
                f"Instance {before.index} of {before.task} is not the same in both: they were made from other data."
            )
    return found


def _by_method(results: Results, method: str | None) -> dict[str, dict[_Place, Row]]:
    found: dict[str, dict[_Place, Row]] = {}
    for key, row in results.rows.items():
        if method in (None, key.method):
            found.setdefault(key.method, {})[_place(row)] = row
    return found


def _by_task(pairs: list[_Pair]) -> Iterator[tuple[str, list[_Pair]]]:
    """The pairs of each task, and of all where there are several."""
    tasks = list(dict.fromkeys(before.task for before, _ in pairs))
    for task in tasks:
        yield task, [pair for pair in pairs if pair[0].task == task]
    if len(tasks) > 1:
        yield ALL, pairs


def _scores(rows: Iterable[Row]) -> dict[_Place, float]:
    return {_place(row): row.value("strict") for row in rows}


def _place(row: Row) -> _Place:
    return (row.task, row.length, row.seed, row.index)
