"""Each environment of tests/corpus/environments works, or one sentence names the variable or file that is wrong."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rlm.cli.commands.checks import run_checks
from rlm.errors import ConfigError, EngineUnavailable, ModelError
from rlm.models import openai
from rlm.models.openai import OpenAIModel
from rlm.models.settings import Settings
from rlm.sandbox.docker.engine import Engine, default_engine
from rlm.types import Message

pytestmark = [pytest.mark.anyio, pytest.mark.serial]

CORPUS = Path(__file__).parents[1] / "corpus/environments"
CASES = {path.stem: tomllib.loads(path.read_text("utf-8")) for path in sorted(CORPUS.glob("*.toml"))}
READ_BY_LIBRARIES = ("PROXY", "DOCKER_", "SSL", "CA_BUNDLE", "OPENAI_", "RLM_")
REPLY = {
    "choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1},
}
ENGINE = {"ApiVersion": "1.41", "Version": "20.10"}


class Handler(BaseHTTPRequestHandler):
    """Answers as a model server, and as a Docker engine."""

    def _answer(self, body: object) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        self._answer(REPLY)

    def do_GET(self) -> None:
        self._answer({"data": []} if self.path.endswith("/models") else ENGINE)

    def log_message(self, *arguments: Any) -> None:
        """Print nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if any(part in name.upper() for part in READ_BY_LIBRARIES):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    openai._tls.cache_clear()
    monkeypatch.setattr("rlm.sandbox.docker.engine._engines", {})


def arrange(case: dict[str, Any], port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scheme = case["server"] if case["server"] != "docker" else "http"
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv("OPENAI_BASE_URL", f"{scheme}://127.0.0.1:{port}/v1")
    config, variables = case.get("config", ""), case["variables"]
    if config:
        (tmp_path / ".docker").mkdir()
        (tmp_path / ".docker/config.json").write_text(config)
        if "currentContext" not in config:
            variables = {"DOCKER_HOST": "{engine}", **variables}
    for name, value in variables.items():
        filled = value.replace("{engine}", f"tcp://127.0.0.1:{port}").replace("{server}", f"http://127.0.0.1:{port}")
        monkeypatch.setenv(name, filled)


async def ask_model() -> None:
    model = OpenAIModel("m", max_retries=0)
    try:
        assert (await model.complete([Message(role="user", content="x")])).text == "hi"
    finally:
        await model.aclose()


async def ask_engine() -> None:
    engine: Engine = default_engine()
    try:
        _, version = await engine.facts()
        assert version["ApiVersion"]
    finally:
        engine.close()


@pytest.mark.parametrize("name", CASES)
async def test_an_environment_works_or_its_mistake_is_named(
    name: str, port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    case = CASES[name]
    arrange(case, port, monkeypatch, tmp_path)
    expect = case["expect"]
    ask = ask_engine if case["server"] == "docker" else ask_model
    with caplog.at_level(logging.WARNING, logger="rlm.engine"):
        if "error" in expect:
            with pytest.raises((ConfigError, EngineUnavailable, ModelError)) as refused:
                await ask()
            said = str(refused.value)
            assert expect["error"] in said
            assert "ss@127" not in said  # no part of a password
        else:
            await ask()
    assert expect.get("warning", "") in caplog.text


@pytest.mark.parametrize("name", CASES)
@pytest.mark.long
async def test_rlm_doctor_survives_every_environment_and_reports_it(
    name: str, port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    case = CASES[name]
    arrange(case, port, monkeypatch, tmp_path)

    def engine() -> Engine:
        if case["server"] != "docker" or "error" not in case["expect"]:
            raise EngineUnavailable("Not asked.")  # its sandboxes take seconds
        return default_engine()

    monkeypatch.setattr("rlm.cli.commands.checks.default_engine", engine)
    findings = [finding async for finding in run_checks(Settings(), tmp_path)]
    assert findings[-1].part == "disk"
    said = "\n".join(finding.text for finding in findings if finding.state != "ok")
    expect = case["expect"]
    assert expect.get("error", expect.get("warning", "")) in said


def test_a_key_log_that_cannot_be_written_does_not_prevent_an_import() -> None:
    code = "import rlm.models.openai, rlm.sandbox.docker.engine, os; print(os.environ['SSLKEYLOGFILE'])"
    environment = {**os.environ, "SSLKEYLOGFILE": "/nope/keys", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "/nope/keys\n", "")


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from rlm.store.directory import default_root

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    with pytest.raises(ConfigError, match=r"No home directory for runs: set HOME, or set RLM_RUN_ROOT"):
        default_root()
