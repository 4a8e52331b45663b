"""Ctrl-C stops cleanly; a second one, or a slow stop, ends the process immediately."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from rlm.cli.interrupt import run_until_interrupted
from rlm.errors import RunCancelled

HUNG = """
import os, signal, anyio
from rlm.cli import interrupt
interrupt.STOP_SECONDS = {patience}
async def work():
    with anyio.CancelScope(shield=True):
        os.kill(os.getpid(), signal.SIGINT)
        {again}
        await anyio.sleep(30)
interrupt.run_until_interrupted(work, advice=lambda: "Go on so.\\n")
"""


def test_without_an_interrupt_the_result_is_returned_and_the_signal_handler_restored() -> None:
    async def work() -> int:
        return 42

    before = signal.getsignal(signal.SIGINT)
    assert run_until_interrupted(work, advice=str) == 42
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_cancels_lets_the_run_clean_up_and_says_how_to_resume(capfd: pytest.CaptureFixture[str]) -> None:
    cleaned = []

    async def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await anyio.sleep(30)
        finally:
            cleaned.append(True)

    with pytest.raises(KeyboardInterrupt):
        run_until_interrupted(work, advice=lambda: "Go on so.\n")
    assert cleaned == [True]
    first, *others = capfd.readouterr().err.splitlines()
    assert first.startswith("Stopping ...")
    assert others == ["Interrupted. All containers have been removed.", "Go on so."]


def test_a_run_that_is_cancelled_from_the_keyboard_ends_as_with_ctrl_c(capfd: pytest.CaptureFixture[str]) -> None:
    async def work() -> None:
        raise RunCancelled

    with pytest.raises(KeyboardInterrupt):
        run_until_interrupted(work, advice=lambda: "Go on so.\n")
    assert capfd.readouterr().err == "Interrupted. All containers have been removed.\nGo on so.\n"


@pytest.mark.parametrize(
    ("patience", "again"),
    [("30", "os.kill(os.getpid(), signal.SIGINT)"), ("0.05", "pass")],
    ids=["a second time", "out of patience"],
)
def test_a_program_that_does_not_stop_is_ended(patience: str, again: str, tmp_path: Path) -> None:
    script = tmp_path / "hung.py"
    script.write_text(HUNG.format(patience=patience, again=again))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=20)
    assert done.returncode == 130
    assert done.stderr.splitlines()[1:] == ["Exited immediately. The containers end by themselves.", "Go on so."]
