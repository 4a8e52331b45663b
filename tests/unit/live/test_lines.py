"""Off a terminal a run is a few lines, one for each important event, and none can control a terminal."""

import io
import os
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from rich.console import Console

from helpers.fake_controls import FakeControls
from helpers.synthetic_run import Clock, batch, call, rlm, synthetic_run
from rlm.events import CellStarted, ModelReplied, RLMFinished, RunResumed, SubCallFinished
from rlm.live import live_view
from rlm.live.lines import LineView
from rlm.live.verbose import VerboseView
from rlm.types import Usage


def lines(events: object, width: int = 80) -> list[str]:
    out = io.StringIO()
    view = LineView(Console(file=out, width=width))
    for event in events:  # type: ignore[attr-defined]
        view(event)
    return out.getvalue().splitlines()


def test_a_run_with_a_thousand_calls_prints_few_lines() -> None:
    assert lines(synthetic_run()) == [
        "0  RLM on gpt-5, sandbox abababababab, context: str of length 37,000,000",
        "0  turn 1 of 30",
        "0  turn 2 of 30: 3.3s, 1 model call, 4,400 tokens, cost $0.008",
        "0  cell 2: error: NameError: name 'parts' is not defined",
        "0  compacted 6 messages: so far",
        "0  turn 3 of 30: 5.9s, 2 model calls, 8,800 tokens, cost $0.016",
        "0.2.1  65 calls: 1 done, 64 running",
        "0  cell 3: ok; 3 RLMs: 2 done, 1 failed",
        "0  answer (final, 3 turns): Two figures changed.",
        "0  finished after 30.0s, 1,007 model calls, 1,320,000 tokens, cost $2.4",
    ]


def test_a_long_batch_says_how_far_it_is_every_ten_seconds() -> None:
    clock = Clock()
    events = [rlm("0", 0), CellStarted(cell=1, code=""), *batch(clock, "0", 10_000)]
    progress = [line for line in lines(events) if "calls:" in line]
    assert 5 <= len(progress) <= 11
    assert "running" in progress[1]


def test_texts_of_models_are_one_line_and_act_on_nothing() -> None:
    evil = "\x1b[2J[red]first[/]\nsecond"
    events = (
        rlm("0", 0),
        CellStarted(cell=1, code=""),
        call("0.1", "?", batch=0),
        SubCallFinished(node="0.1", ok=False, text=evil, seconds=1.0),
        RLMFinished(answer=evil, stop_reason="final", iterations=1),
    )
    assert lines(events)[1:] == [
        "0.1  failed: \\x1b[2J[red]first[/]",
        "0  answer (final, 1 turn): \\x1b[2J[red]first[/]",
    ]


def test_thinking_is_a_short_note_in_the_verbose_view_and_nothing_in_the_lines() -> None:
    reply = ModelReplied(
        role="root", model="m", text="yes", finish_reason="stop", usage=Usage(), seconds=1.0, thinking="Hm. " * 500
    )
    out = io.StringIO()
    verbose = VerboseView(Console(file=out, width=80))
    for event in (reply, replace(reply, thinking="")):
        verbose(event)
    assert out.getvalue() == "0  thought for 2,000 characters\n"
    assert lines([reply]) == []


def test_a_resumed_run_says_how_many_calls_it_has_and_how_many_lack_a_reply() -> None:
    assert lines([RunResumed(recorded=21, in_flight=19)]) == ["0  resumed with 21 recorded calls, 19 of them in flight"]
    assert lines([RunResumed(recorded=1, in_flight=0)]) == ["0  resumed with 1 recorded call"]


@pytest.mark.parametrize("colours", [True, False])
def test_a_file_gets_plain_lines_even_if_the_environment_forces_colours(colours: bool) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=colours, color_system=None, width=80)

    async def work() -> None:
        async with live_view(FakeControls(), console=console) as view:
            view(rlm("0", 0))

    anyio.run(work)
    assert out.getvalue() == "0  RLM on gpt-5, sandbox abababababab, context: str of length 37,000,000\n"


def test_a_reader_that_is_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    ours, theirs = os.openpty()

    async def work() -> None:
        with open(theirs, "w", encoding="utf-8") as file:
            async with live_view(FakeControls(), console=Console(file=file)) as view:
                view(rlm("0", 0))

    anyio.run(work)
    assert os.read(ours, 1_000) == b"0  RLM on gpt-5, sandbox abababababab, context: str of length 37,000,000\r\n"
    os.close(ours)


def test_the_lines_in_the_documentation_are_what_is_printed() -> None:
    page = (Path(__file__).parents[3] / "docs" / "live.md").read_text(encoding="utf-8")
    assert "\n".join(lines(synthetic_run())) in page
