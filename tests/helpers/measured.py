"""Counts the effects of faults in each test, and renders them as a page with totals first."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from .results import versions

Record = Callable[[str, object], None]

REPLAYS: Final = "replays run"
FAULTS: Final = "faults injected"
LOST: Final = "calls lost"
RESENT: Final = "calls sent twice"
COUNTS: Final = (REPLAYS, FAULTS, LOST, RESENT)
MEMORY_OF_CALLS: Final = "memory grown in a run of 10,000 calls, from the 2,000th to the last"
MEMORY_OF_RUNS: Final = "memory grown by all runs after the first fifth"
DESCRIPTORS: Final = "descriptors, after the first fifth and after all runs"
FIGURES: Final = (MEMORY_OF_CALLS, MEMORY_OF_RUNS, DESCRIPTORS)

HEAD: Final = f"""# Outcomes of the fault tests

`make reliability` writes this page. It runs all of `tests/faults` in real containers, against a
real HTTP server on loopback.

- *{REPLAYS}*: runs that were resumed from their journal, or replayed without a model.
- *{FAULTS}*: signals, killed sandboxes and engines, bad responses, full disks, clock jumps.
- *{LOST}*: calls with a recorded answer at the time of the fault, sent again nevertheless.
- *{RESENT}*: calls that were sent again. All of them were in flight: no reply had arrived.

An empty cell means that the test does not involve this."""


def count(
    record: Record, *, faults: int, replays: int | None = None, lost: int | None = None, resent_calls: int | None = None
) -> None:
    """Record the counts of a test."""
    for name, number in zip(COUNTS, (replays, faults, lost, resent_calls), strict=True):
        if number is not None:
            record(name, number)


def rows(run: Path, state: str = "answered") -> int:
    """How many calls of a run are in this state, read from its journal without the code under test."""
    select = "SELECT count(*) FROM calls WHERE state = ? AND NOT stale"
    with closing(sqlite3.connect(f"file:{run / 'journal.sqlite'}?mode=ro", uri=True)) as journal:
        assert journal.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        number: int = journal.execute(select, (state,)).fetchone()[0]
    return number


def page(reports: Iterable[pytest.TestReport]) -> str:
    """Render the page as Markdown."""
    files: dict[str, list[str]] = {}
    sums = dict.fromkeys(COUNTS, 0)
    figures: dict[str, object] = {}
    outcomes: list[str] = []
    for report in reports:
        known: dict[str, Any] = dict(report.user_properties)
        for name in COUNTS:
            sums[name] += known.get(name, 0)
        figures |= {name: known[name] for name in FIGURES if name in known}
        outcomes.append(report.outcome)
        files.setdefault(report.nodeid.partition("::")[0], []).append(_row(report, known))
    passed = outcomes.count("passed")
    return "\n".join(
        [
            HEAD,
            "",
            *(f"- {fact}" for fact in (*versions(), _machine())),
            "",
            "| total | |",
            "|---|---|",
            f"| tests passed | {passed:,} of {len(outcomes):,} |",
            *(f"| {name} | {number:,} |" for name, number in sums.items()),
            *(f"| {name} | {figure} |" for name, figure in figures.items()),
            "",
            *(line for file, lines in sorted(files.items()) for line in _table(file, lines)),
        ]
    )


def _table(file: str, lines: Iterable[str]) -> Iterable[str]:
    return (f"## {file}", "", f"| test | {' | '.join(COUNTS)} | outcome | also |", "|---" * 7 + "|", *lines, "")


def _row(report: pytest.TestReport, known: Mapping[str, object]) -> str:
    name = report.nodeid.partition("::")[2].removeprefix("test_").replace("_", " ").replace("|", "\\|")
    also = "; ".join(f"{name}: {value}" for name, value in known.items() if name not in COUNTS)
    counts = " | ".join(str(known.get(name, "")) for name in COUNTS)
    outcome = report.outcome if report.passed else report.outcome.upper()
    return f"| {name} | {counts} | {outcome} | {also} |"


def _machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{os.cpu_count()} processors, {memory / 1e9:.0f} GB of memory"
