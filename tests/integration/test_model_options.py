"""Options of models given by name reach the server, and a server states its model's window. Over real sockets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

from helpers.odd_server import Asked, OddServer, Said, serving
from rlm import Orchestrator
from rlm.models.openai import OpenAIModel
from rlm.testing import FakeSandboxes

pytestmark = pytest.mark.anyio
MODELS = "/v1/models"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "RLM_MODEL", "RLM_MODEL_OPTIONS", "RLM_SUB_MODEL_OPTIONS"):
        monkeypatch.delenv(name, raising=False)


def completion(text: str) -> Said:
    usage = {"prompt_tokens": 10, "completion_tokens": 2}
    return Said(body={"choices": [{"finish_reason": "stop", "message": {"content": text}}], "usage": usage})


def server_of(models: object = b"", *, status: int = 200, **said: Any) -> Any:
    """A server that lists its models so, and answers every question."""

    def answer(asked: Asked) -> Said:
        return completion("FINAL(42)") if asked.body else Said(body=models, status=status, **said)

    return serving(answer)


async def window_of(server: OddServer, **options: Any) -> int | None:
    model = OpenAIModel("m", base_url=server.base_url, **options)
    try:
        await model.find_window()
        await model.find_window()
    finally:
        await model.aclose()
    return model.context_window


async def run(folder: Path, **options: Any) -> Any:
    return await Orchestrator(sandbox_factory=FakeSandboxes(), run_root=folder, **options).acompletion("text", "why?")


def recorded(directory: Path) -> dict[str, Any]:
    models: dict[str, Any] = json.loads((directory / "run.json").read_text())["models"]
    return models


async def test_a_server_states_its_models_window_once() -> None:
    async with server_of({"data": [{"id": "m", "max_model_len": 8192}]}) as server:
        assert await window_of(server) == 8192
    assert server.paths == [MODELS]


async def test_a_known_window_asks_nothing() -> None:
    async with server_of({"data": [{"id": "m", "max_model_len": 8192}]}) as server:
        assert await window_of(server, context_window=4096) == 4096
    assert server.paths == []


async def test_openai_is_never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenAIModel, "_get", lambda *arguments: pytest.fail("It was asked."))
    for address in ("https://api.openai.com/v1", "https://eu.api.openai.com/v1"):
        model = OpenAIModel("unlisted", base_url=address, api_key="k")
        await model.find_window()
        assert model.context_window is None


async def test_a_server_may_state_the_window_elsewhere() -> None:
    def answer(asked: Asked) -> Said:
        if asked.path == "/props":
            return Said(body={"default_generation_settings": {"n_ctx": 2048}})
        return Said(body={"data": [{"id": "x.gguf", "owned_by": "llamacpp", "meta": {"n_ctx_train": 32768}}]})

    async with serving(answer) as server:
        assert await window_of(server) == 2048
    assert server.paths == [MODELS, "/props"]


@pytest.mark.parametrize(
    ("models", "said"),
    [
        (b"<html>no</html>", {"status": 404}),
        ({"error": "busy"}, {"status": 503}),
        ({"error": "slow down"}, {"status": 429}),
        (b"not json", {}),
        ({"data": [{"id": "a", "max_model_len": 1000}, {"id": "b", "max_model_len": 1000}]}, {}),
        ({"data": [{"id": "m", "owned_by": "library"}]}, {}),
    ],
    ids=["404", "503", "429", "no json", "other models", "stated nowhere"],
)
async def test_a_server_that_states_nothing_leaves_the_window_unknown(
    models: object, said: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlm.models.openai.WINDOW_SECONDS", 0.5)
    async with server_of(models, **said) as server:
        assert await window_of(server) is None
    assert len(server.paths) == len(set(server.paths)) or said.get("status") == 429


async def test_a_server_that_keeps_silent_delays_a_run_no_longer_than_the_deadline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("rlm.models.openai.WINDOW_SECONDS", 0.2)
    async with server_of({"data": [{"id": "m", "max_model_len": 8192}]}, seconds=30) as server:
        done = await run(tmp_path, model=OpenAIModel("m", base_url=server.base_url))
    assert (done.answer, server.paths.count(MODELS)) == ("42", 1)
    assert recorded(done.run_dir)["0"]["context_window"] is None


async def test_runs_that_start_together_ask_once(tmp_path: Path) -> None:
    async with server_of({"data": [{"id": "m", "max_model_len": 8192}]}) as server:
        model = OpenAIModel("m", base_url=server.base_url)
        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(model.find_window)
        await model.aclose()
    assert (model.context_window, server.paths) == (8192, [MODELS])


async def test_the_stated_window_is_recorded_so_a_replay_needs_no_server(tmp_path: Path) -> None:
    async with server_of({"data": [{"id": "m", "max_model_len": 8192}]}) as server:
        done = await run(tmp_path, model=OpenAIModel("m", base_url=server.base_url))
    assert recorded(done.run_dir)["0"]["context_window"] == 8192
    replayed = await Orchestrator(sandbox_factory=FakeSandboxes(), run_root=tmp_path).areplay(done.run_dir)
    assert (replayed.answer, replayed.diverged) == ("42", ())


async def test_options_reach_the_server_and_a_resumed_run_keeps_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answers = iter([completion("no code"), Said(status=400, body={"error": {"message": "no"}})])

    def answer(asked: Asked) -> Said:
        return Said(body={"data": []}) if asked.body is None else next(answers, completion("FINAL(42)"))

    async with serving(answer) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("RLM_MODEL_OPTIONS", '{"temperature": 0.2, "max_output_tokens": 50, "context_window": 4096}')
        with pytest.raises(Exception, match="400"):
            await run(tmp_path, model="m")
        monkeypatch.setenv("RLM_MODEL_OPTIONS", '{"temperature": 1}')
        directory = next(tmp_path.glob("*/run.json")).parent
        done = await Orchestrator(sandbox_factory=FakeSandboxes(), run_root=tmp_path).aresume(directory)
    assert (done.answer, done.replayed_calls, done.diverged) == ("42", 1, ())
    asked = [each.body for each in server.asked if each.body]
    assert [(body["temperature"], body["max_completion_tokens"]) for body in asked] == [(0.2, 50)] * 3
    assert MODELS not in server.paths
    assert recorded(directory)["0"] == {
        "name": "m",
        "server": server.base_url,
        "context_window": 4096,
        "parameters": {"temperature": 0.2, "max_completion_tokens": 50},
    }
