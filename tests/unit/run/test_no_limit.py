"""None removes a limit: each one alone, and all together."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from helpers.fakes import memory_journal
from rlm import Limits, Message, Orchestrator, ScriptedModel
from rlm.calls.accounting import Accounting
from rlm.calls.gateway import Calls
from rlm.cli.commands import run as command
from rlm.cli.settings import load_settings
from rlm.events import Event, TurnStarted
from rlm.loop.compaction import limits_for_window
from rlm.loop.observation import describe
from rlm.models.openai import OpenAIModel
from rlm.prompts import PromptContext, default_system_prompt, first_message, turn_line
from rlm.sandbox.base import Answer
from rlm.sandbox.session import MAX_CELL_SECONDS
from rlm.sandbox.slots import LevelSlots
from rlm.store.event_log import EventLog
from rlm.store.replay import Replay
from rlm.testing import FakeSandbox, FakeSandboxes
from rlm.types import CellResult, ModelReply

pytestmark = pytest.mark.anyio

NAMES = [field.name for field in fields(Limits)]
NONE = Limits(**dict.fromkeys(NAMES))


@pytest.mark.parametrize("limits", [*(Limits(**{name: None}) for name in NAMES), NONE], ids=[*NAMES, "all"])
async def test_a_run_without_a_limit_ends_with_its_answer(tmp_path: Path, limits: Limits) -> None:
    received: list[str] = []

    def root(messages: Sequence[Message]) -> str:
        received.append(messages[-1].content)
        return "```repl\nlook\n```" if len(messages) == 2 else "FINAL(found)"

    model = ScriptedModel(root)
    done = await Orchestrator(
        model=model, depth=2, limits=limits, sandbox_factory=FakeSandboxes(), run_root=tmp_path
    ).acompletion("text", "q")
    assert (done.answer, done.stop_reason) == ("found", "final")
    assert "None" not in "".join(received)
    again = Orchestrator(model=model, sandbox_factory=FakeSandboxes(), run_root=tmp_path)
    assert (await again.areplay(done.run_dir)).answer == "found"  # from a record that says so


async def test_turns_without_limit_continue_and_name_no_number(tmp_path: Path) -> None:
    received: list[str] = []
    seen: list[Event] = []

    def root(messages: Sequence[Message]) -> str:
        received.append(messages[-1].content)
        return f"```repl\nlook {len(received)}\n```" if len(received) < 50 else "FINAL(found)"

    done = await Orchestrator(
        model=ScriptedModel(root),
        limits=Limits(max_iterations=None),
        sandbox_factory=FakeSandboxes(),
        run_root=tmp_path,
        on_event=seen.append,
    ).acompletion("text", "q")
    assert done.iterations == 50
    assert received[0].endswith("\n\nThis is turn 1.")
    assert received[-1].endswith("\n\nThis is turn 50.")
    assert [event.label for event in seen if isinstance(event, TurnStarted)][-1] == "turn 50"


def test_a_prompt_lists_the_limits_that_are_set() -> None:
    def prompt(limits: Limits) -> str:
        return default_system_prompt(
            PromptContext(model="m", sub_model="s", models=("m",), level=0, depth=1, limits=limits)
        )

    assert "Limits:" not in prompt(NONE)
    assert prompt(NONE).endswith("or a description of it.")
    assert "Long output is cut in the middle." in prompt(NONE)
    assert prompt(replace(NONE, cell_seconds=5.0)).endswith(
        "\n\nLimits: 5 seconds a cell (waiting for models not counted)."
    )
    assert first_message(query="q", context_type="str", context_size=1, turns=None).endswith("This is turn 1.")
    assert turn_line(9, None) == "This is turn 9."


async def test_without_a_limit_every_request_gets_a_sandbox() -> None:
    slots = LevelSlots(slots=None, levels=3)
    async with anyio.create_task_group() as group:

        async def hold(level: int) -> None:
            async with slots.hold(level):
                await anyio.sleep_forever()

        for number in range(300):
            group.start_soon(hold, number % 3)
        await anyio.wait_all_tasks_blocked()
        assert slots.in_use == 300
        group.cancel_scope.cancel()
    assert slots.in_use == 0


async def test_requests_without_limit_are_all_sent_at_once() -> None:
    at_once = 0
    all_sent = anyio.Event()

    class Slow(ScriptedModel):
        async def complete(self, messages: Sequence[Message], *, max_tokens: int | None = None) -> ModelReply:
            nonlocal at_once
            at_once += 1
            if at_once == 300:
                all_sent.set()
            await anyio.sleep_forever()
            raise AssertionError

    events = EventLog("run", io.StringIO(), [])
    calls = Calls(accounting=Accounting(NONE), replay=Replay(memory_journal()), max_concurrent=None, events=events)
    asked = [Message(role="user", content="?")]
    async with anyio.create_task_group() as group:
        for number in range(300):
            group.start_soon(
                lambda node: calls.complete(Slow([]), asked, node=node, ordinal=1, role="sub"), f"0.{number}"
            )
        with anyio.fail_after(10):
            await all_sent.wait()
        assert at_once == 300
        group.cancel_scope.cancel()


async def test_a_cell_without_limit_has_all_the_time_that_a_clock_can_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float | None] = []
    run = FakeSandbox.run

    async def timed(sandbox: FakeSandbox, code: str, *, seconds: float | None = None, **rest: Any) -> CellResult:
        given.append(seconds)
        return await run(sandbox, code, **rest)

    monkeypatch.setattr(FakeSandbox, "run", timed)
    await Orchestrator(
        model=ScriptedModel(["```repl\nFINAL: 1\n```"]),
        limits=Limits(cell_seconds=None),
        sandbox_factory=FakeSandboxes(),
        run_root=tmp_path,
    ).acompletion("text", "q")
    assert given == [MAX_CELL_SECONDS]


def test_output_without_limit_is_shown_whole_unless_the_models_window_is_small() -> None:
    result = CellResult(outcome="ok", stdout="x" * 100_000)
    assert "x" * 100_000 in describe(result, limit=None)
    assert limits_for_window(NONE, None) == NONE
    assert limits_for_window(NONE, 4_000).max_output_chars == 2_000


async def test_a_long_output_without_limit_reaches_the_model(tmp_path: Path) -> None:
    async def prints(code: str, answer: Answer | None) -> CellResult:
        return CellResult(outcome="ok", stdout="x" * 100_000)

    def root(messages: Sequence[Message]) -> str:
        return "```repl\nprint\n```" if len(messages) == 2 else f"FINAL({messages[-1].content.count('x')})"

    done = await Orchestrator(
        model=ScriptedModel(root),
        limits=Limits(max_output_chars=None),
        sandbox_factory=FakeSandboxes(prints),
        run_root=tmp_path,
    ).acompletion("text", "q")
    assert int(done.answer) >= 100_000


def test_a_context_without_limit_is_read_from_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = SimpleNamespace(buffer=io.BytesIO(b"x" * 100_000), isatty=lambda: False)
    monkeypatch.setattr("sys.stdin", pipe)
    assert command.read_context("-", max_bytes=None) == "x" * 100_000


def test_a_model_without_limit_on_its_requests_can_be_made() -> None:
    assert OpenAIModel("m", base_url="http://127.0.0.1:1/v1", max_concurrency=None).name == "m"


def test_each_limit_flag_accepts_none() -> None:
    assert load_settings(limits=dict.fromkeys(NAMES, "none")).limits == NONE
