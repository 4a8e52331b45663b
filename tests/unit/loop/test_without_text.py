"""A reply of an RLM's own model without usable text is a turn: the model is told what was wrong, and the run continues."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from helpers.fakes import services
from rlm import Orchestrator
from rlm.config import Limits
from rlm.errors import EmptyReply, ModelError
from rlm.events import Compacted, Event, TurnStarted
from rlm.loop.rlm import rlm_loop
from rlm.loop.task import RLMResult, RLMTask
from rlm.models.scripted import ScriptedModel
from rlm.prompts import NO_SUMMARY, SUMMARIZE
from rlm.sandbox.base import Answer, SandboxQuery
from rlm.sandbox.values import encode
from rlm.testing import FakeSandboxes, echo_cell
from rlm.types import CellResult, Message, ModelReply, Usage

pytestmark = pytest.mark.anyio

COUNTED = Usage(calls=1, input_tokens=50, output_tokens=7)
Make = Callable[[], str | ModelReply]


def raises(reason: str, *, text: str = "", thinking: str = "", usage: Usage | None = COUNTED) -> Make:
    def make() -> str:
        raise EmptyReply("no text", finish_reason=reason, text=text, thinking=thinking, usage=usage)

    return make


def says(text: str, reason: str = "stop") -> Make:
    return lambda: ModelReply(text=text, usage=COUNTED, model="m", finish_reason=reason)


KINDS: dict[str, tuple[Make, str]] = {
    "null": (raises("stop"), "Your reply was empty."),
    "not counted": (raises("stop", usage=None), "Your reply was empty."),
    "blank": (says("\n\n"), "Your reply was empty."),
    "thinking in a field": (raises("stop", thinking="let me see"), "Your reply held only thinking"),
    "thinking in the text": (says("<think>let me see</think>\n"), "Your reply held only thinking"),
    "tool call": (raises("tool_calls"), "there are no tools here"),
    "tool call with arguments": (
        raises("tool_calls", text='<tool_call>{"name": "search"}</tool_call>'),
        "no tools here",
    ),
    "tool call in the text": (says('<tool_call>\n{"name": "search"}\n</tool_call>'), "there are no tools here"),
    "tool call of Mistral": (says('[TOOL_CALLS][{"name": "search"}]', "tool_calls"), "there are no tools here"),
    "refusal": (raises("refusal", text="I'm sorry, I can't."), "Your reply was a refusal."),
    "filter": (raises("content_filter"), "withheld by a content filter"),
    "cut off": (raises("length"), "Your reply was cut off at its token limit before it said anything."),
    "cut off, not counted": (raises("length", usage=None), "before it said anything."),
}
by_kind = pytest.mark.parametrize("kind", KINDS)


def cell(code: str) -> str:
    return f"```repl\n{code}\n```"


class Script:
    """Plays replies in order, whatever the conversation, and keeps the latest message of each request."""

    def __init__(self, *replies: str | Make) -> None:
        self.received: list[str] = []
        self._replies: Iterator[str | Make] = iter(replies)

    def __call__(self, messages: Sequence[Message]) -> str | ModelReply:
        self.received.append(messages[-1].content)
        reply = next(self._replies)
        return reply if isinstance(reply, str) else reply()


async def run(script: Script, *, limits: Limits | None = None, seen: list[Event] | None = None) -> RLMResult:
    shared = services(ScriptedModel(script), limits=limits, seen=seen)
    task = RLMTask(
        node="0", level=0, depth=0, context=encode("the text"), query="Who found gold?", model=shared.model_at(0)
    )
    return await rlm_loop(task, shared)


@by_kind
async def test_the_model_is_told_what_was_wrong_and_what_to_run(kind: str) -> None:
    make, sentence = KINDS[kind]
    script = Script(cell("look"), make, cell("FINAL: Ada"))
    assert await run(script) == RLMResult(answer="Ada", stop_reason="final", iterations=3)
    told = script.received[2]
    assert sentence in told
    assert '["found", "gold"]' in told
    assert told.endswith("This is turn 3 of 30.")


@by_kind
async def test_such_turns_count_as_errors(kind: str) -> None:
    make, _ = KINDS[kind]
    script = Script(make, make, make, "FINAL(done)")
    limits = Limits(max_consecutive_errors=3)
    assert await run(script, limits=limits) == RLMResult(
        answer="done", stop_reason="max_consecutive_errors", iterations=3
    )


@by_kind
async def test_the_last_turn_is_asked_for_once_more(kind: str) -> None:
    make, sentence = KINDS[kind]
    script = Script(cell("look"), make, "It was Ada.")
    answered = await run(script, limits=Limits(max_iterations=1))
    assert answered == RLMResult(answer="It was Ada.", stop_reason="max_iterations", iterations=1)
    assert sentence in script.received[2]
    assert "You have to stop" in script.received[2].rpartition(sentence)[2]


@by_kind
async def test_a_last_turn_that_stays_without_text_ends_the_run_and_raises_nothing(kind: str) -> None:
    make, _ = KINDS[kind]
    for limits in (Limits(max_iterations=1), Limits(max_lm_calls=2)):  # the second has no call left to ask again
        answered = await run(Script(cell("look"), make, make), limits=limits)
        assert answered.stop_reason != "final"
        assert answered.iterations <= 2


@by_kind
async def test_an_error_of_the_second_last_request_leaves_the_first_reply(kind: str) -> None:
    make, _ = KINDS[kind]

    def fails() -> str:
        raise ModelError("the provider is down")

    answered = await run(Script(cell("look"), make, fails), limits=Limits(max_iterations=1))
    assert (answered.stop_reason, answered.iterations) == ("max_iterations", 1)


@by_kind
async def test_a_summary_without_text_is_left_out_and_the_work_goes_on(kind: str) -> None:
    make, _ = KINDS[kind]
    seen: list[Event] = []

    def root(messages: Sequence[Message]) -> str | ModelReply:
        if messages[-1].content.endswith(SUMMARIZE):
            return make()
        turns = sum(isinstance(event, TurnStarted) for event in seen)
        return "FINAL(done)" if turns == 12 else cell(f"look {turns} " + "words " * 100)

    shared = services(ScriptedModel(root, context_window=2_500), seen=seen)
    task = RLMTask(node="0", level=0, depth=0, context=encode("x"), query="q", model=shared.model_at(0))
    assert (await rlm_loop(task, shared)).answer == "done"
    summaries = {event.summary for event in seen if isinstance(event, Compacted)}
    assert summaries == {NO_SUMMARY}


async def test_a_tool_call_that_holds_code_in_a_block_is_run() -> None:
    script = Script(raises("tool_calls", text=cell("FINAL: ran")))
    assert (await run(script)).answer == "ran"


async def test_thinking_is_neither_sent_again_nor_counted_in_the_window() -> None:
    received: list[Sequence[Message]] = []

    def root(messages: Sequence[Message]) -> str | ModelReply:
        received.append(messages)
        if len(received) == 8:
            return "FINAL(done)"
        text = f"<think>{'deep ' * 400}</think>{cell('look ' + str(len(received)))}"
        tokens = sum(len(message.content) for message in messages) // 4
        return ModelReply(text=text, usage=Usage(calls=1, input_tokens=tokens, output_tokens=600), model="m")

    seen: list[Event] = []
    shared = services(ScriptedModel(root, context_window=2_000), seen=seen)
    task = RLMTask(node="0", level=0, depth=0, context=encode("x"), query="q", model=shared.model_at(0))
    assert (await rlm_loop(task, shared)).answer == "done"
    assert not any("deep" in message.content for messages in received for message in messages)
    assert not any(isinstance(event, Compacted) for event in seen)


@by_kind
async def test_a_child_is_told_in_the_same_way(kind: str) -> None:
    make, sentence = KINDS[kind]
    child = Script(make, "FINAL(blue)")

    async def behaviour(code: str, answer: Answer | None) -> CellResult:
        if code != "ask":
            return await echo_cell(code, answer)
        assert answer is not None
        query = SandboxQuery(call=1, batch=0, prompt="what?", context=encode("part"), model=None, recurse=None)
        return CellResult(outcome="ok", answer=(await answer(query)).text)

    shared = services(
        ScriptedModel([cell("ask")], name="root"),
        ScriptedModel(child, name="child"),
        sandbox_factory=FakeSandboxes(behaviour),
    )
    task = RLMTask(node="0", level=0, depth=2, context=encode("x"), query="q", model=shared.model_at(0))
    assert (await rlm_loop(task, shared)).answer == "blue"
    assert sentence in child.received[1]


@by_kind
async def test_such_turns_are_replayed_without_the_model(tmp_path: Path, kind: str) -> None:
    make, _ = KINDS[kind]

    def orchestrator(*replies: str | Make) -> Orchestrator:
        model = ScriptedModel(Script(*replies), name="m")
        return Orchestrator(model=model, depth=0, sandbox_factory=FakeSandboxes(), run_root=tmp_path)

    limits = Limits(max_iterations=2)
    done = await orchestrator(make, cell("look"), make, "Ada").acompletion("text", "q", limits=limits)
    assert (done.answer, done.stop_reason) == ("Ada", "max_iterations")
    replayed = await orchestrator().areplay(done.run_dir)
    assert (replayed.answer, replayed.usage) == (done.answer, done.usage)
    async with orchestrator(make, "FINAL(more)").session(resume=done.run_dir) as session:
        assert session.completions[0].answer == "Ada"
        assert (await session.aask("And?")).answer == "more"
