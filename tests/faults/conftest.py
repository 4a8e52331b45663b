"""Faults hit real containers, all of which must be gone afterwards; `--record FILE` records measurements."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers import measured
from helpers.containers import no_container_is_left
from helpers.own_engine import module_engine, own_engine

__all__ = ["module_engine", "no_container_is_left", "own_engine"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", type=Path, help="write what the faults came to into this file")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    path = config.getoption("--record", None)
    if path is None:
        return
    reports = [
        report
        for kind in ("passed", "failed", "error", "skipped")
        for report in terminalreporter.stats.get(kind, [])
        if report.when == "call" or kind != "passed"
    ]
    path.write_text(measured.page(reports), encoding="utf-8")
