"""Limits hold for the whole tree, whatever the order of calls."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm.budget import Budget, Refused, estimate_tokens
from rlm.config import Limits
from rlm.errors import ConfigError
from rlm.types import Message, Usage


def test_one_call_stays_in_reserve_for_the_last_turn() -> None:
    budget = Budget(Limits(max_lm_calls=3))
    budget.reserve(1)
    budget.reserve(1)
    with pytest.raises(Refused, match="3 model calls") as refused:
        budget.reserve(1)
    assert refused.value.reason == "budget_calls"
    budget.reserve(1, last=True)
    with pytest.raises(Refused):
        budget.reserve(1, last=True)


def test_tokens_of_calls_in_flight_count_until_they_are_settled() -> None:
    budget = Budget(Limits(max_tokens=100))
    first = budget.reserve(80)
    with pytest.raises(Refused, match="100 tokens"):
        budget.reserve(30)
    budget.settle(first, Usage(calls=1, input_tokens=10, output_tokens=5))
    budget.reserve(80)


def test_a_failed_call_gives_its_tokens_back() -> None:
    budget = Budget(Limits(max_tokens=100))
    budget.release(budget.reserve(100))
    budget.reserve(100)


def test_the_roots_last_turn_is_kept_out_of_reach_of_its_children() -> None:
    budget = Budget(Limits(max_tokens=100))
    budget.keep_for_last_turn(40)
    with pytest.raises(Refused):
        budget.reserve(70)
    budget.reserve(70, last=True)


def test_a_dollar_limit_stops_further_calls_once_it_is_spent() -> None:
    budget = Budget(Limits(max_cost_usd=1.0))
    budget.settle(budget.reserve(1), Usage(calls=1, cost_usd=1.2))
    with pytest.raises(Refused, match=r"\$1 "):
        budget.reserve(1)


def test_the_number_of_rlms_is_bounded() -> None:
    budget = Budget(Limits(max_rlms=2))
    budget.start_rlm()
    budget.start_rlm()
    with pytest.raises(Refused):
        budget.start_rlm()


@given(
    st.integers(1, 1000),
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300), st.booleans(), st.booleans())),
)
def test_no_order_of_calls_passes_the_token_limit_by_more_than_their_own_excess(
    limit: int, calls: list[tuple[int, int, bool, bool]]
) -> None:
    budget = Budget(Limits(max_tokens=limit, max_lm_calls=None))
    excess = 0
    open_calls = []
    for estimate, actual, last, settle_now in calls:
        try:
            reservation = budget.reserve(estimate, last=last)
        except Refused:
            continue
        open_calls.append((reservation, estimate, actual))
        if settle_now:
            reservation, estimate, actual = open_calls.pop(0)
            budget.settle(reservation, Usage(calls=1, input_tokens=actual))
            excess += max(0, actual - estimate)
    for reservation, estimate, actual in open_calls:
        budget.settle(reservation, Usage(calls=1, input_tokens=actual))
        excess += max(0, actual - estimate)
    assert budget.used.total_tokens <= limit + excess


def test_the_estimate_of_a_call_covers_its_prompt_and_its_reply() -> None:
    messages = [Message(role="user", content="x" * 3000)]
    assert estimate_tokens(messages, 500) == 1501
    assert estimate_tokens(messages, None) > 1501


def test_a_price_that_is_unknown_makes_the_sum_unknown() -> None:
    assert (Usage(cost_usd=1.0) + Usage(cost_usd=None)).cost_usd is None
    assert (Usage(cost_usd=1.0) + Usage(cost_usd=0.5)).cost_usd == 1.5


@pytest.mark.parametrize("wrong", [{"max_iterations": 0}, {"max_tokens": -1}, {"cell_seconds": 0.0}])
def test_a_limit_that_allows_nothing_is_refused_in_one_sentence(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="allows nothing"):
        Limits(**wrong)
