"""What a model call costs: pure, from a user's price or from the price list of the genai-prices package.

The list is the one that the installed package carries: nothing is fetched.
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

MTOK: Final = 1_000_000  # prices are given for a million tokens
STANDARD_TIERS: Final = frozenset({None, "auto", "default", "standard"})  # all mean the usual price


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """A price of one's own: dollars per million tokens. Without `cached`, cached input costs what other input does."""

    input: float
    output: float
    cached: float | None = None

    def __post_init__(self) -> None:
        if not all(isinstance(rate, int | float) and 0 <= rate < math.inf for rate in self._rates()):
            raise ConfigError(f"{self!r} cannot be: give dollars per million tokens, 0 or more.")

    def cost(self, usage: Usage) -> float:
        cached = self.input if self.cached is None else self.cached
        fresh_tokens = usage.input_tokens - usage.cached_tokens
        return (fresh_tokens * self.input + usage.cached_tokens * cached + usage.output_tokens * self.output) / MTOK

    def _rates(self) -> tuple[float, ...]:
        return (self.input, self.output) if self.cached is None else (self.input, self.output, self.cached)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pricing:
    """How a call is priced where the provider does not say what it cost: by the user's price, else by the list."""

    base_url: str
    price: Price | None = None

    def cost(self, usage: Usage, *, names: Sequence[str], tier: str | None = None) -> float | None:
        """Dollars, or None where the price is unknown. The first of the model's names that is listed counts."""
        if self.price is not None:
            return self.price.cost(usage)
        costs = (listed_cost(usage, model=name, base_url=self.base_url, tier=tier) for name in names)
        return next((cost for cost in costs if cost is not None), None)


def listed_cost(usage: Usage, *, model: str, base_url: str, tier: str | None = None) -> float | None:
    """The list's dollars for a call, or None where the list does not know the server, the model or its price.

    Args:
        usage: what the call used.
        model: the provider's name of the model.
        base_url: tells the provider: the same model has other prices elsewhere, and none on a server of one's own.
        tier: the service tier that the provider says it used.
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


@lru_cache(maxsize=1024)  # the names may come from a server, so their number is bounded
def _is_listed(model: str, base_url: str) -> bool:
    """Whether there is a price. An entry without one is not a free model."""
    try:
        entry = genai_prices.calc_price(genai_prices.Usage(), model, provider_api_url=base_url).model_price
    except LookupError:
        return False
    return entry.input_mtok is not None and entry.output_mtok is not None


def listed_window(model: str, base_url: str) -> int | None:
    """Tokens of the model's window, or None where the list does not know the server, the model or its window."""
    try:
        _, entry = data_snapshot.get_snapshot().find_provider_model(model, None, None, base_url)
    except LookupError:
        return None
    return entry.context_window
