"""The budget of a run: every call reserves before it is sent and settles after. Pure: no clock, no I/O.

The host alone keeps the ledger. A sandbox influences it only through the size of its prompts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rlm.config import Limits
from rlm.errors import RLMError
from rlm.types import Message, StopReason, Usage

BYTES_PER_TOKEN: Final = 3  # English has about 4: estimates err on the high side
TOKENS_PER_MESSAGE: Final = 4  # a provider's markers around each message
TOKENS_PER_REQUEST: Final = 50  # tokens that a provider may add before a conversation
MIN_PARALLEL_CALLS: Final = 8  # a call reserves at most an eighth of what remains, so that eight can always run
MIN_REPLY_TOKENS: Final = 2_000  # a reasoning model needs at least these for a useful reply
MAX_REPLY_TOKENS: Final = 16_000  # enough for any reply: reserving more would only block other calls


class BudgetExceeded(RLMError):
    """The budget refuses a call.

    Attributes:
        reason: the limit that the call would exceed.
        may_succeed_later: whether calls in flight may free enough of their reservations.
    """

    def __init__(self, message: str, *, reason: StopReason, may_succeed_later: bool = False) -> None:
        super().__init__(message)
        self.reason: StopReason = reason
        self.may_succeed_later = may_succeed_later


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """An upper estimate of a call's usage. `dollars` is 0 if no price is known."""

    tokens: int = 0
    dollars: float = 0.0

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(tokens=self.tokens + other.tokens, dollars=self.dollars + other.dollars)

    def __sub__(self, other: Estimate) -> Estimate:
        return Estimate(tokens=self.tokens - other.tokens, dollars=self.dollars - other.dollars)


def estimate_input(messages: Sequence[Message]) -> int:
    """An upper estimate of a request's tokens."""
    return TOKENS_PER_REQUEST + sum(TOKENS_PER_MESSAGE + estimate_tokens(message.content) for message in messages)


def estimate_tokens(text: str) -> int:
    """An upper estimate of a text's tokens, from its bytes: longer characters have more tokens each."""
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return -(-size // BYTES_PER_TOKEN)


class Budget:
    """The ledger for all calls of a run.

    One call and the estimate for the root's last turn are reserved for `last=True`. This reserve pays for the
    turn in which the root answers after a limit.

    Attributes:
        limits: current limits of the run.
        used: total usage that the providers counted.
        unaccounted: number of calls with unknown usage, because they were cancelled or their replies lost.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._calls = 0
        self._rlms = 0
        self._open = 0
        self._spent = Estimate()  # counted usage, or the estimate of calls that nobody counted
        self._in_flight = Estimate()
        self._last_turn = Estimate()
        self.used = Usage()
        self.unaccounted = 0

    @property
    def in_flight(self) -> Estimate:
        """The reservations of all calls in flight."""
        return self._in_flight

    @property
    def bounds_replies(self) -> bool:
        """Whether any limit counts the length of replies."""
        return self.limits.max_tokens is not None or self.limits.max_cost_usd is not None

    def remaining(self, *, last: bool = False) -> tuple[float, float]:
        """Tokens and dollars that another call may reserve; infinite without a limit."""
        taken = self._spent + self._in_flight + (Estimate() if last else self._last_turn)
        tokens, dollars = self.limits.max_tokens, self.limits.max_cost_usd
        return (
            math.inf if tokens is None else tokens - taken.tokens,
            math.inf if dollars is None else dollars - taken.dollars,
        )

    def reserve(self, estimate: Estimate, *, last: bool = False) -> None:
        """Reserve one call and its estimate. One of `settle`, `abandon` and `release` must follow.

        Raises:
            BudgetExceeded: the call would exceed a limit.
        """
        self.check(estimate, last=last)
        self._calls += 1
        self._open += 1
        self._in_flight += estimate

    def check(self, estimate: Estimate, *, last: bool = False) -> None:
        """Raise BudgetExceeded if `reserve` would."""
        limits = self.limits
        if limits.max_lm_calls is not None and self._calls + 1 + (not last) > limits.max_lm_calls:
            raise BudgetExceeded(
                f"the run's limit of {limits.max_lm_calls:,} model calls is reached", reason="max_lm_calls"
            )
        taken = self._spent if last else self._spent + self._last_turn
        needed = taken + estimate
        if limits.max_tokens is not None and needed.tokens + self._in_flight.tokens > limits.max_tokens:
            left = max(0, limits.max_tokens - taken.tokens - self._in_flight.tokens)
            raise BudgetExceeded(
                f"the run has {left:,} of its {limits.max_tokens:,} tokens left, and this call may need "
                f"{estimate.tokens:,}",
                reason="max_tokens",
                may_succeed_later=self._open > 0 and needed.tokens <= limits.max_tokens,
            )
        if limits.max_cost_usd is not None and needed.dollars + self._in_flight.dollars > limits.max_cost_usd:
            left_usd = max(0.0, limits.max_cost_usd - taken.dollars - self._in_flight.dollars)
            raise BudgetExceeded(
                f"the run has ${left_usd:.4g} of its ${limits.max_cost_usd:g} left, and this call may need "
                f"${estimate.dollars:.4g}",
                reason="max_cost_usd",
                may_succeed_later=self._open > 0 and needed.dollars <= limits.max_cost_usd,
            )

    def settle(self, estimate: Estimate, usage: Usage) -> None:
        """Replace a reservation with the usage that the provider counted: none if it refused the call.

        A call of unknown cost counts with its estimated dollars.
        """
        self._close(estimate)
        dollars = estimate.dollars if usage.cost_usd is None else usage.cost_usd
        self._spent += Estimate(tokens=usage.total_tokens, dollars=dollars)
        self.used += usage

    def abandon(self, estimate: Estimate) -> None:
        """Count a call with its estimate: it was cancelled or its reply lost, and the provider may still bill it."""
        self._close(estimate)
        self._spent += estimate
        self.unaccounted += 1

    def release(self, estimate: Estimate) -> None:
        """Undo a reservation: the provider refused a last turn as too long, at no cost. A retry uses the same reserve."""
        self._close(estimate)
        self._calls -= 1

    def add_settled(self, usage: Usage, *, reserved_usd: float) -> None:
        """Count a call that an earlier process of the run settled. `reserved_usd` counts if its cost is unknown."""
        self._calls += 1
        dollars = reserved_usd if usage.cost_usd is None else usage.cost_usd
        self._spent += Estimate(tokens=usage.total_tokens, dollars=dollars)
        self.used += usage

    def add_abandoned(self, estimate: Estimate) -> None:
        """Count a call that an earlier process of the run sent and did not settle."""
        self._calls += 1
        self._spent += estimate
        self.unaccounted += 1

    def add_rlms(self, number: int) -> None:
        """Count RLMs that finished in an earlier process of the run."""
        self._rlms += number

    def _close(self, estimate: Estimate) -> None:
        self._open -= 1
        self._in_flight = self._in_flight - estimate if self._open else Estimate()  # no rounding error stays

    def reserve_last_turn(self, estimate: Estimate) -> None:
        """Set the reserve for the root's last turn."""
        self._last_turn = estimate

    def start_rlm(self) -> None:
        """Count one more RLM.

        Raises:
            BudgetExceeded: the run has reached its limit on RLMs.
        """
        self.check_rlm()
        self._rlms += 1

    def check_rlm(self) -> None:
        """Raise BudgetExceeded if `start_rlm` would."""
        limit = self.limits.max_rlms
        if limit is not None and self._rlms >= limit:
            raise BudgetExceeded(f"the run's limit of {limit:,} RLMs is reached", reason="max_rlms")
