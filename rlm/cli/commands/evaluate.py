"""`rlm eval`: evaluates methods on tasks, writes reports, and compares evaluations. `rlm niah` is a preset of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from rlm._util.text import quantity
from rlm.cli.options import nonempty_path, with_model_options

if TYPE_CHECKING:
    from rlm.evals.plan import Plan, TaskModels
    from rlm.evals.results import Job, ResultRow, Results

RUN = "run"
CONCURRENCY = 4  # instances in progress by default
RESUME_OPTIONS = (
    "--resume keeps the original settings: it allows only --concurrency, --redo-failed-calls and a larger -n."
)

Folder = Annotated[
    Path, typer.Argument(metavar="DIR", help="Folder of an evaluation", show_default=False, parser=nonempty_path)
]


class _DefaultToRun(TyperGroup):
    """`rlm eval TASK` means `rlm eval run TASK`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [RUN, *args]
        return super().parse_args(ctx, args)


evaluate = typer.Typer(cls=_DefaultToRun, no_args_is_help=True)


@evaluate.callback()
def _evaluate() -> None:
    """Evaluate methods on tasks and report scores with intervals: rlm eval TASK... --method rlm:1 -n 50.

    `rlm eval run -h` lists the options.
    """
    from rlm.errors import ConfigError

    if not all(map(find_spec, ("matplotlib", "scipy"))):
        raise ConfigError("Evaluations require scipy and matplotlib: pip install 'rlm[eval]'.")


@evaluate.command(RUN)
@with_model_options
def run(
    tasks: Annotated[
        list[str] | None, typer.Argument(metavar="TASK", help="Names of tasks; `rlm eval tasks` lists them")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Method: direct, map_reduce, keyword, rlm:0, rlm:1, ... (default: rlm:1); repeat for several"
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(help="Root model; 'scripted' costs nothing (default: RLM_MODEL if a key is set, else scripted)"),
    ] = "",
    sub_model: Annotated[str, typer.Option(help="Model for sub-calls (default: the root model)")] = "",
    sub_base_url: Annotated[
        str, typer.Option(help="Server of the sub-model, if it has its own (default: RLM_SUB_BASE_URL)")
    ] = "",
    n: Annotated[
        int | None, typer.Option("-n", min=1, help="Instances of each task and length", show_default="10")
    ] = None,
    lengths: Annotated[list[str] | None, typer.Option(help="Context lengths in tokens, such as 8k,32k")] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed for generating instances", show_default="7")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results (default: a new one in ./runs)", parser=nonempty_path)
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Continue this evaluation; only -n can be increased", parser=nonempty_path)
    ] = None,
    redo_failed_calls: Annotated[
        bool, typer.Option("--redo-failed-calls", help="With --resume, redo answers whose sub-calls failed")
    ] = False,
    concurrency: Annotated[int, typer.Option(min=1, help="Instances in progress at once")] = CONCURRENCY,
    accuracy: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Accuracy of the scripted labeller, with the scripted model", show_default="1"),
    ] = None,
    window: Annotated[
        int | None, typer.Option(min=1, hidden=True, help="As --context-window, for direct and map_reduce only")
    ] = None,
    max_cost_usd: Annotated[float | None, typer.Option(help="Cost limit of each RLM run in US dollars")] = None,
    max_iterations: Annotated[int | None, typer.Option(min=1, help="Turns of each RLM")] = None,
    trec: Annotated[Path | None, typer.Option(help="File of the TREC questions", parser=nonempty_path)] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="JSONL file of your own instances", parser=nonempty_path)
    ] = None,
    longbench: Annotated[
        list[Path] | None, typer.Option(help="File data.json of LongBench-v2", parser=nonempty_path)
    ] = None,
    oolong: Annotated[
        list[Path] | None, typer.Option(help="File of OOLONG-synth rows, as JSON or JSONL", parser=nonempty_path)
    ] = None,
    *,
    model_options: Mapping[str, str],
    sub_model_options: Mapping[str, str],
) -> None:
    """Answer the instances of tasks with each method, and write results.jsonl, report.md and plots.

    After Ctrl-C or a crash, continue with --resume DIR: finished instances
    are kept, failed ones are repeated, and interrupted RLM runs resume where
    they stopped. Answers whose sub-calls failed are kept unless you set
    --redo-failed-calls. A larger -n adds instances.

    Exit status: 0 success, 1 an instance failed, 2 invalid usage, 130 interrupted.
    """
    from rlm.errors import ConfigError
    from rlm.evals.plan import Plan, parse_lengths

    if resume is not None:
        lists = [
            tasks,
            method,
            model,
            sub_model,
            sub_base_url,
            lengths,
            data,
            longbench,
            oolong,
            model_options,
            sub_model_options,
        ]
        values = [seed, out, accuracy, window, max_cost_usd, max_iterations, trec]
        if any(lists) or any(value is not None for value in values):
            raise ConfigError(RESUME_OPTIONS)
        evaluation = _resume(resume, n)
    elif redo_failed_calls:
        raise ConfigError("--redo-failed-calls requires --resume DIR.")
    else:
        models = chosen_models(model, sub_model, sub_base_url, model_options, sub_model_options)
        files = [("data", data), ("longbench", longbench), ("oolong_file", oolong)]
        plan = Plan(
            tasks=tuple(dict.fromkeys(tasks or ())),
            methods=tuple(dict.fromkeys(method or ("rlm:1",))),
            lengths=parse_lengths(lengths or ("8k",)),
            n=10 if n is None else n,
            seed=7 if seed is None else seed,
            **models,
            accuracy=1.0 if accuracy is None else accuracy,
            window=window,
            max_cost_usd=max_cost_usd,
            max_iterations=max_iterations,
            trec=None if trec is None else str(trec.absolute()),
            files=tuple((kind, str(path.absolute())) for kind, paths in files for path in paths or ()),
        )
        evaluation = start(plan, out, prefix="eval")
    rows = answer(evaluation, max_concurrent=concurrency, redo_failed_calls=redo_failed_calls)
    for name in write_report(evaluation.results.folder):
        sys.stderr.write(f"rlm: wrote {evaluation.results.folder / name}\n")
    if any(row.error for row in rows) or len(rows) < len(evaluation.jobs):
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """An evaluation that is ready to run."""

    plan: Plan
    jobs: list[Job]
    models: TaskModels
    results: Results


def chosen_models(
    model: str,
    sub_model: str,
    sub_base_url: str,
    model_options: Mapping[str, str],
    sub_model_options: Mapping[str, str],
) -> dict[str, Any]:
    """The fields of a `Plan` about models: the flags, completed from the settings."""
    from rlm.cli.settings import load_settings
    from rlm.evals.plan import SCRIPTED
    from rlm.models.options import sub_model_options as inherited

    settings = load_settings(model_options=model_options, sub_model_options=sub_model_options)
    has_endpoint = settings.openai_api_key is not None or settings.openai_base_url is not None
    root = model or (settings.model if has_endpoint else SCRIPTED)
    sub = sub_model or (settings.sub_model if root == settings.model else root)
    server = None if sub == SCRIPTED else sub_base_url or settings.sub_base_url
    same = sub == root and server is None
    return {
        "model": root,
        "sub_model": sub,
        "sub_base_url": server,
        "model_options": settings.model_options,
        "sub_model_options": inherited(settings.model_options, settings.sub_model_options, same_model=same),
    }


def start(plan: Plan, folder: Path | None, *, prefix: str, extra: Mapping[str, object] | None = None) -> Evaluation:
    """Validate a plan and create its folder, in that order.

    Args:
        plan: the evaluation.
        folder: where results go; by default a new folder below `runs`.
        prefix: start of the new folder's name.
        extra: further settings to record.

    Raises:
        ConfigError: the plan is invalid, or the folder contains results.
    """
    from rlm.evals.plan import environment_info
    from rlm.evals.results import Results

    plan.check()
    jobs, models = list(plan.jobs()), plan.models()
    settings = replace(plan, base_url=models.base_url).to_settings() | dict(extra or {}) | environment_info()
    results = Results.create(folder or Path("runs") / time.strftime(f"{prefix}-%Y%m%d-%H%M%S"), settings)
    return Evaluation(plan=plan, jobs=jobs, models=models, results=results)


def _resume(folder: Path, n: int | None) -> Evaluation:
    from rlm.errors import ConfigError
    from rlm.evals.plan import Plan
    from rlm.evals.results import Results

    results = Results.load(folder)
    plan = Plan.from_settings(results.settings)
    if n is not None:  # the first instances stay the same
        if n < plan.n:
            raise ConfigError(RESUME_OPTIONS)
        plan = replace(plan, n=n)
    plan.check()
    jobs, models = list(plan.jobs()), plan.models()
    plan.check_files(jobs, results.rows.values())
    if n is not None:
        results = results.with_settings({**results.settings, "n": n})
    return Evaluation(plan=plan, jobs=jobs, models=models, results=results)


def answer(
    evaluation: Evaluation, *, max_concurrent: int, redo_failed_calls: bool = False, verbose: bool = False
) -> list[ResultRow]:
    """Run the jobs that are not done, with progress on standard error; returns all rows in the order of the jobs."""
    from rlm.cli.interrupt import run_until_interrupted
    from rlm.evals.harness import final_rows, run_jobs
    from rlm.evals.methods.base import MethodContext
    from rlm.evals.progress import Progress
    from rlm.run.clients import Clients, find_windows

    plan, jobs, models, results = evaluation.plan, evaluation.jobs, evaluation.models, evaluation.results
    done = final_rows(jobs, results.rows, redo_failed_calls=redo_failed_calls).values()
    sys.stderr.write(
        f"rlm: {quantity(len(jobs), 'answer')}, {len(done):,} already done; model {plan.model}, "
        f"sub-model {plan.sub_model}; results in {results.folder}\n"
    )
    ctx = MethodContext(models=models, limits=plan.limits(), window=plan.window, verbose=verbose)

    async def work() -> list[ResultRow]:
        connections = Clients(max_concurrent=1).connections(models.clients)  # keeps connections open between jobs
        with Progress(jobs, done) as progress:
            async with connections:
                await find_windows(models.clients)  # the methods without an RLM need them, too
                return await run_jobs(
                    jobs,
                    ctx=ctx,
                    results=results,
                    max_concurrent=max_concurrent,
                    on_row=progress.row,
                    on_start=progress.start,
                    redo_failed_calls=redo_failed_calls,
                )

    rows = run_until_interrupted(work, advice=lambda: f"To continue: rlm eval --resume {results.folder}\n")
    if affected := sum(bool(row.failed_calls and not row.error) for row in rows):
        sys.stderr.write(
            f"rlm: answers with failed sub-calls: {affected:,}; to redo them: rlm eval --resume {results.folder} "
            "--redo-failed-calls\n"
        )
    by_key = {row.key: row for row in rows}
    return [by_key[job.key] for job in jobs if job.key in by_key]


@evaluate.command("tasks")
def list_tasks() -> None:
    """List the tasks."""
    from rlm.evals.registry import load_tasks

    for name in load_tasks():
        typer.echo(name)


@evaluate.command("report")
def report(folder: Folder) -> None:
    """Rewrite report.md and the plots of an evaluation from its rows.

    Exit status: 0 written, 2 invalid usage.
    """
    for name in write_report(folder):
        typer.echo(folder / name)


@evaluate.command("compare")
def compare(
    first: Folder,
    second: Folder,
    method: Annotated[str | None, typer.Option(help="Compare only this method")] = None,
) -> None:
    """Test whether two evaluations differ on their shared instances.

    Exit status: 0 compared, 2 invalid usage.
    """
    from rlm._util.text import printable
    from rlm.evals.report.comparison import differences
    from rlm.evals.results import Results

    for difference in differences(Results.load(first), Results.load(second), method=method):
        typer.echo(printable(str(difference)))


def write_report(folder: Path) -> list[str]:
    """Write the report and the plots; returns their file names."""
    from rlm.evals.report import plots
    from rlm.evals.report.report import markdown, ordered_rows
    from rlm.evals.results import Results

    results = Results.load(folder)
    pictures = plots.draw(ordered_rows(results), folder) if results.rows else []
    write_text(folder / "report.md", markdown(results, plots=pictures))
    return ["report.md", *pictures]


def write_text(file: Path, text: str) -> None:
    """Write a file. Raises ConfigError if the folder is not writable."""
    from rlm.errors import ConfigError

    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"Cannot write {file} ({error.strerror}).") from error
