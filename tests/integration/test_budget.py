"""Limits, slots and long conversations with real containers, and a provider that counts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from helpers.containers import containers
from rlm import Limits, Message, OpenAIModel, Orchestrator, Price, ScriptedModel
from rlm.events import Compacted, Event, RLMStarted, RunFinished
from rlm.testing import FakeProvider, Reply

pytestmark = pytest.mark.anyio

BATCH = """
answers = llm_batch([f"number {i}: " + "word " * 20 for i in range(1000)])
good = sum(map(bool, answers))
FINAL(f"{good} answers, then: {[str(a) for a in answers if not a][-1]}")
"""


def provider(messages: Sequence[Mapping[str, Any]], model: str) -> str | Reply:
    """The root runs the batch; of the calls some are refused by the model, and billed."""
    if messages[0]["role"] == "system":
        return f"```repl{BATCH}```"
    number = int(messages[0]["content"].split()[1].rstrip(":"))
    return Reply(text=None, refusal="I can't.") if number % 7 == 3 else "an answer of some words"


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(max_tokens=20_000), "of its 20,000 tokens left"),
        (Limits(max_cost_usd=0.02), "of its $0.02 left"),
        (Limits(max_lm_calls=300), "the run's limit of 300 model calls is reached"),
    ],
)
async def test_1000_calls_at_once_stay_under_the_limit_and_the_sum_is_what_the_server_counted(
    tmp_path: Path, limits: Limits, words: str
) -> None:
    async with FakeProvider(provider, latency=0.005) as server:
        model = OpenAIModel("m", base_url=server.base_url)
        done = await Orchestrator(
            model=model, run_root=tmp_path, limits=limits, prices={"m": Price(input=1.0, output=1.0)}
        ).acompletion("text", "go")
    assert words in done.answer
    used = done.usage
    assert (used.calls, used.input_tokens, used.output_tokens) == (
        len(server.requests),
        server.input_tokens,
        server.output_tokens,
    )
    assert sum(usage.calls for usage in done.by_node.values()) == used.calls
    assert used.cost_usd == pytest.approx(used.total_tokens / 1e6)
    if limits.max_lm_calls == 300:
        assert used.calls == 299  # one is for the last turn
    else:
        assert 12_000 < used.total_tokens <= 20_000


LONG_BATCH = """
answers = llm_batch([f"number {i}: write a long story" for i in range(60)])
FINAL(f"{sum(map(bool, answers))} answers, {sum('[This reply was cut off' in a for a in answers)} cut off")
"""


@pytest.mark.parametrize("limits", [Limits(max_tokens=100_000), Limits(max_cost_usd=0.1)])
async def test_replies_longer_than_what_is_left_are_cut_off_and_the_limit_holds(tmp_path: Path, limits: Limits) -> None:
    """The provider writes 8,000 tokens unless the request limits them."""

    def writes(messages: Sequence[Mapping[str, Any]], model: str) -> str | Reply:
        if messages[0]["role"] == "system":
            return f"```repl{LONG_BATCH}```"
        return Reply(text="Once upon a time", output_tokens=8_000)

    async with FakeProvider(writes, latency=0.005) as server:
        model = OpenAIModel("m", base_url=server.base_url)
        done = await Orchestrator(
            model=model, run_root=tmp_path, limits=limits, prices={"m": Price(input=1.0, output=1.0)}
        ).acompletion("text", "go")
    assert done.stop_reason == "final"
    answers, cut_off = map(int, re.findall(r"\d+", done.answer))
    assert answers == len(server.requests) - 1 > 12
    assert cut_off > 4
    assert 80_000 < done.usage.total_tokens == server.input_tokens + server.output_tokens <= 100_000
    assert all(2_000 <= request.body["max_completion_tokens"] <= 16_000 for request in server.requests)


FAN_OUT = """
answers = llm_batch(["go"] * {fan_out}, contexts=[context + str(i) for i in range({fan_out})])
FINAL(" ".join(answers) if all(answers) else "failed: " + repr(answers))
"""


def tree_model(fan_out: int) -> ScriptedModel:
    """Plays every level of a full tree."""

    def play(messages: Sequence[Message]) -> str:
        if messages[0].role == "user":
            return "!"
        if "A call is itself a worker like you" in messages[0].content:
            return f"```repl{FAN_OUT.format(fan_out=fan_out)}```"
        return f"```repl\nFINAL(context + llm_batch(['?'] * {fan_out})[-1])\n```"

    return ScriptedModel(play)


@pytest.mark.parametrize(
    ("depth", "fan_out", "max_sandboxes"),
    [
        (3, 3, 3),
        pytest.param(4, 5, 6, marks=[pytest.mark.long, pytest.mark.timeout(300)]),  # 156 containers
    ],
)
async def test_a_tree_ends_with_few_sandboxes(tmp_path: Path, depth: int, fan_out: int, max_sandboxes: int) -> None:
    seen: list[Event] = []
    limits = Limits(max_sandboxes=max_sandboxes, max_concurrent_calls=2)
    done = await Orchestrator(
        depth=depth, model=tree_model(fan_out), run_root=tmp_path, limits=limits, on_event=seen.append
    ).acompletion("r", "go")
    leaves = ["r"]
    for _ in range(depth - 1):
        leaves = [f"{leaf}{i}" for leaf in leaves for i in range(fan_out)]
    assert done.answer.split() == [f"{leaf}!" for leaf in leaves]
    assert done.sandboxes == sum(fan_out**level for level in range(depth))
    assert len([event for event in seen if isinstance(event, RLMStarted)]) == done.sandboxes


@pytest.mark.parametrize("seconds", [0.2, 0.7, 1.5])
async def test_a_tree_that_is_cancelled_at_any_moment_leaves_no_container_and_says_so(
    tmp_path: Path, seconds: float
) -> None:
    seen: list[Event] = []
    orchestrator = Orchestrator(
        depth=3, model=tree_model(4), run_root=tmp_path, limits=Limits(max_sandboxes=5), on_event=seen.append
    )
    with anyio.move_on_after(seconds) as scope:
        await orchestrator.acompletion("r", "go")
    assert scope.cancelled_caught
    assert containers(f"rlm.run={seen[0].run_id}") == []
    assert isinstance(seen[-1], RunFinished)
    assert seen[-1].stop_reason == "cancelled"


async def test_a_conversation_longer_than_the_window_is_answered_correctly_and_kept_whole_in_history(
    tmp_path: Path,
) -> None:
    turns = 40

    def play(messages: Sequence[Message]) -> str:
        if "replaced by a summary" in messages[-1].content:
            return "I read one value a turn."
        turn = int(re.findall(r"This is turn (\d+) of", messages[-1].content)[-1])
        if turn > turns:
            return (
                "```repl\nshown = [m['content'] for m in history if m['role'] == 'user']\n"
                "FINAL((len(values), sum(values), history[0]['role'], sum('value =' in text for text in shown)))\n```"
            )
        start = "values = []\n" if turn == 1 else ""
        return f"```repl\n{start}values.append(context[{turn}])\nprint('value =', values[-1], 'word ' * 50)\n```"

    seen: list[Event] = []
    model = ScriptedModel(play, context_window=4000)
    done = await Orchestrator(
        model=model, run_root=tmp_path, limits=Limits(max_iterations=turns + 1), on_event=seen.append
    ).acompletion(list(range(100, 200)), "the sum?")
    made = [event for event in seen if isinstance(event, Compacted)]
    assert len(made) > 1
    shown = (made[-1].messages - 2) // 2
    assert done.answer == str((turns, sum(range(101, 101 + turns)), "system", shown))
