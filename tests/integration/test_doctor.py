"""`rlm doctor` checks that model servers answer, and shows no key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path

import pytest

from helpers.odd_server import Said
from helpers.odd_server import serving as serving_odd
from rlm.cli.commands.checks import Finding, run_checks
from rlm.errors import EngineUnavailable
from rlm.models.settings import Settings

ROOT_KEY, SUB_KEY = "sk-of-the-root-000000", "sk-of-the-calls-00000"


def no_engine() -> None:
    raise EngineUnavailable("No engine.")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rlm.cli.commands.checks.default_engine", no_engine)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "RLM_SUB_BASE_URL", "RLM_SUB_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@asynccontextmanager
async def serving(status: int, asked: list[str]) -> AsyncIterator[str]:
    """A server that answers every request with `status` and echoes the key."""

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        asked.append(head)
        body = f'{{"error": {{"message": "no {head.partition("Bearer ")[2].split()[0]}"}}}}'
        lines = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            "content-type: application/json",
            "connection: close",
        ]
        writer.write("\r\n".join([*lines, f"content-length: {len(body)}", "", body]).encode())
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(accepted, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


async def found(part: str) -> Finding:
    return next(each for each in [each async for each in run_checks(Settings(), Path())] if each.part == part)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "state"),
    [(200, "ok"), (404, "note"), (405, "note"), (429, "note"), (401, "problem"), (403, "problem"), (503, "problem")],
)
async def test_the_model_servers_response_decides_whether_a_run_is_possible(
    monkeypatch: pytest.MonkeyPatch, status: int, state: str
) -> None:
    asked: list[str] = []
    async with serving(status, asked) as address:
        monkeypatch.setenv("OPENAI_BASE_URL", address)
        monkeypatch.setenv("OPENAI_API_KEY", ROOT_KEY)
        models = await found("models")
    assert (models.state, len(asked), asked[0].split()[1]) == (state, 1, "/v1/models")
    assert ROOT_KEY in asked[0]
    assert ROOT_KEY not in models.text
    assert state != "problem" or models.text.endswith(": check OPENAI_API_KEY and OPENAI_BASE_URL")


@pytest.mark.anyio
async def test_the_window_is_shown_with_its_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    listing = Said(body={"data": [{"id": "m", "max_model_len": 8192}]})
    async with serving_odd(lambda asked: listing) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("RLM_MODEL", "m")
        assert (await found("models")).text.endswith(", window 8,192 tokens by the server")
        monkeypatch.setenv("RLM_MODEL_OPTIONS", '{"context_window": 4096}')
        assert (await found("models")).text.endswith(", window 4,096 tokens by the settings")
        monkeypatch.setenv("RLM_MODEL_OPTIONS", "{}")
        listing.body["data"][0].pop("max_model_len")  # type: ignore[index]
        assert (await found("models")).text.endswith(", window unknown")
    assert server.paths == ["/v1/models"] * 3


@pytest.mark.anyio
async def test_the_sub_models_server_gets_its_own_key(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    async with serving(401, asked) as address:
        monkeypatch.setenv("OPENAI_API_KEY", ROOT_KEY)
        monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
        monkeypatch.setenv("RLM_SUB_BASE_URL", address)
        for key in (SUB_KEY, ""):
            monkeypatch.setenv("RLM_SUB_API_KEY", key)
            calls = await found("calls")
            assert (calls.state, SUB_KEY in calls.text) == ("problem", False)
    assert [ROOT_KEY in head for head in asked] == [False, False]
    assert [SUB_KEY in head for head in asked] == [True, False]


@pytest.mark.anyio
async def test_an_unreachable_model_server_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    models = await found("models")
    assert models.state == "problem"
    assert models.text.startswith("The model server 127.0.0.1:9 cannot be reached")
