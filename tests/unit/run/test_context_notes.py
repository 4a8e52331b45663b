"""What was done to read a context is told to the model and to the user, and stays the same in a resumed run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rlm import Orchestrator
from rlm.models.scripted import ScriptedModel
from rlm.sandbox.values import encode_piped, encode_raw
from rlm.store.contexts import store_context, stored_contexts
from rlm.store.record import RunRecord
from rlm.testing import FakeSandboxes
from rlm.types import Message

pytestmark = pytest.mark.anyio
NOTE = "The file was decoded as UTF-8; 1 invalid byte is shown as \\xe9."


class Root(ScriptedModel):
    """Answers at once, and keeps what it was sent."""

    def __init__(self) -> None:
        super().__init__(self._answer, name="root")
        self.sent: list[str] = []

    def _answer(self, messages: Sequence[Message]) -> str:
        self.sent.append(messages[-1].content)
        return "FINAL(ok)"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "app.log"
    path.write_bytes(b"ok line\n" * 100 + b"caf\xe9\n")
    return path


def orchestrator(root: Root, tmp_path: Path) -> Orchestrator:
    return Orchestrator(model=root, sandbox_factory=FakeSandboxes(), run_root=tmp_path / "runs")


async def test_the_first_message_and_a_warning_say_what_was_done(
    log: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = Root()
    with caplog.at_level(logging.WARNING, logger="rlm"):
        await orchestrator(root, tmp_path).acompletion(log, "why?")
    assert NOTE in root.sent[0]
    assert [record.fields["advice"] for record in caplog.records if "context" in record.message] == [NOTE]  # type: ignore[attr-defined]


async def test_a_resumed_run_sends_the_same_message(log: Path, tmp_path: Path) -> None:
    done = await orchestrator(Root(), tmp_path).acompletion(log, "why?")
    record = RunRecord.load(done.run_dir)
    assert record.context is not None
    assert (record.context.kind, record.context.notes, record.context.path) == ("text", (NOTE,), str(log))
    replayed = await orchestrator(Root(), tmp_path).areplay(done.run_id)
    assert replayed.answer == "ok"
    assert replayed.replayed_calls == 1


async def test_a_file_that_may_differ_the_next_time_is_stored_with_the_run(tmp_path: Path) -> None:
    done = await orchestrator(Root(), tmp_path).acompletion(Path("/proc/self/stat"), "what?")
    record = RunRecord.load(done.run_dir)
    assert record.context is not None
    assert (record.context.kind, record.context.file, record.context.path) == ("text", "context.text", None)
    assert (await orchestrator(Root(), tmp_path).areplay(done.run_id)).answer == "ok"


async def test_a_run_of_an_older_version_reads_its_file_as_it_did(log: Path, tmp_path: Path) -> None:
    """Before texts were decoded on the host, files were recorded byte by byte, with kind `file`."""
    done = await orchestrator(Root(), tmp_path).acompletion(log, "why?")
    record = RunRecord.load(done.run_dir)
    old = store_context(done.run_dir, encode_raw(log), log, threading.Event())
    assert old is not None
    assert (old.kind, old.size, old.notes) == ("file", log.stat().st_size, ())
    (value,) = stored_contexts(done.run_dir, replace(record, context=old))
    assert value is not None
    assert b"".join(map(bytes, value.pieces())) == log.read_bytes()


async def test_piped_data_and_a_further_context_have_notes_too(log: Path, tmp_path: Path) -> None:
    root = Root()
    async with orchestrator(root, tmp_path).session() as session:
        await session.aask("first?", "text")
        await session.aask("second?", log)
    assert NOTE in root.sent[1]
    root = Root()
    piped = encode_piped("id,n\n".encode("utf-16"), "Standard input")
    with orchestrator(root, tmp_path).start(piped, "why?") as run:
        run.result()
    assert "Standard input was decoded from UTF-16 (little-endian)." in root.sent[0]
