"""The commands about runs that are on the disk: `rlm runs`, `rlm resume`, `rlm replay`."""

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

from rlm.cli.interrupt import how_to_resume
from rlm.cli.options import AsJson, Quiet, Root, Verbose, with_limits

if TYPE_CHECKING:
    from rlm.store.runs import RunSummary
    from rlm.types import Completion


def run_ids(incomplete: str) -> list[str]:
    """For the shell's completion: the runs in the folder of the settings, the newest first."""
    from rlm.cli.settings import settings
    from rlm.errors import ConfigError

    try:
        with redirect_stderr(io.StringIO()):  # there is a command on the terminal that is not done
            root = settings().runs
    except ConfigError:
        return []
    return sorted((path.parent.name for path in root.glob(f"{incomplete}*/run.json")), reverse=True)


WHICH = "id of a run, or the beginning of one, or its directory"
Run = Annotated[str, typer.Argument(help=WHICH, autocompletion=run_ids)]


def runs(root: Root = None, as_json: AsJson = False) -> None:
    """List the runs: state, model calls paid, cost, question. On a terminal, questions are cut where a line ends."""
    from rlm._util.text import printable
    from rlm.cli.output import aligned, write_json
    from rlm.cli.settings import settings
    from rlm.store.runs import list_runs

    folder = settings(run_root=root).runs
    if as_json:
        write_json([dataclasses.asdict(run) | {"directory": str(run.directory)} for run in list_runs(folder)])
        return
    rows = [
        (
            run.run_id,
            run.state,
            "-" if run.calls is None else f"{run.calls:,}",
            _cost(run),
            " ".join(printable(run.query or "").split()),
        )
        for run in list_runs(folder)
    ]
    if not rows:
        sys.stderr.write(f"There are no runs in {folder} yet.\n")
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in aligned([("run", "state", "calls", "cost", "question"), *rows], to_the_right=(2, 3), width=width):
        typer.echo(line)


def _cost(run: RunSummary) -> str:
    if run.calls is None:
        return "-"
    return "unknown" if run.cost_usd is None else f"${run.cost_usd:.4g}"


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
    """Go on with a run that was interrupted, or that a limit ended which is higher
    now. Prints its answer; what its journal holds is not paid again.

    Limits are those of the run, but for the ones that are given.

    Exit status: as that of `rlm run`.
    """
    from rlm.cli.interrupt import run_until_interrupted
    from rlm.cli.output import show
    from rlm.cli.progress import followed, progress
    from rlm.cli.settings import settings
    from rlm.orchestrator import Orchestrator
    from rlm.store.directory import find
    from rlm.store.record import RunRecord

    given = settings(run_root=root, limits=limits)
    listener = progress(quiet=quiet, verbose=verbose)
    directory = find(run, given.runs)
    changed = {name: getattr(given.limits, name) for name, value in limits.items() if value is not None}
    orchestrator = Orchestrator(
        run_root=given.runs,
        limits=dataclasses.replace(RunRecord.load(directory).limits_now, **changed),
        prices=given.prices,
    )
    done = run_until_interrupted(
        lambda: followed(orchestrator.start_resume(directory), listener), advice=lambda: how_to_resume(directory)
    )
    if not quiet:
        sys.stderr.write(report(done) + "\n")
    show(done, as_json=as_json, quiet=quiet)


def replay(run: Run, root: Root = None, quiet: Quiet = False, verbose: Verbose = False) -> None:
    """Go through a finished run again without any model, and compare its answer: exit status 1 where it is another."""
    from rlm.cli.interrupt import run_until_interrupted
    from rlm.cli.progress import progress
    from rlm.cli.settings import settings
    from rlm.orchestrator import Orchestrator
    from rlm.store.directory import find

    folder = settings(run_root=root).runs
    directory = find(run, folder)
    recorded = _recorded_answer(directory)
    orchestrator = Orchestrator(run_root=folder, on_event=progress(quiet=quiet, verbose=verbose))
    done = run_until_interrupted(lambda: orchestrator.areplay(directory), advice=str)
    if recorded != done.answer.encode("utf-8", "surrogatepass"):
        sys.stderr.write(f"rlm: the replay has another answer; its events are in {done.run_dir}.\n")
        raise typer.Exit(1)
    if not quiet:
        sys.stderr.write(f"The same answer, from {done.replayed_calls:,} recorded calls.\n")


def _recorded_answer(directory: Path) -> bytes:
    """That of a finished run; nothing of one that has none yet. Raises JournalError where it is missing."""
    from rlm.errors import JournalError
    from rlm.store.record import RunRecord

    try:
        return (directory / "answer.txt").read_bytes()
    except OSError as error:
        if RunRecord.load(directory).state != "finished":
            return b""
        raise JournalError(
            f"The run in {directory} is damaged: answer.txt cannot be read ({error.strerror})."
        ) from error


def report(done: Completion) -> str:
    """What a resumed run has paid, in a sentence or two."""
    said = f"{done.replayed_calls:,} model calls came from the journal, {done.resent_calls:,} may have been paid twice."
    where = ", ".join(done.diverged)
    return said + (f" It took another way than before at node {where}." if where else "")
