"""The answer on standard output, its exit status, and the effect of `-q` and `--json`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer

from rlm.cli.commands.run import ResumeHint
from rlm.cli.commands.runs import run_ids
from rlm.cli.output import aligned, print_completion, stop_message
from rlm.cli.progress import progress_listener
from rlm.config import RAISABLE_LIMITS, Limits, SandboxConfig
from rlm.events import Event, ModelFailed, ModelReplied, RLMStarted, RunStarted, TurnStarted
from rlm.live.lines import LineView
from rlm.live.verbose import VerboseView
from rlm.sandbox.docker.image import image_name
from rlm.store.record import ModelRecord, RunRecord
from rlm.types import Completion, StopReason, Usage


def completion(answer: str, stop_reason: StopReason = "final", *, run_dir: Path = Path("runs/the-run")) -> Completion:
    return Completion(
        answer=answer,
        stop_reason=stop_reason,
        usage=Usage(calls=2, input_tokens=1234, output_tokens=5, cost_usd=0.25),
        seconds=1.5,
        iterations=1,
        depth_reached=1,
        sub_calls=1,
        sandboxes=1,
        run_id="the-run",
        run_dir=run_dir,
    )


def stopped(answer: str, stop_reason: StopReason, directory: Path) -> Completion:
    """A completion with the record of its run."""
    models = {0: ModelRecord(name="m", server=None)}
    record = RunRecord(
        run_id="the-run",
        state="finished",
        query="q",
        depth=0,
        models=models,
        limits=Limits(max_lm_calls=50),
        sandbox=SandboxConfig(),
        raised={"max_lm_calls": 60},
    )
    record.save(directory)
    return completion(answer, stop_reason, run_dir=directory)


def test_the_answer_alone_is_on_standard_output(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    print_completion(completion("a\r\n\x1b[31m\ud800"), run="the-run", as_json=False, quiet=False)
    out, err = capsysbinary.readouterr()
    assert out == "a\r\n\x1b[31m\ud800\n".encode("utf-8", "surrogatepass")
    assert err == b"Run directory: runs/the-run\n"


def test_a_terminal_gets_no_control_characters(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    print_completion(completion("a\x1b[31m\u202eb"), run="the-run", as_json=False, quiet=True)
    assert capsys.readouterr() == ("a\\x1b[31m\\u202eb\n", "")


def test_json_is_one_object_that_holds_every_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_completion(completion("\ud800 ä"), run="the-run", as_json=True, quiet=True)
    printed = json.loads(capsys.readouterr().out)
    assert (printed["answer"], printed["stop_reason"], printed["cost_usd"]) == ("\ud800 ä", "final", 0.25)
    assert (printed["usage"]["input_tokens"], printed["run_id"], printed["run_dir"]) == (
        1234,
        "the-run",
        "runs/the-run",
    )


@pytest.mark.parametrize("as_json", [False, True])
def test_an_answer_cut_short_by_a_limit_has_its_own_status(
    as_json: bool, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(typer.Exit) as ended:
        print_completion(stopped("so far", "max_lm_calls", tmp_path), run="my run", as_json=as_json, quiet=True)
    captured = capsys.readouterr()
    assert ended.value.exit_code == 3
    assert "so far" in captured.out
    assert captured.err == (
        "Stopped at the limit of 60 model calls. The answer may be incomplete.\n"
        "To continue: rlm resume 'my run' --max-lm-calls 120\n"
    )


def test_an_empty_answer_is_not_called_an_answer(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(typer.Exit):
        print_completion(stopped(" ", "max_iterations", tmp_path), run="the-run", as_json=False, quiet=True)
    assert capsys.readouterr().err == "Stopped at the limit of 30 turns. It has no answer yet.\n"


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        (
            "max_tokens",
            "Stopped at the limit of 1,000 tokens. The answer may be incomplete.\nTo continue: rlm resume id",
        ),
        ("max_cost_usd", "Stopped at the limit of $2.5. The answer may be incomplete.\nTo continue: rlm resume id"),
        (
            "max_seconds",
            "Stopped at the limit of 3,600 seconds. The answer may be incomplete.\nTo continue: rlm resume",
        ),
        ("max_rlms", "Stopped at the limit of 1,000 RLMs. The answer may be incomplete."),
        (
            "max_consecutive_errors",
            "Stopped after 10 turns without working code. The answer is the model's last reply.",
        ),
        ("stopped", "Stopped early at your request. The answer may be incomplete."),
    ],
)
def test_the_limit_that_stopped_a_run_and_how_to_continue_are_one_sentence_each(
    reason: StopReason, message: str
) -> None:
    limits = Limits(max_tokens=1000, max_cost_usd=2.5)
    notice = stop_message(completion("so far", reason), limits, run="id")
    assert notice.startswith(message)
    assert ("--" in notice) is (reason in RAISABLE_LIMITS)


def test_a_cost_without_a_price_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    done = replace(completion("a"), usage=Usage(calls=1, cost_usd=None))
    print_completion(done, run="the-run", as_json=False, quiet=False)
    assert "no price known" in capsys.readouterr().err


def test_progress_is_nothing_or_a_line_a_turn_or_everything() -> None:
    assert progress_listener(quiet=True, verbose=False) is None
    assert isinstance(progress_listener(quiet=False, verbose=False), LineView)
    assert isinstance(progress_listener(quiet=False, verbose=True), VerboseView)


def replied(node: str, tokens: int) -> Event:
    usage = Usage(calls=1, input_tokens=tokens, output_tokens=1, cost_usd=0.5)
    return ModelReplied(node=node, role="sub", model="m", text="", finish_reason="stop", usage=usage, seconds=1)


def test_a_line_counts_what_the_whole_tree_has_used(capsys: pytest.CaptureFixture[str]) -> None:
    lines = progress_listener(quiet=False, verbose=False)
    assert lines is not None
    started = RLMStarted(level=0, depth=1, model="m", sandbox="s", context_type="str", context_size=1)
    failed = ModelFailed(role="sub", model="m", error="e", usage=Usage(calls=1, input_tokens=7), seconds=1)
    for event in (started, replied("0", 1000), replied("0.1", 200), failed, TurnStarted(node="0.2", turn=1, of=9)):
        lines(event)
    lines(TurnStarted(turn=2, of=9))
    shown = capsys.readouterr().err
    assert shown.splitlines()[-1] == "0  turn 2 of 9: 0.0s, 3 model calls, 1,209 tokens, cost $1"


ROWS = [("run", "calls", "question"), ("20260101-120000-aaaaaaaa", "12", "why did it fail, 漢字?"), ("b", "1,234", "")]


def test_a_table_truncates_only_its_last_column_and_nothing_without_a_width() -> None:
    assert list(aligned(ROWS, right=(1,), width=None)) == [
        "run                       calls  question",
        "20260101-120000-aaaaaaaa     12  why did it fail, 漢字?",
        "b                         1,234",
    ]
    assert list(aligned(ROWS, right=(1,), width=53))[1] == "20260101-120000-aaaaaaaa     12  why did it fail, 漢…"
    assert list(aligned(ROWS, right=(1,), width=20))[1] == "20260101-120000-aaaaaaaa     12"


@pytest.mark.parametrize(("folder", "run"), [(Path("some runs"), "'some runs/id'"), (None, "id")])
def test_there_is_advice_on_how_to_resume_once_the_context_is_kept(folder: Path | None, run: str) -> None:
    hint = ResumeHint(folder)
    hint(RunStarted(query="q", depth=1, models={}, context_bytes=1, run_id="id"))
    assert hint.text() == ""
    hint(TurnStarted(turn=1, of=9, run_id="id"))
    assert hint.text() == f"To continue this run: rlm resume {run}\n"


@pytest.mark.parametrize(("built", "state"), [(True, "ready"), (False, "up to date")])
def test_image_build_reports_its_result(
    rlm: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, built: bool, state: str
) -> None:
    asked = []

    def ensure(extra: str | None, *, force: bool) -> bool:
        asked.append((extra, force))
        return built

    monkeypatch.setattr("rlm.sandbox.docker.build.ensure_image", ensure)
    ended = rlm("image", "build", "--extra", "numpy pandas", "--force")
    assert (ended.status, ended.out, ended.err) == (0, "", f"The image {image_name()} is {state}.\n")
    assert asked == [("numpy pandas", True)]


@pytest.mark.parametrize(("words", "completed"), [("rlm ru", ["run", "runs"]), ("rlm view 2026", ["2026-b", "2026-a"])])
def test_the_shell_completes_commands_and_the_ids_of_runs(
    rlm: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: str, completed: list[str]
) -> None:
    for name in ("2026-a", "2026-b", "2025"):
        (tmp_path / "state/rlm/runs" / name).mkdir(parents=True)
        (tmp_path / "state/rlm/runs" / name / "run.json").write_text("")
    for name, value in {
        "_RLM_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }.items():
        monkeypatch.setenv(name, value)
    ended = rlm()
    assert (ended.status, ended.out.split()) == (0, completed)


def test_shell_completion_is_silent_if_the_settings_are_invalid(here: Path) -> None:
    (here / "rlm.toml").write_text("wrong = 1")
    assert run_ids("") == []
