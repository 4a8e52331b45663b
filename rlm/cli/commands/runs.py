"""The commands for stored runs: `rlm runs`, `rlm resume`, `rlm replay`."""

from __future__ import annotations

import dataclasses
import io
import shutil
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlm._util.text import quantity
from rlm.cli.interrupt import resume_hint
from rlm.cli.options import AsJson, Quiet, Root, Verbose, with_limits

if TYPE_CHECKING:
    from rlm.types import Completion


def run_ids(incomplete: str) -> list[str]:
    """Completions for the shell: the runs in the configured folder, the newest first."""
    from rlm.cli.settings import load_settings
    from rlm.errors import ConfigError

    try:
        with redirect_stderr(io.StringIO()):  # a warning would garble the command line under completion
            root = load_settings().runs
    except ConfigError:
        return []
    return sorted((path.parent.name for path in root.glob(f"{incomplete}*/run.json")), reverse=True)


RUN_HELP = "Run ID, a unique prefix of it, or the run's directory"
Run = Annotated[str, typer.Argument(metavar="RUN", help=RUN_HELP, autocompletion=run_ids)]


def runs(root: Root = None, as_json: AsJson = False) -> None:
    """List the runs with their state, paid model calls, cost and question.

    On a terminal, long questions are cut at the end of the line.
    """
    from rlm._util.text import dollars, printable
    from rlm.cli.output import aligned, write_json
    from rlm.cli.settings import load_settings
    from rlm.store.runs import list_runs

    folder = load_settings(run_root=root).runs
    if as_json:
        write_json([dataclasses.asdict(run) | {"directory": str(run.directory)} for run in list_runs(folder)])
        return
    rows = [
        (
            run.run_id,
            run.state,
            "-" if run.calls is None else f"{run.calls:,}",
            "-" if run.calls is None else dollars(run.cost_usd),
            " ".join(printable(run.query or "").split()),
        )
        for run in list_runs(folder)
    ]
    if not rows:
        sys.stderr.write(f"No runs in {folder} yet.\n")
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in aligned([("run", "state", "calls", "cost", "question"), *rows], right=(2, 3), width=width):
        typer.echo(line)


@with_limits
def resume(
    run: Run,
    root: Root = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    *,
    limits: Mapping[str, str | None],
) -> None:
    """Resume a run that was interrupted, or that hit a limit you now raise.

    Recorded calls are not paid for again.
    Limits you do not set keep the values of the run.

    Exit status: as for `rlm run`.
    """
    from rlm.cli.interrupt import run_until_interrupted
    from rlm.cli.output import print_completion
    from rlm.cli.progress import follow, progress_listener
    from rlm.cli.settings import load_settings
    from rlm.orchestrator import Orchestrator
    from rlm.store.directory import find
    from rlm.store.record import RunRecord

    settings = load_settings(run_root=root, limits=limits)
    listener = progress_listener(quiet=quiet, verbose=verbose)
    directory = find(run, settings.runs)
    name = directory.name if root is None and directory.parent == settings.runs else str(directory)
    changed = {field: getattr(settings.limits, field) for field, value in limits.items() if value is not None}
    orchestrator = Orchestrator(
        run_root=settings.runs,
        limits=dataclasses.replace(RunRecord.load(directory).limits_now, **changed),
        prices=settings.prices,
    )
    done = run_until_interrupted(
        lambda: follow(orchestrator.start_resume(directory), listener), advice=lambda: resume_hint(name)
    )
    if not quiet:
        sys.stderr.write(f"{reuse_report(done)}\n")
    print_completion(done, run=name, as_json=as_json, quiet=quiet)


def replay(run: Run, root: Root = None, quiet: Quiet = False, verbose: Verbose = False) -> None:
    """Replay a finished run without a model and compare the answer.

    Exit status: 0 the same answer, 1 it differs, 2 invalid usage.
    """
    from rlm.cli.interrupt import run_until_interrupted
    from rlm.cli.progress import progress_listener
    from rlm.cli.settings import load_settings
    from rlm.orchestrator import Orchestrator
    from rlm.store.directory import find

    folder = load_settings(run_root=root).runs
    directory = find(run, folder)
    recorded = _recorded_answer(directory)
    orchestrator = Orchestrator(run_root=folder, on_event=progress_listener(quiet=quiet, verbose=verbose))
    done = run_until_interrupted(lambda: orchestrator.areplay(directory), advice=str)
    if recorded != done.answer.encode("utf-8", "surrogatepass"):
        sys.stderr.write(f"rlm: The answer of the replay differs. Its events are in {done.run_dir}.\n")
        raise typer.Exit(1)
    if not quiet:
        sys.stderr.write(f"Same answer, from {quantity(done.replayed_calls, 'recorded call')}.\n")


def _recorded_answer(directory: Path) -> bytes:
    """The answer of a finished run; empty for an unfinished one. Raises JournalError if it is missing."""
    from rlm.errors import JournalError
    from rlm.store.record import RunRecord

    try:
        return (directory / "answer.txt").read_bytes()
    except OSError as error:
        if RunRecord.load(directory).state != "finished":
            return b""
        raise JournalError(f"The run in {directory} is damaged: cannot read answer.txt ({error.strerror}).") from error


def reuse_report(done: Completion) -> str:
    """Which calls a resumed run reused and which may be billed twice."""
    reused = f"Reused {quantity(done.replayed_calls, 'recorded model call')}"
    if done.resent_calls:
        were = "was" if done.resent_calls == 1 else "were"
        reused += f"; {quantity(done.resent_calls, 'call')} {were} in flight and may be billed twice"
    diverged = f" The run diverged from the recording at node {', '.join(done.diverged)}." if done.diverged else ""
    return f"{reused}.{diverged}"
