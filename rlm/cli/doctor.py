"""`rlm doctor`."""

from __future__ import annotations

import logging

import anyio
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlm.doctor import examine

MARKS = {"ok": ("✓", "green"), "note": ("!", "yellow"), "problem": ("✗", "red")}


def doctor() -> None:
    """Look at all that a run needs: engine, image, transports, gVisor, key, disk. Exit status 1 if a part is missing."""
    console = Console()
    logging.getLogger("rlm").setLevel(logging.ERROR)  # its warnings are among the findings

    async def work() -> bool:
        well = True
        async for finding in examine():
            mark, style = MARKS[finding.state]
            row = Table.grid(padding=(0, 1))
            row.add_row(Text(mark, style), Text(f"{finding.part:7}"), Text(finding.text))
            console.print(row)
            well = well and finding.state != "problem"
        return well

    if not anyio.run(work):
        raise typer.Exit(1)
