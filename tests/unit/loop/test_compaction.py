"""A conversation that outgrows its model's window continues, and ends with the right answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.fakes import services
from rlm.config import Limits
from rlm.errors import ConfigError, ContextTooLong, SandboxDied
from rlm.events import Compacted, Event, ModelFailed, SandboxLost
from rlm.loop.compaction import ContextWindow, limits_for_window
from rlm.loop.rlm import rlm_loop
from rlm.loop.services import Services
from rlm.loop.task import RLMResult, RLMTask
from rlm.loop.transcript import Transcript
from rlm.models.scripted import Policy, ScriptedModel
from rlm.sandbox.base import Answer, LoadedValue
from rlm.sandbox.values import Value, encode
from rlm.testing import FakeSandboxes
from rlm.types import CellResult, Message, ModelReply, Usage

TURNS = 200
WINDOW = 4000


def value(turn: int) -> int:
    return turn * 37 % 101


async def cell(code: str, answer: Answer | None) -> CellResult:
    """`read(k)` prints the k-th value among other words."""
    if code == "SHOW_VARS()":
        return CellResult(outcome="ok", stdout="kept: list (3) = [1, 2, 3]")
    return CellResult(outcome="ok", stdout=f"value = {value(int(code[5:-1]))}\n" + "words " * 50)


def add_up(messages: Sequence[Message]) -> str:
    """Reads one value per turn and keeps the sum in its replies: it remembers nothing but the messages."""
    conversation = " ".join(message.content for message in messages)
    sums = [(int(turn), int(total)) for turn, total in re.findall(r"after (\d+) values the sum is (\d+)", conversation)]
    turn, total = max(sums, default=(0, 0))
    latest = re.findall(r"value = (\d+)", messages[-1].content)
    if latest:
        turn, total = turn + 1, total + int(latest[-1])
    so_far = f"after {turn} values the sum is {total}"
    if "replaced by a summary" in messages[-1].content:
        return so_far
    if turn == TURNS or "have to stop" in messages[-1].content:
        return f"FINAL({total})"
    return f"I see: {so_far}.\n```repl\nread({turn + 1})\n```"


class UnknownWindow(ScriptedModel):
    """Refuses long conversations without announcing its window."""

    def __init__(self, reply: Policy, *, context_window: int) -> None:
        super().__init__(reply)
        self._server = ScriptedModel(reply, context_window=context_window)

    async def complete(self, messages: Sequence[Message], *, max_tokens: int | None = None) -> ModelReply:
        return await self._server.complete(messages)


async def run(shared: Services) -> RLMResult:
    task = RLMTask(node="0", level=0, depth=0, context=encode("text"), query="the sum?", model=shared.model_at(0))
    return await rlm_loop(task, shared)


def unpacked(history: Value) -> Any:
    return msgpack.unpackb(b"".join(history.pieces()))


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [ScriptedModel, UnknownWindow])
async def test_200_turns_through_a_window_of_4000_tokens_end_with_the_right_answer(kind: type[ScriptedModel]) -> None:
    seen: list[Event] = []
    sandboxes = FakeSandboxes(cell)
    model = kind(add_up, context_window=WINDOW)
    shared = services(model, limits=Limits(max_iterations=TURNS + 1), sandbox_factory=sandboxes, seen=seen)
    answered = await run(shared)
    total = sum(value(turn) for turn in range(1, TURNS + 1))
    assert answered == RLMResult(answer=str(total), stop_reason="final", iterations=TURNS + 1)
    made = [event for event in seen if isinstance(event, Compacted)]
    refused = [event for event in seen if isinstance(event, ModelFailed)]
    assert len(made) > 5
    assert len(refused) == (1 if kind is UnknownWindow else 0)  # what it taught about the window is kept
    assert shared.calls.accounting.budget.used.calls == TURNS + 1 + len(made)
    history = unpacked(sandboxes.created[0].loaded["history"])
    assert len(history) == made[-1].messages
    assert history[1]["content"].startswith("Question:\nthe sum?")
    assert [message["role"] for message in history] == ["system"] + ["user", "assistant"] * (len(history) // 2 - 1) + [
        "user"
    ]
    assert all(f"read({turn})" in history[2 * turn]["content"] for turn in range(1, len(history) // 2))


@pytest.mark.anyio
async def test_the_model_is_told_of_its_summary_its_variables_and_the_history() -> None:
    received: list[str] = []

    def root(messages: Sequence[Message]) -> str:
        received.append(messages[1].content)
        return add_up(messages)

    limits = Limits(max_iterations=TURNS + 1)
    await run(services(ScriptedModel(root, context_window=WINDOW), limits=limits, sandbox_factory=FakeSandboxes(cell)))
    assert "history" not in received[0]
    message = received[-1]
    assert message.startswith(
        received[0] + "\n\nEarlier turns are left out here. Your own summary of them:\n```\nafter "
    )
    assert "The variables in the REPL, as SHOW_VARS() prints them:\nOutput:\n```\nkept: list (3) = [1, 2, 3]" in message
    assert "is in the REPL too, as `history`: a list of dicts" in message


@pytest.mark.anyio
async def test_a_summary_is_paid_from_the_budget() -> None:
    seen: list[Event] = []
    model = ScriptedModel(add_up, context_window=WINDOW)
    for calls in range(5, 40):
        seen.clear()
        shared = services(
            model,
            limits=Limits(max_iterations=TURNS, max_lm_calls=calls),
            sandbox_factory=FakeSandboxes(cell),
            seen=seen,
        )
        answered = await run(shared)
        assert answered.stop_reason == "max_lm_calls"
        assert shared.calls.accounting.budget.used.calls == calls
        turns = calls - 1 - sum(isinstance(event, Compacted) for event in seen)
        # If the refused call was for a summary, its turn has started, too.
        assert answered.answer in {str(sum(map(value, range(1, count + 1)))) for count in (turns, turns - 1)}


@pytest.mark.anyio
async def test_history_is_restored_in_the_replacement_of_a_lost_sandbox() -> None:
    lost: list[str] = []

    async def dies(code: str, answer: Answer | None) -> CellResult:
        if code == "read(60)" and not lost:
            lost.append(code)
            raise SandboxDied("it was killed")
        return await cell("read(60)" if code == "read(61)" else code, answer)

    seen: list[Event] = []
    sandboxes = FakeSandboxes(dies)
    limits = Limits(max_iterations=100)
    await run(
        services(ScriptedModel(add_up, context_window=WINDOW), limits=limits, sandbox_factory=sandboxes, seen=seen)
    )
    assert [type(event) for event in seen if isinstance(event, SandboxLost)] == [SandboxLost]
    assert sandboxes.created[1].loaded.keys() == {"context", "history"}


@pytest.mark.anyio
async def test_a_sandbox_without_memory_for_the_history_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    async def load(self: object, name: str, value: Value) -> LoadedValue:
        if name == "history":
            raise ConfigError("there is not enough memory")
        return LoadedValue(type="str", size=value.size)

    monkeypatch.setattr("rlm.testing.fake_sandbox.FakeSandbox.load", load)
    received: list[str] = []

    def root(messages: Sequence[Message]) -> str:
        received.append(messages[1].content)
        return add_up(messages)

    limits = Limits(max_iterations=TURNS + 1)
    shared = services(ScriptedModel(root, context_window=WINDOW), limits=limits, sandbox_factory=FakeSandboxes(cell))
    assert (await run(shared)).stop_reason == "final"
    assert "Your own summary" in received[-1]
    assert "`history`" not in received[-1]


@pytest.mark.anyio
async def test_a_question_that_is_too_long_by_itself_is_an_error() -> None:
    with pytest.raises(ContextTooLong):
        await run(services(ScriptedModel(["FINAL(x)"], context_window=100)))


@pytest.mark.anyio
async def test_when_the_conversation_no_longer_fits_into_the_budget_the_last_turn_is_shorter() -> None:
    received: list[int] = []

    def root(messages: Sequence[Message]) -> str:
        received.append(sum(len(message.content) for message in messages))
        return "FINAL(x)" if "have to stop" in messages[-1].content else "```repl\nlook\n```"

    async def long(code: str, answer: Answer | None) -> CellResult:
        return CellResult(outcome="ok", stdout="x" * 19_000)

    answered = await run(
        services(ScriptedModel(root), limits=Limits(max_tokens=9_000), sandbox_factory=FakeSandboxes(long))
    )
    assert (answered.answer, answered.stop_reason) == ("x", "max_tokens")
    assert received[1] < received[0] + 3_000


@pytest.mark.anyio
async def test_a_last_turn_too_long_for_the_model_is_retried_from_the_same_reserve() -> None:
    def root(messages: Sequence[Message]) -> str:
        if sum(len(message.content) for message in messages[1:]) > 9_000:
            raise ContextTooLong("its window is smaller")
        return "FINAL(x)" if "have to stop" in messages[-1].content else "```repl\nlook\n```"

    async def long(code: str, answer: Answer | None) -> CellResult:
        return CellResult(outcome="ok", stdout="x" * 10_000)

    answered = await run(
        services(ScriptedModel(root), limits=Limits(max_lm_calls=2), sandbox_factory=FakeSandboxes(long))
    )
    assert (answered.answer, answered.stop_reason) == ("x", "max_lm_calls")


CONTENTS = st.lists(st.tuples(st.text(max_size=300), st.text(max_size=300)), max_size=8)


@given(CONTENTS, st.integers(1, 500))
def test_a_shorter_conversation_keeps_its_form_its_newest_exchange_and_all_its_history(
    exchanges: list[tuple[str, str]], keep_chars: int
) -> None:
    transcript = Transcript.begin("system", "question")
    for reply, text in exchanges:
        transcript = transcript.reply(reply).add_message(text)
    shorter = transcript.compact("NOTE", keep_chars=keep_chars)
    assert shorter.history == transcript.history
    assert shorter.messages[1].content == "question\n\nNOTE"
    assert [message.role for message in shorter.messages] == [
        message.role for message in transcript.messages[: len(shorter.messages)]
    ]
    assert len(shorter.messages) >= min(4, len(transcript.messages))
    older = transcript.older(keep_chars)
    assert len(older.messages) + len(shorter.messages) == len(transcript.messages) + 2
    assert older.messages == transcript.messages[: len(older.messages)]


def test_an_unknown_window_is_never_short_and_small_ones_show_less_output() -> None:
    transcript = Transcript.begin("s", "q").reply("x" * 10**6).add_message("y" * 10**6)
    assert not ContextWindow(window=None).after(replied(Usage(input_tokens=10**6)), transcript).nearly_full(transcript)
    assert ContextWindow(window=10**5).after(replied(Usage(input_tokens=10**5)), transcript).nearly_full(transcript)
    assert limits_for_window(Limits(), None) == limits_for_window(Limits(), 400_000) == Limits()
    assert limits_for_window(Limits(), 4000).max_output_chars == 2000


def replied(usage: Usage, text: str = "a reply", thinking: str = "") -> ModelReply:
    return ModelReply(text=text, usage=usage, model="m", thinking=thinking)


def test_thinking_does_not_fill_the_window_even_if_the_server_does_not_count_it_apart() -> None:
    start = Transcript.begin("s", "q")
    usage = Usage(input_tokens=5, output_tokens=4_000)
    assert ContextWindow(window=None).after(replied(usage, thinking="hmm"), start).filled == 8
    assert ContextWindow(window=None).after(replied(usage, text="", thinking="hmm"), start).filled == 5


def test_reasoning_does_not_fill_the_window() -> None:
    usage = Usage(input_tokens=5, output_tokens=4, reasoning_tokens=3)
    assert ContextWindow(window=9).after(replied(usage), Transcript.begin("s", "q")).filled == 6


def test_a_reply_without_usage_fills_the_window_as_estimated() -> None:
    transcript = Transcript.begin("s", "q").reply("x" * 3_000)
    assert ContextWindow(window=1_000).after(replied(Usage()), transcript).filled > 1_000
    assert ContextWindow(window=None).after_overflow(transcript, None).section_chars(transcript) > 0
