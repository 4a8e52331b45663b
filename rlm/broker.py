"""Answers what a sandbox asks for: a plain model call, or another RLM. Knows the depth; a sandbox is never asked for it.

Remembers what it answered, so that cells which run again, because their sandbox was lost, get the same answers unpaid.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

import anyio

from .budget import Refused
from .calls import HASHED_AT_ONCE, Calls
from .errors import ConfigError, ModelError, SandboxError
from .events import AnswerReplayed, EventLog, SubCallFinished, SubCallStarted
from .models.base import Model
from .prompts import question_from
from .request import digest_of
from .sandbox.base import QueryReply, SandboxQuery
from .sandbox.values import Value, encode
from .types import Message, StopPoint, StopReason

TOO_LATE: Final = "The cell ended before this call was answered."
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
    """What one RLM gave. `stop` is set where the clock or a person ended its work."""

    answer: str
    stop_reason: StopReason
    iterations: int
    stop: StopPoint | None = None


class NotRemembered(Exception):
    """A cell that runs again asks for something that it had not asked for."""


@dataclass(slots=True, kw_only=True)
class _Asked:
    """A query, and its answer once there is one."""

    digest: bytes
    recursive: bool
    reply: QueryReply | None = None


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
        self._asked: dict[int, _Asked] = {}
        self._latest = 0

    @property
    def latest(self) -> int:
        """The number of the latest query."""
        return self._latest

    def rewind(self, number: int) -> None:
        """The cells from after this query run again: their queries get the same numbers again."""
        self._latest = number

    async def end_cell(self) -> None:
        """A cell has ended: calls of it that are still open will not be answered, in a replay neither."""
        for number, asked in self._asked.items():
            if asked.reply is None:
                asked.reply = QueryReply(ok=False, text=TOO_LATE)
                node = self._node(number)
                await self._calls.journal.abandon(node, TOO_LATE)
                if asked.recursive:
                    await self._calls.journal.answered(node, asked.digest, ok=False, text=TOO_LATE)

    async def recall(self, query: SandboxQuery) -> QueryReply:
        """The answer that a query got before. Raises NotRemembered."""
        self._latest += 1
        asked = self._asked.get(self._latest)
        if asked is None or asked.reply is None or asked.digest != await self._digest(query):
            raise NotRemembered
        return asked.reply

    async def answer(self, query: SandboxQuery) -> QueryReply:
        """One answer, or the sentence that says why there is none. Raises nothing that a query can cause."""
        # Numbered before the first wait, so that nodes follow the order in which the cell asked.
        self._latest += 1
        number = self._latest
        digest = await self._digest(query)
        before = self._asked.get(number)
        if before is not None and before.reply is not None and before.digest == digest:
            return before.reply
        recursive = self._task.depth > 1 and query.recurse is not False
        asked = self._asked[number] = _Asked(digest=digest, recursive=recursive)
        asked.reply = await self._answer(query, self._node(number), asked)
        return asked.reply

    def _node(self, number: int) -> str:
        return f"{self._task.node}.{number}"

    async def _answer(self, query: SandboxQuery, node: str, asked: _Asked) -> QueryReply:
        recursive = asked.recursive
        if self._task.depth == 0:
            return QueryReply(ok=False, text="No calls to models are allowed at this depth: work with code alone.")
        model = self._below if query.model is None else self._by_name.get(query.model)
        if model is None:
            names = ", ".join(self._by_name)
            return QueryReply(ok=False, text=f"There is no model {query.model!r} here; the names are: {names}.")
        self._events.emit(
            SubCallStarted(node=node, prompt=query.prompt, model=model.name, recursive=recursive, batch=query.batch)
        )
        started = time.perf_counter()
        reply = await self._recorded(node, asked.digest) if recursive else None
        if reply is None:
            reply = await self._ask(query, node, model, recursive=recursive)
            if recursive:
                await self._calls.journal.answered(node, asked.digest, ok=reply.ok, text=reply.text)
        self._events.emit(
            SubCallFinished(node=node, ok=reply.ok, text=reply.text, seconds=time.perf_counter() - started)
        )
        return reply

    async def _recorded(self, node: str, digest: bytes) -> QueryReply | None:
        """The answer of an RLM that had come to its end before the run was interrupted."""
        found = await self._calls.journal.find_answer(node, digest)
        if found is None:
            return None
        self._calls.count_spent(found.spent)
        self._calls.budget.count_rlms(found.rlms)
        below = {spent.node for spent in found.spent} - {node}
        self._events.emit(AnswerReplayed(node=node, below=sorted(below)))
        return QueryReply(ok=found.ok, text=found.text)

    async def _ask(self, query: SandboxQuery, node: str, model: Model, *, recursive: bool) -> QueryReply:
        try:
            text = await (self._recurse if recursive else self._plain)(query, node, model)
            return QueryReply(ok=True, text=text)
        except Refused as error:
            return QueryReply(ok=False, text=f"This call was not made: {error}.")
        except (ModelError, SandboxError, ConfigError) as error:
            return QueryReply(ok=False, text=f"This call failed: {error}")

    async def _plain(self, query: SandboxQuery, node: str, model: Model) -> str:
        if query.context is not None:
            raise ConfigError("a plain call takes a prompt only; put the text into the prompt.")
        asked = [Message(role="user", content=query.prompt)]
        reply = await self._calls.complete(model, asked, node=node, ordinal=1, role="sub")
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

    async def _digest(self, query: SandboxQuery) -> bytes:
        """Of all that decides about the answer."""
        task, context = self._task, query.context

        def digest() -> bytes:
            pieces = () if context is None else (context.kind, *context.pieces())
            asked = f"{task.depth} {query.model} {query.recurse} {self._below.name}"
            return digest_of(query.prompt, asked, *pieces)

        if len(query.prompt) + (0 if context is None else context.size) <= HASHED_AT_ONCE:
            return digest()
        return await anyio.to_thread.run_sync(digest)
