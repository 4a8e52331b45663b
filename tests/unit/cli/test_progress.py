"""The progress of a run is complete, however the run ends."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from rlm import Orchestrator, ScriptedModel
from rlm.cli.progress import follow
from rlm.events import Event, RunFinished, TurnStarted
from rlm.testing import FakeSandboxes


@pytest.mark.anyio
async def test_a_cancelled_run_is_shown_to_its_end(tmp_path: Path) -> None:
    model = ScriptedModel(["FINAL(late)"], latency=30)
    orchestrator = Orchestrator(model=model, sandbox_factory=FakeSandboxes(), run_root=tmp_path)
    shown: list[Event] = []

    with anyio.CancelScope() as scope:

        def show(event: Event) -> None:
            shown.append(event)
            if isinstance(event, TurnStarted):
                scope.cancel()

        await follow(orchestrator.start("text", "q"), show)
    assert scope.cancelled_caught
    assert isinstance(shown[-1], RunFinished)
