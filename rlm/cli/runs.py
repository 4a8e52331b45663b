"""The commands about runs that are on the disk: `rlm runs`, `rlm resume`, `rlm replay`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from rlm.console import printable
from rlm.orchestrator import Orchestrator
from rlm.record import default_root, find
from rlm.runs import list_runs
from rlm.types import Completion

QUESTION_CHARS = 60

Root = Annotated[Path | None, typer.Option("--runs", help="folder of the runs; default: that of the user's state")]
Run = Annotated[str, typer.Argument(help="id of the run, or its directory")]
Verbose = Annotated[bool, typer.Option(help="show every turn")]


def runs(root: Root = None) -> None:
    """List the runs: state, question, model calls paid, cost."""
    table = Table("run", "state", "calls", "cost", "question")
    for run in list_runs(root or default_root()):
        cost = "unknown" if run.cost_usd is None else f"${run.cost_usd:.4g}"
        question = " ".join(printable(run.query or "").split())
        shown = question if len(question) <= QUESTION_CHARS else question[: QUESTION_CHARS - 1] + "…"
        table.add_row(run.run_id, run.state, f"{run.calls:,}", cost, shown)
    if table.row_count:
        Console().print(table)
    else:
        sys.stderr.write(f"There are no runs in {root or default_root()} yet.\n")


def resume(run: Run, root: Root = None, verbose: Verbose = False) -> None:
    """Go on with a run that was interrupted. Prints its answer; what its journal holds is not paid again."""
    root = root or default_root()
    with telling_how_to_resume(find(run, root).parent):
        done = Orchestrator(run_root=root, verbose=verbose).resume(run)
    sys.stderr.write(report(done) + "\n")
    typer.echo(done.answer.encode("utf-8", "surrogatepass"))


def replay(run: Run, root: Root = None, verbose: Verbose = False) -> None:
    """Go through a finished run again without any model, and compare its answer: exit status 1 where it is another."""
    root = root or default_root()
    done = Orchestrator(run_root=root, verbose=verbose).replay(run)
    recorded = (find(run, root) / "answer.txt").read_bytes()
    if recorded != done.answer.encode("utf-8", "surrogatepass"):
        sys.stderr.write(f"rlm: the replay has another answer; its events are in {done.run_dir}.\n")
        raise typer.Exit(1)
    sys.stderr.write(f"The same answer, from {done.replayed_calls:,} recorded calls.\n")


@contextmanager
def telling_how_to_resume(root: Path) -> Iterator[None]:
    """Where Ctrl-C stops runs in this folder: say how to go on with them."""
    started = time.time()
    try:
        yield
    except KeyboardInterrupt:
        for run in list_runs(root):
            if run.state == "interrupted" and run.by_name and (run.ended or 0.0) >= started:
                sys.stderr.write(f"rlm: to go on with the run: rlm resume {run.directory}\n")
        raise


def report(done: Completion) -> str:
    """What a resumed run has paid, in a sentence or two."""
    said = f"{done.replayed_calls:,} model calls came from the journal, {done.paid_twice:,} may have been paid twice."
    where = ", ".join(done.diverged)
    return said + (f" It took another way than before at node {where}." if where else "")
