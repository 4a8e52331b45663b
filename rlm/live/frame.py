"""One frame of the live view: a snapshot of the run's state, and the screen lines drawn from it. No I/O and no clock.

`take_snapshot` is quick, so a lock may be held around it; `draw` takes longer. No line is wider than the screen, and no
text can control the terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from rich.syntax import Syntax

from rlm._util.text import duration, first_line, printable, quantity, short_number

from .meters import Meter, at_least
from .nodes import Cell, State
from .rows import Row, rows
from .tree import RunState

Line = list[Segment]
Styled = tuple[str, str]  # text, style
Footer = Sequence[Sequence[Styled]]

MIN_CELL_LINES: Final = 5  # two titles, code and output; a smaller cell is useless
METER_WIDTH: Final = 33  # columns for a name, a bar and `1,234 of 10,000`
NAME_WIDTH: Final = 8  # columns for a meter's name
CODE_WIDTH: Final = 400  # characters of a line to highlight: wider than any screen
MARKS: Final[dict[State, Styled]] = {"open": ("●", "cyan"), "done": ("✓", "green"), "failed": ("✗", "red")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The data of one frame. `cell` is a copy of the cell of the node named `focus`."""

    title: str
    question: str
    status: Styled
    rows: list[Row]
    focus: str
    cell: Cell | None
    meters: list[Meter]
    now: float


def take_snapshot(
    state: RunState,
    totals: list[Meter],
    *,
    now: float,
    height: int,
    width: int = 80,
    paused: bool = False,
    footer: int = 1,
    with_cell: bool = True,
) -> Snapshot:
    """A snapshot for a screen of `height` lines, of which the footer takes `footer`. `now` is on the clock of the events."""
    node = state.focus
    cell = None if node is None or node.loop is None else node.loop.cell
    room = height - footer - 3 - len(_meters(totals, width))  # title, question, headings and meters
    tree_only = not with_cell or cell is None or state.ended is not None or room < MIN_CELL_LINES + 4
    for_cell = 0 if cell is None or tree_only else min(_cell_height(cell), room * 9 // 20)
    visible = rows(state, now=now, height=max(1, room - for_cell))
    return Snapshot(
        title=printable(state.run_id),
        question=first_line(state.query or "", 400),
        status=_status(state, now=now, paused=paused),
        rows=visible,
        focus="" if node is None or tree_only else node.name,
        cell=None if cell is None or tree_only else replace(cell),
        meters=totals,
        now=now,
    )


def _cell_height(cell: Cell) -> int:
    """Lines for the whole cell, a few of them reserved for output so that the tree does not jump when output starts."""
    output = (cell.output + cell.error).count("\n") + 1
    return 2 + cell.code.count("\n") + 1 + max(4, output)


def _status(state: RunState, *, now: float, paused: bool) -> Styled:
    if state.started is None:
        return "starting", "cyan"
    seconds = duration(max(0.0, (state.ended or now) - state.started))
    if state.error is not None:
        return f"{first_line(state.error, 80)} after {seconds}", "bold red"
    if state.ended is not None:
        style = "bold green" if state.stop_reason == "final" else "yellow"
        return f"{state.stop_reason or 'ended'} after {seconds}", style
    return (f"PAUSED · {seconds}", "bold yellow") if paused else (f"running {seconds}", "bold cyan")


def draw(snapshot: Snapshot, console: Console, *, width: int, height: int, footer: Footer) -> list[Line]:
    """Exactly `height` lines of `width` columns, the footer at the bottom."""
    top = [*_title(snapshot, width), *_table(snapshot.rows, width)]
    bottom = [*_meters(snapshot.meters, width), *([_line(parts, width) for parts in footer])]
    room = height - len(top) - len(bottom)
    middle = [] if snapshot.cell is None else _cell(snapshot.focus, snapshot.cell, snapshot.now, console, width, room)
    blank = [[Segment(" " * width)]] * (room - len(middle))
    return (
        [*top, *middle, *blank, *bottom][-height:]
        if room >= 0
        else [*top[: max(0, height - len(bottom))], *bottom][:height]
    )


def summary(snapshot: Snapshot, width: int) -> list[Line]:
    """The lines left on the terminal after the run."""
    return [*_title(snapshot, width), *_table(snapshot.rows, width), *_meters(snapshot.meters, width)]


@lru_cache(maxsize=256)
def _style(name: str) -> Style:
    return Style.parse(name)


def _line(parts: Sequence[Styled], width: int) -> Line:
    """A line of exactly this width; an ellipsis marks a cut."""
    return _padded(tuple(parts), width)


@lru_cache(maxsize=512)
def _padded(parts: tuple[Styled, ...], width: int) -> Line:
    """Cached, as most lines of a frame equal those of the frame before."""
    line: Line = []
    left = width
    for text, style in parts:
        size = cell_len(text)
        if size > left:
            line.append(Segment(set_cell_size(text, max(0, left - 1)) + "…" * (left > 0), _style(style)))
            return line
        if text:
            line.append(Segment(text, _style(style)))
            left -= size
    if left:
        line.append(Segment(" " * left))
    return line


def _justified(left: Sequence[Styled], right: Sequence[Styled], width: int) -> Line:
    """A line with a left-aligned and a right-aligned part."""
    space = max(0, width - sum(cell_len(text) for text, _ in right))
    return [*_line(left, space), *_line(right, min(width, width - space))]


def _title(snapshot: Snapshot, width: int) -> list[Line]:
    status, style = snapshot.status
    left: list[Styled] = [("rlm ", "bold"), (snapshot.title, "dim")]
    right: list[Styled] = [(" ", ""), (status, style)]
    lines = [_justified(left, right, width)]
    return [*lines, _line([(snapshot.question, "italic")], width)] if snapshot.question else lines


def _columns(width: int) -> list[tuple[str, int]]:
    """The columns that fit, with their widths."""
    numbers = [("tokens", 7), ("cost", 9), ("time", 7)]
    return [("calls", 6), *numbers] if width >= 80 else numbers


def _table(visible: Sequence[Row], width: int) -> list[Line]:
    columns = _columns(width)
    right = sum(size for _, size in columns)
    headings: list[Styled] = [(f"{name:>{size}}", "dim") for name, size in columns]
    models = min(28, max(10, width // 6))
    return [
        _justified([], headings, width),
        *(_justified(_label(row, models), _numbers(row, columns), width) for row in visible if right <= width),
    ]


def _label(row: Row, models: int) -> list[Styled]:
    mark, style = MARKS[row.state]
    model = row.model if cell_len(row.model) <= models else set_cell_size(row.model, models - 1) + "…"
    text = "red" if row.state == "failed" else "" if row.state == "open" else "dim"
    name: Styled = (f"{row.name} ", "bold")
    label: list[Styled] = [(row.guide, "dim"), (f"{mark} ", style)]
    if row.name:
        return [*label, name, (f"{model}  ", "magenta"), (row.text, text)]
    return [*label, (row.text, "bold" if row.state == "open" else text), (f"  {model}", "magenta")]


def _numbers(row: Row, columns: Sequence[tuple[str, int]]) -> list[Styled]:
    used = row.used
    cost = "?" if used.unknown and not used.dollars else at_least(used.dollars, unknown=used.unknown)
    values = {
        "calls": (f"{used.calls:,}" if used.calls < 10_000 else short_number(used.calls)) if used.calls else "",
        "tokens": short_number(used.tokens) if used.calls else "",
        "cost": cost if used.calls else "",
        "time": duration(row.seconds),
    }
    return [(f"{values[name]:>{size}}", "dim" if row.state == "done" else "") for name, size in columns]


def _cell(focus: str, cell: Cell, now: float, console: Console, width: int, room: int) -> list[Line]:
    """A cell in at most `room` lines: the start of its code and the end of its output."""
    if room < MIN_CELL_LINES:
        return []
    output = [(line, "") for line in _lines(cell.output)] + [(line, "red") for line in _lines(cell.error)]
    code = cell.code.rstrip().split("\n")
    for_output = min(len(output), max(1, (room - 2) // 2))
    for_code = min(len(code), room - 2 - for_output)
    for_output = min(len(output), room - 2 - for_code)
    seconds = duration((cell.ended or now) - cell.started)
    state = f"running {seconds}" if cell.outcome is None else f"{cell.outcome} after {seconds}"
    style = "cyan" if cell.outcome is None else "green" if cell.outcome == "ok" else "red"
    lines = [_rule([(f" {focus} cell {cell.number} ", "bold"), (f"{state} ", style)], width)]
    head = "\n".join(line[:CODE_WIDTH] for line in code[:for_code])
    lines += [_fit(line, width) for line in _highlighted(printable(head.expandtabs(4)), console)]
    cut = len(code) - for_code
    title = "output" if output else "no output yet"
    title += f" ({quantity(cut, 'more line')} of code above)" if cut else ""
    lines.append(_rule([(f" {title} ", "dim")], width))
    return lines + [_line([(f"  {line}", kind)], width) for line, kind in output[len(output) - for_output :]]


def _lines(text: str) -> list[str]:
    """Lines as a terminal would show them: the last state of overwritten lines, tabs expanded, all printable."""
    if not text.strip():
        return []
    lines = (line.rstrip("\r").rpartition("\r")[2] for line in text.rstrip().split("\n"))
    return [printable(line[:CODE_WIDTH].expandtabs(8)) for line in lines]


def _rule(parts: Sequence[Styled], width: int) -> Line:
    rest = max(0, width - 2 - sum(cell_len(text) for text, _ in parts))
    return _line([("──", "dim"), *parts, ("─" * rest, "dim")], width)


@lru_cache(maxsize=8)
def _highlighted(code: str, console: Console) -> list[Line]:
    """Cached: highlighting takes longer than the rest of a frame, and a cell's code stays for many frames."""
    text = Syntax("", "python", background_color="default", theme="ansi_dark").highlight(code)
    lines = text.split("\n", allow_blank=True)[: code.count("\n") + 1]
    return [[segment for segment in line.render(console) if segment.text != "\n"] for line in lines]


def _fit(line: Line, width: int) -> Line:
    return Segment.adjust_line_length([Segment("  "), *line], width)


def _meters(all_meters: Sequence[Meter], width: int) -> list[Line]:
    """A bar for each limit, a number without one; as many in a line as fit, since half a number would mislead."""
    widest = max(NAME_WIDTH + len(meter.text) + 1 for meter in all_meters)
    per_line = max(1, min(len(all_meters), max(2, width // METER_WIDTH), width // widest))
    size = width // per_line
    lines = []
    for first in range(0, len(all_meters), per_line):
        parts = [part for meter in all_meters[first : first + per_line] for part in _meter(meter, size)]
        lines.append(_line(parts, width))
    return lines


def _meter(meter: Meter, size: int) -> list[Styled]:
    name: Styled = (f"{meter.name:<{NAME_WIDTH}}", "dim")
    text = meter.text
    share = meter.share
    bar = 0 if share is None else min(12, size - NAME_WIDTH - len(text) - 3)
    if share is None or bar < 3:
        return [name, (text.ljust(size - NAME_WIDTH), "")]
    filled = round(share * bar)
    style = "green" if share < 0.7 else "yellow" if share < 0.9 else "red"
    rest = f" {text:<{size - NAME_WIDTH - 1 - bar}}"
    return [name, ("━" * filled, style), ("─" * (bar - filled), "dim"), (rest, "")]
