"""Runs async code for blocking callers, in an event loop thread. Ctrl-C lets it clean up. Imports anyio."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from contextvars import Context, ContextVar
from typing import Final, TypeVar
from weakref import WeakKeyDictionary

import anyio
from anyio.from_thread import BlockingPortal

FORKED: Final = (
    "This object was opened before the process was forked, and its event loop stayed in the parent process: create an "
    "Orchestrator, session or sandbox in the child process."
)
NO_ASYNCIO: Final = (
    "rlm runs on asyncio only, and no asyncio event loop is running here (trio is not supported): run it with asyncio, or "
    "call `completion`, which blocks, in a thread."
)
STOP_SECONDS: Final = 15.0  # how long to wait for interrupted work to remove its containers

T = TypeVar("T")

_notes: ContextVar[list[str]] = ContextVar("notes")


def collect_notes(notes: list[str]) -> None:
    """Collect in this list the texts that `note` receives in this task and in tasks that it starts."""
    _notes.set(notes)


def note(text: str) -> None:
    """Pass a text to the code that interrupts this task: a CancelledError would lose its own notes."""
    _notes.get([]).append(text)


_owners: WeakKeyDictionary[BlockingPortal, int] = WeakKeyDictionary()  # the process of each portal's thread


@contextmanager
def open_portal() -> Iterator[BlockingPortal]:
    """An event loop thread.

    Unlike anyio's `start_blocking_portal`, leaving the block in a process that was forked inside it does not wait for the
    thread, which exists in the parent process only.
    """
    opened: Future[BlockingPortal] = Future()

    async def serve() -> None:
        async with BlockingPortal() as portal:
            opened.set_result(portal)
            await portal.sleep_until_stopped()

    process = os.getpid()
    thread = threading.Thread(target=Context().run, args=(anyio.run, serve), name="rlm-portal", daemon=True)
    thread.start()
    portal = opened.result()
    _owners[portal] = process
    failed = True
    try:
        yield portal
        failed = False
    finally:
        if os.getpid() == process:
            with suppress(RuntimeError):  # it has stopped already
                portal.call(portal.stop, failed)
            thread.join()


def is_usable(portal: BlockingPortal) -> bool:
    """Whether the portal's thread exists in this process: a fork copies the calling thread only."""
    return _owners.get(portal, os.getpid()) == os.getpid()


def runs_asyncio() -> bool:
    """Whether an asyncio event loop runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


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
