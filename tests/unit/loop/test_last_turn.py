"""A last turn has the time that is left. Without a reply, the answer is what the model said before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import anyio
import pytest

from helpers.fakes import services
from rlm import Limits, Orchestrator, ScriptedModel
from rlm.loop.control import RunControl
from rlm.loop.rlm import rlm_loop
from rlm.loop.task import RLMResult, RLMTask
from rlm.sandbox.base import Answer, SandboxQuery
from rlm.sandbox.values import encode
from rlm.testing import FakeSandboxes, echo_cell, run_virtually
from rlm.types import CellResult, Message, ModelReply

LAST = "have to stop"
LOOK = "```repl\nlook\n```"
ERRORS = Limits(max_consecutive_errors=2)
CALLS = Limits(max_lm_calls=3)


class Slow(ScriptedModel):
    """Plays its replies, then the last one again. It takes some seconds for its last turn."""

    def __init__(self, *replies: str, seconds: float = 1e6) -> None:
        super().__init__(self._next, name="slow")
        self.seconds = seconds
        self._script: Iterator[str] = iter(replies)
        self._latest = ""

    def _next(self, messages: Sequence[Message]) -> str:
        if LAST in messages[-1].content:
            return "FINAL(last)"
        self._latest = next(self._script, self._latest)
        return self._latest

    async def complete(self, messages: Sequence[Message], *, max_tokens: int | None = None) -> ModelReply:
        if LAST in messages[-1].content:
            await anyio.sleep(self.seconds)
        return await super().complete(messages, max_tokens=max_tokens)


def answered(model: ScriptedModel, *, limits: Limits = ERRORS, seconds: float = 300.0) -> tuple[RLMResult, float]:
    """The result, and the seconds that it took."""
    ended: list[tuple[RLMResult, float]] = []

    async def main() -> None:
        began = anyio.current_time()
        shared = services(model, limits=limits, seconds=seconds)
        task = RLMTask(node="0", level=0, depth=0, context=encode("text"), query="?", model=model)
        result = await rlm_loop(task, shared)
        ended.append((result, anyio.current_time() - began))

    run_virtually(main)
    return ended[0]


@pytest.mark.parametrize("limits", [Limits(max_iterations=1), ERRORS, CALLS], ids=["turns", "errors", "calls"])
def test_a_last_turn_has_all_the_time_that_is_left(limits: Limits) -> None:
    result, took = answered(Slow(LOOK, seconds=250.0), limits=limits)
    assert result.answer == "last"
    assert took == pytest.approx(250.0)


def test_a_last_turn_ends_with_the_time_of_the_run() -> None:
    result, took = answered(Slow(LOOK), limits=Limits(max_iterations=1))
    assert (result.answer, result.stop_reason) == ("", "max_iterations")
    assert took == pytest.approx(300.0)


def test_an_answer_asked_for_in_a_last_turn_shortens_it_to_the_reserve() -> None:
    async def main() -> None:
        control = RunControl(Limits(max_seconds=300.0))
        with control.question_clock(), control.last_turn():
            control.answer_now()
            await anyio.sleep_forever()
        assert control.seconds == pytest.approx(30.0)

    run_virtually(main)


@pytest.mark.parametrize(
    ("replies", "answer"),
    [
        (["The code is 4711."], "The code is 4711."),
        (["It may be 12.", "The code is 4711."], "The code is 4711."),
        (["The code is 4711.", "", ""], "The code is 4711."),
        (["FINAL(4711)\n\n" + LOOK], "4711"),
        (["I will look at the context first."], ""),
        (["The code is 4711.", "Let me look at it again."], ""),
        ([LOOK], ""),
        (["The first look:\n\n" + LOOK], ""),
        (["print(context)"], ""),
        (["FINAL(the answer)"], ""),
        (["FINAL(len(context))"], ""),
    ],
)
def test_without_a_last_reply_the_answer_is_what_the_latest_reply_said(replies: list[str], answer: str) -> None:
    result, _ = answered(Slow(*replies), limits=Limits(max_consecutive_errors=3))
    assert (result.answer, result.stop_reason) == (answer, "max_consecutive_errors")


@pytest.mark.anyio
async def test_a_session_does_not_answer_with_what_was_said_to_an_earlier_question(tmp_path: Path) -> None:
    model = ScriptedModel(["The first is 1.", "FINAL(1)", LOOK, LOOK, "", ""], name="m")
    orchestrator = Orchestrator(model=model, depth=0, sandbox_factory=FakeSandboxes(), run_root=tmp_path)
    async with orchestrator.session(limits=Limits(max_iterations=2)) as session:
        assert (await session.aask("one?", "text")).answer == "1"
        assert (await session.aask("two?")).answer == ""


@pytest.mark.anyio
@pytest.mark.parametrize("said", ["The code is 4711.", LOOK])
async def test_a_replay_has_the_same_answer(tmp_path: Path, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunControl, "last_turn", lambda self: anyio.move_on_after(0.1))
    model = Slow(said)
    orchestrator = Orchestrator(model=model, depth=0, sandbox_factory=FakeSandboxes(), run_root=tmp_path)
    done = await orchestrator.acompletion("text", "?", limits=ERRORS)
    assert done.answer == ("" if said == LOOK else said)
    model.seconds = 0.0
    replayed = await orchestrator.areplay(done.run_dir)
    assert (replayed.answer, replayed.stop_reason, replayed.usage) == (done.answer, done.stop_reason, done.usage)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("said", "start"), [("It is blue.", "True It is blue."), (LOOK, "False This call was not made")]
)
async def test_a_child_that_was_refused_its_last_turn_answers_with_what_it_said(said: str, start: str) -> None:
    replies: list[str] = []

    async def behaviour(code: str, answer: Answer | None) -> CellResult:
        if code != "ask":
            return await echo_cell(code, answer)
        assert answer is not None
        query = SandboxQuery(call=1, batch=0, prompt="what?", context=encode("part"), model=None, recurse=None)
        reply = await answer(query)
        replies.append(f"{reply.ok} {reply.text}")
        return CellResult(outcome="ok", answer="done")

    shared = services(
        ScriptedModel(["```repl\nask\n```"], name="root"),
        ScriptedModel(lambda messages: said, name="child"),
        sandbox_factory=FakeSandboxes(behaviour),
        limits=Limits(max_lm_calls=3),
    )
    task = RLMTask(node="0", level=0, depth=2, context=encode("x"), query="q", model=shared.model_at(0))
    await rlm_loop(task, shared)
    (reply,) = replies
    assert reply.startswith(start)
