"""One picture of a run: what is looked at in its tree, and the lines of a screen made of it. No I/O and no clock.

`look` takes a picture in little time, `draw` makes lines of it. No line is wider than the screen, and nothing in one can
act on the terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from rich.syntax import Syntax

from rlm._util.text import printable

from .meters import Meter, at_least, duration, short
from .nodes import Cell, State
from .rows import Row, one_line, rows
from .tree import RunState

Line = list[Segment]
Styled = tuple[str, str]  # a text and the name of its style
Footer = Sequence[Sequence[Styled]]

MIN_CELL_LINES: Final = 5  # two titles, code and output; with less there is no use in showing a cell
METER_WIDTH: Final = 33
NAME_WIDTH: Final = 8  # of a meter's name
CODE_WIDTH: Final = 400  # of a line that is highlighted: wider than any screen
MARKS: Final[dict[State, Styled]] = {"open": ("●", "cyan"), "done": ("✓", "green"), "failed": ("✗", "red")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What is to be drawn. `cell` is that of `focus`, a node's name; it belongs to this picture alone."""

    title: str
    question: str
    status: Styled
    rows: list[Row]
    focus: str
    cell: Cell | None
    meters: list[Meter]
    now: float


def look(
    tree: RunState,
    totals: list[Meter],
    *,
    now: float,
    height: int,
    width: int = 80,
    paused: bool = False,
    footer: int = 1,
    with_cell: bool = True,
) -> Picture:
    """A picture for a screen of `height` lines, `footer` of which are taken. `now` is on the clock of the events."""
    node = tree.focus
    cell = None if node is None or node.loop is None else node.loop.cell
    room = height - footer - 3 - len(_meters(totals, width))  # title, question, headings, and the meters
    whole = not with_cell or cell is None or tree.ended is not None or room < MIN_CELL_LINES + 4
    for_cell = 0 if cell is None or whole else min(_wanted(cell), room * 9 // 20)
    seen = rows(tree, now=now, height=max(1, room - for_cell))
    return Picture(
        title=printable(tree.run_id),
        question=one_line((tree.query or "")[:400]),
        status=_status(tree, now=now, paused=paused),
        rows=seen,
        focus="" if node is None or whole else node.name,
        cell=None if cell is None or whole else _copy(cell),
        meters=totals,
        now=now,
    )


def _wanted(cell: Cell) -> int:
    """The lines that all of a cell takes; of output a few at least, so that the tree does not jump when it begins."""
    output = (cell.output + cell.error).count("\n") + 1
    return 2 + cell.code.count("\n") + 1 + max(4, output)


def _copy(cell: Cell) -> Cell:
    return Cell(
        number=cell.number,
        code=cell.code,
        started=cell.started,
        ended=cell.ended,
        outcome=cell.outcome,
        output=cell.output,
        error=cell.error,
    )


def _status(tree: RunState, *, now: float, paused: bool) -> Styled:
    if tree.started is None:
        return "starts", "cyan"
    seconds = duration(max(0.0, (tree.ended or now) - tree.started))
    if tree.error is not None:
        return f"{one_line(tree.error[:80])} after {seconds}", "bold red"
    if tree.ended is not None:
        return (
            f"{tree.stop_reason or 'ended'} after {seconds}",
            "bold green" if tree.stop_reason == "final" else "yellow",
        )
    return (f"PAUSED · {seconds}", "bold yellow") if paused else (f"running {seconds}", "bold cyan")


def draw(picture: Picture, console: Console, *, width: int, height: int, footer: Footer) -> list[Line]:
    """Exactly `height` lines of at most `width` columns, the footer's at the bottom."""
    top = [*_title(picture, width), *_table(picture.rows, width)]
    bottom = [*_meters(picture.meters, width), *([_line(parts, width) for parts in footer])]
    room = height - len(top) - len(bottom)
    middle = [] if picture.cell is None else _cell(picture.focus, picture.cell, picture.now, console, width, room)
    blank = [[Segment(" " * width)]] * (room - len(middle))
    return (
        [*top, *middle, *blank, *bottom][-height:]
        if room >= 0
        else [*top[: max(0, height - len(bottom))], *bottom][:height]
    )


def summary(picture: Picture, width: int) -> list[Line]:
    """What stays on the terminal when the run has ended."""
    return [*_title(picture, width), *_table(picture.rows, width), *_meters(picture.meters, width)]


@lru_cache(maxsize=256)
def _style(name: str) -> Style:
    return Style.parse(name)


def _line(parts: Sequence[Styled], width: int) -> Line:
    """A line of exactly this width; what does not fit is cut with an ellipsis."""
    return _laid_out(tuple(parts), width)


@lru_cache(maxsize=512)
def _laid_out(parts: tuple[Styled, ...], width: int) -> Line:
    """Most of a picture is as it was in the one before."""
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


def _ends(left: Sequence[Styled], right: Sequence[Styled], width: int) -> Line:
    """A line with something at its right end."""
    space = max(0, width - sum(cell_len(text) for text, _ in right))
    return [*_line(left, space), *_line(right, min(width, width - space))]


def _title(picture: Picture, width: int) -> list[Line]:
    status, style = picture.status
    left: list[Styled] = [("rlm ", "bold"), (picture.title, "dim")]
    right: list[Styled] = [(" ", ""), (status, style)]
    lines = [_ends(left, right, width)]
    return [*lines, _line([(picture.question, "italic")], width)] if picture.question else lines


def _columns(width: int) -> list[tuple[str, int]]:
    """The headings of the numbers that there is room for, with their widths."""
    numbers = [("tokens", 7), ("cost", 8), ("time", 7)]
    return [("calls", 6), *numbers] if width >= 80 else numbers


def _table(seen: Sequence[Row], width: int) -> list[Line]:
    columns = _columns(width)
    right = sum(size for _, size in columns)
    headings: list[Styled] = [(f"{name:>{size}}", "dim") for name, size in columns]
    models = min(28, max(10, width // 6))
    return [
        _ends([], headings, width),
        *(_ends(_label(row, models), _numbers(row, columns), width) for row in seen if right <= width),
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
        "calls": (f"{used.calls:,}" if used.calls < 10_000 else short(used.calls)) if used.calls else "",
        "tokens": short(used.tokens) if used.calls else "",
        "cost": cost if used.calls else "",
        "time": duration(row.seconds),
    }
    return [(f"{values[name]:>{size}}", "dim" if row.state == "done" else "") for name, size in columns]


def _cell(focus: str, cell: Cell, now: float, console: Console, width: int, room: int) -> list[Line]:
    """Code and output of a cell in at most `room` lines: of the code the beginning, of the output the end."""
    if room < MIN_CELL_LINES:
        return []
    output = [(line, "") for line in _lines(cell.output)] + [(line, "red") for line in _lines(cell.error)]
    code = cell.code.rstrip().split("\n")
    for_output = min(len(output), max(1, (room - 2) // 2))
    for_code = min(len(code), room - 2 - for_output)
    for_output = min(len(output), room - 2 - for_code)
    seconds = duration((cell.ended or now) - cell.started)
    state = f"runs {seconds}" if cell.outcome is None else f"{cell.outcome} after {seconds}"
    style = "cyan" if cell.outcome is None else "green" if cell.outcome == "ok" else "red"
    lines = [_rule([(f" {focus} cell {cell.number} ", "bold"), (f"{state} ", style)], width)]
    shown = "\n".join(line[:CODE_WIDTH] for line in code[:for_code])
    lines += [_fit(line, width) for line in _highlighted(printable(shown.expandtabs(4)), console)]
    cut = len(code) - for_code
    more = f" output, above it {cut:,} more line{'s' * (cut != 1)} of code " if cut else " output "
    lines.append(_rule([(more if output else more.replace("output", "no output yet", 1), "dim")], width))
    return lines + [_line([(f"  {line}", kind)], width) for line, kind in output[len(output) - for_output :]]


def _lines(text: str) -> list[str]:
    """Lines as a terminal would leave them: of what overwrote itself the last, no tabs, nothing that acts."""
    if not text.strip():
        return []
    lines = (line.rstrip("\r").rpartition("\r")[2] for line in text.rstrip().split("\n"))
    return [printable(line[:CODE_WIDTH].expandtabs(8)) for line in lines]


def _rule(parts: Sequence[Styled], width: int) -> Line:
    rest = max(0, width - 2 - sum(cell_len(text) for text, _ in parts))
    return _line([("──", "dim"), *parts, ("─" * rest, "dim")], width)


@lru_cache(maxsize=8)
def _highlighted(code: str, console: Console) -> list[Line]:
    """Highlighting takes longer than all the rest, and a cell's code stays the same for many pictures."""
    text = Syntax("", "python", background_color="default", theme="ansi_dark").highlight(code)
    lines = text.split("\n", allow_blank=True)[: code.count("\n") + 1]
    return [[segment for segment in line.render(console) if segment.text != "\n"] for line in lines]


def _fit(line: Line, width: int) -> Line:
    return Segment.adjust_line_length([Segment("  "), *line], width)


def _meters(all_meters: Sequence[Meter], width: int) -> list[Line]:
    """Bars where there is a limit, numbers where there is none, as many beside each other as there is room for: a number
    of which a part is seen says something else.
    """
    widest = max(NAME_WIDTH + len(meter.told) + 1 for meter in all_meters)
    a_line = max(1, min(len(all_meters), max(2, width // METER_WIDTH), width // widest))
    size = width // a_line
    lines = []
    for first in range(0, len(all_meters), a_line):
        parts = [part for meter in all_meters[first : first + a_line] for part in _meter(meter, size)]
        lines.append(_line(parts, width))
    return lines


def _meter(meter: Meter, size: int) -> list[Styled]:
    name: Styled = (f"{meter.name:<{NAME_WIDTH}}", "dim")
    told = meter.told
    share = meter.share
    bar = 0 if share is None else min(12, size - NAME_WIDTH - len(told) - 3)
    if share is None or bar < 3:
        return [name, (told.ljust(size - NAME_WIDTH), "")]
    filled = round(share * bar)
    style = "green" if share < 0.7 else "yellow" if share < 0.9 else "red"
    rest = f" {told:<{size - NAME_WIDTH - 1 - bar}}"
    return [name, ("━" * filled, style), ("─" * (bar - filled), "dim"), (rest, "")]
