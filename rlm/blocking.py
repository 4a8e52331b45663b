"""How code without an event loop runs what has one: in a thread of its own, where Ctrl-C lets it clean up."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextvars import ContextVar
from types import FrameType
from typing import Final, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

STOP_SECONDS: Final = 15.0  # for what was interrupted to remove its containers

T = TypeVar("T")

_notes: ContextVar[list[str]] = ContextVar("notes")


def keep_notes(notes: list[str]) -> None:
    """Have this list get what `note` is told in this task and those that it starts."""
    _notes.set(notes)


def note(text: str) -> None:
    """Tell whoever interrupted this task. An exception's own notes get lost: each layer may raise a CancelledError anew."""
    _notes.get([]).append(text)


def wait_for(portal: BlockingPortal, make: Callable[[], Awaitable[T]]) -> T:
    """Run it on the portal's event loop, and wait. An interrupt cancels it, and is raised once it has cleaned up, with what
    it noted: how to go on.
    """
    ended = threading.Event()
    notes: list[str] = []

    async def work() -> T:
        keep_notes(notes)
        try:
            return await make()
        finally:
            ended.set()

    future: Future[T] = portal.start_task_soon(work)
    try:
        return future.result()
    except KeyboardInterrupt as interrupt:
        future.cancel()
        ended.wait(STOP_SECONDS)
        for said in notes:
            interrupt.add_note(said)
        raise


def run(make: Callable[[], Awaitable[T]]) -> T:
    """Run it on an event loop of its own, and wait, as `wait_for` does."""
    with start_blocking_portal() as portal:
        return wait_for(portal, make)


def obey_signals() -> None:
    """For programs: Ctrl-C and SIGTERM interrupt them, so that they clean up. The second one ends the process at once; a
    container that is left sees the end of its channel, and ends too.
    """
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if received:
            os.write(sys.stderr.fileno(), b"rlm: stopped at once; its containers end by themselves.\n")
            os._exit(128 + number)
        received.append(number)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as of a job in the background of a shell
            signal.signal(number, stop)
