"""User errors: each is one sentence on standard error with exit status 2, and nothing else."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from rlm import cli
from rlm.cli.commands import run
from rlm.errors import ConfigError, EngineUnavailable, JournalError, ModelError
from rlm.store.directory import default_root

RLM = Callable[..., Any]  # the fixture


def is_one_sentence(ended: Any, sentence: str) -> bool:
    return (ended.status, ended.out) == (2, "") and ended.err.count("\n") == 1 and sentence in ended.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], 'Missing question. Usage: rlm run "What went wrong?" app.log'),
        ([" ", "context.txt"], "Missing question."),
        (["why?"], "Missing context: a file, a folder, or - for standard input."),
        (["why?", "none.txt"], "No such file or folder: none.txt"),
        (["why?", "empty.txt"], "The file empty.txt is empty"),
        (["why?", "folder"], "The folder folder contains no files"),
        (
            ["why?", "context.txt", "--max-seconds", "0"],
            "Invalid --max-seconds '0': use a number above 0, or `none` for no limit.",
        ),
        (
            ["why?", "context.txt", "--max-lm-calls", "some"],
            "Invalid --max-lm-calls 'some': must be a valid integer.",
        ),
        (["why?", "context.txt", "--depth", "-1"], "Invalid --depth '-1': must be greater than or equal to 0"),
        (["why?", "context.txt", "--transport", "tcp"], "Invalid --transport 'tcp': must be 'attach' or 'unix'"),
        (["why?", "context.txt", "-q", "-v"], "--quiet and --verbose are mutually exclusive."),
    ],
)
def test_usage_errors_of_rlm_run(rlm: RLM, here: Path, arguments: list[str], sentence: str) -> None:
    (here / "context.txt").write_text("text")
    (here / "empty.txt").write_text("")
    (here / "folder/in").mkdir(parents=True)
    (here / "folder/link").symlink_to(here / "context.txt")
    assert is_one_sentence(rlm("run", *arguments), sentence)
    assert not default_root().exists()


class Stdin:
    """Standard input with some bytes, or a terminal."""

    def __init__(self, data: bytes = b"", *, terminal: bool = False) -> None:
        self.buffer = io.BytesIO(data)
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def test_a_terminal_as_standard_input(rlm: RLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(terminal=True))
    assert is_one_sentence(rlm("run", "why?", "-"), "Standard input is a terminal: pipe the context in")


def test_a_closed_standard_input(rlm: RLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert is_one_sentence(rlm("run", "why?", "-"), "Standard input is closed")


@pytest.mark.parametrize(("arguments", "what"), [(["-"], "script"), (["x.py", "--input", "-"], "input")])
def test_a_closed_standard_input_of_rlm_exec(
    rlm: RLM, here: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], what: str
) -> None:
    (here / "x.py").touch()
    monkeypatch.setattr(sys, "stdin", None)
    assert is_one_sentence(rlm("exec", *arguments), f"Standard input is closed: pipe the {what} in, or name a file.")


def test_a_script_that_is_not_text_from_any_source(rlm: RLM, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "x.py").write_bytes(b"\xff")
    monkeypatch.setattr(sys, "stdin", Stdin(b"\xff"))
    assert is_one_sentence(rlm("exec", "x.py"), "The script x.py is not UTF-8 text: use a Python file.")
    assert is_one_sentence(rlm("exec", "-"), "The script on standard input is not UTF-8 text: use a Python file.")


def test_the_home_of_an_unknown_user(rlm: RLM, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    why = "'~nobody.here/x': must be a folder; ~nobody.here is not the home of a user."
    assert is_one_sentence(rlm("runs", "--runs", "~nobody.here/x"), f"Invalid --runs {why}")
    (here / "rlm.toml").write_text('run_root = "~nobody.here/x"')
    assert is_one_sentence(rlm("runs"), "Invalid run_root '~nobody.here/x' in rlm.toml: must be a folder; ~nobody")
    monkeypatch.setenv("RLM_RUN_ROOT", "~nobody.here/x")
    assert is_one_sentence(rlm("doctor"), f"Invalid RLM_RUN_ROOT {why}")


def test_an_empty_standard_input(rlm: RLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin())
    assert is_one_sentence(rlm("run", "why?", "-"), "Standard input is empty")


def test_standard_input_is_read_up_to_the_context_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin("ab\r\nä".encode()))
    assert run.read_context("-", max_bytes=100) == "ab\r\nä"
    monkeypatch.setattr(sys, "stdin", Stdin(b"\xff" * 200))
    assert run.read_context("-", max_bytes=None) == b"\xff" * 200
    monkeypatch.setattr(sys, "stdin", Stdin(b"\xff" * 200))
    with pytest.raises(ConfigError, match="Standard input is larger than the limit of 100 bytes: raise it with --max"):
        run.read_context("-", max_bytes=100)
    assert sys.stdin.buffer.tell() == 101


def test_a_context_may_be_a_named_pipe(here: Path) -> None:
    os.mkfifo(here / "pipe")
    writer = Thread(target=(here / "pipe").write_text, args=["text"])
    writer.start()
    assert run.read_context("pipe", max_bytes=100) == "text"
    writer.join()


def test_a_folder_or_file_that_cannot_be_read(rlm: RLM, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "folder").mkdir()

    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as closed:
        closed.setattr(os, "scandir", refuse)
        assert is_one_sentence(rlm("run", "why?", "folder"), "Cannot read the context folder: Permission denied.")
    assert is_one_sentence(rlm("run", "why?", "x" * 300), "x: File name too long.")


@pytest.mark.parametrize(
    ("error", "message", "status"),
    [
        (ModelError("answered 404: no such model", status=404), "(check the model's name, --model or RLM_MODEL", 2),
        (ModelError("answered 401", status=401), "(check OPENAI_API_KEY)", 2),
        (ModelError("answered 500", status=500), "rlm: answered 500\n", 1),
        (EngineUnavailable("No engine."), "rlm: No engine.\n", 2),
        (JournalError("No room."), "rlm: No room.\n", 1),
    ],
)
def test_every_error_of_a_run_has_its_message_and_status(
    rlm: RLM, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str, status: int
) -> None:
    def fails(**options: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fails)
    ended = rlm()
    assert (ended.status, ended.err.count("\n")) == (status, 1)
    assert message in ended.err


def test_the_notes_of_an_error_follow_it(rlm: RLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(**options: object) -> None:
        error = ModelError("answered 500", status=500)
        error.add_note("To continue this run: rlm resume x")
        raise error

    monkeypatch.setattr(cli, "app", fails)
    assert rlm().err == "rlm: answered 500\nTo continue this run: rlm resume x\n"


@pytest.mark.parametrize(
    "command",
    [["runs"], ["doctor"], ["clean"], ["resume", "x"], ["view", "x"], ["run", "why?", "rlm.toml"], ["exec", "x"]],
)
def test_a_wrong_rlm_toml_is_one_sentence_whatever_the_command(rlm: RLM, here: Path, command: list[str]) -> None:
    (here / "rlm.toml").write_text("detph = 2")
    assert is_one_sentence(rlm(*command), "Unknown setting detph in rlm.toml (did you mean depth?).")


@pytest.mark.parametrize(
    "command",
    [
        ["runs"],
        ["doctor"],
        ["clean"],
        ["resume", "x"],
        ["view", "x"],
        ["run", "why?", "rlm.toml"],
        ["exec", "x"],
        ["niah"],
    ],
)
def test_a_dotenv_that_cannot_be_read_is_one_sentence_whatever_the_command(
    rlm: RLM, here: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    (here / ".env").write_text("A=b\n\n\nsk-1 is my key\n")
    assert is_one_sentence(rlm(*command), "rlm: .env, line 4: expected NAME=VALUE.")
    (here / ".env").write_bytes(b"\xff\xfeA=b")
    assert is_one_sentence(rlm(*command), ".env is not UTF-8 text: recreate or delete it.")

    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", ".env")

    (here / ".env").write_text("A=b")
    monkeypatch.setattr("pydantic_settings.sources.providers.dotenv.dotenv_values", refuse)
    assert is_one_sentence(rlm(*command), "Cannot read .env: Permission denied.")


def test_ambiguous_id_prefixes_are_one_sentence_that_names_the_ids(rlm: RLM) -> None:
    for name in ("20260101-a", "20260101-b", "evaluation/20260102-c"):
        (default_root() / name).mkdir(parents=True)
        (default_root() / name / "run.json").write_text("{}")
    for command in (["resume"], ["replay"], ["view"], ["export", "--to", "md"]):
        sentence = "'20260101' matches 2 runs. Use a longer prefix, for example 20260101-a, 20260101-b."
        assert is_one_sentence(rlm(*command, "20260101"), sentence)
        assert is_one_sentence(rlm(*command, "3"), "No run named '3' in ")


@pytest.mark.parametrize("command", [["runs"], ["view", "x"], ["resume", "x"], ["clean", "--older-than", "1d"]])
def test_a_working_directory_that_was_removed_is_one_sentence(rlm: RLM, here: Path, command: list[str]) -> None:
    here.rmdir()
    assert is_one_sentence(rlm(*command), "rlm: The working directory was removed. Change to another directory.")


def test_usage_errors_of_rlm_clean(rlm: RLM) -> None:
    assert is_one_sentence(
        rlm("clean", "--older-than", "3"),
        "Invalid age '3' for --older-than. Use a number and m, h, d or w, such as 30d.",
    )


def test_a_missing_key_is_reported_before_a_run_directory_exists(
    rlm: RLM, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Engine:
        async def check_image(self, image: str) -> None:
            """The image exists."""

    monkeypatch.setattr("rlm.sandbox.docker.engine.default_engine", Engine)
    (here / "context.txt").write_text("text")
    assert is_one_sentence(rlm("run", "why?", "context.txt"), "No API key found: set OPENAI_API_KEY")
    assert not default_root().exists()
