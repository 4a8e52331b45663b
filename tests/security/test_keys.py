"""Keys stay on the host, and out of all output: tests search every artefact for planted keys."""

from __future__ import annotations

import logging
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from rlm import ModelError, Orchestrator
from rlm.events import CellStarted, Event, ModelReplied
from rlm.testing import FakeProvider, Fault, Reply

pytestmark = pytest.mark.anyio

KEY = "sk-planted-0123456789abcdef"
PROXY = "http://user:planted-password@proxy.invalid:3128"
LOOK = """```repl
import os
print(sorted(os.environ.items()))
one = llm_query("say your key", "some context")
two = llm_batch(["fail"], recurse=False)
print(one, two[0])
FINAL(one)
```"""


def leaky(messages: Sequence[Mapping[str, Any]], model: str) -> str | Reply | Fault:
    """A provider that repeats the received key in replies and in errors."""
    asked = messages[-1]["content"]
    if messages[0]["role"] == "system":
        return LOOK if "root question" in messages[1]["content"] else f"FINAL(the key is {KEY})"
    if "fail" in asked:
        return Fault(status=400, body={"error": {"message": f"bad request with Authorization: Bearer {KEY}"}})
    return f"it is {KEY}"


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, PROXY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


def everything(folder: Path) -> str:
    return "\n".join(f"{path.name}\n{path.read_bytes()!r}" for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.mark.usefixtures("planted")
async def test_a_planted_key_is_in_no_artefact_of_a_run(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    events: list[Event] = []
    inspected: list[str] = []

    def listen(event: Event) -> None:
        events.append(event)
        if isinstance(event, CellStarted):  # a container lives
            ids = subprocess.run(
                ["docker", "ps", "-q", "--filter", f"label=rlm.run={event.run_id}"],
                check=True,
                capture_output=True,
                text=True,
            ).stdout.split()
            inspected.append(
                subprocess.run(["docker", "inspect", *ids], check=True, capture_output=True, text=True).stdout
            )

    with caplog.at_level(logging.DEBUG):
        async with FakeProvider(leaky) as provider:
            monkeypatch.setenv("OPENAI_BASE_URL", provider.base_url)
            done = await Orchestrator(
                depth=2, model="m", sub_model="m", run_root=tmp_path, verbose=True, on_event=listen
            ).acompletion("a context", "root question")
    assert done.answer == "the key is [key]"
    assert done.stop_reason == "final"
    assert any(isinstance(event, ModelReplied) for event in events)
    assert inspected
    output = "".join(capfd.readouterr())
    assert "the key is" in output
    record = everything(done.run_dir)
    assert "CellFinished" in record
    for artefact in (record, output, caplog.text, repr(events), repr(done), *inspected):
        assert KEY not in artefact
        assert "planted-password" not in artefact


@pytest.mark.usefixtures("planted")
async def test_a_planted_key_is_in_no_text_of_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with FakeProvider(
        lambda messages, model: Fault(status=401, body={"error": {"message": f"wrong key: {KEY}"}})
    ) as provider:
        monkeypatch.setenv("OPENAI_BASE_URL", provider.base_url)
        with pytest.raises(ModelError) as caught:
            await Orchestrator(model="m", sub_model="m", run_root=tmp_path).acompletion("a context", "question")
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    for artefact in (shown, everything(tmp_path)):
        assert KEY not in artefact
        assert "planted-password" not in artefact


@pytest.mark.parametrize(
    "command",
    [
        ("run", "question", "context.txt", "--model", "m"),
        ("eval", "ruler/single_1", "--method", "direct", "--model", "m", "-n", "1", "--lengths", "4096"),
        ("niah", "--model", "m", "--trials", "1", "--lines", "100"),
        ("doctor",),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize(
    ("address", "key"), [("OPENAI_BASE_URL", "OPENAI_API_KEY"), ("RLM_SUB_BASE_URL", "RLM_SUB_API_KEY")]
)
async def test_no_command_in_a_foreign_folder_sends_a_key_to_the_address_of_its_dotenv(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: Sequence[str], address: str, key: str
) -> None:
    (tmp_path / "context.txt").write_text("some text")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("RLM_RUN_ROOT", str(tmp_path))
    monkeypatch.delenv(address, raising=False)
    monkeypatch.setenv(key, KEY)
    async with FakeProvider(lambda messages, model: "FINAL(stolen)") as provider:
        (tmp_path / ".env").write_text(f"{address}={provider.base_url}\n")
        ended = await anyio.run_process([sys.executable, "-m", "rlm", *command], cwd=tmp_path, check=False)
        shown = f"{ended.stdout.decode()}\n{ended.stderr.decode()}"
        assert provider.requests == []
    assert ended.returncode != 0, shown
    assert f"{address} in .env is not trusted" in shown
    assert KEY not in shown
    assert "Traceback" not in shown
