"""Much of everything in one process: calls, completions at once, runs one after the other; and clocks that jump."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import anyio
import pytest

from containers import containers
from rlm import Limits, Message, OpenAIModel, Orchestrator, ScriptedModel
from rlm.events import Event
from support import FakeProvider

pytestmark = pytest.mark.anyio

Record = Callable[[str, object], None]

FINISHES: Final = "```repl\nFINAL(len(context))\n```"


def resident_mb() -> float:
    """Megabytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def held() -> tuple[int, int, int]:
    """Descriptors, threads and asyncio tasks of this process."""
    gc.collect()
    return len(os.listdir("/proc/self/fd")), threading.active_count(), len(asyncio.all_tasks())


async def test_a_wall_clock_that_jumps_moves_no_deadline_and_no_duration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    """By hours, forwards and backwards, at every event."""
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
    record_property("faults injected", len(seen))


@pytest.mark.parametrize(
    "calls", [pytest.param(1_000, id="1000"), pytest.param(10_000, id="10000", marks=pytest.mark.long)]
)
async def test_many_tiny_sub_calls_in_one_run_hold_the_limits_and_take_flat_memory(
    tmp_path: Path, calls: int, record_property: Record
) -> None:
    """A cell asks for a hundred at once, and is refused at the end: the limit is ten calls short of what it wants."""
    memory: list[float] = []

    def plays(messages: Sequence[Mapping[str, Any]], model: str) -> str:
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
        if event.type == "sub_call_finished" and event.seq % 500 < 3:
            memory.append(resident_mb())

    async with FakeProvider(plays) as server:
        root, leaf = (OpenAIModel(name, base_url=server.base_url) for name in ("root", "leaf"))
        done = await Orchestrator(
            model=root, sub_model=leaf, run_root=tmp_path, limits=Limits(max_lm_calls=calls - 8), on_event=watch
        ).acompletion("text", "go")
        assert (done.answer, done.usage.calls, len(server.requests)) == ("90", calls - 9, calls - 9)
        server.requests.clear()
    grown = memory[-1] - memory[len(memory) // 4]
    record_property("sub-calls", calls)
    record_property("memory at the end, MB", round(memory[-1]))
    record_property("memory grown in the last three quarters, MB", round(grown, 1))
    assert grown < 1.0 + 0.006 * calls  # what the test's own server keeps of each request is a part of it


@pytest.mark.long
async def test_completions_at_once_on_one_orchestrator_each_get_their_own_answer(
    tmp_path: Path, record_property: Record
) -> None:
    """200 of them; as many sandboxes at once as the engine starts."""
    shared = Orchestrator(model=ScriptedModel(lambda messages: FINISHES), run_root=tmp_path)
    answers: dict[int, str] = {}
    admitted = anyio.CapacityLimiter(40)

    async def one(number: int) -> None:
        async with admitted:
            answers[number] = (await shared.acompletion("x" * number, "go")).answer

    before = held()
    started = time.perf_counter()
    async with anyio.create_task_group() as group:
        for number in range(1, 201):
            group.start_soon(one, number)
    record_property("completions at once", 40)
    record_property("seconds", round(time.perf_counter() - started, 1))
    assert answers == {number: str(number) for number in range(1, 201)}
    assert containers(f"rlm.owner.pid={os.getpid()}") == []
    assert held()[0] <= before[0] + 10  # connections that the Docker client keeps


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_500_runs_in_one_process_leave_no_descriptor_thread_task_or_container(
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

        await runs(100)  # everything that is made once has been made
        before, memory = held(), resident_mb()
        await runs(400)
        after, grown = held(), resident_mb() - memory
    assert containers(f"rlm.owner.pid={os.getpid()}") == []
    record_property("runs", 500)
    record_property("descriptors, threads, tasks after 100 runs", before)
    record_property("descriptors, threads, tasks after 500 runs", after)
    record_property("memory at the end, MB", round(resident_mb()))
    record_property("memory grown by 400 runs, MB", round(grown, 1))
    assert after[0] <= before[0] + 4
    assert after[1] <= before[1] + 1
    assert after[2] <= before[2] + 1
    assert grown < 15
