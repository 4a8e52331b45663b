"""`make prompts-local`: how far a weak model gets as the root, with one system prompt, and how it fails.

Runs the RLM loop with a small local model as root and sub-model, and prints a row of the table in docs/evals.md. The text
of a run holds one fact, or words to count, in lines of random words. The same folder continues an earlier measurement.

    measure_prompts.py [--prompt NAME] [--task NAME] [--n NUMBER] [--lines NUMBER] [--out FOLDER]
    measure_prompts.py --table FOLDER ...

LOCAL_MODEL, LOCAL_GGUF and LOCAL_URL choose the model: see local_model.py.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Final

import anyio
from local_model import check_environment, fail, log, model_server

from rlm import Limits, OpenAIModel, RLMError
from rlm.evals.harness import run_jobs
from rlm.evals.methods.base import MethodContext
from rlm.evals.plan import environment_info
from rlm.evals.report.stats import wilson
from rlm.evals.results import ROWS_FILE, Job, JobKey, ResultRow, Results
from rlm.evals.task import Instance
from rlm.evals.tasks.niah import length_of, make_haystack
from rlm.models.base import Model
from rlm.prompts import SystemPrompt, default_system_prompt, worked_example_prompt
from rlm.run.clients import Clients
from rlm.trajectory.run_reader import read_run_events
from rlm.types import Message, ModelReply

ROOT_MODEL: Final = "qwen2.5-coder-0.5b-instruct"
PROMPTS: Final[Mapping[str, SystemPrompt]] = {"default": default_system_prompt, "example": worked_example_prompt}
TASKS: Final = ("needle", "count")
LINES: Final = 500  # about 15,000 characters
SEED: Final = 7
SAMPLING: Final = {"temperature": 0.7, "max_tokens": 400}  # runaway replies would take minutes
LIMITS: Final = Limits(max_iterations=6, max_seconds=1_800)


@dataclass(frozen=True, kw_only=True)
class Replies:
    """What the root did in one run, from its events.

    Attributes:
        count: replies.
        code: replies that ran a cell.
        failed: cells with an error.
        repeated: replies equal to the one before.
    """

    count: int
    code: int
    failed: int
    repeated: int


class SeededModel(OpenAIModel):
    """A model whose samples repeat from one measurement to the next, but not from turn to turn."""

    async def complete(self, messages: Sequence[Message], *, max_tokens: int | None = None) -> ModelReply:
        """See `Model`. One request runs at a time."""
        self.parameters = {**SAMPLING, "seed": SEED + len(messages)}
        return await super().complete(messages, max_tokens=max_tokens)


def instance(task: str, index: int, lines: int) -> Instance:
    """An instance of the fact or of the count."""
    haystack = make_haystack(number=index + 1, lines=lines, seed=SEED)
    query, answer, scorer = haystack.query, haystack.expected[""], "facts"
    if task == "count":
        words = [line.split() for line in haystack.context.split("\n")]
        word = words[index][0]  # another one in every text
        answer, scorer = str(sum(word in line for line in words)), "number"
        query = f"How many lines of the text contain the word {word}? Answer with the number only."
    return Instance(
        task=task,
        length=length_of(lines),
        seed=SEED,
        index=index,
        context=haystack.context,
        query=query,
        answers=(answer,),
        scorer=scorer,
    )


async def measure(
    url: str, name: str, folder: Path, *, task: str, prompt: str, n: int, lines: int
) -> Sequence[ResultRow]:
    """Run the missing trials. Raises RLMError if the model gives no reply."""
    model: Model = SeededModel(name, base_url=url, api_key="none", sampling=SAMPLING)
    jobs = [
        Job(
            key=JobKey(task, length_of(lines), SEED, index, "rlm:1"),
            make=partial(instance, task, index, lines),
        )
        for index in range(n)
    ]
    settings = {"prompt": prompt, "lines": lines, "model": name, "sampling": SAMPLING} | environment_info()
    results = Results.load(folder) if (folder / ROWS_FILE).exists() else Results.create(folder, settings)
    async with Clients(max_concurrent=1).connections({model}):
        return await run_jobs(
            jobs,
            ctx=MethodContext(models=lambda task: (model, model), limits=LIMITS, system_prompt=system_prompt(prompt)),
            results=results,
            max_concurrent=1,
            on_row=lambda row: log(
                f"{row.task} {row.index + 1}: {row.error or row.answer[:60]!r}, expected {row.expected[0]}, "
                f"{row.stop_reason}, {row.seconds:.0f} s"
            ),
        )


def system_prompt(name: str) -> SystemPrompt:
    """A function in `PROMPTS`, or one named as MODULE:FUNCTION."""
    if name in PROMPTS:
        return PROMPTS[name]
    module, _, function = name.partition(":")
    try:
        made: SystemPrompt = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError):
        fail(f"Invalid --prompt {name}: use {', '.join(PROMPTS)}, or MODULE:FUNCTION.")
    return made


def replies_of(directory: Path) -> Replies:
    """Count the replies and cells of a run's root."""
    texts, failed = list[str](), 0
    with_code = set[int]()
    for event in read_run_events(directory):
        if event.node != "0":
            continue
        match type(event).__name__, event:
            case "ModelReplied", _:
                texts.append(event.text)  # type: ignore[attr-defined]
            case "CellStarted", _:
                with_code.add(len(texts))
            case "CellFinished", _:
                failed += event.result.outcome != "ok"  # type: ignore[attr-defined]
    repeated = sum(one == other for one, other in pairwise(texts))
    return Replies(count=len(texts), code=len(with_code), failed=failed, repeated=repeated)


HEADINGS: Final = (
    "runs", "exact", "contained", "empty", "turns", "replies with code", "repeated", "failed cells", "stop reasons",
    "s a run",
)  # fmt: skip


def cells(rows: Sequence[ResultRow], folder: Path) -> tuple[str, ...]:
    """One row of the table. Shares have Wilson's 95 % interval; those of replies ignore that a run's replies are related."""
    done = [row for row in rows if not row.error]
    counts = [replies_of(folder / row.run_dir) for row in done]
    replies = sum(count.count for count in counts)
    stops = [row.stop_reason for row in done] + ["failed"] * (len(rows) - len(done))
    return (
        str(len(rows)),
        _share(sum(row.answer.strip() == row.expected[0] for row in done), len(rows)),
        _share(sum(row.expected[0] in row.answer for row in done), len(rows)),
        _share(sum(not row.answer.strip() for row in done), len(rows)),
        f"{statistics.mean(row.iterations for row in done):.1f}" if done else "",
        _share(sum(count.code for count in counts), replies),
        _share(sum(count.repeated for count in counts), replies),
        str(sum(count.failed for count in counts)),
        ", ".join(f"{stops.count(stop)} {stop}" for stop in sorted(set(stops), key=stops.count, reverse=True)),
        f"{statistics.median(row.seconds for row in rows):.0f}" if rows else "",
    )


def _share(number: int, count: int) -> str:
    found = wilson(number, count)
    return f"{number} of {count} ({found.low:.0%} to {found.high:.0%})"


def table(folders: Sequence[Path]) -> str:
    """The Markdown table of several measurements."""
    lines = ["| measurement | " + " | ".join(HEADINGS) + " |", "|---" * (len(HEADINGS) + 1) + "|"]
    for folder in folders:
        results = Results.load(folder)
        for task in TASKS:
            if rows := [row for row in results.rows.values() if row.task == task]:
                about = f"{folder.name}: {results.settings['model']}, {results.settings['prompt']}, {task}"
                lines.append(f"| {about} | " + " | ".join(cells(rows, folder)) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run a measurement, or print the table of finished ones."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0].partition(": ")[2])
    parser.add_argument("--prompt", default="default", help=f"{', '.join(PROMPTS)}, or MODULE:FUNCTION")
    parser.add_argument("--task", choices=TASKS, default=TASKS[0])
    parser.add_argument("--n", type=int, default=10, help="number of runs")
    parser.add_argument("--lines", type=int, default=LINES, help="lines of the text")
    parser.add_argument("--threads", type=int, help="threads of the server (default: all cores but one)")
    parser.add_argument("--out", type=Path, help="folder of the results")
    parser.add_argument("--table", type=Path, nargs="+", metavar="FOLDER", help="print the table of these folders")
    options = parser.parse_args()
    if options.table:
        try:
            print(table(options.table))
        except RLMError as error:
            fail(str(error))
        return
    check_environment()
    system_prompt(options.prompt)  # fails early
    folder = options.out or Path("runs") / time.strftime("prompts-local-%Y%m%d-%H%M%S")
    started = time.monotonic()
    with model_server(default=ROOT_MODEL, slots=1, threads=options.threads) as (url, name):
        try:
            rows = anyio.run(
                lambda: measure(
                    url, name, folder, task=options.task, prompt=options.prompt, n=options.n, lines=options.lines
                )
            )
        except RLMError as error:
            fail(str(error))
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(table([folder]))
    log(f"{time.monotonic() - started:.0f} s, of which the server's CPU time {usage.ru_utime + usage.ru_stime:.0f} s.")
    if errors := [row.error for row in rows if row.error]:
        sys.exit("\n".join(errors))


if __name__ == "__main__":
    main()
