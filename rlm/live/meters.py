"""What a run has used of what it may use, as numbers and as words. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rlm.config import Limits

from .tree import RunState


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """One total. `field` is its name in `Limits`, `key` what stands for it on the keyboard. `unknown`: there is more, with
    a price that nobody knows.
    """

    name: str
    field: str
    key: str
    used: float
    limit: float | None
    unknown: bool = False

    @property
    def share(self) -> float | None:
        """From 0 to 1; None where there is no limit."""
        return None if self.limit is None else min(1.0, self.used / self.limit)

    @property
    def doubled(self) -> float | int | None:
        """Twice the limit, in the type that it has."""
        return None if self.limit is None else self.limit * 2

    def words(self, amount: float) -> str:
        """An amount of this, in the shortest form that people read."""
        match self.name:
            case "dollars":
                return dollars(amount)
            case "seconds":
                return f"{amount:,.0f}"
            case "tokens":
                return short(amount)
            case _:
                return f"{amount:,.0f}"

    @property
    def told(self) -> str:
        """`412 of 10,000`"""
        used = at_least(self.used, unknown=self.unknown) if self.name == "dollars" else self.words(self.used)
        return used if self.limit is None else f"{used} of {self.words(self.limit)}"


def meters(tree: RunState, limits: Limits, *, seconds: float) -> list[Meter]:
    """The totals of a run; `seconds` is what its clock says, which stands still while it is paused."""
    used = tree.used
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
        Meter(name="RLMs", field="max_rlms", key="r", used=tree.rlms, limit=limits.max_rlms),
    ]


_UNITS: Final = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def short(number: float) -> str:
    """`950`, `12.3k`, `1.20M`"""
    for size, unit in _UNITS:
        if number >= 0.9995 * size:
            amount = number / size
            return f"{amount:.{2 if amount < 9.995 else 1 if amount < 99.95 else 0}f}{unit}"
    return f"{number:.0f}"


def dollars(amount: float) -> str:
    """`$0`, `$0.0042`, `$1.25`"""
    if not amount:
        return "$0"
    return f"${amount:,.2f}" if amount >= 1 else f"${amount:.2g}" if amount >= 1e-4 else "<$0.0001"


def at_least(amount: float, *, unknown: bool) -> str:
    """Dollars, as far as prices are known: `$1.25`, `≥$1.25` where there is more, `no price` where that is all."""
    if not unknown:
        return dollars(amount)
    return f"≥{dollars(amount)}" if amount else "no price"


def duration(seconds: float) -> str:
    """`9.1s`, `3m12s`, `1h02m`"""
    if seconds < 99.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes}m{rest:02}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,}h{minutes:02}m"
