"""Measure what rlm adds, as ratios within one run: start, turns, loading, batches. Needs the engine and the image.

make bench prints the table; `--quick` repeats less.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from openai import AsyncOpenAI, DefaultAioHttpClient
from rich.console import Console
from rich.table import Table

from rlm import Limits, Message, OpenAIModel, Orchestrator, Sandbox, SandboxConfig, ScriptedModel
from rlm.events import CellFinished, Event, TurnStarted
from rlm.sandbox.spec import docker_run_arguments
from rlm.sandbox.values import encode

ROOT: Final = Path(__file__).resolve().parent.parent
MB: Final = 1_000_000
TRANSPORTS: Final[tuple[Literal["attach", "unix"], ...]] = ("attach", "unix")
CONCURRENCY: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure: what was measured, against what, and the goal for it."""

    what: str
    measured: str
    against: str
    result: str
    goal: str
    met: bool


async def turn_seconds(context: str, turns: int, run_root: Path) -> float:
    """Median time of a turn with a trivial cell, from one request to the model to the next."""
    replies = ["```repl\npass\n```"] * turns + ["FINAL(done)"]
    starts: list[float] = []

    def note(event: Event) -> None:
        if isinstance(event, TurnStarted):
            starts.append(time.perf_counter())

    limits = Limits(max_iterations=turns + 1)
    model = ScriptedModel(replies)
    await Orchestrator(model=model, limits=limits, run_root=run_root, on_event=note).acompletion(context, "none")
    return statistics.median(after - before for before, after in zip(starts, starts[1:], strict=False))


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
    """From nothing to the result of a first cell, against `docker run` of the same image with the same flags."""
    ours, theirs = [], []
    command = ["docker", "run", "--rm", *docker_run_arguments(SandboxConfig())]
    for _ in range(5 * repeat):
        began = time.perf_counter()
        async with Sandbox() as sandbox:
            await sandbox.run("1")
            ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True)
        theirs.append(time.perf_counter() - began)
    return ratio_row("start to first cell", "docker run, same flags", ours, theirs, goal=1.5)


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
    """1,000 prompts through `llm_batch`, against the bare client with the same concurrency; the model takes 50 ms."""
    count = 1000
    ours, theirs = [], []
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
                    raise SystemExit(f"only {done.answer} of {count} answers were right")
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
    """Seconds for the same prompts through the client alone, with the transport and the pool that OpenAIModel uses."""
    pool = DefaultAioHttpClient(limits=httpx_limits())
    async with AsyncOpenAI(base_url=url, api_key="none", http_client=pool) as client:
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
        raise SystemExit("the server did not answer as it should")
    return seconds
