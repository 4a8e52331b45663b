"""`rlm doctor`."""

from __future__ import annotations

import dataclasses
import logging
import sys
from typing import TYPE_CHECKING

import typer

from rlm.cli.options import AsJson, Quiet

if TYPE_CHECKING:
    from .checks import Finding, Setting

MARKS = {"ok": ("✓", "green"), "note": ("!", "yellow"), "problem": ("✗", "red")}


def doctor(as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Look at all that a run needs, and say where each setting came from.

    Exit status: 0 a run can be made, 1 a part is missing, 2 a setting cannot be.
    """
    import anyio

    from rlm.cli.output import write_json
    from rlm.cli.settings import layers, origins, settle

    from .checks import examine, settings_shown

    logging.getLogger("rlm").setLevel(logging.ERROR)  # its warnings are among the findings
    found = layers({})
    given = settle(found)
    shown = settings_shown(given.model_copy(update={"run_root": given.runs}), origins(found))
    if not (as_json or quiet):
        _show_settings(shown)

    async def work() -> list[Finding]:
        findings = []
        async for finding in examine(given, given.runs):
            findings.append(finding)
            if not as_json and (finding.state == "problem" or not quiet):
                _show(finding)
        return findings

    findings = anyio.run(work)
    if as_json:
        write_json(
            {"findings": list(map(dataclasses.asdict, findings)), "settings": list(map(dataclasses.asdict, shown))}
        )
    if any(finding.state == "problem" for finding in findings):
        raise typer.Exit(1)


def _show(finding: Finding) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from rlm._util.text import printable

    mark, style = MARKS[finding.state]
    if not sys.stdout.isatty():  # what reads it takes whole lines
        typer.echo(f"{mark} {finding.part:7} {printable(finding.text)}")
        return
    row = Table.grid(padding=(0, 1))
    row.add_row(Text(mark, style), Text(f"{finding.part:7}"), Text(finding.text, overflow="fold"))
    Console().print(row)


def _show_settings(shown: list[Setting]) -> None:
    """Those that were set, and those that every run has."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from rlm._util.text import printable
    from rlm.cli.output import aligned

    rows = [
        (setting.key, printable(setting.value), printable(setting.origin))
        for setting in shown
        if setting.origin != "default" or "." not in setting.key
    ]
    if not sys.stdout.isatty():
        for line in aligned(rows, to_the_right=(), width=None):
            typer.echo(line)
        return
    table = Table.grid(padding=(0, 2))
    for key, value, origin in rows:
        table.add_row(Text(key), Text(value, overflow="fold"), Text(origin, "dim"))
    Console().print(table)
