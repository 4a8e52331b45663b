"""Many calls, concurrent completions and consecutive runs in one process; and clocks that jump."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import anyio
import pytest

from helpers.containers import containers
from helpers.measured import DESCRIPTORS, MEMORY_OF_CALLS, MEMORY_OF_RUNS, Record, count, rows
from rlm import Limits, Message, ModelReply, OpenAIModel, Orchestrator, ScriptedModel
from rlm.events import Event, SubCallFinished
from rlm.sandbox.docker.engine import MAX_CONCURRENT_REMOVALS, MAX_CONCURRENT_REQUESTS, MAX_CONCURRENT_STARTS
from rlm.testing import FakeProvider

pytestmark = [pytest.mark.anyio, pytest.mark.serial]

RUNS: Final = int(os.environ.get("RLM_RUNS", "150"))  # `make reliability` takes 500
BYTES_A_CALL: Final = 1500  # measured: 1,000, mostly the journal's index and the REPL's answers
BYTES_A_RUN: Final = 15_000  # measured: below 5,000
FINISHES: Final = "```repl\nFINAL(len(context))\n```"


def resident_mb() -> float:
    """Resident memory of this process in megabytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def held() -> tuple[int, int, int]:
    """Descriptors, threads and asyncio tasks of this process."""
    gc.collect()
    return len(os.listdir("/proc/self/fd")), threading.active_count(), len(asyncio.all_tasks())


async def test_a_wall_clock_that_jumps_moves_no_deadline_and_no_duration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    """Shift the clock by hours, forwards and backwards, at every event."""
    real, shift = time.time, 0.0
    seen: list[Event] = []

    def jump(event: Event) -> None:
        nonlocal shift
        seen.append(event)
        shift = -9 * 3600.0 if shift > 0 else 7 * 3600.0

    monkeypatch.setattr(time, "time", lambda: real() + shift)
    cells = ["import time\ntime.sleep(0.2)", "print(llm_query('q'))", "FINAL(1)"]

    def plays(messages: Sequence[Message]) -> str:
        if len(messages) == 1:
            return "an answer"
        return f"```repl\n{cells[sum(message.role == 'assistant' for message in messages)]}\n```"

    limits = Limits(max_seconds=20.0, cell_seconds=2.0)
    orchestrator = Orchestrator(model=ScriptedModel(plays), run_root=tmp_path, on_event=jump, limits=limits)
    before = time.perf_counter()
    done = await orchestrator.acompletion("text", "go")
    assert (done.answer, done.stop_reason) == ("1", "final")
    assert 0.2 < done.seconds < time.perf_counter() - before
    assert len(seen) > 10
    again = await orchestrator.areplay(done.run_id)
    assert again.answer == "1"
    lost = rows(done.run_dir) - again.replayed_calls
    assert lost == 0
    count(record_property, faults=len(seen), replays=1, lost=lost, resent_calls=again.resent_calls)


@pytest.mark.parametrize(
    "calls", [pytest.param(1_000, id="1000"), pytest.param(10_000, id="10000", marks=pytest.mark.long)]
)
@pytest.mark.timeout(300)
async def test_many_tiny_sub_calls_in_one_run_hold_the_limits_and_take_flat_memory(
    tmp_path: Path, calls: int, record_property: Record
) -> None:
    """A cell makes a hundred concurrent calls, and fails at the end: the limit is ten calls too low.

    Flat: each call has its line in the journal's index and its answer in the REPL, and leaves nothing else.
    """
    memory: dict[int, float] = {}
    sent = finished = 0

    def plays(messages: Sequence[Mapping[str, Any]], model: str) -> str:
        nonlocal sent
        sent += 1
        if model == "leaf":
            return "ok"
        if "have to stop" in messages[-1]["content"]:
            return "FINAL(limit)"
        return (
            "```repl\nfor hundred in range(" + str(calls // 100) + "):\n"
            "    good = llm_batch([f'{hundred} {number}' for number in range(100)])\n"
            "FINAL(sum(map(bool, good)))\n```"
        )

    def watch(event: Event) -> None:
        nonlocal finished
        if isinstance(event, SubCallFinished):
            finished += 1
            server.requests.clear()
            if finished in (warm, calls):
                gc.collect()
                memory[finished] = resident_mb()

    warm = calls // 5  # one-time allocations are done
    async with FakeProvider(plays) as server:
        root, leaf = (OpenAIModel(name, base_url=server.base_url) for name in ("root", "leaf"))
        done = await Orchestrator(
            model=root, sub_model=leaf, run_root=tmp_path, limits=Limits(max_lm_calls=calls - 8), on_event=watch
        ).acompletion("text", "go")
        assert (done.answer, done.usage.calls, sent) == ("90", calls - 9, calls - 9)
    grown = memory[calls] - memory[warm]
    if calls == 10_000:
        record_property(MEMORY_OF_CALLS, f"{grown:.1f} MB, {1e3 * grown / (calls - warm):.1f} kB a call")
    record_property("memory at the end, MB", round(memory[calls]))
    assert grown < 1.0 + BYTES_A_CALL * (calls - warm) / 1e6


class Meeting(ScriptedModel):
    """A model that answers once this many conversations have called it, so that all run concurrently."""

    def __init__(self, expected: int) -> None:
        super().__init__([FINISHES])
        self._awaited = expected
        self._all_ask = anyio.Event()

    async def complete(self, messages: Sequence[Message], *, max_tokens: int | None = None) -> ModelReply:
        self._awaited -= 1
        if self._awaited == 0:
            self._all_ask.set()
        await self._all_ask.wait()
        return await super().complete(messages, max_tokens=max_tokens)


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_completions_at_once_on_one_orchestrator_each_get_their_own_answer(
    tmp_path: Path, record_property: Record
) -> None:
    """200 of 500 runs, each with a sandbox at the same time."""
    completions = RUNS * 2 // 5
    shared = Orchestrator(model=Meeting(completions), run_root=tmp_path)
    answers: dict[int, str] = {}

    async def one(number: int) -> None:
        answers[number] = (await shared.acompletion("x" * number, "go")).answer

    before = held()
    started = time.perf_counter()
    async with anyio.create_task_group() as group:
        for number in range(1, completions + 1):
            group.start_soon(one, number)
    record_property("completions at once, a sandbox each", completions)
    record_property("seconds", round(time.perf_counter() - started, 1))
    record_property("memory at the end, MB", round(resident_mb()))
    assert answers == {number: str(number) for number in range(1, completions + 1)}
    assert containers(f"rlm.owner.pid={os.getpid()}") == []
    assert (
        held()[0] <= before[0] + MAX_CONCURRENT_STARTS + MAX_CONCURRENT_REMOVALS + MAX_CONCURRENT_REQUESTS
    )  # the Docker client keeps connections open


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_many_runs_in_one_process_leave_no_descriptor_thread_task_or_container(
    tmp_path: Path, record_property: Record
) -> None:
    limiter = anyio.CapacityLimiter(4)

    async with FakeProvider(lambda messages, model: FINISHES) as server:
        model = OpenAIModel("root", base_url=server.base_url)

        async def one() -> None:
            async with limiter:
                assert (await Orchestrator(model=model, run_root=tmp_path).acompletion("text", "go")).answer == "4"

        async def runs(number: int) -> None:
            async with anyio.create_task_group() as group:
                for _ in range(number):
                    group.start_soon(one)
            server.requests.clear()

        await runs(RUNS // 5)  # one-time allocations are done
        before, memory = held(), resident_mb()
        await runs(RUNS - RUNS // 5)
        after, grown = held(), resident_mb() - memory
    assert containers(f"rlm.owner.pid={os.getpid()}") == []
    others = RUNS - RUNS // 5
    record_property("runs", RUNS)
    record_property(DESCRIPTORS, f"{before[0]}, {after[0]}")
    record_property("threads and tasks, likewise", f"{before[1:]}, {after[1:]}")
    record_property(MEMORY_OF_RUNS, f"{grown:.1f} MB, {1e3 * grown / others:.1f} kB a run")
    record_property("memory at the end, MB", round(resident_mb()))
    assert after[0] <= before[0] + 4
    assert after[1] <= before[1] + 1
    assert after[2] <= before[2] + 1
    assert grown < 1.0 + BYTES_A_RUN * others / 1e6
