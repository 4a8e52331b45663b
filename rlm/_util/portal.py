"""How code without an event loop runs what has one: in a thread of its own, where Ctrl-C lets it clean up."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Final, TypeVar

from anyio.from_thread import BlockingPortal

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
