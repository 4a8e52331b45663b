"""A cache is off unless asked for, and gives what was paid before to whoever asks the very same."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from fakes import FakeSandboxes
from rlm import Limits, ModelError, Orchestrator, ScriptedModel
from rlm.types import Message, ModelReply, Usage

pytestmark = pytest.mark.anyio


class Counting(ScriptedModel):
    """Answers with the number of its calls, and `parameters` that are part of each request."""

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
    return Orchestrator(model=model, sandboxes=FakeSandboxes(), run_root=folder / "runs", **options)


async def test_a_request_that_another_run_has_made_is_not_paid_again(tmp_path: Path) -> None:
    model = Counting()
    shared = orchestrator(model, tmp_path, cache=tmp_path / "cache.sqlite")
    first = await shared.acompletion("text", "q")
    second = await shared.acompletion("text", "q")
    assert (first.answer, second.answer, model.calls) == ("1 \ud800", "1 \ud800", 1)
    assert (first.cost, second.cost, second.usage) == (0.5, 0.0, Usage())
    assert (await shared.acompletion("text", "another")).answer == "2 \ud800"
    assert (await shared.areplay(second.run_id)).answer == second.answer


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
