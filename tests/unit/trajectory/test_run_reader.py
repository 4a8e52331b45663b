"""A run is found by ID or path and read with its details; `rlm view` writes it to one private file."""

import json
import sqlite3
import stat
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rlm import cli
from rlm.errors import ConfigError
from rlm.events import ModelReplied, RunStarted
from rlm.sandbox.values import encode
from rlm.store.event_log import to_json
from rlm.trajectory.event_reader import read_events
from rlm.trajectory.flatten import flatten
from rlm.trajectory.run_details import read_details
from rlm.trajectory.run_reader import find_run, read_run
from rlm.trajectory.view.page import write_page
from rlm.types import Message, Usage


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    directory = tmp_path / "rlm" / "runs" / "the-run"
    directory.mkdir(parents=True)
    event = RunStarted(query="q", depth=1, models={0: "m"}, context_bytes=3, run_id="the-run")
    (directory / "events.jsonl").write_text(to_json(event) + "\n")
    return directory


@pytest.mark.parametrize("name", ["the-run", "{run}", "{run}/", "{run}/events.jsonl"])
def test_a_run_is_found_by_its_id_and_by_its_path(name: str, run: Path) -> None:
    assert find_run(name.format(run=run)) == run


@pytest.mark.parametrize("name", ["another", "..", "", "/"])
def test_an_unknown_run_is_an_error_of_one_sentence(name: str, run: Path) -> None:
    with pytest.raises(ConfigError, match="No run named"):
        find_run(name)


def test_the_page_is_private_to_the_user_and_is_opened(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    result = CliRunner().invoke(cli.app, ["view", "the-run"])
    file = run / "view.html"
    assert result.output.replace("\n", "") == str(file)
    assert opened == [file.as_uri()]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_two_runs_go_into_one_file(run: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["view", "the-run", str(run), "--no-open", "-o", str(tmp_path / "two.html")])
    assert result.exit_code == 0
    assert "the-run and the-run" in (tmp_path / "two.html").read_text()


def test_an_unwritable_file_is_an_error_of_one_sentence(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--out"):
        write_page(tmp_path / "none" / "page.html", read_run(run))


def test_binary_events_are_an_error_of_one_sentence(run: Path) -> None:
    (run / "events.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="Cannot read"):
        read_run(run)


def test_limits_context_and_prompts_are_read_if_the_run_has_them(run: Path) -> None:
    assert read_details(run).context is None
    (run / "context.text").write_bytes("the context \ud800".encode("utf-8", "surrogatepass"))
    size = (run / "context.text").stat().st_size
    digest = sha256((run / "context.text").read_bytes()).hexdigest()
    stored = {"kind": "text", "file": "context.text", "size": size, "digest": digest}
    about = {"limits": {"max_calls": 7}, "context": stored}
    (run / "run.json").write_text(json.dumps(about))
    with closing(sqlite3.connect(run / "journal.sqlite")) as database, database:
        database.executescript(
            "CREATE TABLE calls (id INTEGER PRIMARY KEY, node TEXT, ordinal INTEGER, messages TEXT, text);"
            "CREATE TABLE messages (digest BLOB PRIMARY KEY, role TEXT, content TEXT);"
        )
        database.execute("INSERT INTO messages VALUES (x'ab', 'user', 'hello')")
        database.execute(
            "INSERT INTO calls VALUES (1, '0.1', 1, '[\"ab\"]', ?)", ["\ud800".encode("utf-8", "surrogatepass")]
        )
        database.execute("INSERT INTO calls VALUES (2, '0.2', 1, '[\"ab\"]', NULL)")
    details = read_details(run)
    assert details.context is not None
    assert details.context.text == "the context \ud800"
    assert details.limits == {"max_calls": 7}
    assert details.sent == {"0.1": [("\ud800", [Message(role="user", content="hello")])]}
    assert details.notes == ()


def test_unreadable_details_become_notes(run: Path) -> None:
    (run / "journal.sqlite").write_bytes(b"no database at all, but long enough to be looked at" * 20)
    (run / "run.json").write_text('{"context": {"kind": "file", "path": "/nowhere/at/all"}, "limits": 3}')
    details = read_details(run)
    assert details.limits == {}
    assert ["The context is not shown" in note for note in details.notes] == [True, False]
    assert "journal.sqlite" in details.notes[1]


@pytest.mark.parametrize("how", ["stored", "by path", "named"])
def test_a_context_of_many_texts_is_shown_with_the_path_of_each(run: Path, tmp_path: Path, how: str) -> None:
    texts: dict[str, str | bytes] = {
        "a/one.txt": "first line\nsecond line\n",
        "two.txt": "x" * 300,
        "three.bin": b"\xff\x00",
    }
    folder = tmp_path / "folder"
    (folder / "a").mkdir(parents=True)
    for name, content in texts.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    value = encode(folder if how == "by path" else texts)
    (run / "context.data").write_bytes(b"".join(value.pieces()))
    digest = sha256((run / "context.data").read_bytes()).hexdigest()
    stored = {"kind": "data", "file": "context.data", "size": value.size, "path": None, "digest": digest}
    about = {"kind": "folder", "file": None, "path": str(folder), "digest": digest} if how == "by path" else stored
    (run / "run.json").write_text(json.dumps({"context": about} if how != "named" else {}))
    context = read_details(run, folder if how == "named" else None).context
    assert context is not None
    for name, content in texts.items():
        shown = f":\n{content}" if isinstance(content, str) else ": 2 bytes (binary)"
        assert f"context['{name}']{shown}" in context.text


def test_a_file_that_changed_since_the_run_is_not_shown_as_its_context(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "app.log"
    file.write_text("one line")
    digest = sha256(b"one line").hexdigest()
    about = {"kind": "file", "size": 8, "digest": digest, "file": None, "path": str(file)}
    (run / "run.json").write_text(json.dumps({"context": about}))
    shown = read_details(run)
    assert (shown.context is not None, shown.notes) == (True, ())
    file.write_text("another!")
    changed = read_details(run)
    assert changed.context is None
    assert changed.notes == (f"The context is not shown: {file} has changed since the run.",)
    with pytest.raises(ConfigError, match="is not the run's context"):
        read_details(run, file)


@pytest.mark.parametrize(
    "about",
    [
        {"kind": "text", "size": 6, "file": "../secret.txt", "digest": sha256(b"secret").hexdigest()},
        {"kind": "text", "size": 6, "file": "context.text"},
        {"kind": "text", "size": 6, "file": "context.text", "digest": sha256(b"public").hexdigest()},
        {"path": "{secret}"},
        {"path": "{secret}", "digest": None},
    ],
)
def test_a_foreign_run_directory_cannot_put_a_local_file_on_the_page(run: Path, about: dict[str, Any]) -> None:
    secret = run.parent / "secret.txt"
    secret.write_text("secret")
    (run / "context.text").symlink_to(secret)
    if "path" in about:
        about = about | {"path": str(secret)}
    (run / "run.json").write_text(json.dumps({"context": about}))
    details = read_details(run)
    assert details.context is None
    assert [note.startswith("The context is not shown: ") for note in details.notes] == [True]


def test_numbers_share_a_line_and_each_short_text_has_its_own() -> None:
    assert flatten([1, 2.5, None]) == "context: [1, 2.5, null]"
    assert flatten([{"a": "b", 1: [True]}]) == "context[0]['a']: \"b\"\ncontext[0][1]: [true]"
    assert flatten(b"plain") == 'context: "plain"'


def test_a_missing_context_file_is_an_error_of_one_sentence(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="context"):
        read_details(run, tmp_path / "none.txt")


def test_a_binary_or_oversized_context_becomes_a_note(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "context"
    file.write_bytes(b"\xff\xff\xff\xff")
    assert "not text" in read_details(run, file).notes[0]
    monkeypatch.setattr("rlm.trajectory.run_details.MAX_CONTEXT_BYTES", 3)
    assert "larger" in read_details(run, file).notes[0]


def test_thinking_is_read_with_its_reply_and_empty_where_an_older_version_recorded_none() -> None:
    reply = ModelReplied(
        role="root", model="m", text="yes", finish_reason="stop", usage=Usage(), seconds=0.1, thinking="Is it? \ud800"
    )
    line = to_json(reply)
    older = json.dumps({name: value for name, value in json.loads(line).items() if name != "thinking"})
    first, second = read_events([line, older])
    assert isinstance(first, ModelReplied)
    assert isinstance(second, ModelReplied)
    assert (first.thinking, second.thinking) == ("Is it? \ud800", "")
    assert second.text == "yes"
