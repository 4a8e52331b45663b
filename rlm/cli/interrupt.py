"""Ctrl-C and SIGTERM: the first one stops a run cleanly, the second one ends the process immediately."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn, TypeVar

import anyio

from rlm.errors import RunCancelled

from .streams import write_stderr_now

STOP_SECONDS: Final = 4.5  # timeout of a clean stop; remaining containers end by themselves after this process
INTERRUPTED_STATUS: Final = 130  # 128 + SIGINT: the shells' convention

T = TypeVar("T")


def run_until_interrupted(work: Callable[[], Awaitable[T]], *, advice: Callable[[], str]) -> T:
    """Run `work` on a new event loop until it finishes or is interrupted.

    The first Ctrl-C or SIGTERM cancels the work. A second one, or a stop that takes too long, ends the process. A run that
    its keys cancel ends as with Ctrl-C.

    Args:
        work: the coroutine function to run.
        advice: a line on how to continue, or an empty string; written after an interruption.

    Raises:
        KeyboardInterrupt: the work was cancelled and has cleaned up.
    """
    restore_terminal = terminal_restorer()

    def exit_now(status: int = INTERRUPTED_STATUS) -> NoReturn:
        restore_terminal()
        # An orderly exit would wait for the engine or a thread. Containers end with their streams.
        write_stderr_now(f"Exited immediately. The containers end by themselves.\n{advice()}")
        os._exit(status)

    stop_deadline = threading.Timer(STOP_SECONDS, exit_now)
    stop_deadline.daemon = True

    async def cancellable_work() -> list[T]:
        loop, stop = asyncio.get_running_loop(), anyio.CancelScope()

        stopping = False

        def interrupt(number: int, frame: FrameType | None) -> None:
            nonlocal stopping
            if stopping:
                exit_now(128 + number)
            stopping = True
            stop_deadline.start()
            write_stderr_now("Stopping ... Press Ctrl-C again to exit immediately.\n")
            loop.call_soon_threadsafe(stop.cancel)

        # Not the event loop's own handlers: they wait for the loop, which a large folder can keep busy.
        previous = {number: signal.signal(number, interrupt) for number in _handled_signals()}
        try:
            with stop, suppress(RunCancelled):
                return [await work()]
            return []
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            stop_deadline.cancel()

    if result := anyio.run(cancellable_work):
        return result[0]
    sys.stderr.write(f"Interrupted. All containers have been removed.\n{advice()}")
    raise KeyboardInterrupt


def _handled_signals() -> list[signal.Signals]:
    """The signals that stop a run, except those that a shell makes a background job ignore."""
    return [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN]


def terminal_restorer() -> Callable[[], None]:
    """A function that restores the terminal to its current state, for a process that exits while drawing on it."""
    if sys.platform == "win32" or not sys.stderr.isatty():
        return lambda: None
    import termios

    from rlm.live.terminal import RESTORE_SCREEN

    descriptor = sys.stderr.fileno()
    modes = termios.tcgetattr(descriptor)

    def restore() -> None:
        with suppress(OSError, termios.error):  # the terminal is gone
            os.write(descriptor, RESTORE_SCREEN)
            termios.tcsetattr(descriptor, termios.TCSANOW, modes)

    return restore


def resume_hint(run: str | Path) -> str:
    """The line on how to resume a run, given by its id or directory."""
    return f"To continue this run: rlm resume {shlex.quote(str(run))}\n"
