"""Options that several commands have, so that they are called and mean the same everywhere."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Final

import typer


def a_path(said: str) -> Path:
    """What is empty, as a variable of a shell that is not set, would be the working directory."""
    if not said:
        raise typer.BadParameter("it is empty: give a path.")
    return Path(said)


Root = Annotated[
    Path | None,
    typer.Option("--runs", help="folder of the runs", show_default="run_root, else the user's state", parser=a_path),
]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON value on standard output")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress: errors only")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="show every turn")]

LIMITS: Final = {  # what each is, and in what it is given
    "max_lm_calls": ("model calls", "N"),
    "max_tokens": ("tokens, in and out", "N"),
    "max_cost_usd": ("dollars", "USD"),
    "max_seconds": ("wall time", "S"),
    "max_rlms": ("RLMs, the root included", "N"),
    "max_sandboxes": ("sandboxes alive at once", "N"),
    "max_iterations": ("turns of each RLM", "N"),
    "max_consecutive_errors": ("turns in a row without a cell that succeeded", "N"),
    "max_concurrent_calls": ("model requests at once", "N"),
    "max_context_bytes": ("size of the context", "N"),
    "max_output_chars": ("of a cell's output that the model is shown", "N"),
    "cell_seconds": ("of a cell's own time", "S"),
}


def with_limits(command: Callable[..., None]) -> Callable[..., None]:
    """A command that has an option for each limit, and takes what was given for them as `limits`."""

    @wraps(command)
    def with_options(**given: Any) -> None:
        limits = {name: given.pop(name) for name in LIMITS}
        command(**given, limits=limits)

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
        help=help_, metavar=metavar, rich_help_panel="Limits of the run (none: no limit)", show_default=False
    )
    return option
