"""Cut-off, released or shared calls stay so in a resumed run and in a replay."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from helpers.journals import crash, states
from rlm import Limits, Orchestrator, ScriptedModel
from rlm.errors import ContextTooLong
from rlm.events import Event, ModelFailed
from rlm.loop.control import RunControl
from rlm.sandbox.base import Answer, SandboxQuery
from rlm.testing import FakeSandboxes, echo_cell
from rlm.types import CellResult, Message, ModelReply

pytestmark = pytest.mark.anyio

LAST = "have to stop"  # in the request for the last turn
LOOK = "```repl\nlook\n```"


@pytest.fixture(autouse=True)
def _short_last_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunControl, "last_turn", lambda self: anyio.move_on_after(0.5))


class Root(ScriptedModel):
    """Answers in its last turn, after some seconds; `paid` counts its calls."""

    def __init__(self, last: str, *, seconds: float = 0.0) -> None:
        super().__init__(lambda messages: last if LAST in messages[-1].content else LOOK, name="root")
        self.seconds = seconds
        self.paid = 0

    async def complete(self, messages: Sequence[Message], *, max_tokens: int | None = None) -> ModelReply:
        self.paid += 1
        if LAST in messages[-1].content:
            await anyio.sleep(self.seconds)
        return await super().complete(messages, max_tokens=max_tokens)


def orchestrator(root: ScriptedModel, folder: Path, **options: Any) -> Orchestrator:
    given = {"sandbox_factory": FakeSandboxes(), "run_root": folder / "runs", "sub_model": root}
    return Orchestrator(model=root, **{**given, **options})


async def test_a_question_whose_last_turn_was_cut_off_keeps_its_answer_in_a_resumed_session(tmp_path: Path) -> None:
    root = Root("FINAL(another answer)", seconds=60.0)
    rlm = orchestrator(root, tmp_path, limits=Limits(max_iterations=1))
    async with rlm.session() as session:
        first = await session.aask("why?", "text")
        assert session.directory is not None
        shutil.copytree(session.directory, tmp_path / "killed between questions")
    paid, root.seconds = root.paid, 0.0
    async with rlm.session(resume=tmp_path / "killed between questions") as resumed:
        assert [done.answer for done in resumed.completions] == [first.answer] == [""]
    assert root.paid == paid


async def test_a_replay_repeats_a_last_turn_that_was_cut_off_after_its_reply(tmp_path: Path) -> None:
    async def slow(code: str, answer: Answer | None) -> CellResult:
        if code != "look":
            await anyio.sleep(seconds)
        return await echo_cell(code, answer)

    seconds = 60.0
    root = Root("```repl\nFINAL: late\n```")
    rlm = orchestrator(root, tmp_path, sandbox_factory=FakeSandboxes(slow), limits=Limits(max_iterations=1))
    whole = await rlm.acompletion("text", "why?")
    assert (whole.answer, whole.usage.calls) == ("", 2)
    seconds = 0.0
    replayed = await rlm.areplay(whole.run_dir)
    assert (replayed.answer, replayed.usage) == (whole.answer, whole.usage)


async def test_the_call_that_a_last_turn_got_back_is_there_in_a_resumed_run_too(tmp_path: Path) -> None:
    def short(messages: Sequence[Message]) -> str:
        if sum(len(message.content) for message in messages[1:]) > 9_000:
            raise ContextTooLong("its window is smaller")
        return "FINAL(x)" if LAST in messages[-1].content else LOOK

    async def long(code: str, answer: Answer | None) -> CellResult:
        return CellResult(outcome="ok", stdout="x" * 10_000)

    killed = tmp_path / "copy" / "run"

    def kill(event: Event) -> None:
        if isinstance(event, ModelFailed) and not killed.exists():
            (run,) = (tmp_path / "runs").iterdir()
            crash(run, killed)

    root = ScriptedModel(short, name="root")
    rlm = orchestrator(
        root, tmp_path, sandbox_factory=FakeSandboxes(long), limits=Limits(max_lm_calls=2), on_event=kill
    )
    assert (await rlm.acompletion("text", "why?")).answer == "x"
    assert states(killed) == ["answered", "refused", "failed"]
    assert (await rlm.aresume(killed)).answer == "x"


async def test_answer_now_does_not_replace_a_recorded_answer(tmp_path: Path) -> None:
    def reply(messages: Sequence[Message]) -> str:
        return "FINAL(cut)" if LAST in messages[-1].content else "FINAL(whole)"

    rlm = orchestrator(ScriptedModel(reply, name="root"), tmp_path)
    async with rlm.session() as session:
        await session.aask("one?", "text")
        await session.aask("two?")
        assert session.directory is not None
        shutil.copytree(session.directory, tmp_path / "killed between questions")
    async with rlm.start_resume(tmp_path / "killed between questions") as run:
        run.answer_now()
        done = await run
    assert (done.answer, done.usage.calls) == ("whole", 1)


async def test_cached_replies_are_reported_by_node_and_model_as_in_a_replay(tmp_path: Path) -> None:
    def reply(messages: Sequence[Message]) -> str:
        return "reply" if messages[0].role == "user" else "FINAL(x)" if len(messages) > 3 else LOOK

    async def asks(code: str, answer: Answer | None) -> CellResult:
        assert answer is not None
        await answer(SandboxQuery(call=1, batch=0, prompt="p", context=None, model=None, recurse=False))
        return await echo_cell(code, answer)

    root = ScriptedModel(reply, name="root")
    rlm = orchestrator(root, tmp_path, sandbox_factory=FakeSandboxes(asks), cache=tmp_path / "cache")
    await rlm.acompletion("text", "why?")
    again = await rlm.acompletion("text", "why?")
    assert again.usage.calls == 0
    assert (set(again.by_node), set(again.by_model)) == ({"0", "0.1"}, {"root"})
    assert again.by_node == (await rlm.areplay(again.run_dir)).by_node
