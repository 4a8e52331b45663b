"""How code without an event loop runs what has one: in a thread of its own, where Ctrl-C lets it clean up."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Final, TypeVar

from anyio.from_thread import BlockingPortal

STOP_SECONDS: Final = 15.0  # for what was interrupted to remove its containers

T = TypeVar("T")


def wait_for(portal: BlockingPortal, make: Callable[[], Awaitable[T]]) -> T:
    """Run it on the portal's event loop, and wait. An interrupt cancels it, and is raised once it has cleaned up."""
    ended = threading.Event()

    async def work() -> T:
        try:
            return await make()
        finally:
            ended.set()

    future: Future[T] = portal.start_task_soon(work)
    try:
        return future.result()
    except KeyboardInterrupt:
        future.cancel()
        ended.wait(STOP_SECONDS)
        raise
