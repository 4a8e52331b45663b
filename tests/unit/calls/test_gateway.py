"""The way to a model: the budget's refusals are not sent, and everything sent is counted."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.fakes import memory_journal
from rlm.calls.accounting import Accounting
from rlm.calls.budget import BudgetExceeded, Estimate
from rlm.calls.gateway import Calls
from rlm.config import Limits
from rlm.errors import ContextTooLong, EmptyReply, ModelError
from rlm.events import Event, ModelFailed, ModelReplied
from rlm.models.base import Model
from rlm.models.prices import Price
from rlm.models.scripted import ScriptedModel
from rlm.store.event_log import EventLog
from rlm.store.journal import Journal
from rlm.store.replay import Replay
from rlm.testing import run_virtually
from rlm.types import Message, ModelReply, Usage

pytestmark = pytest.mark.anyio

ORDINALS = itertools.count(1)
ASK = [Message(role="user", content="x" * 300)]  # reserves at least 154 + 2,000 tokens, uses 75 + 1


def calls_within(limits: Limits, *, seen: list[Event] | None = None, prices: dict[str, Price] | None = None) -> Calls:
    events = EventLog("run", io.StringIO(), [] if seen is None else [seen.append])
    return Calls(
        accounting=Accounting(limits, prices=prices),
        replay=Replay(memory_journal()),
        max_concurrent=limits.max_concurrent_calls,
        events=events,
    )


def test_a_call_waits_while_calls_in_flight_may_release_budget_and_is_refused_after_that() -> None:
    calls = calls_within(Limits(max_tokens=5000))
    refused: list[str] = []

    async def one() -> None:
        try:
            await calls.complete(
                ScriptedModel(lambda messages: "ok", latency=1.0), ASK, node="0.1", ordinal=next(ORDINALS), role="sub"
            )
        except BudgetExceeded as error:
            refused.append(str(error))

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(100):
                group.start_soon(one)

    run_virtually(main)
    # The last call sent leaves less than another one needs.
    assert calls.accounting.budget.used.calls == (5000 - 2154) // 76 + 1
    assert len(refused) == 100 - calls.accounting.budget.used.calls
    assert "of its 5,000 tokens left" in refused[0]


async def test_a_reply_without_text_that_was_billed_counts() -> None:
    def reply(messages: Sequence[Message]) -> str:
        raise ModelError("its content filter stopped it", usage=Usage(calls=1, input_tokens=70, cost_usd=0.25))

    seen: list[Event] = []
    calls = calls_within(Limits(max_cost_usd=1.0), seen=seen)
    with pytest.raises(ModelError):
        await calls.complete(ScriptedModel(reply, name="m"), ASK, node="0.1", ordinal=next(ORDINALS), role="sub")
    billed = Usage(calls=1, input_tokens=70, cost_usd=0.25)
    assert calls.accounting.budget.used == calls.accounting.by_model["m"] == calls.accounting.by_node["0.1"] == billed
    assert [event.usage for event in seen if isinstance(event, ModelFailed)] == [billed]


@pytest.mark.parametrize(
    ("error", "tokens"),
    [
        (ModelError("it closed the connection"), 2_154),  # or timed out: the reply may have been on its way
        (ModelError("its response is no JSON", status=200), 2_154),
        (ModelError("it was overloaded", status=503), 0),
        (ModelError("it wants a key", status=401), 0),
        (ContextTooLong("it is too long"), 0),
        (ModelError("it cannot be reached", usage=Usage()), 0),
    ],
)
async def test_a_call_whose_reply_may_have_been_lost_on_the_way_counts_as_estimated(
    error: ModelError, tokens: int
) -> None:
    def fails(messages: Sequence[Message]) -> str:
        raise error

    calls = calls_within(Limits(max_tokens=16_000))
    with pytest.raises(ModelError, match="it"):
        await calls.complete(ScriptedModel(fails), ASK, node="0.1", ordinal=1, role="sub")
    assert calls.accounting.budget.remaining()[0] == 16_000 - tokens
    assert calls.accounting.budget.unaccounted == (tokens > 0)
    assert (calls.accounting.budget.used, calls.accounting.budget.in_flight) == (Usage(), Estimate())


async def test_a_call_that_was_not_billed_leaves_no_usage() -> None:
    calls = calls_within(Limits())
    with pytest.raises(ModelError):
        await calls.complete(ScriptedModel([]), ASK, node="0.1", ordinal=next(ORDINALS), role="sub")
    assert (calls.accounting.budget.used, calls.accounting.by_model, calls.accounting.budget.in_flight) == (
        Usage(),
        {},
        Estimate(),
    )


async def test_a_users_price_overrides_the_models_in_estimate_and_bill() -> None:
    calls = calls_within(Limits(max_cost_usd=1.0), prices={"m": Price(input=1000, output=100)})
    model = ScriptedModel(["ok"], name="m")
    estimate = calls.accounting.estimate(model, ASK)
    assert (estimate.tokens, estimate.dollars) == (2154, pytest.approx(0.154 + 0.2))
    reply = await calls.complete(model, ASK, node="0.1", ordinal=next(ORDINALS), role="sub")
    assert reply.usage.cost_usd == calls.accounting.budget.used.cost_usd == pytest.approx(0.0751)


async def test_a_limit_on_output_tokens_makes_the_estimate_smaller() -> None:
    class Terse(ScriptedModel):
        max_tokens = 10

    assert calls_within(Limits()).accounting.estimate(Terse([]), ASK).tokens == 164


class Keeps(ScriptedModel):
    """Reads `density` tokens per four characters; writes `wants` tokens, or as many as it may; a token costs `price`."""

    def __init__(self, wants: int, *, price: float = 0.0, density: float = 1.0, latency: float = 0.0) -> None:
        super().__init__([], name="keeps", latency=latency)
        self.wants, self.price, self.density = wants, price, density
        self.limits: list[int | None] = []

    def cost(self, usage: Usage) -> float | None:
        return self.price * (usage.input_tokens + 4 * usage.output_tokens)

    async def complete(self, messages: Sequence[Message], *, max_tokens: int | None = None) -> ModelReply:
        self.limits.append(max_tokens)
        await anyio.sleep(self._latency)
        written = self.wants if max_tokens is None else min(self.wants, max_tokens)
        read = int(sum(len(message.content) for message in messages) / 4 * self.density)
        usage = Usage(calls=1, input_tokens=read, output_tokens=written)
        usage = replace(usage, cost_usd=self.cost(usage))
        cut = written < self.wants
        return ModelReply(text="ok", usage=usage, model=self.name, finish_reason="length" if cut else "stop")


async def in_a_batch(calls: Calls, model: Model, prompts: Sequence[str]) -> list[BudgetExceeded]:
    refused: list[BudgetExceeded] = []

    async def one(number: int, prompt: str) -> None:
        asked = [Message(role="user", content=prompt)]
        try:
            await calls.complete(model, asked, node=f"0.{number}", ordinal=1, role="sub")
        except BudgetExceeded as error:
            refused.append(error)

    async with anyio.create_task_group() as group:
        for number, prompt in enumerate(prompts):
            group.start_soon(one, number, prompt)
    return refused


@pytest.mark.parametrize("limits", [Limits(max_tokens=100_000), Limits(max_cost_usd=0.1)])
def test_a_batch_of_long_replies_stays_within_the_limit(limits: Limits) -> None:
    """Replies of 8,000 tokens: reserving only 2,000 for each once spent 376,740 tokens under a limit of 100,000."""
    model = Keeps(8000, price=2.5e-7, latency=1.0)
    calls = calls_within(limits)
    refused = run_virtually(lambda: in_a_batch(calls, model, ["word " * 20] * 60))
    used = calls.accounting.budget.used
    assert used.calls == 60 - len(refused) == len(model.limits)
    assert used.total_tokens <= 100_000
    assert used.cost_usd is not None
    assert used.cost_usd <= 0.1
    assert used.total_tokens > 80_000 or used.cost_usd > 0.08, "most of what may be used is of use"
    assert all(limit is not None and 2_000 <= limit <= 16_000 for limit in model.limits)
    assert model.limits[0] == max(limit for limit in model.limits if limit is not None)


@given(
    tokens=st.none() | st.integers(1, 300_000),
    dollars=st.none() | st.floats(0.001, 1.0),
    at_once=st.none() | st.integers(1, 20),
    wants=st.integers(1, 30_000),
    price=st.floats(0, 1e-5),
    prompts=st.lists(st.integers(0, 60_000).map(lambda size: "x" * size), max_size=40),
    latency=st.sampled_from([0.0, 1.0]),
)
def test_no_batch_exceeds_a_limit_if_the_model_respects_max_tokens(
    tokens: int | None,
    dollars: float | None,
    at_once: int | None,
    wants: int,
    price: float,
    prompts: list[str],
    latency: float,
) -> None:
    limits = Limits(max_tokens=tokens, max_cost_usd=dollars, max_concurrent_calls=at_once)
    calls = calls_within(limits)
    model = Keeps(wants, price=price, latency=latency)
    refused = run_virtually(lambda: in_a_batch(calls, model, prompts))
    used = calls.accounting.budget.used
    assert used.calls + len(refused) == len(prompts)
    assert used.total_tokens <= (math.inf if tokens is None else tokens)
    assert used.cost_usd is not None
    assert used.cost_usd <= (math.inf if dollars is None else dollars) * (1 + 1e-9)
    assert calls.accounting.budget.in_flight == Estimate()
    assert all((limit is None) is (tokens is None and dollars is None) for limit in model.limits)


async def test_without_a_limit_on_tokens_or_dollars_requests_carry_none() -> None:
    model = Keeps(50_000)
    await calls_within(Limits()).complete(model, ASK, node="0.1", ordinal=next(ORDINALS), role="sub")
    assert model.limits == [None]


@pytest.mark.parametrize(
    ("limits", "price", "limit"),
    [
        (Limits(max_tokens=80_000), 0.0, 10_000),  # an eighth
        (Limits(max_tokens=8_000), 0.0, 2_000),  # the shortest useful reply
        (Limits(max_tokens=10_000_000), 0.0, 16_000),  # an ample reply
        (Limits(max_cost_usd=0.32), 1e-6, 10_000),  # an eighth of the dollars, at four to a million tokens
        (Limits(max_tokens=80_000, max_cost_usd=0.16), 1e-6, 5_000),  # the lower one
        (Limits(max_cost_usd=0.1), 0.0, 16_000),  # free replies
    ],
)
async def test_a_reply_may_take_an_eighth_of_what_is_left(limits: Limits, price: float, limit: int) -> None:
    model = Keeps(10, price=price)
    await calls_within(limits).complete(model, ASK, node="0.1", ordinal=next(ORDINALS), role="sub")
    assert model.limits == [limit]


async def test_the_last_turn_may_take_all_that_is_left_for_it() -> None:
    model = Keeps(10)
    calls = calls_within(Limits(max_tokens=10_000))
    calls.accounting.reserve_last_turn(model, ASK)
    await calls.complete(model, ASK, node="0", ordinal=1, role="root")
    await calls.complete(model, ASK, node="0", ordinal=2, role="root", last=True)
    assert model.limits == [2_000, 10_000 - 85 - 154]


async def test_a_lower_token_limit_of_the_model_applies() -> None:
    class Terse(Keeps):
        max_tokens = 500

    model = Terse(10)
    await calls_within(Limits(max_tokens=80_000)).complete(model, ASK, node="0.1", ordinal=1, role="sub")
    assert model.limits == [500]


async def test_a_text_with_more_tokens_than_others_teaches_the_estimate() -> None:
    """Such as hexadecimal numbers: here one token per two characters."""
    model = Keeps(1, density=2.0)
    calls = calls_within(Limits(max_tokens=100_000))
    asked = [Message(role="user", content="f" * 30_000)]
    assert calls.accounting.estimate(model, asked).tokens < 15_000 + 12_000
    await calls.complete(model, asked, node="0.1", ordinal=1, role="sub")
    calls.accounting.budget.limits = Limits(max_tokens=30_000)  # leaves 14,999; the first estimate was 12,158
    with pytest.raises(BudgetExceeded):
        await calls.complete(model, [*asked, *ASK], node="0.2", ordinal=1, role="sub")
    assert calls.accounting.estimate(Keeps(1), ASK).tokens == 2_000 + 230  # also for a short text


async def test_a_reply_cut_off_before_its_first_word_is_a_reply_for_a_root_and_an_error_for_a_cell() -> None:
    def reply(messages: Sequence[Message]) -> str:
        raise EmptyReply(
            "it has thought of nothing else", finish_reason="length", usage=Usage(calls=1, output_tokens=2_000)
        )

    calls = calls_within(Limits(max_tokens=100_000))
    model = ScriptedModel(reply, name="m")
    got = await calls.complete(model, ASK, node="0", ordinal=1, role="root")
    assert (got.text, got.finish_reason, got.usage.output_tokens) == ("", "length", 2_000)
    with pytest.raises(EmptyReply):
        await calls.complete(model, ASK, node="0.1", ordinal=1, role="sub")
    assert calls.accounting.budget.used.output_tokens == 4_000


async def test_a_cancelled_call_releases_its_reservation() -> None:
    calls = calls_within(Limits(max_tokens=10_000, max_concurrent_calls=1))

    class Slow(ScriptedModel):
        async def complete(self, messages: Sequence[Message], *, max_tokens: int | None = None) -> ModelReply:
            sent.set()
            await anyio.sleep_forever()
            raise AssertionError

    sent = anyio.Event()
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(lambda: calls.complete(Slow([]), ASK, node="0.1", ordinal=next(ORDINALS), role="sub"))
        with anyio.fail_after(10):
            await sent.wait()
        assert calls.accounting.budget.in_flight.tokens == 2154
        group.cancel_scope.cancel()
    assert calls.accounting.budget.in_flight == Estimate()
    with anyio.fail_after(1):
        await calls.complete(ScriptedModel(["ok"]), ASK, node="0.1", ordinal=next(ORDINALS), role="sub")


async def test_a_call_of_unknown_cost_counts_in_a_resumed_run_as_it_did_when_it_was_made(tmp_path: Path) -> None:
    class Priced(ScriptedModel):
        def cost(self, usage: Usage) -> float | None:
            return usage.total_tokens / 1000

    unknown = ModelReply(text="ok", usage=Usage(calls=1, input_tokens=5, cost_usd=None), model="m")
    model = Priced(lambda messages: unknown, name="m")
    modes: tuple[Literal["create", "open"], ...] = ("create", "open")
    for ordinal, mode in enumerate(modes, start=1):
        with Journal(tmp_path / "journal.sqlite", mode=mode) as journal:
            events = EventLog("run", io.StringIO(), [])
            calls = Calls(
                accounting=Accounting(Limits(max_cost_usd=3.0)), replay=Replay(journal), max_concurrent=1, events=events
            )
            left = 3.0 - calls.accounting.estimate(model, ASK).dollars
            await calls.complete(model, ASK, node="0.1", ordinal=1, role="sub")
            with pytest.raises(BudgetExceeded, match=rf"\${left:.4g} of its \$3 left"):
                await calls.complete(model, ASK, node="0.2", ordinal=ordinal, role="sub")
            assert calls.accounting.budget.used.cost_usd is None
    with Journal(tmp_path / "journal.sqlite", mode="open") as journal:
        prices = {"m": Price(input=1000, output=0)}
        accounting = Accounting(Limits(), prices=prices)
        calls = Calls(accounting=accounting, replay=Replay(journal), max_concurrent=1, events=events)
        await calls.complete(model, ASK, node="0.1", ordinal=1, role="sub")
        assert calls.accounting.budget.used.cost_usd == 0.005


async def test_the_thinking_of_a_reply_is_in_its_event_and_not_in_its_text() -> None:
    seen: list[Event] = []
    model = ScriptedModel(lambda messages: "<think>First, look.</think>FINAL(3)", name="m")
    await calls_within(Limits(), seen=seen).complete(model, ASK, node="0", ordinal=1, role="root")
    assert [(event.thinking, event.text) for event in seen if isinstance(event, ModelReplied)] == [
        ("First, look.", "FINAL(3)")
    ]
