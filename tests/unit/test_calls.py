"""The way to a model: what the budget refuses is not sent, what was sent is counted."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence

import anyio
import pytest

from fakes import memory_journal
from rlm.budget import Budget, Estimate, Refused
from rlm.calls import Calls
from rlm.config import Limits
from rlm.errors import ModelError
from rlm.events import Event, EventLog, ModelFailed
from rlm.models.prices import Price
from rlm.models.scripted import ScriptedModel
from rlm.types import Message, ModelReply, Usage
from virtual_time import run_virtually

pytestmark = pytest.mark.anyio

ORDINALS = itertools.count(1)
ASK = [Message(role="user", content="x" * 300)]  # 104 + 2,000 tokens are set aside, 75 + 1 are used


def calls_within(limits: Limits, *, seen: list[Event] | None = None, prices: dict[str, Price] | None = None) -> Calls:
    events = EventLog("run", io.StringIO(), [] if seen is None else [seen.append])
    return Calls(
        budget=Budget(limits),
        journal=memory_journal(),
        max_concurrent=limits.max_concurrent_calls,
        events=events,
        prices=prices,
    )


def test_a_call_waits_for_what_others_give_back_and_is_refused_only_when_nothing_more_will_come() -> None:
    calls = calls_within(Limits(max_tokens=5000))
    refused: list[str] = []

    async def one() -> None:
        try:
            await calls.complete(
                ScriptedModel(lambda messages: "ok", latency=1.0), ASK, node="0.1", ordinal=next(ORDINALS), role="sub"
            )
        except Refused as error:
            refused.append(str(error))

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(100):
                group.start_soon(one)

    run_virtually(main)
    # The last call that goes out leaves less than one more would need.
    assert calls.budget.used.calls == (5000 - 2104) // 76 + 1
    assert len(refused) == 100 - calls.budget.used.calls
    assert "of the run's limit of 5,000 tokens" in refused[0]


async def test_a_reply_without_text_that_was_billed_counts() -> None:
    def reply(messages: Sequence[Message]) -> str:
        raise ModelError("its content filter stopped it", usage=Usage(calls=1, input_tokens=70, cost_usd=0.25))

    seen: list[Event] = []
    calls = calls_within(Limits(max_cost_usd=1.0), seen=seen)
    with pytest.raises(ModelError):
        await calls.complete(ScriptedModel(reply, name="m"), ASK, node="0.1", ordinal=next(ORDINALS), role="sub")
    billed = Usage(calls=1, input_tokens=70, cost_usd=0.25)
    assert calls.budget.used == calls.by_model["m"] == calls.by_node["0.1"] == billed
    assert [event.usage for event in seen if isinstance(event, ModelFailed)] == [billed]


async def test_a_call_that_was_not_billed_leaves_no_usage() -> None:
    calls = calls_within(Limits())
    with pytest.raises(ModelError):
        await calls.complete(ScriptedModel([]), ASK, node="0.1", ordinal=next(ORDINALS), role="sub")
    assert (calls.budget.used, calls.by_model, calls.budget.in_flight) == (Usage(), {}, Estimate())


async def test_a_price_of_the_users_comes_before_what_the_model_says_in_estimate_and_bill() -> None:
    calls = calls_within(Limits(max_cost_usd=1.0), prices={"m": Price(input=1000, output=100)})
    model = ScriptedModel(["ok"], name="m")
    assert calls.estimate(model, ASK) == Estimate(tokens=2104, dollars=pytest.approx(0.104 + 0.2))
    reply = await calls.complete(model, ASK, node="0.1", ordinal=next(ORDINALS), role="sub")
    assert reply.usage.cost_usd == calls.budget.used.cost_usd == pytest.approx(0.0751)


async def test_a_limit_on_output_tokens_makes_the_estimate_smaller() -> None:
    class Terse(ScriptedModel):
        @property
        def max_tokens(self) -> int | None:
            return 10

    assert calls_within(Limits()).estimate(Terse([]), ASK).tokens == 114


async def test_a_cancelled_call_holds_nothing() -> None:
    calls = calls_within(Limits(max_tokens=10_000, max_concurrent_calls=1))

    class Slow(ScriptedModel):
        async def complete(self, messages: Sequence[Message], *, max_tokens: int | None = None) -> ModelReply:
            await anyio.sleep_forever()
            raise AssertionError

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(lambda: calls.complete(Slow([]), ASK, node="0.1", ordinal=next(ORDINALS), role="sub"))
        await anyio.wait_all_tasks_blocked()
        assert calls.budget.in_flight.tokens == 2104
        group.cancel_scope.cancel()
    assert calls.budget.in_flight == Estimate()
    with anyio.fail_after(1):
        await calls.complete(ScriptedModel(["ok"]), ASK, node="0.1", ordinal=next(ORDINALS), role="sub")
