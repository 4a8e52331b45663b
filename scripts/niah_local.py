"""`make niah-local`: the needle task with a small real model on this machine, below the scripted root model.

Prints a line for each reply. Environment variables, beside those of local_model.py:

LOCAL_ROOT: set it to 1 to use the model as the root model, too.
LINES, TRIALS, OUT: size of the haystack, number of trials, folder of the results.
"""

from __future__ import annotations

import json
import os
import re
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import anyio
from local_model import SLOTS, check_environment, fail, log, model_server, number_from_environment
from rich.console import Console

from rlm import Limits, OpenAIModel, RLMError
from rlm.cli.commands.evaluate import write_report
from rlm.evals.harness import run_jobs
from rlm.evals.methods.base import MethodContext
from rlm.evals.plan import SCRIPTED, Plan, environment_info
from rlm.evals.report import trials as report
from rlm.evals.results import ROWS_FILE, ResultRow, Results
from rlm.evals.tasks.niah import MIN_LINES, length_of
from rlm.models.base import Model
from rlm.prompts import default_system_prompt, worked_example_prompt
from rlm.run.clients import Clients
from rlm.testing import scripted_model_for
from rlm.types import Message, ModelReply

LINES: Final = 150  # three pieces of text
TRIALS: Final = 2
MAX_RUN_SECONDS: Final = 1800
SEED: Final = 7
SAMPLING: Final = {"temperature": 0, "max_tokens": 32}  # for sub-calls
MAX_SHOWN_CHARS: Final = 50  # of a reply, in its line of progress


class LoggedModel(OpenAIModel):
    """A model that writes a line for each reply."""

    replies = 0

    async def complete(self, messages: Sequence[Message], *, max_tokens: int | None = None) -> ModelReply:
        """See `Model`."""
        started = time.monotonic()
        reply = await super().complete(messages, max_tokens=max_tokens)
        self.replies += 1
        text = " ".join(reply.text.split())
        text = text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}…"
        log(f"reply {self.replies}: {text!r}, {time.monotonic() - started:.1f} s")
        return reply


async def evaluate(url: str, name: str, folder: Path, *, lines: int, trials: int) -> list[ResultRow]:
    """Run the trials. Raises RLMError, before it creates the folder, if the model gives no reply."""
    small = LoggedModel(name, base_url=url, api_key="none", max_concurrency=SLOTS, sampling=SAMPLING)
    root: Model = scripted_model_for("needle by pieces")
    if is_root := bool(os.environ.get("LOCAL_ROOT")):
        root = LoggedModel(name, base_url=url, api_key="none", max_concurrency=SLOTS)
    plan = Plan(
        tasks=("seed_niah/needle",),
        lengths=(length_of(lines),),
        n=trials,
        seed=SEED,
        model=name if is_root else SCRIPTED,
        sub_model=name,
        sub_base_url=url,
    )
    async with Clients(max_concurrent=SLOTS).connections({small, root}):
        await OpenAIModel.complete(small, [Message(role="user", content="Say yes.")])  # without a line of progress
        results = Results.create(
            folder, plan.to_settings() | {"lines": lines, "sampling": SAMPLING} | environment_info()
        )
        return await run_jobs(
            plan.jobs(),
            ctx=MethodContext(
                models=lambda task: (root, small),
                limits=Limits(max_seconds=MAX_RUN_SECONDS),
                system_prompt=worked_example_prompt if is_root else default_system_prompt,
            ),
            results=results,
            max_concurrent=1,
            on_row=lambda row: log(
                f"trial {row.index + 1}: {row.answer!r}, expected {row.expected[0]}, {row.seconds:.0f} s"
            ),
        )


def inspect_replies(rows: Sequence[ResultRow], folder: Path) -> tuple[list[str], str]:
    """Errors of failed calls, and a sentence on the replies: how many had a number, and one that is not in the piece."""
    failed = list[str]()
    replies = numbers = invented = 0
    for row in rows:
        prompts: dict[str, str] = {}
        for text in (folder / row.run_dir / "events.jsonl").read_text().splitlines():
            event = json.loads(text)
            if event["type"] == "SubCallStarted":
                prompts[event["node"]] = event["prompt"]
            elif event["type"] == "SubCallFinished" and not event["ok"]:
                failed.append(event["text"])
            elif event["type"] == "SubCallFinished":
                replies += 1
                in_reply = re.findall(r"\d[\d,]*", event["text"])
                numbers += bool(in_reply)
                invented += any(number.replace(",", "") not in prompts[event["node"]] for number in in_reply)
    return failed, (
        f"{replies:,} replies: {numbers:,} contained a number, {invented:,} a number that is not in the piece. The root's "
        "code ignored those."
    )


def main() -> None:
    folder = Path(os.environ.get("OUT") or Path("runs") / time.strftime("niah-local-%Y%m%d-%H%M%S"))
    lines = number_from_environment("LINES", LINES, minimum=MIN_LINES)
    trials = number_from_environment("TRIALS", TRIALS, minimum=1)
    if (folder / ROWS_FILE).exists():
        fail(f"{folder} already contains results. Choose another folder with OUT=.")
    check_environment()
    with model_server() as (url, name):
        try:
            rows = anyio.run(lambda: evaluate(url, name, folder, lines=lines, trials=trials))
        except RLMError as error:
            fail(str(error))
    for file in write_report(folder):
        log(f"wrote {folder / file}")
    failed, sentence = inspect_replies([row for row in rows if not row.error], folder)
    tokens = sum(row.tokens or 0 for row in rows)
    console = Console()
    console.print(report.terminal_table(rows, title="Needle, read by a small real model"))
    seconds = sum(row.seconds for row in rows)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    speed = f"{tokens:,} tokens in {seconds:.0f} s, {tokens / max(1e-9, seconds):,.0f} a second"
    if "LOCAL_URL" not in os.environ:
        speed += f"; {usage.ru_utime + usage.ru_stime:.0f} s of CPU time"
    for text in (report.summary(rows), sentence, f"{speed}."):
        console.print(text, highlight=False)
    if failed:
        failed = [f"{len(failed):,} calls failed, the first with: {failed[0]}"]
    if errors := report.failures(rows) + failed:
        sys.exit("\n".join(errors))


if __name__ == "__main__":
    main()
