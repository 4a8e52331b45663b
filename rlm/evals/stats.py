"""What may be concluded from scores: intervals, paired comparisons, percentiles.

The standard library is enough: the tests are exact sums of whole numbers, and draws are seeded, so a report has the same
digits on every machine; numpy, which scipy draws with, promises that for one version only. Tests pin values to scipy's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import comb, fsum, sqrt
from statistics import NormalDist
from typing import Any, Final, Literal

from .chance import Chance

CONFIDENCE: Final = 0.95
RESAMPLES: Final = 10_000
EXACT_DIFFERENCES: Final = 13  # up to so many, all 2^n signs are tried
APART: Final = 10  # values beside the commonest one that a bootstrap takes: with fewer, it is too narrow
ROUNDING: Final = 1e-12  # sums of the same numbers in another order may differ by less


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean and the bounds of its confidence interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two methods on the same instances: `difference` is the mean of first minus second.

    `interval` is None where fewer than 10 pairs differ from the commonest difference: draws from so few tell too little.
    """

    count: int
    difference: float
    interval: Interval | None
    p_value: float
    test: Literal["exact McNemar", "paired permutation"]


def wilson(successes: float, count: int, *, confidence: float = CONFIDENCE) -> Interval:
    """The interval of a share (Wilson 1927, without a correction for continuity); 0 to 1 where nothing was counted.

    `successes` may be a sum of scores from 0 to 1: no such scores vary more than those of 0 and 1 with the same mean, so the
    interval is rather too wide.
    """
    if count == 0:
        return Interval(mean=0.0, low=0.0, high=1.0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Interval(
        mean=share,
        low=0.0 if successes == 0 else middle - half,
        high=1.0 if successes == count else middle + half,
    )


def bootstrap(values: Sequence[float], *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES) -> Interval:
    """The percentile interval of a mean, from seeded draws with replacement.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("A mean needs one value at least.")
    chance, count = Chance("bootstrap", *values), len(values)
    means = sorted(fsum(chance.choices(values, count)) / count for _ in range(resamples))
    return Interval(
        mean=fsum(values) / count,
        low=percentile(means, (1 - confidence) / 2),
        high=percentile(means, (1 + confidence) / 2),
    )


def interval(scores: Sequence[float]) -> Interval:
    """The bootstrap's interval of the mean of scores from 0 to 1; Wilson's where all are 0 or 1, or too few are apart."""
    if _vary(scores) and not all(score in (0, 1) for score in scores):
        return bootstrap(scores)
    return wilson(fsum(scores), len(scores))


def _vary(values: Sequence[float]) -> bool:
    """Whether enough of them are not the commonest one."""
    return len(values) - max(Counter(round(value, 9) for value in values).values(), default=0) >= APART


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """The exact two-sided p-value that two methods are right equally often, from the instances on which they differ."""
    pairs = list(zip(first, second, strict=True))
    only_first, only_second = pairs.count((True, False)), pairs.count((False, True))
    differ = only_first + only_second
    tail = sum(comb(differ, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / (1 << differ))


def paired_permutation(first: Sequence[float], second: Sequence[float], *, resamples: int = RESAMPLES) -> float:
    """The two-sided p-value that the differences of pairs have a mean of 0: how often random signs give as large a sum.

    Exact up to 13 pairs that differ; else from seeded draws, where the observed signs count as one of them.
    """
    differences = [a - b for a, b in zip(first, second, strict=True) if a != b]
    if not differences:
        return 1.0
    observed = abs(fsum(differences)) - ROUNDING
    if len(differences) <= EXACT_DIFFERENCES:
        sums = [abs(fsum(signed)) for signed in product(*((difference, -difference) for difference in differences))]
        return sum(total >= observed for total in sums) / len(sums)
    chance = Chance("permutation", *differences)
    larger = sum(
        abs(fsum(difference if chance.share() < 0.5 else -difference for difference in differences)) >= observed
        for _ in range(resamples)
    )
    return (larger + 1) / (resamples + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of several tests, adjusted so that the chance of any false finding among them stays (Holm 1979)."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a share of the sorted values is, between neighbours by a straight line.

    Raises:
        ValueError: there are no values.
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError("A percentile needs one value at least.")
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def compare(first: Mapping[Any, float], second: Mapping[Any, float]) -> Comparison:
    """Two methods' scores by instance, compared on the instances that both have.

    McNemar's test where every score is 0 or 1, else the permutation of pairs. An interval is the bootstrap's, over pairs.

    Raises:
        ValueError: they share no instance.
    """
    shared = [key for key in first if key in second]
    a, b = [first[key] for key in shared], [second[key] for key in shared]
    differences = [x - y for x, y in zip(a, b, strict=True)]
    if not differences:
        raise ValueError("A comparison needs one instance at least that both have.")
    binary = all(score in (0, 1) for score in (*a, *b))
    return Comparison(
        count=len(shared),
        difference=fsum(differences) / len(shared),
        interval=bootstrap(differences) if _vary(differences) else None,
        p_value=mcnemar([score == 1 for score in a], [score == 1 for score in b])
        if binary
        else paired_permutation(a, b),
        test="exact McNemar" if binary else "paired permutation",
    )
