"""`rlm niah`: the needle in a haystack, a preset of `rlm eval` with a special table."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from rlm.cli.options import Verbose, nonempty_path, with_model_options

from .evaluate import answer, chosen_models, start, write_text

MAX_FACTS = 12  # number of names in rlm.evals.tasks.niah


@with_model_options
def niah(
    model: Annotated[
        str,
        typer.Option(help="Root model; 'scripted' costs nothing (default: RLM_MODEL if a key is set, else scripted)"),
    ] = "",
    sub_model: Annotated[str, typer.Option(help="Model for sub-calls (default: the root model)")] = "",
    depth: Annotated[int, typer.Option(min=0, help="Call levels below the root")] = 1,
    trials: Annotated[int, typer.Option(min=1, help="Trials with one needle")] = 3,
    lines: Annotated[int, typer.Option(min=20, help="Lines of the haystack")] = 1_000_000,
    facts: Annotated[
        int, typer.Option(min=0, max=MAX_FACTS, help="Facts of one more trial, solved with llm_batch; 0 skips it")
    ] = 5,
    seed: Annotated[int, typer.Option(help="Random seed for generating instances")] = 7,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for results.jsonl, report.md and the runs (default: a new one in ./runs)", parser=nonempty_path
        ),
    ] = None,
    verbose: Verbose = False,
    *,
    model_options: Mapping[str, str],
    sub_model_options: Mapping[str, str],
) -> None:
    """Find a needle in a haystack: one number in a million lines of words, then several facts at once.

    A preset of `rlm eval`: its folder works with `rlm eval --resume`, `report` and `compare`.

    Exit status: 0 success (a wrong answer is a result), 1 a trial failed, 2 invalid usage, 130 interrupted.
    """
    from rich.console import Console

    from rlm.evals.plan import Plan
    from rlm.evals.report import trials as report
    from rlm.evals.tasks.niah import length_of

    single = facts == 1  # then the last trial is one more needle
    plan = Plan(
        tasks=("seed_niah/needle", "seed_niah/facts") if facts > 1 else ("seed_niah/needle",),
        methods=(f"rlm:{depth}",),
        lengths=(length_of(lines),),
        n=trials + single,
        indices={"seed_niah/facts": (trials,)} if facts > 1 else {},
        seed=seed,
        **chosen_models(model, sub_model, "", model_options, sub_model_options),
        facts=facts if facts > 1 else None,
    )
    evaluation = start(plan, out, prefix="niah", extra={"lines": lines})
    rows = answer(evaluation, max_concurrent=1, verbose=verbose)
    write_text(evaluation.results.folder / "report.md", report.markdown(evaluation.results, rows))
    console = Console()
    if plan.scripted:
        console.print(plan.model_note, highlight=False)
    console.print(report.terminal_table(rows, title=f"Needle in {lines:,} lines"))
    console.print(report.summary(rows), highlight=False)
    if failures := report.failures(rows):
        sys.stderr.writelines(f"{sentence}\n" for sentence in failures)
        raise typer.Exit(1)
