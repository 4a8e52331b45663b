"""The trials of `make niah` for a reader: a table for the terminal and `report.md`, both from the rows alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Final

from rich import box
from rich.table import Table
from rich.text import Text

from rlm._util.text import printable
from rlm.evals.plan import SYSTEM_ONLY
from rlm.evals.results import Row

from . import tables
from .tables import escaped

__all__ = ["SYSTEM_ONLY", "failures", "markdown", "summary", "table"]

HEADINGS: Final = (
    "trial", "expected", "answer", "right?", "turns", "sub-calls", "sand-boxes", "seconds", "tokens", "cost",
)  # fmt: skip
NUMERIC: Final = frozenset({"trial", "turns", "sub-calls", "sand-boxes", "seconds", "tokens", "cost"})
SHOWN_CHARS: Final = 120  # of an answer in a table; results.jsonl holds all of it


def cells(row: Row) -> tuple[str, ...]:
    """One row of the table, as text."""
    verdict = "failed" if row.error else "yes" if row.strict == 1 else "no"
    cost = "unknown" if row.cost_usd is None else f"${row.cost_usd:.4g}"
    answer = printable(row.answer).replace("\n", " ")
    return (
        str(row.index + 1),
        ", ".join(row.expected),
        answer if len(answer) <= SHOWN_CHARS else answer[: SHOWN_CHARS - 1] + "…",
        verdict,
        str(row.iterations),
        str(row.sub_calls),
        str(row.sandboxes),
        f"{row.seconds:.2f}",
        "unknown" if row.tokens is None else _short(row.tokens),
        cost,
    )


def _short(number: int) -> str:
    """A count in three digits and a unit."""
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def table(rows: Sequence[Row], *, title: str) -> Table:
    """The rows for a terminal; readable at 80 columns."""
    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for heading in HEADINGS:
        if heading in NUMERIC:
            shown.add_column(heading.replace("-", "-\n"), justify="right", no_wrap=True)
        else:
            shown.add_column(heading, overflow="fold", min_width=6 if heading == "right?" else 13)
    for row in rows:
        texts = [Text("?" if cell == "unknown" else cell) for cell in cells(row)]  # a cost, in a narrow column
        style = "bold red" if row.error else "green" if row.strict == 1 else "red"
        texts[HEADINGS.index("right?")].stylize(style)
        shown.add_row(*texts)
    return shown


def summary(rows: Sequence[Row]) -> str:
    """One sentence on all rows."""
    done = [row for row in rows if not row.error]
    failed = len(rows) - len(done)
    right = sum(row.strict == 1 for row in done)
    seconds = f", median {statistics.median(row.seconds for row in done):.2f} s a trial" if done else ""
    trouble = f", {failed} failed" if failed else ""
    return f"{right} of {len(done)} right{trouble}{seconds}."


def failures(rows: Sequence[Row]) -> list[str]:
    """A sentence for each trial that the system failed."""
    return [f"Trial {row.index + 1} failed: {printable(row.error)}" for row in rows if row.error]


def markdown(rows: Sequence[Row], *, scripted: bool, setting: Mapping[str, object]) -> str:
    """The text of `report.md`; `setting` says what the run was made with."""
    lines = [
        SYSTEM_ONLY if scripted else "This run used real models.",
        "",
        "# Needle in a haystack",
        "",
        summary(rows),
        "",
    ]
    headings = [heading.replace("sand-boxes", "sandboxes") for heading in HEADINGS]
    lines += [tables.table(headings, map(cells, rows))]
    lines += ["", *(escaped(sentence) for sentence in failures(rows))]
    lines += ["", tables.table(("made with", ""), ((name, str(value)) for name, value in setting.items()))]
    return "\n".join(lines) + "\n"
