"""The trials of `rlm niah` as a table for the terminal and as `report.md`. Needs no statistics, so no extra."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Final

from rich import box
from rich.table import Table
from rich.text import Text

from rlm._util.text import dollars, printable, short_number, shorten
from rlm.evals.plan import Plan
from rlm.evals.results import ResultRow, Results

from . import tables

HEADINGS: Final = (
    "trial", "expected", "answer", "right?", "turns", "sub-calls", "sand-boxes", "seconds", "tokens", "cost",
)  # fmt: skip
NUMERIC_HEADINGS: Final = frozenset({"trial", "turns", "sub-calls", "sand-boxes", "seconds", "tokens", "cost"})
MAX_ANSWER_CHARS: Final = 120  # limit in a table; results.jsonl has the whole answer


def terminal_table(rows: Sequence[ResultRow], *, title: str) -> Table:
    """The rows for a terminal; fits into 80 columns."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for heading in HEADINGS:
        if heading in NUMERIC_HEADINGS:
            table.add_column(heading.replace("-", "-\n"), justify="right", no_wrap=True)
        else:
            table.add_column(heading, overflow="fold", min_width=6 if heading == "right?" else 13)
    for row in rows:
        texts = [Text("?" if cell == "unknown" else cell) for cell in _cells(row)]  # the cost column is narrow
        style = "bold red" if row.error else "green" if row.strict == 1 else "red"
        texts[HEADINGS.index("right?")].stylize(style)
        table.add_row(*texts)
    return table


def summary(rows: Sequence[ResultRow]) -> str:
    """One sentence on all rows."""
    answered = [row for row in rows if not row.error]
    failed = len(rows) - len(answered)
    right = sum(row.strict == 1 for row in answered)
    seconds = f", median {statistics.median(row.seconds for row in answered):.2f} s a trial" if answered else ""
    return f"{right} of {len(answered)} right{f', {failed} failed' if failed else ''}{seconds}."


def failures(rows: Sequence[ResultRow]) -> list[str]:
    """A sentence for each trial that failed."""
    return [f"Trial {row.index + 1} failed: {printable(row.error)}" for row in rows if row.error]


def markdown(results: Results, rows: Sequence[ResultRow]) -> str:
    """The text of `report.md`."""
    headings = [heading.replace("sand-boxes", "sandboxes") for heading in HEADINGS]
    parts = [
        Plan.from_settings(results.settings).model_note,
        "# Needle in a haystack",
        summary(rows),
        tables.table(headings, map(_cells, rows)),
        *map(tables.escape, failures(rows)),
        tables.settings_table(results.settings),
    ]
    return "\n\n".join(parts) + "\n"


def _cells(row: ResultRow) -> tuple[str, ...]:
    verdict = "failed" if row.error else "yes" if row.strict == 1 else "no"
    answer = printable(row.answer).replace("\n", " ")
    return (
        str(row.index + 1),
        ", ".join(row.expected),
        shorten(answer, MAX_ANSWER_CHARS),
        verdict,
        str(row.iterations),
        str(row.sub_calls),
        str(row.sandboxes),
        f"{row.seconds:.2f}",
        "unknown" if row.tokens is None else short_number(row.tokens),
        dollars(row.cost_usd),
    )
