"""The totals of a run against its limits, as numbers and as text. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from rlm._util.text import short_dollars, short_number
from rlm.config import Limits

from .tree import RunState


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """One total of a run, with its limit.

    Attributes:
        name: name to show.
        field: name of its limit in `Limits`.
        key: the key that selects it when a limit is raised.
        used: the total so far.
        limit: None means no limit.
        unknown: whether the price of some calls is unknown, so that `used` is a lower bound.
    """

    name: str
    field: str
    key: str
    used: float
    limit: float | None
    unknown: bool = False

    @property
    def share(self) -> float | None:
        """The used share of the limit, from 0 to 1; None without a limit."""
        return None if self.limit is None else min(1.0, self.used / self.limit)

    @property
    def doubled(self) -> float | int | None:
        """Twice the limit, of the limit's type; None without a limit."""
        return None if self.limit is None else self.limit * 2

    def amount_text(self, amount: float) -> str:
        """An amount in this meter's unit, in its shortest readable form."""
        match self.name:
            case "dollars":
                return short_dollars(amount)
            case "tokens":
                return short_number(amount)
            case _:
                return f"{amount:,.0f}"

    @property
    def text(self) -> str:
        """`412 of 10,000`"""
        used = at_least(self.used, unknown=self.unknown) if self.name == "dollars" else self.amount_text(self.used)
        return used if self.limit is None else f"{used} of {self.amount_text(self.limit)}"


def meters(state: RunState, limits: Limits, *, seconds: float) -> list[Meter]:
    """The totals of a run; `seconds` is the run's clock, which stops during a pause."""
    used = state.used
    return [
        Meter(name="calls", field="max_lm_calls", key="c", used=used.calls, limit=limits.max_lm_calls),
        Meter(name="tokens", field="max_tokens", key="t", used=used.tokens, limit=limits.max_tokens),
        Meter(
            name="dollars",
            field="max_cost_usd",
            key="d",
            used=used.dollars,
            limit=limits.max_cost_usd,
            unknown=used.unknown,
        ),
        Meter(name="seconds", field="max_seconds", key="s", used=seconds, limit=limits.max_seconds),
        Meter(name="RLMs", field="max_rlms", key="r", used=state.rlms, limit=limits.max_rlms),
    ]


def at_least(amount: float, *, unknown: bool) -> str:
    """A cost: `$1.25`; with calls of unknown price `≥$1.25`, or `price unknown` if no price is known."""
    if not unknown:
        return short_dollars(amount)
    return f"≥{short_dollars(amount)}" if amount else "price unknown"
