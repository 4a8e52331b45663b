"""Limits hold for the whole tree, in any order of calls."""

import math
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm.calls.budget import Budget, BudgetExceeded, Estimate, estimate_input, estimate_tokens
from rlm.config import Limits, SandboxConfig
from rlm.errors import ConfigError
from rlm.types import Message, Usage


def tokens(count: int) -> Estimate:
    return Estimate(tokens=count)


def dollars(amount: float) -> Estimate:
    return Estimate(dollars=amount)


def test_one_call_stays_in_reserve_for_the_last_turn() -> None:
    budget = Budget(Limits(max_lm_calls=3))
    budget.reserve(tokens(1))
    budget.reserve(tokens(1))
    with pytest.raises(BudgetExceeded, match="3 model calls") as refused:
        budget.reserve(tokens(1))
    assert refused.value.reason == "max_lm_calls"
    budget.reserve(tokens(1), last=True)
    with pytest.raises(BudgetExceeded):
        budget.reserve(tokens(1), last=True)


def test_tokens_of_calls_in_flight_count_until_they_are_settled() -> None:
    budget = Budget(Limits(max_tokens=100))
    budget.reserve(tokens(80))
    with pytest.raises(BudgetExceeded, match="the run has 20 of its 100 tokens left, and this call may need 30"):
        budget.reserve(tokens(30))
    budget.settle(tokens(80), Usage(calls=1, input_tokens=10, output_tokens=5))
    budget.reserve(tokens(80))


def test_dollars_of_calls_in_flight_count_until_they_are_settled() -> None:
    budget = Budget(Limits(max_cost_usd=1.0))
    budget.reserve(dollars(0.8))
    with pytest.raises(
        BudgetExceeded, match=r"the run has \$0.2 of its \$1 left, and this call may need \$0.3"
    ) as refused:
        budget.reserve(dollars(0.3))
    assert refused.value.reason == "max_cost_usd"
    budget.settle(dollars(0.8), Usage(calls=1, cost_usd=0.1))
    budget.reserve(dollars(0.8))


def test_a_refusal_says_whether_calls_in_flight_may_make_room() -> None:
    budget = Budget(Limits(max_tokens=100))
    budget.reserve(tokens(80))
    for requested, may_succeed_later in ((90, True), (110, False)):
        with pytest.raises(BudgetExceeded) as refused:
            budget.reserve(tokens(requested))
        assert refused.value.may_succeed_later is may_succeed_later
    budget.settle(tokens(80), Usage(calls=1, input_tokens=80))
    with pytest.raises(BudgetExceeded) as refused:
        budget.reserve(tokens(90))
    assert refused.value.may_succeed_later is False


def test_a_call_that_the_provider_refused_frees_its_reservation() -> None:
    budget = Budget(Limits(max_tokens=100))
    budget.reserve(tokens(100))
    budget.settle(tokens(100), Usage())
    budget.reserve(tokens(100))


def test_a_call_that_was_cancelled_may_be_billed_and_counts_as_estimated() -> None:
    budget = Budget(Limits(max_tokens=100))
    budget.reserve(tokens(60))
    budget.abandon(tokens(60))
    assert budget.in_flight == Estimate()
    budget.reserve(tokens(40))
    with pytest.raises(BudgetExceeded):
        budget.reserve(tokens(1))


def test_a_call_of_unknown_cost_counts_against_the_limit_as_estimated() -> None:
    budget = Budget(Limits(max_cost_usd=1.0))
    budget.reserve(dollars(0.9))
    budget.settle(dollars(0.9), Usage(calls=1, cost_usd=None))
    with pytest.raises(BudgetExceeded):
        budget.reserve(dollars(0.2))


@pytest.mark.parametrize("limits", [Limits(max_tokens=100), Limits(max_cost_usd=100.0)])
def test_the_roots_last_turn_is_kept_out_of_reach_of_its_children(limits: Limits) -> None:
    budget = Budget(limits)
    budget.reserve_last_turn(Estimate(tokens=40, dollars=40))
    with pytest.raises(BudgetExceeded):
        budget.reserve(Estimate(tokens=70, dollars=70))
    budget.reserve(Estimate(tokens=70, dollars=70), last=True)


def test_the_number_of_rlms_is_bounded() -> None:
    budget = Budget(Limits(max_rlms=2))
    budget.start_rlm()
    budget.start_rlm()
    with pytest.raises(BudgetExceeded):
        budget.start_rlm()


CALL = st.tuples(
    st.integers(0, 300), st.integers(0, 300), st.booleans(), st.sampled_from(["later", "settle", "abandon"])
)


@given(st.integers(1, 1000), st.lists(CALL))
def test_no_order_of_calls_exceeds_a_limit_by_more_than_their_own_excess(
    limit: int, calls: list[tuple[int, int, bool, str]]
) -> None:
    budget = Budget(Limits(max_tokens=limit, max_cost_usd=limit / 10, max_lm_calls=None))
    excess = 0
    under_way = []

    def settle(estimate: Estimate, actual: int) -> None:
        nonlocal excess
        budget.settle(estimate, Usage(calls=1, input_tokens=actual, cost_usd=actual / 10))
        excess += max(0, actual - estimate.tokens)

    for expected, actual, last, then in calls:
        estimate = Estimate(tokens=expected, dollars=expected / 10)
        try:
            budget.reserve(estimate, last=last)
        except BudgetExceeded:
            continue
        under_way.append((estimate, actual))
        if then == "settle":
            settle(*under_way.pop(0))
        elif then == "abandon":
            budget.abandon(under_way.pop(0)[0])
    for call in under_way:
        settle(*call)
    assert budget.used.total_tokens <= limit + excess
    assert budget.used.cost_usd is not None
    assert budget.used.cost_usd <= (limit + excess) / 10 + 1e-9
    assert budget.in_flight == Estimate()


def test_the_estimate_of_a_request_covers_its_texts_and_their_separators() -> None:
    assert estimate_input([Message(role="user", content="x" * 3000)]) == 1054
    assert estimate_input([Message(role="user", content="x" * 300)] * 10) == 1090


def test_the_remainder_excludes_calls_in_flight_and_the_reserve_of_the_last_turn() -> None:
    budget = Budget(Limits(max_tokens=100))
    budget.reserve_last_turn(tokens(10))
    budget.reserve(tokens(20))
    assert budget.remaining() == (70, math.inf)
    assert budget.remaining(last=True) == (80, math.inf)
    budget.settle(tokens(20), Usage(calls=1, input_tokens=15))
    assert budget.remaining() == (75, math.inf)
    assert Budget(Limits(max_cost_usd=0.5)).remaining() == (math.inf, 0.5)


def test_scripts_with_fewer_characters_a_token_are_estimated_higher() -> None:
    assert estimate_tokens("\N{CJK UNIFIED IDEOGRAPH-4E2D}" * 30) == 30
    assert estimate_tokens("\ud800" * 3) == 3
    assert estimate_tokens("word " * 6) == 10


def test_a_price_that_is_unknown_makes_the_sum_unknown() -> None:
    assert (Usage(cost_usd=1.0) + Usage(cost_usd=None)).cost_usd is None
    assert (Usage(cost_usd=1.0) + Usage(cost_usd=0.5)).cost_usd == 1.5


@pytest.mark.parametrize("wrong", [{"max_iterations": 0}, {"max_tokens": -1}, {"cell_seconds": 0.0}, {"max_depth": -1}])
def test_a_limit_that_allows_nothing_is_refused_in_one_sentence(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="is invalid: use a number above 0"):
        Limits(**wrong)


@pytest.mark.parametrize("name", [field.name for field in fields(Limits)])
@pytest.mark.parametrize("value", ["5", True, math.nan, math.inf, 2.5, [1]])
def test_a_limit_that_is_not_a_number_is_refused_in_one_sentence(name: str, value: Any) -> None:
    if value == 2.5 and name in ("max_seconds", "max_cost_usd", "cell_seconds"):
        assert getattr(Limits(**{name: value}), name) == value
        return
    with pytest.raises(ConfigError, match=rf"Limits\({name}=.*\) is invalid: use a .*number, or None for no limit\."):
        Limits(**{name: value})


@pytest.mark.parametrize("name", [field.name for field in fields(Limits)])
def test_every_limit_can_be_none(name: str) -> None:
    assert getattr(Limits(**{name: None}), name) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"memory_bytes": "1g"},
        {"cpus": math.nan},
        {"cpus": math.inf},
        {"cpus": 0},
        {"max_processes": 2.5},
        {"max_processes": None},
        {"start_seconds": True},
        {"memory_per_context_byte": -1},
        {"transport": "ssh"},
        {"runtime": 5},
    ],
)
def test_an_invalid_sandbox_policy_is_refused_in_one_sentence(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"^SandboxConfig\({next(iter(wrong))}=.*\) is invalid: use .*\.$"):
        SandboxConfig(**wrong)


def test_depth_0_can_be_the_limit() -> None:
    assert Limits(max_depth=0).max_depth == 0
