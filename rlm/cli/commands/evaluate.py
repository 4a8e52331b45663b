"""`rlm eval`: tasks for methods and models, with a report; and two evaluations compared."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from rlm.cli.options import a_path

if TYPE_CHECKING:
    from rlm.evals.plan import Models, Plan
    from rlm.evals.results import Job, Results

RUN = "run"
AT_ONCE = 4

Folder = Annotated[Path, typer.Argument(help="of an evaluation, as --out named it", show_default=False, parser=a_path)]


class _WithoutName(TyperGroup):
    """`rlm eval TASK` is `rlm eval run TASK`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [RUN, *args]
        return super().parse_args(ctx, args)


evaluate = typer.Typer(cls=_WithoutName, no_args_is_help=True)


@evaluate.callback()
def _evaluate() -> None:
    """Give tasks to methods and models, and report scores with intervals: rlm eval TASK... --method rlm:1 -n 50."""
    from rlm.errors import ConfigError

    if not all(map(find_spec, ("matplotlib", "scipy"))):
        raise ConfigError("Evaluations need scipy and matplotlib: pip install 'rlm[eval]'.")


@evaluate.command(RUN)
def run(
    tasks: Annotated[list[str] | None, typer.Argument(help="names of tasks; `rlm eval tasks` lists them")] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="direct, map_reduce, keyword, rlm:0, rlm:1, ...; again for more")
    ] = None,
    model: Annotated[str, typer.Option(help="root model; scripted costs nothing and measures the system only")] = "",
    sub_model: Annotated[str, typer.Option(help="of the calls; default: the root model")] = "",
    sub_base_url: Annotated[
        str, typer.Option(help="server of the sub-model, where it has its own; default: RLM_SUB_BASE_URL")
    ] = "",
    n: Annotated[
        int | None, typer.Option("-n", min=1, help="instances of each task and length", show_default="10")
    ] = None,
    lengths: Annotated[list[str] | None, typer.Option(help="in tokens, such as 8k,32k")] = None,
    seed: Annotated[int | None, typer.Option(help="instances are a function of it", show_default="7")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the results", parser=a_path)] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="folder of an evaluation that was cut off; all else is as it was, but for more -n", parser=a_path
        ),
    ] = None,
    redo_failed_calls: Annotated[
        bool, typer.Option("--redo-failed-calls", help="with --resume: also answers in which calls had failed, anew")
    ] = False,
    at_once: Annotated[int, typer.Option(min=1, help="instances in work on this machine at once")] = AT_ONCE,
    accuracy: Annotated[
        float | None, typer.Option(min=0, max=1, help="of the labeller beside the scripted model", show_default="1")
    ] = None,
    window: Annotated[
        int | None, typer.Option(min=1, help="of the root model, in tokens, for direct and map_reduce")
    ] = None,
    max_cost_usd: Annotated[float | None, typer.Option(help="of each RLM run")] = None,
    max_iterations: Annotated[int | None, typer.Option(min=1, help="turns of each RLM")] = None,
    trec: Annotated[Path | None, typer.Option(help="the file of the real TREC questions", parser=a_path)] = None,
    data: Annotated[list[Path] | None, typer.Option(help="a JSONL file of your own instances", parser=a_path)] = None,
    longbench: Annotated[list[Path] | None, typer.Option(help="a data.json of LongBench-v2", parser=a_path)] = None,
    oolong: Annotated[
        list[Path] | None, typer.Option(help="rows of OOLONG-synth, as JSON or JSONL", parser=a_path)
    ] = None,
) -> None:
    """Answer the instances of tasks by each method, and write results.jsonl, report.md and plots.

    Stopped by Ctrl-C or a crash, it goes on with --resume DIR: finished instances are not repeated, failed ones are, and
    RLM runs that were cut off go on where they were. Answers in which calls had failed stand, unless you say
    --redo-failed-calls. A greater -n adds instances.

    Exit status: 0 done, 1 an instance failed, 2 the command cannot be, 130 interrupted.
    """
    from rlm.errors import ConfigError
    from rlm.evals.plan import SCRIPTED, Plan, environment_info, lengths_of
    from rlm.evals.results import Results
    from rlm.models.settings import Settings

    if resume is not None:
        lists = [tasks, method, model, sub_model, sub_base_url, lengths, data, longbench, oolong]
        numbers = [seed, out, accuracy, window, max_cost_usd, max_iterations, trec]
        results = Results.load(resume)
        plan = Plan.of(results.settings)
        if any(lists) or any(given is not None for given in numbers) or (n is not None and n < plan.n):
            raise ConfigError(
                f"{resume} goes on as it was begun: give nothing beside --resume but --at-once, --redo-failed-calls and a "
                "greater -n."
            )
        if n is not None:  # the instances that it has stay the first ones
            plan = replace(plan, n=n)
        plan.check()
        jobs, models = list(plan.jobs()), plan.models()
        plan.check_files(jobs, results.rows.values())
        if n is not None:
            results = results.with_settings({**results.settings, "n": n})
    elif redo_failed_calls:
        raise ConfigError("--redo-failed-calls does answers of an evaluation again: give it with --resume DIR.")
    else:
        settings = Settings()
        endpoint = settings.openai_api_key is not None or settings.openai_base_url is not None
        model = model or (settings.model if endpoint else SCRIPTED)
        sub_model = sub_model or (settings.sub_model if model == settings.model else model)
        files = [("data", data), ("longbench", longbench), ("oolong_file", oolong)]
        plan = Plan(
            tasks=tuple(dict.fromkeys(tasks or ())),
            methods=tuple(dict.fromkeys(method or ("rlm:1",))),
            lengths=lengths_of(lengths or ("8k",)),
            n=10 if n is None else n,
            seed=7 if seed is None else seed,
            model=model,
            sub_model=sub_model,
            sub_base_url=None if sub_model == SCRIPTED else sub_base_url or settings.sub_base_url,
            accuracy=1.0 if accuracy is None else accuracy,
            window=window,
            max_cost_usd=max_cost_usd,
            max_iterations=max_iterations,
            trec=None if trec is None else str(trec.absolute()),
            files=tuple((kind, str(path.absolute())) for kind, paths in files for path in paths or ()),
        )
        plan.check()
        jobs, models = list(plan.jobs()), plan.models()  # what cannot be is known before there is a folder
        made = replace(plan, base_url=models.base_url).as_json() | environment_info()
        results = Results.create(out or Path("runs") / time.strftime("eval-%Y%m%d-%H%M%S"), made)
    failed = _answered(plan, jobs, models, results, at_once, redo_failed_calls=redo_failed_calls)
    for name in written(results.folder):
        sys.stderr.write(f"rlm: wrote {results.folder / name}\n")
    if failed:
        raise typer.Exit(1)


def _answered(
    plan: Plan, jobs: list[Job], models: Models, results: Results, at_once: int, *, redo_failed_calls: bool
) -> int:
    """Do all that is not done; the number of failures."""
    from rlm.cli.interrupt import run_until_interrupted
    from rlm.evals.concurrency import machine_cap
    from rlm.evals.harness import run_jobs, standing
    from rlm.evals.methods.base import MethodContext
    from rlm.evals.progress import Progress
    from rlm.run.clients import Clients

    stand = standing(jobs, results.rows, redo_failed_calls=redo_failed_calls).values()
    sys.stderr.write(
        f"rlm: {len(jobs):,} instances, {len(stand):,} of them done; model {plan.model}, calls to {plan.sub_model}; results "
        f"in {results.folder}\n"
    )
    means = MethodContext(models=models, limits=plan.limits(), window=plan.window)
    with Progress(jobs, stand) as progress:

        async def work() -> list[Any]:
            async with Clients(max_concurrent=1).connections(models.clients):  # connections stay open for all jobs
                return await run_jobs(
                    jobs,
                    means=means,
                    results=results,
                    cap=machine_cap(at_once),
                    on_row=progress.row,
                    on_start=progress.start,
                    redo_failed_calls=redo_failed_calls,
                )

        rows = run_until_interrupted(work, advice=lambda: f"rlm: to go on: rlm eval --resume {results.folder}\n")
    if without := sum(bool(row.failed_calls and not row.error) for row in rows):
        sys.stderr.write(
            f"rlm: {without:,} of the answers lack the replies of calls that failed; to do them again: "
            f"rlm eval --resume {results.folder} --redo-failed-calls\n"
        )
    return sum(bool(row.error) for row in rows) + len(jobs) - len(rows)


@evaluate.command("tasks")
def list_tasks() -> None:
    """List the tasks."""
    from rlm.evals.registry import tasks

    for name in tasks():
        typer.echo(name)


@evaluate.command("report")
def report(folder: Folder) -> None:
    """Write report.md and the plots of an evaluation anew, from its rows alone. Exit status: 0, 2."""
    for name in written(folder):
        typer.echo(folder / name)


@evaluate.command("compare")
def compare(
    first: Folder,
    second: Folder,
    method: Annotated[str | None, typer.Option(help="of both, where there are several")] = None,
) -> None:
    """Say whether the second evaluation differs from the first on the instances of both, or that the data cannot tell.

    Exit status: 0, 2.
    """
    from rlm._util.text import printable
    from rlm.evals.report.comparison import differences
    from rlm.evals.results import Results

    for line in differences(Results.load(first), Results.load(second), method=method):
        typer.echo(printable(str(line)))


def written(folder: Path) -> list[str]:
    """Write the report and the plots; the names of the files."""
    from rlm.errors import ConfigError
    from rlm.evals.report import plots
    from rlm.evals.report.report import markdown, ordered
    from rlm.evals.results import Results

    results = Results.load(folder)
    pictures = plots.draw(ordered(results), folder) if results.rows else []
    try:
        (folder / "report.md").write_text(markdown(results, plots=pictures), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"No report can be written to {folder} ({error.strerror}): make room.") from error
    return ["report.md", *pictures]
