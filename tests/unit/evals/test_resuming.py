"""An interrupted RLM run is paid for once. Failures are neither hidden nor free."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import anyio
import pytest

from rlm import ConfigError, ModelError, ScriptedModel
from rlm.errors import ContextTooLong, EngineUnavailable
from rlm.evals.harness import run_jobs
from rlm.evals.methods.base import MethodContext
from rlm.evals.plan import Plan
from rlm.evals.report.report import markdown
from rlm.evals.results import ROWS_FILE, ResultRow, Results
from rlm.models.base import Model
from rlm.sandbox.base import Answer, SandboxQuery
from rlm.testing import FakeSandboxes
from rlm.types import CellResult, Message, ModelReply, Usage

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


async def evaluated(folder: Path, root: Root) -> ResultRow:
    model = ScriptedModel(root, name="root")
    results = Results.load(folder) if (folder / ROWS_FILE).exists() else Results.create(folder, PLAN.to_settings())
    ctx = MethodContext(models=lambda task: (model, model), sandbox_factory=FakeSandboxes())
    (row,) = await run_jobs(PLAN.jobs(), ctx=ctx, results=results, max_concurrent=1)
    return row


async def test_an_interrupted_run_resumes_and_pays_for_no_call_twice(tmp_path: Path) -> None:
    assert (await evaluated(tmp_path, Root(failing=3))).error == "ModelError: the account is empty"
    root = Root()
    row = await evaluated(tmp_path, root)
    assert (root.calls, row.answer, row.calls, row.resumed) == (1, "4", 3, True)


async def test_a_finished_run_whose_row_is_missing_is_not_paid_again(tmp_path: Path) -> None:
    row = await evaluated(tmp_path, Root())
    (tmp_path / ROWS_FILE).write_text("")
    root = Root()
    again = await evaluated(tmp_path, root)
    assert root.calls == 0
    assert again.resumed
    assert replace(again, seconds=0, resumed=False, settings={}) == replace(row, seconds=0, settings={})


@pytest.mark.parametrize("damage", ["{}", "no JSON"])
async def test_an_unusable_run_is_started_again(tmp_path: Path, damage: str) -> None:
    await evaluated(tmp_path, Root(failing=3))
    (record,) = tmp_path.glob("runs/*/*/run.json")
    record.write_text(damage)
    root = Root()
    row = await evaluated(tmp_path, root)
    assert (root.calls, row.answer, row.error, row.resumed) == (3, "4", "", False)


async def test_rlms_get_the_evaluations_system_prompt(tmp_path: Path) -> None:
    asked = ScriptedModel(lambda messages: f"FINAL({messages[0].content})", name="root")
    ctx = MethodContext(
        models=lambda task: (asked, asked),
        sandbox_factory=FakeSandboxes(),
        system_prompt=lambda facts: f"left: {facts.depth}",
    )
    results = Results.create(tmp_path, PLAN.to_settings())
    (row,) = await run_jobs(PLAN.jobs(), ctx=ctx, results=results, max_concurrent=1)
    assert row.answer == "left: 1"


async def test_one_process_at_a_time_works_on_an_evaluation(tmp_path: Path) -> None:
    results = Results.create(tmp_path, PLAN.to_settings())
    waiting = ScriptedModel(lambda messages: "FINAL(1)", name="root", latency=60)
    ctx = MethodContext(models=lambda task: (waiting, waiting), sandbox_factory=FakeSandboxes())

    async def first() -> None:
        await run_jobs(PLAN.jobs(), ctx=ctx, results=results, max_concurrent=1)

    async with anyio.create_task_group() as group:
        group.start_soon(first)
        while not list(tmp_path.glob("runs/*/*/journal*")):
            await anyio.sleep(0.01)
        with pytest.raises(ConfigError, match="Another process is using the evaluation"), anyio.fail_after(5):
            await evaluated(tmp_path, Root())
        group.cancel_scope.cancel()
    assert (await evaluated(tmp_path, Root())).answer == "4"


# The cost of failed runs, and failed calls

USAGE = Usage(calls=1, input_tokens=100, output_tokens=10, cost_usd=1.0)


class Charging(ScriptedModel):
    """Bills a dollar for each reply."""

    async def complete(self, messages: Sequence[Message], *, max_tokens: int | None = None) -> ModelReply:
        return replace(await super().complete(messages, max_tokens=max_tokens), usage=USAGE)


def sub_model(*, down: bool, error: type[ModelError] = ModelError) -> ScriptedModel:
    def reply(messages: Sequence[Message]) -> str:
        if down:
            raise error("the provider is down")
        return "well"

    return ScriptedModel(reply, name="sub")


async def asks(code: str, answer: Answer | None) -> CellResult:
    """A cell that asks the sub-model."""
    assert answer is not None
    reply = await answer(SandboxQuery(call=1, batch=0, prompt="p", context=None, model=None, recurse=None))
    return CellResult(outcome="ok", stdout=reply.text)


async def asked(folder: Path, root: Root, sub: ScriptedModel, *, redo: bool = False) -> ResultRow:
    """Two cells that ask, and an answer."""
    model: str | Model = Charging(root, name="root")
    if not (folder / ROWS_FILE).exists():
        Results.create(folder, PLAN.to_settings())
    results = Results.load(folder)
    ctx = MethodContext(models=lambda task: (model, sub), sandbox_factory=FakeSandboxes(asks))
    (row,) = await run_jobs(PLAN.jobs(), ctx=ctx, results=results, max_concurrent=1, redo_failed_calls=redo)
    return row


async def test_a_failed_run_counts_its_usage(tmp_path: Path) -> None:
    row = await asked(tmp_path, Root(failing=3), sub_model(down=False))
    assert row.error == "ModelError: the account is empty"
    assert (row.calls, row.cost_usd, row.sub_calls, row.depth) == (4, 2.0, 2, 1)
    assert row.by_node["0"] == (2, 200, 20, 2.0)
    assert (tmp_path / row.run_dir / "run.json").exists()
    assert Results.load(tmp_path).rows[row.key] == row


async def test_a_run_without_an_engine_has_cost_nothing(tmp_path: Path) -> None:
    def no_engine(**options: object) -> NoReturn:
        raise EngineUnavailable("no engine")

    root = ScriptedModel(Root(), name="root")
    ctx = MethodContext(models=lambda task: (root, root), sandbox_factory=no_engine)
    results = Results.create(tmp_path, PLAN.to_settings())
    (row,) = await run_jobs(PLAN.jobs(), ctx=ctx, results=results, max_concurrent=1)
    assert (row.error, row.calls, row.cost_usd) == ("EngineUnavailable: no engine", 0, 0.0)


@pytest.mark.parametrize("name", ["direct", "map_reduce"])
async def test_the_usage_of_a_failed_method_without_a_record_is_unknown(tmp_path: Path, name: str) -> None:
    plan = replace(PLAN, methods=(name,), model="m", sub_model="m")
    results = Results.create(tmp_path, plan.to_settings())
    down = sub_model(down=True)
    ctx = MethodContext(models=lambda task: (down, down))
    (row,) = await run_jobs(plan.jobs(), ctx=ctx, results=results, max_concurrent=1)
    assert row.error == "ModelError: the provider is down"
    assert (row.calls, row.tokens, row.cost_usd, row.run_dir) == (None, None, None, "")
    assert "| unknown | unknown | unknown |" in markdown(Results.load(tmp_path))


async def test_failed_calls_are_counted_and_repeated_on_request(tmp_path: Path) -> None:
    row = await asked(tmp_path, Root(), sub_model(down=True))
    assert (row.answer, row.error, row.sub_calls, row.failed_calls) == ("4", "", 2, 2)
    untouched = Root()
    assert await asked(tmp_path, untouched, sub_model(down=False)) == row
    assert untouched.calls == 0
    root = Root()
    again = await asked(tmp_path, root, sub_model(down=False), redo=True)
    assert (root.calls, again.answer, again.failed_calls, again.resumed) == (3, "4", 0, False)
    assert again.run_dir != row.run_dir
    assert await asked(tmp_path, untouched, sub_model(down=False), redo=True) == again
    assert untouched.calls == 0


async def test_a_repeated_answer_is_paid_again_and_a_resumed_one_is_not(tmp_path: Path) -> None:
    await asked(tmp_path, Root(), sub_model(down=True))
    await asked(tmp_path, Root(failing=3), sub_model(down=False), redo=True)
    assert (await asked(tmp_path, Root(), sub_model(down=False))).cost_usd == 3.0
    assert len((tmp_path / ROWS_FILE).read_text().splitlines()) == 3
    assert "Total: $6. Times exclude resumed runs (1)." in markdown(Results.load(tmp_path))


async def test_a_repeated_attempt_of_unknown_cost_is_reported(tmp_path: Path) -> None:
    plan = replace(PLAN, methods=("direct",), model="m", sub_model="m")
    results = Results.create(tmp_path, plan.to_settings())
    for down in (True, True, False):
        model = sub_model(down=down)

        def models(task: str, model: Model = model) -> tuple[Model, Model]:
            return model, model

        ctx = MethodContext(models=models)
        await run_jobs(plan.jobs(), ctx=ctx, results=results, max_concurrent=1)
    expected = "It excludes 2 of 2 repeated attempts, whose cost is unknown."
    assert f"Total: $0. {expected}\n" in markdown(Results.load(tmp_path))


async def test_an_interrupted_retry_of_an_answer_resumes(tmp_path: Path) -> None:
    await asked(tmp_path, Root(), sub_model(down=True))
    failed = await asked(tmp_path, Root(failing=3), sub_model(down=False), redo=True)
    assert (failed.error, failed.failed_calls) == ("ModelError: the account is empty", 0)
    root = Root()
    row = await asked(tmp_path, root, sub_model(down=False))
    assert (root.calls, row.answer, row.failed_calls, row.cost_usd, row.resumed) == (1, "4", 0, 3.0, True)


async def test_a_resumed_run_keeps_its_count_of_failed_calls(tmp_path: Path) -> None:
    """The journal answers recorded calls; a paid or failed call is not repeated."""
    failed = await asked(tmp_path, Root(failing=3), sub_model(down=True))
    assert (failed.failed_calls, failed.cost_usd) == (2, 2.0)
    row = await asked(tmp_path, Root(), sub_model(down=False))
    assert (row.error, row.failed_calls, row.cost_usd) == ("", 2, 3.0)


async def test_a_prompt_that_is_too_long_for_its_model_is_no_failure_of_the_provider(tmp_path: Path) -> None:
    row = await asked(tmp_path, Root(), sub_model(down=True, error=ContextTooLong))
    assert (row.sub_calls, row.failed_calls) == (2, 0)


async def test_rows_from_before_calls_that_failed_were_counted_are_readable(tmp_path: Path) -> None:
    row = await asked(tmp_path, Root(), sub_model(down=False))
    old = json.loads((tmp_path / ROWS_FILE).read_text())
    del old["failed_calls"]
    (tmp_path / ROWS_FILE).write_text(json.dumps(old) + "\n")
    assert Results.load(tmp_path).rows == {row.key: row}
