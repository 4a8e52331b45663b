"""The engine goes away in the middle of a run: restarted, the run ends right; gone for good, the run says so at once."""

from __future__ import annotations

import signal
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from own_engine import OwnEngine
from rlm import EngineUnavailable, Orchestrator, ScriptedModel
from rlm.events import CellStarted, Event, SandboxLost

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(120),
    # The docker package does not close a socket that it could not connect.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]


def plays(*cells: str) -> ScriptedModel:
    return ScriptedModel([f"````repl\n{textwrap.dedent(cell)}\n````" for cell in cells], name="root")


def at_cell(number: int, act: Callable[[], None], seen: list[Event]) -> Callable[[Event], None]:
    """A listener that acts, in a thread, when a cell has begun."""

    def listen(event: Event) -> None:
        seen.append(event)
        if isinstance(event, CellStarted) and event.cell == number and event.node == "0":
            threading.Thread(target=act).start()

    return listen


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["restarted", "killed"])
async def test_a_run_survives_a_restart_of_the_engine(
    own_engine: OwnEngine, tmp_path: Path, how: signal.Signals
) -> None:
    seen: list[Event] = []
    acted: list[bool] = []

    def restart() -> None:
        if not acted:
            acted.append(True)
            time.sleep(0.3)
            own_engine.restart(how)

    root = plays("import time\ntime.sleep(4)\nprint(context)", "print('again')", "FINAL(context)", "FINAL(context)")
    listen = at_cell(1, restart, seen)
    done = await Orchestrator(model=root, run_root=tmp_path, on_event=listen).acompletion("kept", "what is kept?")
    assert (done.answer, done.stop_reason) == ("kept", "final")
    if how is signal.SIGTERM:  # it ends its containers; a killed one leaves them, and their streams, for a while
        assert any(isinstance(event, SandboxLost) for event in seen)


async def test_an_engine_that_is_gone_for_good_ends_the_run_with_one_sentence(
    own_engine: OwnEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlm.sandbox.docker.RETURN_SECONDS", 1.0)
    listen = at_cell(1, own_engine.end, [])
    root = plays("import time\ntime.sleep(8)", "FINAL(1)")
    try:
        with pytest.raises(EngineUnavailable, match="start it"):
            await Orchestrator(model=root, run_root=tmp_path, on_event=listen).acompletion("text", "question")
        (folder,) = tmp_path.iterdir()
        record = (folder / "events.jsonl").read_text()
        assert "EngineUnavailable" in record.splitlines()[-1]
    finally:
        own_engine.restart()
