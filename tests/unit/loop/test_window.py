"""A server that refuses a conversation that has grown: it is compacted, whatever the words, and the window is kept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.fakes import services
from rlm import Orchestrator
from rlm.config import Limits
from rlm.errors import ContextTooLong, ModelError
from rlm.events import Compacted, Event, ModelFailed, RLMStarted
from rlm.loop.rlm import rlm_loop
from rlm.loop.task import RLMResult, RLMTask
from rlm.loop.transcript import Transcript
from rlm.models.base import Model
from rlm.models.scripted import ScriptedModel
from rlm.prompts import NO_SUMMARY, SUMMARIZE
from rlm.sandbox.base import Answer, SandboxQuery
from rlm.sandbox.values import encode
from rlm.testing import FakeSandboxes
from rlm.types import CellResult, Message, ModelReply, Usage

TURNS = 40
WINDOW = 4_096


class Server(Model):
    """A server with a hard window, like llama.cpp: it refuses a request that does not fit, and counts four characters
    per token. `refusal` makes the error. The model reads one value per turn, and adds them up in its replies."""

    def __init__(self, *, window: int = WINDOW, refusal: str = "known", turns: int = TURNS, name: str = "root") -> None:
        self.name = name
        self.hard_window = window
        self.refusal = refusal
        self.turns = turns
        self.requests: list[int] = []

    async def complete(self, messages: Sequence[Message], *, max_tokens: int | None = None) -> ModelReply:
        tokens = sum(4 + -(-len(message.content) // 4) for message in messages)
        self.requests.append(tokens)
        if tokens >= self.hard_window:
            raise self.error(tokens)
        text = self.reply(messages)
        usage = Usage(calls=1, input_tokens=tokens, output_tokens=-(-len(text) // 4), cost_usd=0.0)
        return ModelReply(text=text, usage=usage, model=self.name)

    def error(self, tokens: int) -> ModelError:
        match self.refusal:
            case "stated":
                words = f"the request ({tokens} tokens) exceeds the available context size ({self.hard_window} tokens)"
                return ContextTooLong(words, status=400, window=self.hard_window)
            case "known":
                return ContextTooLong("the request exceeds the available context size", status=400)
            case "500":
                return ModelError("The model server answered 500: input is too large to process", status=500)
            case status:
                return ModelError("Bad request. Ask your administrator.", status=int(status))

    def reply(self, messages: Sequence[Message]) -> str:
        conversation = " ".join(message.content for message in messages)
        sums = [(int(turn), int(total)) for turn, total in re.findall(r"after (\d+) values: (\d+)", conversation)]
        turn, total = max(sums, default=(0, 0))
        if latest := re.findall(r"value = (\d+)", messages[-1].content):
            turn, total = turn + 1, total + int(latest[-1])
        if messages[-1].content.endswith(SUMMARIZE):
            return f"after {turn} values: {total}"
        if turn == self.turns or "have to stop" in messages[-1].content:
            return f"FINAL({total})"
        return f"after {turn} values: {total}\n```repl\nread({turn + 1})\n```"


async def cell(code: str, answer: Answer | None) -> CellResult:
    if not code.startswith("read("):
        return CellResult(outcome="ok", stdout="nothing")
    return CellResult(outcome="ok", stdout=f"value = {int(code[5:-1])}\n" + "words " * 150)


async def run(server: Server, seen: list[Event], **limits: int) -> RLMResult:
    shared = services(
        server, limits=Limits(max_iterations=2 * TURNS, **limits), sandbox_factory=FakeSandboxes(cell), seen=seen
    )
    task = RLMTask(node="0", level=0, depth=0, context=encode("text"), query="the sum?", model=server)
    return await rlm_loop(task, shared)


@pytest.mark.anyio
@pytest.mark.parametrize("refusal", ["stated", "known", "400", "413", "422", "500"])
@pytest.mark.parametrize("window", [1_800, 2_500, 4_096, 9_000])
async def test_no_refusal_loses_what_was_read(refusal: str, window: int) -> None:
    seen: list[Event] = []
    server = Server(refusal=refusal, window=window)
    answered = await run(server, seen)
    assert answered == RLMResult(answer=str(sum(range(1, TURNS + 1))), stop_reason="final", iterations=TURNS + 1)
    summaries = [event.summary for event in seen if isinstance(event, Compacted)]
    assert summaries
    assert NO_SUMMARY not in summaries


@pytest.mark.anyio
@pytest.mark.parametrize("refusal", ["stated", "known"])
async def test_a_window_is_learned_from_one_refusal(refusal: str) -> None:
    server = Server(refusal=refusal)
    await run(server, [])
    assert sum(tokens >= WINDOW for tokens in server.requests) == 1


@pytest.mark.anyio
async def test_the_window_that_the_server_states_counts_more_than_the_estimate() -> None:
    """The first output is far longer than all before it, so an estimate between them would be too small."""
    seen: list[Event] = []

    async def long(code: str, answer: Answer | None) -> CellResult:
        return CellResult(
            outcome="ok", stdout="value = 1\n" + "x" * 19_000 if code == "read(1)" else "value = 1\n" + "y" * 900
        )

    server = Server(refusal="stated", turns=12)
    shared = services(server, sandbox_factory=FakeSandboxes(long), seen=seen)
    task = RLMTask(node="0", level=0, depth=0, context=encode("text"), query="the sum?", model=server)
    assert (await rlm_loop(task, shared)).answer == "12"
    assert sum(isinstance(event, ModelFailed) for event in seen) == 1
    assert max(tokens for tokens in server.requests if tokens < WINDOW) > WINDOW // 2


@pytest.mark.anyio
@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 500, 503])
async def test_an_unknown_refusal_of_the_first_request_is_an_error(status: int) -> None:
    def root(messages: Sequence[Message]) -> str:
        asked.append(len(messages))
        raise ModelError("no", status=status)

    asked: list[int] = []
    shared = services(ScriptedModel(root))
    task = RLMTask(node="0", level=0, depth=0, context=encode("text"), query="why?", model=shared.model_at(0))
    with pytest.raises(ModelError, match="no"):
        await rlm_loop(task, shared)
    assert asked == [2]


@pytest.mark.anyio
@pytest.mark.parametrize(("status", "requests"), [(400, 4), (401, 2), (404, 2), (500, 2), (502, 2)])
async def test_a_refusal_for_another_reason_is_an_error_after_one_attempt(status: int, requests: int) -> None:
    asked: list[str] = []

    def root(messages: Sequence[Message]) -> str:
        asked.append(messages[-1].content)
        if len(asked) == 2 or (len(asked) > 2 and not messages[-1].content.endswith(SUMMARIZE)):
            raise ModelError("the parameter is unknown", status=status)
        return "what there was" if len(asked) > 2 else "```repl\nread(1)\n```"

    async def long(code: str, answer: Answer | None) -> CellResult:
        return CellResult(outcome="ok", stdout="x" * 9_000)

    shared = services(ScriptedModel(root), sandbox_factory=FakeSandboxes(long))
    task = RLMTask(node="0", level=0, depth=0, context=encode("text"), query="why?", model=shared.model_at(0))
    with pytest.raises(ModelError, match="the parameter is unknown"):
        await rlm_loop(task, shared)
    assert len(asked) == requests


@pytest.mark.anyio
async def test_a_last_turn_that_is_refused_in_unknown_words_is_retried_from_the_same_reserve() -> None:
    def root(messages: Sequence[Message]) -> str:
        if sum(len(message.content) for message in messages[1:]) > 9_000:
            raise ModelError("Bad request", status=400)
        return "FINAL(x)" if "have to stop" in messages[-1].content else "```repl\nlook\n```"

    async def long(code: str, answer: Answer | None) -> CellResult:
        return CellResult(outcome="ok", stdout="x" * 10_000)

    shared = services(ScriptedModel(root), limits=Limits(max_lm_calls=2), sandbox_factory=FakeSandboxes(long))
    task = RLMTask(node="0", level=0, depth=0, context=encode("text"), query="why?", model=shared.model_at(0))
    answered = await rlm_loop(task, shared)
    assert (answered.answer, answered.stop_reason) == ("x", "max_lm_calls")


@pytest.mark.anyio
@pytest.mark.parametrize("refusal", ["stated", "known", "400"])
async def test_refusals_are_replayed_and_resumed(tmp_path: Path, refusal: str) -> None:
    def orchestrator(server: Server) -> Orchestrator:
        return Orchestrator(model=server, depth=0, sandbox_factory=FakeSandboxes(cell), run_root=tmp_path)

    limits = Limits(max_iterations=25)
    done = await orchestrator(Server(refusal=refusal)).acompletion("text", "the sum?", limits=limits)
    assert done.stop_reason == "max_iterations"
    replayed = await orchestrator(Server()).areplay(done.run_dir)
    assert (replayed.answer, replayed.usage, replayed.diverged) == (done.answer, done.usage, ())
    server = Server(refusal=refusal)
    async with orchestrator(server).session(resume=done.run_dir) as session:
        assert session.completions[0].diverged == ()
        assert server.requests == []


@pytest.mark.anyio
async def test_children_know_the_window_that_an_rlm_above_them_learned() -> None:
    """The root learns it in its second turn. Its first child learns for itself, its second one is told."""
    shown: list[str] = []

    class Both(Server):
        def reply(self, messages: Sequence[Message]) -> str:
            if "what is in it?" in messages[1].content:
                shown.append(messages[0].content)
                return "FINAL(blue)"
            return super().reply(messages)

    async def behaviour(code: str, answer: Answer | None) -> CellResult:
        if code in ("read(1)", "read(30)"):
            assert answer is not None
            query = SandboxQuery(
                call=1, batch=0, prompt="what is in it?", context=encode("part"), model=None, recurse=None
            )
            await answer(query)
        return await cell(code, answer)

    seen: list[Event] = []
    server = Both(refusal="stated")
    shared = services(
        server, limits=Limits(max_iterations=2 * TURNS), sandbox_factory=FakeSandboxes(behaviour), seen=seen
    )
    task = RLMTask(node="0", level=0, depth=2, context=encode("text"), query="the sum?", model=server)
    await rlm_loop(task, shared)
    assert [event.node for event in seen if isinstance(event, RLMStarted)] == ["0", "0.1", "0.2"]
    assert ["50,000 to 200,000" in prompt for prompt in shown] == [True, False]
    assert "about 2,000 to 8,000 characters" in shown[1]
    assert shared.windows == {}


@pytest.mark.anyio
async def test_what_children_know_is_the_same_in_a_replay(tmp_path: Path) -> None:
    class Both(Server):
        def reply(self, messages: Sequence[Message]) -> str:
            return "FINAL(blue)" if "what is in it?" in messages[1].content else super().reply(messages)

    async def behaviour(code: str, answer: Answer | None) -> CellResult:
        if code in ("read(1)", "read(30)") and answer is not None:
            query = SandboxQuery(
                call=1, batch=0, prompt="what is in it?", context=encode("part"), model=None, recurse=None
            )
            await answer(query)
        return await cell(code, answer)

    def orchestrator(server: Server) -> Orchestrator:
        return Orchestrator(model=server, depth=2, sandbox_factory=FakeSandboxes(behaviour), run_root=tmp_path)

    limits = Limits(max_iterations=2 * TURNS)
    done = await orchestrator(Both(refusal="stated")).acompletion("text", "the sum?", limits=limits)
    assert done.stop_reason == "final"
    replayed = await orchestrator(Both()).areplay(done.run_dir)
    assert (replayed.answer, replayed.usage, replayed.diverged) == (done.answer, done.usage, ())


@given(st.lists(st.text(max_size=400), max_size=9), st.integers(1, 2_000))
def test_clipped_exchanges_keep_their_order_and_have_about_the_size_asked_for(texts: list[str], chars: int) -> None:
    transcript = Transcript.begin("system", "question")
    for number, text in enumerate(texts):
        transcript = transcript.add_message(text) if number % 2 else transcript.reply(text)
    clipped = transcript.clipped(chars)
    assert [message.role for message in clipped.messages] == [message.role for message in transcript.messages]
    assert clipped.messages[:2] == transcript.messages[:2]
    assert clipped.history == transcript.history
    if transcript.exchanged_chars <= chars:
        assert clipped == transcript
    marks = 100 * (len(clipped.messages) - 2)  # what a cut says about itself
    assert clipped.exchanged_chars <= chars + marks


@pytest.mark.anyio
async def test_the_output_that_the_model_sees_follows_a_window_learned_meanwhile() -> None:
    received: list[str] = []

    class Watched(Server):
        def reply(self, messages: Sequence[Message]) -> str:
            received.append(messages[-1].content)
            return super().reply(messages)

    async def long(code: str, answer: Answer | None) -> CellResult:
        return CellResult(outcome="ok", stdout="value = 1\n" + "x" * 9_000)

    server = Watched(refusal="stated", turns=6)
    shared = services(server, sandbox_factory=FakeSandboxes(long))
    task = RLMTask(node="0", level=0, depth=0, context=encode("text"), query="the sum?", model=server)
    assert (await rlm_loop(task, shared)).answer == "6"
    assert "6,962 characters left out" in received[-1]  # of 9,010, an eighth of the window in tokens is shown


@pytest.mark.anyio
async def test_a_short_conversation_is_not_compacted_for_a_refusal_in_unknown_words() -> None:
    asked: list[str] = []

    def root(messages: Sequence[Message]) -> str:
        asked.append(messages[-1].content)
        if len(asked) == 6:
            raise ModelError("the parameter is unknown", status=400)
        return f"```repl\nread({len(asked)})\n```"

    async def short(code: str, answer: Answer | None) -> CellResult:
        return CellResult(outcome="ok", stdout=f"read {code}")

    shared = services(ScriptedModel(root), sandbox_factory=FakeSandboxes(short))
    task = RLMTask(node="0", level=0, depth=0, context=encode("text"), query="why?", model=shared.model_at(0))
    with pytest.raises(ModelError, match="the parameter is unknown"):
        await rlm_loop(task, shared)
    assert len(asked) == 6
