"""Statistics of scores: confidence intervals, paired tests, percentiles. Needs scipy (`rlm[eval]`).

Resampling is seeded: the same rows give the same digits with the same version of numpy.
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

CONFIDENCE: Final = 0.95  # level of all intervals
RESAMPLES: Final = 10_000  # a permutation test of up to 13 differing pairs tries all signs instead
BATCH_SIZE: Final = 1_000  # resamples held in memory
SEED: Final = 1927  # of the resampling; any number will do
MIN_DISTINCT: Final = 10  # values that must differ from the most common one: with fewer, a bootstrap is too narrow


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean and the bounds of its confidence interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two methods on the same instances.

    Attributes:
        count: pairs of scores.
        difference: the mean of first minus second.
        interval: its confidence interval; None if fewer than `MIN_DISTINCT` differences vary, which is misleadingly narrow.
        p_value: two-sided, not adjusted for other comparisons.
        test: the test that gave the p-value.
    """

    count: int
    difference: float
    interval: Interval | None
    p_value: float
    test: Literal["exact McNemar", "paired permutation"]


def wilson(successes: float, count: int) -> Interval:
    """Wilson's score interval of a proportion (1927, no continuity correction); 0 to 1 for a count of 0.

    Unlike scipy's, it accepts a sum of fractional scores. Scores of 0 and 1 vary most, so the interval is conservative then.
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
    """The percentile bootstrap interval of a mean.

    Raises:
        ValueError: fewer than two values.
    """
    result = stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=CONFIDENCE,
        method="percentile",
        n_resamples=RESAMPLES,
        batch=BATCH_SIZE,
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return Interval(mean=fsum(values) / len(values), low=float(result.low), high=float(result.high))


def interval(scores: Sequence[float]) -> Interval:
    """The interval of a mean score: bootstrap, or Wilson's if all scores are 0 or 1 or too few of them vary."""
    if _vary_enough(scores) and not all(score in (0, 1) for score in scores):
        return bootstrap(scores)
    return wilson(fsum(scores), len(scores))


def _vary_enough(values: Sequence[float]) -> bool:
    """Whether at least `MIN_DISTINCT` values differ from the most common one."""
    return len(values) - max(Counter(round(value, 9) for value in values).values(), default=0) >= MIN_DISTINCT


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """McNemar's exact two-sided p-value for two methods being right equally often."""
    pairs = list(zip(first, second, strict=True))
    only_first, only_second = pairs.count((True, False)), pairs.count((False, True))
    differ = only_first + only_second
    return float(stats.binomtest(only_first, differ).pvalue) if differ else 1.0


def paired_permutation(first: Sequence[float], second: Sequence[float]) -> float:
    """The two-sided p-value for paired differences having a mean of 0, by flipping their signs at random.

    Exact for up to 13 differing pairs. Otherwise sampled, with the observed signs counted as one sample.
    """
    pairs = [pair for pair in zip(first, second, strict=True) if pair[0] != pair[1]]
    if len(pairs) < 2:  # both signs of one pair are equally extreme; scipy requires two pairs
        return 1.0
    result = stats.permutation_test(
        tuple(zip(*pairs, strict=True)),
        _mean_difference,
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=BATCH_SIZE,
        rng=np.random.default_rng(SEED),
    )
    return float(result.pvalue)


def _mean_difference(first: NDArray[np.float64], second: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    difference: NDArray[np.float64] = np.mean(first - second, axis=axis)
    return difference


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for multiple comparisons (Holm 1979), which bounds the probability of any false positive."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def percentile(values: Sequence[float], share: float) -> float:
    """The quantile at `share`, from 0 to 1, with linear interpolation."""
    return float(np.quantile(values, share))


def compare(first: Mapping[Any, float], second: Mapping[Any, float]) -> Comparison:
    """Compare two methods' scores, by instance, on the instances that both have.

    Uses McNemar's exact test if every score is 0 or 1, else a paired permutation test.

    Raises:
        ValueError: no instance in common.
    """
    shared = [key for key in first if key in second]
    a, b = [first[key] for key in shared], [second[key] for key in shared]
    differences = [x - y for x, y in zip(a, b, strict=True)]
    if not differences:
        raise ValueError("The methods have no instances in common.")
    binary = all(score in (0, 1) for score in (*a, *b))
    return Comparison(
        count=len(shared),
        difference=fsum(differences) / len(shared),
        interval=bootstrap(differences) if _vary_enough(differences) else None,
        p_value=mcnemar([score == 1 for score in a], [score == 1 for score in b])
        if binary
        else paired_permutation(a, b),
        test="exact McNemar" if binary else "paired permutation",
    )
