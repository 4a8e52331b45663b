"""Options shared by several commands, with one name and meaning everywhere."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
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


MODEL_OPTIONS: Final = {  # help and metavar, by option of `rlm.models.options`
    "temperature": ("Sampling temperature of the {}", "T"),
    "max_output_tokens": ("Output tokens of each reply of the {}", "N"),
    "context_window": ("Window in tokens of the {}", "N"),
}
MODELS: Final = {  # prefix of the options and name, by group
    "model_options": ("", "root model"),
    "sub_model_options": ("sub_", "sub-model (default: the root's, if both are one model)"),
}


def with_limits(command: Callable[..., None]) -> Callable[..., None]:
    """Add an option for each limit to a command, which receives their values as `limits`."""
    panel = "Limits of the run (none: no limit)"
    return _with_options(command, {"limits": {name: (name, *texts) for name, texts in LIMITS.items()}}, panel)


def with_model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add options for the models to a command, which receives those given as `model_options`, `sub_model_options`."""
    groups = {
        group: {name: (prefix + name, help_.format(model), metavar) for name, (help_, metavar) in MODEL_OPTIONS.items()}
        for group, (prefix, model) in MODELS.items()
    }
    panel = "Models (none: not set)"
    return _with_options(command, groups, panel, given_only=True)


def _with_options(
    command: Callable[..., None],
    groups: Mapping[str, Mapping[str, tuple[str, str, str]]],
    panel: str,
    *,
    given_only: bool = False,
) -> Callable[..., None]:
    """Add groups of options to a command, which receives each group as a dict in the parameter of its name.

    Args:
        command: the command.
        groups: by group and key: the name of the parameter, its help and metavar.
        panel: title of the options in the help.
        given_only: leave options out that are not given; else they are None.
    """

    @wraps(command)
    def with_options(**arguments: Any) -> None:
        for group, options in groups.items():
            values = {key: arguments.pop(name) for key, (name, _, _) in options.items()}
            arguments[group] = {key: value for key, value in values.items() if value is not None or not given_only}
        command(**arguments)

    signature = inspect.signature(command, eval_str=True)
    own = [parameter for parameter in signature.parameters.values() if parameter.name not in groups]
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[str | None, typer.Option(help=help_, metavar=metavar, rich_help_panel=panel)],
        )
        for group in groups.values()
        for name, help_, metavar in group.values()
    ]
    with_options.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    return with_options
