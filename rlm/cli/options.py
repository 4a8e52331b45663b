"""Options shared by several commands, with one name and meaning everywhere."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Final

import typer


def nonempty_path(text: str) -> Path:
    """A path. An empty one, as from an unset shell variable, would be the working directory."""
    if not text:
        raise typer.BadParameter("the path is empty.")
    return Path(text)


Root = Annotated[
    Path | None,
    typer.Option(
        "--runs",
        help="Folder of the runs (default: run_root in rlm.toml, else the user's state directory)",
        parser=nonempty_path,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value on standard output")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show every turn, cell and call")]
Runtime = Annotated[str | None, typer.Option(help="Container runtime, e.g. runsc for gVisor")]

LIMITS: Final = {  # help and metavar, by field of `Limits`
    "max_lm_calls": ("Model calls", "N"),
    "max_tokens": ("Input plus output tokens", "N"),
    "max_cost_usd": ("Cost in US dollars", "USD"),
    "max_seconds": ("Wall-clock seconds", "S"),
    "max_rlms": ("RLMs, including the root", "N"),
    "max_sandboxes": ("Sandboxes running at once", "N"),
    "max_iterations": ("Turns of each RLM", "N"),
    "max_consecutive_errors": ("Consecutive turns without working code", "N"),
    "max_concurrent_calls": ("Model requests in flight at once", "N"),
    "max_context_bytes": ("Size of the context in bytes", "N"),
    "max_output_chars": ("Characters of cell output shown to the model", "N"),
    "cell_seconds": ("Seconds per cell, not counting model calls", "S"),
}


def with_limits(command: Callable[..., None]) -> Callable[..., None]:
    """Add an option for each limit to a command, which receives their values as `limits`."""

    @wraps(command)
    def with_options(**arguments: Any) -> None:
        limits = {name: arguments.pop(name) for name in LIMITS}
        command(**arguments, limits=limits)

    signature = inspect.signature(command, eval_str=True)
    own = [parameter for parameter in signature.parameters.values() if parameter.name != "limits"]
    options = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, _limit(help_, metavar)]
        )
        for name, (help_, metavar) in LIMITS.items()
    ]
    with_options.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    return with_options


def _limit(help_: str, metavar: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        help=help_, metavar=metavar, rich_help_panel="Limits of the run (none: no limit)"
    )
    return option
