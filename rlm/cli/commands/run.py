"""`rlm run`: one question over a file, a folder, or what a pipe brings."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlm.cli.interrupt import how_to_resume, run_until_interrupted
from rlm.cli.options import AsJson, Quiet, Root, Verbose, with_limits
from rlm.errors import ConfigError

if TYPE_CHECKING:
    from rlm.events import Event
    from rlm.types import Completion

HOW = 'as in: rlm run "What went wrong?" app.log'


@with_limits
def run(
    question: Annotated[str, typer.Argument(help="what is asked", show_default=False)] = "",
    source: Annotated[
        str, typer.Argument(metavar="FILE|DIR|-", help="the long prompt; - is standard input", show_default=False)
    ] = "",
    model: Annotated[str | None, typer.Option(help="root model", show_default="that of the settings")] = None,
    sub_model: Annotated[str | None, typer.Option(help="model of the calls", show_default="the root model")] = None,
    depth: Annotated[
        str | None, typer.Option(metavar="N", help="levels that may be called below the root", show_default="1")
    ] = None,
    runtime: Annotated[str | None, typer.Option(help="of the engine; runsc is gVisor")] = None,
    transport: Annotated[str | None, typer.Option(metavar="attach|unix", help="to the sandboxes")] = None,
    root: Root = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    *,
    limits: Mapping[str, str | None],
) -> None:
    """Answer a question about a file, a folder or a pipe's text, however long.

    The answer goes to standard output, progress to standard error.
    Ctrl-C stops the run, which can be resumed.

    Exit status: 0 answered, 3 answered with what there was when a limit was
    reached, 1 failed, 2 the command cannot be (a wrong option, no context,
    no key, no Docker), 130 interrupted.
    """
    from rlm.cli.output import show
    from rlm.cli.progress import followed, progress
    from rlm.cli.settings import settings
    from rlm.orchestrator import Orchestrator
    from rlm.sandbox.docker.engine import default_engine
    from rlm.sandbox.docker.image import image_name

    if not question.strip():
        raise ConfigError(f"There is no question: give it first, {HOW}.")
    given = settings(
        model=model,
        sub_model=sub_model,
        depth=depth,
        limits=limits,
        sandbox={"runtime": runtime, "transport": transport},
        run_root=root,
    )
    text = read_context(source, max_bytes=given.limits.max_context_bytes)
    listener = progress(quiet=quiet, verbose=verbose)
    watch = Watch(given.runs)
    orchestrator = Orchestrator(
        depth=given.depth,
        model=given.model,
        sub_model=given.sub_model,
        limits=given.limits,
        prices=given.prices,
        sandbox=given.sandbox,
        run_root=given.runs,
    )

    async def work() -> Completion:
        await default_engine().check_image(given.sandbox.image or image_name())  # before there is a run
        return await followed(orchestrator.start(text, question, on_event=watch), listener)

    done = run_until_interrupted(work, advice=watch.advice)
    show(done, as_json=as_json, quiet=quiet)


def read_context(source: str, *, max_bytes: int | None) -> str | bytes | Path:
    """The context that was named: a path, or what a pipe brings, as text where it is UTF-8.

    Raises:
        ConfigError: there is none, it is empty, or it cannot be read.
    """
    if not source:
        raise ConfigError(f"There is no context: give a file, a folder, or - for standard input, {HOW}.")
    most = -1 if max_bytes is None else max_bytes + 1  # one more than may be, so that it is refused
    if source == "-":
        if sys.stdin is None:
            raise ConfigError("Standard input is closed: pipe the context in, or give a file.")
        if sys.stdin.isatty():
            raise ConfigError(
                'Standard input is a terminal: pipe the context in, as in: cat app.log | rlm run "What went wrong?" -'
            )
        return _piped(sys.stdin.buffer.read(most), "Standard input", max_bytes)
    path = Path(source)
    try:
        mode = path.stat().st_mode
        if stat.S_ISFIFO(mode):  # <(a command) of a shell
            with path.open("rb") as pipe:
                return _piped(pipe.read(most), f"The pipe {source}", max_bytes)
    except FileNotFoundError:
        raise ConfigError(
            f"There is no file or folder {source}: give one that is there, or - for standard input."
        ) from None
    except OSError as error:
        raise ConfigError(f"The context {source} cannot be read: {error.strerror}.") from error
    if stat.S_ISREG(mode) and path.stat().st_size == 0:
        raise ConfigError(f"The file {source} is empty: there is nothing to ask about.")
    if stat.S_ISDIR(mode) and not _holds_a_file(path):
        raise ConfigError(f"There is no file in the folder {source}: there is nothing to ask about.")
    return path


def _holds_a_file(folder: Path) -> bool:
    """Whether there is a regular file. Raises ConfigError where that cannot be seen."""

    def refuse(error: OSError) -> None:
        raise ConfigError(f"The context {error.filename} cannot be read: {error.strerror}.") from error

    found = (Path(parent, name) for parent, _, names in os.walk(folder, onerror=refuse) for name in names)
    return any(stat.S_ISREG(file.lstat().st_mode) for file in found)


def _piped(data: bytes, name: str, max_bytes: int | None) -> str | bytes:
    if not data:
        raise ConfigError(f"{name} is empty: there is nothing to ask about.")
    if max_bytes is not None and len(data) > max_bytes:
        raise ConfigError(
            f"{name} has more bytes than the limit, which is {max_bytes:,}: raise it with --max-context-bytes, or give less."
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data


class Watch:
    """Knows from a run's events how to go on with it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._resumable = ""

    def __call__(self, event: Event) -> None:
        from rlm.events import TurnStarted

        if isinstance(event, TurnStarted):  # from here on the context is kept
            self._resumable = event.run_id

    def advice(self) -> str:
        """The line that says how to resume; nothing before there is something to resume."""
        return how_to_resume(self._root / self._resumable) if self._resumable else ""
