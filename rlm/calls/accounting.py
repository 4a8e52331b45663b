"""Estimates, prices and usage of a run's model calls, over the budget's ledger. No I/O. Imports models and store."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import anyio

from rlm.config import Limits
from rlm.models.base import Model
from rlm.models.prices import Price
from rlm.store.entries import RecordedUsage
from rlm.types import Message, Usage

from .budget import (
    MAX_REPLY_TOKENS,
    MIN_PARALLEL_CALLS,
    MIN_REPLY_TOKENS,
    Budget,
    BudgetExceeded,
    Estimate,
    estimate_input,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """The reservation of one call. `reply_tokens` bounds its reply; None if no limit counts the length of replies."""

    estimate: Estimate
    reply_tokens: int | None


class Accounting:
    """Reserves, prices and counts the model calls of one run.

    Args:
        limits: limits of the whole run.
        prices: prices by model name; they override the model's own price.

    Attributes:
        budget: the ledger of the run.
        by_model: usage by model name.
        by_node: usage by node.
    """

    def __init__(self, limits: Limits, *, prices: Mapping[str, Price] | None = None) -> None:
        self.budget = Budget(limits)
        self.by_model: dict[str, Usage] = {}
        self.by_node: dict[str, Usage] = {}
        self._prices = prices or {}
        self._token_density: dict[str, float] = {}  # highest ratio of counted to estimated input tokens, by model
        self._reserving = anyio.Lock(fast_acquire=True)  # first come, first served: no small call overtakes a large one
        self._changed = anyio.Event()  # set when a call has ended or the limits have changed, then replaced

    async def reserve(self, model: Model, messages: Sequence[Message], *, last: bool = False) -> Reservation:
        """Reserve one call. Waits while calls in flight may free enough of their reservations.

        Raises:
            BudgetExceeded: no call in flight can free enough.
        """
        async with self._reserving:
            while True:
                planned = self._plan(model, messages, last=last)
                try:
                    self.budget.reserve(planned.estimate, last=last)
                    return planned
                except BudgetExceeded as error:
                    if not error.may_succeed_later:
                        raise
                await self._changed.wait()

    def settle(self, reservation: Reservation, *, model: Model, node: str, usage: Usage) -> None:
        """Replace a reservation with the call's usage: none if the provider refused it or a cache answered."""
        self.budget.settle(reservation.estimate, usage)
        self._add_usage(model=model.name, node=node, usage=usage)
        self._wake()

    def abandon(self, reservation: Reservation) -> None:
        """Count a call at its estimate: it was sent, and its usage is unknown."""
        self.budget.abandon(reservation.estimate)
        self._wake()

    def release(self, reservation: Reservation) -> None:
        """Undo a reservation: the provider refused the call at no cost, and a shorter one follows."""
        self.budget.release(reservation.estimate)
        self._wake()

    def add_recorded_usage(self, recorded: Iterable[RecordedUsage]) -> None:
        """Count calls that an earlier process of the run made."""
        for call in recorded:
            if not call.settled:
                self.budget.add_abandoned(Estimate(tokens=call.reserved_tokens, dollars=call.reserved_usd))
                continue
            usage = call.usage
            price = self._prices.get(call.model)
            if usage.cost_usd is None and price is not None:  # the earlier process had no price
                usage = replace(usage, cost_usd=price.cost(usage))
            self.budget.add_settled(usage, reserved_usd=call.reserved_usd)
            self._add_usage(model=call.model, node=call.node, usage=usage)

    def update_density(self, model: Model, messages: Sequence[Message], usage: Usage) -> None:
        """Raise later estimates to the density of the densest text so far. Hexadecimal has more tokens than prose."""
        counted = usage.input_tokens / estimate_input(messages)
        self._token_density[model.name] = max(self._token_density.get(model.name, 1.0), counted)

    def set_limits(self, limits: Limits) -> None:
        """Use other limits from now on. Waiting calls check again."""
        self.budget.limits = limits
        self._wake()

    def reserve_last_turn(self, model: Model, messages: Sequence[Message]) -> None:
        """Reserve for the root's last turn what a call with these messages may now reserve."""
        self.budget.reserve_last_turn(Estimate())
        self.budget.reserve_last_turn(self.estimate(model, messages))

    def would_refuse(self, model: Model, messages: Sequence[Message], *, recursive: bool) -> bool:
        """Whether the budget refuses a call below the root now, however little the calls in flight use."""
        try:
            if recursive:
                self.budget.check_rlm()
            self.budget.check(self.estimate(model, messages))
        except BudgetExceeded as error:
            return not error.may_succeed_later
        return False

    def estimate(self, model: Model, messages: Sequence[Message], *, last: bool = False) -> Estimate:
        """The estimate that the budget has to reserve for a call."""
        return self._plan(model, messages, last=last).estimate

    def cost(self, model: Model, usage: Usage) -> float | None:
        """The maximum cost in dollars of a call with this usage; None if no price is known."""
        price = self._prices.get(model.name)
        return model.cost(usage) if price is None else price.cost(usage)

    def priced(self, model: Model, usage: Usage) -> Usage:
        """The usage of a call, at the caller's price if that is set."""
        price = self._prices.get(model.name)
        return usage if price is None else replace(usage, cost_usd=price.cost(usage))

    def _plan(self, model: Model, messages: Sequence[Message], *, last: bool) -> Reservation:
        """Bound the reply by a share of what remains (all of it for the last turn), between useful and ample."""
        request_usage = Usage(
            calls=1, input_tokens=math.ceil(estimate_input(messages) * self._token_density.get(model.name, 1.0))
        )
        longest = replace(request_usage, output_tokens=MAX_REPLY_TOKENS)
        tokens, dollars = self.budget.remaining(last=last)
        share = _share(tokens, request_usage.input_tokens, last=last)
        if math.isfinite(dollars):
            input_cost, longest_cost = self._known_cost(model, request_usage), self._known_cost(model, longest)
            if longest_cost > input_cost:
                reply_cost = _share(dollars, input_cost, last=last)
                share = min(share, reply_cost * MAX_REPLY_TOKENS / (longest_cost - input_cost))
        reply_tokens = int(min(max(share, MIN_REPLY_TOKENS), MAX_REPLY_TOKENS))
        if model.max_tokens is not None:
            reply_tokens = min(reply_tokens, model.max_tokens)
        usage = replace(request_usage, output_tokens=reply_tokens)
        cost = self.cost(model, usage) or 0.0  # also without a dollar limit: resuming the run may set one
        return Reservation(
            estimate=Estimate(tokens=usage.total_tokens, dollars=cost),
            reply_tokens=reply_tokens if self.budget.bounds_replies else None,
        )

    def _known_cost(self, model: Model, usage: Usage) -> float:
        cost = self.cost(model, usage)
        assert cost is not None, "a run with a limit on dollars does not start without prices"
        return cost

    def _add_usage(self, *, model: str, node: str, usage: Usage) -> None:
        self.by_model[model] = self.by_model.get(model, Usage()) + usage
        self.by_node[node] = self.by_node.get(node, Usage()) + usage

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


def _share(remaining: float, input_amount: float, *, last: bool) -> float:
    """The part of what remains that a reply may take once its request is paid for."""
    after_input = remaining - input_amount
    return after_input if last else min(after_input, remaining / MIN_PARALLEL_CALLS)
