"""A started run can be watched, paused, asked to answer, given higher limits, and cancelled, from any thread."""

import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.to_thread
import pytest

from rlm import ConfigError, Limits, Orchestrator, Price, Run, RunCancelled, ScriptedModel
from rlm.events import Event, LimitsRaised, RunFinished, RunResumed, RunStarted, TurnStarted
from rlm.loop.control import RunControl
from rlm.sandbox.base import Answer
from rlm.testing import FakeSandboxes, echo_cell
from rlm.types import CellResult, Message

pytestmark = pytest.mark.anyio


class Gate:
    """Cells that hang until released."""

    def __init__(self) -> None:
        self.entered, self.open = threading.Event(), threading.Event()

    async def __call__(self, code: str, answer: Answer | None) -> CellResult:
        self.entered.set()
        await anyio.to_thread.run_sync(self.open.wait, abandon_on_cancel=True)
        return await echo_cell(code, answer)


def turns(count: int) -> Callable[[Sequence[Message]], str]:
    def reply(messages: Sequence[Message]) -> str:
        if "have to stop" in messages[-1].content:
            return "FINAL(so far)"
        taken = sum(message.role == "assistant" for message in messages)
        return f"```repl\n{taken}\n```" if taken < count else "FINAL(all of it)"

    return reply


def orchestrator(tmp_path: Path, behaviour=echo_cell, *, count: int = 3, **options) -> Orchestrator:
    model = ScriptedModel(turns(count), name="m")
    return Orchestrator(model=model, sandbox_factory=FakeSandboxes(behaviour), run_root=tmp_path, **options)


def when(truth: Callable[[], bool]) -> None:
    patience = time.monotonic() + 10
    while not truth():
        assert time.monotonic() < patience
        time.sleep(0.005)


def test_events_come_in_order_up_to_the_end_and_then_the_answer(tmp_path: Path) -> None:
    reported: list[Event] = []
    with orchestrator(tmp_path, on_event=reported.append).start("text", "q") as run:
        seen = list(run)
        assert run.result().answer == "all of it"
    assert seen == reported
    assert isinstance(seen[0], RunStarted)
    assert isinstance(seen[-1], RunFinished)
    assert run.done


async def test_a_run_can_be_watched_on_an_event_loop(tmp_path: Path) -> None:
    async with orchestrator(tmp_path) as rlm, rlm.start("text", "q") as run:
        seen = [event async for event in run]
        assert (await run).answer == "all of it"
    assert isinstance(seen[-1], RunFinished)


def test_iterating_a_run_waits_for_late_events(tmp_path: Path) -> None:
    gate = Gate()
    with orchestrator(tmp_path, gate, count=1).start("text", "q") as run:
        events = iter(run)
        for event in events:
            if isinstance(event, TurnStarted):
                break
        threading.Timer(0.1, gate.open.set).start()
        assert isinstance(list(events)[-1], RunFinished)


def test_a_paused_run_finishes_its_turn_starts_no_other_and_stops_its_clock(tmp_path: Path) -> None:
    gate = Gate()
    with orchestrator(tmp_path, gate, limits=Limits(max_seconds=5.0)).start("text", "q") as run:
        gate.entered.wait(10)
        run.pause()
        assert run.paused
        gate.open.set()
        before = run.seconds
        time.sleep(0.1)
        assert run.seconds == before > 0
        assert [event.turn for event in list(run._events) if isinstance(event, TurnStarted)] == [1]
        assert run._control._deadline() == float("inf")
        run.unpause()
        when(lambda: run.seconds > before)
        assert run.result(10).stop_reason == "final"
        assert run.seconds == run.seconds < 5.0


def test_answer_now_stops_the_work_and_the_root_answers_with_what_it_has(tmp_path: Path) -> None:
    gate = Gate()
    with orchestrator(tmp_path, gate).start("text", "q") as run:
        gate.entered.wait(10)
        run.pause()
        run.answer_now()
        done = run.result(10)
    gate.open.set()
    assert (done.answer, done.stop_reason, done.iterations) == ("so far", "stopped", 1)
    replayed = orchestrator(tmp_path).replay(done.run_dir)
    assert replayed.answer == "so far"


def test_a_limit_can_be_raised_and_the_record_knows(tmp_path: Path) -> None:
    gate = Gate()
    rlm = orchestrator(tmp_path, gate, limits=Limits(max_lm_calls=2), prices={"m": Price(input=1, output=1)})
    with rlm.start("text", "q") as run:
        gate.entered.wait(10)
        run.raise_limit(max_lm_calls=10, max_seconds=None)
        assert (run.limits.max_lm_calls, run.limits.max_seconds) == (10, None)
        for wrong in ({"max_lm_calls": 10}, {"max_seconds": 5.0}, {"max_iterations": 99}, {"nonsense": 1}):
            with pytest.raises(ConfigError):
                run.raise_limit(**wrong)
        wrong_types: tuple[Any, ...] = ("x", True, [2])
        for no_number in wrong_types:
            with pytest.raises(ConfigError, match=r"max_lm_calls=.* is invalid: use a number, or None for no limit"):
                run.raise_limit(max_lm_calls=no_number)
        gate.open.set()
        assert run.result(10).stop_reason == "final"
        (raised,) = (event for event in run if isinstance(event, LimitsRaised))
    assert raised.limits == {"max_lm_calls": 10, "max_seconds": None}
    assert rlm.replay(run.result().run_dir).answer == "all of it"
    # Raised limits stay raised unless new ones are set.
    with orchestrator(tmp_path).session(resume=run.result().run_dir) as session:
        assert session.ask("and now?").stop_reason == "final"


def test_a_cancelled_run_removes_its_sandboxes_and_can_be_resumed(tmp_path: Path) -> None:
    gate = Gate()
    rlm = orchestrator(tmp_path, gate)
    with rlm.start("text", "q") as run:
        gate.entered.wait(10)
        run.cancel()
        with pytest.raises(RunCancelled):
            run.result(10)
        assert run.done
        last = list(run)[-1]
    assert isinstance(last, RunFinished)
    assert last.stop_reason == "cancelled"
    gate.open.set()
    assert rlm.resume(last.run_id).answer == "all of it"


def test_a_resumed_run_is_watched_and_steered_too(tmp_path: Path) -> None:
    gate = Gate()
    rlm = orchestrator(tmp_path, gate)
    with rlm.start("text", "q") as first:
        gate.entered.wait(10)
    with pytest.raises(ConfigError, match="No run named 'another' in"):
        rlm.start_resume("another")
    gate.entered.clear()
    with rlm.start_resume(list(first)[-1].run_id) as run:
        gate.entered.wait(10)
        run.raise_limit(max_seconds=None)
        run.answer_now()
        assert (run.result(10).answer, run.result().stop_reason) == ("so far", "stopped")
        gate.open.set()
        kinds = [type(event) for event in run]
    assert (kinds[0], kinds.count(LimitsRaised), kinds[-1]) == (RunResumed, 1, RunFinished)
    assert run.limits.max_seconds is None


def test_a_resumed_run_can_be_steered_before_it_starts(tmp_path: Path) -> None:
    gate = Gate()
    rlm = orchestrator(tmp_path, gate)
    with rlm.start("text", "q") as first:
        gate.entered.wait(10)
    (directory,) = tmp_path.iterdir()
    with rlm.start_resume(directory) as run:
        run.raise_limit(max_lm_calls=20_000)
        run.answer_now()
        assert run.result(10).stop_reason == "stopped"
        events = list(run)
    assert first.done
    assert json.loads((directory / "run.json").read_text())["raised"] == {"max_lm_calls": 20_000}
    assert isinstance(events[0], RunResumed)
    assert [event.limits for event in events if isinstance(event, LimitsRaised)] == [{"max_lm_calls": 20_000}]


async def test_answer_now_applies_to_the_first_question_without_an_answer() -> None:
    control = RunControl(Limits())
    control.answer_now()
    with control.question_clock(replaying=True):
        assert control.reason == "max_seconds"
    with control.question_clock(), control.cancellable() as scope:
        assert (control.reason, scope.cancel_called or scope.deadline < 0) == ("stopped", True)
    with control.question_clock():
        assert control.reason == "max_seconds"


async def test_a_run_that_is_paused_before_it_has_a_question_uses_no_time_with_it() -> None:
    control = RunControl(Limits(max_seconds=5.0))
    control.pause()
    with control.question_clock():
        await anyio.sleep(0.01)
        assert control.seconds == 0
        control.unpause()
        await anyio.sleep(0.01)
        assert control.seconds > 0


async def test_leaving_the_block_cancels_unfinished_work(tmp_path: Path) -> None:
    gate = Gate()
    async with orchestrator(tmp_path, gate).start("text", "q") as run:
        await anyio.to_thread.run_sync(gate.entered.wait, 10)
    assert run.done
    with pytest.raises(RunCancelled):
        await run
    gate.open.set()


def test_an_observer_may_steer_and_one_that_fails_ends_the_run(tmp_path: Path) -> None:
    runs: list[Run] = []

    def observe(event: Event) -> None:
        if isinstance(event, TurnStarted) and event.turn == 2:
            when(lambda: bool(runs))
            runs[0].answer_now()
        if isinstance(event, TurnStarted) and event.turn == 3:
            raise RuntimeError("the observer")

    runs.append(orchestrator(tmp_path, on_event=observe).start("text", "q"))
    assert runs[0].result(10).stop_reason == "stopped"


def test_a_runs_error_is_raised_by_result_and_an_invalid_option_at_once(tmp_path: Path) -> None:
    with orchestrator(tmp_path).start("", cast("str", 3)) as run, pytest.raises(ConfigError, match="query is a int"):
        run.result(10)
    with pytest.raises(ConfigError, match="depth"):
        orchestrator(tmp_path).start("text", "q", depth=-1)


def test_switches_of_a_run_that_has_ended_do_nothing(tmp_path: Path) -> None:
    run = orchestrator(tmp_path).start("text", "q")
    assert run.result(10).answer == "all of it"
    run.pause()
    run.answer_now()
    run.cancel()
    assert run.result().answer == "all of it"


def test_threads_of_runs_end_with_them(tmp_path: Path) -> None:
    before = threading.active_count()
    for _ in range(3):
        orchestrator(tmp_path).start("text", "q").result(10)
    when(lambda: threading.active_count() <= before)
