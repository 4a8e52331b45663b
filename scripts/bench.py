"""Measures the overhead of rlm: start, turns, loading, batches. Needs the engine and the image.

`make bench` prints the table. Ratios compare measurements of the same run. `--quick` takes fewer samples.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal

import anyio
from openai import AsyncOpenAI, DefaultAioHttpClient
from rich.console import Console
from rich.table import Table

from rlm import Limits, OpenAIModel, Orchestrator, Sandbox, SandboxConfig, ScriptedModel
from rlm.events import CellFinished, CellStarted, Event, TurnStarted
from rlm.sandbox.docker.image import find_sources, image_name
from rlm.sandbox.docker.spec import container_spec
from rlm.sandbox.values import encode
from rlm.testing import FakeProvider

MB: Final = 1_000_000
# The goal for loading 100 MB, in seconds, by transport.
LOADS: Final[tuple[tuple[Literal["attach", "unix"], float], ...]] = (("attach", 0.5), ("unix", 0.2))
CONCURRENCY: Final = 200  # model calls in flight at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table: a measurement, its baseline, the result and the goal."""

    what: str
    measured: str
    against: str
    result: str
    goal: str
    met: bool


async def turn_seconds(context: str, turns: int, run_root: Path) -> float:
    """Median seconds of a turn with a trivial cell, from one model request to the next."""
    replies = ["```repl\npass\n```"] * turns + ["FINAL(done)"]
    starts: list[float] = []

    def note(event: Event) -> None:
        if isinstance(event, TurnStarted):
            starts.append(time.perf_counter())

    limits = Limits(max_iterations=turns + 1)
    model = ScriptedModel(replies)
    await Orchestrator(model=model, limits=limits, run_root=run_root, on_event=note).acompletion(context, "none")
    return statistics.median(after - before for before, after in pairwise(starts))


async def turns(repeat: int, run_root: Path) -> list[Row]:
    rows = []
    for name, context, goal in (("1 kB", "x" * 1000, 3.0), ("100 MB", "x" * 100 * MB, 10.0)):
        milliseconds = 1000 * await turn_seconds(context, 40 * repeat, run_root)
        rows.append(
            Row(
                what=f"a turn, context of {name}",
                measured=f"{milliseconds:.2f} ms",
                against="",
                result=f"{milliseconds:.2f} ms",
                goal=f"≤ {goal:g} ms",
                met=milliseconds <= goal,
            )
        )
    return rows


async def start(repeat: int) -> Row:
    """Time from nothing to the result of a first cell, against `docker run` of the same image with the same flags."""
    ours: list[float] = []
    theirs: list[float] = []
    command = docker_run()
    for _ in range(5 * repeat):
        began = time.perf_counter()
        async with Sandbox() as sandbox:
            await sandbox.run("1")
            ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
        theirs.append(time.perf_counter() - began)
    return ratio_row("start to first cell", "docker run, same flags", ours, theirs, goal=1.5)


def docker_run() -> list[str]:
    """The command that starts the same container, which ends by itself at the end of its input."""
    labels = {"rlm.run": "bench"}
    arguments = container_spec(
        SandboxConfig(), name="", image=image_name(), uid=20_000, labels=labels, seccomp=""
    ).arguments
    host = arguments["HostConfig"]
    flags = {
        "network": host["NetworkMode"],
        "ipc": host["IpcMode"],
        "cap-drop": host["CapDrop"][0],
        "memory": host["Memory"],
        "memory-swap": host["MemorySwap"],
        "cpus": host["NanoCpus"] / 1e9,
        "pids-limit": host["PidsLimit"],
        "oom-score-adj": host["OomScoreAdj"],
        "log-driver": host["LogConfig"]["Type"],
        "user": arguments["User"],
        "workdir": arguments["WorkingDir"],
        "hostname": arguments["Hostname"],
        "label": "rlm.run=bench",
    }
    lists = {
        "security-opt": [host["SecurityOpt"][0], f"seccomp={find_sources().image / 'seccomp.json'}"],
        "env": arguments["Env"],
        "tmpfs": [f"{path}:{options}" for path, options in host["Tmpfs"].items()],
        "ulimit": [f"{limit['Name']}={limit['Soft']}:{limit['Hard']}" for limit in host["Ulimits"]],
    }
    command = ["docker", "run", "--rm", "--interactive", "--read-only"]
    command += [f"--{name}={value}" for name, value in flags.items()]
    command += [f"--{name}={value}" for name, values in lists.items() for value in values]
    return [*command, arguments["Image"], *arguments["Cmd"]]


def ratio_row(what: str, against: str, ours: Sequence[float], theirs: Sequence[float], *, goal: float) -> Row:
    mine, other = statistics.median(ours), statistics.median(theirs)
    return Row(
        what=what,
        measured=f"{mine * 1000:.0f} ms",
        against=f"{against}: {other * 1000:.0f} ms",
        result=f"{mine / other:.2f}x",
        goal=f"≤ {goal:g}x",
        met=mine / other <= goal,
    )


async def load(repeat: int, transport: Literal["attach", "unix"], goal: float) -> Row:
    context = "0123456789" * (10 * MB)
    times = []
    for _ in range(2 * repeat):
        config = SandboxConfig(transport=transport)
        async with Sandbox(config=config, context_bytes=len(context)) as sandbox:
            began = time.perf_counter()
            await sandbox.load("context", encode(context))
            times.append(time.perf_counter() - began)
    seconds = statistics.median(times)
    return Row(
        what=f"100 MB into a sandbox, {transport}",
        measured=f"{seconds * 1000:.0f} ms",
        against="",
        result=f"{len(context) / seconds / 1e9:.2f} GB/s",
        goal=f"≤ {goal * 1000:.0f} ms",
        met=seconds <= goal,
    )


BATCH: Final = """```repl
answers = llm_batch([f"say {{i}}" for i in range({count})])
FINAL(sum(a == f"say {{i}}" for i, a in enumerate(answers)))
```"""


async def batch(repeat: int, run_root: Path) -> Row:
    """Time for 1,000 prompts through `llm_batch`, against the bare client with equal concurrency. Replies take 50 ms."""
    count = 1000
    ours: list[float] = []
    theirs: list[float] = []
    with served() as url:
        model = OpenAIModel("served", base_url=url, api_key="none", max_concurrency=CONCURRENCY)
        root = ScriptedModel([BATCH.format(count=count)])
        limits = Limits(max_concurrent_calls=CONCURRENCY)
        async with Orchestrator(model=root, sub_model=model, limits=limits, run_root=run_root) as orchestrator:
            for _ in range(repeat):
                theirs.append(await bare_client(url, count))
                cells: list[float] = []
                done = await orchestrator.acompletion("", "go", on_event=cell_timer(cells))
                if done.answer != str(count):
                    raise SystemExit(f"error: only {done.answer} of {count} answers were right")
                ours.append(cells[0])
    return ratio_row(f"llm_batch of {count:,}, {CONCURRENCY} at once", "bare AsyncOpenAI", ours, theirs, goal=1.3)


def cell_timer(seconds: list[float]) -> Callable[[Event], None]:
    """A listener that appends the time between the start and the end of each cell."""
    began = 0.0

    def note(event: Event) -> None:
        nonlocal began
        if isinstance(event, CellStarted):
            began = time.perf_counter()
        elif isinstance(event, CellFinished):
            seconds.append(time.perf_counter() - began)

    return note


async def bare_client(url: str, count: int) -> float:
    """Seconds for the same prompts through the client alone, over the transport that OpenAIModel uses too."""
    async with AsyncOpenAI(base_url=url, api_key="none", http_client=DefaultAioHttpClient()) as client:
        slots = asyncio.Semaphore(CONCURRENCY)

        async def one(number: int) -> str | None:
            async with slots:
                reply = await client.chat.completions.create(
                    model="served", messages=[{"role": "user", "content": f"say {number}"}]
                )
                return reply.choices[0].message.content

        began = time.perf_counter()
        answers = await asyncio.gather(*(one(number) for number in range(count)))
        seconds = time.perf_counter() - began
    if answers != [f"say {number}" for number in range(count)]:
        raise SystemExit("error: the server gave wrong answers")
    return seconds


@contextmanager
def served() -> Iterator[str]:
    """Run the test server in a separate process, so that it does not slow down the measured one. Yields its URL."""
    with subprocess.Popen(
        [sys.executable, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        yield server.stdout.readline().decode().strip()
        server.stdin.close()


async def serve() -> None:
    """Answer every conversation with its last message after 50 ms, until standard input ends."""
    async with FakeProvider(lambda messages, model: str(messages[-1]["content"]), latency=0.05) as provider:
        print(provider.base_url, flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)


async def measure(repeat: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        run_root = Path(folder)
        rows = [await start(repeat), *await turns(repeat, run_root)]
        rows += [await load(repeat, transport, goal) for transport, goal in LOADS]
        rows.append(await batch(repeat, run_root))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="take fewer samples")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        anyio.run(serve)
        return
    table = Table(title="Overhead of rlm (medians of this run)")
    for heading in ("what", "measured", "against", "result", "goal", "met"):
        table.add_column(heading)
    for row in anyio.run(measure, 1 if arguments.quick else 3):
        table.add_row(row.what, row.measured, row.against, row.result, row.goal, "yes" if row.met else "no")
    Console().print(table)


if __name__ == "__main__":
    main()
