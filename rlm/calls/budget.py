"""What a run may still use: every call reserves before it is sent and settles after. Pure: no clock, no I/O.

The ledger is the host's alone; nothing that a sandbox says reaches it but the size of a prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rlm.config import Limits
from rlm.errors import RLMError
from rlm.types import Message, StopReason, Usage

BYTES_PER_TOKEN: Final = 3  # English runs at about 4: the estimate is to be on the high side
TOKENS_PER_MESSAGE: Final = 4  # with which a provider marks where a message begins and ends
TOKENS_PER_REQUEST: Final = 50  # that a provider may put before a conversation
CALLS_AT_ONCE: Final = 8  # each call may take such a part of what is left, so that there is always room for as many
MIN_REPLY_TOKENS: Final = 2_000  # fewer are no useful reply of a model that reasons
MAX_REPLY_TOKENS: Final = 16_000  # more are not set aside for any reply


class BudgetExceeded(RLMError):
    """The budget does not allow this call.

    Attributes:
        reason: the limit that stands in the way.
        may_succeed_later: calls under way stand in the way too, and give back what they do not use.
    """

    def __init__(self, message: str, *, reason: StopReason, may_succeed_later: bool = False) -> None:
        super().__init__(message)
        self.reason: StopReason = reason
        self.may_succeed_later = may_succeed_later


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """An upper estimate of what a call will use: tokens, and dollars where a limit on them needs it."""

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
    """An upper estimate of a text's tokens. Scripts with more bytes a character have fewer characters a token."""
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return -(-size // BYTES_PER_TOKEN)


class Budget:
    """One ledger for the whole tree of a run.

    One call, and what the root's last turn is expected to use, stay in reserve until `last=True` asks for them: they pay
    for the turn in which the root answers with what it has.

    Attributes:
        used: what the providers counted.
        unaccounted: calls that were sent and cut off, or whose replies were lost, so that nobody knows what they used.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._calls = 0
        self._rlms = 0
        self._open = 0
        self._spent = Estimate()  # counted, or where nobody counted, what was set aside
        self._in_flight = Estimate()
        self._last_turn = Estimate()
        self.used = Usage()
        self.unaccounted = 0

    @property
    def in_flight(self) -> Estimate:
        """What calls under way have set aside."""
        return self._in_flight

    @property
    def bounds_replies(self) -> bool:
        """Whether there is a limit that the length of replies counts against."""
        return self.limits.max_tokens is not None or self.limits.max_cost_usd is not None

    def left(self, *, last: bool = False) -> tuple[float, float]:
        """Tokens and dollars that another call may set aside; infinite where there is no limit."""
        gone = self._spent + self._in_flight + (Estimate() if last else self._last_turn)
        tokens, dollars = self.limits.max_tokens, self.limits.max_cost_usd
        return (
            math.inf if tokens is None else tokens - gone.tokens,
            math.inf if dollars is None else dollars - gone.dollars,
        )

    def reserve(self, estimate: Estimate, *, last: bool = False) -> None:
        """Set aside one call and what it is expected to use; one of `settle`, `abandon` and `give_back` follows.

        Raises:
            BudgetExceeded: a limit would be passed.
        """
        self.check(estimate, last=last)
        self._calls += 1
        self._open += 1
        self._in_flight += estimate

    def check(self, estimate: Estimate, *, last: bool = False) -> None:
        """Raises BudgetExceeded where such a call cannot be reserved now."""
        limits = self.limits
        if limits.max_lm_calls is not None and self._calls + 1 + (not last) > limits.max_lm_calls:
            raise BudgetExceeded(
                f"the run's limit of {limits.max_lm_calls:,} model calls is reached", reason="max_lm_calls"
            )
        gone = self._spent if last else self._spent + self._last_turn
        wanted = gone + estimate
        if limits.max_tokens is not None and wanted.tokens + self._in_flight.tokens > limits.max_tokens:
            left = max(0, limits.max_tokens - gone.tokens - self._in_flight.tokens)
            raise BudgetExceeded(
                f"of the run's limit of {limits.max_tokens:,} tokens {left:,} are left, and up to {estimate.tokens:,} are "
                "needed",
                reason="max_tokens",
                may_succeed_later=self._open > 0 and wanted.tokens <= limits.max_tokens,
            )
        if limits.max_cost_usd is not None and wanted.dollars + self._in_flight.dollars > limits.max_cost_usd:
            left_usd = max(0.0, limits.max_cost_usd - gone.dollars - self._in_flight.dollars)
            raise BudgetExceeded(
                f"of the run's limit of ${limits.max_cost_usd:g} ${left_usd:.4g} are left, and up to "
                f"${estimate.dollars:.4g} are needed",
                reason="max_cost_usd",
                may_succeed_later=self._open > 0 and wanted.dollars <= limits.max_cost_usd,
            )

    def settle(self, estimate: Estimate, usage: Usage) -> None:
        """Replace what was set aside by what the provider counted (nothing, where it refused the call).

        Where nobody knows what the call cost, it counts against the limit as estimated.
        """
        self._close(estimate)
        dollars = estimate.dollars if usage.cost_usd is None else usage.cost_usd
        self._spent += Estimate(tokens=usage.total_tokens, dollars=dollars)
        self.used += usage

    def abandon(self, estimate: Estimate) -> None:
        """Nothing is known of a call that was sent, as it was cancelled or its reply lost: it may be billed, so it counts as
        estimated.
        """
        self._close(estimate)
        self._spent += estimate
        self.unaccounted += 1

    def give_back(self, estimate: Estimate) -> None:
        """The last turn's call was refused as too long, at no cost: it is made again, shorter, from the same reserve."""
        self._close(estimate)
        self._calls -= 1

    def count(self, usage: Usage, *, reserved_usd: float) -> None:
        """Count a call that an earlier process of the run has made, as `settle` did there: so much had been set aside."""
        self._calls += 1
        dollars = reserved_usd if usage.cost_usd is None else usage.cost_usd
        self._spent += Estimate(tokens=usage.total_tokens, dollars=dollars)
        self.used += usage

    def count_abandoned(self, estimate: Estimate) -> None:
        """Count a call that an earlier process of the run has made, as `abandon` did there, or would have done."""
        self._calls += 1
        self._spent += estimate
        self.unaccounted += 1

    def count_rlms(self, number: int) -> None:
        """Count RLMs that had come to their end in an earlier process of the run."""
        self._rlms += number

    def _close(self, estimate: Estimate) -> None:
        self._open -= 1
        self._in_flight = self._in_flight - estimate if self._open else Estimate()  # no rounding error stays

    def keep_for_last_turn(self, estimate: Estimate) -> None:
        """What the root's last turn is expected to use."""
        self._last_turn = estimate

    def start_rlm(self) -> None:
        """Count one more RLM.

        Raises:
            BudgetExceeded: the limit on RLMs is reached.
        """
        self.check_rlm()
        self._rlms += 1

    def check_rlm(self) -> None:
        """Raises BudgetExceeded where another RLM cannot be started."""
        limit = self.limits.max_rlms
        if limit is not None and self._rlms >= limit:
            raise BudgetExceeded(f"the run's limit of {limit:,} RLMs is reached", reason="max_rlms")
