"""Renders the outcomes of the attacks as a page: versions, one row per attack, and measurements of other tests."""

from __future__ import annotations

import json
import platform
import subprocess
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any

import pytest

WAYS = ("runc-attach", "runc-unix", "runsc-attach", "runsc-unix")
TITLES = ("runc, attach", "runc, unix", "gVisor, attach", "gVisor, unix")


def page(reports: Iterable[pytest.TestReport]) -> str:
    """Render the page as Markdown."""
    attacks: dict[str, dict[str, str]] = {}
    others: list[str] = []
    for report in reports:
        known: dict[str, Any] = dict(report.user_properties)
        if "attack" in known:
            outcome = known.get("outcome", report.outcome) if report.passed else report.outcome.upper()
            attacks.setdefault(known["attack"], {})[known["way"]] = outcome
        else:
            measured = "; ".join(f"{name}: {value}" for name, value in report.user_properties)
            name = report.nodeid.rpartition("/")[2].replace("|", "\\|")
            others.append(f"| `{name}` | {report.outcome} | {measured} |")
    return "\n".join(
        [
            "# Outcomes of the attacks",
            "",
            "`make security` writes this page. Each attack is a program from `attacks.py` or `attacks_out.py` in",
            "`tests/helpers`, run as a cell in a real container. In every case the host was unchanged.",
            "",
            "- `ok`: the attack ran without effect.",
            "- `error`: it raised an exception.",
            "- `timeout`, `died`: it was rolled back, and earlier variables were kept.",
            "- `lost`: it cost its own sandbox, and the host reported that.",
            "",
            *(f"- {fact}" for fact in versions()),
            "",
            *_table(attacks),
            "",
            "## The other tests",
            "",
            "| test | outcome | measured |",
            "|---|---|---|",
            *sorted(others),
            "",
        ]
    )


def _table(attacks: dict[str, dict[str, str]]) -> list[str]:
    lines = [f"| attack | {' | '.join(TITLES)} |", "|---|" + "---|" * len(TITLES)]
    for name, outcomes in attacks.items():
        lines.append(f"| {name} | " + " | ".join(outcomes.get(way, "not run") for way in WAYS) + " |")
    return lines


def versions() -> Sequence[str]:
    """Versions of rlm, and of everything that containers run on."""
    engine = json.loads(_output("docker", "version", "--format", "{{json .Server}}"))
    parts = ", ".join(f"{part['Name']} {part['Version']}" for part in engine["Components"])
    gvisor = _output("runsc", "--version").splitlines()
    return (
        f"rlm {version('rlm')}, {time.strftime('%Y-%m-%d', time.gmtime())}",
        parts,
        f"gVisor {gvisor[0].rpartition(' ')[2] if gvisor else 'not installed'}",
        f"Linux {platform.release().partition('-')[0]}, {platform.machine()}",
    )


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except FileNotFoundError:
        return ""
