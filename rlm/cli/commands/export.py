"""`rlm export`: writes a run in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rlm.cli.options import Root, nonempty_path

from .runs import RUN_HELP, run_ids


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help=RUN_HELP, autocompletion=run_ids)],
    to: Annotated[
        Literal["atif", "rlms", "md", "otel"],
        typer.Option(
            help="Format. atif: trajectory; rlms: log of the reference implementation; md: Markdown; otel: spans",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Output file (default: standard output)", parser=nonempty_path),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            envvar="OTEL_EXPORTER_OTLP_ENDPOINT",
            help="otel: receiver of the spans, unless --out is set",
            show_envvar=True,
        ),
    ] = None,
    content: Annotated[
        bool | None,
        typer.Option(
            "--content/--no-content",
            help="otel: include prompts, replies, code and outputs",
        ),
    ] = None,
    root: Root = None,
) -> None:
    """Write a run in another format.

    A run still in progress is written up to its current state.

    Exit status: 0 written, 1 the receiver did not accept it, 2 invalid usage.
    """
    from rlm.cli.settings import load_settings
    from rlm.trajectory.export.formats import ExportFormat, export_run
    from rlm.trajectory.run_reader import find_run

    directory = find_run(run, load_settings(run_root=root).runs)
    if notice := export_run(directory, ExportFormat(to), out=out, endpoint=endpoint, content=content):
        typer.echo(notice, err=True)
