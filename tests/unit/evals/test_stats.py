"""Intervals and tests have the known values, are deterministic, and are never too narrow."""

from __future__ import annotations

import pytest

from rlm.evals.corpus.seeded_random import SeededRandom
from rlm.evals.report.stats import (
    Interval,
    bootstrap,
    compare,
    holm,
    interval,
    mcnemar,
    paired_permutation,
    percentile,
    wilson,
)

FIRST = [0.9, 0.4, 1.0, 0.25, 0.75, 0.5, 0.8, 0.1, 0.6, 1.0]
SECOND = [0.5, 0.4, 0.7, 0.3, 0.25, 0.45, 0.1, 0.2, 0.6, 0.3]
MANY = [(i * 37 % 40) / 40 for i in range(40)]
SHIFTED = [value - ((i * 11) % 7 - 2) / 50 for i, value in enumerate(MANY)]


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [
        (0, 10, 0, 0.27753279986288926),
        (3, 10, 0.10779126740630102, 0.6032218525388546),
        (10, 10, 0.7224672001371109, 1),
        (43, 50, 0.7381380628941446, 0.9304916657298371),
        (1, 150, 0.001177801335017433, 0.03679283977481815),
    ],
)
def test_wilsons_interval(successes: int, count: int, low: float, high: float) -> None:
    found = wilson(successes, count)
    assert found.mean == successes / count
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)


def test_the_interval_of_no_scores_is_0_to_1() -> None:
    assert wilson(0, 0) == interval([]) == Interval(mean=0, low=0, high=1)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p_value"),
    [(1, 8, 0.0390625), (8, 1, 0.0390625), (5, 5, 1), (0, 6, 0.03125), (10, 25, 0.016673847800120715), (0, 0, 1)],
)
def test_mcnemars_test_is_the_exact_binomial_one(only_first: int, only_second: int, p_value: float) -> None:
    first = [True] * only_first + [False] * only_second + [True, False]
    second = [False] * only_first + [True] * only_second + [True, False]
    assert mcnemar(first, second) == pytest.approx(p_value, rel=1e-9)


def test_mcnemars_test_has_no_limit_on_the_number_of_instances() -> None:
    assert mcnemar([True] * 3000, [False] * 3000) == 0  # 2^-2999, below the smallest float
    assert mcnemar([True, False] * 3000, [False, True] * 3000) == 1


def test_a_permutation_of_pairs_is_exact_for_few_and_near_for_many() -> None:
    assert paired_permutation(FIRST, SECOND) == paired_permutation(SECOND, FIRST) == 0.0546875
    assert paired_permutation(MANY, SHIFTED) == pytest.approx(0.00845, abs=0.003)
    assert paired_permutation(MANY, SHIFTED) == paired_permutation(MANY, SHIFTED)
    assert paired_permutation(FIRST, FIRST) == 1
    assert paired_permutation([0.5, *FIRST], [0.25, *FIRST]) == 1
    assert paired_permutation([0.5, 0.5], [0.25, 0.0]) == 0.5


def test_pairs_of_different_numbers_of_instances_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        paired_permutation(FIRST, SECOND[1:])
    with pytest.raises(ValueError, match="shorter"):
        mcnemar([True], [])


def test_a_bootstraps_interval_is_the_same_every_time() -> None:
    found = bootstrap(MANY)
    assert found == bootstrap(MANY)
    assert found.mean == pytest.approx(0.4875)
    assert (found.low, found.high) == pytest.approx((0.39875, 0.576875), abs=0.01)
    assert bootstrap([0.5] * 9) == Interval(mean=0.5, low=0.5, high=0.5)


def test_scores_of_0_and_1_get_wilsons_interval_and_others_the_bootstraps() -> None:
    assert interval([1, 0] * 20) == wilson(20, 40)
    assert interval(MANY) == bootstrap(MANY)


@pytest.mark.parametrize("scores", [[0.75], [0.5] * 3, [0.5] * 100, [*[1.0] * 20, 0.3, 0.5]])
def test_scores_that_hardly_vary_have_no_narrower_interval_than_as_many_of_0_and_1(scores: list[float]) -> None:
    found = interval(scores)
    assert found == wilson(sum(scores), len(scores))
    assert found.low < found.mean < found.high


@pytest.mark.parametrize("count", [3, 5, 10, 20, 50])
def test_an_interval_holds_the_mean_of_scores_that_are_mostly_1_as_often_as_it_says(count: int) -> None:
    rng, mean, times = SeededRandom("coverage", count), 0.9 + 0.1 * 0.25, 400
    samples = ([1.0 if rng.random() < 0.9 else rng.random() / 2 for _ in range(count)] for _ in range(times))
    held = sum(found.low <= mean <= found.high for found in map(interval, samples))
    assert held / times >= 0.94


def test_a_percentile_lies_between_neighbours_on_a_straight_line() -> None:
    assert [percentile([4, 1, 3, 10], share) for share in (0, 0.5, 0.95, 1)] == pytest.approx([1, 3.5, 9.1, 10])


def test_methods_are_compared_on_the_instances_that_both_have() -> None:
    first: dict[object, float] = dict.fromkeys(range(12), 1.0)
    second: dict[object, float] = {key: float(key >= 8) for key in range(2, 14)}
    found = compare(first, second)
    assert (found.count, found.test, found.p_value) == (10, "exact McNemar", 0.03125)
    assert found.difference == 0.6
    assert compare(dict(enumerate(FIRST)), dict(enumerate(SECOND))).test == "paired permutation"
    assert compare(dict(enumerate(FIRST)), dict(enumerate(SECOND))).p_value == 0.0546875


def test_a_difference_has_an_interval_only_if_enough_pairs_differ() -> None:
    def found(*differences: float) -> Interval | None:
        return compare(dict(enumerate(differences)), dict.fromkeys(range(len(differences)), 0.0)).interval

    assert found(*[1.0] * 20) is None  # else from 1 to 1
    assert found(*[1.0] * 9, *[0.0] * 50) is None
    enough = found(*[1.0] * 10, *[0.0] * 50)
    assert enough is not None
    assert 0 < enough.low < enough.mean < enough.high
    with pytest.raises(ValueError, match="no instances in common"):
        compare({}, {})


def test_p_values_of_several_tests_are_adjusted_as_holm_says() -> None:
    # By hand: 3 x .01, 2 x .03 (and no less for .04), 2 x .03, 4 x .005.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.5]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []
