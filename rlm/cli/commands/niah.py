"""`rlm niah`: the needle in a haystack, as an evaluation of the harness with a table of its own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlm.cli.interrupt import run_until_interrupted
from rlm.cli.options import a_path

from .runs import how_to_resume_all

if TYPE_CHECKING:
    from rlm.evals.results import Row
    from rlm.models.base import Model

SCRIPTED = "scripted"
NAMES = 12  # of rlm.evals.tasks.niah: so many facts there can be


def niah(
    model: Annotated[
        str, typer.Option(help="root model; 'scripted' costs nothing. Default: that of the environment")
    ] = "",
    sub_model: Annotated[str, typer.Option(help="model of the calls; default: the root model")] = "",
    depth: Annotated[int, typer.Option(min=0, help="levels that may be called below the root")] = 1,
    trials: Annotated[int, typer.Option(min=1, help="trials with one needle")] = 3,
    lines: Annotated[int, typer.Option(min=20, help="lines of the haystack")] = 1_000_000,
    facts: Annotated[
        int, typer.Option(min=0, max=NAMES, help="facts of one more trial, solved with llm_batch; 0: none")
    ] = 5,
    seed: Annotated[int, typer.Option(help="instances are a function of it")] = 7,
    out: Annotated[
        Path | None, typer.Option(help="folder for results.jsonl, report.md and the runs", parser=a_path)
    ] = None,
    verbose: Annotated[bool, typer.Option(help="show every turn")] = False,
) -> None:
    """Find a needle in a haystack: one number in a million lines of words, then several facts at once."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from rlm.evals.concurrency import SingleSlot
    from rlm.evals.harness import RUNS, run_jobs
    from rlm.evals.methods.base import MethodContext
    from rlm.evals.plan import environment_info
    from rlm.evals.report import niah_report as report
    from rlm.evals.results import Results
    from rlm.evals.tasks import seed_niah
    from rlm.models.settings import Settings
    from rlm.testing.policies import scripted_model_for

    settings = Settings()
    endpoint = settings.openai_api_key is not None or settings.openai_base_url is not None
    model = model or (settings.model if endpoint else SCRIPTED)
    sub_model = sub_model or (settings.sub_model if model == settings.model else model)
    folder = out or Path("runs") / time.strftime("niah-%Y%m%d-%H%M%S")
    setting = {
        "model": model,
        "sub-model": sub_model,
        "depth": depth,
        "lines": f"{lines:,}",
        "seed": seed,
        **environment_info(),
    }
    results = Results.create(folder, setting, goes_on=False)
    began = time.time()
    progress_console = Console(stderr=True)
    progress_console.print(f"Model {model}, calls to {sub_model}, depth {depth}; results in {folder}", highlight=False)

    def models(task: str) -> tuple[str | Model, str | Model]:
        kind = task.partition("/")[2]
        root, sub = (scripted_model_for(kind) if name == SCRIPTED else name for name in (model, sub_model))
        return root, sub

    wanted = [1] * trials + ([facts] if facts else [])
    jobs = [
        seed_niah.job(index=index, lines=lines, seed=seed, facts=count, method=f"rlm:{depth}")
        for index, count in enumerate(wanted)
    ]
    columns = TextColumn("trials"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=progress_console, transient=True) as progress:
        bar = progress.add_task("trials", total=len(wanted))

        async def work() -> list[Row]:
            return await run_jobs(
                jobs,
                means=MethodContext(models=models, verbose=verbose),
                results=results,
                cap=SingleSlot(),
                on_row=lambda row: progress.advance(bar),
            )

        rows = run_until_interrupted(work, advice=lambda: how_to_resume_all(folder / RUNS, since=began))
    scripted = SCRIPTED in (model, sub_model)
    (folder / "report.md").write_text(report.markdown(rows, scripted=scripted, setting=setting), encoding="utf-8")
    console = Console()
    if scripted:
        console.print(report.SYSTEM_ONLY, highlight=False)
    console.print(report.table(rows, title=f"Needle in {lines:,} lines"))
    console.print(report.summary(rows), highlight=False)
    for sentence in report.failures(rows):
        progress_console.print(sentence, highlight=False, markup=False, soft_wrap=True)
    if report.failures(rows):
        raise typer.Exit(1)
