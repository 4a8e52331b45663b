"""Answers what a sandbox asks for: a plain model call, or another RLM. Knows the depth; a sandbox is never asked for it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from .budget import Refused
from .calls import Calls
from .errors import ConfigError, ModelError, SandboxError
from .events import EventLog, SubCallFinished, SubCallStarted
from .models.base import Model
from .prompts import question_from
from .sandbox.base import QueryReply, SandboxQuery
from .sandbox.values import Value, encode
from .types import Message, StopReason

_CUT: Final = "\n[This reply was cut off at the model's token limit.]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What one RLM is to do. `level` counts from the root (0), `depth` is how many levels may be called below."""

    node: str
    level: int
    depth: int
    context: Value
    query: str | None
    model: Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What one RLM gave."""

    answer: str
    stop_reason: StopReason
    iterations: int


class Broker:
    """Serves the queries of one RLM's cells. Identity, depth and choice of model are decided here, by the host.

    Args:
        task: the RLM whose cells ask.
        below: the model that serves the level below, and with it all that a call may name.
        by_name: the models that a call may ask for.
        calls: the way to a model.
        child: runs an RLM: the only recursion, handed in so that nothing imports upwards.
    """

    def __init__(
        self,
        *,
        task: Task,
        below: Model,
        by_name: Mapping[str, Model],
        calls: Calls,
        child: Callable[[Task], Awaitable[Answered]],
        events: EventLog,
    ) -> None:
        self._task = task
        self._below = below
        self._by_name = by_name
        self._calls = calls
        self._child = child
        self._events = events
        self._children = itertools.count(1)

    async def answer(self, query: SandboxQuery) -> QueryReply:
        """One answer, or the sentence that says why there is none. Raises nothing that a query can cause."""
        # Numbered before the first wait, so that nodes follow the order in which the cell asked.
        node = f"{self._task.node}.{next(self._children)}"
        if self._task.depth == 0:
            return QueryReply(ok=False, text="No calls to models are allowed at this depth: work with code alone.")
        model = self._below if query.model is None else self._by_name.get(query.model)
        if model is None:
            names = ", ".join(self._by_name)
            return QueryReply(ok=False, text=f"There is no model {query.model!r} here; the names are: {names}.")
        recursive = self._task.depth > 1 and query.recurse is not False
        self._events.emit(
            SubCallStarted(node=node, prompt=query.prompt, model=model.name, recursive=recursive, batch=query.batch)
        )
        started = time.perf_counter()
        try:
            text = await (self._recurse if recursive else self._plain)(query, node, model)
            reply = QueryReply(ok=True, text=text)
        except Refused as error:
            reply = QueryReply(ok=False, text=f"This call was not made: {error}.")
        except (ModelError, SandboxError, ConfigError) as error:
            reply = QueryReply(ok=False, text=f"This call failed: {error}")
        self._events.emit(
            SubCallFinished(node=node, ok=reply.ok, text=reply.text, seconds=time.perf_counter() - started)
        )
        return reply

    async def _plain(self, query: SandboxQuery, node: str, model: Model) -> str:
        if query.context is not None:
            raise ConfigError("a plain call takes a prompt only; put the text into the prompt.")
        reply = await self._calls.complete(model, [Message(role="user", content=query.prompt)], node=node, role="sub")
        return reply.text + (_CUT if reply.finish_reason == "length" else "")

    async def _recurse(self, query: SandboxQuery, node: str, model: Model) -> str:
        # A prompt alone may be a long text with its question inside; with a context beside it, it is the question.
        alone = query.context is None
        task = Task(
            node=node,
            level=self._task.level + 1,
            depth=self._task.depth - 1,
            context=encode(query.prompt) if query.context is None else query.context,
            query=question_from(query.prompt) if alone else query.prompt,
            model=model,
        )
        return (await self._child(task)).answer
