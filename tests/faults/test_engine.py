"""The engine disappears during a run: after a restart the run succeeds; without one, the run fails immediately."""

from __future__ import annotations

import os
import signal
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import anyio
import pytest

from helpers.batch_tree import CALLS, right_answer, run_batch_tree
from helpers.measured import Record, count, rows
from helpers.own_engine import OwnEngine
from rlm import EngineUnavailable, OpenAIModel, Orchestrator, ScriptedModel
from rlm.events import CellStarted, Event, SandboxLost
from rlm.testing import FakeProvider, Fault

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.serial,
    pytest.mark.timeout(120),
    # The docker package does not close a socket that failed to connect.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]


def plays(*cells: str) -> ScriptedModel:
    return ScriptedModel([f"````repl\n{textwrap.dedent(cell)}\n````" for cell in cells], name="root")


def at_cell(number: int, act: Callable[[], None], seen: list[Event]) -> Callable[[Event], None]:
    """A listener that acts in a thread after a cell has started."""

    def listen(event: Event) -> None:
        seen.append(event)
        if isinstance(event, CellStarted) and event.cell == number and event.node == "0":
            threading.Thread(target=act).start()

    return listen


async def wait_for_no_container(engine: OwnEngine) -> None:
    """A killed engine may still be removing containers, and keeps an entry `dead` for an interrupted removal."""
    states = ("created", "restarting", "running", "removing", "paused", "exited")
    listed = ["ps", "-aq", *(part for state in states for part in ("--filter", f"status={state}"))]
    deadline = time.monotonic() + 15
    while left := engine.docker(*listed, "--filter", f"label=rlm.owner.pid={os.getpid()}").stdout.split():
        assert time.monotonic() < deadline, left
        await anyio.sleep(0.1)


HOW: Final = pytest.mark.parametrize(
    "how",
    [
        pytest.param(signal.SIGTERM, id="restarted"),
        pytest.param(signal.SIGKILL, id="killed", marks=pytest.mark.long),
    ],
)


@HOW
async def test_a_run_survives_a_restart_of_the_engine(
    own_engine: OwnEngine, tmp_path: Path, how: signal.Signals, record_property: Record
) -> None:
    seen: list[Event] = []
    acted: list[bool] = []

    def restart() -> None:
        if not acted:
            acted.append(True)
            time.sleep(0.3)
            own_engine.restart(how)

    root = plays("import time\ntime.sleep(4)\nprint(context)", "print('again')", "FINAL(context)")
    listen = at_cell(1, restart, seen)
    done = await Orchestrator(model=root, run_root=tmp_path, on_event=listen).acompletion("kept", "what is kept?")
    assert (done.answer, done.stop_reason) == ("kept", "final")
    assert [event.restored for event in seen if isinstance(event, SandboxLost)] == [True]
    lost = done.usage.calls - 3  # turns
    assert lost == 0
    await wait_for_no_container(own_engine)
    count(record_property, faults=1, lost=lost, resent_calls=done.resent_calls)


@HOW
async def test_a_tree_survives_a_restart_of_the_engine_in_the_middle_of_a_batch_and_pays_for_no_answer_twice(
    own_engine: OwnEngine, tmp_path: Path, how: signal.Signals, record_property: Record
) -> None:
    """The current call gets no reply, so its child and the root wait when their sandboxes disappear."""

    def restart() -> Fault:
        threading.Thread(target=own_engine.restart, args=(how,)).start()
        return Fault(sent="nothing", then="hang")

    tree = await run_batch_tree(tmp_path, restart)
    done = tree.done
    assert (done.answer, done.stop_reason) == (right_answer(), "final")
    assert "0" in {event.node for event in tree.lost}
    assert all(event.restored for event in tree.lost)
    assert len(tree.asked) == CALLS
    assert tree.calls_lost == 0
    assert 1 <= done.resent_calls <= 12  # in flight in the batches of three children
    await wait_for_no_container(own_engine)
    count(record_property, faults=1, lost=tree.calls_lost, resent_calls=done.resent_calls)


async def test_an_engine_that_does_not_return_ends_the_run_with_one_sentence_and_the_run_resumes_later(
    own_engine: OwnEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    """It disappears during a call without reply: only that call is sent twice."""
    monkeypatch.setattr("rlm.sandbox.docker.engine.RESTART_SECONDS", 1.0)
    asked: Counter[str] = Counter()
    cells = ["kept = llm_query('first')\nprint(kept)", "FINAL(kept + llm_query('second'))"]

    def answers(messages: Sequence[Mapping[str, Any]], model: str) -> str | Fault:
        turn = sum(message["role"] == "assistant" for message in messages)
        prompt = messages[0]["content"] if model == "leaf" else f"turn {turn}"
        asked[prompt] += 1
        if prompt == "second" and asked[prompt] == 1:
            threading.Thread(target=own_engine.end).start()
            return Fault(sent="nothing", then="hang")
        return f"<{prompt}>" if model == "leaf" else f"```repl\n{cells[turn]}\n```"

    try:
        async with FakeProvider(answers) as server:
            root, leaf = (OpenAIModel(name, base_url=server.base_url) for name in ("root", "leaf"))
            orchestrator = Orchestrator(model=root, sub_model=leaf, run_root=tmp_path)
            with pytest.raises(EngineUnavailable, match="start it"):
                await orchestrator.acompletion("text", "question")
            (run,) = tmp_path.iterdir()
            assert "EngineUnavailable" in (run / "events.jsonl").read_text().splitlines()[-1]
            answered = rows(run)
            assert (answered, rows(run, "sent")) == (3, 1)
            own_engine.restart()
            done = await orchestrator.aresume(run)
    finally:
        own_engine.restart()
    assert (done.answer, done.stop_reason, done.diverged) == ("<first><second>", "final", ())
    assert asked == {"turn 0": 1, "first": 1, "turn 1": 1, "second": 2}
    lost = answered - done.replayed_calls
    assert lost == 0
    assert done.resent_calls == 1
    await wait_for_no_container(own_engine)
    count(record_property, faults=1, replays=1, lost=lost, resent_calls=done.resent_calls)
