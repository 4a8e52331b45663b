"""Attacks run in real containers, all of which must be gone afterwards; `--results FILE` records each outcome."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers import results
from helpers.containers import no_container_is_left

__all__ = ["no_container_is_left"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--results", type=Path, help="write the outcome of every attack to this file")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table of attacks, and write it to a file if requested."""
    reports = [
        report
        for kind in ("passed", "failed", "skipped")
        for report in terminalreporter.stats.get(kind, [])
        if report.when == "call" or kind != "passed"
    ]
    path = config.getoption("--results")
    if path is None:
        return
    text = results.page(reports)
    path.write_text(text, encoding="utf-8")
    terminalreporter.section("attacks and what they came to")
    terminalreporter.write_line(text)
