"""`rlm doctor` shows whole values, and tries everything that it reports as ok."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlm.errors import EngineUnavailable

RLM = Callable[..., Any]  # the fixture


@pytest.fixture(autouse=True)
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise EngineUnavailable("No engine.")

    monkeypatch.setattr("rlm.cli.commands.checks.default_engine", refuse)


def found(rlm: RLM, part: str) -> tuple[str, str]:
    ended = rlm("doctor", "--json")
    assert ended.status == 1
    return next((each["state"], each["text"]) for each in json.loads(ended.out)["findings"] if each["part"] == part)


def test_an_unwritable_run_folder_is_a_problem(here: Path, rlm: RLM, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "file").touch()
    (here / "link").symlink_to("nowhere")
    for place in ("file", "file/below", "link", "link/below"):
        monkeypatch.setenv("RLM_RUN_ROOT", str(here / place))
        state, text = found(rlm, "disk")
        assert (state, text.startswith(f"cannot write runs to {here / place} (")) == ("problem", True)
        assert text.endswith("set RLM_RUN_ROOT to another folder")
    monkeypatch.setenv("RLM_RUN_ROOT", str(here / "new/below"))
    assert found(rlm, "disk")[0] == "ok"
    assert {path.name for path in here.iterdir()} == {"file", "link"}

    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "mkdir", refuse)
    assert found(rlm, "disk") == (
        "problem",
        f"cannot write runs to {here}/new/below ({here}: Permission denied): set RLM_RUN_ROOT to another folder",
    )


@pytest.mark.parametrize(("variable", "part"), [("OPENAI_BASE_URL", "models"), ("RLM_SUB_BASE_URL", "calls")])
def test_an_invalid_address_is_a_problem(rlm: RLM, monkeypatch: pytest.MonkeyPatch, variable: str, part: str) -> None:
    monkeypatch.setenv(variable, "nonsense")
    state, text = found(rlm, part)
    assert (state, variable in text) == ("problem", True)


def test_off_a_terminal_every_value_is_whole_and_on_its_line(
    here: Path, rlm: RLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = here / ("x" * 100) / ("y" * 100)
    monkeypatch.setenv("RLM_RUN_ROOT", str(root))
    monkeypatch.setenv("COLUMNS", "60")
    lines = rlm("doctor").out.splitlines()
    assert any(line.split() == ["run_root", str(root), "environment"] for line in lines)
    assert any(line.startswith("✓ disk    ") and line.endswith(str(root)) for line in lines)
    assert "…" not in "".join(lines)


def test_long_lines_wrap_on_a_narrow_terminal(here: Path, rlm: RLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLM_RUN_ROOT", str(here / ("x" * 100)))
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("rlm.cli.commands.doctor.sys.stdout.isatty", lambda: True)
    lines = rlm("doctor").out
    assert "…" not in lines
    assert lines.count("x") >= 200  # in the settings, and as a finding
