"""Faults are injected into real containers, none of which may be left; `--record FILE` writes down what was measured."""

from __future__ import annotations

import platform
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from containers import no_container_is_left
from own_engine import module_engine, own_engine

__all__ = ["module_engine", "no_container_is_left", "own_engine"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", type=Path, help="write what the faults came to into this file")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    path = config.getoption("--record", None)
    if path is None:
        return
    lines = []
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            measured = "; ".join(f"{name}: {value}" for name, value in report.user_properties)
            lines.append(f"| `{report.nodeid.rpartition('/')[2]}` | {outcome} | {measured} |")
    head = (
        "# What faults came to",
        "",
        "Written by `make reliability`: every test of `tests/faults`, with what it measured.",
        "",
        f"- rlm {version('rlm')}, {time.strftime('%Y-%m-%d', time.gmtime())}; {platform.system()} {platform.machine()}",
        "",
        "| test | outcome | measured |",
        "|---|---|---|",
    )
    path.write_text("\n".join([*head, *sorted(lines)]) + "\n", encoding="utf-8")
