"""The cost of a call."""

from __future__ import annotations

from typing import Any

import pytest

from rlm.errors import ConfigError
from rlm.models.prices import Price, Pricing, listed_cost
from rlm.types import Usage

OPENAI = "https://api.openai.com/v1"
MILLION = Usage(calls=1, input_tokens=1_000_000, output_tokens=1_000_000, cached_tokens=400_000)


def test_a_users_price_counts_cached_input_at_its_own_rate() -> None:
    assert Price(input=2.0, output=8.0, cached=0.5).cost(MILLION) == pytest.approx(0.6 * 2 + 0.4 * 0.5 + 8)
    assert Price(input=2.0, output=8.0).cost(MILLION) == pytest.approx(10)


def test_a_users_price_comes_before_the_list() -> None:
    assert Pricing(base_url=OPENAI, price=Price(input=0, output=1)).cost(MILLION, names=["gpt-5"]) == 1


def test_a_listed_model_costs_what_the_list_says_and_cached_input_less() -> None:
    fresh = Usage(calls=1, input_tokens=1000, output_tokens=100)
    cached = Usage(calls=1, input_tokens=1000, output_tokens=100, cached_tokens=1000)
    assert listed_cost(fresh, model="gpt-5", base_url=OPENAI) == pytest.approx(0.00225)
    assert listed_cost(cached, model="gpt-5", base_url=OPENAI) == pytest.approx(0.001125)


def test_the_service_tier_that_was_used_is_priced() -> None:
    usage = Usage(calls=1, input_tokens=1000, output_tokens=100)
    costs = [listed_cost(usage, model="gpt-5", base_url=OPENAI, tier=tier) for tier in ("flex", "default", "priority")]
    assert costs == pytest.approx([0.001125, 0.00225, 0.0045])


@pytest.mark.parametrize(
    ("model", "base_url"),
    [
        ("nobody-knows-this", OPENAI),
        ("gpt-5", "http://127.0.0.1:8080/v1"),  # a listed name on a private server
        ("moderation", OPENAI),  # listed without a price
    ],
)
def test_an_unknown_price_is_none_and_never_zero(model: str, base_url: str) -> None:
    assert listed_cost(MILLION, model=model, base_url=base_url) is None
    assert Pricing(base_url=base_url).cost(MILLION, names=[model]) is None


def test_the_name_that_the_server_gives_is_tried_before_the_name_that_was_asked_for() -> None:
    pricing = Pricing(base_url=OPENAI)
    assert pricing.cost(MILLION, names=["gpt-5-mini", "gpt-5"]) == pricing.cost(MILLION, names=["gpt-5-mini"])
    assert pricing.cost(MILLION, names=["my-deployment", "gpt-5"]) == pricing.cost(MILLION, names=["gpt-5"])


@pytest.mark.parametrize("wrong", [{"input": -1}, {"output": float("nan")}, {"cached": float("inf")}, {"input": "1"}])
def test_an_invalid_price_is_refused_in_one_sentence(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^Price\(.*\) is invalid: use dollars per million tokens, 0 or more\.$"):
        Price(**{"input": 1.0, "output": 1.0, **wrong})
