"""A frame fits its screen, shows what happens, and contains nothing that can control the terminal."""

import io
import re
from itertools import islice
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from helpers.fake_controls import FakeControls
from helpers.synthetic_run import Clock, answered, batch, call, rlm, synthetic_run
from rlm._util.text import duration, short_dollars, short_number
from rlm.config import Limits
from rlm.events import (
    CellFinished,
    CellOutput,
    CellStarted,
    Event,
    ModelFailed,
    RLMStarted,
    RunStarted,
    SandboxLost,
)
from rlm.live.frame import draw, summary, take_snapshot
from rlm.live.keys import Keys
from rlm.live.meters import Meter, meters
from rlm.live.tree import RunState
from rlm.types import CellResult

BUSY = 2_050  # events, after which most of the batch of the synthetic run is done


def tree_of(*events: Event) -> RunState:
    tree = RunState()
    for event in events:
        tree(event)
    return tree


def frame(
    tree: RunState,
    width: int = 100,
    height: int = 40,
    *,
    limits: Limits | None = None,
    paused: bool = False,
    later: float = 0.0,
) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True)
    now = tree.latest + later
    seconds = 0.0 if tree.started is None else now - tree.started
    totals = meters(tree, limits or Limits(), seconds=seconds)
    picture = take_snapshot(tree, totals, now=now, height=height, width=width, paused=paused)
    footer = Keys(FakeControls()).footer(picture.meters)
    lines = draw(picture, console, width=width, height=height, footer=footer)
    return ["".join(segment.text for segment in line) for line in lines]


@pytest.mark.parametrize("width", [1, 7, 30, 60, 80, 100, 140, 200])
@pytest.mark.parametrize("height", [1, 4, 10, 24, 50, 120])
@pytest.mark.parametrize("events", [0, 1, 12, 30, 700, BUSY, 10_000])
def test_a_picture_has_the_size_of_its_screen(width: int, height: int, events: int) -> None:
    tree = tree_of(*islice(synthetic_run(), events))
    for node in ("0.7", "0.8"):
        tree(call(node, "漢字" * 60, batch=9))
    lines = frame(tree, width, height)
    assert len(lines) == height
    assert {cell_len(line) for line in lines} == {width}


def test_every_level_of_a_busy_tree_is_seen_with_its_counts_on_a_small_screen() -> None:
    lines = "\n".join(frame(tree_of(*islice(synthetic_run(), BUSY)), 80, 24))
    for shown in (
        "● 0 gpt-5  turn 3/30 · cell 3, 2 calls pending",
        "3 RLMs: 1 done, 2 running",
        "● 0.2 gpt-5",
        "● 0.2.1 gpt-5",
        "714 calls: 641 done, 9 failed, 64 running",
        "✗ 0.2.1.644",
        "0.2.1 cell 1 running",
        "answers = llm_batch(prompts, recurse=False)",
        "part 643 failed: 503",
        "647 of 10,000",
    ):
        assert shown in lines


def test_the_picture_in_the_documentation_is_what_is_drawn() -> None:
    tree = tree_of(*islice(synthetic_run(), BUSY))
    lines = frame(tree, 80, 30, limits=Limits(max_cost_usd=3.0), later=0.7)
    page = (Path(__file__).parents[3] / "docs" / "live.md").read_text(encoding="utf-8")
    assert "\n".join(line.rstrip() for line in lines) in page


def test_many_concurrent_rlms_fit_and_each_shown_one_has_its_step() -> None:
    clock = Clock()
    calls = [clock.after(0.1, call(f"0.{number}", "?", batch=1, recursive=True)) for number in range(1, 1_001)]
    running = [clock.after(0.1, rlm(f"0.{number}", 1)) for number in range(1, 17)]
    lines = frame(tree_of(rlm("0", 0), CellStarted(cell=1, code="llm_batch(...)"), *calls, *running), 100, 40)
    text = "\n".join(lines)
    assert "1,000 RLMs: 1,000 running" in text
    assert "0.1 gpt-5  ready" in text
    assert "0.1000" not in text


def test_errors_compactions_and_lost_sandboxes_are_marked_where_they_happened() -> None:
    lines = frame(tree_of(*islice(synthetic_run(), BUSY)), 140)
    assert any("● 0 gpt-5" in line and "1 error · 1 compaction" in line for line in lines)
    assert any("0.2 gpt-5" in line and "1 lost sandbox" in line for line in lines)


def test_the_error_of_a_cell_is_shown_below_what_it_printed() -> None:
    result = CellResult(outcome="error", stdout="before\n", error="Traceback ...\nKeyError: 'x'")
    tree = tree_of(rlm("0", 0), CellStarted(cell=1, code="d['x']"), CellFinished(cell=1, result=result))
    lines = [line.strip() for line in frame(tree)]
    assert lines.index("before") < lines.index("KeyError: 'x'")
    assert any("cell 1 error after" in line for line in lines)


def test_long_code_shows_its_beginning_and_long_output_its_end() -> None:
    code = "\n".join(f"x{number} = {number}" for number in range(100))
    output = CellOutput(cell=1, stream="stdout", text="\n".join(f"out {number}" for number in range(100)))
    text = "\n".join(frame(tree_of(rlm("0", 0), CellStarted(cell=1, code=code), output), 80, 30))
    assert "x0 = 0" in text
    assert "out 99" in text
    assert re.search(r"output \(\d+ more lines of code above\)", text)


def test_of_a_line_that_overwrites_itself_the_last_state_is_shown() -> None:
    output = CellOutput(cell=1, stream="stdout", text="10%\r20%\r30%\r\ndone")
    lines = [line.strip() for line in frame(tree_of(rlm("0", 0), CellStarted(cell=1, code="x"), output))]
    assert "30%" in lines
    assert "done" in lines


def test_nothing_hostile_reaches_the_terminal() -> None:
    evil = "\x1b[2J\x1b]0;title\x07\x9b31m\u202e\ud800[bold red]x[/] \r\n\x1b[H"
    clock = Clock()
    events = (
        RunStarted(query=evil, depth=1, models={0: evil}, context_bytes=1),
        RLMStarted(level=0, depth=1, model=evil, sandbox=evil, context_type=evil, context_size=1),
        CellStarted(cell=1, code=evil),
        CellOutput(cell=1, stream="stdout", text=evil),
        call("0.1", evil, batch=0),
        ModelFailed(node="0.1", role="sub", model=evil, error=evil, usage=None, seconds=0),
        answered("0.1", ok=False),
        call("0.2", evil, batch=1),
        SandboxLost(sandbox=evil, reason=evil, replacement=evil),
        CellFinished(cell=1, result=CellResult(outcome="error", stderr=evil, error=evil)),
    )
    tree = tree_of(*(clock.after(0.1, event) for event in events))
    shown = "".join(frame(tree, 200, 60))
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", shown)
    assert "[bold red]x[/]" in shown


def test_totals_with_limits_are_bars_and_others_plain_numbers() -> None:
    tree = tree_of(*islice(synthetic_run(), BUSY))
    text = "\n".join(frame(tree, 140, 30, limits=Limits(max_cost_usd=2.66, max_lm_calls=None)))
    assert "dollars ━━━━━───── $1.33" in text
    assert "$1.33 of $2.66" in text
    assert re.search(r"calls +647  ", text)


@pytest.mark.parametrize("width", [30, 36, 40, 60, 80, 100, 140, 200])
def test_a_number_is_seen_whole_or_not_at_all(width: int) -> None:
    tree = tree_of(*islice(synthetic_run(), BUSY))
    limits = Limits(max_cost_usd=1_234_567.5, max_tokens=10_000, max_seconds=1_000_000)
    totals = meters(tree, limits, seconds=tree.latest - (tree.started or 0.0))
    lines = frame(tree, width, 40, limits=limits)
    for meter in totals:
        assert any(re.search(rf"{meter.name} [ ━─]*{re.escape(meter.text)}( |$)", line) for line in lines), meter


def test_totals_that_need_more_lines_cover_no_row_of_the_tree() -> None:
    tree = tree_of(*islice(synthetic_run(), BUSY))
    picture = take_snapshot(tree, meters(tree, Limits(), seconds=1.0), now=tree.latest, height=16, width=30)
    assert len(picture.rows) == 16 - 3 - len(picture.meters) - 1
    assert frame(tree, 30, 16)[3 + len(picture.rows)].startswith("calls")


def test_a_pause_is_seen_at_once() -> None:
    tree = tree_of(rlm("0", 0))
    assert "PAUSED" in frame(tree, paused=True)[0]
    assert "PAUSED" not in frame(tree)[0]


def test_the_summary_left_at_the_end_is_the_tree_with_totals_and_no_cell() -> None:
    tree = tree_of(*synthetic_run())
    picture = take_snapshot(
        tree, meters(tree, Limits(), seconds=30.0), now=tree.latest, height=26, footer=0, with_cell=False
    )
    text = "\n".join("".join(segment.text for segment in line) for line in summary(picture, 100))
    assert "final after 26.9s" in text
    assert "✓ 0 gpt-5  3 turns" in text
    assert "3 RLMs: 2 done, 1 failed" in text
    assert "llm_batch" not in text


def test_batches_of_the_past_become_one_line() -> None:
    clock = Clock()
    tree = tree_of(rlm("0", 0))
    for number in range(1, 41):
        tree(CellStarted(cell=number, code=""))
        for event in batch(clock, "0", 2):
            tree(event)
        tree(CellFinished(cell=number, result=CellResult(outcome="ok")))
    text = "\n".join(frame(tree, 80, 24))
    assert re.search(r"\b\d+ calls: \d+ done", text)
    assert text.count("calls:") < 12


def test_an_unknown_price_is_not_shown_as_zero() -> None:
    def shown(used: float, *, unknown: bool) -> str:
        return Meter(name="dollars", field="max_cost_usd", key="d", used=used, limit=None, unknown=unknown).text

    assert [shown(1.5, unknown=False), shown(1.5, unknown=True), shown(0, unknown=True), shown(0, unknown=False)] == [
        "$1.50",
        "≥$1.50",
        "price unknown",
        "$0",
    ]


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ([short_number(number) for number in (0, 999, 1_000, 12_345, 999_999)], "0 999 1.00k 12.3k 1.00M"),
        (
            [short_dollars(amount) for amount in (0, 0.00001, 0.0042, 1.25, 1234.5)],
            "$0 <$0.0001 $0.0042 $1.25 $1,234.50",
        ),
        ([duration(seconds) for seconds in (9.14, 192, 3_720, 7_260)], "9.1s 3m12s 62m00s 2h01m"),
    ],
)
def test_numbers_are_short(shown: list[str], expected: str) -> None:
    assert " ".join(shown) == expected
