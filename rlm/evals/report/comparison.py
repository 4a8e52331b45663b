"""Two evaluations side by side: whether they differ, and by how much."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from statistics import pstdev
from typing import Final

from rlm._util.text import quantity
from rlm.errors import ConfigError
from rlm.evals.results import ResultRow, Results

from .report import SIGNIFICANCE_LEVEL, format_difference
from .stats import Comparison, compare, holm

ALL_TASKS: Final = "all tasks"
POWER_FACTOR: Final = 7.85  # (z of 97.5 % + z of 80 %)^2: detects a difference in four of five evaluations

_InstanceKey = tuple[str, int, int, int]  # task, length, seed, index
_Pair = tuple[ResultRow, ResultRow]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How the second evaluation's scores differ from the first's, for one method and task (or all tasks).

    Attributes:
        task: a name, or `all tasks`.
        method: the method of both, or two methods.
        result: second minus first.
        spread: standard deviation of the differences.
        adjusted: the p-value, adjusted for all comparisons (Holm).
        comparisons: number of comparisons.
    """

    task: str
    method: str
    result: Comparison
    spread: float
    adjusted: float
    comparisons: int

    def __str__(self) -> str:
        result = self.result
        p_value = f"p = {self.adjusted:.2g}"
        if self.comparisons > 1:
            p_value += f" (adjusted for {self.comparisons} comparisons)"
        numbers = f"{format_difference(result)}, {p_value}, {quantity(result.count, 'pair')}, {result.test}"
        subject = f"{self.task}, {self.method}"
        if self.adjusted < SIGNIFICANCE_LEVEL:
            return f"{subject}: the second is {'better' if result.difference > 0 else 'worse'} by {numbers}"
        if result.difference and self.spread:
            needed = ceil(POWER_FACTOR * (self.spread / result.difference) ** 2)
            return f"{subject}: not significant: {numbers}; detecting this difference takes about {needed:,} pairs"
        return f"{subject}: no difference found: {numbers}"


def differences(first: Results, second: Results, *, method: str | None = None) -> Iterator[Difference]:
    """Compare two evaluations by method and task, and by all tasks together if a method has several.

    Rows of a method are compared with rows of the same method. If each evaluation has only one, those two are compared.

    Raises:
        ConfigError: the evaluations have no instances in common, or an instance differs.
    """
    lines = [
        (task, name, chosen)
        for name, pairs in _pairs_by_method(first, second, method).items()
        for task, chosen in _pairs_by_task(pairs)
    ]
    if not lines:
        raise ConfigError("These evaluations have no instances in common. Choose others, or set --method.")
    results = [
        compare(_scores(after for _, after in pairs), _scores(before for before, _ in pairs)) for *_, pairs in lines
    ]
    adjusted = holm([result.p_value for result in results])
    for (task, name, pairs), result, p_value in zip(lines, results, adjusted, strict=True):
        spread = pstdev([after.value("strict") - before.value("strict") for before, after in pairs])
        yield Difference(task=task, method=name, result=result, spread=spread, adjusted=p_value, comparisons=len(lines))


def _pairs_by_method(first: Results, second: Results, method: str | None) -> Mapping[str, list[_Pair]]:
    """Pairs of rows of the same instance, one from each evaluation, by method."""
    a, b = _rows_by_method(first, method), _rows_by_method(second, method)
    if len(a) == 1 == len(b) and a.keys() != b.keys():
        (one, rows), (other, other_rows) = *a.items(), *b.items()
        both = f"{one} vs {other}"
        a, b = {both: rows}, {both: other_rows}
    pairs = {name: [(row, b[name][key]) for key, row in a[name].items() if key in b[name]] for name in a if name in b}
    for before, after in (pair for each in pairs.values() for pair in each):
        if before.digest and after.digest and before.digest != after.digest:
            raise ConfigError(
                f"Instance {before.index} of {before.task} differs between the evaluations: they used different data."
            )
    return pairs


def _rows_by_method(results: Results, method: str | None) -> dict[str, dict[_InstanceKey, ResultRow]]:
    rows: dict[str, dict[_InstanceKey, ResultRow]] = {}
    for key, row in results.rows.items():
        if method in (None, key.method):
            rows.setdefault(key.method, {})[_instance_key(row)] = row
    return rows


def _pairs_by_task(pairs: list[_Pair]) -> Iterator[tuple[str, list[_Pair]]]:
    """The pairs of each task, then of all tasks if there are several."""
    tasks = list(dict.fromkeys(before.task for before, _ in pairs))
    for task in tasks:
        yield task, [pair for pair in pairs if pair[0].task == task]
    if len(tasks) > 1:
        yield ALL_TASKS, pairs


def _scores(rows: Iterable[ResultRow]) -> dict[_InstanceKey, float]:
    return {_instance_key(row): row.value("strict") for row in rows}


def _instance_key(row: ResultRow) -> _InstanceKey:
    return (row.task, row.length, row.seed, row.index)
