"""The overhead of rlm, against goals. `make bench` prints the figures.

Ratios compare medians of alternating measurements. Goals in milliseconds are for an idle machine, where `make bench`
measures them. A test cannot ask for one: it allows twice the goal, times the current slowdown of the machine. Each figure
gets several tries.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path

import pytest
from openai import AsyncOpenAI, DefaultAioHttpClient

from helpers.containers import Transport
from rlm import Limits, OpenAIModel, Orchestrator, Sandbox, SandboxConfig, ScriptedModel
from rlm.events import CellFinished, CellStarted, Event, TurnStarted
from rlm.sandbox.docker.image import image_name
from rlm.sandbox.values import encode
from rlm.testing import FakeProvider

pytestmark = [pytest.mark.anyio, pytest.mark.serial, pytest.mark.timeout(300)]

MB = 1_000_000
TRIES = 6
GUARD = 2.0  # times the goal, for figures in milliseconds


BUSY = """
import os, statistics, time
wall, cpu = time.perf_counter(), time.process_time()
while time.process_time() - cpu < 0.1: pass
print((time.perf_counter() - wall) / (time.process_time() - cpu))
def fork():
    start = time.perf_counter()
    pid = os.fork()
    if pid == 0: os._exit(0)
    os.waitpid(pid, 0)
    return time.perf_counter() - start
print(statistics.median(fork() for _ in range(30)))
"""
FORK_SECONDS = 0.0005  # of a small process, where the goals were set; a turn is mostly a fork and what follows


def crowding() -> float:
    """How much slower than an idle machine this one is: by wall time over CPU time of two processes, or by a fork."""
    command = [sys.executable, "-S", "-c", BUSY]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    measured = [[float(figure) for figure in process.communicate()[0].split()] for process in both]
    return max(1.0, *(max(ratio, fork / FORK_SECONDS) for ratio, fork in measured))


async def reaches(goal: float, measure: Callable[[], Awaitable[float]], *, absolute: bool = False) -> None:
    """Assert that at least one of several measurements meets the goal."""
    figures: list[float] = []
    for _ in range(TRIES):
        before = crowding() if absolute else 1.0
        figure = await measure()
        figures.append(figure / (GUARD * max(before, crowding())) if absolute else figure)
        if figures[-1] <= goal:
            return
    raise AssertionError(f"{figures} are all above {goal}")


@pytest.mark.parametrize(("size", "milliseconds"), [(1_000, 3.0), (100 * MB, 10.0)])
async def test_a_turn_costs_little_however_long_the_context(tmp_path: Path, size: int, milliseconds: float) -> None:
    async def measure() -> float:
        starts: list[float] = []

        def note(event: Event) -> None:
            if isinstance(event, TurnStarted):
                starts.append(time.perf_counter())

        turns = 60
        model = ScriptedModel(["```repl\npass\n```"] * turns + ["FINAL(done)"])
        limits = Limits(max_iterations=turns + 1)
        await Orchestrator(model=model, limits=limits, run_root=tmp_path, on_event=note).acompletion("x" * size, "q")
        return 1000 * statistics.median(after - before for before, after in pairwise(starts))

    await reaches(milliseconds, measure, absolute=True)


async def test_a_sandbox_starts_in_no_more_than_one_and_a_half_times_the_engines_own_time() -> None:
    async def measure() -> float:
        ours, theirs = [], []
        command = ["docker", "run", "--rm", "--interactive", "--network=none", "--read-only", "--cap-drop=ALL"]
        command += ["--label=rlm.run=overhead", "--memory=512m", "--pids-limit=128", "--log-driver=none", image_name()]
        command += ["--lifetime", "60"]
        for _ in range(3):
            began = time.perf_counter()
            async with Sandbox() as sandbox:
                await sandbox.run("1")
                ours.append(time.perf_counter() - began)
            began = time.perf_counter()
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
            theirs.append(time.perf_counter() - began)
        return statistics.median(ours) / statistics.median(theirs)

    await reaches(1.5, measure)


@pytest.mark.parametrize(("transport", "seconds"), [("attach", 0.5), ("unix", 0.2)])
async def test_100_mb_are_loaded_quickly(transport: Transport, seconds: float) -> None:
    context = "0123456789" * (10 * MB)

    async def measure() -> float:
        config = SandboxConfig(transport=transport)
        async with Sandbox(config=config, context_bytes=len(context)) as sandbox:
            began = time.perf_counter()
            await sandbox.load("context", encode(context))
            return time.perf_counter() - began

    await reaches(seconds, measure, absolute=True)


BATCH = """```repl
answers = llm_batch([f"say {i}" for i in range(1000)])
FINAL(sum(a == f"say {i}" for i, a in enumerate(answers)))
```"""


async def test_1000_prompts_keep_their_order_and_take_little_longer_than_with_the_bare_client(tmp_path: Path) -> None:
    async def bare(url: str) -> float:
        async with AsyncOpenAI(base_url=url, api_key="none", http_client=DefaultAioHttpClient()) as client:
            slots = asyncio.Semaphore(200)

            async def one(number: int) -> str | None:
                async with slots:
                    reply = await client.chat.completions.create(
                        model="m", messages=[{"role": "user", "content": f"say {number}"}]
                    )
                    return reply.choices[0].message.content

            began = time.perf_counter()
            answers = await asyncio.gather(*(one(number) for number in range(1000)))
            assert answers == [f"say {number}" for number in range(1000)]
            return time.perf_counter() - began

    with FakeProvider(lambda messages, model: messages[-1]["content"], latency=0.05) as provider:
        sub_model = OpenAIModel("m", base_url=provider.base_url, api_key="none", max_concurrency=200)

        async def measure() -> float:
            cell: list[float] = []

            def note(event: Event) -> None:
                if isinstance(event, CellStarted | CellFinished):
                    cell.append(time.perf_counter())

            theirs = await bare(provider.base_url)
            done = await Orchestrator(
                model=ScriptedModel([BATCH]),
                sub_model=sub_model,
                limits=Limits(max_concurrent_calls=200),
                run_root=tmp_path,
                on_event=note,
            ).acompletion("", "go")
            assert done.answer == "1000"
            return (cell[1] - cell[0]) / theirs

        await reaches(1.3, measure)


MEMORY = r"""
import re, sys
from pathlib import Path
from rlm import Orchestrator, ScriptedModel
def completion(context):
    model = ScriptedModel(["```repl\nFINAL(len(context))\n```"])
    return Orchestrator(model=model, run_root=Path(sys.argv[1])).completion(context, "how long?").answer
peak = lambda: 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
completion("warm")
before = peak()
context = "0123456789" * 10_000_000
assert completion(context) == "100000000"
print(peak() - before)
"""


def test_a_context_of_100_mb_is_not_held_twice(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(MEMORY), str(tmp_path)]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert 100 * MB <= grown < 200 * MB
