"""`rlm export`: writes a run in a format of others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rlm.cli.options import Root, a_path

from .runs import WHICH, run_ids


def export(
    run: Annotated[str, typer.Argument(help=WHICH, autocompletion=run_ids)],
    to: Annotated[
        Literal["atif", "rlms", "md", "otel"],
        typer.Option(help="atif: trajectory; rlms: log of the reference implementation; md: Markdown; otel: spans"),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="the file; default: standard output", parser=a_path)
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            envvar="OTEL_EXPORTER_OTLP_ENDPOINT",
            help="otel: receiver to send to, where no --out is given",
            show_envvar=True,
        ),
    ] = None,
    content: Annotated[
        bool | None, typer.Option("--content/--no-content", help="otel: with prompts, replies, code and outputs")
    ] = None,
    root: Root = None,
) -> None:
    """Write a run in another format. A run that still goes is written as far as it is.

    Exit status: 0 written, 1 the receiver did not take it, 2 the command cannot be.
    """
    from rlm.cli.settings import settings
    from rlm.trajectory.export.formats import ExportFormat, export_run
    from rlm.trajectory.run_reader import find_run

    directory = find_run(run, settings(run_root=root).runs)
    if said := export_run(directory, ExportFormat(to), out=out, endpoint=endpoint, content=content):
        typer.echo(said, err=True)
