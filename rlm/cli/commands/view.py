"""`rlm view`: writes the page of one run, or of two side by side, and opens it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlm.cli.options import Root, nonempty_path

from .runs import RUN_HELP, run_ids


def view(
    run: Annotated[str, typer.Argument(metavar="RUN", help=RUN_HELP, autocompletion=run_ids)],
    other: Annotated[
        str | None,
        typer.Argument(metavar="[OTHER]", help="A second run, shown beside the first", autocompletion=run_ids),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Output file (default: view.html in the run's directory)",
            parser=nonempty_path,
        ),
    ] = None,
    context: Annotated[
        Path | None,
        typer.Option(help="File or folder that was the context of the (first) run", parser=nonempty_path),
    ] = None,
    open_it: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser")] = True,
    root: Root = None,
) -> None:
    """Write a run as one self-contained HTML file and open it.

    A run still in progress is shown up to its current state.
    """
    import webbrowser

    from rlm.cli.settings import load_settings
    from rlm.trajectory.run_reader import find_run, read_run
    from rlm.trajectory.view.page import write_page

    folder = load_settings(run_root=root).runs
    directories = [find_run(name, folder) for name in (run, other) if name is not None]
    default = "view.html" if other is None else f"view-with-{directories[1].absolute().name}.html"
    file = out or directories[0] / default
    write_page(
        file, *[read_run(directory, context if number == 0 else None) for number, directory in enumerate(directories)]
    )
    typer.echo(file)
    if open_it:
        webbrowser.open(file.absolute().as_uri())
