"""What a run may still use: every call reserves before it is sent and settles after. Pure: no clock, no I/O.

The ledger is the host's alone; nothing that a sandbox says reaches it but the size of a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .config import Limits
from .errors import RLMError
from .types import Message, StopReason, Usage

CHARS_PER_TOKEN: Final = 3  # English runs at about 4; the estimate is to be on the high side
OUTPUT_TOKENS: Final = 2_000  # reserved for a reply whose length nobody has bounded


class Refused(RLMError):
    """The budget does not allow this call. `reason` is the limit that stands in the way."""

    def __init__(self, message: str, *, reason: StopReason) -> None:
        super().__init__(message)
        self.reason: StopReason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """Tokens set aside for one call that is under way."""

    tokens: int


def estimate_tokens(messages: Sequence[Message], max_tokens: int | None) -> int:
    """An upper estimate of what a call uses, input and output."""
    characters = sum(len(message.content) for message in messages)
    return characters // CHARS_PER_TOKEN + 1 + (OUTPUT_TOKENS if max_tokens is None else max_tokens)


class Budget:
    """One ledger for the whole tree of a run.

    One call, and the tokens of the root's latest, stay in reserve until `last=True` asks for them: they pay for the turn
    in which the root answers with what it has.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._calls = 0
        self._rlms = 0
        self._tokens_in_flight = 0
        self._last_turn_tokens = 0
        self.used = Usage()

    def reserve(self, tokens: int, *, last: bool = False) -> Reservation:
        """Set aside one call and an upper estimate of its tokens.

        Raises:
            Refused: a limit would be passed.
        """
        limits = self._limits
        kept = 0 if last else 1
        if limits.max_lm_calls is not None and self._calls + 1 + kept > limits.max_lm_calls:
            raise Refused(f"the run's limit of {limits.max_lm_calls:,} model calls is reached", reason="budget_calls")
        kept = 0 if last else self._last_turn_tokens
        spoken_for = self.used.total_tokens + self._tokens_in_flight + tokens + kept
        if limits.max_tokens is not None and spoken_for > limits.max_tokens:
            raise Refused(f"the run's limit of {limits.max_tokens:,} tokens is reached", reason="budget_tokens")
        spent = self.used.cost_usd
        if limits.max_cost_usd is not None and not last and spent is not None and spent >= limits.max_cost_usd:
            raise Refused(f"the run's limit of ${limits.max_cost_usd:g} is reached", reason="budget_cost")
        self._calls += 1
        self._tokens_in_flight += tokens
        return Reservation(tokens=tokens)

    def settle(self, reservation: Reservation, usage: Usage) -> None:
        """Replace a reservation by what the provider counted."""
        self._tokens_in_flight -= reservation.tokens
        self.used += usage

    def release(self, reservation: Reservation) -> None:
        """Give back the tokens of a call that failed; the call itself counts as made."""
        self._tokens_in_flight -= reservation.tokens

    def count(self, usage: Usage) -> None:
        """Count a call that an earlier process of the run has made."""
        self._calls += 1
        self.used += usage

    def count_rlms(self, number: int) -> None:
        """Count RLMs that had come to their end in an earlier process of the run."""
        self._rlms += number

    def keep_for_last_turn(self, tokens: int) -> None:
        """What the root's last turn is expected to use."""
        self._last_turn_tokens = tokens

    def start_rlm(self) -> None:
        """Count one more RLM.

        Raises:
            Refused: the limit on RLMs is reached.
        """
        limit = self._limits.max_rlms
        if limit is not None and self._rlms >= limit:
            raise Refused(f"the run's limit of {limit:,} recursive calls is reached", reason="budget_calls")
        self._rlms += 1
