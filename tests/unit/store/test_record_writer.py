"""The record of a run is written in order, and a failure is not forgotten."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rlm import ConfigError, JournalError, Limits, SandboxConfig
from rlm.sandbox.values import Value, encode
from rlm.store.record import ModelRecord, RunRecord
from rlm.store.record_writer import RecordWriter

pytestmark = pytest.mark.anyio

RECORD = RunRecord(
    run_id="run",
    state="running",
    query="q",
    depth=1,
    models={0: ModelRecord(name="m", server=None)},
    limits=Limits(),
    sandbox=SandboxConfig(),
)


def unreadable() -> Iterator[bytes]:
    raise ConfigError("the context cannot be read")


async def test_changes_are_saved_in_order_and_flush_waits_for_them(tmp_path: Path) -> None:
    writer = RecordWriter(RECORD, tmp_path)
    writer.begin({"prompt": "p"}, encode("the context"), None)
    writer.raise_limits({"max_tokens": 7})
    await writer.flush()
    assert writer.record == RunRecord.load(tmp_path)
    assert writer.record.context is not None
    assert (writer.record.context.size, writer.record.raised) == (len("the context"), {"max_tokens": 7})
    await writer.add_question("and?", encode("more"), None)
    await writer.record_answer("yes", number=1, stop_reason="final", stop=None)
    await writer.close("finished")
    saved = RunRecord.load(tmp_path)
    assert (saved.state, saved.answered, saved.further[0].query) == ("finished", 2, "and?")
    assert (tmp_path / "answer.txt").read_text() == "yes"
    assert {path.name for path in tmp_path.glob("context*")} == {"context.text", "context_1.text"}


async def test_a_failed_first_write_fails_every_later_one(tmp_path: Path) -> None:
    writer = RecordWriter(RECORD, tmp_path)
    writer.begin({}, Value(kind="text", size=1, pieces=unreadable), None)
    for _ in range(2):
        with pytest.raises(ConfigError, match="cannot be read"):
            await writer.flush()
    with pytest.raises(ConfigError, match="cannot be read"):
        await writer.record_answer("x", number=0, stop_reason="final", stop=None)
    await writer.close("failed")
    assert RunRecord.load(tmp_path) == replace(writer.record, state="failed", context=None)


async def test_a_replay_changes_nothing_but_its_own_answer(tmp_path: Path) -> None:
    writer = RecordWriter(RECORD, tmp_path, read_only=True)
    writer.begin({"prompt": "p"}, None, None)
    await writer.record_answer("x", number=0, stop_reason="final", stop=None)
    await writer.close("finished")
    assert [path.name for path in tmp_path.iterdir()] == ["answer.txt"]
    assert writer.record.state == "finished"


async def test_a_run_whose_record_cannot_be_closed_stays_resumable(tmp_path: Path) -> None:
    writer = RecordWriter(RECORD, tmp_path / "gone")
    writer.raise_limits({})
    with pytest.raises(JournalError, match="gone"):
        await writer.flush()
    await writer.close("finished")


async def test_a_bug_while_a_change_is_saved_is_not_forgotten(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        raise ZeroDivisionError

    writer = RecordWriter(RECORD, tmp_path)
    writer.begin({}, Value(kind="text", size=1, pieces=broken), None)
    with pytest.raises(ZeroDivisionError):
        await writer.flush()
    await writer.close("failed")


async def test_a_cancelled_close_still_saves_the_end_before_it_returns(tmp_path: Path) -> None:
    reading, done = threading.Event(), threading.Event()

    def slow() -> Iterator[bytes]:
        reading.set()
        done.wait(10)
        yield b"x"

    writer = RecordWriter(RECORD, tmp_path)
    writer.begin({}, Value(kind="text", size=1, pieces=slow), None)
    assert reading.wait(10)
    closing = asyncio.ensure_future(writer.close("interrupted"))
    await asyncio.sleep(0)
    closing.cancel()  # as asyncio itself does it: the shield of anyio does not hold that off
    threading.Timer(0.05, done.set).start()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert RunRecord.load(tmp_path).state == "interrupted"
