"""Runs async code for blocking callers, in an event loop thread. Ctrl-C lets it clean up. Imports anyio."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Final, TypeVar

from anyio.from_thread import BlockingPortal

STOP_SECONDS: Final = 15.0  # how long to wait for interrupted work to remove its containers

T = TypeVar("T")

_notes: ContextVar[list[str]] = ContextVar("notes")


def collect_notes(notes: list[str]) -> None:
    """Collect in this list the texts that `note` receives in this task and in tasks that it starts."""
    _notes.set(notes)


def note(text: str) -> None:
    """Pass a text to the code that interrupts this task: a CancelledError would lose its own notes."""
    _notes.get([]).append(text)


def wait_for(portal: BlockingPortal, make: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine function on the portal's event loop, and wait for its result.

    A KeyboardInterrupt cancels the coroutine. Once that has cleaned up, the interrupt is raised again, with its notes.
    """
    ended = threading.Event()
    notes: list[str] = []

    async def work() -> T:
        collect_notes(notes)
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
        for text in notes:
            interrupt.add_note(text)
        raise
