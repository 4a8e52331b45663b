"""One thread writes, in order. Confirmed writes are visible to every process. After a failure nothing is written."""

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest

from rlm.errors import JournalError
from rlm.models.request import Request
from rlm.store.database import Database, text_of
from rlm.store.journal import Journal
from rlm.types import Message, ModelReply, Usage

pytestmark = pytest.mark.anyio

SCHEMA = "CREATE TABLE t (a UNIQUE, b)"
INSERT = "INSERT INTO t VALUES (?, ?)"


def opened(path: Path | None, **options) -> Database:
    return Database(path, schema=SCHEMA, version=1, **options)


async def test_committed_writes_are_visible_to_every_other_process(tmp_path: Path) -> None:
    database = opened(tmp_path / "x")
    await database.write((INSERT, (1, "one")), durable=True)
    other = sqlite3.connect(tmp_path / "x")
    assert other.execute("SELECT * FROM t").fetchall() == [(1, "one")]
    other.close()
    database.close()


async def test_a_new_file_that_another_process_is_opening_too_is_waited_for(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "x", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")  # takes a lock, for which SQLite itself does not wait
    release = threading.Timer(0.1, other.execute, ["COMMIT"])
    release.start()
    opened(tmp_path / "x").close()
    release.join()
    assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    other.close()


async def test_many_at_once_share_few_transactions(tmp_path: Path) -> None:
    database = opened(tmp_path / "x")
    commits: list[str] = []
    database._connection.set_trace_callback(lambda text: commits.append(text) if text == "COMMIT" else None)
    await asyncio.gather(*(database.write((INSERT, (number, "")), durable=True) for number in range(1000)))
    assert database.rows("SELECT count(*) FROM t") == [(1000,)]
    assert len(commits) < 20
    database.close()


async def test_a_write_completes_even_if_its_caller_is_cancelled(tmp_path: Path) -> None:
    database = opened(tmp_path / "x")
    task = asyncio.create_task(database.write((INSERT, (1, "")), durable=True))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await database.run(lambda: database.rows("SELECT a FROM t")) == [(1,)]
    database.close()


async def test_after_a_failure_nothing_is_written_and_recorded_data_stays_readable(tmp_path: Path) -> None:
    database = opened(tmp_path / "x")
    await database.write((INSERT, (1, "kept")), durable=True)
    with pytest.raises(JournalError, match="Cannot write"):
        await database.write((INSERT, (2, "gone")), (INSERT, (2, "twice")), durable=True)
    with pytest.raises(JournalError, match="Cannot write"):
        await database.write((INSERT, (3, "")), durable=True)
    assert database.rows("SELECT * FROM t") == [(1, "kept")]
    database.close()


@pytest.mark.parametrize("text", ["", "é\x00\r\n", "a \ud800 b"])
async def test_texts_are_read_as_they_were_written(text: str) -> None:
    database = opened(None)
    await database.write((INSERT, (1, text)), durable=False)
    assert text_of(database.rows("SELECT b FROM t")[0][0]) == text
    database.close()


async def test_a_reply_is_on_the_disk_before_it_is_given_and_each_message_only_once(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        messages = [Message(role="user", content="a long text")]
        for ordinal in (1, 2, 3):
            request = Request("m", messages, {})
            call = journal.new_call("0", ordinal, request)
            await journal.record_sent(call, request, reserved_tokens=0, reserved_usd=0.0)
            assert read(tmp_path / "j", "SELECT state FROM calls WHERE ordinal = ?", ordinal) == [("sent",)]
            await journal.record_outcome(
                call, ModelReply(text="reply", usage=Usage(calls=1, cost_usd=0.25), model="m-1")
            )
            messages += [Message(role="assistant", content="reply"), Message(role="user", content=f"turn {ordinal}")]
        select = "SELECT state, text, reply_model, cost_usd FROM calls WHERE ordinal = ?"
        assert read(tmp_path / "j", select, 3) == [("answered", "reply", "m-1", 0.25)]
        assert read(tmp_path / "j", "SELECT count(*) FROM messages") == [(4,)]


def read(path: Path, select: str, *values: object) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    found = connection.execute(select, values).fetchall()
    connection.close()
    return found
