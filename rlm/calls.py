"""The one way to a model: budget, then network, then the record."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

import anyio

from .budget import Budget, estimate_tokens
from .errors import ModelError
from .events import EventLog, ModelFailed, ModelReplied
from .models.base import Model
from .types import Message, ModelReply, Usage


class Calls:
    """Sends the model calls of one run: what the budget refuses is not sent, what was sent is counted.

    Args:
        budget: the run's ledger.
        max_concurrent: requests in flight at once. A request never waits for another one, so one limit serves all levels.
        events: where replies and failures are told.
    """

    def __init__(self, *, budget: Budget, max_concurrent: int, events: EventLog) -> None:
        self.budget = budget
        self._slots = anyio.CapacityLimiter(max_concurrent)
        self._events = events
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
            reservation = self.budget.reserve(estimate_tokens(messages, None), last=last)
            started = time.perf_counter()
            try:
                reply = await model.complete(messages)
            except BaseException as error:
                self.budget.release(reservation)
                if isinstance(error, ModelError):
                    seconds = time.perf_counter() - started
                    self._events.emit(
                        ModelFailed(node=node, role=role, model=model.name, error=str(error), seconds=seconds)
                    )
                raise
            seconds = time.perf_counter() - started
            self.budget.settle(reservation, reply.usage)
        self.by_model[model.name] = self.by_model.get(model.name, Usage()) + reply.usage
        self.by_node[node] = self.by_node.get(node, Usage()) + reply.usage
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
