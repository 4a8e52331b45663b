"""Models given by name use the server of their level, with that server's key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlm import ConfigError, Orchestrator, ScriptedModel
from rlm.models.base import Model
from rlm.models.openai import OpenAIModel
from rlm.prompts import PromptContext
from rlm.run.clients import Clients
from rlm.run.options import Options
from rlm.store.record import ModelRecord
from rlm.testing import FakeSandboxes

ROOT, SUB = "http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"
ROOT_KEY, SUB_KEY = "sk-of-the-root-000000", "sk-of-the-calls-00000"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_BASE_URL", ROOT)
    monkeypatch.setenv("OPENAI_API_KEY", ROOT_KEY)
    for name in ("RLM_SUB_BASE_URL", "RLM_SUB_API_KEY", "RLM_MODEL_OPTIONS", "RLM_SUB_MODEL_OPTIONS"):
        monkeypatch.delenv(name, raising=False)


def server(model: Model) -> str:
    assert isinstance(model, OpenAIModel)
    return model.base_url


def knows(model: Model, key: str) -> bool:
    assert isinstance(model, OpenAIModel)
    return model.redact(key) != key


def test_one_server_serves_all_levels_unless_the_calls_have_their_own() -> None:
    models = Clients(max_concurrent=1).models(Options(depth=2, model="m", sub_model="m"))
    assert models[0] is models[1] is models[2]
    assert server(models[0]) == ROOT


def test_calls_go_to_their_own_server_with_its_key_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLM_SUB_BASE_URL", SUB)
    models = Clients(max_concurrent=1).models(Options(depth=2, model="m", sub_model="m"))
    assert [server(models[level]) for level in range(3)] == [ROOT, SUB, SUB]
    assert models[1] is models[2]
    assert knows(models[0], ROOT_KEY)
    assert not knows(models[1], ROOT_KEY)
    monkeypatch.setenv("RLM_SUB_API_KEY", SUB_KEY)
    models = Clients(max_concurrent=1).models(Options(depth=1, model="m", sub_model="m"))
    assert (knows(models[0], SUB_KEY), knows(models[1], SUB_KEY)) == (False, True)


def test_a_run_resumes_only_at_its_original_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLM_SUB_BASE_URL", SUB)
    options = Options(depth=1, model="m", sub_model="n")
    assert server(Clients(max_concurrent=1).restore_model(1, ModelRecord(name="n", server=SUB), options)) == SUB
    with pytest.raises(ConfigError, match=f"used n at {ROOT}, not at {SUB}: restore .* and RLM_SUB_BASE_URL"):
        Clients(max_concurrent=1).restore_model(1, ModelRecord(name="n", server=ROOT), options)
    monkeypatch.delenv("RLM_SUB_BASE_URL")
    with pytest.raises(ConfigError, match=f"used n at {SUB}, not at {ROOT}: restore .* and RLM_SUB_BASE_URL"):
        Clients(max_concurrent=1).restore_model(1, ModelRecord(name="n", server=SUB), options)


def test_an_invalid_depth_is_refused_before_models_are_created(monkeypatch: pytest.MonkeyPatch) -> None:
    """One for each of a million levels took minutes."""
    monkeypatch.setattr(Clients, "_resolve", lambda *arguments: pytest.fail("A model was made."))
    with pytest.raises(ConfigError, match="max_sandboxes=16 is too small for 999999 levels"):
        Clients(max_concurrent=1).models(Options(depth=999_999, model="m"))


def options_of(model: Model) -> tuple[dict[str, object], int | None]:
    return dict(model.parameters), model.context_window


def test_the_sub_model_has_the_roots_options_only_if_it_is_the_same_model(monkeypatch: pytest.MonkeyPatch) -> None:
    root = {"temperature": 0.2, "context_window": 8192, "max_output_tokens": 100}
    given = ({"temperature": 0.2, "max_completion_tokens": 100}, 8192)
    clients = Clients(max_concurrent=1)
    models = clients.models(Options(model="m", sub_model="m", model_options=root))
    assert models[0] is models[1]
    assert options_of(models[0]) == given
    models = clients.models(Options(model="m", sub_model="n", model_options=root))
    assert (options_of(models[0]), options_of(models[1])) == (given, ({}, None))
    own = {"temperature": 0, "max_output_tokens": None}
    models = clients.models(Options(model="m", sub_model="m", model_options=root, sub_model_options=own))
    assert (options_of(models[0]), options_of(models[1])) == (given, ({"temperature": 0}, 8192))
    monkeypatch.setenv("RLM_SUB_BASE_URL", SUB)
    models = clients.models(Options(model="m", sub_model="m", model_options=root))
    assert (options_of(models[0]), options_of(models[1])) == (given, ({}, None))


def test_options_in_code_replace_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLM_MODEL_OPTIONS", '{"temperature": 1, "context_window": 4096}')
    monkeypatch.setenv("RLM_SUB_MODEL_OPTIONS", '{"seed": 1}')
    models = Clients(max_concurrent=1).models(Options(model="m", sub_model="n"))
    assert [options_of(models[level]) for level in (0, 1)] == [({"temperature": 1}, 4096), ({"seed": 1}, None)]
    models = Clients(max_concurrent=1).models(Options(model="m", sub_model="n", model_options={"seed": 2}))
    assert [options_of(models[level]) for level in (0, 1)] == [({"seed": 2}, None), ({"seed": 1}, None)]


def test_a_model_object_keeps_its_own_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLM_MODEL_OPTIONS", '{"temperature": 1}')
    model = OpenAIModel("m", base_url=ROOT, sampling={"temperature": 0})
    assert Clients(max_concurrent=1).models(Options(model=model))[0] is model
    assert options_of(model) == ({"temperature": 0}, None)
    with pytest.raises(ConfigError, match="model_options is for a model given by name: pass its options to 'm' itself"):
        Options(model=model, model_options={"temperature": 1})
    with pytest.raises(ConfigError, match="temperature='hot' in model_options is invalid: use a number"):
        Options(model="m", model_options={"temperature": "hot"})


def test_a_run_resumes_with_its_recorded_parameters_and_window(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = ModelRecord(name="m", server=ROOT, context_window=2048, parameters={"temperature": 0.5})
    monkeypatch.setenv("RLM_MODEL_OPTIONS", '{"temperature": 1, "context_window": 4096}')
    clients = Clients(max_concurrent=1)
    model = clients.restore_model(0, recorded, Options())
    assert options_of(model) == ({"temperature": 0.5}, 2048)
    assert clients.restore_model(1, recorded, Options()) is model
    same = Options(model_options={"temperature": 0.5})
    assert options_of(clients.restore_model(0, recorded, same)) == ({"temperature": 0.5}, 2048)
    with pytest.raises(ConfigError, match=r"has m with .*temperature.*, which cannot change: leave model_options out"):
        clients.restore_model(0, recorded, Options(model_options={"temperature": 1}))


@pytest.mark.parametrize("given", [{"stop": ("a", "b")}, {"logit_bias": {7: 1}}, {"extra": [("a", 1)]}])
def test_options_that_only_json_writes_differently_are_the_recorded_ones(given: dict[str, object]) -> None:
    clients, options = Clients(max_concurrent=1), Options(model="m", model_options=given)
    model = clients.models(options)[0]
    recorded = ModelRecord(name="m", server=ROOT, parameters=json.loads(json.dumps(dict(model.parameters))))
    assert options_of(clients.restore_model(0, recorded, options)) == options_of(model)


def test_options_that_are_no_json_are_refused() -> None:
    with pytest.raises(ConfigError, match="'stop' in model_options is invalid: use JSON data"):
        Options(model="m", model_options={"stop": [b"a"]})


class WithoutWindow(ScriptedModel):
    """Its server states the window when asked."""

    async def find_window(self) -> None:
        self.context_window = 20_480


@pytest.mark.anyio
async def test_the_window_that_an_objects_server_stated_at_the_start_is_known_to_the_resumed_run_only(
    tmp_path: Path,
) -> None:
    windows: list[int | None] = []

    def prompt(facts: PromptContext) -> str:
        windows.append(facts.window)
        return "Answer."

    def orchestrator(model: Model) -> Orchestrator:
        return Orchestrator(
            model=model, depth=0, sandbox_factory=FakeSandboxes(), run_root=tmp_path, system_prompt=prompt
        )

    first = await orchestrator(WithoutWindow(["FINAL(1)"], name="m")).acompletion("text", "one?")
    again = ScriptedModel(["FINAL(1)", "FINAL(2)"], name="m")
    async with orchestrator(again).session(resume=first.run_dir) as session:
        assert (await session.aask("two?")).answer == "2"
    assert set(windows) == {20_480}
    assert again.context_window is None
