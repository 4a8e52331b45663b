"""Answers what a sandbox asks for: a plain model call, or another RLM. Knows the depth; a sandbox is never asked for it.

Cells that run again, because their sandbox was lost or in a resumed run, get the same answers unpaid: the journal has them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import anyio

from rlm._util.text import clip
from rlm.calls.budget import BudgetExceeded
from rlm.calls.gateway import Calls, error_from
from rlm.errors import ConfigError, ModelError, ReplayDivergedError, SandboxError
from rlm.events import AnswerReplayed, ReplayDiverged, SubCallFinished, SubCallStarted
from rlm.models.base import Model
from rlm.models.request import INLINE_HASH_CHARS, digest_of
from rlm.prompts import question_from
from rlm.sandbox.base import Answer, QueryReply, SandboxQuery
from rlm.sandbox.values import Value, encode
from rlm.store.entries import Failure, RecordedAnswer
from rlm.store.event_log import EventLog
from rlm.types import Message, ModelReply, StopPoint, StopReason

MAX_SHOWN_CHARS: Final = 300  # of what a cell gave that comes to nothing
CELL_ENDED: Final = "The cell ended before this call was answered."
_CUT: Final = "\n[This reply was cut off at the model's token limit.]"
_PARTIAL: Final = "\n[This answer is what there was when the work on it was stopped: {why}.]"
_STOPPED: Final[Mapping[StopReason, str]] = {
    "max_iterations": "all its turns were used",
    "max_consecutive_errors": "its code failed in turn after turn",
    "max_lm_calls": "the run's limit on model calls was reached",
    "max_tokens": "the run's limit on tokens was reached",
    "max_cost_usd": "the run's limit on dollars was reached",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RLMTask:
    """What one RLM is to do. `level` counts from the root (0), `depth` is how many levels may be called below."""

    node: str
    level: int
    depth: int
    context: Value
    query: str | None
    model: Model


@dataclass(frozen=True, slots=True, kw_only=True)
class RLMResult:
    """What one RLM gave. `stop` is set where its work can go on: the clock, a person or a limit of the run ended it."""

    answer: str
    stop_reason: StopReason
    iterations: int
    stop: StopPoint | None = None


class NotRecorded(Exception):
    """A cell that runs again asks for something that it had not asked for."""


@dataclass(slots=True, kw_only=True)
class _OpenQuery:
    """A query of the cell that runs."""

    recursive: bool
    answered: bool = False


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
        task: RLMTask,
        below: Model,
        by_name: Mapping[str, Model],
        calls: Calls,
        child: Callable[[RLMTask], Awaitable[RLMResult]],
        events: EventLog,
    ) -> None:
        self._task = task
        self._below = below
        self._by_name = by_name
        self._calls = calls
        self._child = child
        self._events = events
        self._replay = calls.replay
        self._replay.queries.begin(task.node)
        self._asked: dict[str, _OpenQuery] = {}  # by the cell that runs
        self._before: dict[str, _OpenQuery] = {}  # and by the same cell, in a sandbox that was lost

    def begin_cell(self) -> None:
        """Another cell runs. Of one that was stopped from outside, queries may still be open: they stay so."""
        self._asked, self._before = {}, {}

    def rewind(self) -> None:
        """The cell that runs begins once more."""
        self._replay.queries.mark_pending(self._asked)
        self._asked, self._before = {}, self._asked

    async def end_cell(self) -> Sequence[str]:
        """The queries of the cell that has ended. Those that are still open will not be answered, in a replay neither."""
        late = {node: asked.recursive for node, asked in self._asked.items() if not asked.answered}
        await self._replay.abandon_queries(late, CELL_ENDED)
        return tuple(self._asked)

    def recall(self, nodes: Sequence[str]) -> Answer:
        """Serves a cell that runs again with the answers that it got to these queries. Raises NotRecorded."""
        left: dict[bytes, deque[str]] = {}
        for node in nodes:
            left.setdefault(self._replay.queries.digest(node), deque()).append(node)

        async def answer(query: SandboxQuery) -> QueryReply:
            same = left.get(await self._digest(query))
            if not same:
                raise NotRecorded
            return await self._remembered(same.popleft())

        return answer

    async def answer(self, query: SandboxQuery) -> QueryReply:
        """One answer, or the sentence that says why there is none. Raises nothing that a query can cause."""
        recursive = self._task.depth > 1 and query.recurse is not False
        found = self._replay.place_query(self._task.node, await self._digest(query))
        before, asked = self._before.get(found.node), _OpenQuery(recursive=recursive)
        self._asked[found.node] = asked
        if found.diverged:
            self._events.emit(ReplayDiverged(node=found.node, ordinal=1))
            if self._replay.read_only:
                raise ReplayDivergedError(node=found.node, ordinal=1)
        if before is not None and before.answered:
            reply = await self._remembered(found.node)
        else:
            reply = await self._answer(query, found.node, recursive=recursive)
        asked.answered = True
        return reply

    async def _remembered(self, node: str) -> QueryReply:
        """What a query was answered. Answers may be long, so that only the journal keeps them."""
        found = await self._replay.served_answer(node)
        if isinstance(found, RecordedAnswer):
            return QueryReply(ok=found.ok, text=found.text)
        return await _in_words(_called(found))

    async def _answer(self, query: SandboxQuery, node: str, *, recursive: bool) -> QueryReply:
        reply = await self._reply(query, node, recursive=recursive)
        await self._replay.record_answer(node, recursive=recursive, ok=reply.ok, text=reply.text)
        return reply

    async def _reply(self, query: SandboxQuery, node: str, *, recursive: bool) -> QueryReply:
        if self._task.depth == 0:
            return QueryReply(ok=False, text="No calls to models are allowed at this depth: work with code alone.")
        model = self._below if query.model is None else self._by_name.get(query.model)
        if model is None:
            names = ", ".join(self._by_name)
            named = repr(str(query.model)[:MAX_SHOWN_CHARS])
            return QueryReply(ok=False, text=f"There is no model {named} here; the names are: {names}.")
        prompt = self._recorded_prompt(query, model, recursive=recursive)
        self._events.emit(
            SubCallStarted(node=node, prompt=prompt, model=model.name, recursive=recursive, batch=query.batch)
        )
        started = time.perf_counter()
        reply = await self._recorded(node)
        if reply is None:
            reply = await _in_words((self._recurse if recursive else self._plain)(query, node, model))
        self._events.emit(
            SubCallFinished(node=node, ok=reply.ok, text=reply.text, seconds=time.perf_counter() - started)
        )
        return reply

    def _recorded_prompt(self, query: SandboxQuery, model: Model, *, recursive: bool) -> str:
        """What the record has of a prompt: of one that is not sent, which costs a cell nothing, the beginning."""
        asked = [] if recursive else [Message(role="user", content=query.prompt)]
        refused = not recursive and query.context is not None
        if refused or self._calls.accounting.would_refuse(model, asked, recursive=recursive):
            return clip(query.prompt, MAX_SHOWN_CHARS)
        return query.prompt

    async def _recorded(self, node: str) -> QueryReply | None:
        """The answer of an RLM that had come to its end before the run was interrupted."""
        found = await self._replay.lookup_answer(node)
        if found is None:
            return None
        self._calls.accounting.add_recorded_usage(found.usage)
        self._calls.accounting.budget.add_rlms(found.rlms)
        below = {usage.node for usage in found.usage} - {node}
        self._events.emit(AnswerReplayed(node=node, below=sorted(below)))
        return QueryReply(ok=found.ok, text=found.text)

    async def _plain(self, query: SandboxQuery, node: str, model: Model) -> str:
        if query.context is not None:
            raise ConfigError("a plain call takes a prompt only; put the text into the prompt.")
        asked = [Message(role="user", content=query.prompt)]
        return _text_of(await self._calls.complete(model, asked, node=node, ordinal=1, role="sub"))

    async def _recurse(self, query: SandboxQuery, node: str, model: Model) -> str:
        # A prompt alone may be a long text with its question inside; with a context beside it, it is the question.
        alone = query.context is None
        task = RLMTask(
            node=node,
            level=self._task.level + 1,
            depth=self._task.depth - 1,
            context=encode(query.prompt) if query.context is None else query.context,
            query=question_from(query.prompt) if alone else query.prompt,
            model=model,
        )
        answered = await self._child(task)
        if answered.stop_reason == "final":
            return answered.answer
        why = _STOPPED.get(answered.stop_reason, answered.stop_reason)
        if not answered.answer.strip():
            raise ModelError(f"it was stopped before it had an answer: {why}.")
        return answered.answer + _PARTIAL.format(why=why)

    async def _digest(self, query: SandboxQuery) -> bytes:
        """Of all that decides about the answer."""
        task, context = self._task, query.context

        def digest() -> bytes:
            pieces = () if context is None else (context.kind, *context.pieces())
            asked = f"{task.depth} {query.model} {query.recurse} {self._below.name}"
            return digest_of(query.prompt, asked, *pieces)

        if len(query.prompt) + (0 if context is None else context.size) <= INLINE_HASH_CHARS:
            return digest()
        return await anyio.to_thread.run_sync(digest)


async def _in_words(asked: Awaitable[str]) -> QueryReply:
    """The answer, or the sentence that says why there is none."""
    try:
        return QueryReply(ok=True, text=await asked)
    except BudgetExceeded as error:
        return QueryReply(ok=False, text=f"This call was not made: {error}.")
    except (ModelError, SandboxError, ConfigError) as error:
        return QueryReply(ok=False, text=f"This call failed: {error}")


async def _called(outcome: ModelReply | Failure) -> str:
    if isinstance(outcome, Failure):
        raise error_from(outcome)
    return _text_of(outcome)


def _text_of(reply: ModelReply) -> str:
    return reply.text + (_CUT if reply.finish_reason == "length" else "")
