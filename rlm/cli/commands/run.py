"""`rlm run`: one question about a file, a folder or piped text."""

from __future__ import annotations

import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from rlm.cli.interrupt import resume_hint, run_until_interrupted
from rlm.cli.options import AsJson, Quiet, Root, Runtime, Verbose, with_limits, with_model_options
from rlm.errors import ConfigError

if TYPE_CHECKING:
    from rlm.events import Event
    from rlm.sandbox.values import Value
    from rlm.types import Completion

EMPTY_FOLDER: Final = b"\x80"  # an empty map of msgpack
USAGE: Final = 'Usage: rlm run "What went wrong?" app.log'


@with_limits
@with_model_options
def run(
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question", show_default=False)] = "",
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE|DIR|-", help="The context: a file, a folder, or - for standard input", show_default=False
        ),
    ] = "",
    model: Annotated[str | None, typer.Option(help="Root model (default: from the settings)")] = None,
    sub_model: Annotated[str | None, typer.Option(help="Model for sub-calls (default: the root model)")] = None,
    depth: Annotated[str | None, typer.Option(metavar="N", help="Call levels below the root (default: 1)")] = None,
    runtime: Runtime = None,
    transport: Annotated[
        str | None, typer.Option(metavar="attach|unix", help="Sandbox transport (default: attach)")
    ] = None,
    root: Root = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    *,
    limits: Mapping[str, str | None],
    model_options: Mapping[str, str],
    sub_model_options: Mapping[str, str],
) -> None:
    """Answer a question about a file, a folder or piped text of any length.

    Prints the answer on standard output and progress on standard error.
    Ctrl-C stops the run; `rlm resume` continues it.

    Exit status: 0 answered, 1 failed, 2 usage or environment error (an
    invalid option, no context, no key, no Docker), 3 stopped by a limit:
    the answer may be incomplete, 130 interrupted.
    """
    from rlm.cli.output import print_completion
    from rlm.cli.progress import follow, progress_listener
    from rlm.cli.settings import load_settings
    from rlm.orchestrator import Orchestrator
    from rlm.sandbox.docker.engine import default_engine
    from rlm.sandbox.docker.image import image_name

    if not question.strip():
        raise ConfigError(f"Missing question. {USAGE}")
    settings = load_settings(
        model=model,
        sub_model=sub_model,
        model_options=model_options,
        sub_model_options=sub_model_options,
        depth=depth,
        limits=limits,
        sandbox={"runtime": runtime, "transport": transport},
        run_root=root,
    )
    text = read_context(source, max_bytes=settings.limits.max_context_bytes)
    listener = progress_listener(quiet=quiet, verbose=verbose)
    hint = ResumeHint(None if root is None else settings.runs)
    orchestrator = Orchestrator(
        depth=settings.depth,
        model=settings.model,
        sub_model=settings.sub_model,
        model_options=settings.model_options,
        sub_model_options=settings.sub_model_options,
        limits=settings.limits,
        prices=settings.prices,
        sandbox=settings.sandbox,
        run_root=settings.runs,
    )

    async def work() -> Completion:
        await default_engine().check_image(settings.sandbox.image or image_name())  # before the run starts
        return await follow(orchestrator.start(text, question, on_event=hint), listener)

    done = run_until_interrupted(work, advice=hint.text)
    print_completion(done, run=hint.run, as_json=as_json, quiet=quiet)


def read_context(source: str, *, max_bytes: int | None) -> str | bytes | Value:
    """The context: a file or folder, or piped data, as text if it is text.

    Args:
        source: a path, or `-` for standard input.
        max_bytes: limit on the size; None reads all.

    Raises:
        ConfigError: the context is missing, empty, too large or unreadable.
    """
    from rlm.sandbox.values import encode

    if not source:
        raise ConfigError(f"Missing context: a file, a folder, or - for standard input. {USAGE}")
    read_size = -1 if max_bytes is None else max_bytes + 1  # one byte more reveals that the data is too large
    if source == "-":
        if sys.stdin is None:
            raise ConfigError("Standard input is closed: pipe the context in, or name a file.")
        if sys.stdin.isatty():
            raise ConfigError(
                'Standard input is a terminal: pipe the context in. Example: cat app.log | rlm run "What went wrong?" -'
            )
        return _piped(sys.stdin.buffer.read(read_size), "Standard input", max_bytes)
    path = Path(source)
    try:
        mode = path.stat().st_mode
        if stat.S_ISFIFO(mode):  # the shell's <(command)
            with path.open("rb") as pipe:
                return _piped(pipe.read(read_size), f"The pipe {source}", max_bytes)
    except FileNotFoundError:
        raise ConfigError(f"No such file or folder: {source}. Use - for standard input.") from None
    except OSError as error:
        raise ConfigError(f"Cannot read the context {source}: {error.strerror}.") from error
    value = encode(path, max_bytes=max_bytes)
    if stat.S_ISDIR(mode) and value.size == len(EMPTY_FOLDER):
        raise ConfigError(f"The folder {source} contains no files.")
    if value.size == 0:
        raise ConfigError(f"The file {source} is empty.")
    return value


def _piped(data: bytes, name: str, max_bytes: int | None) -> str | bytes | Value:
    from rlm.sandbox.values import encode_piped

    if not data:
        raise ConfigError(f"{name} is empty.")
    if max_bytes is not None and len(data) > max_bytes:
        raise ConfigError(
            f"{name} is larger than the limit of {max_bytes:,} bytes: raise it with --max-context-bytes, or pass less."
        )
    value = encode_piped(data, name)
    if value.notes:
        return value
    return data.decode("utf-8") if value.kind == "text" else data


class ResumeHint:
    """A listener that learns from a run's events how to resume it.

    Args:
        folder: the folder of the run, unless `rlm resume` finds it by its settings.

    Attributes:
        run: the ID or directory for `rlm resume`; empty before the run has started.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._resumable = False
        self.run = ""

    def __call__(self, event: Event) -> None:
        from rlm.events import TurnStarted

        self.run = event.run_id if self._folder is None else str(self._folder / event.run_id)
        self._resumable |= isinstance(event, TurnStarted)  # the context is stored by then

    def text(self) -> str:
        """The line on how to resume the run; empty before the context is stored."""
        return resume_hint(self.run) if self._resumable else ""
