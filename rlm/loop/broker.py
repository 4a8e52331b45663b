"""Serves the queries of cells with a plain model call or another RLM. Imports calls and what is below.

A cell that runs again, in a new sandbox or in a resumed run, gets the same answers from the journal at no cost.
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
from rlm.sandbox.base import Answer, QueryReply, SandboxQuery
from rlm.store.entries import Failure, RecordedAnswer
from rlm.store.event_log import EventLog
from rlm.types import ModelReply, StopReason

from .plan import ChildRLM, PlainCall, Plan, Rejected, plan
from .task import RLMResult, RLMTask

MAX_UNSENT_CHARS: Final = 300  # recorded of a prompt that is not sent: such prompts are free, and could fill the disk
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


class NotRecorded(Exception):
    """A cell that runs again makes a query that it did not make before."""


@dataclass(slots=True, kw_only=True)
class _OpenQuery:
    """A query of the current cell."""

    recursive: bool
    answered: bool = False


class Broker:
    """Serves the queries of one RLM's cells.

    Args:
        task: task of the RLM whose cells ask.
        sub_model: default model of the level below.
        by_name: models that a query may name.
        calls: makes model calls.
        child: runs an RLM. The only recursion; passed in, so that no module imports upwards.
        events: receives the start and end of each sub-call.
    """

    def __init__(
        self,
        *,
        task: RLMTask,
        sub_model: Model,
        by_name: Mapping[str, Model],
        calls: Calls,
        child: Callable[[RLMTask], Awaitable[RLMResult]],
        events: EventLog,
    ) -> None:
        self._task = task
        self._sub_model = sub_model
        self._by_name = by_name
        self._calls = calls
        self._child = child
        self._events = events
        self._replay = calls.replay
        self._replay.queries.begin(task.node)
        self._open: dict[str, _OpenQuery] = {}  # queries of the current cell, by node
        self._earlier: dict[str, _OpenQuery] = {}  # the same cell's queries in the lost sandbox, by node

    def begin_cell(self) -> None:
        """Begin another cell. If a stop from outside ended the last cell, its open queries stay open."""
        self._open, self._earlier = {}, {}

    def restart_cell(self) -> None:
        """Begin the current cell again, in a new sandbox."""
        self._replay.queries.mark_pending(self._open)
        self._open, self._earlier = {}, self._open

    async def end_cell(self) -> Sequence[str]:
        """Return the nodes of the cell's queries. Open queries stay unanswered, in a replay too."""
        unanswered = {node: query.recursive for node, query in self._open.items() if not query.answered}
        await self._replay.abandon_queries(unanswered, CELL_ENDED)
        return tuple(self._open)

    def replay_answers(self, nodes: Sequence[str]) -> Answer:
        """Serve a cell that runs again with the answers to these queries. It raises NotRecorded for any other query."""
        unused: dict[bytes, deque[str]] = {}
        for node in nodes:
            unused.setdefault(self._replay.queries.digest(node), deque()).append(node)

        async def answer(query: SandboxQuery) -> QueryReply:
            same = unused.get(await self._digest(query))
            if not same:
                raise NotRecorded
            return await self._lookup_answer(same.popleft())

        return answer

    async def answer(self, query: SandboxQuery) -> QueryReply:
        """Answer a query, or say why it has no answer. The only error that a query can cause is ReplayDivergedError."""
        placement = self._replay.place_query(self._task.node, await self._digest(query))
        node = placement.node
        planned = plan(query, task=self._task, node=node, sub_model=self._sub_model, by_name=self._by_name)
        self._open[node] = current = _OpenQuery(recursive=isinstance(planned, ChildRLM))
        if placement.diverged:
            self._events.emit(ReplayDiverged(node=node, ordinal=1))
            if self._replay.read_only:
                raise ReplayDivergedError(node=node, ordinal=1)
        earlier = self._earlier.get(node)
        if earlier is not None and earlier.answered:
            reply = await self._lookup_answer(node)
        else:
            reply = await self._serve(planned, query, node)
            await self._replay.record_answer(node, recursive=current.recursive, ok=reply.ok, text=reply.text)
        current.answered = True
        return reply

    async def _lookup_answer(self, node: str) -> QueryReply:
        """The answer that this process gave before. Only the journal keeps answers, because they may be long."""
        match await self._replay.served_answer(node):
            case RecordedAnswer() as answer:
                return QueryReply(ok=answer.ok, text=answer.text)
            case ModelReply() as reply:
                return QueryReply(ok=True, text=_reply_text(reply))
            case Failure() as failure:
                return _error_reply(error_from(failure))

    async def _serve(self, planned: Plan, query: SandboxQuery, node: str) -> QueryReply:
        """Answer a query from the record of an earlier process, else by a call."""
        if planned.model is None:
            return await self._make(planned, node)
        prompt = query.prompt if self._may_be_sent(planned) else clip(query.prompt, MAX_UNSENT_CHARS)
        self._events.emit(
            SubCallStarted(
                node=node,
                prompt=prompt,
                model=planned.model.name,
                recursive=isinstance(planned, ChildRLM),
                batch=query.batch,
            )
        )
        started = time.perf_counter()
        recorded = await self._replay.lookup_answer(node)
        if recorded is None:
            reply = await self._make(planned, node)
        else:
            reply = self._apply(recorded, node)
        self._events.emit(
            SubCallFinished(node=node, ok=reply.ok, text=reply.text, seconds=time.perf_counter() - started)
        )
        return reply

    def _may_be_sent(self, planned: Plan) -> bool:
        accounting = self._calls.accounting
        match planned:
            case Rejected():
                return False
            case PlainCall():
                return not accounting.would_refuse(planned.model, planned.messages, recursive=False)
            case ChildRLM():
                return not accounting.would_refuse(planned.model, [], recursive=True)

    def _apply(self, recorded: RecordedAnswer, node: str) -> QueryReply:
        """Count an RLM that finished in an earlier process, and all nodes below it."""
        self._calls.accounting.add_recorded_usage(recorded.usage)
        self._calls.accounting.budget.add_rlms(recorded.rlms)
        below = {usage.node for usage in recorded.usage} - {node}
        self._events.emit(AnswerReplayed(node=node, below=sorted(below)))
        return QueryReply(ok=recorded.ok, text=recorded.text)

    async def _make(self, planned: Plan, node: str) -> QueryReply:
        try:
            match planned:
                case Rejected():
                    return QueryReply(ok=False, text=planned.text)
                case PlainCall():
                    reply = await self._calls.complete(
                        planned.model, planned.messages, node=node, ordinal=1, role="sub"
                    )
                    return QueryReply(ok=True, text=_reply_text(reply))
                case ChildRLM():
                    return QueryReply(ok=True, text=_result_text(await self._child(planned.task)))
        except (BudgetExceeded, ModelError, SandboxError, ConfigError) as error:
            return _error_reply(error)

    async def _digest(self, query: SandboxQuery) -> bytes:
        """Digest everything that determines the answer."""
        task, context = self._task, query.context

        def digest() -> bytes:
            pieces = () if context is None else (context.kind, *context.pieces())
            decisive = f"{task.depth} {query.model} {query.recurse} {self._sub_model.name}"
            return digest_of(query.prompt, decisive, *pieces)

        if len(query.prompt) + (0 if context is None else context.size) <= INLINE_HASH_CHARS:
            return digest()
        return await anyio.to_thread.run_sync(digest)


def _error_reply(error: BudgetExceeded | ModelError | SandboxError | ConfigError) -> QueryReply:
    if isinstance(error, BudgetExceeded):
        return QueryReply(ok=False, text=f"This call was not made: {error}.")
    return QueryReply(ok=False, text=f"This call failed: {error}")


def _reply_text(reply: ModelReply) -> str:
    return reply.text + (_CUT if reply.finish_reason == "length" else "")


def _result_text(result: RLMResult) -> str:
    """The answer of a child. Raises ModelError if it was stopped without one."""
    if result.stop_reason == "final":
        return result.answer
    why = _STOPPED.get(result.stop_reason, result.stop_reason)
    if not result.answer.strip():
        raise ModelError(f"it was stopped before it had an answer: {why}.")
    return result.answer + _PARTIAL.format(why=why)
