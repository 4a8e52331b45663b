"""`rlm doctor`: checks the environment."""

from __future__ import annotations

import dataclasses
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlm.cli.options import AsJson, Quiet
from rlm.errors import ConfigError

if TYPE_CHECKING:
    from .checks import Finding, Setting

MARKS = {"ok": ("✓", "green"), "note": ("!", "yellow"), "problem": ("✗", "red")}


def doctor(
    as_json: AsJson = False,
    quiet: Quiet = False,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="Test this model server instead, with small questions")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="With --server: the model (default: RLM_MODEL, or the server's only one)")
    ] = None,
    key_from: Annotated[
        str, typer.Option(metavar="NAME", help="With --server: the variable with its key")
    ] = "OPENAI_API_KEY",
    skip_long_prompt: Annotated[
        bool, typer.Option("--skip-long-prompt", help="With --server: ask nothing that is long, to save tokens")
    ] = False,
) -> None:
    """Check everything a run needs, and show where each setting comes from.

    With --server, ask a model server small questions instead, and print
    what works and which settings to use.

    Exit status: 0 ready, 1 a check failed, 2 invalid setting.
    """
    import anyio

    if server is not None:
        from .server import test_server

        test_server(server, model, key_from=key_from, long=not skip_long_prompt, as_json=as_json, quiet=quiet)
        return

    from rlm.cli.output import write_json
    from rlm.cli.settings import merge_layers, origins, read_layers

    from .checks import run_checks, visible_settings

    logging.getLogger("rlm").setLevel(logging.ERROR)  # findings include its warnings
    layers = read_layers({})
    settings = merge_layers(layers)
    root: Path | ConfigError
    try:
        root = settings.runs
    except ConfigError as error:
        root = error
    shown = {} if isinstance(root, ConfigError) else {"run_root": root}
    visible = visible_settings(settings.model_copy(update=shown), origins(layers))
    if not (as_json or quiet):
        _show_settings(visible)

    async def work() -> list[Finding]:
        findings = []
        async for finding in run_checks(settings, root):
            findings.append(finding)
            if not as_json and (finding.state == "problem" or not quiet):
                show_finding(finding)
        return findings

    findings = anyio.run(work)
    if as_json:
        write_json(
            {"findings": list(map(dataclasses.asdict, findings)), "settings": list(map(dataclasses.asdict, visible))}
        )
    if any(finding.state == "problem" for finding in findings):
        raise typer.Exit(1)


def show_finding(finding: Finding) -> None:
    """Show the result of a check: one line, or a wrapped row on a terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from rlm._util.text import printable

    mark, style = MARKS[finding.state]
    if not sys.stdout.isatty():  # programs read whole lines
        typer.echo(f"{mark} {finding.part:7} {printable(finding.text)}")
        return
    row = Table.grid(padding=(0, 1))
    row.add_row(Text(mark, style), Text(f"{finding.part:7}"), Text(finding.text, overflow="fold"))
    Console().print(row)


def _show_settings(visible: list[Setting]) -> None:
    """Show the settings that are set or have no table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from rlm._util.text import printable
    from rlm.cli.output import aligned

    rows = [
        (setting.key, printable(setting.value), printable(setting.origin))
        for setting in visible
        if setting.origin != "default" or "." not in setting.key
    ]
    if not sys.stdout.isatty():
        for line in aligned(rows, right=(), width=None):
            typer.echo(line)
        return
    table = Table.grid(padding=(0, 2))
    for key, value, origin in rows:
        table.add_row(Text(key), Text(value, overflow="fold"), Text(origin, "dim"))
    Console().print(table)
