"""Options, models and connections of an orchestrator."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from fakes import FakeSandboxes
from rlm import ConfigError, Orchestrator
from rlm.models.scripted import ScriptedModel
from rlm.types import Message, ModelReply

pytestmark = pytest.mark.anyio


class Connected(ScriptedModel):
    """A model that counts its connections."""

    def __init__(self, name: str) -> None:
        super().__init__(["FINAL(ok)"], name=name)
        self.opened = 0

    async def complete(self, messages: Sequence[Message], *, max_tokens: int | None = None) -> ModelReply:
        self.opened = 1
        return await super().complete(messages, max_tokens=max_tokens)

    async def aclose(self) -> None:
        self.opened = 0


async def test_connections_are_closed_after_a_completion(tmp_path: Path) -> None:
    model = Connected("a")
    await Orchestrator(model=model, sandboxes=FakeSandboxes(), run_root=tmp_path).acompletion("text", "q")
    assert model.opened == 0


async def test_an_entered_orchestrator_keeps_connections_open_until_its_end(tmp_path: Path) -> None:
    model = Connected("a")
    async with Orchestrator(model=model, sandboxes=FakeSandboxes(), run_root=tmp_path) as orchestrator:
        await orchestrator.acompletion("text", "q")
        assert model.opened == 1
    assert model.opened == 0


def test_a_blocking_orchestrator_closes_its_connections_too(tmp_path: Path) -> None:
    model = Connected("a")
    with Orchestrator(model=model, sandboxes=FakeSandboxes(), run_root=tmp_path) as orchestrator:
        assert orchestrator.completion("text", "q").answer == "ok"
        assert model.opened == 1
    assert model.opened == 0


async def test_a_single_completion_may_differ_from_its_orchestrator(tmp_path: Path) -> None:
    orchestrator = Orchestrator(model=ScriptedModel([], name="a"), sandboxes=FakeSandboxes(), run_root=tmp_path)
    done = await orchestrator.acompletion("text", "q", model=ScriptedModel(["FINAL(other)"], name="b"))
    assert done.answer == "other"
    assert done.by_model.keys() == {"b"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"depth": -1}, "depth=-1"),
        ({"depth": True}, "depth=True"),
        ({"dept": 1}, "There is no option dept"),
    ],
)
def test_a_wrong_option_is_refused_in_one_sentence(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Orchestrator(**options)


async def test_a_query_or_context_of_a_wrong_type_is_refused_in_one_sentence(tmp_path: Path) -> None:
    orchestrator = Orchestrator(model=ScriptedModel([]), sandboxes=FakeSandboxes(), run_root=tmp_path)
    with pytest.raises(ConfigError, match="query is a int"):
        await orchestrator.acompletion("text", 5)
    with pytest.raises(ConfigError, match="cannot be a set"):
        await orchestrator.acompletion({1}, "q")


async def test_levels_share_the_sub_model_unless_they_have_their_own() -> None:
    root, sub, own = (ScriptedModel([], name=name) for name in ("root", "sub", "own"))
    orchestrator = Orchestrator(depth=3, model=root, sub_model=sub, level_models={2: own})
    assert orchestrator._models(orchestrator._options) == {0: root, 1: sub, 2: own, 3: sub}
