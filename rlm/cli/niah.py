"""`rlm niah`."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import anyio
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from rlm.errors import ConfigError
from rlm.evals import niah as task
from rlm.evals import report
from rlm.evals.runner import Row, run_trials
from rlm.models.base import Model
from rlm.models.policies import playing
from rlm.orchestrator import Orchestrator
from rlm.settings import Settings

from .runs import telling_how_to_resume

SCRIPTED = "scripted"


def niah(
    model: Annotated[
        str, typer.Option(help="root model; 'scripted' costs nothing. Default: that of the environment")
    ] = "",
    sub_model: Annotated[str, typer.Option(help="model of the calls; default: the root model")] = "",
    depth: Annotated[int, typer.Option(min=0, help="levels that may be called below the root")] = 1,
    trials: Annotated[int, typer.Option(min=1, help="trials with one needle")] = 3,
    lines: Annotated[int, typer.Option(min=20, help="lines of the haystack")] = 1_000_000,
    facts: Annotated[
        int, typer.Option(min=0, max=len(task.NAMES), help="facts of one more trial, solved with llm_batch; 0: none")
    ] = 5,
    seed: Annotated[int, typer.Option(help="instances are a function of it")] = 7,
    out: Annotated[Path | None, typer.Option(help="folder for results.jsonl, report.md and the runs")] = None,
    verbose: Annotated[bool, typer.Option(help="show every turn")] = False,
) -> None:
    """Find a needle in a haystack: one number in a million lines of words, then several facts at once."""
    settings = Settings()
    endpoint = settings.openai_api_key is not None or settings.openai_base_url is not None
    model = model or (settings.model if endpoint else SCRIPTED)
    sub_model = sub_model or (settings.sub_model if model == settings.model else model)
    folder = out or Path("runs") / time.strftime("niah-%Y%m%d-%H%M%S")
    _make(folder)
    progress_console = Console(stderr=True)
    progress_console.print(f"Model {model}, calls to {sub_model}, depth {depth}; results in {folder}", highlight=False)

    def orchestrator_for(trial: task.Trial) -> Orchestrator:
        kind = "needle" if len(trial.expected) == 1 else "facts"
        return Orchestrator(
            depth=depth,
            model=_model(model, kind),
            sub_model=_model(sub_model, kind),
            run_root=folder / "runs",
            verbose=verbose,
        )

    wanted = [1] * trials + ([facts] if facts else [])
    instances = (
        task.make_trial(number=number, lines=lines, seed=seed, facts=count) for number, count in enumerate(wanted, 1)
    )
    columns = TextColumn("trials"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=progress_console, transient=True) as progress:
        bar = progress.add_task("trials", total=len(wanted))

        async def work() -> list[Row]:
            return await run_trials(
                instances, orchestrator_for=orchestrator_for, folder=folder, on_row=lambda row: progress.advance(bar)
            )

        with telling_how_to_resume(folder / "runs"):
            rows = anyio.run(work)
    scripted = SCRIPTED in (model, sub_model)
    setting = {
        "model": model,
        "sub-model": sub_model,
        "depth": depth,
        "lines": f"{lines:,}",
        "seed": seed,
        "rlm": version("rlm"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }
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


def _model(name: str, kind: str) -> str | Model:
    return playing(kind) if name == SCRIPTED else name


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "results.jsonl").exists():
            raise ConfigError(f"There are results in {folder} already: give another folder with OUT= or --out.")
    except OSError as error:
        raise ConfigError(
            f"No results can be written to {folder} ({error.strerror}): choose another with OUT=."
        ) from error
