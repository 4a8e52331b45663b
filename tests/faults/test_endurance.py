"""Many calls, many runs, many at once, and a clock that jumps: limits hold, and nothing is left behind."""

from __future__ import annotations

import gc
import os
import random
import threading
import time
from pathlib import Path

import anyio
import pytest

from containers import containers
from fakes import FakeSandboxes
from rlm import Completion, Limits, Orchestrator, ScriptedModel

pytestmark = pytest.mark.anyio

SUB = ScriptedModel(lambda messages: f"<{messages[-1].content}>", name="sub")
KEPT = "import random\nkept = random.random()\nprint(kept)"


def root(*cells: str) -> ScriptedModel:
    """Runs these cells in any conversation, then answers."""

    def reply(messages: object) -> str:
        turn = sum(message.role == "assistant" for message in messages)  # type: ignore[attr-defined]
        return f"```repl\n{cells[turn]}\n```" if turn < len(cells) else "FINAL(done)"

    return ScriptedModel(reply, name="root")  # type: ignore[arg-type]


def resident_mb() -> float:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.long
@pytest.mark.timeout(170)
async def test_ten_thousand_tiny_calls_are_all_answered_counted_and_leave_no_memory(
    tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    batch = "answers = llm_batch([f'{number}' for number in range(2_500)])\nassert len(set(answers)) == 2_500"
    cells = [batch] * 4
    limits = Limits(max_lm_calls=10_006)  # four turns, one to answer, and one that stays in reserve
    orchestrator = Orchestrator(model=root(*cells), sub_model=SUB, run_root=tmp_path, limits=limits)
    await orchestrator.acompletion("text", "q", model=root(batch))  # what is made once, is made here
    before, began = resident_mb(), time.monotonic()
    done = await orchestrator.acompletion("text", "q")
    seconds, grown = time.monotonic() - began, resident_mb() - before
    assert (done.stop_reason, done.sub_calls, done.usage.calls) == ("final", 10_000, 10_005)
    record_property("calls in one run", f"{done.usage.calls:,} in {seconds:.1f} s, memory grew by {grown:.0f} MB")
    assert grown < 60


@pytest.mark.long
@pytest.mark.timeout(170)
async def test_five_hundred_runs_leave_no_descriptor_thread_container_or_memory(
    tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    """Fifty in containers, the others in memory: what a container could leave is the same each time."""
    orchestrator = Orchestrator(model=root(KEPT), sub_model=SUB, run_root=tmp_path)

    async def runs(number: int, **options: object) -> None:
        for _ in range(number):
            assert (await orchestrator.acompletion("text", "q", **options)).answer == "done"  # type: ignore[arg-type]

    await runs(5)
    await runs(50, sandboxes=FakeSandboxes())
    left = descriptors(), threading.active_count()
    memory = resident_mb()
    await runs(50)
    await runs(450, sandboxes=FakeSandboxes())
    grown = resident_mb() - memory
    record_property(
        "500 runs in one process", f"memory grew by {grown:.1f} MB, descriptors by {descriptors() - left[0]}"
    )
    assert (descriptors(), threading.active_count()) <= (left[0] + 2, left[1] + 2)
    assert grown < 25
    assert containers(f"rlm.owner.pid={os.getpid()}") == []


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=[pytest.mark.long, pytest.mark.timeout(200)])])
async def test_completions_at_once_in_one_process_each_get_their_own_answer(
    tmp_path: Path, count: int, record_property: pytest.RecordProperty
) -> None:
    model = ScriptedModel(lambda messages: "```repl\nFINAL(llm_query(context))\n```", name="root")
    orchestrator = Orchestrator(model=model, sub_model=SUB, run_root=tmp_path)
    answers: dict[int, str] = {}

    async def one(number: int) -> None:
        answers[number] = (await orchestrator.acompletion(f"text {number}", "q")).answer

    began = time.monotonic()
    async with anyio.create_task_group() as group:
        for number in range(count):
            group.start_soon(one, number)
    assert answers == {number: f"<text {number}>" for number in range(count)}
    record_property("completions at once", f"{count} in {time.monotonic() - began:.1f} s")
    assert containers(f"rlm.owner.pid={os.getpid()}") == []


async def test_a_clock_that_jumps_changes_no_limit_and_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wall clock goes back and forth by hours at each look; every limit in seconds is on another clock."""
    real, chance = time.time, random.Random(7)
    monkeypatch.setattr(time, "time", lambda: real() + chance.uniform(-36_000, 36_000))
    cells = "kept = llm_query('p')", "while True: pass", "import time; time.sleep(0.5); FINAL(kept)"
    limits = Limits(max_seconds=30.0, cell_seconds=1.0)
    orchestrator = Orchestrator(model=root(*cells), sub_model=SUB, run_root=tmp_path, limits=limits)
    began = time.monotonic()
    done = await orchestrator.acompletion("text", "q")
    assert (done.answer, done.stop_reason, done.iterations) == ("<p>", "final", 3)
    assert 1.0 < done.seconds <= time.monotonic() - began < 30.0
    replayed: Completion = await orchestrator.areplay(done.run_dir)
    assert replayed.answer == done.answer
    late = await orchestrator.acompletion("text", "q", model=root("while True: pass"), limits=Limits(max_seconds=1.0))
    assert (late.stop_reason, late.seconds < 10.0) == ("deadline", True)
