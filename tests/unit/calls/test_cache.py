"""A cache is off by default. It serves a paid reply again to exactly the same request."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from rlm import Limits, ModelError, Orchestrator, ScriptedModel
from rlm.events import Compacted, Event, ModelFailed, ModelReplied
from rlm.prompts import SUMMARIZE
from rlm.sandbox.base import Answer, SandboxQuery
from rlm.testing import FakeSandboxes
from rlm.types import CellResult, Message, ModelReply, Usage

pytestmark = pytest.mark.anyio


class Counting(ScriptedModel):
    """Answers with the number of its calls; `temperature` is a parameter of each request."""

    def __init__(self, *, finish_reason: str = "stop", temperature: float = 0.0) -> None:
        super().__init__(self._next, name="counting")
        self.parameters = {"temperature": temperature}
        self.calls = 0
        self._finish_reason = finish_reason

    def _next(self, messages: Sequence[Message]) -> ModelReply:
        self.calls += 1
        usage = Usage(calls=1, input_tokens=5, cost_usd=0.5)
        text = f"FINAL({self.calls} \ud800)"
        return ModelReply(text=text, usage=usage, model="counting", finish_reason=self._finish_reason)


def orchestrator(model: ScriptedModel, folder: Path, **options) -> Orchestrator:
    return Orchestrator(model=model, sandbox_factory=FakeSandboxes(), run_root=folder / "runs", **options)


async def test_a_request_that_another_run_has_made_is_not_paid_again(tmp_path: Path) -> None:
    model = Counting()
    shared = orchestrator(model, tmp_path, cache=tmp_path / "cache.sqlite")
    first = await shared.acompletion("text", "q")
    second = await shared.acompletion("text", "q")
    assert (first.answer, second.answer, model.calls) == ("1 \ud800", "1 \ud800", 1)
    assert (first.cost, second.cost, second.usage) == (0.5, 0.0, Usage())
    assert (await shared.acompletion("text", "another")).answer == "2 \ud800"
    assert (await shared.areplay(second.run_id)).answer == second.answer


async def test_cached_replies_fill_the_window_so_that_the_conversation_is_shortened_and_keeps_its_summary(
    tmp_path: Path,
) -> None:
    def plays(messages: Sequence[Message]) -> str:
        if messages[-1].content.endswith(SUMMARIZE):
            return "the key fact"
        turn = re.search(r"This is turn (\d+) of", messages[-1].content)
        return f"```repl\n{'x' * 2_000}\n```" if turn is None or int(turn[1]) < 10 else "FINAL(done)"

    seen: list[Event] = []
    model = ScriptedModel(plays, context_window=4_000)
    shared = orchestrator(model, tmp_path, cache=tmp_path / "cache.sqlite", on_event=seen.append)
    for _ in range(3):
        seen.clear()
        done = await shared.acompletion("text", "q")
        assert done.answer == "done"
        summaries = [event.summary for event in seen if isinstance(event, Compacted)]
        assert summaries
        assert all("the key fact" in summary for summary in summaries)
        assert not any(isinstance(event, ModelFailed) for event in seen)
        assert (await shared.areplay(done.run_id)).answer == "done"


async def test_cached_calls_count_and_leave_the_last_turn_its_call(tmp_path: Path) -> None:
    async def asks(code: str, answer: Answer | None) -> CellResult:
        assert answer is not None
        for number in range(8):
            query = SandboxQuery(call=number, batch=0, prompt=str(number), context=None, model=None, recurse=False)
            await answer(query)
        return CellResult(outcome="ok")

    sent = 0

    def plays(messages: Sequence[Message]) -> str:
        nonlocal sent
        sent += 1
        if messages[0].role == "user":
            return "a plain answer"
        if "have to stop" in messages[-1].content:
            return "FINAL(so far)"
        return "```repl\nask\n```" if len(messages) == 2 else "FINAL(all)"

    shared = Orchestrator(
        model=ScriptedModel(plays),
        sandbox_factory=FakeSandboxes(asks),
        run_root=tmp_path,
        cache=tmp_path / "cache.sqlite",
    )
    assert (await shared.acompletion("text", "q")).answer == "all"
    assert sent == 1 + 8 + 1
    limited = await shared.acompletion("text", "q", limits=Limits(max_lm_calls=5))
    assert (limited.answer, limited.stop_reason) == ("so far", "max_lm_calls")
    assert (sent, limited.usage.calls, limited.unaccounted_calls) == (10 + 2, 2, 0)
    replayed = await shared.areplay(limited.run_id)
    assert (replayed.answer, replayed.usage) == (limited.answer, limited.usage)


async def test_without_a_cache_every_run_pays(tmp_path: Path) -> None:
    model = Counting()
    for _ in range(2):
        await orchestrator(model, tmp_path).acompletion("text", "q")
    assert model.calls == 2


async def test_other_parameters_are_another_request(tmp_path: Path) -> None:
    models = Counting(temperature=0.0), Counting(temperature=1.0)
    for model in models:
        await orchestrator(model, tmp_path, cache=tmp_path / "cache.sqlite").acompletion("text", "q")
    assert [model.calls for model in models] == [1, 1]


async def test_replies_that_were_cut_off_and_failures_are_not_kept(tmp_path: Path) -> None:
    def fails(messages: Sequence[Message]) -> str:
        raise ModelError("away")

    options = {"cache": tmp_path / "cache.sqlite", "limits": Limits(max_iterations=1)}
    for _ in range(2):
        with pytest.raises(ModelError):
            await orchestrator(ScriptedModel(fails, name="counting"), tmp_path, **options).acompletion("text", "q")
    model = Counting(finish_reason="length")
    for _ in range(2):
        await orchestrator(model, tmp_path, **options).acompletion("text", "q")
    assert model.calls == 2


async def test_a_cached_reply_keeps_its_thinking(tmp_path: Path) -> None:
    model = ScriptedModel(["<think>\nperhaps 7\n</think>\nFINAL(8)"])
    seen: list[Event] = []
    shared = orchestrator(model, tmp_path, cache=tmp_path / "cache.sqlite", on_event=seen.append)
    assert [(await shared.acompletion("text", "q")).answer for _ in range(2)] == ["8", "8"]
    replies = [event for event in seen if isinstance(event, ModelReplied)]
    assert [(reply.replayed, reply.thinking, reply.text) for reply in replies] == [
        (False, "perhaps 7", "FINAL(8)"),
        (True, "perhaps 7", "FINAL(8)"),
    ]
