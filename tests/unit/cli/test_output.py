"""The answer on standard output; its exit status; what `-q` and `--json` change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from rlm.cli.commands.run import Watch
from rlm.cli.commands.runs import run_ids
from rlm.cli.output import aligned, show
from rlm.cli.progress import Lines, progress
from rlm.events import Event, ModelFailed, ModelReplied, RLMStarted, TurnStarted
from rlm.live.verbose import ConsoleView
from rlm.sandbox.docker.image import image_name
from rlm.types import Completion, StopReason, Usage


def completion(answer: str, stop_reason: StopReason = "final") -> Completion:
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
        run_dir=Path("runs/the-run"),
    )


def test_the_answer_alone_is_on_standard_output(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    show(completion("a\r\n\x1b[31m\ud800"), as_json=False, quiet=False)
    out, err = capsysbinary.readouterr()
    assert out == "a\r\n\x1b[31m\ud800\n".encode("utf-8", "surrogatepass")
    assert err == b"final after 1 turn: 1.5 s, 2 model calls, 1,234 + 5 tokens, cost $0.25; runs/the-run\n"


def test_a_terminal_gets_no_control_characters(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    show(completion("a\x1b[31m\u202eb"), as_json=False, quiet=True)
    assert capsys.readouterr() == ("a\\x1b[31m\\u202eb\n", "")


def test_json_is_one_object_that_holds_every_text(capsys: pytest.CaptureFixture[str]) -> None:
    show(completion("\ud800 ä"), as_json=True, quiet=True)
    said = json.loads(capsys.readouterr().out)
    assert (said["answer"], said["stop_reason"], said["cost_usd"]) == ("\ud800 ä", "final", 0.25)
    assert (said["usage"]["input_tokens"], said["run_id"], said["run_dir"]) == (1234, "the-run", "runs/the-run")


@pytest.mark.parametrize("as_json", [False, True])
def test_an_answer_that_a_limit_cut_short_has_a_status_of_its_own(
    as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended:
        show(completion("so far", "max_cost_usd"), as_json=as_json, quiet=True)
    said = capsys.readouterr()
    assert ended.value.exit_code == 3
    assert "so far" in said.out
    assert "(max_cost_usd): the answer is the best" in said.err


def test_where_there_is_no_answer_it_is_not_called_the_best(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        show(completion(" ", "max_tokens"), as_json=False, quiet=True)
    assert capsys.readouterr().err == "rlm: the run was stopped (max_tokens): it had no answer yet.\n"


def test_progress_is_nothing_or_a_line_a_turn_or_everything() -> None:
    assert progress(quiet=True, verbose=False) is None
    assert isinstance(progress(quiet=False, verbose=False), Lines)
    assert isinstance(progress(quiet=False, verbose=True), ConsoleView)


def replied(node: str, tokens: int) -> Event:
    usage = Usage(calls=1, input_tokens=tokens, output_tokens=1, cost_usd=0.5)
    return ModelReplied(node=node, role="sub", model="m", text="", finish_reason="stop", usage=usage, seconds=1)


def test_a_line_counts_what_the_whole_tree_has_used(capsys: pytest.CaptureFixture[str]) -> None:
    lines = progress(quiet=False, verbose=False)
    assert lines is not None
    started = RLMStarted(level=0, depth=1, model="m", sandbox="s", context_type="str", context_size=1)
    failed = ModelFailed(role="sub", model="m", error="e", usage=Usage(calls=1, input_tokens=7), seconds=1)
    for event in (started, replied("0", 1000), replied("0.1", 200), failed, TurnStarted(node="0.2", turn=1, of=9)):
        lines(event)
    lines(TurnStarted(turn=2, of=9))
    shown = capsys.readouterr().err
    assert shown.startswith("turn 2 of 9: ")
    assert shown.endswith(" s, 3 model calls, 1,207 + 2 tokens, cost $1, 1 sandbox\n")


ROWS = [("run", "calls", "question"), ("20260101-120000-aaaaaaaa", "12", "why did it fail, 漢字?"), ("b", "1,234", "")]


def test_a_table_cuts_its_last_column_alone_and_nothing_where_there_is_no_width() -> None:
    assert list(aligned(ROWS, to_the_right=(1,), width=None)) == [
        "run                       calls  question",
        "20260101-120000-aaaaaaaa     12  why did it fail, 漢字?",
        "b                         1,234",
    ]
    assert (
        list(aligned(ROWS, to_the_right=(1,), width=53))[1] == "20260101-120000-aaaaaaaa     12  why did it fail, 漢…"
    )
    assert list(aligned(ROWS, to_the_right=(1,), width=20))[1] == "20260101-120000-aaaaaaaa     12"


def test_there_is_advice_on_how_to_resume_once_the_context_is_kept() -> None:
    watch = Watch(Path("some runs"))
    assert watch.advice() == ""
    watch(TurnStarted(turn=1, of=9, run_id="id"))
    assert watch.advice() == "rlm: to go on with the run: rlm resume 'some runs/id'\n"


@pytest.mark.parametrize(("built", "said"), [(True, "ready"), (False, "up to date")])
def test_image_build_says_what_it_did(
    rlm: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, built: bool, said: str
) -> None:
    asked = []

    def ensure(extra: str | None, *, force: bool) -> bool:
        asked.append((extra, force))
        return built

    monkeypatch.setattr("rlm.sandbox.docker.build.ensure_image", ensure)
    ended = rlm("image", "build", "--extra", "numpy pandas", "--force")
    assert (ended.status, ended.out, ended.err) == (0, "", f"The image {image_name()} is {said}.\n")
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


def test_completion_is_silent_where_the_settings_are_wrong(here: Path) -> None:
    (here / "rlm.toml").write_text("wrong = 1")
    assert run_ids("") == []
