"""Options, models and connections of an orchestrator."""

import dataclasses
import gc
import inspect
import itertools
import tracemalloc
import typing
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

from helpers.fakes import services
from rlm import ConfigError, LimitExceeded, Limits, Orchestrator, Price
from rlm.events import Event, RunFinished
from rlm.loop.control import RunControl
from rlm.loop.rlm import rlm_loop
from rlm.loop.task import RLMTask
from rlm.models.scripted import ScriptedModel
from rlm.run.options import PATHS, UNSET, Options, OptionsDict
from rlm.sandbox.base import Answer, SandboxQuery
from rlm.sandbox.values import encode
from rlm.testing import FakeSandboxes, run_virtually
from rlm.types import CellResult, Message, ModelReply, Usage

pytestmark = pytest.mark.anyio


class Connected(ScriptedModel):
    """A model that counts its connections."""

    def __init__(self, name: str) -> None:
        super().__init__(["FINAL(ok)"], name=name)
        self.opened = 0

    async def complete(self, messages: Sequence[Message], *, max_tokens: int | None = None) -> ModelReply:
        self.opened = 1
        return await super().complete(messages, max_tokens=max_tokens)

    async def aclose(self) -> None:
        self.opened = 0


async def test_connections_are_closed_after_a_completion(tmp_path: Path) -> None:
    model = Connected("a")
    await Orchestrator(model=model, sandbox_factory=FakeSandboxes(), run_root=tmp_path).acompletion("text", "q")
    assert model.opened == 0


async def test_an_entered_orchestrator_keeps_connections_open_until_its_end(tmp_path: Path) -> None:
    model = Connected("a")
    async with Orchestrator(model=model, sandbox_factory=FakeSandboxes(), run_root=tmp_path) as orchestrator:
        await orchestrator.acompletion("text", "q")
        assert model.opened == 1
    assert model.opened == 0


def test_a_blocking_orchestrator_closes_its_connections_too(tmp_path: Path) -> None:
    model = Connected("a")
    with Orchestrator(model=model, sandbox_factory=FakeSandboxes(), run_root=str(tmp_path)) as orchestrator:
        assert orchestrator.completion("text", "q").answer == "ok"
        assert model.opened == 1
    assert model.opened == 0


async def test_a_single_completion_may_differ_from_its_orchestrator(tmp_path: Path) -> None:
    orchestrator = Orchestrator(model=ScriptedModel([], name="a"), sandbox_factory=FakeSandboxes(), run_root=tmp_path)
    done = await orchestrator.acompletion("text", "q", model=ScriptedModel(["FINAL(other)"], name="b"))
    assert done.answer == "other"
    assert done.by_model.keys() == {"b"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"depth": -1}, "depth=-1"),
        ({"depth": True}, "depth=True"),
        ({"depth": 3, "limits": Limits(max_depth=2)}, r"depth=3 exceeds Limits\(max_depth=2\)"),
        ({"on_limit": "stop"}, "on_limit='stop' is invalid: use 'answer' or 'raise'"),
        ({"prices": {"m": 1.0}}, r"prices\['m'\] is a float: use Price\(input=..., output=...\)"),
    ],
)
def test_a_wrong_option_is_refused_in_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Orchestrator(**options)


def test_every_method_spells_out_all_options_with_their_types() -> None:
    """Editors, help() and type checkers need them."""
    methods: list[Callable[..., Any]] = [
        Orchestrator.__init__,
        Orchestrator.completion,
        Orchestrator.acompletion,
        Orchestrator.start,
    ]
    methods += [Orchestrator.session, Orchestrator.resume, Orchestrator.aresume, Orchestrator.start_resume]
    methods += [Orchestrator.replay, Orchestrator.areplay]
    options = {field.name: field.type for field in dataclasses.fields(Options)}
    options |= {name: options[name].replace("Path", "str | Path") for name in PATHS}
    for method in methods:
        parameters = inspect.signature(method).parameters.values()
        named = {each.name: each for each in parameters if each.kind is each.KEYWORD_ONLY and each.name != "resume"}
        assert {name: each.annotation for name, each in named.items()} == options
        assert {each.default for each in named.values()} == {UNSET}
    assert typing.get_type_hints(OptionsDict).keys() == options.keys()


def test_an_option_of_a_wrong_name_is_a_type_error() -> None:
    rlm = Orchestrator()
    calls: tuple[Callable[..., Any], ...] = (
        Orchestrator,
        partial(rlm.completion, "text", "q"),
        partial(rlm.resume, "run"),
    )
    for call in calls:
        with pytest.raises(TypeError, match="unexpected keyword argument 'dept'"):
            call(dept=1)


async def test_options_that_a_completion_does_not_set_are_the_orchestrators(tmp_path: Path) -> None:
    orchestrator = Orchestrator(depth=2, tools_for_children=True, run_root=tmp_path)
    options = orchestrator._options_with({"depth": 3})
    assert (options.depth, options.tools_for_children, options.run_root) == (3, True, tmp_path)


async def test_a_query_or_context_of_a_wrong_type_is_refused_in_one_sentence(tmp_path: Path) -> None:
    orchestrator = Orchestrator(model=ScriptedModel([]), sandbox_factory=FakeSandboxes(), run_root=tmp_path)
    with pytest.raises(ConfigError, match="query is a int"):
        await orchestrator.acompletion("text", cast("str", 5))
    with pytest.raises(ConfigError, match="Unsupported context type set"):
        await orchestrator.acompletion(cast("Any", {1}), "q")


async def test_levels_share_the_sub_model_unless_they_have_their_own() -> None:
    root, sub, own = (ScriptedModel([], name=name) for name in ("root", "sub", "own"))
    orchestrator = Orchestrator(depth=3, model=root, sub_model=sub, level_models={2: own})
    assert orchestrator._clients.models(orchestrator._options) == {0: root, 1: sub, 2: own, 3: sub}


class Unpriced(ScriptedModel):
    """A model without a known price."""

    def cost(self, usage: Usage) -> float | None:
        return None


async def test_a_cost_limit_without_a_price_is_refused_before_the_run_starts(tmp_path: Path) -> None:
    sandboxes = FakeSandboxes()
    orchestrator = Orchestrator(
        model=ScriptedModel(["FINAL(ok)"]),
        sub_model=Unpriced([], name="house-model"),
        sandbox_factory=sandboxes,
        run_root=tmp_path,
        limits=Limits(max_cost_usd=1.0),
    )
    with pytest.raises(
        ConfigError,
        match=r"needs the price of house-model, which is unknown\. .* Orchestrator\(prices={'house-model': Price",
    ):
        await orchestrator.acompletion("text", "q")
    assert sandboxes.started == []
    assert list(tmp_path.iterdir()) == []
    done = await orchestrator.acompletion("text", "q", prices={"house-model": Price(input=1, output=2)})
    assert done.answer == "ok"


async def test_a_price_by_name_is_what_the_completion_costs(tmp_path: Path) -> None:
    orchestrator = Orchestrator(
        model=Unpriced(["FINAL(ok)"], name="m"), sandbox_factory=FakeSandboxes(), run_root=tmp_path
    )
    done = await orchestrator.acompletion("text", "q", prices={"m": Price(input=2, output=4)})
    assert done.cost == pytest.approx((done.usage.input_tokens * 2 + done.usage.output_tokens * 4) / 1e6)


async def test_with_on_limit_raise_a_limit_is_an_error_that_carries_the_completion(tmp_path: Path) -> None:
    model = ScriptedModel(["```repl\nlook\n```", "FINAL(so far)"])
    orchestrator = Orchestrator(
        model=model, sandbox_factory=FakeSandboxes(), run_root=tmp_path, limits=Limits(max_lm_calls=2), on_limit="raise"
    )
    with pytest.raises(LimitExceeded, match="max_lm_calls") as caught:
        await orchestrator.acompletion("text", "q")
    assert caught.value.partial is not None
    assert (caught.value.partial.answer, caught.value.partial.usage.calls) == ("so far", 2)
    assert (await orchestrator.acompletion("text", "q", on_limit="answer")).stop_reason == "max_lm_calls"
    assert (
        await orchestrator.acompletion("text", "q", limits=Limits(), model=ScriptedModel(["FINAL(x)"]))
    ).answer == "x"


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(max_iterations=2), "max_iterations"),
        (Limits(max_lm_calls=3), "max_lm_calls"),
        (Limits(max_tokens=12_000), "max_tokens"),
        (Limits(max_cost_usd=0.012), "max_cost_usd"),
        (Limits(max_seconds=0.2, max_consecutive_errors=None), "max_seconds"),
    ],
)
async def test_every_limit_stops_the_work_with_its_own_reason_and_a_last_answer(
    tmp_path: Path, limits: Limits, reason: str
) -> None:
    def root(messages: Sequence[Message]) -> str:
        return "FINAL(so far)" if "have to stop" in messages[-1].content else "```repl\nlook\n```"

    done = await Orchestrator(
        model=ScriptedModel(root, name="m", latency=0.01),
        sandbox_factory=FakeSandboxes(),
        run_root=tmp_path,
        prices={"m": Price(input=1, output=1)},
        limits=limits,
    ).acompletion("text", "q")
    assert (done.answer, done.stop_reason) == ("so far", reason)
    assert limits.max_tokens is None or done.usage.total_tokens <= limits.max_tokens
    assert done.cost is not None
    assert limits.max_cost_usd is None or done.cost <= limits.max_cost_usd


async def test_the_start_of_the_root_takes_of_the_runs_time(tmp_path: Path) -> None:
    sandboxes = FakeSandboxes(latency=60)
    model = ScriptedModel(["FINAL(ok)"])
    orchestrator = Orchestrator(model=model, sandbox_factory=sandboxes, run_root=tmp_path)
    with anyio.fail_after(10):
        done = await orchestrator.acompletion("text", "q", limits=Limits(max_seconds=0.2))
    assert (done.answer, done.stop_reason, done.iterations, done.usage.calls) == ("", "max_seconds", 0, 0)
    assert sandboxes.alive == 0
    replayed = await orchestrator.areplay(done.run_dir, sandbox_factory=FakeSandboxes())
    assert (replayed.answer, replayed.stop_reason) == ("", "max_seconds")
    with pytest.raises(LimitExceeded):
        await orchestrator.acompletion("text", "q", limits=Limits(max_seconds=0.2), on_limit="raise")


def test_a_model_that_hangs_does_not_outlast_the_time_of_the_run_by_a_minute() -> None:
    async def main() -> None:
        began = anyio.current_time()
        shared = services(ScriptedModel(["FINAL(ok)"], latency=1e6), seconds=1.0)
        task = RLMTask(node="0", level=0, depth=0, context=encode("text"), query="?", model=shared.model_at(0))
        answered = await rlm_loop(task, shared)
        assert (answered.answer, answered.stop_reason) == ("", "max_seconds")
        assert anyio.current_time() - began == pytest.approx(1 + 5)

    run_virtually(main)


@pytest.mark.parametrize(("seconds", "last"), [(None, 60), (3600.0, 60), (100.0, 10), (1.0, 5)])
def test_the_last_turn_has_a_tenth_of_the_runs_time_within_bounds(seconds: float | None, last: float) -> None:
    assert RunControl(Limits(max_seconds=seconds)).last_turn_seconds == last


async def test_calls_that_the_deadline_cut_off_are_counted_apart(tmp_path: Path) -> None:
    async def asks(code: str, answer: Answer | None) -> CellResult:
        assert answer is not None
        async with anyio.create_task_group() as group:
            for number in range(6):
                query = SandboxQuery(call=number, batch=6, prompt=str(number), context=None, model=None, recurse=None)
                group.start_soon(answer, query)
        raise AssertionError

    class Hangs(ScriptedModel):
        async def complete(self, messages: Sequence[Message], *, max_tokens: int | None = None) -> ModelReply:
            if messages[-1].content in ("3", "4", "5"):
                await anyio.sleep_forever()
            return await super().complete(messages, max_tokens=max_tokens)

    def root(messages: Sequence[Message]) -> str:
        return "FINAL(so far)" if "have to stop" in messages[-1].content else "```repl\nask\n```"

    done = await Orchestrator(
        model=ScriptedModel(root),
        sub_model=Hangs(lambda messages: "ok"),
        sandbox_factory=FakeSandboxes(asks),
        run_root=tmp_path,
        limits=Limits(max_seconds=0.3),
    ).acompletion("text", "q")
    assert (done.answer, done.stop_reason) == ("so far", "max_seconds")
    assert (done.usage.calls, done.unaccounted_calls) == (2 + 3, 3)


async def test_a_cancelled_completion_raises_and_its_record_says_cancelled(tmp_path: Path) -> None:
    def reply(messages: Sequence[Message]) -> str:
        scope.cancel()
        return "too late"

    seen: list[Event] = []
    sandboxes = FakeSandboxes()
    model = ScriptedModel(reply)
    orchestrator = Orchestrator(model=model, sandbox_factory=sandboxes, run_root=tmp_path, on_event=seen.append)
    with anyio.CancelScope() as scope:
        await orchestrator.acompletion("text", "q")
    assert scope.cancelled_caught
    assert [event.stop_reason for event in seen if isinstance(event, RunFinished)] == ["cancelled"]
    assert sandboxes.alive == 0


@pytest.mark.long
async def test_200_completions_at_once_each_stay_within_their_own_limits_and_leave_no_memory(tmp_path: Path) -> None:
    async def ask_often(code: str, answer: Answer | None) -> CellResult:
        assert answer is not None
        async with anyio.create_task_group() as group:
            for number in range(5):
                query = SandboxQuery(call=number, batch=1, prompt="x" * 400, context=None, model=None, recurse=None)
                group.start_soon(answer, query)
        return CellResult(outcome="ok", stdout="asked")

    def root(messages: Sequence[Message]) -> str:
        if messages[0].role == "user":
            return "y" * 400
        return "FINAL(so far)" if "have to stop" in messages[-1].content else "```repl\nask\n```"

    orchestrator = Orchestrator(model=ScriptedModel(root), run_root=tmp_path)

    async def one(number: int) -> None:
        calls = 3 + number % 10
        sandboxes = FakeSandboxes(ask_often)
        done = await orchestrator.acompletion("text", "q", limits=Limits(max_lm_calls=calls), sandbox_factory=sandboxes)
        assert (done.stop_reason, done.usage.calls, done.answer) == ("max_lm_calls", calls, "so far")
        assert sandboxes.alive == 0

    async def at_once(completions: int) -> None:
        async with anyio.create_task_group() as group:
            for number in range(completions):
                group.start_soon(one, number)

    async def left_by(completions: int) -> int:
        await at_once(completions)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    await at_once(200)
    tracemalloc.start()
    try:
        memory = [await left_by(30) for _ in range(4)]  # the first creates what is created once
    finally:
        tracemalloc.stop()
    grown = min(later - earlier for earlier, later in pairwise(memory))  # anything but a leak varies
    assert grown < 15_000, f"30 completions leave {grown:,} bytes"
    assert len(orchestrator._clients._users) == 0


async def test_jumps_of_the_wall_clock_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hours = itertools.cycle([0.0, 1e9, -1e9])
    monkeypatch.setattr("rlm.store.event_log.time.time", lambda: next(hours))
    model = ScriptedModel(["```repl\nlook\n```", "FINAL(ok)"], latency=0.01)
    limits = Limits(max_seconds=30.0)
    done = await Orchestrator(
        model=model, sandbox_factory=FakeSandboxes(), run_root=tmp_path, limits=limits
    ).acompletion("t", "q")
    assert (done.stop_reason, done.answer) == ("final", "ok")
    assert 0 < done.seconds < 30


class Waiting(ScriptedModel):
    """Answers a `slow` question when released, and records whether it was closed before that."""

    def __init__(self) -> None:
        super().__init__(lambda messages: "FINAL(x)")
        self.asked, self.may_answer = anyio.Event(), anyio.Event()
        self.closed = 0

    async def complete(self, messages: Sequence[Message], *, max_tokens: int | None = None) -> ModelReply:
        if "slow" in messages[-1].content:
            self.asked.set()
            await self.may_answer.wait()
        return await super().complete(messages, max_tokens=max_tokens)

    async def aclose(self) -> None:
        self.closed += 1


async def test_a_model_that_several_orchestrators_share_is_closed_by_the_last_one_that_uses_it(tmp_path: Path) -> None:
    model = Waiting()
    first, second = (Orchestrator(model=model, sandbox_factory=FakeSandboxes(), run_root=tmp_path) for _ in range(2))
    async with anyio.create_task_group() as group:
        group.start_soon(first.acompletion, "text", "slow")
        await model.asked.wait()
        await second.acompletion("text", "quick")
        assert model.closed == 0
        model.may_answer.set()
    assert model.closed == 1
