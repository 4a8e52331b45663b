"""Ctrl-C and SIGTERM: the first one stops a run cleanly, the second one ends the process at once."""

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

from .streams import tell_at_once

STOP_SECONDS: Final = 4.5  # for a clean stop: what is left then ends by itself, when this process has
INTERRUPTED: Final = 130  # 128 + SIGINT, as a shell has it

T = TypeVar("T")


def run_until_interrupted(work: Callable[[], Awaitable[T]], *, advice: Callable[[], str]) -> T:
    """Run on an event loop of its own.

    The first Ctrl-C, or SIGTERM, cancels the work; at the second one, or when that takes too long, the process ends. A run
    that is cancelled from the keyboard ends as with Ctrl-C.

    Args:
        work: what is run.
        advice: a sentence on how to go on, or nothing; written where it was interrupted.

    Raises:
        KeyboardInterrupt: it was cancelled, and has cleaned up.
    """
    give_back = terminal_as_it_is()

    def leave(status: int = INTERRUPTED) -> NoReturn:
        give_back()
        # What waits for the engine or a thread would hold up an orderly end. Containers end with their streams.
        tell_at_once(f"rlm: stopped at once; its containers end by themselves.\n{advice()}")
        os._exit(status)

    patience = threading.Timer(STOP_SECONDS, leave)
    patience.daemon = True

    async def watched() -> list[T]:
        loop, stop = asyncio.get_running_loop(), anyio.CancelScope()

        stopping = False

        def interrupt(number: int, frame: FrameType | None) -> None:
            nonlocal stopping
            if stopping:
                leave(128 + number)
            stopping = True
            patience.start()
            tell_at_once("rlm: stopping (Ctrl-C again: at once) ...\n")
            loop.call_soon_threadsafe(stop.cancel)

        # Not the event loop's own way, which waits for the loop: it may be busy with a large folder.
        before = {number: signal.signal(number, interrupt) for number in _minded()}
        try:
            with stop, suppress(RunCancelled):
                return [await work()]
            return []
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            patience.cancel()

    if done := anyio.run(watched):
        return done[0]
    sys.stderr.write(f"rlm: interrupted; what was started has been removed.\n{advice()}")
    raise KeyboardInterrupt


def _minded() -> list[signal.Signals]:
    """The signals that stop a run, but for those that a shell has a job in the background ignore."""
    return [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN]


def terminal_as_it_is() -> Callable[[], None]:
    """What makes the terminal again what it is now, for a process that ends while it is drawn on."""
    if sys.platform == "win32" or not sys.stderr.isatty():
        return lambda: None
    import termios

    from rlm.live.terminal import LEAVE

    descriptor = sys.stderr.fileno()
    modes = termios.tcgetattr(descriptor)

    def give_back() -> None:
        with suppress(OSError, termios.error):  # it is gone
            os.write(descriptor, LEAVE)
            termios.tcsetattr(descriptor, termios.TCSANOW, modes)

    return give_back


def how_to_resume(directory: Path) -> str:
    """The line that tells a person."""
    return f"rlm: to go on with the run: rlm resume {shlex.quote(str(directory))}\n"
