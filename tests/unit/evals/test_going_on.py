"""An RLM run that was cut off anywhere is paid for once, and one of which nothing can be made costs no more than itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from fakes import FakeSandboxes
from rlm import ConfigError, ModelError, ScriptedModel
from rlm.evals.harness import run_jobs
from rlm.evals.machine import Cap
from rlm.evals.methods import Means
from rlm.evals.plan import Plan
from rlm.evals.results import ROWS, Results, Row
from rlm.types import Message

pytestmark = pytest.mark.anyio

PLAN = Plan(tasks=("ruler/single_1",), methods=("rlm:1",), lengths=(1024,), n=1)


class Root:
    """Looks twice, then answers; its call number `failing` fails."""

    def __init__(self, failing: int | None = None) -> None:
        self.calls = 0
        self._failing = failing

    def __call__(self, messages: Sequence[Message]) -> str:
        self.calls += 1
        if self.calls == self._failing:
            raise ModelError("the account is empty")
        turn = sum(message.role == "assistant" for message in messages)
        return "FINAL(4)" if turn == 2 else f"```repl\nlook {turn}\n```"


async def evaluated(folder: Path, root: Root) -> Row:
    model = ScriptedModel(root, name="root")
    results = Results.load(folder) if (folder / ROWS).exists() else Results.create(folder, PLAN.as_json())
    means = Means(models=lambda task: (model, model), sandboxes=FakeSandboxes())
    (row,) = await run_jobs(PLAN.jobs(), means=means, results=results, cap=Cap(1, folder / "places"))
    return row


async def test_a_run_that_broke_off_goes_on_and_pays_for_no_call_twice(tmp_path: Path) -> None:
    assert (await evaluated(tmp_path, Root(failing=3))).error == "ModelError: the account is empty"
    root = Root()
    row = await evaluated(tmp_path, root)
    assert (root.calls, row.answer, row.calls, row.resumed) == (1, "4", 3, True)


async def test_a_run_that_had_ended_before_its_row_was_written_is_not_paid_again(tmp_path: Path) -> None:
    row = await evaluated(tmp_path, Root())
    (tmp_path / ROWS).write_text("")
    root = Root()
    again = await evaluated(tmp_path, root)
    assert root.calls == 0
    assert again.resumed
    assert replace(again, seconds=0, resumed=False, settings={}) == replace(row, seconds=0, settings={})


@pytest.mark.parametrize("damage", ["{}", "no JSON"])
async def test_a_run_of_which_nothing_can_be_made_is_begun_anew(tmp_path: Path, damage: str) -> None:
    await evaluated(tmp_path, Root(failing=3))
    (record,) = tmp_path.glob("runs/*/*/run.json")
    record.write_text(damage)
    root = Root()
    row = await evaluated(tmp_path, root)
    assert (root.calls, row.answer, row.error, row.resumed) == (3, "4", "", False)


async def test_rlms_are_told_what_the_evaluation_says_they_are_told(tmp_path: Path) -> None:
    asked = ScriptedModel(lambda messages: f"FINAL({messages[0].content})", name="root")
    means = Means(
        models=lambda task: (asked, asked),
        sandboxes=FakeSandboxes(),
        system_prompt=lambda facts: f"left: {facts.depth}",
    )
    results = Results.create(tmp_path, PLAN.as_json())
    (row,) = await run_jobs(PLAN.jobs(), means=means, results=results, cap=Cap(1, tmp_path / "places"))
    assert row.answer == "left: 1"


async def test_one_process_at_a_time_works_on_an_evaluation(tmp_path: Path) -> None:
    results = Results.create(tmp_path, PLAN.as_json())
    waiting = ScriptedModel(lambda messages: "FINAL(1)", name="root", latency=60)
    means = Means(models=lambda task: (waiting, waiting), sandboxes=FakeSandboxes())

    async def first() -> None:
        await run_jobs(PLAN.jobs(), means=means, results=results, cap=Cap(1, tmp_path / "places"))

    async with anyio.create_task_group() as group:
        group.start_soon(first)
        while not list(tmp_path.glob("runs/*/*/journal*")):
            await anyio.sleep(0.01)
        with pytest.raises(ConfigError, match="Another process works on the evaluation"), anyio.fail_after(5):
            await evaluated(tmp_path, Root())
        group.cancel_scope.cancel()
    assert (await evaluated(tmp_path, Root())).answer == "4"
