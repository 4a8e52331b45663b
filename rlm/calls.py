"""The one way to a model: budget, then network, then the record."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import anyio

from .budget import Budget, Estimate, Refused, estimate_usage
from .errors import ModelError
from .events import EventLog, ModelFailed, ModelReplied
from .models.base import Model
from .models.prices import Price
from .types import Message, ModelReply, Usage


class Calls:
    """Sends the model calls of one run: what the budget refuses is not sent, what was sent is counted.

    Args:
        budget: the run's ledger.
        max_concurrent: requests in flight at once. A request never waits for another one, so one limit serves all levels.
        events: where replies and failures are told.
        prices: by name of the model, over what the model says of its cost.
    """

    def __init__(
        self, *, budget: Budget, max_concurrent: int, events: EventLog, prices: Mapping[str, Price] | None = None
    ) -> None:
        self.budget = budget
        self._slots = anyio.CapacityLimiter(max_concurrent)
        self._events = events
        self._prices = prices or {}
        self._ended = anyio.Event()  # replaced by a new one whenever a call has ended
        self.by_model: dict[str, Usage] = {}
        self.by_node: dict[str, Usage] = {}

    async def complete(
        self, model: Model, messages: Sequence[Message], *, node: str, role: Literal["root", "sub"], last: bool = False
    ) -> ModelReply:
        """One paid reply.

        Raises:
            Refused: a limit of the run stands in the way; nothing was sent.
            ModelError: no usable reply.
        """
        async with self._slots:
            estimate = self.estimate(model, messages)
            await self._reserve(estimate, last=last)
            started = time.perf_counter()
            try:
                reply = await model.complete(messages)
            except ModelError as error:
                usage = None if error.usage is None else self._priced(model, error.usage)
                self._settle(model, estimate, usage, node=node)
                seconds = time.perf_counter() - started
                self._events.emit(
                    ModelFailed(node=node, role=role, model=model.name, error=str(error), usage=usage, seconds=seconds)
                )
                raise
            except BaseException:
                self.budget.abandon(estimate)
                self._wake()
                raise
            seconds = time.perf_counter() - started
            reply = replace(reply, usage=self._priced(model, reply.usage))
            self._settle(model, estimate, reply.usage, node=node)
        self._events.emit(
            ModelReplied(
                node=node,
                role=role,
                model=reply.model,
                text=reply.text,
                finish_reason=reply.finish_reason,
                usage=reply.usage,
                seconds=seconds,
            )
        )
        return reply

    def estimate(self, model: Model, messages: Sequence[Message]) -> Estimate:
        """What the budget has to set aside for a call."""
        usage = estimate_usage(messages, model.max_tokens)
        if self.budget.limits.max_cost_usd is None:
            return Estimate(tokens=usage.total_tokens)
        dollars = self.cost(model, usage)
        assert dollars is not None, "a run with a limit on dollars does not start without prices"
        return Estimate(tokens=usage.total_tokens, dollars=dollars)

    def cost(self, model: Model, usage: Usage) -> float | None:
        """The most dollars that a call with this usage can cost; None is unknown."""
        price = self._prices.get(model.name)
        return model.cost(usage) if price is None else price.cost(usage)

    async def _reserve(self, estimate: Estimate, *, last: bool) -> None:
        """Reserve, and where only calls under way stand in the way, wait for what they do not use."""
        while True:
            try:
                return self.budget.reserve(estimate, last=last)
            except Refused as refused:
                if not refused.may_pass:
                    raise
            await self._ended.wait()

    def _priced(self, model: Model, usage: Usage) -> Usage:
        price = self._prices.get(model.name)
        return usage if price is None else replace(usage, cost_usd=price.cost(usage))

    def _settle(self, model: Model, estimate: Estimate, usage: Usage | None, *, node: str) -> None:
        """`usage` is None where the provider counted nothing."""
        self.budget.settle(estimate, usage or Usage())
        if usage is not None:
            self.by_model[model.name] = self.by_model.get(model.name, Usage()) + usage
            self.by_node[node] = self.by_node.get(node, Usage()) + usage
        self._wake()

    def _wake(self) -> None:
        self._ended.set()
        self._ended = anyio.Event()
