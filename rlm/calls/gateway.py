"""The one way to a model: journal, then cache, then budget, then network, then the record."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, Literal, cast

import anyio

from rlm.config import Limits
from rlm.errors import ContextTooLong, ModelError, ReplayDivergedError, ReplyCutOff
from rlm.events import ModelFailed, ModelReplied, ReplayDiverged
from rlm.models.base import Model, parameters_of, server_of
from rlm.models.prices import Price
from rlm.models.request import Request
from rlm.store.entries import GIVEN_BACK, TOO_LONG, CallLookup, Failure, RecordedUsage
from rlm.store.event_log import EventLog
from rlm.store.replay import Replay
from rlm.types import Message, ModelReply, StopReason, Usage

from .budget import (
    CALLS_AT_ONCE,
    MAX_REPLY_TOKENS,
    MIN_REPLY_TOKENS,
    Budget,
    BudgetExceeded,
    Estimate,
    estimate_input,
)
from .cache import Cache

BAD_REQUEST: Final = 400  # and from there on: the provider says that it did not do it
HASHED_AT_ONCE: Final = 1 << 20  # characters; more of them in a thread, as that takes milliseconds


class CutOff(ModelError):
    """The recorded call was given up before it was answered."""


class Calls:
    """Makes the model calls of one run: what is recorded is not sent, what the budget refuses neither, and what was sent is
    counted and recorded before anyone sees the reply.

    Args:
        budget: the run's ledger.
        replay: serves recorded calls and records new ones; a read-only one may send nothing.
        max_concurrent: requests in flight at once, None for any number. A request never waits for another one, so one
            limit serves all levels.
        events: where replies and failures are told.
        cache: replies of other runs, where they may be used.
        prices: by name of the model, over what the model says of its cost.
    """

    def __init__(
        self,
        *,
        budget: Budget,
        replay: Replay,
        max_concurrent: int | None,
        events: EventLog,
        cache: Cache | None = None,
        prices: Mapping[str, Price] | None = None,
    ) -> None:
        self.budget = budget
        self.replay = replay
        self._cache = cache
        self._slots = anyio.CapacityLimiter(math.inf if max_concurrent is None else max_concurrent)
        self._reserving = anyio.Lock(fast_acquire=True)  # one after the other, so that none is always overtaken
        self._events = events
        self._prices = prices or {}
        self._density: dict[str, float] = {}  # by model: the most input tokens counted for one that was estimated
        self._ended = anyio.Event()  # replaced by a new one whenever a call has ended
        self.by_model: dict[str, Usage] = {}
        self.by_node: dict[str, Usage] = {}

    async def complete(
        self,
        model: Model,
        messages: Sequence[Message],
        *,
        node: str,
        ordinal: int,
        role: Literal["root", "sub"],
        last: bool = False,
    ) -> ModelReply:
        """One paid reply. `ordinal` is the call's number at its node, from 1.

        Raises:
            BudgetExceeded: a limit of the run stands in the way; nothing was sent.
            ModelError: no usable reply. It is CutOff where a recorded call had been cut off.
            JournalError: the record cannot be written; nothing more is sent.
            ReplayDivergedError: the call is not in the record, and this is a replay.
        """
        request = await _request(model, messages)
        found = await self.replay.find_call(node, ordinal, request)
        self._take(found, node=node, ordinal=ordinal)
        replayed = found.outcome is not None
        started = time.perf_counter()
        match found.outcome:
            case ModelReply() as reply:
                pass
            case Failure() as failure:
                if failure.state in ("failed", "lost"):
                    self._tell_failure(model, failure, node=node, role=role, seconds=0.0)
                raise _as_error(failure)
            case None if self.replay.read_only:
                raise ReplayDivergedError(node=node, ordinal=ordinal)
            case None if (cached := await self._cached(model, request)) is not None:
                reply, replayed = cached, True
                await self._take_cached(model, request, reply, node=node, ordinal=ordinal, last=last)
            case None:
                async with self._slots:
                    started = time.perf_counter()
                    reply = await self._send(model, request, node=node, ordinal=ordinal, role=role, last=last)
        self._events.emit(
            ModelReplied(
                node=node,
                role=role,
                model=reply.model,
                text=reply.text,
                finish_reason=reply.finish_reason,
                usage=reply.usage,
                seconds=time.perf_counter() - started,
                replayed=replayed,
            )
        )
        return reply

    async def cut_off(self, node: str, ordinal: int) -> None:
        """The time for an RLM's call was up: a replay does not make it either."""
        await self.replay.abandon_call(node, ordinal, "the time for this call was up")

    async def finish_node(self, node: str) -> None:
        """An RLM has its answer: what is recorded beyond that was done otherwise."""
        self._take(await self.replay.finish_node(node), node=node, ordinal=1)

    async def mark_cut_off(self, node: str, *, requests: int, queries: int) -> None:
        """An RLM has made so many requests and queries, some of which were cut off: they count all the same."""
        self.add_recorded_usage(await self.replay.mark_cut_off(node, requests=requests, queries=queries))

    def _take(self, found: CallLookup, *, node: str, ordinal: int) -> None:
        self.add_recorded_usage(found.usage)
        for other in found.diverged:
            self._events.emit(ReplayDiverged(node=other, ordinal=ordinal if other == node else 1))

    async def _send(
        self, model: Model, request: Request, *, node: str, ordinal: int, role: Literal["root", "sub"], last: bool
    ) -> ModelReply:
        max_tokens, estimate = await self._reserve(model, request, node=node, ordinal=ordinal, last=last)
        started = time.perf_counter()
        try:
            call = await self.replay.record_sent(
                node, ordinal, request, reserved_tokens=estimate.tokens, reserved_usd=estimate.dollars
            )
            reply = await _reply(model, request.messages, max_tokens, role)
        except ModelError as error:
            usage = None if error.usage is None else self._priced(model, error.usage)
            failure = _as_failure(error, usage)
            if failure.state == "lost":
                self._abandon(estimate)
            elif last and failure.reason == TOO_LONG and usage is None:
                failure = replace(failure, reason=GIVEN_BACK)
                self.budget.give_back(estimate)
                self._wake()
            else:
                self._settle(estimate, RecordedUsage(node=node, model=model.name, usage=usage or Usage()))
            await self.replay.record_outcome(call, failure)
            self._tell_failure(model, failure, node=node, role=role, seconds=time.perf_counter() - started)
            raise
        except BaseException:
            self._abandon(estimate)
            raise
        reply = replace(reply, usage=self._priced(model, reply.usage))
        self._settle(estimate, RecordedUsage(node=node, model=model.name, usage=reply.usage))
        self._learn(model, request.messages, reply.usage)
        await self.replay.record_outcome(call, reply)
        if self._cache is not None and reply.finish_reason != "length":  # there is more of it for a run with more left
            await self._cache.put(server_of(model), request, reply)
        return reply

    def take_limits(self, limits: Limits) -> None:
        """Other limits from now on; calls that wait for room look again."""
        self.budget.limits = limits
        self._wake()

    def keep_for_last_turn(self, model: Model, messages: Sequence[Message]) -> None:
        """Keep as much for the root's last turn, which says these, as a call may take of all that is left now."""
        self.budget.keep_for_last_turn(Estimate())
        self.budget.keep_for_last_turn(self.estimate(model, messages))

    def would_refuse(self, model: Model, messages: Sequence[Message], *, recursive: bool) -> bool:
        """Whether a call below the root is refused now, whatever those under way come to."""
        try:
            if recursive:
                self.budget.check_rlm()
            self.budget.check(self.estimate(model, messages))
        except BudgetExceeded as refused:
            return not refused.may_succeed_later
        return False

    def estimate(self, model: Model, messages: Sequence[Message], *, last: bool = False) -> Estimate:
        """What the budget has to set aside for a call."""
        return self._planned(model, messages, last=last)[1]

    def _planned(self, model: Model, messages: Sequence[Message], *, last: bool) -> tuple[int, Estimate]:
        """The most tokens that a reply may have, and what the call uses with such a reply.

        That is a part of what is left (of the last turn, all), between what is useful and what is enough.
        """
        asked = Usage(calls=1, input_tokens=math.ceil(estimate_input(messages) * self._density.get(model.name, 1.0)))
        longest = replace(asked, output_tokens=MAX_REPLY_TOKENS)
        tokens, dollars = self.budget.left(last=last)
        share = _share(tokens, asked.input_tokens, last=last)
        if math.isfinite(dollars):
            read, most = self._known_cost(model, asked), self._known_cost(model, longest)
            if most > read:
                share = min(share, _share(dollars, read, last=last) * MAX_REPLY_TOKENS / (most - read))
        reply_tokens = int(min(max(share, MIN_REPLY_TOKENS), MAX_REPLY_TOKENS))
        if model.max_tokens is not None:
            reply_tokens = min(reply_tokens, model.max_tokens)
        usage = replace(asked, output_tokens=reply_tokens)
        cost = self.cost(model, usage) or 0.0  # also without a limit on dollars: one may be set when the run is resumed
        return reply_tokens, Estimate(tokens=usage.total_tokens, dollars=cost)

    def _known_cost(self, model: Model, usage: Usage) -> float:
        cost = self.cost(model, usage)
        assert cost is not None, "a run with a limit on dollars does not start without prices"
        return cost

    def cost(self, model: Model, usage: Usage) -> float | None:
        """The most dollars that a call with this usage can cost; None is unknown."""
        price = self._prices.get(model.name)
        return model.cost(usage) if price is None else price.cost(usage)

    async def _reserve(
        self, model: Model, request: Request, *, node: str, ordinal: int, last: bool
    ) -> tuple[int | None, Estimate]:
        """Reserve, and where only calls under way stand in the way, wait for what they do not use. A refusal is recorded.

        The limit on the reply's tokens, which the model has to be given, and what was set aside.
        """
        async with self._reserving:
            while True:
                max_tokens, estimate = self._planned(model, request.messages, last=last)
                try:
                    self.budget.reserve(estimate, last=last)
                    return max_tokens if self.budget.bounds_replies else None, estimate
                except BudgetExceeded as error:
                    refused = error
                if not refused.may_succeed_later:
                    break
                await self._ended.wait()
        failure = Failure(state="refused", text=str(refused), reason=refused.reason)
        await self.replay.record_refusal(node, ordinal, request, failure)
        raise refused

    def _learn(self, model: Model, messages: Sequence[Message], usage: Usage) -> None:
        """Some texts, such as hexadecimal numbers, have more tokens than others: the worst one yet is what is expected."""
        seen = usage.input_tokens / estimate_input(messages)
        self._density[model.name] = max(self._density.get(model.name, 1.0), seen)

    def _priced(self, model: Model, usage: Usage) -> Usage:
        price = self._prices.get(model.name)
        return usage if price is None else replace(usage, cost_usd=price.cost(usage))

    def _settle(self, estimate: Estimate, spent: RecordedUsage) -> None:
        self.budget.settle(estimate, spent.usage)
        if spent.usage.calls:  # the provider counted something
            self._note(spent)
        self._wake()

    def _abandon(self, estimate: Estimate) -> None:
        self.budget.abandon(estimate)
        self._wake()

    def _wake(self) -> None:
        self._ended.set()
        self._ended = anyio.Event()

    async def _cached(self, model: Model, request: Request) -> ModelReply | None:
        return None if self._cache is None else await self._cache.get(server_of(model), request)

    async def _take_cached(
        self, model: Model, request: Request, reply: ModelReply, *, node: str, ordinal: int, last: bool
    ) -> None:
        """The reply is one that another run got. It counts as a call, and is refused as one, though it used nothing."""
        _, estimate = await self._reserve(model, request, node=node, ordinal=ordinal, last=last)
        self.budget.settle(estimate, reply.usage)
        self._note(RecordedUsage(node=node, model=model.name, usage=reply.usage))
        self._wake()
        await self.replay.record_outcome(await self.replay.record_sent(node, ordinal, request), reply)

    def add_recorded_usage(self, spent: Iterable[RecordedUsage]) -> None:
        """Count what an earlier process of the run has paid."""
        for item in spent:
            if not item.settled:
                self.budget.count_abandoned(Estimate(tokens=item.reserved_tokens, dollars=item.reserved_usd))
                continue
            price = self._prices.get(item.model)
            if item.usage.cost_usd is None and price is not None:  # which was not given there
                item = replace(item, usage=replace(item.usage, cost_usd=price.cost(item.usage)))
            self.budget.count(item.usage, reserved_usd=item.reserved_usd)
            self._note(item)

    def _note(self, spent: RecordedUsage) -> None:
        self.by_model[spent.model] = self.by_model.get(spent.model, Usage()) + spent.usage
        self.by_node[spent.node] = self.by_node.get(spent.node, Usage()) + spent.usage

    def _tell_failure(
        self, model: Model, failure: Failure, *, node: str, role: Literal["root", "sub"], seconds: float
    ) -> None:
        self._events.emit(
            ModelFailed(
                node=node, role=role, model=model.name, error=failure.text, usage=failure.usage, seconds=seconds
            )
        )


def reply_or_raise(outcome: ModelReply | Failure) -> ModelReply:
    """The recorded reply of a call. Raises what the call raised."""
    if isinstance(outcome, Failure):
        raise _as_error(outcome)
    return outcome


async def _reply(
    model: Model, messages: Sequence[Message], max_tokens: int | None, role: Literal["root", "sub"]
) -> ModelReply:
    """The model's reply. To a root, one that was cut off before its first word is a reply too: it can be told so."""
    try:
        if max_tokens is None:
            return await model.complete(messages)
        return await model.complete(messages, max_tokens=max_tokens)
    except ReplyCutOff as error:
        if role == "sub" or error.usage is None:
            raise
        return ModelReply(
            text="", usage=error.usage, model=model.name, finish_reason="length", request_id=error.request_id
        )


def _share(left: float, asked: float, *, last: bool) -> float:
    """What a reply may take of what is left, behind what its request takes."""
    return left - asked if last else min(left - asked, left / CALLS_AT_ONCE)


async def _request(model: Model, messages: Sequence[Message]) -> Request:
    make = partial(Request, model.name, messages, parameters_of(model))
    if sum(len(message.content) for message in messages) <= HASHED_AT_ONCE:
        return make()
    return await anyio.to_thread.run_sync(make)


def _as_failure(error: ModelError, usage: Usage | None) -> Failure:
    refused = isinstance(error, ContextTooLong) or (error.status is not None and error.status >= BAD_REQUEST)
    return Failure(
        state="failed" if refused or usage is not None else "lost",
        text=str(error),
        reason=TOO_LONG if isinstance(error, ContextTooLong) else None,
        status=error.status,
        request_id=error.request_id,
        usage=usage,
    )


def _as_error(failure: Failure) -> ModelError | BudgetExceeded:
    if failure.state == "refused":
        return BudgetExceeded(failure.text, reason=cast("StopReason", failure.reason))
    kind = (
        ContextTooLong
        if failure.reason in (TOO_LONG, GIVEN_BACK)
        else CutOff
        if failure.state == "abandoned"
        else ModelError
    )
    return kind(failure.text, status=failure.status, request_id=failure.request_id, usage=failure.usage)
