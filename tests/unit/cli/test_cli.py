"""User errors give one sentence and a status, and lose nothing."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from rlm import cli


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "RLM_MODEL", "RLM_SUB_MODEL"):
        monkeypatch.delenv(name, raising=False)


def status_of(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    monkeypatch.setattr(sys, "argv", ["rlm", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def test_a_missing_key_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(monkeypatch, "niah", "--model", "gpt-5", "--lines", "100") == 2
    errors = capsys.readouterr().err
    assert "OPENAI_API_KEY" in errors
    assert "Traceback" not in errors


def test_an_empty_list_of_runs_names_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(monkeypatch, "runs", "--runs", str(tmp_path)) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"No runs in {tmp_path} yet.\n")


def test_results_are_never_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results.jsonl").write_text("old")
    assert status_of(monkeypatch, "niah", "--out", str(tmp_path)) == 2
    assert "another folder" in capsys.readouterr().err
    assert (tmp_path / "results.jsonl").read_text() == "old"


def test_a_folder_that_cannot_be_made_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert status_of(monkeypatch, "niah", "--out", str(tmp_path / "file" / "out")) == 2
    assert "Cannot write results" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--trials", "0"], ["--lines", "x"], ["--depth", "-1"], ["--facts", "99"]])
def test_a_number_out_of_range_is_refused(wrong: list[str]) -> None:
    result = CliRunner().invoke(cli.app, ["niah", *wrong])
    assert result.exit_code == 2
    assert "Invalid value" in result.output


def commands(command: Any, *names: str) -> Iterator[tuple[str, Any]]:
    yield " ".join(names), command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, *names, name)


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        (name, parameter)
        for name, command in commands(typer.main.get_command(cli.app))
        for parameter in command.params
        if "otel" not in (parameter.help or "")  # such a help text starts with the format it belongs to
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_the_help_of_an_option_is_a_phrase_with_a_capital(name: str, parameter: Any) -> None:
    assert parameter.help[0].isupper(), f"rlm {name}: {parameter.help}"
