"""Fake sandboxes carry whole runs, and report what happened in them."""

from pathlib import Path

import pytest

from rlm import CellResult, Orchestrator
from rlm.sandbox.base import Answer
from rlm.testing import FakeSandboxes, ScriptedModel

pytestmark = pytest.mark.anyio


async def test_a_run_gets_what_its_cells_return(tmp_path: Path) -> None:
    async def run_cell(code: str, answer: Answer | None) -> CellResult:
        codes.append(code)
        return CellResult(outcome="ok", stdout="", answer="42")

    codes: list[str] = []
    sandboxes = FakeSandboxes(run_cell)
    model = ScriptedModel(["```repl\nFINAL(len(context))\n```"])
    orchestrator = Orchestrator(model=model, depth=1, sandbox_factory=sandboxes, run_root=tmp_path)
    done = await orchestrator.acompletion("x" * 42, "How long is it?")
    assert (done.answer, codes) == ("42", ["FINAL(len(context))"])
    assert sandboxes.started == [("0", 1)]
    assert [sandbox.loaded["context"].size for sandbox in sandboxes.created] == [42]
    assert (sandboxes.alive, sandboxes.peak_alive) == (0, 1)
