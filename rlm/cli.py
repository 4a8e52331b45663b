"""The command line: answers and tables on standard output, progress on standard error.

Exit status: 0 done (a wrong answer of a model is a result), 1 the system failed, 2 the command cannot be.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from . import blocking, cli_runs
from .config import MIB, SandboxConfig
from .console import printable
from .doctor import examine
from .errors import ConfigError, RLMError
from .evals import niah as task
from .evals import report
from .evals.runner import Row, run_trials
from .execute import Executed, execute
from .models.base import Model
from .models.policies import playing
from .orchestrator import Orchestrator
from .settings import Settings
from .view.command import view

SCRIPTED = "scripted"

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def rlm() -> None:
    """Recursive Language Models, run safely."""


app.command()(view)

MARKS = {"ok": ("✓", "green"), "note": ("!", "yellow"), "problem": ("✗", "red")}


@app.command()
def doctor() -> None:
    """Look at all that a run needs: engine, image, transports, gVisor, key, disk. Exit status 1 if a part is missing."""
    console = Console()
    logging.getLogger("rlm").setLevel(logging.ERROR)  # its warnings are among the findings

    async def work() -> bool:
        well = True
        async for finding in examine():
            mark, style = MARKS[finding.state]
            row = Table.grid(padding=(0, 1))
            row.add_row(Text(mark, style), Text(f"{finding.part:7}"), Text(finding.text))
            console.print(row)
            well = well and finding.state != "problem"
        return well

    if not blocking.run(work):
        raise typer.Exit(1)


@app.command("exec")
def exec_(
    file: Annotated[str, typer.Argument(help="a Python script; - reads it from standard input")],
    arguments: Annotated[list[str] | None, typer.Argument(help="for the script, after --")] = None,
    put: Annotated[list[str] | None, typer.Option(help="PATH[:NAME]: a file that the script finds as NAME")] = None,
    get: Annotated[list[str] | None, typer.Option(help="NAME: a file that the script leaves; '*' takes all")] = None,
    out_dir: Annotated[Path | None, typer.Option(help="where files that were got are written; default: here")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="of the script's own time")] = 60.0,
    memory: Annotated[int, typer.Option(min=128, help="in MiB")] = 512,
    runtime: Annotated[str | None, typer.Option(help="the engine's; runsc is gVisor")] = None,
) -> None:
    """Run any Python script in a locked sandbox: no network, no files but those given, bounded memory and time.

    Exit status: the script's own; 1 for an exception, 124 out of time, 137 killed, 2 for a command that cannot be.
    """
    if file == "-":
        name, script = "script.py", sys.stdin.read()
    else:
        name, script = Path(file).name, _read_script(Path(file))
    inputs = dict(map(_input, put or ()))
    shown = {"stdout": sys.stdout, "stderr": sys.stderr}

    def show(stream: Literal["stdout", "stderr"], text: str) -> None:
        target = shown[stream]
        target.write(printable(text) if target.isatty() else text.encode("utf-8", "replace").decode())
        target.flush()

    async def work() -> Executed:
        return await execute(
            script,
            name=name,
            arguments=arguments or (),
            inputs=inputs,
            outputs=get or (),
            out_dir=(out_dir or Path()) if get else None,
            seconds=seconds,
            config=SandboxConfig(runtime=runtime, memory_bytes=memory * MIB),
            on_output=show,
        )

    done = blocking.run(work)
    if done.problem:
        sys.stderr.write(f"rlm: {printable(done.problem)}\n")
    for path in done.files:
        sys.stderr.write(f"rlm: wrote {path}\n")
    raise typer.Exit(done.status)


def _read_script(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"The script {path} cannot be read ({error.strerror}): give a Python file, or - for standard input."
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"The script {path} is not UTF-8 text: give a Python file.") from error


def _input(said: str) -> tuple[str, Path]:
    """PATH[:NAME]"""
    path, _, name = said.rpartition(":") if ":" in said else (said, "", Path(said).name)
    if not Path(path).is_file():
        raise ConfigError(f"There is no file {path}: give one with --put PATH or --put PATH:NAME.")
    return name, Path(path)


@app.command()
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

        with cli_runs.telling_how_to_resume(folder / "runs"):
            rows = blocking.run(work)
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


app.command()(cli_runs.runs)
app.command()(cli_runs.resume)
app.command()(cli_runs.replay)


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


def main() -> NoReturn:
    """The `rlm` command."""
    logging.basicConfig(format="rlm: %(message)s", level=logging.WARNING)
    blocking.obey_signals()
    try:
        app()
    except RLMError as error:
        sys.stderr.write(f"rlm: {error}\n")
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt:
        sys.stderr.write("rlm: interrupted; what was started has been removed.\n")
        sys.exit(130)
    sys.exit(0)
