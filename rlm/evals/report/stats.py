"""What may be concluded from scores: intervals, paired comparisons, percentiles. Needs scipy (`rlm[eval]`).

Draws are seeded: the same rows give the same digits with the same numpy, which draws them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum, sqrt
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE: Final = 0.95
RESAMPLES: Final = 10_000  # also the number of signs up to which a permutation tries all: of 13 pairs that differ
BATCH: Final = 1_000  # resamples in memory at once
SEED: Final = 1927
MIN_DISTINCT: Final = 10  # values beside the commonest one that a bootstrap takes: with fewer, it is too narrow


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


def wilson(successes: float, count: int) -> Interval:
    """The interval of a share (Wilson 1927, without a correction for continuity); 0 to 1 where nothing was counted.

    `successes` may be a sum of scores from 0 to 1, of which scipy takes none: no such scores vary more than those of 0 and 1
    with the same mean, so the interval is rather too wide.
    """
    if count == 0:
        return Interval(mean=0.0, low=0.0, high=1.0)
    z = float(stats.norm.ppf(0.5 + CONFIDENCE / 2))
    share = successes / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Interval(
        mean=share,
        low=0.0 if successes == 0 else middle - half,
        high=1.0 if successes == count else middle + half,
    )


def bootstrap(values: Sequence[float]) -> Interval:
    """The percentile interval of a mean, from seeded draws with replacement.

    Raises:
        ValueError: there are fewer than two values.
    """
    found = stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=CONFIDENCE,
        method="percentile",
        n_resamples=RESAMPLES,
        batch=BATCH,
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return Interval(mean=fsum(values) / len(values), low=float(found.low), high=float(found.high))


def interval(scores: Sequence[float]) -> Interval:
    """The bootstrap's interval of the mean of scores from 0 to 1; Wilson's where all are 0 or 1, or too few are apart."""
    if _vary(scores) and not all(score in (0, 1) for score in scores):
        return bootstrap(scores)
    return wilson(fsum(scores), len(scores))


def _vary(values: Sequence[float]) -> bool:
    """Whether enough of them are not the commonest one."""
    return len(values) - max(Counter(round(value, 9) for value in values).values(), default=0) >= MIN_DISTINCT


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """The exact two-sided p-value that two methods are right equally often, from the instances on which they differ."""
    pairs = list(zip(first, second, strict=True))
    only_first, only_second = pairs.count((True, False)), pairs.count((False, True))
    differ = only_first + only_second
    return float(stats.binomtest(only_first, differ).pvalue) if differ else 1.0


def paired_permutation(first: Sequence[float], second: Sequence[float]) -> float:
    """The two-sided p-value that the differences of pairs have a mean of 0: how often random signs give as large a mean.

    Exact up to 13 pairs that differ; else from seeded draws, where the observed signs count as one of them.
    """
    pairs = [pair for pair in zip(first, second, strict=True) if pair[0] != pair[1]]
    if len(pairs) < 2:  # either sign of one is as large, which scipy does not take
        return 1.0
    found = stats.permutation_test(
        tuple(zip(*pairs, strict=True)),
        _mean_difference,
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=BATCH,
        rng=np.random.default_rng(SEED),
    )
    return float(found.pvalue)


def _mean_difference(first: NDArray[np.float64], second: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    difference: NDArray[np.float64] = np.mean(first - second, axis=axis)
    return difference


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of several tests, adjusted so that the chance of any false finding among them stays (Holm 1979)."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a share of the values is, between neighbours by a straight line."""
    return float(np.quantile(values, share))


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
