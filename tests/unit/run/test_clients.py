"""Models given by name use the server of their level, with that server's key."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlm import ConfigError
from rlm.models.base import Model
from rlm.models.openai import OpenAIModel
from rlm.run.clients import Clients
from rlm.run.options import Options
from rlm.store.record import ModelRecord

ROOT, SUB = "http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"
ROOT_KEY, SUB_KEY = "sk-of-the-root-000000", "sk-of-the-calls-00000"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_BASE_URL", ROOT)
    monkeypatch.setenv("OPENAI_API_KEY", ROOT_KEY)
    for name in ("RLM_SUB_BASE_URL", "RLM_SUB_API_KEY"):
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
