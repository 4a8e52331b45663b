"""A cell's time limit covers everything that it calls, except waiting for answers."""

from __future__ import annotations

import time
from textwrap import dedent

import anyio
import pytest

from helpers.containers import offered, ways
from rlm import CellResult, Sandbox, SandboxConfig
from rlm.sandbox.base import QueryReply, SandboxQuery

pytestmark = [pytest.mark.anyio, pytest.mark.serial]

SECONDS = 2.0
MOST_SECONDS = 20.0  # until such a cell is stopped, on a busy machine; none of them ends by itself


async def at_once(query: SandboxQuery) -> QueryReply:
    return QueryReply(ok=True, text="")


async def refused(query: SandboxQuery) -> QueryReply:
    return QueryReply(ok=False, text="There is nothing left to pay this call.")


async def late(query: SandboxQuery) -> QueryReply:
    await anyio.sleep(30)
    return QueryReply(ok=True, text="late")


async def lookup(key: int) -> int:
    """Return a value after a while."""
    await anyio.sleep(0.1)
    return key


LAST_LONG = ("many threads that only call the host's functions",)  # because a call counts only a millisecond
THREADS = """
    import threading, time
    def f():
        while True: {call}
    for _ in range({threads}): threading.Thread(target=f, daemon=True).start()
    {then}
"""
BUSY = {
    "calls that are answered at once": (at_once, THREADS.format(call="llm_batch(['x'] * 256)", threads=6, then="f()")),
    "calls that are refused": (
        refused,
        THREADS.format(call="llm_batch(['x'] * 256)", threads=6, then="time.sleep(99)"),
    ),
    "a loop beside calls of the host's functions": (
        None,
        THREADS.format(call="lookup(1)", threads=3, then="while True: pass"),
    ),
    "many threads that only call the host's functions": (
        None,
        THREADS.format(call="lookup(1)", threads=50, then="time.sleep(99)"),
    ),
    "a loop beside one call": (late, THREADS.format(call="pass", threads=1, then="llm_query('x')")),
    "children that work while it waits": (
        late,
        """
        import subprocess, sys
        for _ in range(2): subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"])
        llm_query("x")
        """,
    ),
    "children that end, one after the other, while it waits": (
        late,
        """
        import os, threading
        def f():
            while True:
                if os.fork() == 0:
                    for _ in range(10 ** 6): pass
                    os._exit(0)
                os.wait()
        threading.Thread(target=f, daemon=True).start()
        llm_query("x")
        """,
    ),
}


@pytest.mark.parametrize("config", ways(daily=1))
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long if name in LAST_LONG else ()) for name in BUSY]
)
async def test_a_cell_that_works_while_it_calls_is_stopped(name: str, config: SandboxConfig) -> None:
    answer, code = BUSY[name]
    async with Sandbox(offered(config), tools={"lookup": lookup}, depth=1) as sandbox:
        began = time.monotonic()
        result = await sandbox.run(dedent(code), seconds=SECONDS, answer=answer)
        assert time.monotonic() - began < MOST_SECONDS
        assert (result.outcome, result.error) == (
            "timeout",
            "Timed out: the cell ran longer than 2 seconds and was stopped.",
        )
        assert SECONDS <= result.seconds < SECONDS + 1


@pytest.mark.parametrize("config", ways(daily=1))
async def test_unanswerable_calls_never_reach_the_host(config: SandboxConfig) -> None:
    async with Sandbox(offered(config)) as sandbox:
        used = time.process_time()
        result = await sandbox.run("while True: llm_batch(['x' * 1000] * 256)", seconds=SECONDS)
        assert time.process_time() - used < 0.1 * SECONDS
        assert result.outcome == "timeout"


@pytest.mark.parametrize("config", ways(daily=1))
async def test_a_cell_that_only_waits_takes_as_long_as_its_answers(config: SandboxConfig) -> None:
    async def slow(query: SandboxQuery) -> QueryReply:
        await anyio.sleep(1.25 * SECONDS)
        return QueryReply(ok=True, text=query.prompt)

    async def run(cell: str) -> CellResult:
        return await sandbox.run(cell, seconds=SECONDS, answer=slow)

    async with Sandbox(offered(config), depth=1) as sandbox:
        single = await run("llm_query('x')")
        assert (single.outcome, single.stdout) == ("ok", "'x'\n")
        batch = await run("llm_batch([str(n) for n in range(500)]) == [str(n) for n in range(500)]")
        assert (batch.outcome, batch.stdout) == ("ok", "True\n")
        assert batch.seconds >= 0.5
