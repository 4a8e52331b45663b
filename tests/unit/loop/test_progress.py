"""A model that does not get on is told what to do next, and is stopped if it still does not."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from helpers.fakes import services
from rlm import Orchestrator
from rlm.config import Limits
from rlm.loop.rlm import rlm_loop
from rlm.loop.task import RLMResult, RLMTask
from rlm.models.scripted import ScriptedModel
from rlm.prompts import next_step
from rlm.sandbox.base import Answer
from rlm.sandbox.values import encode
from rlm.testing import FakeSandboxes, echo_cell
from rlm.testing.fake_sandbox import RunCell
from rlm.types import CellResult, Message, ModelReply, Usage

pytestmark = pytest.mark.anyio


def cell(code: str) -> str:
    return f"```repl\n{code}\n```"


async def run(
    *replies: str,
    context: Any = "the text",
    cells: RunCell = echo_cell,
    limits: Limits | None = None,
) -> tuple[RLMResult, list[str]]:
    """The result of a model that plays these replies in order, and the latest message of each request."""
    received: list[str] = []
    numbers = count()

    def root(messages: Sequence[Message]) -> str:
        received.append(messages[-1].content)
        return replies[min(next(numbers), len(replies) - 1)]

    shared = services(ScriptedModel(root), limits=limits, sandbox_factory=FakeSandboxes(cells))
    task = RLMTask(
        node="0", level=0, depth=0, context=encode(context), query="Who found gold?", model=shared.model_at(0)
    )
    return await rlm_loop(task, shared), received


async def test_the_same_code_with_the_same_output_counts_as_an_error() -> None:
    answered, received = await run(cell("look"), limits=Limits(max_consecutive_errors=4))
    assert (answered.stop_reason, answered.iterations) == ("max_consecutive_errors", 5)
    assert "the same as in your previous turn" not in received[1]
    assert all("the same as in your previous turn" in message for message in received[2:5])


async def test_a_model_that_repeats_itself_is_shown_other_code() -> None:
    step = next_step("Who found gold?", "str")
    _, received = await run(cell("look"), cell("look"), cell(step), cell(step), "FINAL(Ada)")
    assert step in received[2]
    assert "the same as" not in received[3]
    told = received[4].partition("The same as in your previous turn".lower())[2]
    assert told
    assert step not in told


async def test_different_output_is_progress() -> None:
    numbers = count()

    async def counts(code: str, answer: Answer | None) -> CellResult:
        return CellResult(outcome="ok", stdout=f"{next(numbers)}\n")

    answered, received = await run(
        *[cell("step()")] * 20, "FINAL(done)", cells=counts, limits=Limits(max_consecutive_errors=3)
    )
    assert (answered.answer, answered.iterations) == ("done", 21)
    assert not any("the same as" in message for message in received)


async def test_cells_that_print_nothing_may_repeat() -> None:
    async def silent(code: str, answer: Answer | None) -> CellResult:
        return CellResult(outcome="ok")

    answered, _ = await run(
        *[cell("step()")] * 20, "FINAL(done)", cells=silent, limits=Limits(max_consecutive_errors=3)
    )
    assert (answered.answer, answered.iterations) == ("done", 21)


async def test_other_code_ends_a_row_of_repetitions() -> None:
    rows = [cell("a"), cell("a"), cell("a"), cell("b")] * 5
    answered, _ = await run(*rows, "FINAL(done)", limits=Limits(max_consecutive_errors=3))
    assert (answered.answer, answered.iterations) == ("done", 21)


async def test_a_reply_without_code_is_answered_with_a_step_that_runs() -> None:
    _, received = await run("I think I should look.", "FINAL(Ada)")
    assert received[1].startswith("Your reply held nothing that runs, and no final answer.\n\n")
    assert cell(next_step("Who found gold?", "str")) in received[1]


async def may_answer(*replies: str, context: Any = "the text", cells: RunCell = echo_cell, turns: int = 9) -> bool:
    """Whether the message after the last of these replies allows an answer."""
    limits = Limits(max_iterations=turns)
    _, received = await run(*replies, "FINAL(Ada)", context=context, cells=cells, limits=limits)
    told = received[len(replies)]
    assert ("Do not answer yet" in told) != ("If what you have seen holds the answer" in told)
    return "Do not answer yet" not in told


async def test_a_model_that_has_seen_nothing_is_not_asked_for_the_answer() -> None:
    async def silent(code: str, answer: Answer | None) -> CellResult:
        return CellResult(outcome="error", error="NameError: name 'x' is not defined")

    assert not await may_answer("It is Bob.")
    assert not await may_answer("It is Bob.", "It is Bob.")
    assert not await may_answer(cell("x"), "It is Bob.", cells=silent)


async def test_a_model_that_has_seen_something_is_asked_for_the_answer() -> None:
    assert await may_answer(cell("look"), "It is Ada.")
    assert await may_answer("It is Bob.", cell("look"), "It is Ada.")


@pytest.mark.parametrize(("replies", "context", "turns"), [(["Bob."], "", 9), (["Bob."], "the text", 2)])
async def test_no_look_is_asked_for_without_a_context_or_before_the_last_turn(
    replies: list[str], context: str, turns: int
) -> None:
    assert await may_answer(*replies, context=context, turns=turns)


async def test_a_plan_with_an_answer_may_be_given_again_at_once() -> None:
    assert await may_answer("1. Look at it.\n2. FINAL(the count) will follow.")


async def test_a_cut_off_block_is_not_called_a_missing_one() -> None:
    received: list[str] = []

    def root(messages: Sequence[Message]) -> ModelReply:
        received.append(messages[-1].content)
        cut = len(received) == 1
        text = "```repl\nprint(con" if cut else "FINAL(done)"
        return ModelReply(text=text, usage=Usage(calls=1), model="m", finish_reason="length" if cut else "stop")

    shared = services(ScriptedModel(root))
    task = RLMTask(node="0", level=0, depth=0, context=encode("x"), query="why?", model=shared.model_at(0))
    await rlm_loop(task, shared)
    assert received[1].startswith("Your reply was cut off at its token limit; a code block without an end was not run.")
    assert "held nothing that runs" not in received[1]


@pytest.mark.parametrize("reply", ["FINAL_VAR(context)", 'FINAL_VAR("context")'])
async def test_the_whole_context_as_the_answer_is_questioned_once(reply: str) -> None:
    async def gives(code: str, answer: Answer | None) -> CellResult:
        return (
            CellResult(outcome="ok", answer="all of it") if code.startswith("FINAL_VAR") else CellResult(outcome="ok")
        )

    answered, received = await run(reply, "FINAL(Ada)", context="x" * 20_000, cells=gives)
    assert answered == RLMResult(answer="Ada", stop_reason="final", iterations=2)
    assert received[1].startswith("FINAL_VAR(context) was not taken yet")
    answered, _ = await run(reply, context="x" * 20_000, cells=gives)
    assert answered == RLMResult(answer="all of it", stop_reason="final", iterations=2)
    answered, _ = await run(reply, context="short", cells=gives)
    assert answered == RLMResult(answer="all of it", stop_reason="final", iterations=1)


async def further(replies: list[str], context: Any, path: Path) -> tuple[list[str], list[str]]:
    """The answers to two questions, the first about a context of 8 characters, and the latest message of each request."""
    received: list[str] = []

    def root(messages: Sequence[Message]) -> str:
        received.append(messages[-1].content)
        return replies[len(received) - 1]

    async def gives(code: str, answer: Answer | None) -> CellResult:
        return CellResult(outcome="ok", stdout="seen\n", answer="all" if code.startswith("FINAL_VAR") else None)

    rlm = Orchestrator(model=ScriptedModel(root), depth=0, sandbox_factory=FakeSandboxes(gives), run_root=path)
    async with rlm.session() as session:
        answers = [(await session.aask("one?", "the text")).answer, (await session.aask("two?", context)).answer]
    return answers, received


async def test_a_further_context_as_the_answer_is_judged_by_its_own_size(tmp_path: Path) -> None:
    replies = ["FINAL_VAR(context)", "FINAL_VAR(context)", "FINAL(Ada)"]
    answers, received = await further(replies, "x" * 20_000, tmp_path)
    assert answers == ["all", "Ada"]
    assert received[2].startswith("FINAL_VAR(context) was not taken yet")


async def test_a_look_at_a_further_context_is_asked_for_again(tmp_path: Path) -> None:
    replies = [cell("look"), "FINAL(Ada)", "It is Bob.", "FINAL(Bob)"]
    _, received = await further(replies, "another text", tmp_path)
    assert "Do not answer yet" in received[3]


async def test_a_further_question_about_the_same_context_needs_no_further_look(tmp_path: Path) -> None:
    replies = [cell("look"), "FINAL(Ada)", "It is Bob.", "FINAL(Bob)"]
    _, received = await further(replies, None, tmp_path)
    assert "Do not answer yet" not in received[3]


async def test_an_answer_at_once_is_taken() -> None:
    answered, _ = await run("FINAL(Ada)", context="x" * 100_000)
    assert answered == RLMResult(answer="Ada", stop_reason="final", iterations=1)
