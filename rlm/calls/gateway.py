"""The only way to a model: journal, cache, budget, network, record. Imports store, models and what is below."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, Literal, cast

import anyio

from rlm.errors import ContextTooLong, EmptyReply, ModelError, ReplayDivergedError
from rlm.events import ModelFailed, ModelReplied, ReplayDiverged
from rlm.models import refusals
from rlm.models.base import Model
from rlm.models.request import INLINE_HASH_CHARS, Request
from rlm.models.thinking import split_thinking
from rlm.store.entries import GIVEN_BACK, TOO_LONG, CallLookup, Failure
from rlm.store.event_log import EventLog
from rlm.store.replay import Replay
from rlm.types import Message, ModelReply, StopReason, Usage

from .accounting import Accounting, Reservation
from .budget import BudgetExceeded, estimate_input
from .cache import Cache

HTTP_ERROR_STATUS: Final = 400  # from this status on, the provider did not process the request

Role = Literal["root", "sub"]


class CallAbandoned(ModelError):
    """The recorded call was abandoned before it was answered."""


class Calls:
    """Makes the model calls of one run. Recorded calls are not sent again, and calls over budget are not sent at all.
    A call is counted and recorded before anyone sees its reply.

    Args:
        accounting: the run's estimates, prices and ledger.
        replay: serves recorded calls and records new ones. With a read-only journal nothing is sent.
        max_concurrent: requests in flight at once; None is no limit. No request waits for another one, so one limit
            serves all levels.
        events: receives replies and failures.
        cache: replies of other runs that this one may use.
    """

    def __init__(
        self,
        *,
        accounting: Accounting,
        replay: Replay,
        max_concurrent: int | None,
        events: EventLog,
        cache: Cache | None = None,
    ) -> None:
        self.accounting = accounting
        self.replay = replay
        self._cache = cache
        self._slots = anyio.CapacityLimiter(math.inf if max_concurrent is None else max_concurrent)
        self._events = events

    async def complete(
        self, model: Model, messages: Sequence[Message], *, node: str, ordinal: int, role: Role, last: bool = False
    ) -> ModelReply:
        """Get one reply.

        Args:
            model: answers the call.
            messages: the conversation.
            node: the node that makes the call.
            ordinal: number of the call at its node, from 1.
            role: whether an RLM's own model or a plain sub-call asks.
            last: pay the call from the reserve for the root's last turn.

        Raises:
            BudgetExceeded: a limit of the run refuses the call; nothing was sent.
            ModelError: no usable reply. CallAbandoned if the recorded call was abandoned.
            JournalError: writing the journal failed; nothing more is sent.
            ReplayDivergedError: this is a replay, and the call is not in the record.
        """
        request = await _request(model, messages)
        lookup = await self.replay.find_call(node, ordinal, request)
        self._apply(lookup, node=node, ordinal=ordinal)
        replayed = lookup.outcome is not None
        started = time.perf_counter()
        match lookup.outcome:
            case ModelReply() as reply:
                pass
            case Failure() as failure:
                if failure.state in ("failed", "lost"):
                    self._emit_failure(model, failure, node=node, role=role, seconds=0.0)
                raise error_from(failure)
            case None if self.replay.read_only:
                raise ReplayDivergedError(node=node, ordinal=ordinal)
            case None if (cached := await self._cached(model, request)) is not None:
                reply, replayed = cached, True
                await self._record_cached(model, request, reply, node=node, ordinal=ordinal, last=last)
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
                thinking=reply.thinking,
            )
        )
        return reply

    async def abandon(self, node: str, ordinal: int) -> None:
        """Record that time ran out for an RLM's call, so that a replay fails it, too."""
        await self.replay.abandon_call(node, ordinal, "time ran out for this call")

    async def finish_node(self, node: str) -> None:
        """Note that an RLM has its answer: its pending recorded queries have diverged."""
        self._apply(await self.replay.finish_node(node), node=node, ordinal=1)

    async def mark_cut_off(self, node: str, *, requests: int, queries: int) -> None:
        """Count an RLM's requests and queries up to these numbers; those not made again were cut off."""
        self.accounting.add_recorded_usage(await self.replay.mark_cut_off(node, requests=requests, queries=queries))

    def _apply(self, lookup: CallLookup, *, node: str, ordinal: int) -> None:
        self.accounting.add_recorded_usage(lookup.usage)
        for diverged in lookup.diverged:
            self._events.emit(ReplayDiverged(node=diverged, ordinal=ordinal if diverged == node else 1))

    async def _send(
        self, model: Model, request: Request, *, node: str, ordinal: int, role: Role, last: bool
    ) -> ModelReply:
        reservation = await self._reserve(model, request, node=node, ordinal=ordinal, last=last)
        started = time.perf_counter()
        try:
            estimate = reservation.estimate
            call = await self.replay.record_sent(
                node, ordinal, request, reserved_tokens=estimate.tokens, reserved_usd=estimate.dollars
            )
            limit = {} if reservation.reply_tokens is None else {"max_tokens": reservation.reply_tokens}
            reply = _spoken(await model.complete(request.messages, **limit))
        except ModelError as error:
            if role == "root" and isinstance(error, EmptyReply):
                reply = _without_text(model, request, error, reservation)
            else:
                failure = self._count_failure(reservation, model, error, node=node, last=last)
                await self.replay.record_outcome(call, failure)
                self._emit_failure(model, failure, node=node, role=role, seconds=time.perf_counter() - started)
                raise
        except BaseException:
            self.accounting.abandon(reservation)
            raise
        reply = replace(reply, usage=self.accounting.priced(model, reply.usage))
        self.accounting.settle(reservation, model=model, node=node, usage=reply.usage)
        self.accounting.update_density(model, request.messages, reply.usage)
        await self.replay.record_outcome(call, reply)
        if self._cache is not None and reply.text:
            await self._cache.put(model.base_url, request, reply)
        return reply

    async def _reserve(self, model: Model, request: Request, *, node: str, ordinal: int, last: bool) -> Reservation:
        """Reserve a call, and record a refusal."""
        try:
            return await self.accounting.reserve(model, request.messages, last=last)
        except BudgetExceeded as error:
            failure = Failure(state="refused", text=str(error), reason=error.reason)
            await self.replay.record_refusal(node, ordinal, request, failure)
            raise

    def _count_failure(
        self, reservation: Reservation, model: Model, error: ModelError, *, node: str, last: bool
    ) -> Failure:
        usage = None if error.usage is None else self.accounting.priced(model, error.usage)
        failure = _as_failure(error, usage)
        if failure.state == "lost":
            self.accounting.abandon(reservation)
        elif last and usage is None and may_be_too_long(error):
            self.accounting.release(reservation)
            return replace(failure, reason=GIVEN_BACK)
        else:
            self.accounting.settle(reservation, model=model, node=node, usage=usage or Usage())
        return failure

    async def _cached(self, model: Model, request: Request) -> ModelReply | None:
        return None if self._cache is None else await self._cache.get(model.base_url, request)

    async def _record_cached(
        self, model: Model, request: Request, reply: ModelReply, *, node: str, ordinal: int, last: bool
    ) -> None:
        """Count another run's reply as a call, which the budget may refuse, although it used no tokens."""
        reservation = await self._reserve(model, request, node=node, ordinal=ordinal, last=last)
        self.accounting.settle(reservation, model=model, node=node, usage=reply.usage)
        await self.replay.record_outcome(await self.replay.record_sent(node, ordinal, request), reply)

    def _emit_failure(self, model: Model, failure: Failure, *, node: str, role: Role, seconds: float) -> None:
        self._events.emit(
            ModelFailed(
                node=node, role=role, model=model.name, error=failure.text, usage=failure.usage, seconds=seconds
            )
        )


def _spoken(reply: ModelReply) -> ModelReply:
    """The reply with the thinking that its text begins with set apart. Raises EmptyReply if nothing else is left."""
    inside, text = split_thinking(reply.text)
    thinking = "\n\n".join(filter(None, [reply.thinking, inside]))
    if not text.strip():
        raise EmptyReply(
            f"The model {reply.model} sent {'only thinking' if inside else 'an empty reply'}.",
            request_id=reply.request_id,
            usage=reply.usage,
            finish_reason=reply.finish_reason,
            thinking=thinking,
        )
    return replace(reply, text=text, thinking=thinking) if inside else reply


def _without_text(model: Model, request: Request, error: EmptyReply, reservation: Reservation) -> ModelReply:
    """A reply without usable text, so that an RLM's model may try again. An uncounted one used what it could."""
    estimate = Usage(
        calls=1,
        input_tokens=estimate_input(request.messages),
        output_tokens=reservation.reply_tokens or 0,
        cost_usd=None,
    )
    return ModelReply(
        text=error.text,
        usage=error.usage or estimate,
        model=model.name,
        finish_reason=error.finish_reason,
        request_id=error.request_id,
        thinking=error.thinking,
    )


def may_be_too_long(error: ModelError) -> bool:
    """Whether an error means that the conversation exceeds the model's window, or may mean it in unknown words."""
    return isinstance(error, ContextTooLong) or refusals.may_be_too_long(error.status, str(error))


async def _request(model: Model, messages: Sequence[Message]) -> Request:
    make = partial(Request, model.name, messages, model.parameters)
    if sum(len(message.content) for message in messages) <= INLINE_HASH_CHARS:
        return make()
    return await anyio.to_thread.run_sync(make)


def _as_failure(error: ModelError, usage: Usage | None) -> Failure:
    refused = isinstance(error, ContextTooLong) or (error.status is not None and error.status >= HTTP_ERROR_STATUS)
    return Failure(
        state="failed" if refused or usage is not None else "lost",
        text=str(error),
        reason=TOO_LONG if isinstance(error, ContextTooLong) else None,
        status=error.status,
        request_id=error.request_id,
        usage=usage,
        window=error.window if isinstance(error, ContextTooLong) else None,
    )


def error_from(failure: Failure) -> ModelError | BudgetExceeded:
    """The error that the recorded call raised."""
    if failure.state == "refused":
        return BudgetExceeded(failure.text, reason=cast("StopReason", failure.reason))
    common: dict[str, Any] = {"status": failure.status, "request_id": failure.request_id, "usage": failure.usage}
    if failure.reason in (TOO_LONG, GIVEN_BACK):
        return ContextTooLong(failure.text, window=failure.window, **common)
    return (CallAbandoned if failure.state == "abandoned" else ModelError)(failure.text, **common)
