"""`rlm view`: writes the page of a run, or of two beside each other, and opens it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlm.cli.options import Root, a_path

from .runs import WHICH, run_ids


def view(
    run: Annotated[str, typer.Argument(help=WHICH, autocompletion=run_ids)],
    other: Annotated[
        str | None, typer.Argument(help="a second run, shown beside the first", autocompletion=run_ids)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="the file; default: view.html in the run's directory", parser=a_path),
    ] = None,
    context: Annotated[
        Path | None, typer.Option(help="the file or folder that was the (first) run's context", parser=a_path)
    ] = None,
    open_it: Annotated[bool, typer.Option("--open/--no-open", help="open the page in a browser")] = True,
    root: Root = None,
) -> None:
    """Write a run as one HTML file that needs no network, and open it. A run that still goes is shown as far as it is."""
    import webbrowser

    from rlm.cli.settings import settings
    from rlm.trajectory.run_reader import find_run, read_run
    from rlm.trajectory.view.page import write_page

    folder = settings(run_root=root).runs
    directories = [find_run(name, folder) for name in (run, other) if name is not None]
    default = "view.html" if other is None else f"view-with-{directories[1].absolute().name}.html"
    file = out or directories[0] / default
    write_page(
        file, *[read_run(directory, context if number == 0 else None) for number, directory in enumerate(directories)]
    )
    typer.echo(file)
    if open_it:
        webbrowser.open(file.absolute().as_uri())
