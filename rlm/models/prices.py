"""Prices model calls: by the user's price, or by the list in the installed genai-prices package. Pure; fetches nothing.

Imports errors and types.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import genai_prices
from genai_prices import data_snapshot

from rlm.errors import ConfigError
from rlm.types import Usage

MTOK: Final = 1_000_000  # the unit of all prices
STANDARD_TIERS: Final = frozenset({None, "auto", "default", "standard"})  # service tiers at the usual price


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """A custom price, in dollars per million tokens.

    Attributes:
        input: price of input tokens.
        output: price of output tokens.
        cached: price of cached input tokens; None is the price of other input.

    Raises:
        ConfigError: a price is not a finite number, 0 or more.
    """

    input: float
    output: float
    cached: float | None = None

    def __post_init__(self) -> None:
        if not all(isinstance(rate, int | float) and 0 <= rate < math.inf for rate in self._rates()):
            raise ConfigError(f"{self!r} is invalid: use dollars per million tokens, 0 or more.")

    def cost(self, usage: Usage) -> float:
        """Dollars for this usage."""
        cached = self.input if self.cached is None else self.cached
        fresh_tokens = usage.input_tokens - usage.cached_tokens
        return (fresh_tokens * self.input + usage.cached_tokens * cached + usage.output_tokens * self.output) / MTOK

    def _rates(self) -> tuple[float, ...]:
        return (self.input, self.output) if self.cached is None else (self.input, self.output, self.cached)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pricing:
    """Prices the calls whose cost the provider does not report: by the user's price, else by the list."""

    base_url: str
    price: Price | None = None

    def cost(self, usage: Usage, *, names: Sequence[str], tier: str | None = None) -> float | None:
        """Dollars for this usage; None if no price is known. The first listed name of the model applies."""
        if self.price is not None:
            return self.price.cost(usage)
        costs = (listed_cost(usage, model=name, base_url=self.base_url, tier=tier) for name in names)
        return next((cost for cost in costs if cost is not None), None)


def listed_cost(usage: Usage, *, model: str, base_url: str, tier: str | None = None) -> float | None:
    """Dollars for a call by the list; None if the server, the model or its price is not listed.

    Args:
        usage: usage of the call.
        model: the provider's name of the model.
        base_url: identifies the provider: prices differ between providers, and private servers have none.
        tier: the service tier that the provider reports.
    """
    if not _is_listed(model, base_url):
        return None
    calculated = genai_prices.calc_price(
        genai_prices.Usage(
            input_tokens=usage.input_tokens,
            cache_read_tokens=usage.cached_tokens,
            output_tokens=usage.output_tokens,
        ),
        model,
        provider_api_url=base_url,
        price_context=None if tier in STANDARD_TIERS else {"service_tier": str(tier)},
    )
    return float(calculated.total_price)


@lru_cache(maxsize=1024)  # bounded, because a server may choose the names
def _is_listed(model: str, base_url: str) -> bool:
    """Whether the list has a price. A model without one is not free."""
    try:
        entry = genai_prices.calc_price(genai_prices.Usage(), model, provider_api_url=base_url).model_price
    except LookupError:
        return False
    return entry.input_mtok is not None and entry.output_mtok is not None


def listed_window(model: str, base_url: str) -> int | None:
    """Tokens of the model's window; None if the server, the model or its window is not listed."""
    try:
        _, entry = data_snapshot.get_snapshot().find_provider_model(model, None, None, base_url)
    except LookupError:
        return None
    return entry.context_window
